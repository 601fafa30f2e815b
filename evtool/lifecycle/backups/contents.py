"""What is backed up of a log: its files at one position, mapped, while others go on writing and compacting.

Of sealed segments all files, of the active one its frames up to the last commit. Then log.json, schemas, dead
letters, the audit and snapshots, which are read after the segments: so no schema and no letter is missing that an
event was stored with. Read models, index/ and reports of nights are made from the log again, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import forget_all
from evtool.lifecycle import audit, logfiles
from evtool.lifecycle.logfiles import SegmentFiles
from evtool.log import streamindex
from evtool.log.archive import OBJECT_KEY
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import (
    COMMIT_FRAME,
    COPY_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    INDEX_ROW,
    LOG_FILE,
    SEGMENT_HEADER_BYTES,
    STREAMS_FILE,
    SUMMARY_FILE,
    checksum,
    events_file,
    gone_file,
    map_file,
    segment_name,
)
from evtool.log.head import Head
from evtool.log.log import Log
from evtool.log.ranges import MappedFile
from evtool.log.segment import summary_record
from evtool.log.walk import Walk, check_header, walk_all
from evtool.projections import snapshots

SCHEMAS = "schemas/schemas.ndjson"
DEAD_LETTERS = "dead-letters/dead-letters.ndjson"

FETCHED_FILE = "backup.fetched"  # what was read from the archive, for a moment

_ATTEMPTS = 20  # of reading what others replace
_HINT = "What is damaged is not backed up; earlier backups stay. Run `evtool verify` to see all of the damage."


@dataclass(frozen=True)
class Piece:
    """A file: its path in the log's folder, and its bytes, which stay as they are while this is held.

    They are there when they are asked for: those of an archived segment are read from the archive then.
    """

    path: str
    size: int
    data: Callable[[], memoryview]


def _held(path: str, data: memoryview) -> Piece:
    """A file whose bytes are at hand."""
    return Piece(path, len(data), lambda: data)


@dataclass(frozen=True)
class SegmentContent:
    """A segment. `check` reads all of it, and raises LogDamagedError unless it is what its summary says."""

    first_position: int
    last_position: int
    recorded_at_min: int
    events: int
    identity: str
    pieces: tuple[Piece, ...]
    check: Callable[[], None]


@dataclass(frozen=True)
class SnapshotContent:
    """A snapshot of a projection."""

    id: str
    position: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Contents:
    """A log at one position."""

    segments: tuple[SegmentContent, ...]
    snapshots: tuple[SnapshotContent, ...]
    others: tuple[Piece, ...]

    @property
    def position(self) -> int:
        """Of the last event; 0 in an empty log."""
        return self.segments[-1].last_position if self.segments else 0


def take(log: Log) -> Contents:
    """The log as it is now. Raises LogDamagedError, StorageError."""
    lines = _lines(log, audit.FILE)  # before the segments: what it says was erased is erased in these
    segments = _again(lambda: tuple(_segments(log)))
    expected = 1
    for segment in segments:
        if segment.first_position != expected:
            raise LogDamagedError(
                f"{log.folder}: a segment starts at position {segment.first_position}, and the one before it "
                f"ends at {expected - 1}",
                _HINT,
            )
        expected = segment.last_position + 1
    others = [_file(log, LOG_FILE), *(_lines(log, path) for path in (SCHEMAS, DEAD_LETTERS)), lines]
    found = [content for each in snapshots.every(log) if (content := _snapshot(log, each)) is not None]
    return Contents(segments, tuple(found), tuple(piece for piece in others if piece is not None))


def _again(work: Callable[[], tuple[SegmentContent, ...]]) -> tuple[SegmentContent, ...]:
    """Do it until no file goes meanwhile, as those do that a compaction has replaced."""
    for _ in range(_ATTEMPTS):
        try:
            return work()
        except FileNotFoundError as error:
            last = error
    raise LogDamagedError(f"{last.filename}: it is missing", _HINT)


def _segments(log: Log) -> Iterator[SegmentContent]:
    found = logfiles.take(log)
    for number, segment in enumerate(found.segments):
        if segment.problem is not None:
            raise LogDamagedError(segment.problem.message, _HINT)
        if segment.cold is not None:
            yield _cold(log, segment, segment.cold)
        elif segment.summary is not None:
            yield _sealed(segment, log.manifest.id_bytes)
        else:
            is_last = number == len(found.segments) - 1
            content = _open(segment, log.manifest.id_bytes, found.head if is_last else None, is_last)
            if content is not None:
                yield content


def _cold(log: Log, segment: SegmentFiles, cold: ColdSegment) -> SegmentContent:
    """Archived or not, it is the same in a backup, which has the events and does not need the archive."""
    record = summary_record({key: value for key, value in cold.summary.items() if key != OBJECT_KEY})
    name, generation = segment_name(cold.first_position), cold.summary["generation"]
    map_data = log.files.map(segment.folder / map_file(generation), cold.summary["map_bytes"])
    pieces = [
        Piece(f"{name}/{events_file(generation)}", cold.file.size, lambda: _events(log, cold)),
        _held(f"{name}/{map_file(generation)}", map_data),
        _held(f"{name}/{SUMMARY_FILE}", memoryview(record)),
        _held(f"{name}/{COPY_FILE}", memoryview(record)),
    ]
    if len(cold.gone_data):
        pieces.append(_held(f"{name}/{gone_file(generation)}", memoryview(cold.gone_data)))
    if cold.stream_index is not None and segment.streams is not None:
        log_id = bytes.fromhex(cold.summary["log_id"])
        if streamindex.of(segment.streams, log_id, cold.first_position, cold.table) is not None:
            pieces.append(_held(f"{name}/{STREAMS_FILE}", segment.streams))

    def check() -> None:
        if checksum(map_data) != cold.summary["map_checksum"]:
            raise LogDamagedError(f"{segment.folder}: what it holds does not match its checksum", _HINT)
        _ = cold.gone

    return SegmentContent(
        first_position=cold.first_position,
        last_position=cold.last_position,
        recorded_at_min=int(cold.summary["recorded_at_min"]),
        events=int(cold.summary["count"]) - cold.gone.absent,
        identity=f"{checksum(record):016x}",
        pieces=tuple(pieces),
        check=check,
    )


def _events(log: Log, cold: ColdSegment) -> memoryview:
    """The Parquet file, mapped: one of the archive is fetched, as a file that has no name when this returns.

    Raises LogDamagedError unless it is what its summary says.
    """
    data = cold.file.data if isinstance(cold.file, MappedFile) else _fetched(log, cold)
    if checksum(data) != cold.summary["events_checksum"]:
        raise LogDamagedError(f"{cold.path}: what it holds does not match its checksum", _HINT)
    return data


def _fetched(log: Log, cold: ColdSegment) -> memoryview:
    path = log.folder / FETCHED_FILE
    log.files.remove(path)
    file = log.files.open_append(path, create=True, durable=False)
    try:
        for part in cold.file.parts():
            file.append([part])
        return log.files.map(path, cold.file.size)
    finally:
        file.close()
        log.files.remove(path)


def _sealed(segment: SegmentFiles, log_id: bytes) -> SegmentContent:
    assert segment.summary is not None
    summary, name = segment.summary, segment_name(segment.first_position)
    record = summary_record(summary)
    if segment.frames is None:  # a compaction has gone on behind its switch
        raise FileNotFoundError(2, "it is missing", str(segment.folder / FRAMES_FILE))
    frames = segment.frames[: summary["log_bytes"]]
    pieces = [_held(f"{name}/{FRAMES_FILE}", frames), _held(f"{name}/{SUMMARY_FILE}", memoryview(record))]
    index = (segment.index or memoryview(b""))[: summary["frames"] * INDEX_ROW.itemsize]
    if checksum(index) == summary["index_checksum"]:
        pieces.append(_held(f"{name}/{INDEX_FILE}", index))
        table = np.frombuffer(index, INDEX_ROW)
        if segment.streams is not None and streamindex.of(segment.streams, log_id, segment.first_position, table):
            pieces.append(_held(f"{name}/{STREAMS_FILE}", segment.streams))

    def check() -> None:
        found = _walked(segment, frames, log_id)
        if found.end != summary["log_bytes"] or found.last_checksum != summary["digest"]:
            raise LogDamagedError(
                f"{segment.folder / FRAMES_FILE}: at byte {found.end}: {found.stop or 'it ends too early'}",
                _HINT,
            )

    return SegmentContent(
        first_position=segment.first_position,
        last_position=int(summary["last_position"]),
        recorded_at_min=int(summary["recorded_at_min"]),
        events=int(summary["count"]),
        identity=f"{checksum(record):016x}",
        pieces=tuple(pieces),
        check=check,
    )


def _open(segment: SegmentFiles, log_id: bytes, head: Head | None, is_last: bool) -> SegmentContent | None:
    """A segment without a summary: the active one, or one whose summary the next writer makes anew."""
    data = memoryview(b"") if segment.frames is None else segment.frames
    path = segment.folder / FRAMES_FILE
    committed = _committed(segment, head, len(data))
    if len(data) < SEGMENT_HEADER_BYTES and not committed and is_last:
        return None  # its header has never reached the disk
    if committed is not None and committed > len(data):
        raise LogDamagedError(f"{path}: it has {len(data):,} bytes where {committed:,} were committed", _HINT)
    found = _walked(segment, data[:committed], log_id)
    if (committed is not None and found.end != committed) or (not is_last and found.end != len(data)):
        raise LogDamagedError(f"{path}: at byte {found.end}: {found.stop or 'it ends too early'}", _HINT)
    header = found.table["header"]
    commits = header[header["kind"] == COMMIT_FRAME]
    count = int(commits["count"].sum(dtype=np.int64))
    return SegmentContent(
        first_position=segment.first_position,
        last_position=segment.first_position + count - 1,
        recorded_at_min=int(commits["base_recorded_at"][0]) if len(commits) else 0,
        events=count,
        identity="",
        pieces=(_held(f"{segment_name(segment.first_position)}/{FRAMES_FILE}", data[: found.end]),),
        check=lambda: None,  # it has been walked
    )


def _committed(segment: SegmentFiles, head: Head | None, size: int) -> int | None:
    """How many bytes HEAD vouches for; None where only a walk can tell, as HEAD is of another boot."""
    if head is None or not head.is_of_this_boot or head.segment > segment.first_position:
        return None
    return head.log_bytes if head.segment == segment.first_position else min(size, SEGMENT_HEADER_BYTES)


def _walked(segment: SegmentFiles, data: memoryview, log_id: bytes) -> Walk:
    problem = check_header(data, log_id, segment.first_position)
    if problem:
        raise LogDamagedError(f"{segment.folder / FRAMES_FILE}: {problem}", _HINT)
    found = walk_all(data, segment.first_position, check_bodies=True)
    forget_all(data)
    return found


def _file(log: Log, path: str) -> Piece | None:
    try:
        return _held(path, log.files.map(log.folder / path))
    except FileNotFoundError:
        return None


def _lines(log: Log, path: str) -> Piece | None:
    """A file of lines, up to the last whole one: another process may be writing the next."""
    piece = _file(log, path)
    if piece is None or not piece.size:
        return None
    data, end = piece.data(), piece.size
    while end and data[end - 1] != ord("\n"):
        end -= 1
    return _held(path, data[:end])


def _snapshot(log: Log, snapshot: snapshots.Snapshot) -> SnapshotContent | None:
    """The files of a snapshot, which never change; None where it is being dropped."""
    folder = snapshots.place(log, snapshot)
    pieces = []
    for path in sorted(path for path in _below(folder) if not path.name.endswith(".tmp")):
        piece = _file(log, path.relative_to(log.folder).as_posix())
        if piece is None:
            return None
        pieces.append(piece)
    has_record = any(piece.path.endswith(f"/{snapshots.RECORD_FILE}") for piece in pieces)
    return SnapshotContent(snapshot.id, snapshot.position, tuple(pieces)) if has_record else None


def _below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
