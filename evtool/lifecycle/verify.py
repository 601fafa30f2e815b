"""Verify: every byte of a log against its checksums, every rule of the format against every frame.

Damage is reported, not repaired; a damaged segment does not keep the others from being looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evtool import parallel
from evtool.errors import LogDamagedError
from evtool.files import forget
from evtool.lifecycle import coldchecks
from evtool.log import head as head_file
from evtool.log import streamindex
from evtool.log.coldsegment import ColdSegment, open_cold
from evtool.log.digest import LogicalDigest
from evtool.log.format import (
    COMMIT_FRAME,
    COPY_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    MIXED_PARTITIONS,
    SEGMENT_HEADER_BYTES,
    STREAMS_FILE,
    SUMMARY_FILE,
)
from evtool.log.head import Head
from evtool.log.log import Log
from evtool.log.partitions import partitions_of
from evtool.log.scan import Group, groups, load
from evtool.log.segment import Segment, is_cold, is_readable, read_summary, segment_folders
from evtool.log.segmentview import SegmentView
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.streamframes import read_pairs
from evtool.log.walk import check_header, walk_all


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: in which file, what, and what to do."""

    file: str
    message: str
    hint: str


@dataclass
class Report:
    """What was verified. `digest` is the logical digest, None when some event could not be read.

    `findings` are damage; `notes` tell of caches that are wrong, which harms nothing but speed.
    """

    events: int = 0
    frames: int = 0
    batches: int = 0
    segments: int = 0
    bytes: int = 0
    position: int = 0
    digest: str | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


_ATTEMPTS = 3
_RESTORE = "Bring this segment back from a backup; the others are not affected."


