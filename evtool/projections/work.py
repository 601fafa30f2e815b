"""Takes up events into a state, and brings the results up to date.

Partials are made in parallel, gathered to MERGE_ROWS, and staged in buckets; then every bucket that they touch is
worked on by itself. So memory holds the state of one bucket for each thread, and a batch or two of events.

A kind with buckets of time has the touched ones merged and reduced again, and keeps them. A kind by actor says
what the new rows of a bucket change, and its sorted tables take those up; the buckets were only a way there, and
few rows go without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from evtool import parallel
from evtool.log.selection import Selection
from evtool.projections.kind import BUCKET, Change, ChangingKind, Tables
from evtool.projections.source import Part, Source
from evtool.projections.store import StateStore

if TYPE_CHECKING:
    from evtool.projections.plan import Plan  # and with it all that expressions need

MERGE_ROWS = 2_000_000  # partials are merged and staged when they have so many rows
FEW_ROWS = 1 << 20  # so many rows of a kind by actor are taken up without buckets, in one thread
RUNS_MAX = 8  # a bucket that would be read from more runs than this is written anew

Progress = Callable[[int, int], None]  # events read, and how many there are to read


@dataclass(frozen=True)
class Tally:
    """Of all events that went in: how many count, and how often each cast failed on them."""

    events: int = 0
    failed_casts: Counter[str] = field(default_factory=Counter)

    def plus(self, part: Part) -> Tally:
        """With those of one more part."""
        return Tally(self.events + part.events, self.failed_casts + part.failed_casts)


class Work:
    """Events of a projection on their way into a store. Raises StateDamagedError, StorageError."""

    def __init__(self, plan: Plan, store: StateStore, tally: Tally | None = None) -> None:
        self._plan = plan
        self._store = store
        self._parts: list[Tables] = []
        self.tally = tally or Tally()

    def take_up(self, source: Source, selection: Selection, on_progress: Progress, start: int, end: int) -> None:
        """Take up the events of a selection, which lies between two positions."""
        for part in source.parts(self._plan, selection):
            self._parts.append(part.tables)
            self.tally = self.tally.plus(part)
            if self._waiting_rows() >= MERGE_ROWS:
                self._stage()
            on_progress(min(part.last_position, end) - start, end - start)

    def reduced(self, is_kept: bool = True) -> pl.DataFrame | None:
        """The results of all that is in the store and was taken up, staged for the next commit if `is_kept`."""
        kind = self._plan.kind
        if isinstance(kind, ChangingKind):
            return self._changed(kind, is_kept)
        self._stage()
        return self._reduced()

    def _waiting_rows(self) -> int:
        return sum(len(table) for tables in self._parts for table in tables.values())

    def _stage(self) -> None:
        if self._parts:
            self._store.add(self._plan.kind.merge(self._parts))
            self._parts = []

    def _reduced(self) -> pl.DataFrame | None:
        """The results of untouched buckets as they were, the others anew."""
        touched = sorted(self._store.touched())
        before = self._store.reduced()
        results = [] if before is None else [before.filter(~pl.col(BUCKET).is_in(touched))]
        for bucket, (result, state) in zip(touched, parallel.ordered(self._reduce, touched), strict=True):
            results.append(result)
            if state is not None:
                self._store.put(bucket, state)
        return pl.concat(results) if results else None

    def _reduce(self, bucket: int) -> tuple[pl.DataFrame, Tables | None]:
        """The result of a bucket, and its state if that shall take the place of its runs."""
        runs = self._store.load(bucket)
        state = self._plan.kind.merge(runs)
        return self._plan.kind.reduce(state), state if len(runs) > RUNS_MAX else None

    def _changed(self, kind: ChangingKind, is_kept: bool) -> pl.DataFrame | None:
        """The results as they were, with what the new rows change."""
        before = self._store.reduced()
        results = [] if before is None else [before]

        def tables() -> Iterator[Mapping[str, pl.DataFrame]]:
            for change in self._changes(kind):
                results.append(change.result)
                yield change.tables

        if is_kept:
            added = self._store.sorted.add(kind.orders, tables())
            self._store.sorted.merge(kind.orders, kind.settle, added)
        else:
            for _ in tables():
                pass
        self._store.drop_buckets()
        return kind.total(results) if results else None

    def _changes(self, kind: ChangingKind) -> Iterable[Change]:
        """What the new rows change, those of one bucket after the other, or all at once where they are few."""
        find = None if self._store.sorted.is_empty else self._store.sorted.find
        if not self._store.touched() and self._waiting_rows() < FEW_ROWS:
            return [kind.change(kind.merge(self._parts), find)] if self._parts else []

        def change(bucket: int) -> Change:
            return kind.change(kind.merge(self._store.load(bucket)), find)

        self._stage()
        return parallel.ordered(change, sorted(self._store.touched()))
