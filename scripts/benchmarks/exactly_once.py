"""Exactly once, measured: what knowing every id costs, loading a file twice, and small durable appends.

    scripts/bench --suite exactly-once
    scripts/bench --suite exactly-once --events 200000 --rounds 1 --json

Ingest without de-duplication is the same program with the looking up and keeping of ids taken out, in a process
of its own: evtool itself has no such switch. The rounds alternate, and their medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

from ingest import EVTOOL, make_events, new_folder
from measure import limit_cores, run

CORES = 2
APPENDS = 2_000
THREADS = 8
HERE = Path(__file__).resolve()


def load(file: Path, log: Path) -> dict[str, Any]:
    """One `evtool ingest --json`, with the CPU seconds of its process."""
    done = run([EVTOOL, "ingest", "--log", str(log), "--json", str(file)])
    return done.parsed() | {"cpu_seconds": done.cpu_seconds}


def load_without_identity(file: Path, log: Path) -> dict[str, Any]:
    """The same without ids."""
    done = run([sys.executable, str(HERE), "--without-identity", str(file), str(log)])
    return done.parsed() | {"cpu_seconds": done.cpu_seconds}


def ingest_without_identity(file: str, log: str) -> None:
    """What runs in that process: an index that knows nothing and keeps nothing."""
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()
    import numpy as np

    from evtool.config import IngestConfig
    from evtool.ingest.pipeline import Ingest
    from evtool.log import identity
    from evtool.log.log import open as open_log

    def sight(self: Any, events: Any, rows: Any, hashes: Any) -> identity.Sight:
        nothing = np.zeros(0, np.int64)
        return identity.Sight(np.ones(len(rows), bool), nothing, nothing, identity.Verdicts.none())

    identity.Identity.hashes = lambda self, events: np.zeros(len(events), np.uint64)  # type: ignore[method-assign]
    identity.Identity.sight = sight  # type: ignore[method-assign]
    identity.Identity.reserve = lambda self, placed: None  # type: ignore[method-assign]
    identity.Identity.settle = lambda self, applied: None  # type: ignore[method-assign]
    with open_log(log, create=True) as opened:
        summary = Ingest(opened, [file], IngestConfig()).run()
    print(json.dumps({"accepted": summary.accepted, "seconds": summary.seconds}))


def appends(folder: Path, threads: int) -> float:
    """Durable appends of one event a second, by so many threads at once."""
    import evtool

    with evtool.open(folder, create=True) as log:

        def append(number: int) -> None:
            stream = {"source_id": "bench", "stream_id": f"user-{number % 500}", "event_type": "ItemViewed"}
            log.append([stream | {"event_id": f"{threads}-{number}", "payload": {"number": number}}])

        def append_all(first: int) -> None:
            for number in range(first, APPENDS * (2 if threads > 1 else 1), threads):
                append(number)

        append(-1)
        workers = [Thread(target=append_all, args=(first,)) for first in range(threads)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        count = log.position - 1
        return count / (time.perf_counter() - started)


def sync_seconds(folder: Path) -> float:
    """The median time of a write and an fdatasync here."""
    times = []
    descriptor = os.open(folder / "synced", os.O_CREAT | os.O_WRONLY)
    for _ in range(200):
        started = time.perf_counter()
        os.write(descriptor, bytes(2_000))
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - started)
    os.close(descriptor)
    return statistics.median(times)


def measure(events: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything that is measured, as plain values."""
    file = make_events(events, folder)
    first, second, without = [], [], []
    index_bytes = 0
    for _ in range(rounds):
        with new_folder(folder) as place:
            first.append(load(file, place / "log"))
            index_bytes = (place / "log" / "index" / "ids.table").stat().st_size
            second.append(load(file, place / "log"))
        with new_folder(folder) as place:
            without.append(load_without_identity(file, place / "log"))
    if any(one["accepted"] != events for one in (*first, *without)) or any(one["accepted"] for one in second):
        raise RuntimeError("a load did not store each event exactly once")
    syncs, ones, manies = [], [], []
    for _ in range(rounds):
        with new_folder(folder) as place:
            syncs.append(sync_seconds(place))
            ones.append(appends(place / "one", 1))
            manies.append(appends(place / "many", THREADS))

    def median(runs: list[dict[str, Any]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    return {
        "events": events,
        "rounds": rounds,
        "first": {key: median(first, key) for key in ("seconds", "cpu_seconds")},
        "second": {key: median(second, key) for key in ("seconds", "cpu_seconds")},
        "without": {key: median(without, key) for key in ("seconds", "cpu_seconds")},
        "index_bytes_per_id": index_bytes / events,
        "sync_seconds": statistics.median(syncs),
        "appends_per_second": statistics.median(ones),
        "appends_per_second_of_threads": statistics.median(manies),
    }


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines of Markdown."""
    yield f"{found['events']:,} events; medians of {found['rounds']} rounds"
    yield ""
    yield "| ingest | events/s | CPU s | of the rate without ids | of its CPU |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    base = found["without"]
    for name, title in (("without", "without ids"), ("first", "with ids"), ("second", "the same file again")):
        row = found[name]
        yield (
            f"| {title} | {found['events'] / row['seconds']:,.0f} | {row['cpu_seconds']:.2f} "
            f"| {base['seconds'] / row['seconds']:.2f} | {row['cpu_seconds'] / base['cpu_seconds']:.2f} |"
        )
    yield ""
    yield f"ids.table: {found['index_bytes_per_id']:.1f} bytes an id"
    yield (
        f"durable appends of one event: {found['appends_per_second']:,.0f} a second; of {THREADS} threads "
        f"{found['appends_per_second_of_threads']:,.0f}; a write and its fdatasync take "
        f"{found['sync_seconds'] * 1e3:.2f} ms here"
    )


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["--without-identity"]:
        ingest_without_identity(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser("scripts/bench --suite exactly-once")
    parser.add_argument("--events", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    chosen = parser.parse_args()
    limit_cores(CORES)
    with new_folder(Path(tempfile.gettempdir())) as folder:
        found = measure(chosen.events, chosen.rounds, folder)
    print(json.dumps(found) if chosen.json else "\n".join(report(found)))


if __name__ == "__main__":
    main()
