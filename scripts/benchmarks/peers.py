"""The same events into DuckDB or ClickHouse.

    python peers.py duckdb|clickhouse FILE FOLDER THREADS

Prints one JSON object: the rows that the table holds, the seconds from opening the database to having it
on disk, and the bytes that it takes there. Payload and metadata are kept as JSON text, as evtool keeps
them; DuckDB keeps the order of the lines, ClickHouse's table has no order, which is the least work for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DUCKDB_COLUMNS = {
    "event_id": "VARCHAR",
    "source_id": "VARCHAR",
    "stream_id": "VARCHAR",
    "event_type": "VARCHAR",
    "timestamp": "TIMESTAMP_NS",
    "schema_version": "INTEGER",
    "payload": "JSON",
    "metadata": "JSON",
}
_CLICKHOUSE_COLUMNS = {
    "event_id": "String",
    "source_id": "LowCardinality(String)",
    "stream_id": "String",
    "event_type": "LowCardinality(String)",
    "timestamp": "DateTime64(9, 'UTC')",
    "schema_version": "Int32",
    "payload": "String",
    "metadata": "String",
}


def duckdb_ingest(file: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Create a table from the file, and write it to the database's file."""
    import duckdb

    database = folder / "events.duckdb"
    started = time.perf_counter()
    connection = duckdb.connect(str(database), config={"threads": threads})
    connection.execute(
        "CREATE TABLE events AS SELECT * FROM read_json(?, format = 'newline_delimited', columns = "
        + str(_DUCKDB_COLUMNS)
        + ")",
        [str(file)],
    )
    connection.execute("CHECKPOINT")
    seconds = time.perf_counter() - started
    events = connection.execute("SELECT count(*) FROM events").fetchall()[0][0]
    connection.close()
    return {"events": events, "seconds": seconds, "bytes": database.stat().st_size}


def clickhouse_ingest(file: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Insert the file into a MergeTree table."""
    from chdb import session

    columns = ", ".join(f"{name} {kind}" for name, kind in _CLICKHOUSE_COLUMNS.items())
    structure = columns.replace("'", "\\'")
    started = time.perf_counter()
    database = session.Session(str(folder / "clickhouse"))
    database.query("CREATE DATABASE IF NOT EXISTS shop")
    database.query(f"CREATE TABLE shop.events ({columns}) ENGINE = MergeTree ORDER BY tuple()")
    database.query(
        f"INSERT INTO shop.events SELECT * FROM file('{file}', 'JSONEachRow', '{structure}') "
        f"SETTINGS max_threads = {threads}, max_insert_threads = {threads}, "
        "input_format_json_read_objects_as_strings = 1, date_time_input_format = 'best_effort'"
    )
    seconds = time.perf_counter() - started
    events = int(str(database.query("SELECT count() FROM shop.events", "TSV")))
    size = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'shop'"
    stored = int(str(database.query(size, "TSV")))
    database.close()
    return {"events": events, "seconds": seconds, "bytes": stored}


PEERS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "duckdb": duckdb_ingest,
    "clickhouse": clickhouse_ingest,
}


def main() -> None:
    """Run the command line."""
    name, file, folder, threads = sys.argv[1:]
    print(json.dumps(PEERS[name](Path(file), Path(folder), int(threads))))


if __name__ == "__main__":
    main()
