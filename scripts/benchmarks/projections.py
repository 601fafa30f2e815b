"""Projections, measured: in full and refreshed, beside DuckDB (its own table) and ClickHouse (MergeTree).

    scripts/bench --suite projections
    scripts/bench --suite projections --events 1000000 --rounds 3 --json

The same events for all three, loaded before. What is timed is the question alone, in a process that is open
already, the rounds taking turns; the log is hot, as ingest wrote it, and evtool writes its state and its Parquet,
too. The refresh and the strong read are whole commands, from their start to their end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest import EVTOOL, make_events, new_folder
from measure import limit_cores, run
from peers import PEERS

CORES = 2
MORE_EVENTS = 100_000
WITHIN_SECONDS = 86_400
STEPS = ("UserViewedPage", "ItemViewed", "ItemPurchased")
HERE = Path(__file__).resolve()

# The funnel in DuckDB: for each user the latest start of a chain, step by step, by window functions.
_DUCKDB = {
    "daily-active-users": """
        select cast(timestamp as date) as day, count(distinct coalesce(payload->>'$.user_id', stream_id)) as users
        from events group by 1 order by 1""",
    "revenue-by-product": """
        select cast(timestamp as date) as day, payload->>'$.product_id' as product_id,
            sum(cast(payload->>'$.amount' as decimal(18,2))) as revenue, count(*) as orders,
            count(distinct coalesce(payload->>'$.user_id', stream_id)) as buyers
        from events where event_type = 'ItemPurchased' group by 1, 2 order by 1, 2""",
    "funnel-conversion": f"""
        with steps as (
            select coalesce(payload->>'$.user_id', stream_id) as actor, timestamp as at_time, rowid as place,
                case event_type when '{STEPS[0]}' then 1 when '{STEPS[1]}' then 2 else 3 end as step
            from events where event_type in {STEPS}),
        first as (select *, max(case when step = 1 then at_time end) over chain as start1 from steps
            window chain as (partition by actor order by at_time, place rows unbounded preceding)),
        second as (select *,
            max(case when step = 2 and at_time - start1 <= interval 1 day then start1 end) over chain as start2
            from first window chain as (partition by actor order by at_time, place rows unbounded preceding)),
        depths as (select actor, max(case when step = 3 and at_time - start2 <= interval 1 day then 3
            when step = 2 and at_time - start1 <= interval 1 day then 2 when step = 1 then 1 else 0 end) as depth
            from second group by actor)
        select count(*) filter (where depth >= 1), count(*) filter (where depth >= 2),
            count(*) filter (where depth >= 3) from depths""",
}
_USER = "if(JSONHas(payload, 'user_id'), JSONExtractString(payload, 'user_id'), stream_id)"
_CLICKHOUSE = {
    "daily-active-users": f"""
        select toDate(timestamp, 'UTC') as day, uniqExact({_USER}) as users
        from shop.events group by day order by day""",
    "revenue-by-product": f"""
        select toDate(timestamp, 'UTC') as day, JSONExtractString(payload, 'product_id') as product_id,
            sum(toDecimal128(JSONExtractString(payload, 'amount'), 2)) as revenue, count() as orders,
            uniqExact({_USER}) as buyers
        from shop.events where event_type = 'ItemPurchased' group by day, product_id order by day, product_id""",
    "funnel-conversion": f"""
        select countIf(depth >= 1), countIf(depth >= 2), countIf(depth >= 3) from (
            select {_USER} as actor, windowFunnel({WITHIN_SECONDS * 1000})(
                toUInt64(toUnixTimestamp64Milli(timestamp)),
                event_type = '{STEPS[0]}', event_type = '{STEPS[1]}', event_type = '{STEPS[2]}') as depth
            from shop.events where event_type in {STEPS} group by actor)""",
}
NAMES = tuple(_DUCKDB)


def evtool_asker(folder: Path) -> Callable[[str], float]:
    """Seconds of a full run of a projection over the log."""
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # as `evtool project` does
    import evtool
    from evtool.config import Config
    from evtool.projections import projection as projections

    log = evtool.open(folder / "log", read_only=True)
    config = Config(log_path=folder / "log")

    def ask(name: str) -> float:
        started = time.perf_counter()
        projections.open(log, name, config).runner.refresh(full=True)
        return time.perf_counter() - started

    return ask


def duckdb_asker(folder: Path) -> Callable[[str], float]:
    """Seconds of the same question to DuckDB."""
    import duckdb

    connection = duckdb.connect(str(folder / "events.duckdb"), config={"threads": CORES}, read_only=True)

    def ask(name: str) -> float:
        started = time.perf_counter()
        connection.sql(_DUCKDB[name]).to_arrow_table()
        return time.perf_counter() - started

    return ask


def clickhouse_asker(folder: Path) -> Callable[[str], float]:
    """Seconds of the same question to ClickHouse."""
    from chdb import session

    database = session.Session(str(folder / "clickhouse"))

    def ask(name: str) -> float:
        started = time.perf_counter()
        database.query(f"{_CLICKHOUSE[name]} settings max_threads = {CORES}", "Native")
        return time.perf_counter() - started

    return ask


ASKERS = {"evtool": evtool_asker, "DuckDB": duckdb_asker, "ClickHouse": clickhouse_asker}


def serve(engine: str, folder: Path) -> None:
    """Answer each name of a projection on standard input with its seconds, in a process of one engine."""
    limit_cores(CORES)
    ask = ASKERS[engine](folder)
    for line in sys.stdin:
        print(ask(line.strip()), flush=True)


class Engine:
    """One engine in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        command = [sys.executable, str(HERE), "--serve", name, "--folder", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, name: str) -> float:
        """Seconds of one question."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def load(events: int, folder: Path) -> None:
    """The same events into all three."""
    file = make_events(events, folder)
    run([EVTOOL, "ingest", "--log", str(folder / "log"), "--json", str(file)])
    load_peers(file, folder)
    file.unlink()


def load_peers(file: Path, folder: Path) -> None:
    """The events of a file into the tables of the other two."""
    for name in PEERS:
        run([sys.executable, str(HERE.with_name("peers.py")), name, str(file), str(folder), str(CORES)])


def measure_full(folder: Path, rounds: int, names: Sequence[str] = NAMES) -> dict[str, dict[str, float]]:
    """Median seconds by projection and engine."""
    engines = {name: Engine(name, folder) for name in ASKERS}
    times: dict[str, dict[str, list[float]]] = {name: {engine: [] for engine in engines} for name in names}
    for number in range(rounds + 1):  # the first one warms everybody up
        for name in names:
            for engine, process in engines.items():
                seconds = process.ask(name)
                if number:
                    times[name][engine].append(seconds)
    for process in engines.values():
        process.close()
    return {name: {engine: statistics.median(of) for engine, of in found.items()} for name, found in times.items()}


def measure_refresh(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of `evtool project` after new events, and with nothing new."""
    log = folder / "log"
    times: dict[str, dict[str, list[float]]] = {name: {"refresh": [], "nothing new": []} for name in NAMES}
    for name in NAMES:
        run([EVTOOL, "project", name, "--log", str(log), "--format", "json"])
    for number in range(rounds):
        later = json.loads(run([EVTOOL, "stats", "--log", str(log), "--json"]).output)["timestamp_max"][:19]
        generate = [
            sys.executable,
            "-m",
            "evtool.shop",
            "--events",
            str(MORE_EVENTS),
            "--seed",
            str(1000 + number),
        ]
        file = folder / "more.ndjson"
        run([*generate, "--start", later + "Z", "--out", str(file)])
        run([EVTOOL, "ingest", "--log", str(log), "--json", str(file)])
        for name in NAMES:
            for kind in times[name]:
                times[name][kind].append(
                    run([EVTOOL, "project", name, "--log", str(log), "--format", "json"]).seconds
                )
    return {name: {kind: statistics.median(of) for kind, of in found.items()} for name, found in times.items()}


