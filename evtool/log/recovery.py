"""Opening a log to write: find the last commit, cut what came after it, say how much.

A crash leaves the active segment as whole batches followed, at most, by a part of one that was never
acknowledged. That part is cut. Anything else that does not check is damage to acknowledged data, which
is never cut: it is an error, and the file stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.log.format import (
    FRAME_ALIGNMENT_BYTES,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAMES_FILE,
    INDEX_FILE,
    SEGMENT_HEADER_BYTES,
    is_whole,
    segment_name,
)
from evtool.log.head import Head
from evtool.log.segment import read_index
from evtool.log.walk import Table, Walk, check_header, header_checksum, segment_header, walk, walk_all


@dataclass(frozen=True)
class Recovered:
    """The active segment, ready to be appended to.

    `last_checksum` is the chain value for the next frame, `cut_bytes` what was cut behind the last commit.
    """

    folder: Path
    first_position: int
    table: Table
    log_bytes: int
    last_checksum: int
    cut_bytes: int


def refuse_holes(
    folder: Path, first_positions: Sequence[int], summaries: Sequence[Mapping[str, Any] | None]
) -> None:
    """Raise LogDamagedError if a segment of a log does not start where the summary before it says that it ends."""
    expected: int | None = 1
    for first_position, summary in zip(first_positions, summaries, strict=True):
        if expected is not None and first_position != expected:
            raise LogDamagedError(
                f"{folder / segment_name(first_position)} starts at position {first_position}, but the segment "
                f"before it ends at {expected - 1}",
                "Nothing was changed. A segment is missing: `evtool repair` brings it back from a backup.",
            )
        expected = summary["last_position"] + 1 if summary else None


def recover(
    files: Files,
    folder: Path,
    first_position: int,
    first_batch: int,
    log_id: bytes,
    head: Head | None,
    may_lose_synced: bool,
) -> Recovered:
    """Bring the active segment in `folder`, whose first batch is `first_batch`, to its last commit.

    `may_lose_synced` is for a log that is never synced: there a power cut may tear acknowledged batches
    too, and the log goes on after the last whole one. Raises LogDamagedError.
    """
    path = folder / FRAMES_FILE
    size = files.size(path)
    is_acknowledged = head is not None and head.position >= first_position and not may_lose_synced
    if size < SEGMENT_HEADER_BYTES and not is_acknowledged:
        return _fresh(files, folder, first_position, log_id, cut_bytes=size)
    data = files.map(path) if size else memoryview(b"")
    # The header is put in place whole, by a rename: one that does not check was never left by a crash.
    problem = check_header(data, log_id, first_position)
    if problem:
        raise LogDamagedError(
            f"{path}: {problem}", "Nothing was changed. `evtool repair` mends it, from a backup if there is one."
        )
    found = _walk_from_head(files, folder, data, first_position, head) or walk_all(data, first_position, True)
    if not may_lose_synced:
        _refuse_to_cut_acknowledged(path, data, found, first_position, first_batch, head)
    cut_bytes = size - found.end
    # A whole batch may stand behind HEAD that was written but not yet synced: from here on it counts.
    if cut_bytes:
        del data
        files.truncate(path, found.end)
    else:
        file = files.open_append(path)
        try:
            file.sync()
        finally:
            file.close()
    files.write_whole(folder / INDEX_FILE, found.table.tobytes(), durable=False)
    return Recovered(folder, first_position, found.table, found.end, found.last_checksum, cut_bytes)


def _fresh(files: Files, folder: Path, first_position: int, log_id: bytes, cut_bytes: int) -> Recovered:
    """A segment whose header never reached the disk: start it again."""
    header = segment_header(log_id, first_position)
    files.write_whole(folder / FRAMES_FILE, header)
    files.write_whole(folder / INDEX_FILE, b"", durable=False)
    empty = walk_all(memoryview(header), first_position, check_bodies=False)
    return Recovered(folder, first_position, empty.table, len(header), empty.last_checksum, cut_bytes)


def _walk_from_head(
    files: Files, folder: Path, data: memoryview, first_position: int, head: Head | None
) -> Walk | None:
    """Take HEAD's word for what it covers, if it was written in this boot, and walk only what follows."""
    if head is None or not head.is_of_this_boot or head.segment != first_position:
        return None
    table = read_index(files, folder, head.frames, head.log_bytes, None)
    if table is None or head.log_bytes > len(data):
        return None
    last, batch = header_checksum(data), None
    if len(table):
        row = table[-1]
        offset = int(row["offset"])
        if data[offset : offset + FRAME_HEADER_BYTES] != row["header"].tobytes():
            return None
        last, batch = int(row["header"]["checksum"]), int(row["header"]["batch"]) + 1
    tail = walk(data, head.log_bytes, last, head.position + 1, batch, check_bodies=True)
    # The table is copied: it maps the file that is about to be written anew.
    whole = np.concatenate([table, tail.table])
    return Walk(whole, tail.end, tail.last_checksum, tail.stop)


def _refuse_to_cut_acknowledged(
    path: Path, data: memoryview, found: Walk, first_position: int, first_batch: int, head: Head | None
) -> None:
    """Raise LogDamagedError if the bytes behind the last good commit include an acknowledged batch.

    That is so when HEAD, stored only after a sync, tells of more, or when a frame of a batch later
    than the next one does: batches are synced one by one, so at most one is unfinished.
    """
    last_position = int(found.table["header"]["last_position"][-1]) if len(found.table) else first_position - 1
    acknowledged = head is not None and (
        head.position > last_position or (head.segment == first_position and head.log_bytes > found.end)
    )
    next_batch = int(found.table["header"]["batch"][-1]) + 1 if len(found.table) else first_batch
    if acknowledged or has_later_batch(data, found.end, next_batch):
        raise LogDamagedError(
            f"{path}: at byte {found.end}: {found.stop or 'the file ends too early'}, "
            "and acknowledged batches lie behind it",
            "Nothing was changed. Run `evtool verify` to see all of the damage; `evtool repair` mends it, from "
            "a backup if there is one.",
        )


def has_later_batch(data: memoryview, start: int, next_batch: int | None) -> bool:
    """Whether there is the header of a batch behind the next one, so that this one was acknowledged.

    If it is not known which one that is, it is the first that is found.
    """
    tail = bytes(data[start:])
    at = tail.find(FRAME_MAGIC)
    while at >= 0:
        raw = tail[at : at + FRAME_HEADER_BYTES]
        is_frame = at % FRAME_ALIGNMENT_BYTES == 0 and len(raw) == FRAME_HEADER_BYTES and is_whole(raw)
        if is_frame:
            batch = int(np.frombuffer(raw, FRAME_HEADER)[0]["batch"])
            next_batch = batch if next_batch is None else next_batch
            if batch > next_batch:
                return True
        at = tail.find(FRAME_MAGIC, at + 1)
    return False
