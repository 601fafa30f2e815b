"""segments/README.md and the code say the same: its tables, its rules and its example, read out of the page.

What evtool wrote is read by `format_page`, which was written from the page alone, and compared.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from format_page import (
    BATCH,
    BLOCK,
    CHUNK,
    COLUMNS,
    FIRST_SEGMENT,
    FRAME_HEADER,
    HEAD,
    INDEX_ROW,
    MOMENT_NS,
    PAGE,
    SEGMENT_HEADER,
    STREAMS_HEADER,
    STREAMS_PAGE,
    STREAMS_SLOT,
    SUMMARY_KEYS,
    TABLE_HEADER,
    Field,
    decoded,
    read_events,
    read_frames,
    size_of,
    some_events,
    stored,
    xxh3,
)

import evtool
from evtool import envelope, timestamps, uuids
from evtool.config import Codec, Config, LogConfig
from evtool.event import EVENT_SCHEMA
from evtool.files import Files
from evtool.lifecycle import audit
from evtool.lifecycle.verify import verify
from evtool.log import format as log_format
from evtool.log import frame, hashing, sequence, streamindex, stripes, table, versions
from evtool.log.frame import Part
from evtool.log.hashing import hash_ids, source_seeds
from evtool.log.ids import EventIds
from evtool.log.manifest import Manifest
from evtool.log.writer import Writer
from evtool.schemas import document
from evtool.schemas.steps import from_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two partitions: a sealed segment and an active one, batches small, large and empty."""
    folder = tmp_path_factory.mktemp("page") / "segments"
    config = Config(log=LogConfig(partitions=2, segment_bytes=48 * 1024))
    with evtool.open(folder, create=True, config=config) as log:
        log.append(some_events(3))
        log.append([], resume={"file": "a.ndjson", "line": 3})
        log.append(some_events(2 * sequence.SPLIT_EVENTS_MIN, first=3))
        log.append(some_events(500, first=10_000), resume={"line": 503})
    return folder


@pytest.mark.parametrize(
    ("record", "dtype"),
    [
        (SEGMENT_HEADER, log_format.SEGMENT_HEADER),
        (FRAME_HEADER, log_format.FRAME_HEADER),
        (INDEX_ROW, log_format.INDEX_ROW),
        (STREAMS_HEADER, streamindex.HEADER),
        (STREAMS_PAGE, streamindex.PAGE),
        (HEAD, log_format.HEAD_RECORD),
        (BLOCK, log_format.BLOCK),
        (CHUNK, log_format.CHUNK),
        (BATCH, log_format.BATCH),
        (TABLE_HEADER, table.HEADER),
        (STREAMS_SLOT, versions._SLOT),
    ],
    ids=[
        "segment header",
        "frame header",
        "frames.idx",
        "streams.idx",
        "page of streams.idx",
        "HEAD",
        "row group",
        "column of a row group",
        "batch",
        "table",
        "slot of streams.table",
    ],
)
def test_the_tables_are_the_records_of_the_code(record: list[Field], dtype: np.dtype[Any]):
    assert dtype.names is not None
    kinds = {"u": "u", "i": "i", "S": "b", "V": "b"}
    in_code = [
        (dtype.fields[name][1], dtype[name].itemsize, kinds[dtype[name].kind], name) for name in dtype.names
    ]
    assert [(field.offset, field.size, field.kind[0], field.name) for field in record] == in_code
    assert size_of(record) == dtype.itemsize
    assert [field.offset for field in record[1:]] == [field.offset + field.size for field in record[:-1]]
    assert re.search(rf"\b{dtype.itemsize} bytes\b", PAGE) or record is TABLE_HEADER


def test_names_and_numbers_of_the_code_are_on_the_page():
    words = [
        *(getattr(log_format, name) for name in dir(log_format) if name.endswith("_FILE")),
        *(getattr(log_format, name).decode() for name in dir(log_format) if name.endswith("_MAGIC")),
        f"{sequence.SPLIT_EVENTS_MIN:,} events a partition",
        f"below {frame.COMPRESS_BYTES_MIN // 1024} KiB",
        f"a page of {streamindex.PAGE_ENTRIES} entries",
        f"from {frame.DICTIONARY_ROWS_MIN} rows on",
        f"up to {stripes.STRIPE_EVENTS:,} events",
        f"up to {stripes.BLOCK_EVENTS:,} events",
        f"zero bytes up to {table.HEADER_BYTES}",
        f"multiple of {log_format.FRAME_ALIGNMENT_BYTES}",
        f"0x{log_format.MIXED_PARTITIONS:X}",
        f"format version {log_format.FORMAT_VERSION}",
        *(f"0x{number:X}" for number in (*hashing._MULTIPLIERS, hashing._LENGTH_FACTOR)),
        *(f">> {shift})" for shift in hashing._SHIFTS),
    ]
    assert not [word for word in words if word not in PAGE]
    assert log_format.BODY_BYTES_MAX == 2**31