def report_full(full: dict[str, dict[str, float]]) -> Iterator[str]:
    """What `measure_full` gave as a table in Markdown."""
    yield "| in full | evtool | DuckDB | ClickHouse | evtool / DuckDB | evtool / ClickHouse |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, by in full.items():
        own, duckdb, clickhouse = (by[engine] for engine in ASKERS)
        ratios = f"{own / duckdb:.2f} | {own / clickhouse:.2f}"
        yield f"| {name} | {own:.2f} | {duckdb:.2f} | {clickhouse:.2f} | {ratios} |"


def report(found: dict[str, Any]) -> Iterator[str]:
    """The same as Markdown."""
    yield f"{found['events']:,} events, {CORES} cores, medians of {found['rounds']} rounds, seconds"
    yield ""
    yield from report_full(found["full"])
    yield ""
    yield f"| command | after {MORE_EVENTS:,} new events | with nothing new |"
    yield "| --- | ---: | ---: |"
    for name, by in found["refresh"].items():
        yield f"| evtool project {name} | {by['refresh']:.2f} | {by['nothing new']:.2f} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure projections beside DuckDB and ClickHouse.")
    parser.add_argument("--events", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where an earlier run has kept all three")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="load into this folder, and keep it")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--serve", choices=sorted(ASKERS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.folder)
        return
    limit_cores(CORES)
    with new_folder(Path(tempfile.gettempdir())) as temporary:
        folder = chosen.folder or chosen.keep or temporary
        folder.mkdir(exist_ok=True)
        if not chosen.folder:
            load(chosen.events, folder)
        found = {
            "events": chosen.events,
            "rounds": chosen.rounds,
            "full": measure_full(folder, chosen.rounds),
            "refresh": measure_refresh(folder, chosen.rounds),
        }
    print(json.dumps(found) if chosen.json else "\n".join(report(found)))


if __name__ == "__main__":
    main()
