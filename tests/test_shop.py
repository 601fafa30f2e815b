"""The made-up shop: the same events always, and events like those of a shop."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from evtool import shop

EVENTS = 50_000
FIRST_10_000_SHA256 = "6e739413cbb1c7663d4bde9e33245ab501d25ee8d8493b5d8d47635347c8dc95"
ENVELOPE = ["event_id", "source_id", "stream_id", "event_type", "timestamp", "schema_version", "payload"]
EVENT_TYPES = {
    "UserSignedIn",
    "UserViewedPage",
    "ItemViewed",
    "ButtonClicked",
    "ItemPurchased",
    "CartAbandoned",
    "FeatureFlagToggled",
}


def ndjson(events: int, seed: int = 1, **options: int) -> bytes:
    return b"".join(shop.blocks(events, seed, **options))


def run_module(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "evtool.shop", *arguments], capture_output=True, check=False)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return ndjson(EVENTS).splitlines()


@pytest.fixture(scope="module")
def events(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_the_bytes_are_the_same_everywhere_and_forever():
    # Examples in the documentation and results of benchmarks rest on these events.
    assert hashlib.sha256(ndjson(10_000)).hexdigest() == FIRST_10_000_SHA256


def test_another_seed_gives_other_events():
    assert not set(ndjson(1_000, seed=1).splitlines()) & set(ndjson(1_000, seed=2).splitlines())


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_fewer_events_are_a_prefix_of_more(count: int):
    few = ndjson(count, block_events=1_000)
    assert few.count(b"\n") == count
    assert ndjson(3_000, block_events=1_000).startswith(few)


def test_a_block_is_whole_lines_and_no_longer_than_asked_for():
    sizes = [block.count(b"\n") for block in shop.blocks(2_500, 1, block_events=1_000)]
    assert sizes == [1_000, 1_000, 500]
    assert all(block.endswith(b"}\n") for block in shop.blocks(2_500, 1, block_events=1_000))


def test_every_event_has_the_envelope_in_order(events: list[dict[str, Any]]):
    assert len(events) == EVENTS
    assert {tuple(event) for event in events} == {tuple(ENVELOPE), (*ENVELOPE, "metadata")}
    assert {event["schema_version"] for event in events} == {1}
    assert {event["source_id"] for event in events} == {"shop-web", "shop-ios", "shop-android"}
    assert all(event["stream_id"] == f"user-{event['payload']['user_id'][1:]}" for event in events)


def test_lines_are_compact_json(lines: list[bytes], events: list[dict[str, Any]]):
    def spelled(event: dict[str, Any]) -> bytes:
        return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()

    differing = [line for line, event in zip(lines, events, strict=True) if line != spelled(event)]
    assert all(b"\\" in line for line in differing), "only an escape has more than one spelling"
    assert 300 <= sum(map(len, lines)) / len(lines) <= 370


def test_event_ids_are_distinct_random_uuids(events: list[dict[str, Any]]):
    ids = {event["event_id"] for event in events}
    assert len(ids) == EVENTS
    assert all(UUID(text).version == 4 and str(UUID(text)) == text for text in ids)


def test_types_come_in_a_shop_s_proportions(events: list[dict[str, Any]]):
    counts = Counter(event["event_type"] for event in events)
    assert set(counts) == EVENT_TYPES
    assert counts["UserViewedPage"] + counts["ItemViewed"] > EVENTS / 2
    assert 0.04 < counts["ItemPurchased"] / EVENTS < 0.06


def test_a_few_users_have_many_events_and_most_have_a_handful(events: list[dict[str, Any]]):
    counts = sorted(Counter(event["stream_id"] for event in events).values())
    assert counts[-1] > 500
    assert counts[len(counts) // 2] < 20


def test_more_events_come_from_more_users(events: list[dict[str, Any]]):
    def users(count: int) -> int:
        return len({event["stream_id"] for event in events[:count]})

    assert users(EVENTS // 10) < users(EVENTS // 2) < users(EVENTS)


def test_times_rise_but_for_late_events(events: list[dict[str, Any]]):
    times = [event["timestamp"] for event in events]
    late = sum(later < earlier for earlier, later in pairwise(times))
    assert min(times) >= "2026-01-01T00:00:00.000Z"
    assert {len(time) for time in times} == {len("2026-01-01T00:00:00.123Z")}
    assert 0.01 < late / EVENTS < 0.03
    assert times[-1] > times[EVENTS // 2] > times[0]


def test_a_purchase_has_an_exact_amount(events: list[dict[str, Any]]):
    prices: dict[str, set[float]] = {}
    for event in events:
        if event["event_type"] == "ItemPurchased":
            whole, _, cents = event["payload"]["amount"].partition(".")
            assert whole.isdecimal()
            assert len(cents) == 2
            price = int(whole + cents) / event["payload"]["quantity"]
            prices.setdefault(event["payload"]["product_id"], set()).add(price)
    assert all(len(of_product) == 1 for of_product in prices.values())


def test_a_fifth_has_no_metadata(events: list[dict[str, Any]]):
    assert 0.19 < sum("metadata" not in event for event in events) / EVENTS < 0.21


def test_some_searches_have_escapes_and_unicode_in_both_spellings(lines: list[bytes]):
    odd = [line for line in lines if b"\\" in line or not line.isascii()]
    assert 0.0005 < len(odd) / EVENTS < 0.002
    assert any(b"caf\\u00e9" in line for line in odd)
    assert any("café".encode() in line for line in odd)


def test_start_moves_every_time():
    assert b'"timestamp":"2026-03-01T00:00:00.' in ndjson(1, start_ns=1_772_323_200_000_000_000)


def test_command_line_writes_the_same_bytes(tmp_path):
    file = tmp_path / "events.ndjson"
    written = run_module("--events", "100", "--seed", "7", "--start", "2026-03-01T01:00:00+01:00")
    to_file = run_module("--events", "100", "--seed", "7", "--out", str(file))
    assert written.stdout == ndjson(100, seed=7, start_ns=1_772_323_200_000_000_000)
    assert (to_file.stdout, file.read_bytes()) == (b"", ndjson(100, seed=7))


def test_command_line_wants_an_offset():
    failed = run_module("--events", "1", "--start", "2026-03-01T00:00:00")
    assert failed.returncode == 2
    assert b"is not like 2026-01-01T00:00:00Z" in failed.stderr


def test_a_reader_that_has_enough_is_no_failure():
    command = [sys.executable, "-m", "evtool.shop", "--events", "200000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"event_id"')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