def example_lines() -> list[tuple[int, bytes, bool, str, str]]:
    """(offset, bytes, whether more follow that are not shown, name, remark) of each line of the example."""
    line = re.compile(r"^([0-9a-f]{6})  ((?:[0-9a-f]{2} )+)(…?) +(\w+) ?(.*)", re.MULTILINE)
    return [
        (int(offset, 16), bytes.fromhex(data), bool(elided), name, remark)
        for offset, data, elided, name, remark in line.findall(PAGE)
    ]


def example() -> bytes:
    """The documented bytes; those that the page leaves out are zero."""
    whole = bytearray()
    for (offset, data, elided, _, _), following in pairwise([*example_lines(), (0x630, b"", False, "", "")]):
        assert elided or offset + len(data) == following[0]
        whole += data.ljust(following[0] - offset, b"\0")
    return bytes(whole)


def test_each_line_of_the_example_is_a_field_and_says_its_value():
    fields = [[field.name for field in record] for record in (SEGMENT_HEADER, FRAME_HEADER)]
    names = [name for _, _, _, name, _ in example_lines()]
    assert names == [*fields[0], *fields[1], "body", *fields[1], "body", "padding"]
    for _, data, _, _, remark in example_lines():
        said = remark.split(", ")[0].replace(",", "")
        if re.fullmatch(r"\d+|0x[0-9A-F]+", said):
            assert int(said, 0) == int.from_bytes(data, "little")
        elif re.fullmatch(r'"\w+"', said):
            assert said.strip('"').encode() == data
        elif re.fullmatch(r"[-\dT:.]+Z", said):
            assert timestamps.parse_text(said) == int.from_bytes(data, "little")


def test_the_example_keeps_its_own_rules():
    data = example()
    assert f"All {len(data):,} bytes" in PAGE
    segment, first = decoded(SEGMENT_HEADER, data), decoded(FRAME_HEADER, data, 64)
    commit = decoded(FRAME_HEADER, data, 168 + first["body_bytes"])
    assert segment["checksum"] == first["chain"] == xxh3(data[:56])
    assert first["checksum"] == commit["chain"] == xxh3(data[64:160])
    assert commit["checksum"] == xxh3(data[0x5C0:0x620])
    body = data[0x628 : 0x628 + commit["body_bytes"]]
    assert commit["body_checksum"] == xxh3(body)
    assert msgpack.unpackb(body) == {"line": 1}


def write_example(folder: Path) -> bytes:
    """frames.log of the log that the page tells of, as evtool writes it now."""
    line = re.search(r"```json\n(.*)\n```", PAGE)
    assert line is not None
    folder.mkdir()
    manifest = Manifest(bytes(range(16)).hex(), 1, 8, "2026-01-01T00:00:00Z")
    writer = Writer(Files(), folder, manifest, LogConfig(), now_ns=lambda: MOMENT_NS)
    prepared = writer.prepare(envelope.batch([msgspec.json.decode(line[1])]))
    writer.commit(prepared, [writer.encode(part) for part in prepared.parts], {"line": 1})
    writer.close()
    return (folder / FIRST_SEGMENT / "frames.log").read_bytes()


