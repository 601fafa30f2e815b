"""The events behind a row of a read model.

What an aggregate counts in a row are the events that have its keys. In a funnel, a retention or in sessions it
depends on all events of an actor: for these the positions behind a row are a read model of their own, made of all
events as any other is, with the rows of some actors in memory at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from evtool.errors import ConfigError
from evtool.files import Files
from evtool.log.selection import Selection
from evtool.projections.actors import with_hash
from evtool.projections.kind import BUCKET, EVENT, Tables, TracingKind
from evtool.projections.plan import Plan, input_column
from evtool.projections.source import Source
from evtool.projections.store import StateStore
from evtool.projections.work import Work

_MOMENT = "%Y-%m-%dT%H:%M:%S%.fZ"
_ROWS = "rows"


def events(plan: Plan, source: Source, row: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Stored events (all columns of STORED_SCHEMA) that went into the rows with these values of keys, in order.

    Without any value all events that are looked at. A value is written as `--format csv` does, and nothing is null
    or the empty text. Raises ConfigError for a name of no column by which rows are found, and for a row that is
    not there.
    """
    if isinstance(plan.kind, TracingKind) and row:
        yield from _traced(plan, plan.kind, source, row)
        return
    names = [name for name in plan.keys if name in plan.inputs]
    schema = plan.read_model(None).schema
    _check(plan, row, names)
    conditions = [_is(input_column(name), schema[name], value) for name, value in row.items()]
    is_empty = True
    for found in source.selected(plan, Selection()):
        chosen = found.filter(*conditions)
        if len(chosen):
            is_empty = False
            yield chosen.select(column for column in chosen.columns if not column.startswith("input."))
    if is_empty and row:
        raise _no_row(plan, row)


@dataclass(frozen=True)
class _Positions:
    """The kind whose read model are the positions (EVENT) of the events behind some rows of another kind's.

    `present` makes columns of that kind's `behind` those of its read model, where `conditions` choose rows.
    """

    kind: TracingKind
    present: Callable[[pl.DataFrame], pl.DataFrame]
    conditions: Sequence[pl.Expr] = ()

    @property
    def inputs(self) -> Sequence[str]:
        return [*self.kind.inputs, EVENT]

    @property
    def needs_order(self) -> bool:
        return self.kind.needs_order

    def partial(self, rows: pl.DataFrame) -> Tables:
        return {_ROWS: with_hash(rows, self.kind.keys)}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        return {_ROWS: pl.concat([part[_ROWS] for part in parts])}

    def reduce(self, state: Tables) -> pl.DataFrame:
        return self.pairs(state[_ROWS]).filter(*self.conditions).select(EVENT).unique()

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        return reduced.sort(EVENT)

    def pairs(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The columns that tell rows of the read model apart, as it has them, and EVENT."""
        return self.present(self.kind.behind(rows.drop(BUCKET)))


def _traced(plan: Plan, kind: TracingKind, source: Source, row: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """The events behind rows that are no matter of each event by itself."""
    positions = _Positions(kind, plan.present)
    inputs = {**plan.inputs, EVENT: pl.col("position")}
    tracing = replace(plan.looking_at("position"), kind=positions, inputs=inputs, present=lambda frame: frame)
    schema = positions.pairs(positions.partial(tracing.no_rows())[_ROWS]).schema
    _check(plan, row, [name for name in schema if name != EVENT])
    conditions = [_is(name, schema[name], value) for name, value in row.items()]
    chosen = replace(tracing, kind=replace(positions, conditions=conditions))
    found = _read_model(chosen, source)[EVENT].to_numpy()
    if not len(found) and not len(_read_model(plan, source).filter(*conditions)):
        raise _no_row(plan, row)  # and one that counts nobody has no events
    yield from source.at(found)


def _read_model(plan: Plan, source: Source) -> pl.DataFrame:
    """That of all events of a snapshot."""
    end = source.snapshot.last_position
    with tempfile.TemporaryDirectory(prefix="evtool-") as name:
        work = Work(plan, StateStore(Files(), Path(name)))
        work.take_up(source, Selection(), lambda done, total: None, 0, end)
        return plan.read_model(work.reduced(is_kept=False))


def _check(plan: Plan, row: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is none of those by which rows are found."""
    for name in row:
        if name not in names:
            known = f"Rows are found by {', '.join(names)}." if names else "What it has follows from all events."
            raise ConfigError(f"{plan.identity.name} has no key {name!r} by which rows are found", known)


def _no_row(plan: Plan, row: Mapping[str, str]) -> ConfigError:
    asked = ", ".join(f"{name}={value}" for name, value in row.items())
    return ConfigError(f"{plan.identity.name} has no row with {asked}", "Write values as --format csv does.")


def _is(name: str, kind: pl.DataType, value: str) -> pl.Expr:
    """Whether a column, of the type that it has in the read model, is written like this."""
    column = pl.col(name)
    if not value:  # in CSV null and the empty text look the same
        return column.is_null() | (column == "") if kind == pl.String else column.is_null()
    if isinstance(kind, pl.Datetime):  # a number until it is shown
        column = column.cast(pl.Datetime("ns", "UTC")).dt.strftime(_MOMENT)
    return column.cast(pl.String) == value
