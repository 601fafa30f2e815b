"""A compiled definition: what is read of the log, how it becomes rows, and which kind of projection takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa

from evtool.errors import ProjectionError
from evtool.event import STORED_SCHEMA
from evtool.log.frame import to_frame
from evtool.projections.definition import Identity
from evtool.projections.extraction import extract
from evtool.projections.kind import Kind
from evtool.projections.language.expression import Cast, JsonPath

_JSON_COLUMNS = {"payload", "metadata"}


def input_column(name: str) -> str:
    """What an input is called where it stands beside the columns of events, none of which has such a name."""
    return f"input.{name}"


@dataclass(frozen=True)
class Plan:
    """What to run.

    `columns` of the log are looked at, of the events whose type is one of `types` (None: of all). The values at
    `paths` in payload and metadata become columns, and rows are the `inputs` of the events for which `where` is
    true. `named_types` are all event types that any of its expressions asks for.
    `casts_where` and `casts` (of the inputs) may fail on a value: that is counted, each by its expression, or,
    with `stops_at_casts`, an error. Those of `casts` find the inputs beside the events, by `input_column`.
    Of `spare` columns no value is looked at unless one of their paths has none.
    `present` makes the read model of what the kind gives: its names and types for whoever reads it.
    """

    identity: Identity
    kind: Kind
    inputs: Mapping[str, pl.Expr]
    columns: frozenset[str]
    paths: tuple[JsonPath, ...]
    where: pl.Expr | None = None
    types: frozenset[str] | None = None
    named_types: frozenset[str] = frozenset()
    spare: Mapping[str, frozenset[JsonPath]] = field(default_factory=dict)
    casts_where: Mapping[Cast, pl.Expr] = field(default_factory=dict)
    casts: Mapping[Cast, pl.Expr] = field(default_factory=dict)
    stops_at_casts: bool = False
    keys: tuple[str, ...] = ()
    present: Callable[[pl.DataFrame], pl.DataFrame] = field(default=lambda frame: frame, compare=False)

    @property
    def stored_columns(self) -> frozenset[str]:
        """The columns to read of the log."""
        return self.columns_beside({})

    def columns_beside(self, held: Mapping[JsonPath, str]) -> frozenset[str]:
        """The columns to read where columns of these names hold the values at some paths, with those names."""
        order = {"timestamp", "position"} if self.kind.needs_order else set()
        stop = {"position"} if self.stops_at_casts else set()
        of_paths = {held.get(path, path.root) for path in self.paths}
        # Of what is not looked at, one small column still says how many events there are.
        return frozenset(self.columns | of_paths | order | stop) or frozenset({"position"})

    @property
    def spare_columns(self) -> frozenset[str]:
        """Those of them that can be read later, where they are `missing`."""
        order = {"timestamp", "position"}
        return frozenset(self.spare) - order

    def missing(self, events: pl.DataFrame) -> set[str]:
        """The spare columns that are not among these events, and of which a value is looked at."""
        return {
            name
            for name in self.spare_columns.difference(events.columns)
            if any(events[path.column].null_count() for path in self.spare[name])
        }

    def looking_at(self, column: str) -> Plan:
        """The same with one more column of the log looked at."""
        spare = {name: paths for name, paths in self.spare.items() if name != column}
        return replace(self, columns=self.columns | {column}, spare=spare)

    def events(self, stored: pa.Table, held: Mapping[JsonPath, str]) -> pl.DataFrame:
        """Stored events with a column for each path, and those that are looked at.

        `stored` has columns of PLACED_SCHEMA, and those that hold values at paths. Payloads and metadata stay in
        Arrow: only the values in them become columns of Polars.
        """
        there = set(stored.column_names)
        looked_at = self.stored_columns - {path.root for path in self.paths} | (self.columns & _JSON_COLUMNS)
        found = [pl.Series(path.column, pl.from_arrow(stored[held[path]])) for path in self.paths if path in held]
        found += self._found({name: stored[name] for name in _JSON_COLUMNS & there}, held)
        if looked_at & there:
            return to_frame(stored, looked_at & there).with_columns(found)
        return pl.DataFrame(found)

    def with_paths(self, events: pl.DataFrame) -> pl.DataFrame:
        """The same for a frame of stored events."""
        found = self._found({name: events[name] for name in _JSON_COLUMNS if name in events.columns})
        return events.with_columns(found) if found else events

    def rows(self, events: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
        """Events with their paths as the rows that the kind takes, and how often each cast failed on them.

        Raises ProjectionError where a cast must not fail, with the position.
        """
        failed: Counter[str] = Counter()
        if self.where is not None:
            failed += self._failed(events, self.casts_where)
            events = events.filter(self.where)
        # Beside the events, as constants alone would be one row.
        beside = self._with_inputs(events)
        failed += self._failed(beside, self.casts)
        order = ["timestamp", "position"] if self.kind.needs_order else []
        if not self.inputs and not order:
            return events.select(pl.first().is_null().alias("nothing")), failed
        kept = [name for name in order if name not in self.inputs]
        return beside.select(*(pl.col(input_column(name)).alias(name) for name in self.inputs), *kept), failed

    def selected(self, events: pl.DataFrame) -> pl.DataFrame:
        """Those of some events with their paths that the projection counts, with the inputs as further columns."""
        return self._with_inputs(events if self.where is None else events.filter(self.where))

    def no_rows(self) -> pl.DataFrame:
        """No row, with the columns that rows have."""
        schema = {name: kind for name, kind in STORED_SCHEMA.items() if name in self.stored_columns}
        return self.rows(self.with_paths(pl.DataFrame(schema=schema)))[0]

    def read_model(self, reduced: pl.DataFrame | None) -> pl.DataFrame:
        """The read model from the results of all buckets; None when there is no bucket."""
        if reduced is None or not len(reduced):
            state = self.kind.merge([self.kind.partial(self.no_rows())])
            nothing = self.kind.reduce(state)
            reduced = nothing if reduced is None else pl.concat([reduced, nothing])
        return self.present(self.kind.finalize(reduced))

    def _with_inputs(self, events: pl.DataFrame) -> pl.DataFrame:
        return events.with_columns(value.alias(input_column(name)) for name, value in self.inputs.items())

    def _found(self, columns: Mapping[str, Any], but: Collection[JsonPath] = ()) -> list[pl.Series]:
        """A column for each path (but for some), from the columns of JSON."""
        found: list[pl.Series] = []
        for name, column in columns.items():
            paths = [path for path in self.paths if path.root == name and path not in but]
            if paths:
                values = extract(column, [path.steps for path in paths])
                found += [series.alias(path.column) for series, path in zip(values, paths, strict=True)]
        return found

    def _failed(self, events: pl.DataFrame, casts: Mapping[Cast, pl.Expr]) -> Counter[str]:
        if not casts:
            return Counter()
        counts = events.select(count.alias(str(at)) for at, count in enumerate(casts.values())).row(0)
        failed = Counter({str(cast): int(count) for cast, count in zip(casts, counts, strict=True) if count})
        if failed and self.stops_at_casts:
            self._stop(events, casts)
        return failed

    def _stop(self, events: pl.DataFrame, casts: Mapping[Cast, pl.Expr]) -> None:
        """Raise ProjectionError at the first event on which a cast fails."""
        for at in range(len(events)):  # one by one: it ends everything, so it may take its time
            row = events[at : at + 1]
            for cast, count in casts.items():
                if row.select(count).item():
                    raise ProjectionError(
                        f"{self.identity.name}: the event at position {row['position'][0]} has a value that is no "
                        f"{cast.type}: {cast}",
                        'With on_cast_error = "null" such values count as absent, and are counted.',
                    )
