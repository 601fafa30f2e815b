"""Appending: places, defaults, exact bytes, and what is refused whole."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from samples import (
    MOMENT_NS,
    ODD_IDS,
    ODD_OBJECTS,
    ODD_TEXTS,
    check_sound,
    config,
    event,
    frame,
    ids,
    make_log,
    many,
    rows,
)

import evtool
from evtool import envelope
from evtool.config import Codec
from evtool.errors import EventError, LogReadOnlyError
from evtool.event import INT32_MAX, INT64_MAX, INT64_MIN
from evtool.files import Files
from evtool.lifecycle.verify import verify
from evtool.log.writer import Writer

SPLIT_EVENTS = 2048 * 2  # with 2 partitions, a batch of so many events is a frame a partition


def kept(folder: Path, *events: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """What a new log gives back for a batch, read by another log object after the first is closed."""
    with evtool.open(folder, create=True, config=config(**settings)) as log:
        log.append(events)
    return rows(evtool.open(folder))


def test_positions_count_from_one_without_gaps_over_restarts(folder: Path):
    seen = []
    numbers = count(1)
    for _ in range(4):
        with evtool.open(folder, create=True) as log:
            for size in (1, 3, 2):
                commit = log.append([event(number) for number in islice(numbers, size)])
                assert commit.count == size
                assert commit.last_position - commit.first_position + 1 == size
                seen += range(commit.first_position, commit.last_position + 1)
                assert log.position == commit.last_position
    assert seen == list(range(1, 25))
    assert check_sound(folder).batches == 12


def test_a_commit_says_where_its_events_are(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1), event(2)])
        commit = log.append([event(3), event(4), event(5)])
        assert (commit.batch, commit.first_position, commit.last_position, commit.count) == (2, 3, 5, 3)
        assert [row["recorded_at"] - commit.first_recorded_at for row in rows(log, start=3)] == [0, 1, 2]


@pytest.mark.parametrize("step_ns", [-(10**18), -1, 0, 1, 10**9])
def test_recorded_at_rises_whatever_the_clock_does(folder: Path, step_ns: int):
    manifest = evtool.open(folder, create=True).manifest
    clock, numbers = count(MOMENT_NS, step_ns), count(1)
    for _ in range(3):
        writer = Writer(Files(), folder, manifest, config().log, now_ns=lambda: next(clock))
        for size in (1, 5, 2):
            prepared = writer.prepare(envelope.batch([event(number) for number in islice(numbers, size)]))
            writer.commit(prepared, [writer.encode(part) for part in prepared.parts])
        writer.close()
    recorded_at = [row["recorded_at"] for row in rows(evtool.open(folder))]
    assert len(recorded_at) == 24
    assert recorded_at[0] == MOMENT_NS
    assert all(earlier < later for earlier, later in pairwise(recorded_at))
    check_sound(folder)


def test_recorded_at_is_the_time_when_the_clock_is_ahead(folder: Path):
    manifest = evtool.open(folder, create=True).manifest
    for number, now in enumerate((MOMENT_NS, MOMENT_NS + 10**9)):
        writer = Writer(Files(), folder, manifest, config().log, now_ns=lambda now=now: now)
        prepared = writer.prepare(envelope.batch([event(2 * number), event(2 * number + 1)]))
        commit = writer.commit(prepared, [writer.encode(part) for part in prepared.parts])
        assert commit.first_recorded_at == now
        writer.close()


def test_what_is_absent_gets_the_defaults(folder: Path):
    fewest = {"event_id": "1", "source_id": "shop", "stream_id": "user-1", "event_type": "ItemViewed"}
    [row] = kept(folder, fewest)
    assert row == fewest | {
        "position": 1,
        "recorded_at": row["recorded_at"],
        "timestamp": row["recorded_at"],
        "stream_version": 1,
        "schema_version": 1,
        "payload": "{}",
        "metadata": None,
    }


def test_a_frame_gets_the_same_defaults(folder: Path):
    fewest = {"event_id": "1", "source_id": "shop", "stream_id": "user-1", "event_type": "ItemViewed"}
    with evtool.open(folder, create=True) as log:
        log.append(pl.DataFrame([fewest]))
        [row] = rows(log)
    assert row["timestamp"] == row["recorded_at"]
    assert (row["stream_version"], row["schema_version"], row["payload"], row["metadata"]) == (1, 1, "{}", None)


def test_the_source_may_come_from_the_configuration(folder: Path):
    with evtool.open(folder, create=True, config=config(source="till")) as log:
        log.append([event(1, source_id=None), event(2)])
        log.append(frame([event(3, source_id=None), event(4)]))
        log.append(frame([event(5), event(6)]).drop("source_id"))
        assert [row["source_id"] for row in rows(log)] == ["till", "shop", "till", "shop", "till", "till"]


def test_position_and_recorded_at_are_not_taken_from_the_event(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1, position=77, recorded_at=5)])
        log.append(pl.DataFrame([event(2, position=77, recorded_at=5)]))
        assert [row["position"] for row in rows(log)] == [1, 2]
        assert rows(log)[0]["recorded_at"] > 5


@pytest.mark.parametrize("as_frame", [False, True], ids=["mappings", "frame"])
@pytest.mark.parametrize("field", ["payload", "metadata"])
def test_json_comes_back_byte_for_byte(folder: Path, field: str, as_frame: bool):
    events = [event(number, **{field: text}) for number, text in enumerate(ODD_OBJECTS)]
    with evtool.open(folder, create=True) as log:
        log.append(frame(events) if as_frame else events)
        assert [row[field] for row in rows(log)] == list(ODD_OBJECTS)
    check_sound(folder)


def test_json_given_as_bytes_or_as_an_object_is_kept(folder: Path):
    read = kept(folder, event(1, payload=b'{"n": 1.0}'), event(2, payload={"b": [1, 2.5, None], "a": "é"}))
    assert [row["payload"] for row in read] == ['{"n": 1.0}', '{"b":[1,2.5,null],"a":"é"}']


def test_metadata_is_absent_where_it_was_absent(folder: Path):
    given = [None, "{}", '{"a":1}', None]
    with evtool.open(folder, create=True) as log:
        log.append([event(number, metadata=text) for number, text in enumerate(given)])
        log.append([event(5), event(6)])
        log.append([event(7, metadata='{"b":2}')])
        assert [row["metadata"] for row in rows(log)] == [*given, None, None, '{"b":2}']


@pytest.mark.parametrize("repeat", [1, 40])
@pytest.mark.parametrize("field", ["source_id", "stream_id", "event_type", "event_id"])
def test_texts_come_back_exactly(folder: Path, field: str, repeat: int):
    texts = list(ODD_TEXTS) * repeat  # often enough for a dictionary
    # A source has an id once, so where the ids repeat the sources do not.
    read = kept(
        folder, *(event(i, **{"source_id": f"source-{i}"} | {field: text}) for i, text in enumerate(texts))
    )
    assert [row[field] for row in read] == texts


@pytest.mark.parametrize(
    "given",
    [
        ODD_IDS,
        [text for text in ODD_IDS if text == text.lower() and len(text) == 36],
        ["00000000-0000-0000-0000-000000000000"],
        ["00000000-0000-0000-0000-000000000000", "1"],
        ["1", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"],
        [f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(3000)],
        [f"{number:08x}-0000-4000-8000-{number:012x}" if number % 3 else str(number) for number in range(3000)],
    ],
    ids=["odd", "lower", "null", "null and text", "text and nulls", "all uuids", "mixed"],
)
def test_event_ids_come_back_exactly_whether_uuids_or_not(folder: Path, given: list[str]):
    read = kept(folder, *(event(i, event_id=text, source_id=f"source-{i % 2}") for i, text in enumerate(given)))
    assert [row["event_id"] for row in read] == list(given)


@pytest.mark.parametrize(
    "given",
    [
        [0, 1_000_000_000, -1_000_000_000],
        [MOMENT_NS, MOMENT_NS + 7_000_000],
        [MOMENT_NS, MOMENT_NS + 7_000],
        [MOMENT_NS, MOMENT_NS + 7],
        [-1, -1_000, -1_000_000],
        [INT64_MIN, INT64_MAX, 0],
        [INT64_MAX // 10**9 * 10**9, -(INT64_MAX // 10**9 * 10**9)],
        [INT64_MIN + 854_775_808],
    ],
    ids=["s", "ms", "us", "ns", "negative", "extremes", "extreme s", "first whole second"],
)
def test_times_of_every_unit_come_back_exactly(folder: Path, given: list[int]):
    with evtool.open(folder, create=True) as log:
        log.append(frame(event(number, timestamp=moment) for number, moment in enumerate(given)))
        assert [row["timestamp"] for row in rows(log)] == given
    check_sound(folder)


@pytest.mark.parametrize(
    "given",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T02:00:00.000000000+02:00",
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2025, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))),
        MOMENT_NS // 10**9,
        MOMENT_NS // 10**6,
        MOMENT_NS // 10**3,
        MOMENT_NS,
        Decimal(MOMENT_NS // 10**9),
        float(MOMENT_NS // 10**9),
    ],
    ids=repr,
)
def test_a_time_may_be_given_in_many_ways(folder: Path, given: Any):
    assert [row["timestamp"] for row in kept(folder, event(1, timestamp=given))] == [MOMENT_NS]


def test_times_of_a_frame_are_nanoseconds_whatever_its_payloads_look_like(folder: Path):
    given = frame(
        [event(1, timestamp=50_000_000_000, payload=' {"a":1}'), event(2, timestamp=5, payload='{"a":1} ')]
    )
    with evtool.open(folder, create=True) as log:
        log.append(given)
        assert [(row["timestamp"], row["payload"]) for row in rows(log)] == [
            (50_000_000_000, ' {"a":1}'),
            (5, '{"a":1} '),
        ]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_frame_may_hold_datetimes(folder: Path, unit: Any):
    moments = pl.Series([datetime(2026, 1, 1), None]).cast(pl.Datetime(unit)).dt.replace_time_zone("UTC")
    with evtool.open(folder, create=True) as log:
        log.append(frame([event(1), event(2)]).with_columns(moments.alias("timestamp")))
        first, second = rows(log)
    assert first["timestamp"] == MOMENT_NS
    assert second["timestamp"] == second["recorded_at"]


def test_a_frame_with_datetimes_out_of_range_is_refused(folder: Path):
    moments = pl.Series([datetime(3000, 1, 1, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC"))
    with evtool.open(folder, create=True) as log, pytest.raises(EventError):
        log.append(frame([event(1)]).with_columns(moments.alias("timestamp")))


@pytest.mark.parametrize("codec", [Codec("none"), Codec("lz4"), Codec("zstd", 3)], ids=str)
@pytest.mark.parametrize("size", [1, SPLIT_EVENTS - 1, SPLIT_EVENTS], ids=["tiny", "mixed", "split"])
def test_batches_of_every_size_and_codec_come_back_in_order(folder: Path, size: int, codec: Codec):
    with evtool.open(folder, create=True, config=config(partitions=2, codec=codec)) as log:
        log.append([event(0, "other")])
        log.append(many(size, first=1))
        log.append([event(size + 1, "other")])
        assert ids(log) == [f"event-{number}" for number in range(size + 2)]
    assert check_sound(folder).frames == 6 + (size == SPLIT_EVENTS)


def test_a_split_batch_may_leave_partitions_empty(folder: Path):
    with evtool.open(folder, create=True, config=config(partitions=3)) as log:
        log.append(many(2048 * 3, streams=1))
        assert [row["stream_version"] for row in rows(log)] == list(range(1, 2048 * 3 + 1))
    assert check_sound(folder).frames == 2


@pytest.mark.parametrize("empty", [[], (), many(0), iter([])], ids=["list", "tuple", "frame", "iterator"])
def test_an_empty_append_writes_nothing(folder: Path, empty: Any):
    with evtool.open(folder, create=True) as log:
        assert log.append([]).count == 0
        assert (log.position, rows(log)) == (0, [])
        log.append([event(1)])
        commit = log.append(empty)
        assert (commit.count, commit.first_position, commit.last_position) == (0, 2, 1)
        assert log.append([event(2)]).first_position == 2
    assert check_sound(folder).batches == 2


def test_an_empty_batch_may_carry_a_resume_point(folder: Path):
    for number in range(2):
        with evtool.open(folder, create=True) as log:
            log.append([event(number)], resume={"file": "a", "line": 7})
            commit = log.append([], resume={"file": "a", "line": 8, "odd": "x" * 3})
            assert commit.count == 0
            assert commit.last_position == log.position
    assert check_sound(folder).batches == 4


@pytest.mark.parametrize("before", [0, 1])
def test_empty_batches_alone_fill_no_segment(folder: Path, before: int):
    """A source that is idle stores its resume point again and again; a segment is named by its first position."""
    reader = None
    with evtool.open(folder, create=True, config=config(segment_bytes=1)) as log:
        reader = evtool.open(folder, read_only=True)
        for number in range(before):
            log.append([event(number)])
        for number in range(5):
            log.append([], resume={"line": number})
            assert reader.position == before
        for number in range(before, 4):
            log.append([event(number)])
            assert ids(reader) == [f"event-{i}" for i in range(number + 1)]
            assert ids(evtool.open(folder, read_only=True)) == ids(reader)
        log.append([], resume={"line": 9})
    make_log(folder, [[event(4)]], config(segment_bytes=1))
    assert ids(reader) == [f"event-{i}" for i in range(5)]
    assert check_sound(folder).batches == 11


def test_a_new_log_is_empty(folder: Path):
    log = evtool.open(folder, create=True)
    assert log.position == 0
    assert list(log.scan()) == []
    assert b"".join(log.replay()) == b""
    assert log.snapshot().segments == ()
    report = verify(log)
    assert (report.is_clean, report.events, report.segments) == (True, 0, 0)


@pytest.mark.parametrize("as_frame", [False, True], ids=["mappings", "frame"])
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"stream_id": None}, "missing_field"),
        ({"event_id": ""}, "empty_field"),
        ({"event_id": "x" * 257}, "text_too_long"),
        ({"stream_id": "é" * 513}, "text_too_long"),
        ({"payload": "[1]"}, "wrong_type"),
        ({"payload": '{"a":}'}, "invalid_json"),
        ({"metadata": '{"a":01}'}, "invalid_json"),
        ({"payload": '{"a":"\\ud800"}'}, "lone_surrogate"),
        ({"payload": '{"a":' + "[" * 127 + "]" * 127 + "}"}, "nesting_too_deep"),
        ({"stream_version": 0}, "number_out_of_range"),
        ({"schema_version": -1}, "number_out_of_range"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_batch_with_a_broken_rule_is_refused_whole(
    folder: Path, wrong: dict[str, Any], reason: str, as_frame: bool
):
    batch = [event(1), event(2, **wrong), event(3)]
    with evtool.open(folder, create=True) as log:
        log.append([event(0)])
        with pytest.raises(EventError, match=reason) as caught:
            log.append(frame(batch) if as_frame else batch)
        assert "event 1 of the batch" in str(caught.value)
        assert ids(log) == ["event-0"]
        assert log.append([event(4)]).first_position == 2
    check_sound(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "red"},
        {"stream_id": 5},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-01-01T00:00:00"},
        {"timestamp": True},
        {"stream_version": 1.0},
        {"stream_version": INT64_MAX + 1},
        {"schema_version": INT32_MAX + 1},
        {"payload": b'{"a":"\xff"}'},
        {"payload": {"a": 1j}},
        {"payload": 5},
    ],
    ids=repr,
)
def test_a_mapping_with_a_wrong_value_is_refused(folder: Path, wrong: dict[str, Any]):
    with evtool.open(folder, create=True) as log:
        with pytest.raises(EventError):
            log.append([event(1), event(2, **wrong)])
        assert log.position == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_write_is_not_changed_silently(folder: Path, value: float):
    with evtool.open(folder, create=True) as log:
        with pytest.raises(EventError):
            log.append([event(1, payload={"value": value})])
        assert log.position == 0


def test_an_integer_of_any_size_may_stand_in_a_payload_object(folder: Path):
    [row] = kept(folder, event(1, payload={"n": 2**70, "m": -(2**64)}))
    assert row["payload"] == f'{{"n":{2**70},"m":{-(2**64)}}}'


@pytest.mark.parametrize("column", ["colour", "Payload"])
def test_a_frame_with_an_unknown_column_is_refused(folder: Path, column: str):
    with evtool.open(folder, create=True) as log, pytest.raises(EventError, match=column):
        log.append(frame([event(1)]).with_columns(pl.lit("red").alias(column)))


def test_a_frame_without_time_zone_is_refused(folder: Path):
    moments = pl.Series("timestamp", [datetime(2026, 1, 1)])
    with evtool.open(folder, create=True) as log, pytest.raises(EventError, match="time zone"):
        log.append(frame([event(1)]).with_columns(moments))


@pytest.mark.parametrize("column", ["timestamp", "stream_version", "schema_version"])
def test_a_frame_with_fractions_where_whole_numbers_belong_is_refused(folder: Path, column: str):
    with evtool.open(folder, create=True) as log, pytest.raises(EventError):
        log.append(frame([event(1)]).with_columns(pl.lit(1.5).alias(column)))


def test_versions_are_given_within_each_stream(folder: Path):
    numbers = count(1)
    for _ in range(2):
        with evtool.open(folder, create=True) as log:
            for streams in ("aba", "bca"):
                log.append([event(next(numbers), stream) for stream in streams])
    versions = [(row["stream_id"], row["stream_version"]) for row in rows(evtool.open(folder))]
    first = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 1), ("a", 3)]
    assert versions == [*first, ("a", 4), ("b", 3), ("a", 5), ("b", 4), ("c", 2), ("a", 6)]


def test_the_next_version_may_be_given(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1, stream_version=1), event(2), event(3, stream_version=3)])
        log.append([event(4, stream_version=4), event(5, "b", stream_version=1)])
        assert [row["stream_version"] for row in rows(log)] == [1, 2, 3, 4, 1]


@pytest.mark.parametrize("given", [1, 2, 4, INT64_MAX])
def test_a_wrong_version_refuses_the_whole_batch(folder: Path, given: int):
    with evtool.open(folder, create=True) as log:
        log.append([event(1), event(2)])
        with pytest.raises(EventError, match=rf"expects version 3, and {given} was given"):
            log.append([event(3, "new"), event(4, stream_version=given)])
        assert log.position == 2
        # Neither the refused event nor its neighbour of another stream took a version.
        log.append([event(5, "new"), event(6)])
        assert [row["stream_version"] for row in rows(log)] == [1, 2, 1, 3]
    check_sound(folder)


def test_a_log_opened_to_be_read_takes_nothing(folder: Path):
    evtool.open(folder, create=True).close()
    with evtool.open(folder, read_only=True) as log, pytest.raises(LogReadOnlyError):
        log.append([event(1)])


def test_batches_of_several_threads_do_not_interleave(folder: Path):
    def work(log: evtool.Log, name: int) -> None:
        for number in range(20):
            log.append([event(i, f"user-{i % 3}", event_id=f"{name}-{number}-{i}") for i in range(5)])

    with evtool.open(folder, create=True, config=config(segment_bytes=16_000)) as log:
        threads = [threading.Thread(target=work, args=(log, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = ids(log)
    assert len(set(stored)) == len(stored) == 400
    assert [text[-1] for text in stored] == list("01234") * 80
    stored = [text[:-2] for text in stored]
    assert all(len(set(stored[start : start + 5])) == 1 for start in range(0, 400, 5))
    for name in range(4):
        assert [text for text in stored[::5] if text.startswith(f"{name}-")] == [f"{name}-{i}" for i in range(20)]
    check_sound(folder)
