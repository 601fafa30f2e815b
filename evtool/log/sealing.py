"""What a sealed segment has beside its frames: frames.idx, streams.idx and segment.msgpack, made or made again.

All of it comes from the frames, so what was lost is made again by who opens the log to write, and by a compaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.log import streamframes
from evtool.log.format import (
    COMMIT_FRAME,
    COMPACT_LOCK_FILE,
    FORMAT_VERSION,
    FRAMES_FILE,
    INDEX_FILE,
    INDEX_ROW,
    SUMMARY_FILE,
    checksum,
)
from evtool.log.manifest import Manifest
from evtool.log.recovery import refuse_holes
from evtool.log.segment import Segment, is_cold, read_summary, segment_folders, summary_record
from evtool.log.streamframes import StreamFrames
from evtool.log.walk import Table, check_header, walk_all


class Sealing:
    """The sealed segments of a log."""

    def __init__(self, files: Files, folder: Path, manifest: Manifest) -> None:
        self._files = files
        self._folder = folder
        self._manifest = manifest

    def leftovers(self) -> tuple[dict[str, Any] | None, int]:
        """The summary of the last sealed segment, and where the active one starts.

        A sealed segment whose summary was lost gets a new one: every segment but the last is sealed.
        Raises LogDamagedError, with nothing changed, if one does not start where the one before it ends, and
        LogLockedError while one is being compacted.
        """
        folders, summaries = self._segments()
        refuse_holes(self._folder, [first for first, _ in folders], summaries)
        previous, next_first = None, 1
        for number, (first_position, folder) in enumerate(folders):
            summary = summaries[number]
            if summary is None and number == len(folders) - 1:
                return previous, first_position
            if summary is None or not _has_index(self._files, folder, summary):
                lock = self._files.lock(self._folder / COMPACT_LOCK_FILE)
                try:
                    # Whoever compacted it meanwhile has replaced its summary before the index went.
                    is_another = self._segments() != (folders, summaries)
                    if not is_another:
                        end = summary["last_position"] if summary else folders[number + 1][0] - 1
                        digest = int(previous["digest"]) if previous else 0
                        summary = self._seal_again(folder, first_position, end, digest)
                finally:
                    lock.release()
                if is_another or summary is None:
                    return self.leftovers()
            previous, next_first = summary, summary["last_position"] + 1
        return previous, next_first

    def _segments(self) -> tuple[list[tuple[int, Path]], list[dict[str, Any] | None]]:
        """The segments, and their summaries: without those that a merged one has taken the place of."""
        while True:
            listed = list(segment_folders(self._folder))
            folders, summaries, covered = [], [], 0
            for first_position, folder in listed:
                if first_position <= covered:
                    continue
                summary = read_summary(self._files, folder, self._manifest.id)
                covered = int(summary["last_position"]) if summary is not None and is_cold(summary) else covered
                folders.append((first_position, folder))
                summaries.append(summary)
            if list(segment_folders(self._folder)) == listed:  # none went while the others were read
                return folders, summaries

    def _seal_again(
        self, folder: Path, first_position: int, last_position: int, previous_digest: int
    ) -> dict[str, Any]:
        """Make the index and the summary of a sealed segment from its frames, which must go to `last_position`."""
        path = folder / FRAMES_FILE
        try:
            data = self._files.map(path)
        except FileNotFoundError:
            data = memoryview(b"")
        problem = check_header(data, self._manifest.id_bytes, first_position)
        if not problem:
            found = walk_all(data, first_position, check_bodies=True)
            problem = found.stop if len(found.table) else "it holds no batch"
            end = int(found.table["header"]["last_position"][-1]) if len(found.table) else 0
            if not problem and end != last_position:
                problem = f"it ends at position {end}, and must end at {last_position}"
        if problem:
            raise LogDamagedError(
                f"{path}: {problem}",
                "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can.",
            )
        self._files.write_whole(folder / INDEX_FILE, found.table.tobytes())
        self.write_streams(folder, first_position, found.table, StreamFrames(first_frame=len(found.table)))
        return self.write_summary(folder, first_position, found.table, found.end, previous_digest)

    def write_streams(self, folder: Path, first_position: int, table: Table, noted: StreamFrames) -> None:
        """Make streams.idx; not where the frames that have to be read for it are damaged."""
        segment = Segment(folder, first_position, table, self._files.map(folder / FRAMES_FILE), True)
        with contextlib.suppress(LogDamagedError):  # `verify` and whoever reads the events speak of that
            streamframes.write(self._files, self._manifest, segment, noted.of(segment))

    def write_summary(
        self, folder: Path, first_position: int, table: Table, log_bytes: int, previous_digest: int
    ) -> dict[str, Any]:
        """Make segment.msgpack of a segment with these frames; what stands in it."""
        headers = table["header"]
        commits = headers[headers["kind"] == COMMIT_FRAME]
        filled = commits[commits["count"] > 0]
        summary = {
            "version": FORMAT_VERSION,
            "log_id": self._manifest.id,
            "first_position": first_position,
            "last_position": int(headers["last_position"][-1]),
            "count": int(commits["count"].sum()),
            "batches": len(commits),
            "last_batch": int(headers["batch"][-1]),
            "frames": len(table),
            "log_bytes": log_bytes,
            "recorded_at_min": int(commits["base_recorded_at"][0]),
            "recorded_at_max": int(commits["base_recorded_at"][-1]) + max(int(commits["count"][-1]), 1) - 1,
            "timestamp_min": int(filled["timestamp_min"].min()) if len(filled) else 0,
            "timestamp_max": int(filled["timestamp_max"].max()) if len(filled) else 0,
            "digest": int(headers["checksum"][-1]),
            "previous_digest": previous_digest,
            "index_checksum": checksum(table.tobytes()),
        }
        self._files.write_whole(folder / SUMMARY_FILE, summary_record(summary))
        return summary


def _has_index(files: Files, folder: Path, summary: Mapping[str, Any]) -> bool:
    if is_cold(summary):
        return True
    if files.size(folder / INDEX_FILE) != int(summary["frames"]) * INDEX_ROW.itemsize:
        return False
    return checksum(files.map(folder / INDEX_FILE)) == int(summary["index_checksum"])
