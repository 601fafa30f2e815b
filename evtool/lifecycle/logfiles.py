"""The files of a log at one moment, mapped: what `verify` looks at, however long that takes.

What is mapped stays as it is when compactions and writers go on: sealed segments never change, and whatever takes
their place is another file. So it is enough that all of them are opened while no segment becomes another one;
where one has, they are listed again. Nothing is believed here but the summaries, which say what there should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.log import head as head_file
from evtool.log.coldsegment import ColdSegment, open_cold
from evtool.log.format import (
    COPY_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    SEGMENT_HEADER,
    SEGMENT_HEADER_BYTES,
    STREAMS_FILE,
    SUMMARY_FILE,
    events_file,
    is_cold_file,
    is_whole,
    map_file,
)
from evtool.log.head import Head
from evtool.log.log import Log
from evtool.log.manifest import Manifest
from evtool.log.segment import is_cold, is_readable, read_summary, segment_folders

_ATTEMPTS = 1_000  # each opens what is new since the one before

Names = list[tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class SegmentFiles:
    """The files of one segment. `summary` is the one that counts, None where there is none that can be believed.

    Where that is of a cold segment, `cold` is it, or `problem` says why it cannot be opened. A view is None where
    there is no such file. `log_id` is of the log that the segment says it is of. `names` are all names in the
    folder, as they were before anything else was looked at.
    """

    folder: Path
    first_position: int
    summary: Mapping[str, Any] | None
    log_id: str | None
    is_summary_whole: bool
    is_copy_whole: bool
    frames: memoryview | None
    index: memoryview | None
    streams: memoryview | None
    cold: ColdSegment | None
    problem: LogDamagedError | None
    names: frozenset[str]

    @property
    def has_cold_files(self) -> bool:
        """Whether the folder has files of a cold segment."""
        return any(is_cold_file(name) for name in self.names)

    @property
    def is_being_compacted(self) -> bool:
        """Whether a compaction has not got, or did not get, to the end of what it does behind its switch."""
        if self.summary is None or "generation" not in self.summary:
            return False
        own = {events_file(self.summary["generation"]), map_file(self.summary["generation"])}
        return FRAMES_FILE in self.names or any(is_cold_file(name) and name not in own for name in self.names)


@dataclass(frozen=True)
class LogFiles:
    """A log at one moment: its segments in order, and the folders whose place a merged one has taken.

    `claim` is HEAD where what it tells of must be there.
    """

    folder: Path
    manifest: Manifest
    head: Head | None
    segments: tuple[SegmentFiles, ...]
    superseded: tuple[Path, ...] = field(default=())

    @property
    def claim(self) -> Head | None:
        """HEAD, where what it tells of must be there."""
        return self.head if self.head is not None and self.head.is_claim else None

    @property
    def log_id(self) -> str | None:
        """What all segments say which log they are of; None where they do not agree, or there is none."""
        found = {segment.log_id for segment in self.segments} - {None}
        return found.pop() if len(found) == 1 else None


def take(log: Log, manifest: Manifest | None = None) -> LogFiles:
    """All segments as they are now, as those of log.json or another `manifest`. Raises StorageError."""
    files, folder, manifest = log.files, log.folder, manifest or log.manifest
    opened: dict[int, tuple[tuple[int, ...], SegmentFiles]] = {}
    for attempts_left in reversed(range(_ATTEMPTS)):
        names = _names(files, folder)
        head = head_file.read(files, folder)
        try:
            found = _take(log, manifest, names, opened)
        except FileNotFoundError:  # a folder has just gone
            if not attempts_left:
                raise
            continue
        if _names(files, folder) == names:
            break
    return replace(found, head=head)


def _names(files: Files, folder: Path) -> Names:
    """The segments, and what tells the summary of each from another one."""
    return [(first, files.identity(path / SUMMARY_FILE)) for first, path in segment_folders(folder)]


def _take(
    log: Log,
    manifest: Manifest,
    names: Names,
    opened: dict[int, tuple[tuple[int, ...], SegmentFiles]],
) -> LogFiles:
    segments: list[SegmentFiles] = []
    superseded: list[Path] = []
    covered = 0
    identities = dict(names)
    for first_position, path in segment_folders(log.folder):
        if first_position <= covered:
            superseded.append(path)
            continue
        identity = identities.get(first_position, ())
        kept, segment = opened.get(first_position, ((), None))
        if segment is None or kept != identity or segment.summary is None:
            segment = _open(log, path, first_position, manifest)
            opened[first_position] = identity, segment
        segments.append(segment)
        if is_cold(segment.summary):
            covered = int(segment.summary["last_position"])
    return LogFiles(log.folder, manifest, None, tuple(segments), tuple(superseded))


def _open(log: Log, folder: Path, first_position: int, manifest: Manifest) -> SegmentFiles:
    files = log.files
    names = frozenset(entry.name for entry in folder.iterdir())
    summary = read_summary(files, folder, manifest.id)
    frames = _map(files, folder / FRAMES_FILE)
    cold, problem = None, None
    if is_cold(summary):
        try:
            cold = open_cold(files, folder, summary, manifest.id_bytes, log.archive)
        except LogDamagedError as error:
            problem = error
        except FileNotFoundError as error:
            problem = LogDamagedError(f"{error.filename}: it is missing")
    return SegmentFiles(
        folder=folder,
        first_position=first_position,
        summary=summary,
        log_id=_log_id(read_summary(files, folder, None), frames),
        is_summary_whole=is_readable(files, folder, manifest.id),
        is_copy_whole=_same_copy(files, folder, manifest.id),
        frames=frames,
        index=_map(files, folder / INDEX_FILE),
        streams=_map(files, folder / STREAMS_FILE),
        cold=cold,
        problem=problem,
        names=names,
    )


def _map(files: Files, path: Path) -> memoryview | None:
    try:
        return files.map(path)
    except FileNotFoundError:
        return None


def _same_copy(files: Files, folder: Path, log_id: str) -> bool:
    """Whether segment.copy is whole, and says what segment.msgpack does where that is whole."""
    try:
        copy = files.read_whole(folder / COPY_FILE)
    except FileNotFoundError:
        return False
    if len(copy) < 8 or not is_whole(copy):
        return False
    return not is_readable(files, folder, log_id) or copy == files.read_whole(folder / SUMMARY_FILE)


def _log_id(summary: Mapping[str, Any] | None, data: memoryview | None) -> str | None:
    if summary is not None:
        return str(summary["log_id"])
    if data is None or len(data) < SEGMENT_HEADER_BYTES or not is_whole(data[:SEGMENT_HEADER_BYTES]):
        return None
    header = np.frombuffer(data[:SEGMENT_HEADER_BYTES], SEGMENT_HEADER)[0]
    return str(header["log_id"].tobytes().hex())


def frames_of(segment: SegmentFiles, claim: Head | None, is_last: bool) -> tuple[memoryview, int | None]:
    """The bytes of frames.log that can hold committed frames, and how many must; None where only they can tell."""
    data = memoryview(b"") if segment.frames is None else segment.frames
    if segment.summary is not None:
        committed: int | None = int(segment.summary["log_bytes"])
    elif claim is not None and claim.segment == segment.first_position:
        committed = claim.log_bytes
    elif is_last and claim is not None and claim.is_of_this_boot and claim.segment < segment.first_position:
        committed = SEGMENT_HEADER_BYTES  # just made: nothing in it is acknowledged yet
    else:
        committed = None if is_last else len(data)
    return data[:committed] if committed is not None else data, committed
