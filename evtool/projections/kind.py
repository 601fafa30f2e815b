"""What every kind of projection gives: partial, merge, reduce and finalize, over Polars frames.

    events ─inputs─> rows ─partial─> tables ─merge─> state ─reduce─> result of a bucket ─finalize─> read model

The state of a projection lies in buckets (a period of event time, or a share of the actors), and the events of
one bucket decide its result alone. So new events touch only some of them, and memory holds one at a time.
Merging is associative and commutative: any cut of the log into parts, in any order, gives the same state, up to
the order of rows, which `finalize` makes total.

Where new events would touch all buckets, as those of actors do, a kind says instead how they change the result:
it is a `ChangingKind`, whose state is sorted tables that can be asked for the rows of some actors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

import polars as pl

if TYPE_CHECKING:
    from evtool.projections.sortedrun import Spans

BUCKET = "bucket"
EVENT = "event.position"  # no key has a dot in its name

Tables: TypeAlias = Mapping[str, pl.DataFrame]  # by name; each has the column BUCKET (Int32), then others

Find: TypeAlias = Callable[[str, "Spans"], list[pl.DataFrame]]
"""Rows of a sorted table in some spans, in any order, of every run that has some.

A row of a span is there, and perhaps earlier forms of it, as `settle` tells apart.
"""


class Change(NamedTuple):
    """What some new rows do: what is added to the result, and to the sorted tables, in order of hash and number.

    Counts of `result` may be negative.
    """

    result: pl.DataFrame
    tables: Mapping[str, pl.DataFrame]


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


@runtime_checkable
class TracingKind(Kind, Protocol):
    """A kind by actor that can tell which events a row of the read model is made of."""

    @property
    def keys(self) -> Sequence[str]:
        """The keys, for each combination of which an actor counts by itself."""
        ...

    def behind(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Which events make which rows: EVENT, and the columns that tell rows of the read model apart.

        `rows` are all those of some actors, with their hash and EVENT (Int64), the positions of their events.
        """
        ...


@runtime_checkable
class ChangingKind(Kind, Protocol):
    """A kind whose result is a sum over actors: what new events change is found by what is near them."""

    @property
    def orders(self) -> Mapping[str, str | None]:
        """The sorted tables, and of each the column (Int64) that is its number besides the hash; None: 0."""
        ...

    def change(self, new: Tables, find: Find | None = None) -> Change:
        """What merged rows do that are in no sorted table yet; without `find` there is nothing in any."""
        ...

    def settle(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of several runs of a sorted table, each as it is last, in order of hash and number.

        Any rows of a table may be settled before others come to them.
        """
        ...

    def total(self, results: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The sum of some results, as `change` would give it for all at once."""
        ...
