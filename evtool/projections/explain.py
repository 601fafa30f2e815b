"""The events behind a row of a read model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from evtool.errors import ConfigError
from evtool.log.selection import Selection
from evtool.projections.plan import Plan
from evtool.projections.source import Source

_MOMENT = "%Y-%m-%dT%H:%M:%S%.fZ"


def events(plan: Plan, source: Source, row: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Stored events (all columns of STORED_SCHEMA) that went into the rows with these values of keys, in order.

    A value is written as `--format csv` does, and nothing is null or the empty text. Raises ConfigError for a name
    that is no key whose value an event has by itself, and for a row that is not there.
    """
    names = [name for name in plan.keys if name in plan.inputs]
    for name in row:
        if name not in names:
            known = (
                f"An event has by itself: {', '.join(names)}." if names else "What it has follows from all events."
            )
            raise ConfigError(f"{plan.identity.name} has no key {name!r} that an event has by itself", known)
    schema = plan.read_model(None).schema
    conditions = [_is(name, schema[name], value) for name, value in row.items()]
    is_empty = True
    for found in source.selected(plan, Selection()):
        chosen = found.filter(*conditions)
        if len(chosen):
            is_empty = False
            yield chosen.select(column for column in chosen.columns if not column.startswith("input."))
    if is_empty and row:
        asked = ", ".join(f"{name}={value}" for name, value in row.items())
        raise ConfigError(f"{plan.identity.name} has no row with {asked}", "Write values as --format csv does.")


def _is(name: str, kind: pl.DataType, value: str) -> pl.Expr:
    """Whether a key, of the type that it has in the read model, is written like this."""
    column = pl.col(f"input.{name}")
    if not value:  # in CSV null and the empty text look the same
        return column.is_null() | (column == "") if kind == pl.String else column.is_null()
    if isinstance(kind, pl.Datetime):  # a number until it is shown
        column = column.cast(pl.Datetime("ns", "UTC")).dt.strftime(_MOMENT)
    return column.cast(pl.String) == value