def test_the_example_is_what_evtool_writes(tmp_path: Path):
    documented, written = example(), write_example(tmp_path / "segments")
    frames = read_frames(written, partitions=8)
    assert written[:64] == documented[:64]
    of_arrow = {"chain", "checksum"}  # of a body that another version of Arrow may lay out otherwise
    (offset, events, body), (commit_offset, commit, resume) = frames
    assert (offset, resume) == (64, documented[0x628:0x62F])
    for found, at, changing in (
        (events, 64, {"body_bytes", "body_checksum", *of_arrow}),
        (commit, 0x5C0, of_arrow),
    ):
        wanted = decoded(FRAME_HEADER, documented, at)
        assert {name for name in wanted if found[name] != wanted[name]} <= changing
    assert commit_offset == 168 + -(-events["body_bytes"] // 8) * 8
    row = pa.ipc.open_stream(body).read_next_batch().to_pylist()[0]
    assert row.pop("timestamp").timestamp() == 1767225599345 / 1000
    assert row.pop("event_uuid").hex() == "7cbadfcead604a3e879965df6ad78e3d"
    told = PAGE[PAGE.index("The body decodes to one row") :].replace("\n", " ").replace("`", "")
    assert not [f"{name} {value}" for name, value in row.items() if f"{name} {value}" not in told]


def test_an_independent_reader_finds_the_same_events(folder: Path):
    positions, found, resumed = 1, [], []
    for segment in sorted(path for path in folder.iterdir() if path.name.isdigit()):
        data = (segment / "frames.log").read_bytes()
        assert decoded(SEGMENT_HEADER, data)["first_position"] == int(segment.name) == positions
        for _, header, body in read_frames(data, partitions=2):
            if header["kind"] == 2:
                resumed.append(msgpack.unpackb(body) if body else None)
                positions = header["last_position"] + 1
                continue
            events = read_events(header, body)
            found += events
            times = [event["timestamp"] for event in events]
            assert (min(times), max(times)) == (header["timestamp_min"], header["timestamp_max"])
            assert events[0]["position"] == header["first_position"]
            assert events[-1]["position"] == header["last_position"]
            placed = {xxh3(event["stream_id"].encode()) % 2 for event in events}
            assert header["partition"] == 0xFFFF or {header["partition"]} == placed
    with evtool.open(folder) as log:
        assert sorted(found, key=lambda event: event["position"]) == stored(log)
    assert resumed == [None, {"file": "a.ndjson", "line": 3}, None, {"line": 503}]
    moments = [event["recorded_at"] for event in sorted(found, key=lambda event: event["position"])]
    assert all(earlier < later for earlier, later in pairwise(moments))


def body_columns(count: int, unit_ns: int = 1, **replaced: Any) -> dict[str, str]:
    """Name -> Arrow type of the columns of a body of `count` events; `replaced` are values for all of them."""
    numbers = np.arange(1, count + 1)
    given = some_events(count).with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in replaced.items()
    )
    events = envelope.frame_to_batch(given)
    part = Part(0, 1, events, None, numbers, MOMENT_NS + numbers * unit_ns, np.ones(count, np.int64))
    kinds = {}
    for column in pa.ipc.open_stream(frame.encode(part, Codec()).body).schema:
        is_dictionary = pa.types.is_dictionary(column.type)
        if is_dictionary:
            assert column.type.value_type == pa.string()
            assert column.type.index_type in (pa.uint8(), pa.uint32())
        kinds[column.name] = "dictionary" if is_dictionary else str(column.type)
    return kinds


def test_the_columns_of_a_body_are_those_of_the_page():
    documented = {name: set(kinds.split(" or ")) for name, kinds, _ in COLUMNS}
    seen: dict[str, set[str]] = {}
    for count in (1, 2, frame.DICTIONARY_ROWS_MIN):
        for unit_ns in (1_000_000_000, 1_000_000, 1_000, 1):
            for name, kind in body_columns(count, unit_ns).items():
                seen.setdefault(name, set()).add(kind)
    assert seen == documented


@pytest.mark.parametrize(
    ("event_id", "absent"), [("no UUID", "event_uuid"), ("7cbadfce-ad60-4a3e-8799-65df6ad78e3d", "event_id")]
)
def test_a_column_without_values_is_absent(event_id: str, absent: str):
    present = body_columns(3, event_id=event_id, metadata=None)
    assert {name for name, _, _ in COLUMNS} - set(present) == {absent, "metadata"}


def test_the_derived_files_are_as_the_page_says(folder: Path):
    sealed, active = sorted(path for path in folder.iterdir() if path.name.isdigit())
    for segment in (sealed, active):
        frames = read_frames((segment / "frames.log").read_bytes(), partitions=2)
        index = (segment / "frames.idx").read_bytes()
        assert len(index) == len(frames) * size_of(INDEX_ROW)
        for number, (offset, header, _) in enumerate(frames):
            row = decoded(INDEX_ROW, index, number * size_of(INDEX_ROW))
            assert row["offset"] == offset
            assert decoded(FRAME_HEADER, row["header"]) == header
    head = decoded(HEAD, (folder / "HEAD").read_bytes())
    last = frames[-1][1]
    assert head["checksum"] == xxh3((folder / "HEAD").read_bytes()[:56])
    assert (head["magic"], head["version"]) == (b"EVHD", 1)
    assert (head["position"], head["segment"]) == (last["last_position"], int(active.name))
    assert (head["log_bytes"], head["frames"]) == ((active / "frames.log").stat().st_size, len(frames))
    assert head["recorded_at"] == last["base_recorded_at"] + last["count"] - 1
    boot = Path("/proc/sys/kernel/random/boot_id")
    identity = hashlib.blake2b(boot.read_bytes().strip(), digest_size=8).digest() if boot.exists() else bytes(8)
    assert head["boot"] == int.from_bytes(identity, "little")


