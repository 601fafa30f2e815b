"""Format version 1: the constants and fixed records that both the writer and the readers include.

segments/README.md describes the same bytes in words, with a worked example that a test checks.
All integers are little-endian; all checksums are XXH3 with 64 bits and seed 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

FORMAT_VERSION = 1

LOG_FILE = "log.json"
RESTORE_FILE = "restore.unfinished"  # a restore was cut short, unless there is a log.json
HEAD_FILE = "HEAD"
LOCK_FILE = "writer.lock"
FRAMES_FILE = "frames.log"
INDEX_FILE = "frames.idx"
STREAMS_FILE = "streams.idx"
SUMMARY_FILE = "segment.msgpack"
COPY_FILE = "segment.copy"
COMPACT_LOCK_FILE = "compact.lock"
ERASING_FILE = "erasing.msgpack"
ARCHIVE_FILE = "archive.json"
CACHE_FOLDER = "cache"
DAMAGED_FOLDER = "damaged"
DAMAGED_REPORT_FILE = "report.json"
MIRROR_LOCK_FILE = "mirror.lock"  # a folder that has it is no log of its own, but shows an archive

SEGMENT_MAGIC = b"EVTOOLOG"
FRAME_MAGIC = b"EVF1"
HEAD_MAGIC = b"EVHD"
STREAMS_MAGIC = b"EVSIDX01"

EVENTS_FRAME = 1
COMMIT_FRAME = 2
MIXED_PARTITIONS = 0xFFFF

FRAME_ALIGNMENT_BYTES = 8
BODY_BYTES_MAX = 1 << 31  # Arrow's 32-bit text offsets end here; checked before a body is touched

# The first bytes of every frames.log.
SEGMENT_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("reserved_0", "<u4"),
        ("log_id", "V16"),
        ("first_position", "<i8"),
        ("reserved_1", "V16"),
        ("checksum", "<u8"),  # of the 56 bytes before it
    ]
)

# Before every frame's body. `chain` is the header checksum of the frame before, or of the segment
# header for the first one; a header checksum covers its own chain and body checksum, so each one
# vouches for everything before it in the segment.
FRAME_HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("version", "u1"),
        ("kind", "u1"),
        ("partition", "<u2"),
        ("batch", "<u8"),
        ("body_bytes", "<u8"),
        ("base_position", "<i8"),  # first position of the batch
        ("base_recorded_at", "<i8"),  # its recorded_at, ns
        ("first_position", "<i8"),  # of this frame's events
        ("last_position", "<i8"),
        ("count", "<u4"),
        ("reserved", "<u4"),
        ("timestamp_min", "<i8"),  # ns
        ("timestamp_max", "<i8"),
        ("body_checksum", "<u8"),
        ("chain", "<u8"),
        ("checksum", "<u8"),  # of the 96 bytes before it
    ]
)

# frames.idx: where a frame starts in frames.log, and a copy of its header.
INDEX_ROW = np.dtype([("offset", "<u8"), ("header", FRAME_HEADER)])

# HEAD: what is committed and acknowledged.
HEAD_RECORD = np.dtype(
    [
        ("magic", "S4"),
        ("version", "<u2"),
        ("is_synced", "<u2"),  # 1 where each batch was synced before HEAD told of it
        ("position", "<i8"),
        ("segment", "<i8"),  # first position of the active segment
        ("log_bytes", "<u8"),  # committed length of its frames.log
        ("frames", "<u8"),  # committed rows of its frames.idx
        ("recorded_at", "<i8"),  # of `position`, ns
        ("boot", "<u8"),  # which boot of the machine wrote it: another one must not trust it
        ("checksum", "<u8"),  # of the 56 bytes before it
    ]
)


def index_row(offset: int, header: bytes) -> bytes:
    """The bytes of an INDEX_ROW."""
    return offset.to_bytes(8, "little") + header


SEGMENT_HEADER_BYTES = SEGMENT_HEADER.itemsize
FRAME_HEADER_BYTES = FRAME_HEADER.itemsize

# events-N.map of a cold segment: which events each row group of events-N.parquet has.
BLOCK = np.dtype(
    [
        ("stripe", "<u4"),  # row groups of one stripe hold whole batches, and are put in order together
        ("count", "<u4"),
        ("partition", "<u2"),
        ("reserved", "V6"),
        ("first_position", "<i8"),
        ("last_position", "<i8"),
        ("recorded_at_min", "<i8"),  # ns
        ("recorded_at_max", "<i8"),
        ("timestamp_min", "<i8"),
        ("timestamp_max", "<i8"),
    ]
)

# A column of a row group: its bytes in events-N.parquet.
CHUNK = np.dtype([("offset", "<u8"), ("stored_bytes", "<u8"), ("checksum", "<u8")])

# A batch of a cold segment: what its commit frame said.
BATCH = np.dtype(
    [
        ("base_position", "<i8"),
        ("base_recorded_at", "<i8"),
        ("timestamp_min", "<i8"),
        ("timestamp_max", "<i8"),
        ("checksum", "<u8"),
        ("count", "<u4"),
        ("map_bytes", "<u4"),
    ]
)

GONE_KINDS = ("dropped", "erased", "lost")  # how an event went: 1, 2, 3

_COLD_NAME = re.compile(r"events-\d+\.(parquet|map|gone)(\.tmp)?")
_SEGMENT_NAME = re.compile(r"\d{20}")


def checksum(data: bytes | bytearray | memoryview) -> int:
    """XXH3-64 of some bytes."""
    return xxhash.xxh3_64_intdigest(data)


def checksum_of(parts: Iterable[bytes | memoryview]) -> int:
    """XXH3-64 of some bytes that come in parts."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


def seal(record: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a one-element record array, its last field filled with the checksum of the rest."""
    record["checksum"] = checksum(record.tobytes()[:-8])
    return record.tobytes()


def is_whole(data: bytes | memoryview) -> bool:
    """Whether the last 8 bytes of a fixed record are the checksum of those before them."""
    return checksum(data[:-8]) == int.from_bytes(data[-8:], "little")


def padded(length: int) -> int:
    """`length` rounded up to the alignment of frames."""
    return -(-length // FRAME_ALIGNMENT_BYTES) * FRAME_ALIGNMENT_BYTES


def segment_name(first_position: int) -> str:
    """The folder of the segment that starts at a position."""
    return f"{first_position:020d}"


def events_file(generation: int) -> str:
    """The Parquet file of a cold segment: each time that it is made again it has another name."""
    return f"events-{generation}.parquet"


def map_file(generation: int) -> str:
    """What tells where in `events_file` everything is."""
    return f"events-{generation}.map"


def gone_file(generation: int) -> str:
    """What is still known of the events that `events_file` does not have any more, if there are any."""
    return f"events-{generation}.gone"


def is_cold_file(name: str) -> bool:
    """Whether a file has, or is on its way to, one of these names."""
    return _COLD_NAME.fullmatch(name) is not None


def parse_segment_name(name: str) -> int | None:
    """The first position of a segment's folder; None for any other name."""
    return int(name) if _SEGMENT_NAME.fullmatch(name) else None
