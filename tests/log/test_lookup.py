"""Stored events found by their positions, one frame after another or several at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from samples import Event, config, event

import evtool
from evtool.errors import IdConflictError
from evtool.log import lookup, sequence
from evtool.log.lookup import events_at, look_at

EVENTS = 600


def sent(number: int, **fields: str) -> Event:
    return event(number, f"user-{number % 7}", **fields)


@pytest.fixture(params=[True, False], ids=["in threads", "one by one"])
def in_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(lookup, "_SERIAL_MAX", 0)


@pytest.fixture
def log(folder: Path, monkeypatch: pytest.MonkeyPatch, in_threads: None) -> Iterator[evtool.Log]:
    """Events in batches of a frame for each partition, and in several segments."""
    monkeypatch.setattr(sequence, "SPLIT_EVENTS_MIN", 4)
    with evtool.open(folder, create=True, config=config(40_000)) as log:
        for start in range(0, EVENTS, 100):
            log.append([sent(number) for number in range(start, start + 100)])
        segments = log.snapshot().segments
        assert len(segments) > 1
        assert max(len(segment.event_rows()) for segment in segments) > 2
        yield log


def test_events_in_any_order_are_each_what_was_sent(log: evtool.Log):
    chosen = np.random.default_rng(1).permutation(EVENTS)[: EVENTS // 2]
    found = events_at(log.snapshot(), chosen + 1, ("position", "event_id"))
    assert found["position"].to_pylist() == sorted((chosen + 1).tolist())
    assert found["event_id"].to_pylist() == [f"event-{number}" for number in sorted(chosen.tolist())]


def test_a_position_that_is_asked_twice_or_not_there(log: evtool.Log):
    positions = np.array([1, 1, 5, EVENTS, EVENTS, EVENTS + 1])
    told = look_at(
        log.snapshot(), positions, lambda batch, at: list(zip(batch["position"].to_pylist(), at, strict=True))
    )
    assert sorted(pair for pairs in told for pair in pairs) == [(1, 0), (1, 1), (5, 2), (EVENTS, 3), (EVENTS, 4)]


def test_duplicates_and_conflicts_in_any_order_are_told_from_what_is_new(log: evtool.Log):
    order = np.random.default_rng(2).permutation(EVENTS + 50).tolist()
    commit = log.append([sent(number) for number in order])
    assert (commit.count, commit.duplicates) == (50, EVENTS)
    with pytest.raises(IdConflictError, match="'event-7'"):
        log.append([sent(9), sent(7, payload='{"other":true}'), sent(3)])