def test_a_summary_is_as_the_page_says(folder: Path):
    sealed = folder / FIRST_SEGMENT
    packed = (sealed / "segment.msgpack").read_bytes()
    assert int.from_bytes(packed[-8:], "little") == xxh3(packed[:-8])
    data = (sealed / "frames.log").read_bytes()
    headers = [header for _, header, _ in read_frames(data, partitions=2)]
    commits = [header for header in headers if header["kind"] == 2]
    filled = [header for header in commits if header["count"]]
    assert msgpack.unpackb(packed[:-8]) == {
        "version": 1,
        "log_id": decoded(SEGMENT_HEADER, data)["log_id"].hex(),
        "first_position": 1,
        "last_position": commits[-1]["last_position"],
        "count": sum(header["count"] for header in commits),
        "batches": len(commits),
        "last_batch": commits[-1]["batch"],
        "frames": len(headers),
        "log_bytes": len(data),
        "recorded_at_min": commits[0]["base_recorded_at"],
        "recorded_at_max": commits[-1]["base_recorded_at"] + commits[-1]["count"] - 1,
        "timestamp_min": min(header["timestamp_min"] for header in filled),
        "timestamp_max": max(header["timestamp_max"] for header in filled),
        "digest": headers[-1]["checksum"],
        "previous_digest": 0,
        "index_checksum": xxh3((sealed / "frames.idx").read_bytes()),
    }
    assert [key for key, _ in SUMMARY_KEYS] == list(msgpack.unpackb(packed[:-8]))


def test_the_index_of_streams_is_as_the_page_says(folder: Path):
    sealed = folder / FIRST_SEGMENT
    data = (sealed / "streams.idx").read_bytes()
    frames = read_frames((sealed / "frames.log").read_bytes(), partitions=2)
    header, size = decoded(STREAMS_HEADER, data), size_of(STREAMS_HEADER)
    assert header["magic"] == b"EVSIDX01"
    assert header["checksum"] == xxh3(data[: size - 8])
    assert (header["first_position"], header["frames"]) == (1, len(frames))
    assert header["digest"] == frames[-1][1]["checksum"]
    pages, end = header["pages"], size + 16 * header["pages"]
    assert len(data) == end + 4 * header["entries"]
    bits, expected = (len(frames) - 1).bit_length(), set()
    for number, (_, told, body) in enumerate(frames):
        for event in read_events(told, body) if told["kind"] == 1 else []:
            (key,) = struct.unpack_from("<Q", xxhash.xxh3_128_digest(event["stream_id"].encode(), seed=0))
            expected.add(((key >> 32) * pages >> 32, (key * 2**bits) % 2**32 + number))
    found, first = [], 0
    for page in range(pages):
        row = decoded(STREAMS_PAGE, data, size + 16 * page)
        entries = data[end + 4 * first : end + 4 * row["end"]]
        assert row["checksum"] == xxh3(entries)
        found += [(page, entry) for entry in struct.unpack(f"<{len(entries) // 4}I", entries)]
        first = row["end"]
    assert found == sorted(expected)
    assert pages > 0
    assert len(found) == header["entries"]


def test_the_table_of_streams_is_as_the_page_says(folder: Path):
    data = (folder / "index" / "streams.table").read_bytes()
    header = decoded(TABLE_HEADER, data)
    capacity = header["capacity"]
    assert header["magic"] == b"EVSTRM01"
    assert len(data) == 4096 + capacity * size_of(STREAMS_SLOT)
    with evtool.open(folder) as log:
        last = {event["stream_id"]: event["stream_version"] for event in stored(log)}
        assert header["applied"] == header["synced"] == log.position
        assert header["log_id"].hex() == log.manifest.id
    assert header["count"] == len(last)
    for stream_id, version in last.items():
        high, low = struct.unpack("<QQ", xxhash.xxh3_128_digest(stream_id.encode(), seed=0))
        at = high % capacity
        while True:
            slot = decoded(STREAMS_SLOT, data, 4096 + at * size_of(STREAMS_SLOT))
            assert slot["version"]
            if (slot["high"], slot["low"]) == (high, low):
                break
            at = (at + 1) % capacity
        assert slot["version"] == version


