"""What every kind of projection gives: partial, merge, reduce and finalize, over Polars frames.

    events ─inputs─> rows ─partial─> tables ─merge─> state ─reduce─> result of a bucket ─finalize─> read model

The state of a projection lies in buckets (a period of event time, or a share of the actors), and the events of
one bucket decide its result alone. So new events touch only some of them, and memory holds one at a time.
Merging is associative and commutative: any cut of the log into parts, in any order, gives the same state, up to
the order of rows, which `finalize` makes total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import polars as pl

BUCKET = "bucket"

Tables: TypeAlias = Mapping[str, pl.DataFrame]  # by name; each has the column BUCKET (Int32), then others


class Kind(Protocol):
    """How events become a read model.

    `inputs` are the columns of the rows that `partial` takes: their expressions are evaluated, for the events that
    the projection selects, before. `timestamp` and `position` (Int64) are there too where `needs_order`.
    """

    @property
    def inputs(self) -> Sequence[str]:
        """The names of these columns."""
        ...

    @property
    def needs_order(self) -> bool:
        """Whether `partial` looks at times and positions."""
        ...

    def partial(self, rows: pl.DataFrame) -> Tables:
        """The aggregate of some rows, split into buckets. Every table is there, if only without rows."""
        ...

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The aggregate of all that went into some parts, of which there is one at least."""
        ...

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The result of one bucket, from its merged tables."""
        ...

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """The read model, in total order, from the results of all buckets below each other.

        Without any bucket `reduced` has no rows, and the columns that `reduce` gives for tables without rows.
        """
        ...
