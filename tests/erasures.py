"""A log in which a text stands wherever one can, and a search through every byte that is stored of it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compacting import compacted, small_pieces
from faults import Fault, FaultyFiles, Killed
from samples import MOMENT_NS, event

import evtool
from evtool.config import BackupConfig, Config, LogConfig
from evtool.files import Files
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile
from evtool.lifecycle.erasing import doing, pending, planning
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.erasing.doing import Report
from evtool.lifecycle.erasing.planning import Plan
from evtool.lifecycle.verify import verify
from evtool.projections import projection as projections
from evtool.projections import snapshots

MARKER = "Zaphod-4711"
STREAM = f"user-{MARKER}"
COUNT = 1_650
BATCH = 150
SMALL_COUNT = 120
SMALL_PROJECTION = "event-counts"
PROJECTIONS = ("daily-active-users", "sessions", "event-counts")


def is_marked(number: int) -> bool:
    """Whether an event is of STREAM."""
    return number % 7 == 3


def sent() -> list[dict[str, Any]]:
    """Events, those of STREAM with the marker in all that is theirs."""
    return [
        event(
            number,
            STREAM if is_marked(number) else f"user-{number % 5}",
            timestamp=MOMENT_NS + number * 10**9,
            **(_marked(number) if is_marked(number) else {"payload": f'{{"user_id":"u-{number % 5}"}}'}),
        )
        for number in range(COUNT)
    ]


def _marked(number: int) -> dict[str, Any]:
    return {
        "event_id": f"{MARKER}-event-{number}",
        "payload": f'{{"user_id":"{MARKER}","number":{number}}}',
        "metadata": f'{{"session_id":"{MARKER}-{number // 50}"}}',
    }


def letter(raw: bytes, number: int = 1) -> DeadLetter:
    """A rejected line."""
    return DeadLetter("2026-01-01T00:00:00.000000Z", "bad_json", "it is not JSON", "in", number, len(raw), raw)


def make(folder: Path) -> Path:
    """A log of cold, hot and active segments, with dead letters, read models, and snapshots with a label."""
    config = settings(folder)
    with evtool.open(folder, create=True, config=config) as log:
        events = sent()
        for start in range(0, COUNT, BATCH):
            log.append(events[start : start + BATCH])
            if start == 5 * BATCH:
                log.close()
                compacted(folder)
        states = [(one.is_sealed, one.is_cold) for one in log.snapshot().segments]
        assert {*states} == {(True, True), (True, False), (False, False)}
        for name in PROJECTIONS:
            projections.open(log, name, config).runner.refresh()
        snapshots.take(log, projections.open(log, "sessions", config), "kept for ever")
    raws = (f'{{"stream_id":"{STREAM}","payload":1}}', f"broken {STREAM}", '{"stream_id":"user-1"}', "broken")
    letters = [letter(raw.encode(), number) for number, raw in enumerate(raws)]
    DeadLetterFile(Files(), folder, durable=False).append(letters)
    return folder


def make_small(folder: Path) -> Path:
    """A log of SMALL_COUNT events in a sealed segment and an active one; every fourth one is of STREAM.

    With a read model, a snapshot and a dead letter.
    """
    config = settings(folder)
    with evtool.open(folder, create=True, config=config) as log:
        log.append(small_events()[: SMALL_COUNT // 2])
        log.seal()
        log.append(small_events()[SMALL_COUNT // 2 :])
        projections.open(log, SMALL_PROJECTION, config).runner.refresh()
        snapshots.take(log, projections.open(log, SMALL_PROJECTION, config))
    DeadLetterFile(Files(), folder, durable=False).append([letter(f"broken {STREAM}".encode())])
    return folder


def small_events() -> list[dict[str, Any]]:
    """Those of `make_small`."""
    return [
        event(
            number,
            STREAM if number % 4 == 0 else "user-1",
            timestamp=MOMENT_NS + number * 10**9,
            payload=f'{{"name":"{MARKER if number % 4 == 0 else "nobody"}"}}',
        )
        for number in range(SMALL_COUNT)
    ]


def cut_short(folder: Path, other: Path) -> None:
    """Let the erasure of STREAM from such a log end when one of two segments is written; `other` is a copy."""
    faulty = FaultyFiles()
    erased(other, Wanted((STREAM,)), faulty)
    copies = [number for number, (_, name) in enumerate(faulty.calls, 1) if name == "segment.copy"]
    with pytest.raises(Killed):
        erased(folder, Wanted((STREAM,)), FaultyFiles(Fault(copies[-1])))
    assert pending.is_there(folder)


def check_erased(folder: Path) -> None:
    """STREAM is erased from such a log, nothing tells of it any more, and all else is as it should be."""
    assert found(folder) == []
    assert not pending.is_there(folder)
    config = settings(folder)
    report = verify(evtool.open(folder, read_only=True), read_models=config.read_models_path, config=config)
    assert (report.findings, report.notes, report.events) == ([], [], SMALL_COUNT)
    with evtool.open(folder, config=config) as log:
        assert projections.open(log, SMALL_PROJECTION, config).runner.stale().position == SMALL_COUNT
        assert log.append(small_events()).duplicates == SMALL_COUNT


def settings(folder: Path) -> Config:
    """Those of the log, and of its backups."""
    return Config(
        log_path=folder,
        log=LogConfig(partitions=2, segment_bytes=24 * 1024, fsync="never"),
        backup=BackupConfig(to=str(folder.with_name("backups"))),
    )


def planned(folder: Path, wanted: Wanted) -> Plan:
    """What would be erased."""
    with evtool.open(folder, read_only=True) as log:
        return planning.plan(log, settings(folder), wanted)


def erased(folder: Path, wanted: Wanted, files: Files | None = None, **more: Any) -> Report:
    """Erase it."""
    config = settings(folder)
    with small_pieces(), evtool.open(folder, config=config, files=files) as log:
        return doing.apply(log, config, planning.plan(log, config, wanted), "asked for", **more)


def resumed(folder: Path, files: Files | None = None, **more: Any) -> Report | None:
    """Finish what was cut short."""
    config = settings(folder)
    with small_pieces(), evtool.open(folder, config=config, files=files) as log:
        return doing.resume(log, config, **more)


def found(folder: Path, text: str = MARKER) -> list[str]:
    """The files below a folder that have a text in their bytes, or in what can be read out of these."""
    wanted = text.encode()
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        path.relative_to(folder).as_posix()
        for path in paths
        if wanted in str(path.relative_to(folder)).encode() or any(wanted in data for data in _readings(path))
    ]


def _readings(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and all texts that readers of its format find in it."""
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        yield _texts(pq.read_table(io.BytesIO(data)))
        yield str(pq.read_metadata(io.BytesIO(data)).metadata).encode()
    for magic in (b"\xff\xff\xff\xff\x10\x00\x00\x00", b"\xff\xff\xff\xff"):
        at = data.find(magic)
        while at >= 0:
            yield _stream(data, at)
            at = data.find(magic, at + 4)
    if path.suffix in (".msgpack", ".copy") or path.name in ("record", "checkpoint"):
        body = data[8:] if path.name in ("record", "checkpoint") else data
        unpacker = msgpack.Unpacker(io.BytesIO(body), strict_map_key=False)
        with contextlib.suppress(ValueError, TypeError):  # of the checksum behind the map
            for value in unpacker:
                yield repr(value).encode()
    if data[:1] == b"{":
        for text in (data, *data.splitlines()):
            with contextlib.suppress(ValueError):
                yield json.dumps(json.loads(text), ensure_ascii=False).encode()


def _stream(data: bytes, start: int) -> bytes:
    """What an Arrow IPC stream that begins here holds; nothing where there is none."""
    try:
        with pa.ipc.open_stream(pa.BufferReader(data[start:])) as stream:
            return b"".join(_texts(pa.Table.from_batches([batch])) for batch in stream)
    except (pa.ArrowException, OSError):
        return b""


def _texts(table: pa.Table) -> bytes:
    return repr(table.to_pylist()).encode()
