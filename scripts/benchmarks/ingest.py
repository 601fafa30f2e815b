"""Ingest, measured beside DuckDB and ClickHouse: the same events, the same two cores, turn by turn.

    scripts/bench                      two million events, three rounds
    scripts/bench --events 200000 --rounds 1 --json

Every engine reads the same NDJSON file of `evtool.shop` into a database of its own that is new each time,
in a process of its own. The rounds alternate, so that what the machine does besides hits all of them, and
the median of the rounds counts. The number of events in each database is checked; no time is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zstandard
from measure import Run, limit_cores, run

CORES = 2
HELP_RUNS = 10
HERE = Path(__file__).resolve().parent
EVTOOL = str(Path(sys.executable).with_name("evtool"))

FILE, PIPE, DUCKDB, CLICKHOUSE = "evtool, file", "evtool, pipe", "DuckDB", "ClickHouse"


@dataclass(frozen=True)
class Measured:
    """One ingest: events, the process from start to end, the engine's own seconds, the bytes on disk."""

    events: int
    process_seconds: float
    engine_seconds: float
    cpu_seconds: float
    peak_bytes: int
    stored_bytes: int


def ingest_evtool(file: Path, folder: Path, piped: bool) -> Measured:
    """`evtool ingest` with its defaults: every batch is synced before it is acknowledged."""
    log = str(folder / "log")
    command = [EVTOOL, "ingest", "--log", log, "--json"]
    done = run(command, piped=file) if piped else run([*command, str(file)])
    stats = run([EVTOOL, "stats", "--log", log, "--json"]).parsed()
    return _measured(done, stats["events"], done.parsed()["seconds"], stats["bytes_on_disk"])


def ingest_peer(name: str, file: Path, folder: Path) -> Measured:
    """DuckDB or ClickHouse."""
    done = run([sys.executable, str(HERE / "peers.py"), name, str(file), str(folder), str(CORES)])
    said = done.parsed()
    return _measured(done, said["events"], said["seconds"], said["bytes"])


def _measured(done: Run, events: int, engine_seconds: float, stored_bytes: int) -> Measured:
    return Measured(events, done.seconds, engine_seconds, done.cpu_seconds, done.peak_bytes, stored_bytes)


ENGINES: dict[str, Callable[[Path, Path], Measured]] = {
    FILE: lambda file, folder: ingest_evtool(file, folder, piped=False),
    PIPE: lambda file, folder: ingest_evtool(file, folder, piped=True),
    DUCKDB: lambda file, folder: ingest_peer("duckdb", file, folder),
    CLICKHOUSE: lambda file, folder: ingest_peer("clickhouse", file, folder),
}


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_events(count: int, folder: Path) -> Path:
    """The shop's events in a file, in the page cache, as every engine then finds it."""
    file = folder / "events.ndjson"
    run([sys.executable, "-m", "evtool.shop", "--events", str(count), "--seed", "1", "--out", str(file)])
    return file


def zstd_bytes(file: Path) -> int:
    """The size of the file compressed with zstd, level 3."""
    compressor = zstandard.ZstdCompressor(level=3, threads=CORES)
    with file.open("rb") as source, Path(os.devnull).open("wb") as sink:
        _, size = compressor.copy_stream(source, sink)
    return size


def measure_ingest(file: Path, events: int, rounds: int, folder: Path) -> dict[str, list[Measured]]:
    """Each engine once a round. Raises RuntimeError if one does not hold all events in the end."""
    results: dict[str, list[Measured]] = {name: [] for name in ENGINES}
    for number in range(rounds):
        for name, ingest in ENGINES.items():
            with new_folder(folder) as place:
                measured = ingest(file, place)
            if measured.events != events:
                raise RuntimeError(f"{name} holds {measured.events:,} events of {events:,}")
            speed = events / measured.process_seconds
            sys.stderr.write(f"round {number + 1} of {rounds}: {name}: {speed:,.0f} events/s\n")
            results[name].append(measured)
    return results


def measure_replay(file: Path, rounds: int, folder: Path) -> list[Run]:
    """`evtool replay > /dev/null` of all events."""
    with new_folder(folder) as place:
        log = str(place / "log")
        run([EVTOOL, "ingest", "--log", log, str(file)])
        return [run([EVTOOL, "replay", "--log", log], discard=True) for _ in range(rounds)]


