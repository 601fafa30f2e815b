"""What `verify` asks of a hot segment: frames.log from header to header, and the summary and index beside it.

Where a header is damaged, frames.idx, if it is whole, tells where the frames behind it are: so one flipped bit is
one finding, and hides no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import forget
from evtool.lifecycle.findings import RESTORE, Finding, damaged, longer, note, stale
from evtool.lifecycle.logfiles import LogFiles, SegmentFiles, frames_of
from evtool.lifecycle.segmentchecks import Opened, of_batch, piece
from evtool.log.format import (
    COMMIT_FRAME,
    EVENTS_FRAME,
    FRAME_HEADER_BYTES,
    FRAMES_FILE,
    INDEX_FILE,
    INDEX_ROW,
    SEGMENT_HEADER_BYTES,
    SUMMARY_FILE,
    is_whole,
    padded,
)
from evtool.log.recovery import has_later_batch
from evtool.log.segment import Segment, index_of
from evtool.log.walk import Table, Walk, check_header, walk_all

_NEXT_WRITER = "It is only a cache: the next writer makes it again."


def opened(
    log: LogFiles, segment: SegmentFiles, previous_digest: int | None
) -> tuple[Opened | None, list[Finding]]:
    """The segment if its frames can be read, and what was found so far."""
    is_last = segment is log.segments[-1]
    findings = _summary_file(segment, is_last)
    if segment.summary is not None:
        findings += longer(segment.folder / FRAMES_FILE, int(segment.summary["log_bytes"]))
    path = segment.folder / FRAMES_FILE
    data, committed = frames_of(segment, log.claim, is_last)
    is_acknowledged = log.claim is not None and log.claim.position >= segment.first_position
    if segment.frames is None and segment.has_cold_files:
        return None, [damaged(segment.folder / SUMMARY_FILE, "neither it nor its copy is as it was written")]
    if len(data) < SEGMENT_HEADER_BYTES and is_last and segment.summary is None and not is_acknowledged:
        return None, []  # its making was cut short by a crash; the next writer starts it again
    if segment.frames is None:
        return None, [*findings, damaged(path, "it is missing")]
    problem = check_header(data, log.manifest.id_bytes, segment.first_position)
    if problem:
        findings.append(replace(damaged(path, problem), offset=0))
    index = _index(segment, log, committed)
    if problem and index is None:
        return None, findings
    found = walk_all(data, segment.first_position, check_bodies=committed is None)
    forget(data, 0, len(data))
    frames = _Frames(segment, data, committed, found, index)
    findings += frames.findings() if not problem else frames.damaged_headers()
    view = frames.view
    is_known = index is not None or not frames.is_short
    if segment.summary is not None and is_known and not frames.is_cut:
        findings += _facts(view, segment.summary, previous_digest)
    findings += _index_file(segment, log, frames)
    findings += _batches(view)
    digest = int(view.table["header"]["checksum"][-1]) if len(view.table) else found.last_checksum
    unreadable = frames.unreadable
    opened = Opened(
        view, digest if is_known else None, unreadable=unreadable, rest=lambda: _rest(view, unreadable)
    )
    return opened, findings


def superseded(folder: Path) -> Finding:
    """A folder whose events a merged segment has."""
    hint = "Nobody reads it, and the next `evtool compact` removes it."
    return note(folder, "a merged segment has taken its place", hint)


def _summary_file(segment: SegmentFiles, is_last: bool) -> list[Finding]:
    path = segment.folder / SUMMARY_FILE
    if segment.summary is not None:
        return []
    if SUMMARY_FILE in segment.names:
        return [stale(path, "it is not as it was written, or that of another segment or log", _NEXT_WRITER)]
    return [] if is_last else [note(path, "it is missing", _NEXT_WRITER)]


def _index(segment: SegmentFiles, log: LogFiles, committed: int | None) -> Table | None:
    """The rows of frames.idx, if they are as they were written."""
    if segment.index is None or committed is None:
        return None
    told = _told(segment, log)
    if told is None:
        return None
    frames, index_checksum = told
    return index_of(segment.index[: frames * INDEX_ROW.itemsize], frames, committed, index_checksum)


def _told(segment: SegmentFiles, log: LogFiles) -> tuple[int, int | None] | None:
    """How many rows frames.idx must have, and their checksum if that is known."""
    if segment.summary is not None:
        return int(segment.summary["frames"]), segment.summary.get("index_checksum")
    claim = log.claim
    if claim is not None and claim.is_of_this_boot and claim.segment == segment.first_position:
        return claim.frames, None
    return None


class _Frames:
    """The frames of a segment: as they were walked, or where that ended too early, as frames.idx tells."""

    def __init__(
        self, segment: SegmentFiles, data: memoryview, committed: int | None, found: Walk, index: Table | None
    ) -> None:
        self.is_short = found.end < committed if committed is not None else _is_acknowledged(data, found)
        self.index = index
        self._found = found
        table, end = found.table, found.end
        if self.is_short and index is not None:
            table, end = index, len(data)
        is_sealed = segment.summary is not None
        self.view = Segment(segment.folder, segment.first_position, table, data[:end], is_sealed)
        is_whole = not self.is_short or index is None
        ends = table["offset"] + FRAME_HEADER_BYTES + table["header"]["body_bytes"]
        self._cut = table[ends > len(data)]
        there = table[ends <= len(data)]
        self._bad = [] if is_whole else [row for row in there if not _has_header(data, row)]

    @property
    def is_cut(self) -> bool:
        """Whether the file ends before its last frame does."""
        return len(self._cut) > 0

    @property
    def unreadable(self) -> frozenset[int]:
        """Where the frames are whose headers are damaged, or that the file ends before."""
        return frozenset(int(row["offset"]) for row in (*self._bad, *self._cut))

    def damaged_headers(self) -> list[Finding]:
        """Each damaged header, and what is cut off."""
        found = [piece(self.view, row, "its header is not as it was written") for row in self._bad]
        if self.is_cut:
            last = int(self._cut["header"]["last_position"].max())
            cut = piece(self.view, self._cut[0], f"the file ends before it does, at byte {len(self.view.data):,}")
            found.append(replace(cut, last_position=last))
        return found

    def findings(self) -> list[Finding]:
        """The same, or why the walk went no further: then nobody can tell what is behind that."""
        if self._bad or self.is_cut or not self.is_short:
            return self.damaged_headers()
        found, view = self._found, self.view
        last = int(found.table["header"]["last_position"][-1]) if len(found.table) else view.first_position - 1
        message = f"behind position {last:,}: {found.stop or 'the file ends too early'}"
        return [Finding(str(view.path), "log", message, RESTORE, "frame", len(found.table), found.end)]


def _is_acknowledged(data: memoryview, found: Walk) -> bool:
    """Whether what is behind the last whole batch was one, where nothing else tells."""
    next_batch = int(found.table["header"]["batch"][-1]) + 1 if len(found.table) else None
    return has_later_batch(data, found.end, next_batch)


def _has_header(data: memoryview, row: np.void) -> bool:
    offset = int(row["offset"])
    raw = data[offset : offset + FRAME_HEADER_BYTES]
    return raw == row["header"].tobytes() and is_whole(raw)


def _facts(view: Segment, summary: Mapping[str, Any], previous_digest: int | None) -> list[Finding]:
    header = view.table["header"]
    facts = {
        "last_position": view.last_position,
        "frames": len(header),
        "log_bytes": view.log_bytes,
        "count": int(header[header["kind"] == COMMIT_FRAME]["count"].sum()),
        "digest": int(header["checksum"][-1]) if len(header) else 0,
        "previous_digest": summary["previous_digest"] if previous_digest is None else previous_digest,
    }
    path = view.folder / SUMMARY_FILE
    return [
        damaged(path, f"segment.msgpack says {name} is {summary[name]}, and the frames say {fact}")
        for name, fact in facts.items()
        if summary[name] != fact
    ]


def _index_file(segment: SegmentFiles, log: LogFiles, frames: _Frames) -> list[Finding]:
    """frames.idx against the frames."""
    path = segment.folder / INDEX_FILE
    if segment.index is None:
        return [note(path, "it is missing", _NEXT_WRITER)] if segment.summary is not None else []
    told = _told(segment, log)
    if told is None or (frames.index is not None and frames.is_short):
        return []
    if frames.is_short:  # there is nothing that it could be compared with
        return [stale(path, "it is not as it was written", _NEXT_WRITER)]
    size = INDEX_ROW.itemsize
    data, wanted = segment.index, memoryview(frames.view.table.tobytes())
    if segment.summary is None:  # a writer may have added rows meanwhile
        data, wanted = data[: told[0] * size], wanted[: told[0] * size]
    if data == wanted:
        return []
    starts = range(0, len(wanted), size)
    first = next((at for at in starts if data[at : at + size] != wanted[at : at + size]), len(wanted))
    return [
        replace(
            stale(path, "it differs from the frames", _NEXT_WRITER),
            piece="record",
            number=first // size,
            offset=first,
        )
    ]


def _batches(view: Segment) -> list[Finding]:
    """The frames of each batch against its commit frame."""
    header = view.table["header"]
    commits = view.commits
    if not len(commits):
        return []
    events = header[header["kind"] == EVENTS_FRAME]
    batches, which = np.unique(events["batch"], return_inverse=True)
    counts = np.zeros(len(commits), np.int64)
    place = np.searchsorted(commits["batch"], batches)[which]
    np.add.at(counts, np.minimum(place, len(commits) - 1), events["count"])
    count = commits["count"].astype(np.int64)
    findings = []
    for broken, what in (
        (counts != count, "holds another number of events than its commit frame says"),
        (
            commits["last_position"] != commits["base_position"] + count - 1,
            "has positions that do not fit its number of events",
        ),
    ):
        findings += [of_batch(view.path, commits[number], what) for number in np.flatnonzero(broken).tolist()]
    return findings


def _rest(view: Segment, unreadable: frozenset[int]) -> list[Finding]:
    """The bodies of commit frames, and what stands between frames."""
    findings = []
    for row in view.table:
        offset, header = int(row["offset"]), row["header"]
        if offset in unreadable:
            continue
        if header["kind"] == COMMIT_FRAME:
            try:
                view.body(row)
            except LogDamagedError as error:
                findings.append(piece(view, row, error.what))
        end = offset + FRAME_HEADER_BYTES + int(header["body_bytes"])
        if any(view.data[end : offset + FRAME_HEADER_BYTES + padded(int(header["body_bytes"]))]):
            findings.append(piece(view, row, "its padding is not zero"))
    return findings
