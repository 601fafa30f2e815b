"""A cold segment is as segments/README.md says: read by the page and Arrow alone, it is what was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from compacting import compacted
from format_page import (
    BATCH,
    BLOCK,
    CHUNK,
    COLD_COLUMNS,
    COLD_KEYS,
    FIRST_SEGMENT,
    GONE_ID,
    GONE_KEYS,
    GONE_RUN,
    STREAMS_HEADER,
    SUMMARY_KEYS,
    decoded,
    read_frames,
    size_of,
    some_events,
    stored,
    xxh3,
)

import evtool
from evtool.config import Config, LogConfig
from evtool.lifecycle.forgetting import dropping
from evtool.lifecycle.rewriting import rewrite
from evtool.lifecycle.verify import verify
from evtool.log.hashing import hash_one, source_seed
from evtool.log.sequence import SPLIT_EVENTS_MIN


def summary_of(segment: Path, name: str = "segment.msgpack") -> dict[str, Any]:
    packed = (segment / name).read_bytes()
    assert int.from_bytes(packed[-8:], "little") == xxh3(packed[:-8])
    summary: dict[str, Any] = msgpack.unpackb(packed[:-8])
    return summary


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, *tuple[list[dict[str, Any]], ...]]:
    """A log of which two segments became one; before: its events, their summaries, its commit frames."""
    folder = tmp_path_factory.mktemp("cold") / "segments"
    config = Config(log=LogConfig(partitions=2, segment_bytes=48 * 1024))
    with evtool.open(folder, create=True, config=config) as log:
        log.append(some_events(3))
        log.append([], resume={"line": 3})
        log.append(some_events(2 * SPLIT_EVENTS_MIN, first=3))
        log.append(some_events(4_000, first=10_000), resume={"line": 503})
        log.append(some_events(1, first=20_000))
        events = stored(log)
    sealed = sorted(path for path in folder.iterdir() if path.name.isdigit())[:-1]
    assert len(sealed) == 2
    summaries = [summary_of(segment) for segment in sealed]
    frames = [frame for segment in sealed for frame in read_frames((segment / "frames.log").read_bytes(), 2)]
    commits = [{**header, "body": body} for _, header, body in frames if header["kind"] == 2]
    compacted(folder, 1 << 30, "payload.text")
    return folder, events, summaries, commits


def records(record: Any, data: bytes, count: int) -> list[dict[str, Any]]:
    return [decoded(record, data, number * size_of(record)) for number in range(count)]


def test_a_cold_segment_is_as_the_page_says(logs: Any):
    folder, events, (first, last), commits = logs
    segment = folder / FIRST_SEGMENT
    summary = summary_of(segment)
    assert summary == summary_of(segment, "segment.copy")
    hot = [key for key, _ in SUMMARY_KEYS if key not in ("frames", "log_bytes", "index_checksum")]
    assert sorted(summary) == sorted([*hot, *(key for key, _ in COLD_KEYS)])
    taken = {"count": first["count"] + last["count"], "batches": first["batches"] + last["batches"]}
    of_first = ("version", "log_id", "first_position", "recorded_at_min", "previous_digest")
    of_last = ("last_position", "last_batch", "recorded_at_max", "digest")
    taken |= {name: first[name] for name in of_first} | {name: last[name] for name in of_last}
    for name, choose in (("timestamp_min", min), ("timestamp_max", max)):
        taken[name] = choose(first[name], last[name])
    assert {name: summary[name] for name in hot} == taken

    data, record = ((segment / f"events-1.{kind}").read_bytes() for kind in ("parquet", "map"))
    assert (summary["events_bytes"], summary["events_checksum"]) == (len(data), xxh3(data))
    assert (summary["map_bytes"], summary["map_checksum"]) == (len(record), xxh3(record))
    assert summary["footer_checksum"] == xxh3(data[-summary["footer_bytes"] :])
    assert summary["footer_bytes"] == int.from_bytes(data[-8:-4], "little") + 8
    assert summary["columns"] == [*(name for name, _, _ in COLD_COLUMNS[:-1]), "payload.text"]

    blocks = records(BLOCK, record, summary["blocks"])
    at = summary["blocks"] * size_of(BLOCK)
    columns = len(summary["columns"])
    chunks = records(CHUNK, record[at:], summary["blocks"] * columns)
    assert all(chunk["checksum"] == xxh3(data[chunk["offset"] :][: chunk["stored_bytes"]]) for chunk in chunks)
    at += len(chunks) * size_of(CHUNK)
    batches = records(BATCH, record[at:], summary["batches"])
    at += len(batches) * size_of(BATCH)
    assert record[at:] == b"".join(commit["body"] for commit in commits)
    for batch, commit in zip(batches, commits, strict=True):
        assert batch.pop("map_bytes") == len(commit["body"])
        assert batch == {name: commit[name] for name in batch}

    file = pq.ParquetFile(segment / "events-1.parquet")
    assert file.num_row_groups == len(blocks)
    read = []
    for number, block in enumerate(blocks):
        rows = file.read_row_group(number)
        rows = rows.set_column(
            rows.schema.get_field_index("timestamp"),
            "timestamp",
            rows["timestamp"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()),
        ).to_pylist()
        assert [(row["stream_id"].encode(), row["position"]) for row in rows] == sorted(
            (row["stream_id"].encode(), row["position"]) for row in rows
        )
        for row in rows:
            (batch,) = [b for b in batches if 0 <= row["position"] - b["base_position"] < b["count"]]
            row["recorded_at"] = batch["base_recorded_at"] + row["position"] - batch["base_position"]
            assert row.pop("payload.text") == "ü"
            packed = row.pop("event_uuid")
            if packed is not None:
                row["event_id"] = "-".join(
                    packed.hex()[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
                )
        assert block["count"] == len(rows)
        for name, choose in (("first", min), ("last", max)):
            assert block[f"{name}_position"] == choose(row["position"] for row in rows)
            suffix = "min" if name == "first" else "max"
            for column in ("timestamp", "recorded_at"):
                assert block[f"{column}_{suffix}"] == choose(row[column] for row in rows)
        read.append((block["stripe"], block["partition"], rows))
    assert {partition for _, partition, _ in read} == {0, 1, 0xFFFF}
    in_order = [
        row
        for stripe in sorted({stripe for stripe, _, _ in read})
        for row in sorted(
            (row for number, _, rows in read if number == stripe for row in rows), key=lambda row: row["position"]
        )
    ]
    wanted = events[: summary["count"]]
    assert [{name: row[name] for name in wanted[0]} for row in in_order] == wanted

    index = (segment / "streams.idx").read_bytes()
    header = decoded(STREAMS_HEADER, index)
    assert (header["digest"], header["frames"]) == (summary["map_checksum"], summary["blocks"])


def test_the_digest_of_a_segment_is_the_logical_one_of_its_events(logs: Any, tmp_path: Path):
    folder, events, *_ = logs
    summary = summary_of(folder / FIRST_SEGMENT)
    with evtool.open(tmp_path / "copy", create=True) as log:
        for event in events[: summary["count"]]:
            event.pop("position")
            event.pop("recorded_at")
        log.append(events[: summary["count"]])
        assert verify(log).digest == summary["logical_digest"]


def test_events_that_are_gone_are_told_of_as_the_page_says(tmp_path: Path):
    folder = tmp_path / "segments"
    with evtool.open(folder, create=True, config=Config(log=LogConfig(partitions=2, segment_bytes=1))) as log:
        log.append(some_events(50))
        log.append(some_events(1, first=100))
        before = {row["position"]: row for row in stored(log)}
        log_id = log.manifest.id_bytes
        going = [4, 5, 6, 20]
        take = dropping(lambda events: np.isin(events["position"].to_numpy(), going), log_id)
        rewrite(log, log.snapshot().segments[:1], [], take)
    segment = folder / FIRST_SEGMENT
    summary, data = summary_of(segment), (segment / "events-1.gone").read_bytes()
    assert {row[0] for row in GONE_KEYS} <= summary.keys()
    assert summary["gone"] == {"dropped": 4, "erased": 0, "lost": 0}
    assert (summary["gone_bytes"], summary["gone_checksum"]) == (len(data), xxh3(data))
    runs = [decoded(GONE_RUN, data, at * size_of(GONE_RUN)) for at in range(summary["gone_runs"])]
    assert [tuple(run.values()) for run in runs] == [(4, 3, 1), (20, 1, 1)]
    start = len(runs) * size_of(GONE_RUN)
    end = start + len(going) * size_of(GONE_ID)
    ids = [decoded(GONE_ID, data, at) for at in range(start, end, size_of(GONE_ID))]
    streams = pa.ipc.open_stream(data[end:]).read_all().to_pylist()
    for position, known, stream in zip(going, ids, streams, strict=True):
        row = before[position]
        for name, seed in (("hash", log_id), ("check", log_id[8:] + log_id[:8])):
            assert known[name] == hash_one(row["event_id"], source_seed(seed, row["source_id"]))
        key = xxhash.xxh3_128_digest(row["stream_id"].encode())
        assert stream == {
            "high": int.from_bytes(key[:8], "little"),
            "low": int.from_bytes(key[8:], "little"),
            "version": row["stream_version"],
        }
