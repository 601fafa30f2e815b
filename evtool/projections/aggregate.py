"""Aggregates by keys: counts, sums, extremes, first and last, distinct and most frequent values.

Each different aggregate of the measures is a slot. The slots whose state is a value or three lie in the table
`groups`, one row for each group of equal keys. A slot whose state is a set has a table of its own, named after it:
the distinct values of each group, with their counts where these are asked for, or a sketch of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasketches
import polars as pl

from evtool import jsontext
from evtool.errors import ProjectionError
from evtool.projections.kind import BUCKET, Tables
from evtool.projections.language import exact
from evtool.projections.repeats import without_repeats

Function = Literal["count", "sum", "min", "max", "first", "last", "distinct", "top", "sketch"]

GROUPS = "groups"
SKETCH_LOG2_ROWS = 11  # of a CPC sketch: a relative error of 1.5 percent, 1.2 KB a group at most

_STREAMED_ROWS_MIN = 65_536  # from so many on, Polars' streaming engine needs half the time for distinct rows

_SETS = ("distinct", "top", "sketch")
_TIMES = ("first", "last")


@dataclass(frozen=True)
class Slot:
    """One aggregate: over the values of the input `argument` that are not null, or (count, None) over all rows.

    `count` is how many of the most frequent values `top` keeps.
    """

    name: str
    function: Function
    argument: str | None = None
    count: int = 0


@dataclass(frozen=True)
class Aggregate:
    """Groups rows by `keys`. `measures` are expressions over the slots' names, by the name of their column.

    `bucket_of` gives the bucket of a row from its keys.
    """

    keys: tuple[str, ...]
    slots: tuple[Slot, ...]
    measures: Mapping[str, pl.Expr]
    bucket_of: pl.Expr

    @property
    def inputs(self) -> Sequence[str]:
        """The keys, and the arguments of the slots."""
        arguments = dict.fromkeys(slot.argument for slot in self.slots if slot.argument is not None)
        return [*self.keys, *arguments]

    @property
    def needs_order(self) -> bool:
        """Whether a slot looks at times."""
        return any(slot.function in _TIMES for slot in self.slots)

    def partial(self, rows: pl.DataFrame) -> Tables:
        """The aggregate of some rows."""
        self._refuse_large_sums(rows, self.keys, {slot.argument or "" for slot in self._sums()})
        tables = {GROUPS: self._group(rows, self.keys, [e for slot in self._values() for e in _begin(slot)])}
        for slot in self._sets():
            values = rows.select(*self.keys, pl.col(slot.argument or "").alias("value")).drop_nulls("value")
            if slot.function == "distinct":
                tables[slot.name] = _distinct(values)
            else:
                tables[slot.name] = values.group_by(*self.keys, "value").agg(pl.len().cast(pl.Int64).alias("n"))
        # The bucket follows from the keys: it is found for groups, which are fewer than rows.
        bucket = self.bucket_of.cast(pl.Int32).alias(BUCKET)
        tables = {name: table.select(bucket, pl.all()) for name, table in tables.items()}
        sketches = {
            slot.name: self._sketch(tables[slot.name]) for slot in self._sets() if slot.function == "sketch"
        }
        return tables | sketches

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The aggregate of all that went into some parts."""
        if len(parts) == 1:
            return parts[0]
        together = {name: pl.concat([part[name] for part in parts]) for name in parts[0]}
        again = [e for slot in self._values() for e in _again(slot)]
        self._refuse_large_sums(together[GROUPS], self._by, {slot.name for slot in self._sums()})
        tables = {GROUPS: self._group(together[GROUPS], self._by, again)}
        for slot in self._sets():
            table = together[slot.name]
            if slot.function == "distinct":
                tables[slot.name] = _distinct(table)
            elif slot.function == "top":
                tables[slot.name] = table.group_by(*self._by, "value").agg(pl.col("n").sum())
            else:
                tables[slot.name] = self._united(table)
        return tables

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The measures of each group of a bucket, in the order of their keys."""
        groups = state[GROUPS]
        for slot in self._sets():
            found = self._counted(slot, state[slot.name])
            groups = groups.join(found, on=self._by, how="left", nulls_equal=True)
            if slot.function != "top":
                groups = groups.with_columns(pl.col(slot.name).fill_null(0))
            else:
                groups = groups.with_columns(pl.col(slot.name).fill_null("[]"))
        result = groups.select(*self._by, *(measure.alias(name) for name, measure in self.measures.items()))
        # In order here, two buckets at once: what is in order already is sorted in a fifth of the time.
        return result.sort(self.keys) if self.keys else result

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """All groups in the order of their keys."""
        if not self.keys:  # as SQL has it: without keys there is one group, even of nothing
            return reduced.drop(BUCKET)
        return reduced.drop(BUCKET).sort(self.keys)

    @property
    def _by(self) -> list[str]:
        return [BUCKET, *self.keys]

    def _values(self) -> Iterable[Slot]:
        return (slot for slot in self.slots if slot.function not in _SETS)

    def _sets(self) -> Iterable[Slot]:
        return (slot for slot in self.slots if slot.function in _SETS)

    def _sums(self) -> Iterable[Slot]:
        return (slot for slot in self.slots if slot.function == "sum")

    def _refuse_large_sums(self, rows: pl.DataFrame, by: Sequence[str], columns: Iterable[str]) -> None:
        """Raise ProjectionError where a group's sum has more than 38 digits: Polars' own would wrap around."""
        for name in columns:
            if not exact.sums_fit(rows.select(by if self.keys else []), rows[name]):
                raise ProjectionError(
                    "a sum has more than 38 digits", "Cast what is added up to a decimal of fewer digits."
                )

    def _group(self, rows: pl.DataFrame, by: Sequence[str], aggregates: list[pl.Expr]) -> pl.DataFrame:
        if not self.keys:  # one group, whatever there is
            return rows.select(*(pl.lit(0, pl.Int32).alias(name) for name in by), *aggregates)
        return rows.group_by(by).agg(aggregates) if aggregates else without_repeats(rows.select(by)).unique()

    def _counted(self, slot: Slot, table: pl.DataFrame) -> pl.DataFrame:
        if slot.function == "distinct":
            return table.group_by(self._by).agg(pl.len().cast(pl.Int64).alias(slot.name))
        if slot.function == "sketch":
            counts = [_estimate(sketch) for sketch in table["sketch"]]
            return table.select(self._by).with_columns(pl.Series(slot.name, counts, dtype=pl.Int64))
        best = table.sort("n", "value", descending=[True, False]).group_by(self._by, maintain_order=True)
        first = best.head(slot.count)
        pair = pl.format("[{},{}]", pl.Series("value", _as_json(first["value"])), "n")
        listed = first.select(*self._by, pair.alias("pair")).group_by(self._by, maintain_order=True)
        return listed.agg(pl.format("[{}]", pl.col("pair").str.join(",")).alias(slot.name))

    def _sketch(self, values: pl.DataFrame) -> pl.DataFrame:
        """Values of groups -> a sketch a group. Each different value of a part is looked at by itself."""
        groups = values.group_by(self._by, maintain_order=True).agg(pl.col("value").cast(pl.String))
        sketches = [_sketch_of(texts) for texts in groups["value"]]
        return groups.select(self._by).with_columns(pl.Series("sketch", sketches, dtype=pl.Binary))

    def _united(self, table: pl.DataFrame) -> pl.DataFrame:
        groups = table.group_by(self._by, maintain_order=True).agg("sketch")
        united = [
            sketches[0] if len(sketches) == 1 else bytes(_union(sketches).serialize())
            for sketches in groups["sketch"]
        ]
        return groups.select(self._by).with_columns(pl.Series("sketch", united, dtype=pl.Binary))


def _distinct(rows: pl.DataFrame) -> pl.DataFrame:
    rows = without_repeats(rows)
    if len(rows) < _STREAMED_ROWS_MIN:
        return rows.unique()
    return rows.lazy().unique().collect(engine="streaming")


def _begin(slot: Slot) -> list[pl.Expr]:
    """The state of a slot from rows."""
    if slot.argument is None:
        return [pl.len().cast(pl.Int64).alias(slot.name)]
    argument = pl.col(slot.argument)
    if slot.function == "count":
        return [argument.count().cast(pl.Int64).alias(slot.name)]
    if slot.function in _TIMES:
        return _at_the_end(slot, argument, pl.col("timestamp"), pl.col("position"))
    return [_combined(slot.function, argument).alias(slot.name)]


def _again(slot: Slot) -> list[pl.Expr]:
    """The state of a slot from states."""
    state = pl.col(slot.name)
    if slot.function in _TIMES:
        return _at_the_end(slot, state, *(pl.col(name) for name in _time_names(slot)))
    return [_combined("sum" if slot.function == "count" else slot.function, state).alias(slot.name)]


def _combined(function: str, column: pl.Expr) -> pl.Expr:
    if function == "min":
        return column.min()
    if function == "max":
        return column.max()
    return pl.when(column.count() > 0).then(column.sum())  # the sum of nothing is null, as SQL has it


def _time_names(slot: Slot) -> tuple[str, str]:
    return f"{slot.name}.timestamp", f"{slot.name}.position"


def _at_the_end(slot: Slot, value: pl.Expr, timestamp: pl.Expr, position: pl.Expr) -> list[pl.Expr]:
    is_there = value.is_not_null()
    order = [timestamp.filter(is_there), position.filter(is_there)]
    take: Callable[[pl.Expr], pl.Expr] = pl.Expr.first if slot.function == "first" else pl.Expr.last
    names = (slot.name, *_time_names(slot))
    columns = (value, timestamp, position)
    return [
        take(column.filter(is_there).sort_by(order)).alias(name)
        for name, column in zip(names, columns, strict=True)
    ]


def _as_json(values: pl.Series) -> pl.Series:
    """Values as JSON: texts and what only texts can say in quotes, numbers and truth values as they are."""
    texts = values.cast(pl.String)
    return texts if values.dtype.is_integer() or values.dtype == pl.Boolean else jsontext.quoted(texts)


def _sketch_of(values: Iterable[str]) -> bytes:
    sketch = datasketches.cpc_sketch(SKETCH_LOG2_ROWS)
    for value in values:
        sketch.update(value)
    return bytes(sketch.serialize())


def _union(sketches: Iterable[bytes]) -> Any:
    union = datasketches.cpc_union(SKETCH_LOG2_ROWS)
    for sketch in sketches:
        union.update(datasketches.cpc_sketch.deserialize(sketch))
    return union.get_result()


def _estimate(sketch: bytes) -> int:
    """By a union, whose estimate depends on the different values alone, however they came to be in the sketch."""
    estimate: float = _union([sketch]).get_estimate()
    return round(estimate)