def test_the_table_of_ids_is_as_the_page_says(tmp_path: Path):
    log_id = bytes(range(16))
    events = some_events(10_000)
    names = events["source_id"].to_list()
    texts = pa.array(events["event_id"].to_list(), pa.string())
    packed, is_uuid = uuids.pack(texts)
    sources = sorted(set(names))
    hashes = hash_ids(
        np.array([sources.index(name) for name in names]),
        source_seeds(log_id, sources),
        packed,
        texts,
        is_uuid,
    )
    ids_table = EventIds(Files(), tmp_path, log_id)
    ids_table.add(hashes, np.arange(1, len(hashes) + 1))
    ids_table.mark_applied(len(hashes))
    ids_table.close()
    data = (tmp_path / "ids.table").read_bytes()
    header = decoded(TABLE_HEADER, data)
    capacity = header["capacity"]
    assert (header["magic"], header["log_id"]) == (b"EVIDS001", log_id)
    assert header["count"] == header["applied"] == header["synced"] == len(hashes)
    assert len(data) == 4096 + 12 * capacity
    low = struct.unpack_from(f"<{capacity}Q", data, 4096)
    high = struct.unpack_from(f"<{capacity}I", data, 4096 + 8 * capacity)
    for position, value in enumerate(hashes.tolist(), 1):
        at = (value >> 32) * capacity >> 32
        while (high[at], low[at]) != (value >> 32, (value & 0xFFFF_FF00) << 32 | position):
            assert low[at]
            at = (at + 1) % capacity


def test_registered_schemas_are_as_the_page_says(folder: Path):
    steps = from_list([{"rename": "a", "to": "b"}], "steps")
    with evtool.open(folder) as log:
        for text, more in (("{}", ()), ("true", steps)):
            log.schemas.add("T", document.parse(text), steps=more)
        lines = (log.folder / "schemas" / "schemas.ndjson").read_bytes().splitlines()
    section = PAGE[PAGE.index("## schemas/") : PAGE.index("## audit.ndjson")]
    keys = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:]
    for line, shown in zip(lines, ([key for key in keys if key != "upcast"], keys), strict=True):
        kept = msgspec.json.decode(line)
        assert list(kept) == shown
        assert kept["digest"] == xxhash.xxh3_64_hexdigest(kept["schema"].encode())
        assert line[-31:] == f',"checksum":"{xxhash.xxh3_64_hexdigest(line[:-31])}"}}'.encode()


def test_the_audit_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SUDO_UID": "1000", "SUDO_USER": "ada"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(audit, "_login", lambda: 4242)
    for outcome in get_args(audit.Outcome):
        audit.record(Files(), tmp_path, "retain", {}, {}, outcome)
    section = PAGE[PAGE.index("## audit.ndjson") : PAGE.index("## What may be believed")]
    assert set(get_args(audit.Outcome)) <= set(re.findall(r"`(\w+)`", section))
    previous = "0" * 64
    for line in (tmp_path / audit.FILE).read_bytes().splitlines():
        kept = msgspec.json.decode(line)
        assert list(kept) == re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:]
        assert (kept["sudo"], kept["login"], kept["previous"]) == ("ada", "uid 4242", previous)
        previous = hashlib.sha256(line[: line.index(b',"sha256"')]).hexdigest()
        assert kept["sha256"] == previous


def test_the_logical_digest_is_as_the_page_says(folder: Path):
    with evtool.open(folder) as log:
        events, report = stored(log), verify(log)
    digests = b""
    assert " ".join(f"{name}," for name in EVENT_SCHEMA).rstrip(",") in PAGE.replace("\n", " ")
    for name in EVENT_SCHEMA:
        values = [event[name] for event in events]
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        is_text = isinstance(values[0], str)
        data = [text or b"" for text in texts] if is_text else [struct.pack("<q", value) for value in values]
        lengths = [struct.pack("<q", -1 if text is None else len(text)) for text in texts] if is_text else []
        digests += xxhash.xxh3_128_digest(b"".join(data)) + xxhash.xxh3_128_digest(b"".join(lengths))
    assert report.digest == xxhash.xxh3_128_hexdigest(digests)
