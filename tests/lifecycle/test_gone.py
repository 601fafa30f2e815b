"""Events that are gone: dropped, erased, in segments that are merged and changed again, and what outlives them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compacting import compacted, small_pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import event, segments

import evtool
from evtool.config import Config, LogConfig
from evtool.errors import PositionError
from evtool.lifecycle.forgetting import ERASED_METADATA, ERASED_PAYLOAD, dropping, erasing, new_name
from evtool.lifecycle.rewriting import rewrite, rewriting_lock
from evtool.lifecycle.verify import verify
from evtool.log.gone import DROPPED, ERASED, Gone, gone, ids_of, joined

STREAMS = ("user-1", "user-2", "user-3", "é ß")
COUNT = 2_400
BATCH = 300


def sent() -> list[dict[str, Any]]:
    return [event(number, STREAMS[number % len(STREAMS)], timestamp=number * 1_000) for number in range(COUNT)]


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gone") / "segments"
    config = Config(log=LogConfig(partitions=2, segment_bytes=6 * 1024))
    events = sent()
    with evtool.open(folder, create=True, config=config) as log:
        for start in range(0, COUNT, BATCH):
            log.append(events[start : start + BATCH])
    assert len(segments(folder)) > 3
    return folder


@dataclass
class Expected:
    """What a log of `sent()` still has, by position."""

    events: dict[int, dict[str, Any]] = field(default_factory=lambda: dict(enumerate(sent(), 1)))
    dropped: set[int] = field(default_factory=set)
    erased: set[int] = field(default_factory=set)


def chosen_of(positions: set[int]) -> Any:
    return lambda events: np.isin(events["position"].to_numpy(), sorted(positions))


def change(folder: Path, segment: int, positions: set[int], way: str, expected: Expected) -> None:
    """Let some events of a sealed segment go."""
    with small_pieces(), evtool.open(folder) as log:
        sealed = [one for one in log.snapshot().segments if one.is_sealed]
        one = sealed[segment % len(sealed)]
        going = {position for position in positions if one.first_position <= position <= one.last_position}
        going -= expected.dropped | expected.erased
        names = {name: new_name(name, log.partitions) for name in STREAMS} if way == "erase" else {}
        make = dropping if way == "drop" else erasing
        arguments = (names,) if way == "erase" else ()
        lock = rewriting_lock(log)
        try:
            rewrite(log, [one], [], make(chosen_of(going), log.manifest.id_bytes, *arguments))
        finally:
            lock.release()
    (expected.dropped if way == "drop" else expected.erased).update(going)


def check(folder: Path, expected: Expected) -> None:
    report = verify(evtool.open(folder, read_only=True))
    assert (report.is_clean, report.findings, report.notes) == (True, [], [])
    assert report.events == COUNT - len(expected.dropped)
    with evtool.open(folder, read_only=True) as log:
        held = {row["position"]: row for frame in log.scan() for row in frame.iter_rows(named=True)}
    assert list(held) == [position for position in range(1, COUNT + 1) if position not in expected.dropped]
    versions: dict[str, int] = {}
    for position, given_event in expected.events.items():
        stream = given_event["stream_id"]
        versions[stream] = versions.get(stream, 0) + 1
        if position in expected.dropped:
            continue
        row = held[position]
        stays = ("source_id", "event_type", "timestamp", "stream_version", "schema_version")
        assert [row[name] for name in stays] == [
            "shop",
            "ItemViewed",
            (position - 1) * 1_000 * 10**9,
            versions[stream],
            1,
        ]
        if position in expected.erased:
            assert row["event_id"] == f"erased-{position}"
            assert row["stream_id"] not in STREAMS
            assert (row["payload"], row["metadata"]) == (ERASED_PAYLOAD, ERASED_METADATA)
        else:
            assert [row[name] for name in ("event_id", "stream_id", "payload")] == [
                given_event[name] for name in ("event_id", "stream_id", "payload")
            ]


steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["drop", "erase"]),
            st.integers(0, 9),
            st.one_of(
                st.just(set(range(1, COUNT + 1))),
                st.sets(st.integers(1, COUNT), max_size=40),
                st.tuples(st.integers(1, COUNT), st.integers(1, 700)).map(lambda at: set(range(at[0], sum(at)))),
            ),
        ),
        st.just(("compact", 0, set())),
        st.just(("merge", 0, set())),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15)
@given(steps, st.booleans())
def test_events_that_go_leave_the_others_as_they_were_and_never_come_again(
    log_folder: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[Any], is_index_lost: bool
):
    folder = tmp_path_factory.mktemp("steps") / "segments"
    shutil.copytree(log_folder, folder)
    expected = Expected()
    for way, segment, positions in steps:
        if way in ("compact", "merge"):
            compacted(folder, 0 if way == "compact" else 1 << 30)
        else:
            change(folder, segment, positions, way, expected)
    check(folder, expected)
    if is_index_lost:
        shutil.rmtree(folder / "index")
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT
        assert log.position == COUNT
        for number, stream in enumerate(STREAMS, COUNT):
            log.append([event(number, stream)], expected_version={stream: COUNT // len(STREAMS)})
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes) == ([], [])


def test_a_segment_of_which_nothing_is_left_can_be_read(log_folder: Path, tmp_path: Path):
    folder = tmp_path / "segments"
    shutil.copytree(log_folder, folder)
    expected = Expected()
    for number in range(len(segments(folder)) - 1):
        change(folder, number, set(range(1, COUNT + 1)), "drop", expected)
    check(folder, expected)
    compacted(folder, 1 << 30)
    check(folder, expected)
    with evtool.open(folder, read_only=True) as log:
        assert log.stream("user-1").is_empty()
        with pytest.raises(PositionError):
            log.find("event-0", "shop")


def test_an_index_that_is_made_anew_knows_erased_events_by_what_they_were(log_folder: Path, tmp_path: Path):
    folder = tmp_path / "segments"
    shutil.copytree(log_folder, folder)
    change(folder, 1, set(range(1, COUNT, 7)), "erase", Expected())
    shutil.rmtree(folder / "index")
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes, report.streams) == ([], [], len(STREAMS))


def test_a_damaged_file_of_what_is_gone_is_found(log_folder: Path, tmp_path: Path):
    folder = tmp_path / "segments"
    shutil.copytree(log_folder, folder)
    change(folder, 0, {3, 4, 5}, "drop", Expected())
    path = next(folder.rglob("*.gone"))
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    report = verify(evtool.open(folder, read_only=True))
    assert [(found.file, found.message) for found in report.findings] == [
        (str(path), "it does not match its checksum")
    ]


@given(st.dictionaries(st.integers(1, 300), st.sampled_from([DROPPED, ERASED])), st.integers(1, 4))
def test_what_is_gone_is_found_by_its_position(kinds: dict[int, int], parts: int):
    numbers = np.array(sorted(kinds), np.int64)

    def of(chosen: Any) -> Gone:
        values = chosen.astype(np.uint64)
        return gone(
            chosen,
            np.array([kinds[number] for number in chosen.tolist()], np.uint32),
            ids_of(values, values + np.uint64(1)),
            np.stack([values, values], axis=1),
            chosen * 2,
        )

    whole = joined([of(numbers[start::parts]) for start in range(parts)])
    assert whole.encode() == of(numbers).encode()
    assert whole.positions.tolist() == numbers.tolist()
    asked = np.arange(0, 303)
    found = whole.find(asked)
    assert asked[found >= 0].tolist() == numbers.tolist()
    assert whole.ids["hash"][found[found >= 0]].tolist() == numbers.tolist()
    assert whole.absent == list(kinds.values()).count(DROPPED)
    assert whole.absent_between(10, 200) == sum(10 <= at <= 200 and kinds[at] == DROPPED for at in kinds)
    assert whole.streams[1].tolist() == (numbers * 2).tolist()


def test_a_new_name_of_a_stream_stays_in_its_partition_and_tells_nothing():
    from evtool.log.partitions import partitions_of

    for stream in STREAMS:
        name = new_name(stream, 8)
        assert stream not in name
        assert partitions_of([name.encode()], 8) == partitions_of([stream.encode()], 8)
