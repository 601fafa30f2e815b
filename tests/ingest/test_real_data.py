"""Real shops' events, whole: every line kept, every byte of it, and the figures that others found in them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard

import evtool

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = ("retail", "cliquebait")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there are no real events in {DATA}")


def run(*arguments: str | Path, **options: Any) -> bytes:
    command = [sys.executable, "-m", "evtool.cli.app", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, **options).stdout


def lines_of(name: str) -> Iterator[bytes]:
    with (DATA / f"{name}.ndjson.zst").open("rb") as file:
        yield from io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return json.loads((DATA / "answers.json").read_text())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A log of each set, and what ingest said."""
    folder = tmp_path_factory.mktemp("real")
    for name in NAMES:
        said = run("ingest", DATA / f"{name}.ndjson.zst", "--log", folder / name, "--json", cwd=folder)
        (folder / f"{name}.json").write_bytes(said)
    return {name: folder / name for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_event_is_accepted_and_counted(logs: dict[str, Path], answers: dict[str, Any], name: str):
    events = answers[name]["events"]
    said = json.loads(logs[name].with_suffix(".json").read_bytes())
    assert (said["accepted"], said["dead_letters"], said["first_position"], said["last_position"]) == (
        events,
        0,
        1,
        events,
    )
    stats = json.loads(run("stats", "--log", logs[name], "--json"))
    assert (stats["events"], sum(stats["partitions"])) == (events, events)
    report = json.loads(run("verify", "--log", logs[name], "--json"))
    assert (report["clean"], report["events"]) == (True, events)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_has_every_byte_of_every_payload(logs: dict[str, Path], name: str):
    out = logs[name].with_suffix(".ndjson")
    run("replay", "--log", logs[name], "--out", out)
    count = 0
    with out.open("rb") as file:
        for count, (sent, found) in enumerate(zip(lines_of(name), file, strict=True), start=1):
            # In both files the payload begins with the first of these words and metadata with the last.
            payload, metadata = sent[sent.index(b'"payload": ') + 11 : -2].rsplit(b', "metadata": ', 1)
            assert found.endswith(b',"payload":' + payload + b',"metadata":' + metadata + b"}\n"), sent
            if count % 50 == 0:
                given, stored = json.loads(sent), json.loads(found)
                assert stored["position"] == count
                for field in ("event_id", "source_id", "stream_id", "event_type", "schema_version", "payload"):
                    assert stored[field] == given[field]
                assert stored["timestamp"][:19] == given["timestamp"][:19]
    assert count == json.loads(logs[name].with_suffix(".json").read_bytes())["accepted"]


def test_a_replay_of_retail_into_another_log_makes_an_equal_one(logs: dict[str, Path], tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "evtool.cli.app", "replay", "--log", logs["retail"]], stdout=subprocess.PIPE
    ) as replay:
        run("ingest", "--log", tmp_path / "copy", "--batch-events", "100000", "--json", stdin=replay.stdout)
    assert replay.returncode == 0
    reports = [run("verify", "--log", log, "--json") for log in (logs["retail"], tmp_path / "copy")]
    digests = [json.loads(report)["digest"] for report in reports]
    assert digests[0] == digests[1]


def test_the_figures_of_retail(logs: dict[str, Path], answers: dict[str, Any]):
    wanted = answers["retail"]
    streams: set[str] = set()
    customers: set[str] = set()
    good: dict[str, set[str]] = {"invoices": set(), "customers": set()}
    good_revenue, good_events = Decimal(0), 0
    by_product: Counter[str] = Counter()
    with evtool.open(logs["retail"], read_only=True) as log:
        for frame in log.scan(columns=["stream_id", "payload"]):
            streams.update(frame["stream_id"].unique().to_list())
            for stream, text in frame.rows():
                payload = json.loads(text, parse_float=Decimal)
                amount = Decimal(payload["amount"])
                by_product[payload["product_id"]] += amount
                if payload["user_id"] is None:
                    continue
                customers.add(payload["user_id"])
                if payload["quantity"] > 0 and payload["unit_price"] > 0:
                    good["invoices"].add(stream)
                    good["customers"].add(payload["user_id"])
                    good_revenue += amount
                    good_events += 1
    assert len(streams) == wanted["invoices (distinct stream_id)"]
    assert len(customers) == wanted["customers (distinct non-null payload.user_id)"]
    assert len(by_product) == wanted["stock codes (distinct payload.product_id)"]
    revenue = wanted["revenue (sum of payload.amount, purchases and refunds)"]
    assert sum(by_product.values()) == Decimal(revenue)
    for product, amount in wanted["revenue by payload.product_id"].items():
        assert by_product[product] == Decimal(amount)
    purchases = wanted["purchases with quantity > 0, unit_price > 0 and a user"]
    assert good_events == purchases["events"]
    assert good_revenue == Decimal(purchases["revenue"])
    assert {name: len(found) for name, found in good.items()} == {
        name: purchases[name] for name in ("invoices", "customers")
    }


def test_the_figures_of_cliquebait(logs: dict[str, Path], answers: dict[str, Any]):
    wanted = answers["cliquebait"]
    types: Counter[str] = Counter()
    first: dict[str, int] = {}
    users: set[str] = set()
    with evtool.open(logs["cliquebait"], read_only=True) as log:
        for frame in log.scan(columns=["stream_id", "event_type", "timestamp", "payload"]):
            types.update(frame["event_type"].to_list())
            for stream, time, text in frame.select("stream_id", "timestamp", "payload").rows():
                first[stream] = min(time, first.get(stream, time))
                users.add(json.loads(text)["user_id"])
    assert types == wanted["events by type"]
    assert (len(first), len(users)) == (wanted["visits"], wanted["users"])
    replayed = run("replay", "--log", logs["cliquebait"], "--type", "Purchase", "--type", "Ad Click")
    assert replayed.count(b"\n") == types["Purchase"] + types["Ad Click"]
