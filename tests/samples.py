"""Events, logs and what is expected of them, for tests of every part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import polars as pl
import pyarrow as pa

import evtool
from evtool.config import Codec, Config, IngestConfig, LogConfig
from evtool.event import EVENT_SCHEMA, STORED_SCHEMA, empty_frame
from evtool.lifecycle.verify import Report, verify

Event = dict[str, Any]
Row = dict[str, Any]

MOMENT_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z

# JSON objects whose spelling says more than their value.
ODD_OBJECTS = (
    "{}",
    "{ }",
    '{"z":1,"a":2,"m":{"z":[],"a":{}}}',
    '{"n":1.0,"m":1.10,"e":1e5,"E":1E+05,"z":-0,"y":-0.0,"tiny":1e-400,"huge":1e400}',
    '{"n":123456789012345678901234567890,"m":-9223372036854775809,"f":0.1000000000000000055511151231257827}',
    '{ "a" : [ 1 , 2 ] ,\t"b" : { "c" : null } }',
    '{"a":"\\u00e9\\/\\n\\t\\u0000\\"\\\\","\\u0061b":true}',
    '{"a":"é ß 漢字 😀 \u2028 \u2029 \u007f \ufeff","ключ":1}',
    '{"pair":"\\ud83d\\ude00","n":"\\uD83D\\uDE00"}',
    '{"same":1,"same":2}',
    '{"event_id":"not the event\'s","payload":{"payload":"}\\"{"}}',
    '{"deep":' + "[" * 126 + "]" * 126 + "}",
    '{"long":"' + "x" * 70_000 + '"}',
)

ODD_TEXTS = (
    "plain",
    "with space",
    'quote " and \\ backslash',
    "tab\tline\nnull\x00bell\x07delete\x7f",
    "é ß 漢字 😀",
    "\u2028\u2029\ufeff",
    "null",
    "{}",
    "0",
    " ",
    "x" * 256,
    "é" * 128,
)

ODD_IDS = (
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "3F2504E0-4F89-41D3-9A0C-0305E82C3301",
    "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    "3f2504e0-4f89-41d3-9a0c-0305e82c330g",
    "3f2504e04f8941d39a0c0305e82c3301",
    "{3f2504e0-4f89-41d3-9a0c-0305e82c3301}",
    "3f2504e0_4f89_41d3_9a0c_0305e82c3301",
    "3f2504e-04f89-41d3-9a0c-0305e82c33011",
    *ODD_TEXTS,
)


def event(number: int, stream_id: str = "user-1", **fields: Any) -> Event:
    """A small event whose id and payload say which one it is."""
    return {
        "event_id": f"event-{number}",
        "source_id": "shop",
        "stream_id": stream_id,
        "event_type": "ItemViewed",
        "payload": f'{{"number":{number}}}',
    } | fields


def as_frame(events: pa.RecordBatch | pa.Table, rows: Any = None) -> pl.DataFrame:
    """Events on their way into the log as a Polars frame of EVENT_SCHEMA; `rows` puts them in order."""
    table = pa.Table.from_batches([events]) if isinstance(events, pa.RecordBatch) else events
    found = pl.DataFrame(pl.from_arrow(table if rows is None else table.take(rows)))
    uuid = pl.col("event_uuid").map_elements(lambda value: str(UUID(bytes=value)), pl.String)
    return found.select(pl.coalesce("event_id", uuid), *(name for name in EVENT_SCHEMA if name != "event_id"))


def many(count: int, first: int = 0, streams: int = 7) -> pl.DataFrame:
    """A frame of small events of a few streams, cheap to make and to store."""
    number = pl.col("number")
    return pl.select(pl.int_range(first, first + count).alias("number")).select(
        pl.format("event-{}", number).alias("event_id"),
        pl.lit("shop").alias("source_id"),
        pl.format("user-{}", number % streams).alias("stream_id"),
        pl.lit("ItemViewed").alias("event_type"),
        (MOMENT_NS + number * 1_000_000).alias("timestamp"),
        pl.concat_str(pl.lit('{"number":'), number, pl.lit("}")).alias("payload"),
    )


def frame(events: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Mappings with texts and whole numbers only, as a frame with just the columns that some of them have."""
    rows = list(events)
    names = [name for name in EVENT_SCHEMA if any(name in row for row in rows)]
    return pl.DataFrame(
        {name: pl.Series(name, [row.get(name) for row in rows], dtype=EVENT_SCHEMA[name]) for name in names}
    )


