"""Compaction, measured: what it takes and gives, beside an ingest, and projections over what it made.

    scripts/bench --suite cold
    scripts/bench --suite cold --events 1000000 --rounds 1 --json

The shop's events in a log of sealed segments. Bytes on disk, with the columns that built-in projections read, are
held against `zstd -3` of the NDJSON. Each compaction is of a fresh copy of the same log; an ingest of more events
runs alone on one, and on another while it is compacted. Then projections in full over the compacted log take turns
with DuckDB (its own table) and ClickHouse (MergeTree) over the same events, as in the suite "projections".
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingest import EVTOOL, make_events, new_folder, zstd_bytes
from measure import Run, limit_cores, run
from projections import load_peers, measure_full, report_full

CORES = 2
NAMES = ("daily-active-users", "revenue-by-product")
MORE_SHARE = 5  # one in so many events is ingested beside


def load(events: int, folder: Path) -> dict[str, float]:
    """A log of sealed segments in `hot`, the same events in both peers, more of them in `more`; sizes in bytes."""
    file = make_events(events, folder)
    run([EVTOOL, "ingest", "--log", str(folder / "hot"), "--json", str(file)])
    _seal(folder / "hot")
    load_peers(file, folder)
    sizes = {"ndjson": file.stat().st_size, "zstd -3": zstd_bytes(file), "sealed": _stored_bytes(folder / "hot")}
    file.unlink()
    more = [sys.executable, "-m", "evtool.shop", "--events", str(events // MORE_SHARE), "--seed", "2"]
    run([*more, "--out", str(folder / "more.ndjson")])
    return sizes


def _seal(log: Path) -> None:
    """One more event, for which a new segment begins."""
    settings = log.with_name("seal")
    settings.mkdir()
    (settings / "evtool.toml").write_text(f'[log]\npath = "{log}"\nsegment_bytes = "64KiB"\n')
    line = {"event_id": "last", "source_id": "bench", "stream_id": "bench", "event_type": "Sealed", "payload": {}}
    (settings / "last.ndjson").write_text(json.dumps(line) + "\n")
    run(["env", "-C", str(settings), EVTOOL, "ingest", "last.ndjson"])


def _stored_bytes(log: Path) -> int:
    """Bytes of all segments: events, maps, summaries and indexes of streams."""
    return sum(file.stat().st_size for folder in log.glob("0*") for file in folder.iterdir())


def _copy(hot: Path, log: Path) -> Path:
    shutil.rmtree(log, ignore_errors=True)
    shutil.copytree(hot, log)
    return log


def _compact(log: Path) -> list[str]:
    return [EVTOOL, "compact", "--log", str(log), "--json"]


def measure_compact(folder: Path, rounds: int) -> dict[str, float]:
    """Events, and medians of wall and CPU seconds; `log` is the last copy, compacted."""
    runs = []
    for _ in range(rounds):
        runs.append(run(_compact(_copy(folder / "hot", folder / "log"))))
    return {
        "events": runs[-1].parsed()["events"],
        "seconds": statistics.median(one.seconds for one in runs),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in runs),
        "peak_bytes": statistics.median(one.peak_bytes for one in runs),
        "stored_bytes": _stored_bytes(folder / "log"),
    }


def measure_beside(folder: Path, rounds: int) -> dict[str, float]:
    """Median events/s of an ingest alone, and of one that a compaction runs beside from its start to its end."""
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    for number in range(2 * rounds):
        name = ("alone", "beside")[number % 2]
        log = _copy(folder / "hot", folder / "beside")
        compaction = None
        if name == "beside":
            compaction = subprocess.Popen(_compact(log), stdout=subprocess.DEVNULL)
        done: Run = run([EVTOOL, "ingest", "--log", str(log), "--json", str(folder / "more.ndjson")])
        rates[name].append(done.parsed()["accepted"] / done.seconds)
        if compaction is not None:
            if compaction.poll() is not None:
                raise RuntimeError("the compaction ended before the ingest did")
            if compaction.wait():
                raise RuntimeError("the compaction failed")
    return {name: statistics.median(of) for name, of in rates.items()}


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as Markdown."""
    sizes, compact, beside = found["bytes"], found["compact"], found["beside"]
    events = found["events"]
    yield f"{events:,} events, {CORES} cores, medians of {found['rounds']} rounds"
    yield ""
    yield "| bytes an event | | of zstd -3 |"
    yield "| --- | ---: | ---: |"
    for name, size in sizes.items():
        yield f"| {name} | {size / events:.1f} | {size / sizes['zstd -3']:.2f} |"
    yield ""
    yield "| | |"
    yield "| --- | ---: |"
    yield f"| compact, events/s | {compact['events'] / compact['seconds']:,.0f} |"
    yield f"| compact, CPU µs an event | {compact['cpu_seconds'] / compact['events'] * 1e6:.2f} |"
    yield f"| compact, peak memory MB | {compact['peak_bytes'] / 1e6:,.0f} |"
    yield f"| ingest alone, events/s | {beside['alone']:,.0f} |"
    yield f"| ingest beside compact, events/s | {beside['beside']:,.0f} |"
    yield f"| the one as a part of the other | {beside['beside'] / beside['alone']:.2f} |"
    yield ""
    yield from report_full(found["full"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure compaction, and projections over compacted events.")
    parser.add_argument("--events", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    chosen = parser.parse_args()
    limit_cores(CORES)
    with new_folder(Path(tempfile.gettempdir())) as folder:
        sizes = load(chosen.events, folder)
        compact = measure_compact(folder, chosen.rounds)
        found = {
            "events": chosen.events,
            "rounds": chosen.rounds,
            "bytes": sizes | {"compacted": compact.pop("stored_bytes")},
            "compact": compact,
            "beside": measure_beside(folder, chosen.rounds),
            "full": measure_full(folder, chosen.rounds, NAMES),
        }
    print(json.dumps(found) if chosen.json else "\n".join(report(found)))


if __name__ == "__main__":
    main()