def summary(results: list[Measured], events: int) -> dict[str, float]:
    """The medians over the rounds, for one event or one second."""

    def median(value: Callable[[Measured], float]) -> float:
        return statistics.median(map(value, results))

    return {
        "events_per_second": events / median(lambda one: one.process_seconds),
        "engine_events_per_second": events / median(lambda one: one.engine_seconds),
        "cpu_seconds": median(lambda one: one.cpu_seconds),
        "peak_bytes": median(lambda one: one.peak_bytes),
        "stored_bytes_per_event": median(lambda one: one.stored_bytes) / events,
    }


def measure(events: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything that is measured, as plain values."""
    busy = os.getloadavg()[0]
    file = make_events(events, folder)
    text_bytes, compressed_bytes = file.stat().st_size, zstd_bytes(file)
    results = measure_ingest(file, events, rounds, folder)
    replays = measure_replay(file, rounds, folder)
    engines = {name: summary(results[name], events) for name in ENGINES}
    replay_seconds = statistics.median(one.seconds for one in replays)
    return {
        "events": events,
        "rounds": rounds,
        "machine": f"{platform.system()} {platform.machine()}, {CORES} of {os.cpu_count()} cores",
        "load_before": busy,
        "versions": {name: version(name) for name in ("evtool", "duckdb", "chdb-core")},
        "text_bytes_per_event": text_bytes / events,
        "zstd_bytes_per_event": compressed_bytes / events,
        "ingest": engines,
        "ratios": {
            f"{own} / {peer}": {
                key: engines[own][key] / engines[peer][key]
                for key in ("events_per_second", "engine_events_per_second")
            }
            for peer in (DUCKDB, CLICKHOUSE)
            for own in (FILE, PIPE)
        },
        "replay": {
            "events_per_second": events / replay_seconds,
            "cpu_seconds": statistics.median(one.cpu_seconds for one in replays),
            "peak_bytes": statistics.median(one.peak_bytes for one in replays),
        },
        "help_seconds": statistics.median(run([EVTOOL, "--help"]).seconds for _ in range(HELP_RUNS)),
        "rounds_in_full": {name: [asdict(one) for one in results[name]] for name in ENGINES},
    }


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines of Markdown."""
    events, versions = found["events"], found["versions"]
    yield f"{events:,} events of {found['text_bytes_per_event']:.0f} bytes of NDJSON; {found['machine']}; "
    yield f"medians of {found['rounds']} rounds; " + ", ".join(f"{name} {text}" for name, text in versions.items())
    yield ""
    yield "| ingest | events/s, process | events/s, engine | CPU s | peak RSS, MB | bytes/event on disk |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, row in found["ingest"].items():
        yield (
            f"| {name} | {row['events_per_second']:,.0f} | {row['engine_events_per_second']:,.0f} "
            f"| {row['cpu_seconds']:.2f} | {row['peak_bytes'] / 1e6:,.0f} | {row['stored_bytes_per_event']:.1f} |"
        )
    yield f"| NDJSON, zstd -3 | | | | | {found['zstd_bytes_per_event']:.1f} |"
    yield ""
    yield "| ratio of events/s | process | engine |"
    yield "| --- | ---: | ---: |"
    for name, ratio in found["ratios"].items():
        yield f"| {name} | {ratio['events_per_second']:.2f} | {ratio['engine_events_per_second']:.2f} |"
    replay = found["replay"]
    yield ""
    yield (
        f"`evtool replay > /dev/null`: {replay['events_per_second']:,.0f} events/s, "
        f"{replay['cpu_seconds']:.2f} CPU s, {replay['peak_bytes'] / 1e6:,.0f} MB at its peak. "
        f"`evtool --help`: {found['help_seconds']:.3f} s, median of {HELP_RUNS}."
    )
    yield ""
    if found["load_before"] > CORES / 2:
        yield f"The machine was busy (load {found['load_before']:.1f}): trust the CPU seconds more than the rest."
    yield "evtool syncs every batch to the disk, DuckDB its checkpoint, ClickHouse nothing (its default)."


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/bench", description="Measure ingest beside DuckDB and ClickHouse.")
    option = parser.add_argument
    option("--events", type=int, default=2_000_000, metavar="N", help="how many (default: 2,000,000)")
    option("--rounds", type=int, default=3, metavar="N", help="how often each engine runs (default: 3)")
    option("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args()


def main() -> None:
    """Run the command line. The files lie in the temporary folder (TMPDIR) and are removed."""
    chosen = arguments()
    limit_cores(CORES)
    with new_folder(Path(tempfile.gettempdir())) as folder:
        found = measure(chosen.events, chosen.rounds, folder)
    print(json.dumps(found) if chosen.json else "\n".join(report(found)))


if __name__ == "__main__":
    main()
