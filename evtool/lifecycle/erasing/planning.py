"""What an erasure will touch, found before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evtool.config import Config
from evtool.errors import NothingToEraseError
from evtool.lifecycle.erasing import choosing, holding, letters, models, strays
from evtool.lifecycle.erasing.choosing import Chosen, Positions, Progress, Wanted
from evtool.lifecycle.erasing.holding import Holding
from evtool.lifecycle.erasing.letters import Letters
from evtool.lifecycle.erasing.models import Made
from evtool.lifecycle.erasing.strays import Aside
from evtool.log.format import DAMAGED_FOLDER
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot


@dataclass(frozen=True)
class Touched:
    """Segments that are written anew: how many are hot, cold and active, and the bytes that their events take."""

    hot: int
    cold: int
    active: int
    bytes: int

    @property
    def segments(self) -> int:
        """All of them."""
        return self.hot + self.cold + self.active


@dataclass(frozen=True)
class Plan:
    """What goes: events, and what holds something of them, or may (`aside`).

    `backups` are left as they are, and told of.
    """

    wanted: Wanted
    chosen: Chosen
    touched: Touched
    letters: Letters
    made: Made
    aside: Aside
    backups: Holding | None

    @property
    def positions(self) -> Positions:
        """Of all events that are written anew."""
        return self.chosen.all_positions

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to erase."""
        return not (len(self.positions) or self.letters.ids or self.made.lost)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of what."""
        return {
            "events": len(self.chosen.positions),
            "streams": self.chosen.streams,
            "segments": self.touched.segments,
            "bytes": self.touched.bytes,
            "dead_letters": len(self.letters.ids),
            "read_models": len(self.made.models),
            "snapshots": len(self.made.snapshots),
            "reports": self.made.reports,
            "put_aside": self.aside.files,
        }

    def check(self) -> None:
        """Raise NothingToEraseError if there is nothing."""
        if not self.is_empty:
            return
        of_what = "meets the condition" if self.wanted.where is not None else "is of these streams"
        hints = ["What was erased before is not found any more. Nothing was changed."]
        hints += [
            f"{count:,} values could not be cast: {name}" for name, count in self.chosen.failed_casts.items()
        ]
        if self.letters.unread:
            hints.append(f"{self.letters.unread:,} dead letters cannot be read, so nobody knows of them.")
        if self.aside.files:
            hints.append(f"What `evtool repair` has put aside, in {DAMAGED_FOLDER}/, was not looked into.")
        raise NothingToEraseError(f"nothing to erase: no event and no dead letter {of_what}", "\n  ".join(hints))


def plan(log: Log, config: Config, wanted: Wanted, on_progress: Progress = lambda done, total: None) -> Plan:
    """Find what is wanted, in a log as it is now. What is appended later is not in it.

    Raises ConfigError (a condition that is none), LogDamagedError, SchemaError, StorageError.
    """
    snapshot = log.snapshot()
    chosen = choosing.choose(log, snapshot, wanted, on_progress)
    found = letters.choose(log, wanted, chosen.whole)
    positions = chosen.all_positions
    first = int(positions[0]) if len(positions) else None
    made = Made()
    # Of a condition that is true for no event nobody can say whether it was for one that retention has dropped.
    if first is not None or (wanted.where is None and chosen.first_dropped is not None):
        made = models.choose(log, config, snapshot, first, chosen.first_dropped)
    backups = holding.choose(config, log.files, log.manifest, first, bool(found.ids))
    aside = strays.aside(log.files, log.folder)
    return Plan(wanted, chosen, _touched(snapshot, positions), found, made, aside, backups)


def held_by(segment: SegmentView, positions: Positions) -> Positions:
    """Those of some positions that a segment has."""
    start, end = np.searchsorted(positions, (segment.first_position, segment.last_position + 1)).tolist()
    return positions[start:end]


def _touched(snapshot: Snapshot, positions: Positions) -> Touched:
    those = [segment for segment in snapshot.segments if len(held_by(segment, positions))]
    sealed = [segment for segment in those if segment.is_sealed]
    cold = sum(segment.is_cold for segment in sealed)
    return Touched(
        hot=len(sealed) - cold,
        cold=cold,
        active=len(those) - len(sealed),
        bytes=sum(segment.log_bytes for segment in those),
    )
