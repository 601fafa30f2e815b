"""DuckDB, ClickHouse and Polars read the files of an archive as README says, and find what the log says."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import chdb
import duckdb
import polars as pl
import pytest
from archives import SMALL, archived, check_archive, dropped, store_folder
from bucket_server import Server
from compacting import small_pieces
from samples import MOMENT_NS, frame, make_log

import evtool
from evtool.files import Files
from evtool.lifecycle.compact import compact
from evtool.lifecycle.forgetting import erasing
from evtool.lifecycle.materialising import Chosen, canonical
from evtool.lifecycle.rewriting import rewrite, rewriting_lock
from evtool.objectstore.opening import open_store
from evtool.timestamps import SECOND_NS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PLACE = "/mnt/archive/shop"
NAMES = ["event_type", "events", "ids", "amount", "latest"]


def block(begins: str) -> str:
    """The code of README that begins like this, without that."""
    (found,) = re.findall(rf"```\w+\n{re.escape(begins)}[^\n]*\n(.*?)```", README, re.DOTALL)
    return str(found)


def sent(first: int, unit_ns: int) -> list[dict[str, Any]]:
    """Events with ids of both kinds, and times that need a unit."""
    chance = random.Random(first)
    return [
        {
            "event_id": str(UUID(int=chance.getrandbits(128), version=4)) if number % 3 else f"order {number}",
            "source_id": "shop",
            "stream_id": f"user-{number % 7}",
            "event_type": ("Viewed", "Bought", "Rare")[number % 3],
            "timestamp": MOMENT_NS + number * 3_600 * SECOND_NS + (number % 5) * unit_ns,
            "payload": json.dumps({"amount": f"{number}.{number % 100:02}", "text": 'é"\n'}, ensure_ascii=False),
        }
        | ({"metadata": '{"tenant":"a"}'} if number % 4 == 0 else {})
        for number in range(first, first + 100)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose archive has files of three units of time, with and without columns of paths, one without events,
    one with some that were dropped and some that were erased.
    """
    folder = tmp_path_factory.mktemp("foreign") / "segments"
    for number, unit_ns in enumerate((1_000_000, 1, 1_000, 1_000_000)):
        make_log(folder, [frame(sent(number * 100, unit_ns))], SMALL)
        names = canonical(["payload.amount"], "--materialise") if number in (1, 3) else []
        with small_pieces(), evtool.open(folder) as log:
            compact(log, 0, Chosen(tuple(names)))
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        erase = erasing(lambda events: events["position"].to_numpy() % 10 == 0, log.manifest.id_bytes)
        rewrite(log, [log.snapshot().segments[2]], [], erase)
        lock.release()
        size = sum(each.log_bytes for each in log.snapshot().segments)
    archived(folder)
    dropped(folder, size=size - 1)
    dropped(folder, types={"Rare": 1}, by="timestamp")
    assert check_archive(folder).segments == 4
    return folder


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[tuple[Any, ...]]:
    """What the log itself says, of each type."""
    with evtool.open(folder, read_only=True) as log:
        events = pl.concat(log.scan())
    found = (
        events.with_columns(amount=pl.col("payload").str.json_path_match("$.amount").cast(pl.Decimal(18, 2)))
        .group_by("event_type")
        .agg(pl.len(), pl.col("event_id").n_unique(), pl.col("amount").sum(), pl.col("timestamp").max())
        .sort("event_type")
        .rows()
    )
    assert len(found) == 2
    assert sum(row[1] for row in found) == 200
    return found


def check(rows: list[dict[str, Any]], wanted: list[tuple[Any, ...]]) -> None:
    assert [list(row) for row in rows] == [NAMES] * len(wanted)
    told = [(row["event_type"], row["events"], row["ids"], Decimal(str(row["amount"]))) for row in rows]
    assert told == [row[:4] for row in wanted]


def test_duckdb(folder: Path, wanted: list[tuple[Any, ...]]):
    text = block("-- DuckDB").replace(PLACE, str(store_folder(folder)))
    check(duckdb.sql(text).pl().to_dicts(), wanted)
    latest = duckdb.sql(f"SELECT epoch_ns(latest) FROM ({text}) ORDER BY event_type").fetchall()
    assert [row for (row,) in latest] == [row[4] for row in wanted]


def test_clickhouse(folder: Path, wanted: list[tuple[Any, ...]]):
    text = block("-- ClickHouse").replace(PLACE, str(store_folder(folder)))
    rows = [json.loads(line) for line in str(chdb.query(text, "JSONEachRow")).splitlines()]
    check([row | {"events": int(row["events"]), "ids": int(row["ids"])} for row in rows], wanted)
    shown = [row["latest"] for row in rows]
    times = pl.Series([row[4] for row in wanted]).cast(pl.Datetime("ns")).dt.to_string("%Y-%m-%d %H:%M:%S%.9f")
    assert shown == times.to_list()


def test_polars(folder: Path, wanted: list[tuple[Any, ...]]):
    names: dict[str, Any] = {}
    exec(block("# Polars").replace(PLACE, str(store_folder(folder))), names)
    found = names["found"]
    check(found.to_dicts(), wanted)
    assert found["latest"].dt.timestamp("ns").to_list() == [row[4] for row in wanted]


def test_columns_of_paths_and_ids_are_what_events_say(folder: Path):
    with evtool.open(folder, read_only=True) as log:
        events = pl.concat(log.scan(columns=["position", "event_id", "payload", "metadata"]))
    files = f"{store_folder(folder)}/events/*/*.parquet"
    rows = duckdb.sql(
        "SELECT position, coalesce(event_id, hex(event_uuid)::UUID::VARCHAR), payload, metadata FROM "
        f"read_parquet('{files}', union_by_name = true) ORDER BY position"
    ).fetchall()
    assert rows == events.rows()
    erased = [row for row in rows if row[2] == "{}"]
    assert erased
    assert all(row[1:] == (f"erased-{row[0]}", "{}", '{"erased":true}') for row in erased)
    (paths,) = duckdb.sql(
        'SELECT count(*) FILTER ("payload.amount" = payload->>\'$.amount\'), count("payload.amount") FROM '
        f"read_parquet('{files}', union_by_name = true)"
    ).fetchall()
    assert paths[0] == paths[1] > 0


def test_clickhouse_and_polars_read_it_in_a_bucket(
    folder: Path, wanted: list[tuple[Any, ...]], server: Server, tmp_path: Path
):
    store = open_store(f"s3://backups/{tmp_path.name}", Files())
    for path in store_folder(folder).glob("events/*/*"):
        store.put(path.relative_to(store_folder(folder)).as_posix(), path.read_bytes())
    url, key = f"{server.environment['AWS_ENDPOINT_URL']}/backups/{tmp_path.name}", "'known-key', 'known-secret'"
    text = block("-- ClickHouse").replace(f"file('{PLACE}", f"s3('{url}").replace("Parquet)", f"{key}, Parquet)")
    rows = [json.loads(line) for line in str(chdb.query(text, "JSONEachRow")).splitlines()]
    check([row | {"events": int(row["events"]), "ids": int(row["ids"])} for row in rows], wanted)
    names: dict[str, Any] = {}
    exec(block("# Polars").replace(PLACE, f"s3://backups/{tmp_path.name}"), names)
    check(names["found"].to_dicts(), wanted)