def verify(log: Log, on_progress: Callable[[int], None] = lambda events: None) -> Report:
    """Read and check all of a log as it is now. `on_progress` is told how many events have been checked.

    Where something is wrong and segments have become others meanwhile, it is looked at again.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        before = _names(log)
        try:
            report = _verify(log, on_progress)
        except FileNotFoundError:
            if not attempts_left:
                raise
            continue
        if report.is_clean or _names(log) == before:
            break
    return report


def _names(log: Log) -> list[tuple[int, tuple[int, ...]]]:
    """The segments, and what tells the summary of each from another one."""
    return [
        (first_position, log.files.identity(folder / SUMMARY_FILE))
        for first_position, folder in segment_folders(log.folder)
    ]


def _verify(log: Log, on_progress: Callable[[int], None]) -> Report:
    report = Report()
    digest = LogicalDigest()
    whole = True
    expected = 1
    last_recorded_at = 0
    for segment in _segments(log, report):
        report.segments += 1
        report.bytes += segment.log_bytes
        if segment.first_position != expected:
            message = f"it starts at position {segment.first_position}; {expected} is the next one"
            report.findings.append(Finding(str(segment.folder), message, "Bring the missing segment back."))
            whole = False
        expected = segment.last_position + 1
        if isinstance(segment, ColdSegment):
            last_recorded_at, broken = coldchecks.batches(segment, last_recorded_at)
            report.findings += [Finding(str(segment.path), what, _RESTORE) for what in broken]
            report.frames += len(segment.table)
            report.batches += len(segment.commits)
        elif isinstance(segment, Segment):
            last_recorded_at = _check_batches(segment, last_recorded_at, report)
        own = LogicalDigest()
        every = Selection()
        tasks = groups(Snapshot((segment,)), every, log.partitions)
        for events, problems in parallel.ordered(lambda group: _check_group(group, log.partitions), tasks):
            report.findings += problems
            whole = whole and events is not None
            if events is not None:
                digest.update(events)
                if segment.is_cold:
                    own.update(events)
                report.events += len(events)
                on_progress(report.events)
        if isinstance(segment, ColdSegment) and whole and own.hexdigest() != segment.summary["logical_digest"]:
            report.findings.append(Finding(str(segment.path), "its events are not those of its digest", _RESTORE))
        report.position = segment.last_position
    report.digest = digest.hexdigest() if whole and report.is_clean else None
    return report


def _segments(log: Log, report: Report) -> Iterator[SegmentView]:
    """Each segment as its frames say, not its caches; its bytes are walked from the first to the last."""
    head = head_file.read(log.files, log.folder)
    claim = head if head is not None and head.is_claim else None
    folders = list(segment_folders(log.folder))
    last_position = 0
    digest = 0  # of the segment before
    covered = 0
    for first_position, folder in folders:
        path = folder / FRAMES_FILE
        if first_position <= covered:
            hint = "Nobody reads it, and the next `evtool compact` removes it."
            report.notes.append(Finding(str(folder), "a merged segment has taken its place", hint))
            continue
        summary = read_summary(log.files, folder)
        if summary is not None and is_cold(summary):
            covered = int(summary["last_position"])
            cold = _cold(log, folder, summary, digest, report)
            digest, last_position = int(summary["digest"]), covered
            if cold is not None:
                yield cold
            continue
        is_last = first_position == folders[-1][0]
        committed_bytes = _committed_bytes(log, path, first_position, summary, is_last, claim)
        try:
            data = log.files.map(path, committed_bytes)
        except FileNotFoundError:
            data = memoryview(b"")
        if len(data) < SEGMENT_HEADER_BYTES and is_last and not (claim and claim.position >= first_position):
            continue  # a segment whose making a crash cut short; the next writer starts it again
        problem = check_header(data, log.manifest.id_bytes, first_position)
        if problem:
            report.findings.append(Finding(str(path), problem, _RESTORE))
            continue
        found = walk_all(data, first_position, check_bodies=True)
        forget(data, 0, len(data))
        if committed_bytes is not None and found.end < committed_bytes:
            last = int(found.table["header"]["last_position"][-1]) if len(found.table) else first_position - 1
            message = f"at byte {found.end}, behind position {last}: {found.stop or 'the file ends too early'}"
            report.findings.append(Finding(str(path), message, _RESTORE))
        segment = Segment(folder, first_position, found.table, data[: found.end], summary is not None)
        if summary is not None:
            _check_summary(log, segment, summary, digest, report)
        digest, last_position = found.last_checksum, segment.last_position
        yield segment
    if claim and claim.position > last_position:
        message = f"position {claim.position} was acknowledged, but the segments end at {last_position}"
        report.findings.append(Finding(str(log.folder), message, "Bring what is missing back from a backup."))


def _cold(
    log: Log, folder: Path, summary: Mapping[str, Any], previous_digest: int, report: Report
) -> ColdSegment | None:
    """A cold segment, if it can be read at all."""
    try:
        cold = open_cold(log.files, folder, summary, log.manifest.id_bytes)
    except LogDamagedError as error:
        report.findings.append(Finding(str(folder), error.message, _RESTORE))
        return None
    except FileNotFoundError as error:
        report.findings.append(Finding(str(error.filename), "it is missing", _RESTORE))
        return None
    for problem in coldchecks.summary(cold, previous_digest):
        report.findings.append(Finding(str(cold.path), problem, _RESTORE))
    if log.files.identity(folder / COPY_FILE) and not is_readable(log.files, folder):
        hint = "Its copy counts, and the next `evtool compact` makes it anew."
        report.notes.append(
            Finding(str(folder / SUMMARY_FILE), "it is missing or does not match its checksum", hint)
        )
    _check_streams(log, cold, report)
    return cold


def _committed_bytes(
    log: Log, path: Path, first_position: int, summary: dict[str, Any] | None, is_last: bool, claim: Head | None
) -> int | None:
    """How many bytes of a frames.log must hold whole frames; None where only the frames can tell."""
    if summary is not None:
        return int(summary["log_bytes"])
    if claim is not None and claim.segment == first_position:
        return claim.log_bytes
    return None if is_last else log.files.size(path)


def _check_summary(
    log: Log, segment: Segment, summary: dict[str, Any], previous_digest: int, report: Report
) -> None:
    header = segment.table["header"]
    facts = {
        "last_position": segment.last_position,
        "frames": len(segment.table),
        "log_bytes": segment.log_bytes,
        "count": int(header[header["kind"] == COMMIT_FRAME]["count"].sum()),
        "digest": int(header["checksum"][-1]) if len(header) else 0,
        "previous_digest": previous_digest,
    }
    for name, fact in facts.items():
        if summary[name] != fact:
            message = f"segment.msgpack says {name} is {summary[name]}, and the frames say {fact}"
            report.findings.append(Finding(str(segment.folder), message, _RESTORE))
    path = segment.folder / INDEX_FILE
    if log.files.size(path) and log.files.map(path) != segment.table.tobytes():
        hint = "It is only a cache: no reader believes it, and it is made again by the next writer."
        report.notes.append(Finding(str(path), "it differs from the frames", hint))
    _check_streams(log, segment, report)


def _check_streams(log: Log, segment: SegmentView, report: Report) -> None:
    """Note a streams.idx that is not what the frames give."""
    path = segment.folder / STREAMS_FILE
    if not log.files.size(path):
        return
    try:
        pairs = read_pairs(segment)
    except LogDamagedError:  # said of the frame itself
        return
    if log.files.map(path) != streamindex.encode(
        pairs, log.manifest.id_bytes, segment.first_position, segment.table
    ):
        hint = "It is only a cache: `evtool reindex` makes it again."
        report.notes.append(Finding(str(path), "it differs from the frames", hint))


def _check_batches(segment: Segment, last_recorded_at: int, report: Report) -> int:
    """Counts, positions and times of each batch; returns the last recorded_at."""
    header = segment.table["header"]
    commits = header[header["kind"] == COMMIT_FRAME]
    report.frames += len(header)
    report.batches += len(commits)
    if not len(commits):
        return last_recorded_at
    events = header[header["kind"] != COMMIT_FRAME]
    batches, which = np.unique(events["batch"], return_inverse=True)
    counts = np.zeros(len(commits), np.int64)
    np.add.at(counts, np.searchsorted(commits["batch"], batches)[which], events["count"])
    first, count = commits["base_position"], commits["count"].astype(np.int64)
    recorded_at_end = commits["base_recorded_at"] + count - 1
    before = np.concatenate([[last_recorded_at], recorded_at_end[:-1]])
    for broken, what in (
        (counts != count, "holds another number of events than its commit frame says"),
        (commits["last_position"] != first + count - 1, "has positions that do not fit its number of events"),
        (commits["base_recorded_at"] <= before, "was recorded no later than the batch before it"),
    ):
        for batch in commits["batch"][broken]:
            report.findings.append(Finding(str(segment.folder / FRAMES_FILE), f"batch {batch} {what}", _RESTORE))
    return int(recorded_at_end[-1])


def _check_group(group: Group, partitions: int) -> tuple[pl.DataFrame | None, list[Finding]]:
    """The events of some frames, in order of position, and what is wrong with them."""
    path, piece = str(group.segment.path), "row group" if group.segment.is_cold else "frame"
    try:
        problems = [
            Finding(path, f"{piece} at byte {row['offset']}: {what}", _RESTORE)
            for row in group.rows
            for what in _check_frame(group.segment, row, partitions)
        ]
        events = load(group, Selection(), partitions)
    except LogDamagedError as error:
        return None, [Finding(path, error.message, error.hint)]
    positions = events["position"].to_numpy()
    if not (np.diff(positions) == 1).all():
        message = f"positions {positions[0]} to {positions[-1]} have a gap or come twice"
        problems.append(Finding(path, message, _RESTORE))
    return events, problems


def _check_frame(segment: SegmentView, row: np.void, partitions: int) -> Iterator[str]:
    header = row["header"]
    events = segment.events(row, ("position", "timestamp", "stream_id"))
    positions, timestamps = events["position"], events["timestamp"]
    if (positions.min(), positions.max()) != (header["first_position"], header["last_position"]):
        yield "its positions are not those of its header"
    if (timestamps.min(), timestamps.max()) != (header["timestamp_min"], header["timestamp_max"]):
        yield "its times are not those of its header"
    if header["partition"] != MIXED_PARTITIONS:
        streams = [stream.encode() for stream in events["stream_id"].unique().to_list()]
        if (partitions_of(streams, partitions) != header["partition"]).any():
            yield f"it holds streams of other partitions than {header['partition']}"
    if isinstance(segment, ColdSegment):
        yield from coldchecks.derived(segment, row)
