"""Following the frames of a frames.log from one to the next, believing nothing that does not check.

Recovery, verification and readers without an index all go this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from evtool.log.format import (
    BODY_BYTES_MAX,
    COMMIT_FRAME,
    EVENTS_FRAME,
    FORMAT_VERSION,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    INDEX_ROW,
    SEGMENT_HEADER,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    checksum,
    is_whole,
    padded,
    seal,
)

Table: TypeAlias = "np.ndarray[Any, Any]"  # of INDEX_ROW


@dataclass(frozen=True)
class Walk:
    """What walking a frames.log found: rows of whole batches, where they end, and why it went no further.

    `stop` is "" at a clean end. `last_checksum` is the chain value for the next frame.
    """

    table: Table
    end: int
    last_checksum: int
    stop: str


def segment_header(log_id: bytes, first_position: int) -> bytes:
    """The first bytes of a frames.log."""
    record = np.zeros(1, SEGMENT_HEADER)
    record["magic"], record["version"] = SEGMENT_MAGIC, FORMAT_VERSION
    record["log_id"], record["first_position"] = log_id, first_position
    return seal(record)


def walk(
    data: memoryview,
    start: int,
    chain: int,
    base_position: int,
    batch: int | None,
    check_bodies: bool,
) -> Walk:
    """Follow the frames of `data` from byte `start` for as long as every check holds.

    `chain` and `base_position` are what the next frame must carry, `batch` its number (None: any).
    Only whole batches, those with their commit frame, are in the result.
    """
    rows: list[tuple[int, bytes]] = []
    pending: list[tuple[int, bytes]] = []
    end, offset, last, next_position = start, start, chain, base_position
    stop = ""
    while offset < len(data):
        header, stop = _frame_at(data, offset, chain, batch, base_position, check_bodies)
        if header is None:
            break
        pending.append((offset, header.tobytes()))
        chain, batch = int(header["checksum"]), int(header["batch"])
        offset += FRAME_HEADER_BYTES + padded(int(header["body_bytes"]))
        if header["kind"] == COMMIT_FRAME:
            rows += pending
            pending = []
            next_position += int(header["count"])
            end, last, base_position, batch = offset, chain, next_position, batch + 1
    if not stop and pending:
        stop = "the last batch has no commit frame"
    table = np.zeros(len(rows), INDEX_ROW)
    if rows:
        table["offset"] = [row[0] for row in rows]
        table["header"] = np.frombuffer(b"".join(row[1] for row in rows), FRAME_HEADER)
    return Walk(table, end, last, stop)


def _frame_at(
    data: memoryview, offset: int, chain: int, batch: int | None, base_position: int, check_body: bool
) -> tuple[np.void | None, str]:
    """The header of the frame at `offset`, or None and why it is none."""
    start = offset + FRAME_HEADER_BYTES
    raw = data[offset:start]
    if len(raw) < FRAME_HEADER_BYTES:
        return None, "a frame header is cut short"
    header = np.frombuffer(raw, FRAME_HEADER)[0]
    if header["magic"] != FRAME_MAGIC or not is_whole(raw):
        return None, "a frame header does not match its checksum"
    if header["version"] != FORMAT_VERSION or header["kind"] not in (EVENTS_FRAME, COMMIT_FRAME):
        return None, "a frame is of an unknown version or kind"
    if header["chain"] != chain:
        return None, "a frame does not follow the one before it"
    if (batch is not None and header["batch"] != batch) or header["base_position"] != base_position:
        return None, "a frame is out of order"
    body_bytes = int(header["body_bytes"])
    if body_bytes > BODY_BYTES_MAX or start + padded(body_bytes) > len(data):
        return None, "a frame body is cut short"
    if check_body and checksum(data[start : start + body_bytes]) != header["body_checksum"]:
        return None, "a frame body does not match its checksum"
    if check_body and any(data[start + body_bytes : start + padded(body_bytes)]):
        return None, "the padding of a frame is not zero"
    return header, ""


def check_header(data: memoryview, log_id: bytes, first_position: int) -> str:
    """Why the first bytes of a frames.log are not those of this segment; "" when they are."""
    raw = data[:SEGMENT_HEADER_BYTES]
    if len(raw) < SEGMENT_HEADER_BYTES or not is_whole(raw):
        return "its header is cut short or does not match its checksum"
    header = np.frombuffer(raw, SEGMENT_HEADER)[0]
    if header["magic"] != SEGMENT_MAGIC or header["version"] != FORMAT_VERSION:
        return "its header is of an unknown kind or version"
    if header["log_id"].tobytes() != log_id:
        return "it belongs to another log"
    if header["first_position"] != first_position:
        return f"it starts at position {header['first_position']}, not where its folder says"
    return ""


def header_checksum(data: memoryview) -> int:
    """The chain value of a segment's first frame."""
    return int.from_bytes(data[SEGMENT_HEADER_BYTES - 8 : SEGMENT_HEADER_BYTES], "little")


def walk_all(data: memoryview, first_position: int, check_bodies: bool) -> Walk:
    """Walk a segment from its first frame."""
    chain = header_checksum(data)
    return walk(data, SEGMENT_HEADER_BYTES, chain, first_position, None, check_bodies)
