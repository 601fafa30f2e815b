"""Reading a little of much, measured: open a log, find an event by its id, read a short and a scattered stream.

    scripts/bench --suite reading
    scripts/bench --suite reading --events 200000 --rounds 1 --json

The shop's events, and among them, evenly spread, one stream of 20 events and one of 1,000. Everything is asked in
one process, from the page cache; the medians of the rounds count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ingest import EVTOOL, new_folder
from measure import limit_cores

from evtool import shop

CORES = 2
PARTITIONS = 32
SEGMENT_BYTES = "64MiB"  # smaller than usual, so that most of the log is sealed
BATCH_EVENTS = 105_000  # about 3,300 events a frame, and 30,000 frames for 100 million events
STREAMS = {"short": 20, "scattered": 1_000}


def spread(events: int) -> Iterator[bytes]:
    """So many of the shop's events as blocks of lines, with the events of the two streams evenly between them."""
    before = 0
    for block in shop.blocks(events, seed=1):
        lines = block.splitlines(keepends=True)
        marked: dict[int, list[dict[str, Any]]] = {}
        for name, count in STREAMS.items():
            step = events // count
            for number in range(
                -(-(before - step // 2) // step), (before + len(lines) - 1 - step // 2) // step + 1
            ):
                if 0 <= number < count:
                    marked.setdefault(number * step + step // 2 - before, []).append(_event(name, number))
        start = 0
        for at in sorted(marked):
            yield b"".join(lines[start:at])
            yield b"".join(json.dumps(event).encode() + b"\n" for event in marked[at])
            start = at
        yield b"".join(lines[start:])
        before += len(lines)


def _event(stream: str, number: int) -> dict[str, Any]:
    return {
        "event_id": f"{stream}-{number}",
        "source_id": "bench",
        "stream_id": stream,
        "event_type": "ItemViewed",
        "payload": {"number": number},
    }


def make_log(events: int, folder: Path) -> Path:
    """A log of so many of the shop's events, and the two streams, from a pipe: 100 million need no other disk."""
    log = folder / "segments"
    (folder / "evtool.toml").write_text(
        f'[log]\npath = "{log}"\npartitions = {PARTITIONS}\nsegment_bytes = "{SEGMENT_BYTES}"\n'
        f"[ingest]\nbatch_events = {BATCH_EVENTS}\n"
    )
    command = ["env", "-C", str(folder), EVTOOL, "ingest", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ingest:
        assert ingest.stdin is not None
        assert ingest.stdout is not None
        for block in spread(events):
            ingest.stdin.write(block)
        ingest.stdin.close()
        told = json.loads(ingest.stdout.read())
    if told["accepted"] != events + sum(STREAMS.values()):
        raise RuntimeError("the log does not hold each event once")
    return log


def milliseconds(rounds: int, ask: Callable[[], object]) -> float:
    """The median time of a question."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def measure(log: Path, rounds: int) -> dict[str, Any]:
    """Everything that is measured, as plain values."""
    import evtool

    opened = evtool.open(log, read_only=True)
    for name, count in STREAMS.items():
        if opened.stream(name)["stream_version"].to_list() != list(range(1, count + 1)):
            raise RuntimeError(f"the stream {name} does not come back whole")
    middle = f"scattered-{STREAMS['scattered'] // 2}"
    rows = [segment.event_rows()["header"] for segment in opened.snapshot().segments]
    return {
        "events": opened.position,
        "segments": len(rows),
        "frames": sum(len(headers) for headers in rows),
        "rounds": rounds,
        "index_bytes": sum(file.stat().st_size for file in log.glob("*/streams.idx")),
        "log_bytes": sum(file.stat().st_size for file in log.glob("*/frames.log")),
        "open": milliseconds(rounds, lambda: evtool.open(log, read_only=True).position),
        "find": milliseconds(rounds, lambda: opened.find(middle)),
    } | {name: milliseconds(rounds, lambda name=name: opened.stream(name)) for name in STREAMS}


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines of Markdown."""
    yield (
        f"{found['events']:,} events in {found['segments']} segments and {found['frames']:,} frames; "
        f"medians of {found['rounds']} rounds"
    )
    yield ""
    yield "| asked | ms |"
    yield "| --- | ---: |"
    yield f"| open the log | {found['open']:.1f} |"
    yield f"| find an event by its id | {found['find']:.1f} |"
    for name, count in STREAMS.items():
        yield f"| a stream of {count:,} events | {found[name]:.1f} |"
    yield ""
    yield f"streams.idx: {found['index_bytes'] / found['log_bytes']:.1%} of frames.log"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("scripts/bench --suite reading")
    parser.add_argument("--events", type=int, default=4_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="read this log, which an earlier run has made")
    parser.add_argument(
        "--make", type=Path, metavar="FOLDER", help="only make the log, in this folder, and keep it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    chosen = parser.parse_args()
    limit_cores(CORES)
    if chosen.make:
        print(make_log(chosen.events, chosen.make))
        return
    with new_folder(Path(tempfile.gettempdir())) as folder:
        found = measure(chosen.log or make_log(chosen.events, folder), chosen.rounds)
    print(json.dumps(found) if chosen.json else "\n".join(report(found)))


if __name__ == "__main__":
    main()
