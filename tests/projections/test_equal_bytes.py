"""The same events and the same definition give the same bytes, whatever way the events came and were counted."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import Event, aggregates, cuts, events, make, open_projection, refreshed, toml_of, write
from samples import config, frame

import evtool
from evtool import parallel
from evtool.projections import catalogue, work

BUILT_IN = sorted(catalogue.entries(None))
KINDS = {
    "by actor and key": """
[keys]
product = "payload.product_id"
[funnel]
by = "coalesce(payload.user_id, stream_id)"
steps = ["ItemViewed", "bought: event_type = 'ItemPurchased'", "back: event_type = 'ItemViewed'"]
within = "10d"
mode = ["strict_once"]
""",
    "strict order": """
[funnel]
by = "stream_id"
steps = ["ItemViewed", "ItemPurchased"]
within = "3w"
mode = "strict_order"
""",
    "retention by key": """
[time]
grain = "day"
timezone = "America/New_York"
[keys]
product = "payload.product_id"
[retention]
by = "stream_id"
start = "event_type = 'ItemViewed'"
return = "event_type <> 'ButtonClicked'"
periods = 40
""",
    "each session": """
[sessions]
by = "payload.user_id"
gap = "5h"
each = true
""",
    "sessions by hour": """
[time]
grain = "hour"
timezone = "Asia/Kolkata"
[sessions]
by = "stream_id"
gap = "90m"
""",
}


def step_by_step(folder: Path, batches: Sequence[Sequence[Event]], names: Sequence[str]) -> dict[str, bytes]:
    """The read models of a log after it grew by one batch at a time, refreshed each time."""
    found: dict[str, bytes] = {}
    for batch in batches:
        with evtool.open(folder, create=True, config=config(fsync="never")) as log:
            log.append(frame(batch))
            found = {name: refreshed(log, name)[1] for name in names}
    return found


def at_once(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    with evtool.open(folder, read_only=True) as log:
        return {name: refreshed(log, name, full=True)[1] for name in names}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("equal")


def fresh(scratch: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=scratch))


@given(data=st.data())
@settings(max_examples=5)
def test_built_in_projections_and_every_kind_in_any_cut(data: st.DataObject, scratch: Path):
    folder = fresh(scratch)
    names = [*BUILT_IN, *(write(folder, text, f"kind-{at}") for at, text in enumerate(KINDS.values()))]
    happened = data.draw(events(4, 60))
    batches = data.draw(cuts(happened))
    grown = step_by_step(folder / "grown", batches, names)
    again = [*batches, happened[: len(happened) // 2]]  # sent again: nothing of it counts
    resent = make(folder / "resent", again)
    with evtool.open(folder / "grown", read_only=True) as log:
        position = log.position
    assert position == len(happened)
    assert grown == at_once(folder / "grown", names) == at_once(resent, names)


@given(data=st.data())
@settings(max_examples=14)
def test_generated_aggregates_in_any_cut(data: st.DataObject, scratch: Path):
    folder = fresh(scratch)
    names = [write(folder, toml_of(data.draw(aggregates())), f"mine-{at}") for at in range(2)]
    happened = data.draw(events())
    grown = step_by_step(folder / "grown", data.draw(cuts(happened)), names)
    assert grown == at_once(make(folder / "whole", [happened]), names)


@given(data=st.data())
@settings(max_examples=7)
def test_order_of_arrival_does_not_matter_without_first_and_last(data: st.DataObject, scratch: Path):
    folder = fresh(scratch)
    parts = [data.draw(aggregates(ordered=False)) for _ in range(2)]
    names = [write(folder, toml_of(each), f"mine-{at}") for at, each in enumerate(parts)]
    names += [name for name in BUILT_IN if name != "funnel-conversion"]  # equal times go by position
    happened = data.draw(events(2))
    shuffled = data.draw(st.permutations(happened))
    # Read models tell the position that they are of, so both logs end at the same one.
    in_order = at_once(make(folder / "in-order", [happened]), names)
    assert in_order == step_by_step(folder / "shuffled", data.draw(cuts(shuffled)), names)


def spread(count: int) -> list[list[Event]]:
    """Events in many groups of frames, so that threads have something to share."""
    users = [
        {
            "event_id": f"e-{at}",
            "source_id": "shop",
            "stream_id": f"s-{at % 11}",
            "event_type": ("ItemViewed", "ItemPurchased", "UserViewedPage")[at % 3],
            "timestamp": 1_767_225_600_000_000_000 + (at * 7_919 % 2_000) * 3_600_000_000_000,
            "payload": f'{{"user_id":"u{at % 7}","amount":"{at % 13}.{at % 10}5","product_id":"p{at % 4}"}}',
        }
        for at in range(count)
    ]
    return [users[at : at + 97] for at in range(0, count, 97)]


def test_one_thread_and_two_give_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names = [*BUILT_IN, *(write(tmp_path, text, f"kind-{at}") for at, text in enumerate(KINDS.values()))]
    make(folder, spread(1_500))
    several = at_once(folder, names)
    ordered = parallel.ordered
    calls: list[Any] = []

    def alone(function: Any, items: Any, workers: int = 1, ahead: int = 0) -> Any:
        calls.append(function)
        return ordered(function, items, workers=1, ahead=0)

    monkeypatch.setattr(work, "FEW_ROWS", 0)  # else few rows of actors need no thread
    monkeypatch.setattr(parallel, "ordered", alone)
    assert at_once(folder, names) == several
    assert len(calls) >= 2 * len(names)
    monkeypatch.setattr(parallel, "ordered", functools.partial(ordered, workers=3, ahead=2))
    assert at_once(folder, names) == several


def test_another_evtool_toml_of_the_log_changes_nothing(tmp_path: Path):
    """Partitions, segments and codecs are how a log is kept, not what is in it."""
    batches = spread(400)
    make(tmp_path / "a", batches)
    for batch in batches:
        with evtool.open(tmp_path / "b", create=True, config=config(1, partitions=3, fsync="never")) as log:
            log.append(frame(batch))
    assert at_once(tmp_path / "a", BUILT_IN) == at_once(tmp_path / "b", BUILT_IN)


def test_a_run_that_finds_nothing_new_changes_no_byte_and_no_file(folder: Path):
    make(folder, spread(200))
    with evtool.open(folder, read_only=True) as log:
        _, first = refreshed(log, "revenue-by-product")
        asked = open_projection(log, "revenue-by-product")
        before = {path: path.stat().st_mtime_ns for path in asked.places.folder.rglob("*") if path.is_file()}
        assert refreshed(log, "revenue-by-product")[1] == first
        after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"lock"}
