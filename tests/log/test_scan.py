"""Reading: scan, replay, stream and find, over every kind of selection, compared with plain lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from compacting import bring_to
from samples import (
    MOMENT_NS,
    ODD_IDS,
    ODD_OBJECTS,
    ODD_TEXTS,
    Row,
    config,
    event,
    ids,
    line,
    make_log,
    many,
    rows,
)

import evtool
from evtool.errors import PositionError
from evtool.event import EVENT_SCHEMA, STORED_SCHEMA
from evtool.log.partitions import partition_of
from evtool.log.selection import Selection

PARTITIONS = 2
SPLIT_EVENTS = 2048 * PARTITIONS


@pytest.fixture(scope="module", params=["hot", "merged", "mixed"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> evtool.Log:
    """Sealed segments and an active one, of small, mixed and split batches, with late events."""
    folder = tmp_path_factory.mktemp("scan") / "segments"
    batches = [
        [event(i, f"user-{i % 3}", source_id=f"till-{i % 2}", timestamp=MOMENT_NS - i * 10**9) for i in range(5)],
        many(SPLIT_EVENTS, first=100),
        [event(7, "user-9", event_type="Paid", timestamp=MOMENT_NS + 10**15, metadata='{"a":1}')],
        many(300, first=20_000, streams=250),
        many(SPLIT_EVENTS + 7, first=30_000, streams=3),
        [event(9, event_type="Paid"), event(10)],
    ]
    make_log(folder, batches, config(segment_bytes=40_000, partitions=PARTITIONS))
    before = rows(evtool.open(folder, read_only=True))
    bring_to(folder, request.param)
    opened = evtool.open(folder, read_only=True)
    assert rows(opened) == before
    assert len(opened.snapshot().segments) > (1 if request.param == "merged" else 2)
    assert {segment.is_cold for segment in opened.snapshot().segments} == {False, request.param != "hot"}
    return opened


@pytest.fixture(scope="module")
def everything(log: evtool.Log) -> list[Row]:
    return rows(log)


def partition(row: Row) -> int:
    return partition_of(row["stream_id"], PARTITIONS)


# What is asked for, and which rows are meant.
SELECTIONS: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"start": 1}, lambda row: True),
    ({"start": 3, "end": 5}, lambda row: 3 <= row["position"] < 5),
    ({"start": 2_000, "end": 2_001}, lambda row: row["position"] == 2_000),
    ({"start": 4_000, "end": 4_500}, lambda row: 4_000 <= row["position"] < 4_500),
    ({"end": 1}, lambda row: False),
    ({"start": 5, "end": 5}, lambda row: False),
    ({"start": 9, "end": 3}, lambda row: False),
    ({"start": 10**9}, lambda row: False),
    ({"start": -5, "end": 10**18}, lambda row: True),
    ({"since": MOMENT_NS}, lambda row: row["timestamp"] >= MOMENT_NS),
    ({"until": MOMENT_NS}, lambda row: row["timestamp"] < MOMENT_NS),
    ({"since": MOMENT_NS - 2 * 10**9, "until": MOMENT_NS}, lambda row: -2e9 <= row["timestamp"] - MOMENT_NS < 0),
    (
        {"since": MOMENT_NS + 150_000_000, "until": MOMENT_NS + 151_000_000},
        lambda row: row["timestamp"] == MOMENT_NS + 150_000_000,
    ),
    ({"since": MOMENT_NS + 10**15 + 1, "end": 5_000}, lambda row: False),
    ({"streams": ["user-1"]}, lambda row: row["stream_id"] == "user-1"),
    ({"streams": ["user-9", "user-249"]}, lambda row: row["stream_id"] in ("user-9", "user-249")),
    ({"streams": ["nobody"]}, lambda row: False),
    ({"streams": []}, lambda row: False),
    ({"types": ["Paid"]}, lambda row: row["event_type"] == "Paid"),
    ({"types": ["Paid", "ItemViewed"]}, lambda row: True),
    ({"types": {"nothing": 1}}, lambda row: False),
    ({"sources": ["till-1"]}, lambda row: row["source_id"] == "till-1"),
    ({"partitions": [0]}, lambda row: partition(row) == 0),
    ({"partitions": [1]}, lambda row: partition(row) == 1),
    ({"partitions": [0, 1]}, lambda row: True),
    ({"partitions": []}, lambda row: False),
    (
        {"partitions": [0], "streams": ["user-1", "user-2"]},
        lambda row: row["stream_id"] in ("user-1", "user-2") and partition(row) == 0,
    ),
    (
        {"partitions": [1], "types": ["Paid"], "start": 4_000},
        lambda row: partition(row) == 1 and row["event_type"] == "Paid" and row["position"] >= 4_000,
    ),
    (
        {"streams": ["user-1"], "since": MOMENT_NS, "end": 4_200},
        lambda row: row["stream_id"] == "user-1" and row["timestamp"] >= MOMENT_NS and row["position"] < 4_200,
    ),
]


@pytest.mark.parametrize(
    ("asked", "meant"), SELECTIONS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_scan_gives_what_was_selected_in_order(
    log: evtool.Log, everything: list[Row], asked: dict[str, Any], meant: Callable[[Row], bool]
):
    wanted = [row for row in everything if meant(row)]
    assert rows(log, **asked) == wanted
    assert [row for events in log.scan(Selection.of(**asked)) for row in events.to_dicts()] == wanted
    assert b"".join(log.replay(**asked)) == b"".join(map(line, wanted))


@pytest.mark.parametrize("place", [0, 4, 5, 6, 2_000, -10, -2, -1])
@pytest.mark.parametrize("bound", ["since", "until"])
def test_a_recorded_time_selects_from_the_middle_of_a_batch(
    log: evtool.Log, everything: list[Row], place: int, bound: str
):
    moment = everything[place]["recorded_at"]
    for exactly in (moment, moment + 1):
        wanted = [row for row in everything if (row["recorded_at"] < exactly) == (bound == "until")]
        assert rows(log, clock="recorded", **{bound: exactly}) == wanted


@pytest.mark.parametrize("column", STORED_SCHEMA)
def test_a_scan_of_one_column_gives_that_column(log: evtool.Log, everything: list[Row], column: str):
    frames = list(log.scan(columns=[column], start=3, types=["Paid"]))
    assert all(events.schema == pl.Schema({column: STORED_SCHEMA[column]}) for events in frames)
    wanted = [row[column] for row in everything if row["position"] >= 3 and row["event_type"] == "Paid"]
    assert list(chain.from_iterable(events[column] for events in frames)) == wanted


@pytest.mark.parametrize("asked", [(), ("types",), ("partitions", "since")], ids=str)
def test_columns_come_in_the_order_of_the_schema_and_no_others(log: evtool.Log, asked: tuple[str, ...]):
    selected = {"types": ["Paid"], "partitions": [0, 1], "since": MOMENT_NS}
    for events in log.scan(columns={"payload", "position"}, **{name: selected[name] for name in asked}):
        assert events.columns == ["position", "payload"]


def test_frames_are_not_empty_and_positions_rise_across_them(log: evtool.Log):
    frames = list(log.scan(columns=["position"]))
    assert len(frames) > 1
    assert all(len(events) for events in frames)
    positions = list(chain.from_iterable(events["position"] for events in frames))
    assert positions == list(range(1, log.position + 1))


def test_a_block_of_a_replay_is_whole_lines(log: evtool.Log):
    blocks = list(log.replay())
    assert len(blocks) > 1
    assert all(block.endswith(b"}\n") for block in blocks)


def test_a_scan_may_be_left_early(log: evtool.Log):
    frames = log.scan()
    assert next(frames)["position"][0] == 1
    frames.close()  # type: ignore[attr-defined]


def test_a_stream_is_one_frame_in_order(log: evtool.Log, everything: list[Row]):
    for name in ("user-1", "user-9", "user-249"):
        history = log.stream(name)
        assert history.to_dicts() == [row for row in everything if row["stream_id"] == name]
        assert history["stream_version"].to_list() == list(range(1, len(history) + 1))


def test_a_stream_may_be_cut_in_columns_and_range(log: evtool.Log, everything: list[Row]):
    history = log.stream("user-1", columns=["stream_version"], start=4_000)
    assert history.columns == ["stream_version"]
    wanted = [r["stream_version"] for r in everything if r["stream_id"] == "user-1" and r["position"] >= 4_000]
    assert history["stream_version"].to_list() == wanted


def test_a_stream_without_events_is_an_empty_frame(log: evtool.Log):
    assert log.stream("nobody").schema == pl.Schema(STORED_SCHEMA)
    assert log.stream("nobody", columns=["payload", "position"]).columns == ["position", "payload"]
    assert len(log.stream("nobody")) == 0


def test_find_gives_the_position_of_an_id(log: evtool.Log, everything: list[Row]):
    first = {row["event_id"]: row["position"] for row in reversed(everything)}
    for event_id in ("event-0", "event-100", "event-7", f"event-{30_000 + SPLIT_EVENTS}", "event-10"):
        assert log.find(event_id) == first[event_id]


def test_find_gives_the_first_of_several_sources(folder: Path):
    make_log(folder, [[event(1)], [event(2, source_id="a"), event(2, source_id="b")], [event(2, source_id="c")]])
    assert evtool.open(folder).find("event-2") == 2


@pytest.mark.parametrize("event_id", ["nothing", "", "EVENT-1"])
def test_find_says_that_there_is_no_such_event(log: evtool.Log, event_id: str):
    with pytest.raises(PositionError, match="no event"):
        log.find(event_id)


def test_find_knows_ids_of_every_form(folder: Path):
    make_log(folder, [[event(number, event_id=text) for number, text in enumerate(ODD_IDS)]])
    log = evtool.open(folder)
    assert [log.find(text) for text in ODD_IDS] == list(range(1, len(ODD_IDS) + 1))


def test_a_text_is_no_list_of_names(log: evtool.Log):
    for name in ("streams", "types", "sources"):
        with pytest.raises(TypeError, match="list of names"):
            log.scan(**{name: "user-1"})


def test_a_replay_spells_everything_as_it_was_sent(folder: Path):
    batch = [event(number, payload=text, metadata=text) for number, text in enumerate(ODD_OBJECTS)]
    batch += [
        event(number, stream_id=text, source_id=text, event_type=text, event_id=text)
        for number, text in enumerate(ODD_TEXTS, len(batch))
    ]
    moments = (-1, 0, 1, -(10**18), 253_402_300_799 * 10**7, 2**63 - 1, -(2**63))
    times = pl.DataFrame([event(number) for number in range(100, 100 + len(moments))])
    times = times.with_columns(timestamp=pl.Series(moments))
    make_log(folder, [batch, times])
    log = evtool.open(folder)
    lines = b"".join(log.replay()).splitlines(keepends=True)
    assert lines == [line(row) for row in rows(log)]
    assert len(lines) == len(batch) + len(moments)
    for given, replayed in zip(ODD_OBJECTS, lines, strict=False):
        assert f',"payload":{given},"metadata":{given}}}\n'.encode() in replayed


@pytest.mark.parametrize("as_frame", [False, True], ids=["mappings", "frame"])
@pytest.mark.parametrize("payload", ['{\n"a":1}', '{"a":\r\n1}', '{"a":1}\n'])
def test_a_replayed_event_is_one_line_even_if_its_payload_came_with_line_breaks(
    folder: Path, payload: str, as_frame: bool
):
    events = [event(1, payload=payload), event(2, metadata=payload)]
    with evtool.open(folder, create=True) as log:
        try:
            log.append(pl.DataFrame(events) if as_frame else events)
        except evtool.EvtoolError:
            return  # to refuse it is fine, to write broken NDJSON is not
        replayed = b"".join(log.replay())
    assert replayed.count(b"\n") == 2


def test_a_reader_sees_what_is_appended_after_it_was_opened(folder: Path):
    with evtool.open(folder, create=True, config=config(segment_bytes=4_000)) as log:
        reader = evtool.open(folder, read_only=True)
        before = reader.snapshot()
        for number in range(1, 10):
            log.append([event(number)])
            assert reader.position == number
            assert ids(reader, start=number) == [f"event-{number}"]
        assert before.last_position == 0


def test_a_snapshot_stays_as_it_was(folder: Path):
    with evtool.open(folder, create=True, config=config(segment_bytes=4_000)) as log:
        log.append([event(1), event(2)])
        scan = log.scan()
        for number in range(3, 9):
            log.append([event(number)])
        assert list(chain.from_iterable(events["position"] for events in scan)) == [1, 2]
        assert log.position == 8


def test_many_small_batches_are_read_together(folder: Path):
    make_log(folder, [[event(number)] for number in range(40)])
    log = evtool.open(folder)
    assert len(list(log.scan())) == 1
    assert ids(log) == [f"event-{number}" for number in range(40)]
    assert all(earlier < later for earlier, later in pairwise(row["position"] for row in rows(log)))


@pytest.mark.parametrize("partitions", [1, 3, 1024])
def test_every_event_is_in_exactly_one_partition(folder: Path, partitions: int):
    names = [f"stream-{number}" for number in range(50)] + list(ODD_TEXTS)
    make_log(folder, [[event(i, name) for i, name in enumerate(names)]], config(partitions=partitions))
    log = evtool.open(folder)
    assert log.partitions == partitions
    wanted = {partition_of(name, partitions) for name in names}
    found = [(number, row["stream_id"]) for number in wanted for row in rows(log, partitions=[number])]
    assert sorted(found) == sorted((partition_of(name, partitions), name) for name in names)
    assert max(wanted) < partitions


def test_the_schema_of_stored_events_begins_with_position_and_time():
    assert [*STORED_SCHEMA][:2] == ["position", "recorded_at"]
    assert [*STORED_SCHEMA][2:] == [*EVENT_SCHEMA]


def test_frames_are_bounded_by_bytes_too(folder: Path):
    """Few large events are as much memory as many small ones."""
    texts = [os.urandom(2**20).hex() for _ in range(24)]
    batches = [[event(number, payload=f'{{"text":"{text}"}}')] for number, text in enumerate(texts)]
    make_log(folder, batches, config(segment_bytes=1 << 30))
    frames = list(evtool.open(folder, read_only=True).scan(columns=["payload"]))
    assert [text[9:-2] for frame in frames for text in frame["payload"]] == texts
    assert max(frame["payload"].str.len_bytes().sum() for frame in frames) <= 20 * 2**20
