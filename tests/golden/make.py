"""Makes the golden log of a format version: `python tests/golden/make.py tests/golden/v1`.

This is how v1 was made. A golden log is never made again: it shows that logs which were written by older
releases are read by this one, byte for byte. Another format version gets a folder and a script of its own, and
the older folders stay.

    log/                  the log, without what is derived (index/) and without writer.lock
    expected.ndjson.zst   its replay
    expected.json         its logical digest and counts
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

import evtool
from evtool import envelope
from evtool.config import Codec, Config, LogConfig
from evtool.files import Files
from evtool.lifecycle.verify import verify
from evtool.log.format import HEAD_FILE, HEAD_RECORD, seal
from evtool.log.writer import Writer

PARTITIONS = 2
MOMENT_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
LARGE, ONE_BATCH = 1 << 30, 1  # segment_bytes that never seal and that seal behind each batch

EVENT_IDS = (
    "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    "3F2504E0-4F89-41D3-9A0C-0305E82C3301",
    "00000000-0000-0000-0000-000000000000",
    "3f2504e04f8941d39a0c0305e82c3301",
    "x" * 256,
    "1",
    'quote " backslash \\ tab \t newline \n',
    "é 漢字 😀 \u2028",
)
OBJECTS = (
    "{}",
    "{ }",
    '{"z":1,"a":2,"m":{"z":[],"a":{}}}',
    '{"n":1.0,"m":1.10,"e":1e5,"E":1E+05,"z":-0,"y":-0.0}',
    '{"n":123456789012345678901234567890,"m":-9223372036854775809}',
    '{ "a" : [ 1 , 2 ] ,\t"b" : null }',
    '{"a":"\\u00e9\\/\\n\\u0000\\"\\\\","\\u0061b":true}',
    '{"a":"é 漢字 😀 \u2028","pair":"\\ud83d\\ude00"}',
    '{"same":1,"same":2}',
    '{"deep":' + "[" * 126 + "]" * 126 + "}",
    '{"long":"' + "golden" * 5_000 + '"}',
)
TIMES = (  # of every unit that frames keep: s, ms, us, ns
    [MOMENT_NS, MOMENT_NS + 10**9, -(10**9), 0],
    [MOMENT_NS + 1_000_000, MOMENT_NS],
    [MOMENT_NS + 1_000, -1_000],
    [MOMENT_NS + 1, -1, 2**63 - 1, -(2**63)],
)


def event(number: int, stream_id: str = "user-1", **fields: Any) -> dict[str, Any]:
    """A small event."""
    return {
        "event_id": f"event-{number}",
        "source_id": "shop",
        "stream_id": stream_id,
        "event_type": "ItemViewed",
        "timestamp": MOMENT_NS + number * 1_000_000,
        "payload": f'{{"number":{number}}}',
    } | fields


def many(count: int, first: int, streams: int) -> pa.RecordBatch:
    """Enough small events for dictionaries and for a frame a partition."""
    return envelope.batch(event(first + i, f"user-{i % streams}") for i in range(count))


def timed(times: list[int]) -> pa.RecordBatch:
    """Events at these times, in ns."""
    events = envelope.batch(event(i) for i in range(len(times)))
    return events.set_column(events.schema.get_field_index("timestamp"), "timestamp", pa.array(times))


def write(folder: Path, now_ns: Callable[[], int], codec: Codec, segment_bytes: int, *batches: Any) -> None:
    """Append batches, each a list, a frame, or (a map) nothing but a resume point, as one process would."""
    manifest = evtool.open(folder).manifest
    writer = Writer(Files(), folder, manifest, LogConfig(PARTITIONS, segment_bytes, codec=codec), now_ns)
    for batch in batches:
        resume = batch if isinstance(batch, Mapping) else None
        events = batch if isinstance(batch, pa.RecordBatch) else envelope.batch([] if resume else batch)
        prepared = writer.prepare(events, keep_all=True)
        writer.commit(prepared, [writer.encode(part) for part in prepared.parts], resume)
    writer.close()


def make_log(folder: Path) -> None:
    """Two sealed segments and an active one; every shape of every field, every codec and kind of frame."""
    evtool.open(folder, create=True, config=Config(log=LogConfig(PARTITIONS)))
    identity = {"id": "00112233445566778899aabbccddeeff", "created_at": "2026-01-01T00:00:00Z"}
    table = json.loads((folder / "log.json").read_text()) | identity
    (folder / "log.json").write_text(json.dumps(table, indent=2) + "\n")
    clock = iter(range(MOMENT_NS, MOMENT_NS + 10**15, 12_345_678_901))

    def now_ns() -> int:
        return next(clock)

    ids = [event(i, event_id=text) for i, text in enumerate(EVENT_IDS)]
    texts = [event(i, text, source_id=text, event_type=text) for i, text in enumerate(EVENT_IDS)]
    payloads = [event(i, payload=text) for i, text in enumerate(OBJECTS)]
    metadata = [event(i, metadata=text if i % 2 else None) for i, text in enumerate(OBJECTS)]
    versions = [event(1, "new", stream_version=1, schema_version=7), event(2, "new", schema_version=2**31 - 1)]
    plain = event(3) | {"timestamp": None, "payload": None}
    zstd = Codec("zstd", 1)
    write(folder, now_ns, zstd, LARGE, [plain], ids, texts, payloads, metadata, versions, *map(timed, TIMES))
    write(folder, now_ns, zstd, ONE_BATCH, many(2048 * PARTITIONS + 100, 1_000, streams=100))
    write(folder, now_ns, Codec("lz4", 0), LARGE, many(600, 10_000, streams=3), {"file": "events", "line": 600})
    write(folder, now_ns, Codec("none", 0), ONE_BATCH, many(300, 20_000, streams=300))
    write(folder, now_ns, zstd, LARGE, [event(1, EVENT_IDS[0])], {"line": 1}, [event(2), event(3, "last")])
    shutil.rmtree(folder / "index")
    (folder / "writer.lock").unlink()
    head = np.frombuffer((folder / HEAD_FILE).read_bytes(), HEAD_RECORD).copy()
    head["boot"] = 1  # no machine's
    (folder / HEAD_FILE).write_bytes(seal(head))


def main(target: str) -> None:
    """Make the log and what is expected of it. Refuses to make one again."""
    folder = Path(target)
    folder.mkdir(parents=True)
    make_log(folder / "log")
    log = evtool.open(folder / "log", read_only=True)
    report = verify(log)
    assert report.is_clean
    replay = b"".join(log.replay())
    (folder / "expected.ndjson.zst").write_bytes(zstandard.compress(replay, 19))
    names = ("digest", "events", "batches", "frames", "segments", "position")
    expected = {name: getattr(report, name) for name in names}
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
