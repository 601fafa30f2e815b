"""Appends of several threads at once, and appends that say which versions they expect."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from samples import check_sound, config, event, ids, rows

import evtool
from evtool.errors import EventError, IdConflictError, VersionConflictError


def together(*works: Callable[[], None]) -> None:
    """Do some work in a thread each, and wait for all."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def outcome(commit: evtool.Commit) -> tuple[int, int]:
    return commit.count, commit.duplicates


# Threads.


def test_threads_that_append_the_same_events_at_once_store_each_once(folder: Path):
    given = [[event(5 * number + i, f"user-{i}") for i in range(5)] for number in range(30)]
    commits: list[list[evtool.Commit]] = [[] for _ in range(6)]

    def work(log: evtool.Log, name: int) -> None:
        for number in range(len(given)):
            batch = given[number if name % 2 else len(given) - 1 - number]
            commits[name].append(log.append(batch))

    with evtool.open(folder, create=True, config=config(segment_bytes=8_000)) as log:
        together(*(partial(work, log, name) for name in range(len(commits))))
        stored = ids(log)
    everything = [done for each in commits for done in each]
    assert len(everything) == len(commits) * len(given)
    assert all(outcome(done) in ((5, 0), (0, 5)) for done in everything)
    assert sum(done.count for done in everything) == len(stored) == len(set(stored)) == 150
    positions = sorted((done.first_position, done.last_position) for done in everything if done.count)
    assert positions == [(first, first + 4) for first in range(1, 150, 5)]
    for start in range(0, 150, 5):  # whole batches, and each where its commit says
        assert {int(name.split("-")[1]) // 5 for name in stored[start : start + 5]} == {
            int(stored[start].split("-")[1]) // 5
        }
    check_sound(folder)


def test_of_threads_that_send_one_id_with_different_contents_one_wins(folder: Path):
    outcomes: list[Any] = []

    def work(log: evtool.Log, name: int) -> None:
        for number in range(20):
            try:
                outcomes.append((name, number, log.append([event(number, payload=f'{{"by":{name}}}')]).count))
            except IdConflictError as error:
                outcomes.append((name, number, error.first_position))

    with evtool.open(folder, create=True) as log:
        together(*(partial(work, log, name) for name in range(4)))
        stored = rows(log)
    assert sorted(row["event_id"] for row in stored) == sorted(f"event-{number}" for number in range(20))
    winners = {
        int(row["event_id"].split("-")[1]): (json.loads(row["payload"])["by"], row["position"]) for row in stored
    }
    assert len(outcomes) == 80
    for name, number, told in outcomes:
        winner, position = winners[number]
        assert told == (1 if name == winner else position)
    check_sound(folder)


# Expected versions.


@pytest.mark.parametrize(
    ("expected", "holds"),
    [
        ({"a": 2}, True),
        ({"a": "any"}, True),
        ({"a": "exists"}, True),
        ({"new": 0, "a": 2}, True),
        ({"new": "no_stream", "b": 1}, True),
        ({"new": "any"}, True),
        ({}, True),
        ({"a": 1}, False),
        ({"a": 3}, False),
        ({"a": 0}, False),
        ({"a": -1}, False),
        ({"a": "no_stream"}, False),
        ({"new": "exists"}, False),
        ({"new": 1}, False),
        ({"a": 2, "b": 2}, False),
    ],
    ids=repr,
)
def test_a_batch_may_say_which_versions_it_expects(folder: Path, expected: dict[str, Any], holds: bool):
    with evtool.open(folder, create=True) as log:
        log.append([event(1, "a"), event(2, "b"), event(3, "a")])
        if holds:
            assert outcome(log.append([event(4, "a"), event(5, "new")], expected_version=expected)) == (2, 0)
        else:
            with pytest.raises(VersionConflictError) as caught:
                log.append([event(4, "a"), event(5, "new")], expected_version=expected)
            stream = caught.value.stream_id
            assert caught.value.expected == expected[stream]
            assert caught.value.version == {"a": 2, "b": 1, "new": 0}[stream]
            assert caught.value.place is None
            assert log.position == 3
            assert outcome(log.append([event(4, "a"), event(5, "new")])) == (2, 0)
    check_sound(folder)


@pytest.mark.parametrize("wanted", ["nothing", "1", None, 1.0, True, (1,)], ids=repr)
def test_an_expectation_that_makes_no_sense_is_refused(folder: Path, wanted: Any):
    with evtool.open(folder, create=True) as log:
        log.append([event(1)])
        with pytest.raises(EventError, match="cannot be expected of stream 'user-1'"):
            log.append([event(2)], expected_version={"user-1": wanted})
        assert ids(log) == ["event-1"]


@pytest.mark.parametrize("expected", [0, "no_stream"])
def test_an_append_with_an_expectation_may_be_tried_again(folder: Path, expected: Any):
    batch = [event(1), event(2)]
    for number in range(3):
        with evtool.open(folder, create=True) as log:
            for _ in range(2):
                commit = log.append(batch, expected_version={"user-1": expected})
                assert outcome(commit) in ((2, 0), (0, 2))
                assert log.position == 2
            # What is new must find what it expects, whatever else comes with it.
            with pytest.raises(VersionConflictError):
                log.append([*batch, event(3)], expected_version={"user-1": expected})
            with pytest.raises(EventError):
                log.append([event(1), event(2, payload="{}")], expected_version={"user-1": expected})
            assert log.position == 2, number
    with evtool.open(folder) as log:
        assert outcome(log.append([*batch, event(3)], expected_version={"user-1": 2})) == (1, 2)
    check_sound(folder)


def test_of_threads_that_expect_one_version_one_stores(folder: Path):
    won: list[int] = []
    lost: list[VersionConflictError] = []

    def work(log: evtool.Log, name: int) -> None:
        for version in range(10):
            while log.position < version:
                pass
            try:
                log.append([event(100 * name + version)], expected_version={"user-1": version})
                won.append(version)
            except VersionConflictError as error:
                lost.append(error)

    with evtool.open(folder, create=True) as log:
        together(*(partial(work, log, name) for name in range(4)))
        assert [row["stream_version"] for row in rows(log)] == list(range(1, 11))
    assert sorted(won) == list(range(10))
    assert len(lost) == 30
    check_sound(folder)
