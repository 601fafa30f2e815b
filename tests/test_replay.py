"""Replay as a library: bounds, selections, limits, and where the lines go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evtool
from evtool import replay
from evtool.errors import ConfigError, EvtoolError, PositionError
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.replay import Bound

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW_NS = 1_800_000_000 * 10**9
IDS = {60: "2026-01-31", 61: "@7", 62: "-24h", 63: "2026-01-01T00:00:00Z", 64: "id:e-1"}


def event(number: int) -> dict[str, Any]:
    return {
        "event_id": IDS.get(number, f"e-{number}"),
        "source_id": ("web", "app", "till")[number % 3],
        "stream_id": f"u-{number % 5}",
        "event_type": ("Seen", "Bought")[number % 2],
        "timestamp": START + timedelta(minutes=number),
        "payload": {"n": number},
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """100 events, one a minute, in batches of 30; some have ids that look like other bounds."""
    with evtool.open(tmp_path_factory.mktemp("replay") / "log", create=True) as opened:
        for first in range(0, 100, 30):
            opened.append([event(number) for number in range(first, min(first + 30, 100))])
        yield opened


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A log of 70,000 events in four batches."""
    with evtool.open(tmp_path_factory.mktemp("large") / "log", create=True) as opened:
        for first in range(0, 70_000, 17_500):
            ids = pl.int_range(first, first + 17_500, eager=True).cast(pl.String)
            names = [pl.lit("u").alias(name) for name in ("source_id", "stream_id", "event_type")]
            opened.append(ids.alias("event_id").to_frame().with_columns(names))
        yield opened


def numbers(log: Log, limit: int | None = None, **selected: Any) -> list[int]:
    """The numbers of the events of a selection, in order."""
    blocks = replay.blocks(log, replay.select(log, **selected), limit)
    return [json.loads(line)["payload"]["n"] for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("@0", Bound(position=0)),
        ("@7", Bound(position=7)),
        ("@9223372036854775807", Bound(position=2**63 - 1)),
        ("e-45", Bound(position=46)),
        ("id:e-45", Bound(position=46)),
        ("id:2026-01-31", Bound(position=61)),
        ("id:@7", Bound(position=62)),
        ("id:-24h", Bound(position=63)),
        ("id:id:e-1", Bound(position=65)),
        ("2026-01-31", Bound(time=1_769_817_600 * 10**9)),
        ("2026-01-01T00:00:00Z", Bound(time=1_767_225_600 * 10**9)),
        ("2026-01-01 02:00:00.000000001+02:00", Bound(time=1_767_225_600 * 10**9 + 1)),
        ("2026-01-01t00:00:00z", Bound(time=1_767_225_600 * 10**9)),
        ("-1s", Bound(time=NOW_NS - 10**9)),
        ("-0.5s", Bound(time=NOW_NS - 10**9 // 2)),
        ("-90m", Bound(time=NOW_NS - 5400 * 10**9)),
        ("-24h", Bound(time=NOW_NS - 86_400 * 10**9)),
        ("-1.5d", Bound(time=NOW_NS - 129_600 * 10**9)),
        ("-2w", Bound(time=NOW_NS - 1_209_600 * 10**9)),
    ],
)
def test_a_bound(log: Log, text: str, bound: Bound):
    assert replay.parse_bound(text, log, NOW_NS) == bound


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nobody", PositionError),
        ("id:e-100", PositionError),
        ("", ConfigError),
        ("id:", PositionError),
        ("-24", PositionError),
        ("-h", PositionError),
        ("+24h", PositionError),
        ("-1y", PositionError),
        ("20260101", PositionError),
        ("\udcff", PositionError),
        ("id:\udcff", PositionError),
        ("@", ConfigError),
        ("@x", ConfigError),
        ("@-1", ConfigError),
        ("@1.0", ConfigError),
        ("@ 1", ConfigError),
        ("@1_0", ConfigError),
        ("@²", ConfigError),
        ("@9223372036854775808", ConfigError),
        pytest.param("@" + "9" * 5000, ConfigError, id="@999..."),
        ("2026-02-30", ConfigError),
        ("0000-01-01", ConfigError),
        ("3000-01-01", ConfigError),
        ("1600-01-01", ConfigError),
        ("2026-01-01T00:00:00", ConfigError),
        ("2026-01-01T25:00:00Z", ConfigError),
    ],
)
def test_what_is_no_bound_is_an_error_in_a_sentence(log: Log, text: str, error: type[EvtoolError]):
    with pytest.raises(error) as caught:
        replay.parse_bound(text, log, NOW_NS)
    assert caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ({}, range(100)),
        ({"start": "@45"}, range(44, 100)),
        ({"end": "@45"}, range(44)),
        ({"start": "@20", "end": "@21"}, range(19, 20)),
        ({"start": "@0", "end": "@9223372036854775807"}, range(100)),
        ({"start": "@50", "end": "@50"}, []),
        ({"start": "@60", "end": "@50"}, []),
        ({"start": "@101"}, []),
        ({"start": "e-45", "end": "e-50"}, range(45, 50)),
        ({"start": "id:2026-01-31", "end": "id:-24h"}, range(60, 62)),
        ({"start": "2026-01-01T00:45:00Z"}, range(45, 100)),
        ({"start": "2026-01-01T02:45:00.000000001+02:00", "end": "2026-01-01 00:50:00z"}, range(46, 50)),
        ({"start": "2026-01-01", "end": "2026-01-02"}, range(100)),
        ({"start": "2026-01-02"}, []),
        ({"start": "e-31", "end": "2026-01-01T00:40:00Z"}, range(31, 40)),
        ({"start": "-24h", "clock": "recorded"}, range(100)),
        ({"end": "-24h", "clock": "recorded"}, []),
        ({"types": ["Bought"]}, range(1, 100, 2)),
        ({"types": ["Bought", "Seen"]}, range(100)),
        ({"types": ["Sold"]}, []),
        ({"types": []}, range(100)),
        ({"sources": ["web"], "types": ["Seen"]}, range(0, 100, 6)),
        ({"streams": ["u-1"], "start": "@11", "end": "e-40"}, range(11, 40, 5)),
        ({"streams": ["u-1", "u-2"], "sources": ["app"]}, [n for n in range(1, 100, 3) if n % 5 in (1, 2)]),
        ({"streams": ["nobody"]}, []),
    ],
    ids=str,
)
def test_a_selection(log: Log, selected: dict[str, Any], expected: range | list[int]):
    assert numbers(log, **selected) == list(expected)