def config(
    segment_bytes: int = 1 << 20,
    partitions: int = 8,
    codec: Codec | None = None,
    fsync: Literal["batch", "never"] = "batch",
    source: str | None = None,
) -> Config:
    """A configuration for small logs."""
    log = LogConfig(partitions, segment_bytes, fsync, codec or Codec())
    return Config(log=log, ingest=IngestConfig(source=source))


def make_log(folder: Path, batches: Iterable[Any], settings: Config | None = None) -> list[evtool.Commit]:
    """Make a log of batches, and close it."""
    with evtool.open(folder, create=True, config=settings or config()) as log:
        return [log.append(batch) for batch in batches]


def make_segments(folder: Path, *parts: Sequence[Any]) -> None:
    """Make a log of such segments, each given by its batches; all but the last are sealed."""
    for number, batches in enumerate(parts, 1):
        is_last = number == len(parts)
        make_log(folder, batches if is_last else batches[:-1])
        if not is_last:
            make_log(folder, batches[-1:], config(segment_bytes=1))
    assert len(segments(folder)) == len(parts)


def rows(log: evtool.Log, **selected: Any) -> list[Row]:
    """The selected events, every column of them."""
    frames = list(log.scan(**selected))
    assert all(len(events) and events.schema == pl.Schema(STORED_SCHEMA) for events in frames)
    return [row for events in frames for row in events.to_dicts()]


def ids(log: evtool.Log, **selected: Any) -> list[str]:
    """The ids of the selected events, in order."""
    return [text for events in log.scan(columns=["event_id"], **selected) for text in events["event_id"]]


def line(row: Row) -> bytes:
    """The line of a replay, written by other means than evtool's."""
    text = ",".join(
        (
            f'{{"position":{row["position"]}',
            f'"recorded_at":"{time_text(row["recorded_at"])}"',
            *(f'"{name}":{quoted(row[name])}' for name in ("event_id", "source_id", "stream_id", "event_type")),
            f'"timestamp":"{time_text(row["timestamp"])}"',
            f'"stream_version":{row["stream_version"]}',
            f'"schema_version":{row["schema_version"]}',
            f'"payload":{row["payload"]}',
            *([] if row["metadata"] is None else [f'"metadata":{row["metadata"]}']),
        )
    )
    return f"{text}}}\n".encode()


def quoted(text: str) -> str:
    """A text as a JSON string with no more escapes than needed."""
    return json.dumps(text, ensure_ascii=False)


def time_text(nanoseconds: int) -> str:
    """RFC 3339 with nine decimals."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"


def segments(folder: Path) -> list[Path]:
    """The segment folders of a log, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())


def frames_log(folder: Path, number: int = -1) -> Path:
    """The frames.log of one segment; the active one is the last."""
    return segments(folder)[number] / "frames.log"


def check_sound(folder: Path, with_caches: bool = True) -> Report:
    """Assert that a log verifies clean and keeps the promises about positions, times and versions.

    Without its caches the log alone is asked for.
    """
    log = evtool.open(folder, read_only=True)
    report = verify(log)
    assert [finding for finding in report.findings if with_caches or finding.severity == "log"] == []
    columns = ("position", "recorded_at", "stream_id", "stream_version")
    stored = pl.concat([empty_frame().select(columns), *log.scan(columns=columns)])
    assert report.events == report.position == log.position == len(stored)
    assert stored["position"].equals(pl.int_range(1, len(stored) + 1, eager=True), check_names=False)
    assert (stored["recorded_at"].diff().drop_nulls() > 0).all()
    versions = stored.select(pl.int_range(1, pl.len() + 1).over("stream_id").alias("stream_version")).to_series()
    assert stored["stream_version"].equals(versions)
    return report
