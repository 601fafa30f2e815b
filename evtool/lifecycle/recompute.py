"""Recompute: a projection from the first event on, in a folder of its own, beside what its refreshes have made.

Both are of the same position, so they have to be the same bytes. Where they are not, the full result is right: the
projection is made anew, and the difference is traced to where the two part. The last recomputation that found no
difference, at `agreed`, bounds that from below. Between there and here it is a search by halves for the first
position up to which going on from `agreed` gives another table than going from the first event on. If it gives the
same everywhere, then whatever was wrong is no more; what is left are the rows that differ, and the first position
behind `agreed` whose event changed one of them. Of a projection in Python no key tells rows apart, so there it is
the first position that changed any; where it cannot be computed up to one, all that is known is `agreed`.

A state with damage that no refresh has come upon is made anew too.

Where events that were taken up are gone since, by retention or on request, a full result would be another one, and
none the right one: the projection is kept as it is, and not compared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from evtool.errors import ProjectionError
from evtool.log.selection import Selection
from evtool.projections import readmodel, snapshots
from evtool.projections.projection import Projection
from evtool.projections.runner import Answer
from evtool.projections.work import Progress


@dataclass(frozen=True)
class Recomputed:
    """What a recomputation found. `first_position` is where the results part, None where they are the same.

    `is_reproduced` says whether going on from the last position at which they agreed shows it again; otherwise
    they part at `first_position` or behind it. `wrong_snapshots` are the ids of those that are wrong as well.
    `damaged` are the files of the state that were not as they were written. `is_kept` says that nothing was
    compared, as events that it was made from are gone.
    """

    projection: str
    version: int
    definition_hash: str
    parameters_hash: str
    position: int
    sha256: str
    refreshed_sha256: str
    first_position: int | None = None
    is_reproduced: bool = False
    wrong_snapshots: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    is_kept: bool = False

    @property
    def is_same(self) -> bool:
        """Whether refreshing has given what the events give."""
        return self.sha256 == self.refreshed_sha256 and not self.is_kept

    @property
    def is_wrong(self) -> bool:
        """Whether it has given something else."""
        return self.sha256 != self.refreshed_sha256 and not self.is_kept


def recompute(
    asked: Projection,
    folder: Path,
    agreed: int = 0,
    on_progress: Progress = lambda done, total: None,
) -> Recomputed:
    """Refresh a projection and compute it from nothing, below `folder`.

    If that differs, or the state has damage, it is made anew.
    `agreed` is a position up to which both were the same. Raises ProjectionError, LogDamagedError, SchemaError,
    StorageError.
    """
    # Another refresh may come right behind this one: what is compared is looked at before.
    refreshed, refreshed_sha256, damaged = asked.runner.keep(
        lambda store, answer: (answer, _sha256(asked), tuple(str(path) for path, _ in store.damage())), on_progress
    )
    identity = asked.identity
    result = functools.partial(
        Recomputed,
        identity.name,
        identity.version,
        identity.definition_hash,
        identity.parameters_hash,
        refreshed_sha256=refreshed_sha256,
        damaged=damaged,
    )
    if refreshed.is_outlived:
        if damaged:
            asked.runner.refresh(full=True)
        return result(refreshed.position, _sha256(asked), is_kept=True)
    aside = asked.aside(folder / "full")
    full = aside.runner.refresh(True, on_progress, refreshed.position)
    sha256 = _sha256(aside)
    first, is_reproduced = None, False
    wrong: list[str] = []
    if sha256 != refreshed_sha256:
        search = _Search(asked, folder, min(agreed, full.position), full.position)
        first, is_reproduced = _parting(search, refreshed, full)
        asked.runner.refresh(full=True)
        wrong = _mark_wrong(asked, folder, first)
    elif damaged:
        asked.runner.refresh(full=True)
    return result(
        full.position, sha256, first_position=first, is_reproduced=is_reproduced, wrong_snapshots=tuple(wrong)
    )


def _sha256(projection: Projection) -> str:
    return readmodel.sha256(projection.places.folder, projection.identity.name) or ""


def _mark_wrong(asked: Projection, folder: Path, first: int) -> list[str]:
    """Mark the snapshots from a position on that are not what the events give; their ids."""
    found = []
    for snapshot in snapshots.of(asked.log, asked.identity):
        if snapshot.position >= first and not snapshot.is_wrong and not snapshots.is_outlived(asked.log, snapshot):
            again = asked.aside(folder / "again")
            again.runner.refresh(full=True, end=snapshot.position)
            kept = readmodel.sha256(snapshots.place(asked.log, snapshot), snapshot.projection)
            if kept != _sha256(again):
                snapshots.mark_wrong(asked.log, snapshot)
                found.append(snapshot.id)
    return found


def _parting(search: _Search, refreshed: Answer, full: Answer) -> tuple[int, bool]:
    """Where they part, as `_Search.parting` says it."""
    try:
        return search.parting(_differing(refreshed, full))
    except ProjectionError:  # an object in Python may fail on a beginning of the log
        return search.earliest, False


def _differing(refreshed: Answer, full: Answer) -> pl.DataFrame:
    """The keys of the rows that are not in both; none where nothing tells rows apart."""
    if not full.keys:
        return full.frame.select(full.keys)
    refreshed_frame = refreshed.frame.cast(full.frame.schema)  # it may have been Parquet
    pairs = ((refreshed_frame, full.frame), (full.frame, refreshed_frame))
    found = [one.join(other, on=one.columns, how="anti", nulls_equal=True) for one, other in pairs]
    return pl.concat(found).select(full.keys).unique()


class _Search:
    """Looks for where two ways to compute a projection part, between `agreed` and `position`."""

    def __init__(self, asked: Projection, folder: Path, agreed: int, position: int) -> None:
        self._asked = asked
        self._folder = folder
        self._agreed = agreed
        self._position = position

    @property
    def earliest(self) -> int:
        """The first position at which they may part."""
        return min(self._agreed + 1, self._position)

    def parting(self, rows: pl.DataFrame) -> tuple[int, bool]:
        """The first position at which they part, and whether going on from `agreed` shows it.

        `rows` are the keys of those that differ.
        """
        if self._agreed and self._parts_at(self._position):
            return self._first(self._parts_at), True
        before = _of(rows, self._full(self._agreed))
        return self._first(lambda position: not _equal(_of(rows, self._full(position)), before)), False

    def _first(self, is_behind: Callable[[int], bool]) -> int:
        """The first position of which something holds that holds of the last one."""
        low, high = self.earliest, self._position
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_behind(middle) else (middle + 1, high)
        return low

    def _parts_at(self, position: int) -> bool:
        again = self._asked.aside(self._folder / "again").runner
        again.refresh(full=True, end=self._agreed)
        return not _equal(again.refresh(end=position), self._full(position))

    def _full(self, position: int) -> Answer:
        return self._asked.runner.compute(Selection(end=position + 1), from_nothing=True)


def _of(rows: pl.DataFrame, answer: Answer) -> Answer:
    """An answer with these rows alone; with all of them where none or no key tells which."""
    if rows.is_empty() or not answer.keys:
        return answer
    # How many events count changes with every event, and says nothing of these rows.
    found = answer.frame.join(rows, on=answer.keys, how="semi", nulls_equal=True)
    return replace(answer, frame=found, events=0, failed_casts={})


def _equal(one: Answer, other: Answer) -> bool:
    tallies = [(answer.events, answer.failed_casts) for answer in (one, other)]
    return tallies[0] == tallies[1] and one.frame.equals(other.frame)
