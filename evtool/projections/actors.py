"""What the projections by actor share: the hash of an actor, and its rows next to each other in arrays.

An actor is a text. What counts is an actor of some combination of keys: a group. No group knows of another one,
and counts of them add up. Its hash says where the rows of a group are, and into which of 64 buckets they come
where there is too much to be taken up at once. It is that of log/hashing.py, which is the same for ever, as the
states of projections are kept, and what is in them must be found again. Two groups may have the same hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from evtool.log.hashing import hash_ids
from evtool.projections.kind import BUCKET
from evtool.projections.sortedrun import HASH, Spans

ACTOR = "actor"
ACTOR_BUCKETS = 64

_BUCKET_SHIFT = np.uint64(64 - ACTOR_BUCKETS.bit_length() + 1)
_SEEDS = np.zeros(1, np.uint64)
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True)
class Runs:
    """Rows in which those of one actor follow each other.

    `groups` has a row for each actor (of each combination of keys), and `first` its first row in `columns`.
    """

    groups: pl.DataFrame
    first: np.ndarray[Any, np.dtype[np.int64]]
    columns: Mapping[str, np.ndarray[Any, Any]]

    def group_of_rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The group of each row, by its number in `groups`."""
        rows = len(next(iter(self.columns.values())))
        return np.repeat(np.arange(len(self.first)), np.diff(self.first, append=rows))


def hash_of(rows: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """HASH (UInt64) of the keys and the actor (String, not null) of each row: what is equal has the same one."""
    texts = rows[ACTOR]
    if keys:
        parts = [_as_text(key, rows.schema[key]) for key in keys]
        texts = rows.select(pl.concat_str([ACTOR, *parts], separator="\x1f")).to_series()
    texts_of_arrow = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pl.Series(HASH, hash_ids(np.zeros(len(rows), np.intp), _SEEDS, texts=texts_of_arrow))


def with_hash(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The rows that have an actor, their HASH, and BUCKET: the share of the hashes, in order, in which that is.

    -0.0 in a key becomes 0.0: the two are one group, and which of them is shown would depend on the order.
    """
    rows = rows.filter(pl.col(ACTOR).is_not_null())
    zeros = [_with_one_zero(key, rows.schema[key]) for key in keys if rows.schema[key].is_float()]
    rows = rows.with_columns(zeros) if zeros else rows
    hashes = hash_of(rows, keys)
    return rows.with_columns(hashes, bucket_of(hashes))


def bucket_of(hashes: pl.Series) -> pl.Series:
    """BUCKET (Int32) of each HASH: those of one bucket lie next to each other, and the buckets in their order."""
    return pl.Series(BUCKET, (hashes.to_numpy() >> _BUCKET_SHIFT).astype(np.int32))


def in_runs(rows: pl.DataFrame, keys: Sequence[str], order: Sequence[str], columns: Sequence[str]) -> Runs:
    """Some columns (numbers without nulls), by (keys, actor) and within that in an order.

    A sort by `order` alone and a grouping by hash, which keeps the order within the groups: a sort that compares
    actors takes three times as long.
    """
    lists = rows.sort(order).group_by(*keys, ACTOR).agg(pl.col(HASH).first(), *(pl.col(c) for c in columns))
    lengths = lists[columns[0]].list.len().to_numpy().astype(np.int64)
    flat = {c: lists[c].explode(empty_as_null=False).to_numpy() for c in columns}
    return Runs(lists.select(HASH, *keys, ACTOR), np.cumsum(lengths) - lengths, flat)


def spans(rows: pl.DataFrame, low: str, high: str, reach: int = 0, with_previous: bool = False) -> Spans:
    """The spans of HASH from `reach` before what is in the column `low` to as far behind what is in `high`."""
    reach = min(reach, _INT64_MAX)
    lows, highs = rows[low].to_numpy(), rows[high].to_numpy()
    lows = np.where(lows < _INT64_MIN + reach, _INT64_MIN, lows - reach)
    highs = np.where(highs > _INT64_MAX - reach, _INT64_MAX, highs + reach)
    return Spans(rows[HASH].to_numpy(), lows, highs, with_previous)


def everything(rows: pl.DataFrame) -> Spans:
    """The spans of all that has a HASH of some rows."""
    hashes = rows[HASH].unique().to_numpy()
    return Spans(hashes, np.full(len(hashes), _INT64_MIN), np.full(len(hashes), _INT64_MAX))


def as_ratio(numerator: str, denominator: pl.Expr) -> pl.Expr:
    """A column of counts by another as Float64, rounded once; null where the other is 0."""
    return pl.when(denominator != 0).then(pl.col(numerator) / denominator)


def _as_text(key: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(key).to_physical() if dtype.is_temporal() else pl.col(key)
    return column.cast(pl.String).fill_null("")


def _with_one_zero(key: str, dtype: pl.DataType) -> pl.Expr:
    """Not by adding 0.0, which Polars leaves out."""
    return pl.when(pl.col(key) == 0).then(pl.lit(0.0, dtype)).otherwise(pl.col(key)).alias(key)
