"""What the projections by actor share: the bucket of an actor, and its rows next to each other in arrays.

An actor is a text. All of its events lie in one bucket, a share of the actors that its hash decides: each bucket
has a result of its own, and counts of actors add up. The hash is that of log/hashing.py, which is the same for
ever, as the states of projections are kept, and what is in them must be found again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from evtool.log.hashing import hash_ids
from evtool.projections.kind import BUCKET

ACTOR = "actor"
ACTOR_BUCKETS = 64

_SEEDS = np.zeros(1, np.uint64)


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


def bucket_of(actors: pl.Series) -> pl.Series:
    """The bucket of each actor (String, none of them null) as Int32, 0 to ACTOR_BUCKETS - 1."""
    texts = actors.to_arrow(compat_level=pl.CompatLevel.oldest())
    hashes = hash_ids(np.zeros(len(actors), np.intp), _SEEDS, texts=texts)
    return pl.Series(BUCKET, (hashes % np.uint64(ACTOR_BUCKETS)).astype(np.int32))


def with_bucket(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The rows that have an actor, and their BUCKET.

    -0.0 in a key becomes 0.0: the two are one group, and which of them is shown would depend on the order.
    """
    rows = rows.filter(pl.col(ACTOR).is_not_null())
    zeros = (_with_one_zero(key, rows.schema[key]) for key in keys if rows.schema[key].is_float())
    return rows.with_columns(*zeros, bucket_of(rows[ACTOR]))


def in_runs(rows: pl.DataFrame, keys: Sequence[str], order: Sequence[str], columns: Sequence[str]) -> Runs:
    """Some columns (numbers without nulls), by (keys, actor) and within that in an order.

    A sort by `order` alone and a grouping by hash, which keeps the order within the groups: a sort that compares
    actors takes three times as long.
    """
    lists = rows.sort(order).group_by(*keys, ACTOR).agg(pl.col(BUCKET).first(), *(pl.col(c) for c in columns))
    lengths = lists[columns[0]].list.len().to_numpy().astype(np.int64)
    flat = {c: lists[c].explode(empty_as_null=False).to_numpy() for c in columns}
    return Runs(lists.select(BUCKET, *keys, ACTOR), np.cumsum(lengths) - lengths, flat)


def as_ratio(numerator: str, denominator: pl.Expr) -> pl.Expr:
    """A column of counts by another as Float64, rounded once; null where the other is 0."""
    return pl.when(denominator != 0).then(pl.col(numerator) / denominator)


def _with_one_zero(key: str, dtype: pl.DataType) -> pl.Expr:
    """Not by adding 0.0, which Polars leaves out."""
    return pl.when(pl.col(key) == 0).then(pl.lit(0.0, dtype)).otherwise(pl.col(key)).alias(key)