@settings(max_examples=60)
@given(
    start=st.none() | st.integers(0, 110),
    end=st.none() | st.integers(0, 110),
    by=st.sampled_from(["position", "time", "id"]),
    streams=st.none() | st.sets(st.integers(0, 5), min_size=1),
    types=st.none() | st.sampled_from([["Seen"], ["Bought"]]),
    limit=st.none() | st.integers(0, 120),
)
def test_bounds_filters_and_limit_together(log: Log, start, end, by, streams, types, limit):
    def bound(number: int | None) -> str | None:
        if number is None:
            return None
        if by == "position":
            return f"@{number + 1}"
        if by == "id":
            return f"id:{event(min(number, 99))['event_id']}"
        return (START + timedelta(minutes=number)).isoformat()

    def reach(number: int | None, default: int) -> int:
        return default if number is None else min(number, 99 if by == "id" else 110)

    expected = [
        number
        for number in range(100)
        if reach(start, 0) <= number < reach(end, 100)
        and (streams is None or number % 5 in streams)
        and (types is None or event(number)["event_type"] in types)
    ]
    names = None if streams is None else [f"u-{number}" for number in streams]
    found = numbers(log, limit, start=bound(start), end=bound(end), streams=names, types=types)
    assert found == (expected if limit is None else expected[:limit])


def test_the_partitions_together_are_all_and_none_shares_a_stream(log: Log):
    parts = [numbers(log, partition=partition) for partition in range(log.partitions)]
    assert sorted(number for part in parts for number in part) == list(range(100))
    assert sum(len({number % 5 for number in part}) for part in parts) == 5
    for partition in (-1, log.partitions):
        with pytest.raises(ConfigError) as caught:
            replay.select(log, partition=partition)
        assert "0 to 7" in caught.value.hint


def test_a_stream_s_name_that_is_no_text_is_an_error_in_a_sentence(log: Log):
    for selected in ({"streams": ["\udcff"]}, {"types": ["\udcff"]}, {"sources": ["\udcff"]}):
        try:
            found = numbers(log, **selected)
        except EvtoolError:
            continue
        assert found == []


@pytest.mark.parametrize("clock", ["event", "recorded"])
def test_a_time_far_off_selects_all_or_nothing(log: Log, clock: str):
    for text in ("1677-09-22", "1678-01-01T00:00:00Z", "-10000w", "-9999999w"):
        assert len(numbers(log, start=text, clock=clock)) == 100
        assert numbers(log, end=text, clock=clock) == []


def test_a_time_longer_ago_than_anything_is_before_all_or_an_error(log: Log):
    try:
        assert len(numbers(log, start=f"-{'9' * 400}w")) == 100
    except EvtoolError as error:
        assert error.hint  # noqa: PT017  # either will do


@pytest.mark.parametrize("limit", [0, 1, 65_535, 65_536, 65_537, 69_999, 70_000, 70_001])
def test_a_limit_reaches_over_batches_and_groups(large: Log, limit: int):
    data = b"".join(replay.blocks(large, Selection(), limit))
    assert data.count(b"\n") == min(limit, 70_000)
    if limit:
        assert json.loads(data[data.rindex(b"\n", 0, -1) + 1 :] if limit > 1 else data)["position"] == min(
            limit, 70_000
        )


@settings(max_examples=40)
@given(
    st.none() | st.integers(-3, 120),
    st.none() | st.integers(-3, 120),
    st.integers(0, 120),
    st.sampled_from([None, 1]),
)
def test_a_limit_gives_the_first_lines_of_what_there_is_without_one(
    log: Log, start: int | None, end: int | None, limit: int, since: int | None
):
    selection = Selection(start=start, end=end, since=since)
    lines = b"".join(replay.blocks(log, selection)).splitlines()
    assert b"".join(replay.blocks(log, selection, limit)).splitlines() == lines[:limit]
