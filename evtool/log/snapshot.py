"""What a reader sees: the segments of a log as they stood at one moment.

No lock is taken. Sealed segments never change; of the active one only what HEAD vouches for is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.log import head as head_file
from evtool.log import streamindex
from evtool.log.archived import Archive
from evtool.log.coldsegment import open_cold
from evtool.log.format import FRAMES_FILE, SEGMENT_HEADER_BYTES, SUMMARY_FILE
from evtool.log.head import Head
from evtool.log.manifest import Manifest
from evtool.log.segment import Segment, is_cold, read_index, read_summary, segment_folders
from evtool.log.segmentview import SegmentView
from evtool.log.walk import check_header, walk_all


@dataclass(frozen=True)
class Snapshot:
    """The segments in order of position; together they hold the positions 1 to `last_position`."""

    segments: tuple[SegmentView, ...]

    @property
    def last_position(self) -> int:
        """Of the last event that is seen; 0 in an empty log."""
        return self.segments[-1].last_position if self.segments else 0

    def chain_at(self, position: int) -> int | None:
        """What vouches for everything in a segment up to the batch that ends with `position`; None if none does.

        It is the checksum of that batch's commit frame; 0 for position 0.
        """
        if position == 0:
            return 0
        for segment in self.segments:
            if segment.first_position <= position <= segment.last_position:
                return segment.chain_at(position)
        return None

    def digest_at(self, position: int) -> str | None:
        """What vouches for every byte of all batches up to the one that ends with `position`; None if none does.

        32 hexadecimal digits: XXH3-128 over the checksums of their commit frames, 8 little-endian bytes each. A
        compaction keeps them. Logs of the same events that were cut into other batches have another one.
        """
        digest, end = xxhash.xxh3_128(), 0
        for segment in self.segments:
            commits = segment.commits
            ends = commits["base_position"].astype(np.int64) + commits["count"] - 1
            chosen = (commits["count"] > 0) & (ends <= position)
            if chosen.any():
                digest.update(commits["checksum"][chosen].astype("<u8").tobytes())
                end = int(ends[chosen][-1])
        return digest.hexdigest() if end == position else None

    def gone_between(self, first: int, last: int) -> tuple[int, int]:
        """Of the events from one position to another: how many are not there, and how many were erased."""
        absent = erased = 0
        for segment in self.segments:
            counts = segment.gone_counts
            if not counts or segment.last_position < first or segment.first_position > last:
                continue
            if first <= segment.first_position and segment.last_position <= last:
                erased += counts["erased"]
                absent += sum(counts.values()) - counts["erased"]
            else:
                erased += segment.gone.erased_between(first, last)
                absent += segment.gone.absent_between(first, last)
        return absent, erased

    def absent_until(self, last: int) -> int | None:
        """When the last event up to a position that is not there was recorded, ns UTC; None without any."""
        for segment in reversed(self.segments):
            if segment.gone_counts and segment.first_position <= last:
                position = segment.gone.last_absent(last)
                if position is not None:
                    return segment.recorded_at(position)
        return None

    def recorded_at(self, position: int) -> int | None:
        """When the event at a position was recorded, ns UTC; None when it is not there."""
        for segment in self.segments:
            if segment.first_position <= position <= segment.last_position:
                return segment.recorded_at(position)
        return None


class SnapshotReader:
    """Takes snapshots of one log, and keeps the views of sealed segments between them."""

    def __init__(self, files: Files, folder: Path, manifest: Manifest, archive: Archive | None = None) -> None:
        self._files = files
        self._folder = folder
        self._manifest = manifest
        self._archive = archive or Archive(files, folder, manifest.id)
        self._sealed: dict[int, tuple[tuple[int, ...], SegmentView]] = {}
        self._checked = (0, 0)  # active segment, and how many rows of its index have been checked

    def take(self) -> Snapshot:
        """The log as it is now. Raises LogDamagedError when its segments do not fit together."""
        seen = None
        while True:
            try:
                return self._take()
            except (LogDamagedError, FileNotFoundError):
                # Segments may have been merged while they were looked at: then these are others now.
                found = [
                    (first, self._files.identity(folder / SUMMARY_FILE))
                    for first, folder in segment_folders(self._folder)
                ]
                if found == seen:
                    raise
                seen = found
                self._sealed.clear()

    def _take(self) -> Snapshot:
        head = head_file.read(self._files, self._folder)
        segments: list[SegmentView] = []
        sealed: dict[int, tuple[tuple[int, ...], SegmentView]] = {}
        expected = 1
        for first_position, folder in segment_folders(self._folder):
            if segments and segments[-1].is_cold and first_position <= segments[-1].last_position:
                continue  # what a merged one has taken the place of
            identity = self._files.identity(folder / SUMMARY_FILE)
            kept, segment = self._sealed.get(first_position, ((), None))
            if segment is None or kept != identity:
                segment = self._open(folder, first_position, head)
            if first_position != expected:
                raise LogDamagedError(
                    f"{folder} starts at position {first_position}, but the segment before it ends at "
                    f"{expected - 1}",
                    "A segment is missing: `evtool repair` brings it back from a backup.",
                )
            if segment.is_sealed:
                sealed[first_position] = identity, segment
            segments.append(segment)
            expected = segment.last_position + 1
        self._sealed = sealed  # without those that are no more: their files take space as long as they are mapped
        snapshot = Snapshot(tuple(segments))
        if head is not None and head.is_claim and snapshot.last_position < head.position:
            raise LogDamagedError(
                f"{self._folder}: position {head.position} was acknowledged, but the segments end at "
                f"{snapshot.last_position}",
                "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can.",
            )
        return snapshot

    def _open(self, folder: Path, first_position: int, head: Head | None) -> SegmentView:
        summary = read_summary(self._files, folder, self._manifest.id)
        if summary is not None and is_cold(summary):
            return self._open_cold(folder, summary)
        if summary is not None:
            size, frames = summary["log_bytes"], summary["frames"]
            return self._view(folder, first_position, size, frames, summary.get("index_checksum"), sealed=True)
        if head is not None and head.is_of_this_boot:
            if head.segment == first_position:
                return self._view(folder, first_position, head.log_bytes, head.frames)
            if head.segment < first_position:  # just made; nothing in it is acknowledged yet
                return self._view(folder, first_position, SEGMENT_HEADER_BYTES, 0)
        return self._view(folder, first_position, None, 0)

    def _open_cold(self, folder: Path, summary: Mapping[str, Any]) -> SegmentView:
        try:
            return open_cold(self._files, folder, summary, self._manifest.id_bytes, self._archive)
        except FileNotFoundError as error:
            message = f"{error.filename} is missing"
            raise LogDamagedError(message, "`evtool repair` mends it, from a backup if there is one.") from error

    def _view(
        self,
        folder: Path,
        first_position: int,
        log_bytes: int | None,
        frames: int,
        index_checksum: int | None = None,
        sealed: bool = False,
    ) -> Segment:
        """The committed part of a segment: `log_bytes` and `frames`, or (None) as far as its frames check."""
        path = folder / FRAMES_FILE
        try:
            data = self._files.map(path, log_bytes)
        except FileNotFoundError:
            if not folder.is_dir():  # it has just become part of another segment
                raise
            data = memoryview(b"")
        if not sealed and len(data) < SEGMENT_HEADER_BYTES:  # a crash came before its header
            empty = walk_all(_no_frames(), first_position, check_bodies=False)
            return Segment(folder, first_position, empty.table, memoryview(b""), False)
        problem = check_header(data, self._manifest.id_bytes, first_position)
        if not problem and log_bytes is not None and len(data) < log_bytes:
            problem = f"it has {len(data):,} bytes where {log_bytes:,} were committed"
        if problem:
            raise LogDamagedError(f"{path}: {problem}", "`evtool repair` mends it, from a backup if there is one.")
        table = None
        if log_bytes is not None:
            checked = self._checked[1] if self._checked[0] == first_position else 0
            table = read_index(self._files, folder, frames, log_bytes, index_checksum, min(checked, frames))
            if table is not None and not sealed:
                self._checked = (first_position, frames)
        if table is None:
            found = walk_all(data, first_position, check_bodies=log_bytes is None)
            if log_bytes is not None and found.end != log_bytes:
                raise LogDamagedError(
                    f"{path}: at byte {found.end}: {found.stop or 'the segment ends too early'}",
                    "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can.",
                )
            table, data = found.table, data[: found.end]
        log_id = self._manifest.id_bytes
        streams = streamindex.read(self._files, folder, log_id, first_position, table) if sealed else None
        return Segment(folder, first_position, table, data, sealed, streams)


def _no_frames() -> memoryview:
    return memoryview(bytes(SEGMENT_HEADER_BYTES))
