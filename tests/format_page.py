"""An independent reader of the format, made of the tables of segments/README.md.

It uses neither evtool.log.format nor numpy's records, so that what it reads can be held against what evtool wrote.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import xxhash

import evtool

PAGE = (Path(__file__).resolve().parent.parent / "segments" / "README.md").read_text(encoding="utf-8")
MOMENT_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
FIRST_SEGMENT = "00000000000000000001"

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}


@dataclass(frozen=True)
class Field:
    """A row of a table of the page."""

    offset: int
    size: int
    kind: str
    name: str


def tables() -> Iterator[list[list[str]]]:
    """The cells of each table of the page, header first, backticks taken off."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip().strip("`") for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


RECORDS = [
    [Field(int(row[0]), int(row[1]), row[2], row[3]) for row in table[1:]]
    for table in tables()
    if table[0][0] == "offset"
]
SEGMENT_HEADER, FRAME_HEADER, INDEX_ROW, STREAMS_HEADER, STREAMS_PAGE, HEAD = RECORDS[:6]
BLOCK, CHUNK, BATCH, GONE_RUN, GONE_ID, TABLE_HEADER, STREAMS_SLOT = RECORDS[6:]
COLUMNS, SUMMARY_KEYS, COLD_KEYS, GONE_KEYS, COLD_COLUMNS = (
    next(table[1:] for table in tables() if table[0][0] == name)
    for name in ("column", "key", "key of a cold segment", "key where events are gone", "Parquet column")
)


def decoded(record: list[Field], data: bytes, offset: int = 0) -> dict[str, Any]:
    """The values of a record, as the page has them."""
    form = "<" + "".join(_CODES.get(field.kind, f"{field.size}s") for field in record)
    return dict(zip([field.name for field in record], struct.unpack_from(form, data, offset), strict=True))


def size_of(record: list[Field]) -> int:
    return record[-1].offset + record[-1].size


def xxh3(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data, seed=0)


def read_frames(data: bytes, partitions: int) -> list[tuple[int, dict[str, Any], bytes]]:
    """(offset, header, body) of each frame of a frames.log; asserts every rule of the page on the way."""
    segment = decoded(SEGMENT_HEADER, data)
    assert (segment["magic"], segment["version"]) == (b"EVTOOLOG", 1)
    assert (segment["reserved_0"], segment["reserved_1"]) == (0, bytes(16))
    assert segment["checksum"] == xxh3(data[:56])
    chain, position, batch, in_batch = segment["checksum"], segment["first_position"], None, 0
    frames = []
    offset = 64
    while offset < len(data):
        assert offset % 8 == 0
        header = decoded(FRAME_HEADER, data, offset)
        assert (header["magic"], header["version"], header["reserved"]) == (b"EVF1", 1, 0)
        assert header["kind"] in (1, 2)
        assert header["partition"] in (*range(partitions), 0xFFFF)
        assert header["checksum"] == xxh3(data[offset : offset + 96])
        assert header["chain"] == chain
        assert header["batch"] == (batch or header["batch"])
        assert header["base_position"] == position
        body_end = offset + 104 + header["body_bytes"]
        body = data[offset + 104 : body_end]
        assert header["body_checksum"] == xxh3(body)
        padding = data[body_end : -(-body_end // 8) * 8]
        assert padding == bytes(-header["body_bytes"] % 8)
        frames.append((offset, header, body))
        chain, batch = header["checksum"], header["batch"]
        in_batch += header["count"] if header["kind"] == 1 else 0
        if header["kind"] == 2:
            assert header["partition"] == 0xFFFF
            assert header["count"] == in_batch
            assert header["last_position"] == position + in_batch - 1
            position, batch, in_batch = position + in_batch, batch + 1, 0
        offset = body_end + len(padding)
    assert not in_batch
    return frames


def read_events(header: dict[str, Any], body: bytes) -> list[dict[str, Any]]:
    """The events of a body, read with Arrow alone."""
    reader = pa.ipc.open_stream(body)
    batches = list(reader)
    assert [batch.num_rows for batch in batches] == [header["count"]]
    columns = {name: batches[0].column(name) for name in batches[0].schema.names}
    columns["timestamp"] = columns["timestamp"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    events = []
    position = header["base_position"]
    for row in range(header["count"]):
        event = {name: column[row].as_py() for name, column in columns.items()}
        position += event.pop("position_delta")
        packed = event.pop("event_uuid", None)
        if packed is not None:
            assert event.get("event_id") is None
            digits = packed.hex()
            event["event_id"] = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        recorded_at = header["base_recorded_at"] + position - header["base_position"]
        events.append({"position": position, "recorded_at": recorded_at, "metadata": None} | event)
    return events


def stored(log: evtool.Log) -> list[dict[str, Any]]:
    return [event for events in log.scan() for event in events.to_dicts()]


def some_events(count: int, first: int = 0) -> pl.DataFrame:
    """Events with both kinds of ids, with and without metadata."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "event_id": [f"{n:08x}-0000-4000-8000-000000000000" if n % 3 else f"id é {n}" for n in numbers],
            "source_id": [f"source-{n % 2}" for n in numbers],
            "stream_id": [f"user-{n % 97}" for n in numbers],
            "event_type": ["ItemViewed"] * count,
            "timestamp": [MOMENT_NS - n * 1_000_000 for n in numbers],
            "payload": [f'{{"n":{n}, "text":"ü"}}' for n in numbers],
            "metadata": [f'{{"n":{n}}}' if n % 5 == 0 else None for n in numbers],
        }
    )
