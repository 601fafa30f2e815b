"""What is left of the damaged segments of a log, by their files and by what neighbours and HEAD know of them.

A segment that is missing is one of which nothing is left: the positions between its neighbours are lost.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evtool.errors import LogDamagedError
from evtool.lifecycle.logfiles import LogFiles, SegmentFiles
from evtool.lifecycle.repairing import cold, hot
from evtool.lifecycle.repairing.cold import NothingLeft
from evtool.lifecycle.repairing.hot import Place
from evtool.lifecycle.repairing.remains import Damage, Known, Remains, one_batch, remains
from evtool.log.coldsegment import ROW
from evtool.log.format import COMMIT_FRAME, FORMAT_VERSION, segment_name
from evtool.log.gone import Gone
from evtool.log.log import Log
from evtool.log.segment import is_cold
from evtool.log.walk import walk_all

_GENERATION = re.compile(r"events-(\d+)\.")


@dataclass(frozen=True)
class Damaged:
    """A damaged segment: what is known and left of it, or None where nothing in it was ever acknowledged.

    `place` is what others know of it, `files` what there is of it; None of a segment that is missing.
    """

    folder: Path
    first_position: int
    known: Known | None
    remains: Remains | None
    place: Place
    files: SegmentFiles | None

    @property
    def is_past_known(self) -> bool:
        """Whether it is known which of its events were gone: not where only their positions are."""
        return self.files is not None and (self.files.summary is not None or self.files.frames is not None)

    @property
    def last_position(self) -> int:
        """Of its last event."""
        return self.remains.last_position if self.remains is not None else self.first_position - 1


def survey(log: Log, files: LogFiles, damaged: Collection[Path]) -> Iterator[Damaged]:
    """What is left of the segments in some folders, and of those that are missing.

    Raises StorageError, and LogDamagedError where nothing tells how far the last one goes.
    """
    log_id = bytes.fromhex(files.log_id or log.manifest.id)
    before: dict[str, Any] = {"last_position": 0, "digest": 0, "recorded_at_max": 0, "last_batch": 0}
    segments = files.segments
    for number, segment in enumerate(segments):
        following = segments[number + 1] if number + 1 < len(segments) else None
        expected = int(before["last_position"]) + 1
        if segment.first_position > expected:
            yield (missing := _missing(files, log_id, before, segment.first_position - 1, _digest_before(segment)))
            before = _facts(missing)
        place = _place(files, log_id, before, segment, following)
        if segment.folder in damaged:
            known = _look(log, segment, place)
            found = remains(known) if known is not None else None
            yield Damaged(segment.folder, segment.first_position, known, found, place, segment)
            before = dict(found.summary) if found is not None else before
        else:
            before = _summary(segment, before)
    claim = files.claim
    if claim is not None and claim.position > int(before["last_position"]):
        yield _missing(files, log_id, before, claim.position, None)


def _facts(found: Damaged) -> dict[str, Any]:
    assert found.remains is not None
    return dict(found.remains.summary)


def _summary(segment: SegmentFiles, before: dict[str, Any]) -> dict[str, Any]:
    """What the next segment has to follow of one that is whole."""
    if segment.summary is not None:
        return dict(segment.summary)
    if segment.frames is None or not len(segment.frames):
        return before
    table = walk_all(segment.frames, segment.first_position, check_bodies=False).table
    if not len(table):
        return before
    last = table["header"][table["header"]["kind"] == COMMIT_FRAME][-1]
    return {
        "last_position": int(last["last_position"]),
        "digest": int(last["checksum"]),
        "recorded_at_max": int(last["base_recorded_at"]) + max(int(last["count"]), 1) - 1,
        "last_batch": int(last["batch"]),
    }


def _place(
    files: LogFiles,
    log_id: bytes,
    before: Mapping[str, Any],
    segment: SegmentFiles,
    following: SegmentFiles | None,
) -> Place:
    """What the neighbours and HEAD know of a segment."""
    summary, claim = segment.summary, files.claim
    digest = int(summary["digest"]) if summary is not None else None
    if digest is None and following is not None:
        digest = _digest_before(following)
    last = int(summary["last_position"]) if summary is not None else None
    if last is None and following is not None:
        last = following.first_position - 1
    is_claimed = claim is not None and claim.segment == segment.first_position
    end = int(summary["log_bytes"]) if summary is not None and "log_bytes" in summary else None
    if end is None and claim is not None and is_claimed:
        end = claim.log_bytes
    return Place(
        log_id=log_id,
        last_position=last,
        digest=digest,
        previous_digest=int(before["digest"]),
        recorded_after=int(before["recorded_at_max"]),
        last_batch_before=int(before["last_batch"]),
        end=end,
        claimed=claim.position if claim is not None and is_claimed else 0,
    )


def _digest_before(segment: SegmentFiles) -> int | None:
    return int(segment.summary["previous_digest"]) if segment.summary is not None else None


def _look(log: Log, segment: SegmentFiles, place: Place) -> Known | None:
    if is_cold(segment.summary):
        return cold.known(log.files, segment.folder, segment.summary)
    if segment.frames is None and segment.has_cold_files:
        last = place.last_position or place.claimed
        if not last:
            raise LogDamagedError(
                f"{segment.folder}: without segment.msgpack, segment.copy and HEAD nothing tells how far it goes",
                "Restore a backup to another folder: `evtool restore`. Nothing was changed here.",
            )
        what = "neither segment.msgpack nor segment.copy is as it was written: no event can be proved"
        return _nothing(segment.folder, last, place, what, _generation(segment))
    empty = memoryview(b"")
    data, index = segment.frames or empty, segment.index or empty
    return hot.known(segment.folder, segment.first_position, data, index, segment.summary, place)


def _generation(segment: SegmentFiles) -> int:
    numbers = [int(match[1]) for name in segment.names if (match := _GENERATION.match(name))]
    return max(numbers, default=0)


def _missing(files: LogFiles, log_id: bytes, before: Mapping[str, Any], last: int, digest: int | None) -> Damaged:
    first = int(before["last_position"]) + 1
    folder = files.folder / segment_name(first)
    place = Place(
        log_id=log_id,
        last_position=last,
        digest=digest,
        previous_digest=int(before["digest"]),
        recorded_after=int(before["recorded_at_max"]),
        last_batch_before=int(before["last_batch"]),
        end=None,
    )
    known = _nothing(folder, last, place, "it is missing", 0)
    return Damaged(folder, first, known, remains(known), place, None)


def _nothing(folder: Path, last: int, place: Place, what: str, generation: int) -> Known:
    """A segment of which only the positions are known."""
    first = int(folder.name)
    batches = one_batch(first, last, place.recorded_after + 1, place.digest or 0)
    return Known(
        folder=folder,
        first_position=first,
        last_position=last,
        pieces=NothingLeft(folder),
        rows=np.zeros(0, ROW),
        batches=batches,
        maps=[b""],
        earlier=Gone.none(),
        summary={
            "version": FORMAT_VERSION,
            "log_id": place.log_id.hex(),
            "first_position": first,
            "last_position": last,
            "last_batch": place.last_batch_before + 1,
            "recorded_at_min": place.recorded_after + 1,
            "recorded_at_max": place.recorded_after + last - first + 1,
            "digest": place.digest or 0,
            "previous_digest": place.previous_digest,
            "generation": generation + 1,
        },
        damages=(Damage(str(folder), what, is_lost=True),),
    )
