"""Retention: what policies say goes, nothing else does, and it never comes again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compacting import bring_to, compacted
from faults import Fault, FaultyFiles, Killed, flip, full_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from retaining import COUNT, TYPES, held, left, make, planned, retained, sent
from samples import MOMENT_NS, event, segments

import evtool
from evtool.config import Config, RetainConfig
from evtool.errors import ConfigError, LogLockedError, LogReadOnlyError, NoSpaceError
from evtool.lifecycle import retention
from evtool.lifecycle.forgetting import erasing
from evtool.lifecycle.rewriting import IDENTITY_COLUMNS, rewrite, rewriting_lock
from evtool.lifecycle.verify import verify
from evtool.log.segment import Segment
from evtool.replay import select
from evtool.timestamps import SECOND_NS

DAY = 86_400
STATES = ("hot", "cold", "merged", "mixed")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same log, its sealed segments stored in each way."""
    found = {"hot": make(tmp_path_factory.mktemp("retain") / "segments")}
    for state in STATES[1:]:
        found[state] = tmp_path_factory.mktemp(state) / "segments"
        shutil.copytree(found["hot"], found[state])
        bring_to(found[state], state)
    return found


@pytest.fixture
def log(logs: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(logs["hot"], tmp_path / "segments")
    return tmp_path / "segments"


def check(
    folder: Path, expected: set[int], before: dict[int, dict[str, Any]], is_index_lost: bool = False
) -> None:
    """What is left is as it was, and the log is sound; all of it sent again stores nothing, and streams go on."""
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes, report.events) == ([], [], len(expected))
    assert held(folder) == {position: before[position] for position in expected}
    if is_index_lost:
        shutil.rmtree(folder / "index")
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT
        assert log.position == COUNT
        log.append([event(COUNT, "user-0")], expected_version={"user-0": COUNT // 5})


def recorded(before: dict[int, dict[str, Any]], position: int) -> int:
    return int(before[position]["recorded_at"])


age = st.none() | st.integers(1, COUNT * 2)


@settings(max_examples=15)
@given(
    st.sampled_from(STATES),
    st.sampled_from(["recorded", "timestamp"]),
    age,
    st.dictionaries(st.sampled_from([*TYPES, "Rare", "Never"]), st.integers(1, COUNT * 2), max_size=3),
    st.integers(1, COUNT),
    st.booleans(),
    st.sampled_from(["", "index", "compact", "again"]),
)
def test_what_is_due_goes_and_nothing_else(
    logs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    state: str,
    by: Any,
    events: int | None,
    types: dict[str, int],
    position: int,
    is_exact: bool,
    after: str,
):
    folder = tmp_path_factory.mktemp("log") / "segments"
    shutil.copytree(logs[state], folder)
    before = held(folder)
    policies = RetainConfig(events=events, by=by, types=types)
    # All events were recorded within a moment: so ages of recording are of the position at hand, or none.
    now_ns = (
        MOMENT_NS + COUNT * SECOND_NS
        if by == "timestamp"
        else recorded(before, position) + (events or 9) * SECOND_NS
    )
    if not policies.is_any:
        with pytest.raises(ConfigError, match="no policy"):
            planned(folder, policies, now_ns)
        return
    expected = left(folder, policies, now_ns, is_exact)
    plan = planned(folder, policies, now_ns, is_exact)
    assert plan.events == COUNT - len(expected) == sum(share.events for share in plan.shares)
    report = retained(folder, policies, now_ns, is_exact)
    assert (report.events, report.emptied) == (plan.events, plan.emptied)
    assert report.emptied + report.rewritten == plan.segments
    if after == "compact":
        compacted(folder, 1 << 30)
    elif after == "again":
        assert retained(folder, policies, now_ns, is_exact).events == 0
    check(folder, expected, before, is_index_lost=after == "index")


@pytest.mark.parametrize("by", ["recorded", "timestamp"])
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_an_event_is_due_that_is_older_and_not_as_old(log: Path, by: Any, beside: int):
    before = held(log)
    clock = "recorded_at" if by == "recorded" else "timestamp"
    latest = max(row[clock] for position, row in before.items() if position < int(segments(log)[1].name))
    policies, now_ns = RetainConfig(events=5, by=by), latest + 5 * SECOND_NS + beside
    expected = left(log, policies, now_ns, is_exact=True)
    assert retained(log, policies, now_ns, is_exact=True).events == COUNT - len(expected)
    assert held(log).keys() == expected


def test_a_plan_tells_of_each_policy_from_when_to_when(log: Path):
    before = held(log)
    policies = RetainConfig(events=500, by="timestamp", types={"Bought": 720})
    now_ns = MOMENT_NS + COUNT * SECOND_NS
    plan = planned(log, policies, now_ns, is_exact=True)
    expected = left(log, policies, now_ns, is_exact=True)
    gone = [row for position, row in before.items() if position not in expected]
    for share, those in zip(
        plan.shares,
        (
            [row for row in gone if row["event_type"] != "Bought"],
            [row for row in gone if row["event_type"] == "Bought"],
        ),
        strict=True,
    ):
        times = [row["timestamp"] for row in those]
        assert (share.events, share.first, share.last) == (len(those), min(times), max(times))
    assert [share.policy for share in plan.shares] == ["events older than 500s", "Bought older than 12m"]


@pytest.mark.parametrize("state", STATES)
def test_the_oldest_segments_go_until_the_log_is_small_enough(logs: dict[str, Path], tmp_path: Path, state: str):
    folder = tmp_path / "segments"
    shutil.copytree(logs[state], folder)
    before = held(folder)
    with evtool.open(folder, read_only=True) as opened:
        ends = [one.last_position for one in opened.snapshot().segments]
        size = sum(one.log_bytes for one in opened.snapshot().segments)
    wanted = size - 100
    plan = planned(folder, RetainConfig(size=wanted), 0)
    assert (plan.events, plan.emptied, plan.missed_bytes) == (ends[0], 1, 0)
    if len(ends) > 2:
        retained(folder, RetainConfig(size=wanted), 0)
    else:  # nothing sealed would be left
        with pytest.raises(ConfigError, match="every event that can be dropped"):
            plan.check()
        return
    check(folder, set(range(ends[0] + 1, COUNT + 1)), before)


def test_a_segment_that_goes_whole_is_not_read_but_for_what_identifies_its_events(
    log: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: set[str] = set()
    batch = Segment.batch

    def watched(segment: Segment, row: Any, columns: Any = None) -> Any:
        asked.update(columns)
        return batch(segment, row, columns)

    now_ns = recorded(held(log), int(segments(log)[2].name)) + 5 * SECOND_NS
    monkeypatch.setattr(Segment, "batch", watched)
    assert retained(log, RetainConfig(events=5), now_ns).emptied == 2
    assert asked == set(IDENTITY_COLUMNS)


def test_what_no_size_can_reach_is_told(log: Path):
    plan = planned(log, RetainConfig(size=1), 0)
    assert plan.missed_bytes > 0
    assert plan.is_everything


def test_ages_and_a_size_together_count_an_event_once(log: Path):
    before = held(log)
    policies = RetainConfig(by="timestamp", types={"Bought": 1})
    size = planned(log, policies, MOMENT_NS + 2 * COUNT * SECOND_NS).bytes_after - 5_000
    policies = replace(policies, size=size)
    plan = planned(log, policies, MOMENT_NS + 2 * COUNT * SECOND_NS)
    by_type, by_size = plan.shares
    assert by_type.events
    assert by_size.events
    report = retained(log, policies, MOMENT_NS + 2 * COUNT * SECOND_NS)
    assert report.events == plan.events == by_type.events + by_size.events
    assert len(held(log)) == len(before) - plan.events
    assert not [
        row for row in held(log).values() if row["event_type"] == "Bought" and row["position"] <= plan.limits.end
    ]


def test_few_due_events_wait_and_exactly_go(log: Path):
    policies = RetainConfig(by="timestamp", types={"Rare": 1})
    now_ns = MOMENT_NS + 2 * COUNT * SECOND_NS
    plan = planned(log, policies, now_ns)
    assert (plan.is_empty, plan.waiting + plan.active) == (True, 3)
    assert planned(log, policies, now_ns, is_exact=True).events == plan.waiting > 0


def test_everything_there_is_is_refused(log: Path):
    policies = RetainConfig(events=1)
    now_ns = recorded(held(log), COUNT) + DAY * SECOND_NS
    plan = planned(log, policies, now_ns)
    with pytest.raises(ConfigError, match="every event that can be dropped, 1,000 of them"):
        plan.check()
    assert plan.active == COUNT - plan.events > 0
    retained(log, policies, now_ns)  # as with --all
    again = planned(log, policies, now_ns)
    again.check()
    assert (again.is_empty, again.active) == (True, plan.active)


def test_everything_is_refused_beside_a_damaged_segment_too(log: Path):
    now_ns = recorded(held(log), COUNT) + DAY * SECOND_NS
    flip(segments(log)[1] / "frames.log", 400)
    plan = planned(log, RetainConfig(events=1, types={"Rare": 2}), now_ns)
    assert [failure.folder for failure in plan.failures] == [str(segments(log)[1])]
    with pytest.raises(ConfigError, match="every event that can be dropped"):
        plan.check()


def test_the_active_segment_may_hold_all_that_is_not_due(log: Path):
    before = held(log)
    last = segments(log)[-1]
    policies = RetainConfig(events=5)
    plan = planned(log, policies, recorded(before, int(last.name)) + 5 * SECOND_NS)
    assert plan.emptied == len(segments(log)) - 1
    assert plan.active == 0
    plan.check()


def test_what_is_sealed_behind_the_plan_stays(log: Path):
    policies = RetainConfig(by="timestamp", events=1)
    now_ns = MOMENT_NS + 2 * COUNT * SECOND_NS
    settings = Config(log_path=log, retain=policies)
    with evtool.open(log) as opened:
        plan = retention.plan(opened, settings, now_ns)
    make_more = [event(COUNT + number, timestamp=MOMENT_NS) for number in range(20)]
    with evtool.open(log, config=Config(log=evtool.config.LogConfig(segment_bytes=1))) as opened:
        opened.append(make_more)
    compacted(log, 1 << 30)
    with evtool.open(log) as opened:
        report = retention.apply(opened, settings, plan)
    assert report.events == plan.events
    assert sorted(held(log)) == list(range(plan.limits.end + 1, COUNT + 21))


def test_an_erased_event_is_dropped_as_what_it_was(log: Path):
    before = held(log)
    with evtool.open(log) as opened:
        first = opened.snapshot().segments[0]
        lock = rewriting_lock(opened)
        change = erasing(lambda events: events["position"].to_numpy() % 3 == 0, opened.manifest.id_bytes)
        rewrite(opened, [first], [], change)
        lock.release()
    for now in (40, 100):  # a part of the segment, then all of it
        end = first.last_position if now == 100 else now
        policies = RetainConfig(events=5)
        retained(log, policies, recorded(before, end + 1) + 5 * SECOND_NS, is_exact=True)
        with evtool.open(log, read_only=True) as opened:
            counts = opened.snapshot().segments[0].gone_counts
        erased = sum(position % 3 == 0 for position in range(end + 1, first.last_position + 1))
        assert counts == {"dropped": end, "erased": erased, "lost": 0}
        assert verify(evtool.open(log, read_only=True)).findings == []
    check(log, set(range(first.last_position + 1, COUNT + 1)), before, is_index_lost=True)


def test_ranges_of_time_and_position_go_on_working(log: Path):
    before = held(log)
    policies = RetainConfig(events=5, types={"Bought": 3})
    retained(log, policies, recorded(before, 400) + 5 * SECOND_NS, is_exact=True)
    rows = held(log)
    assert 0 < len(rows) < COUNT - 350

    def positions(**bounds: str) -> list[int]:
        with evtool.open(log, read_only=True) as opened:
            found = opened.scan(select(opened, **bounds))
            return [position for frame in found for position in frame["position"]]

    for start, end in ((1, 1), (5, 800), (350, 450), (401, COUNT + 1), (COUNT + 1, COUNT + 5)):
        wanted = [position for position in rows if start <= position < end]
        assert positions(start=f"@{start}", end=f"@{end}") == wanted
    moment = before[600]["timestamp"]
    wanted = [position for position, row in rows.items() if row["timestamp"] >= moment]
    text = evtool.timestamps.to_text(moment)
    assert positions(start=text) == wanted


# Whatever cuts it short.


@pytest.mark.parametrize(("state", "done"), [("hot", 0), ("cold", 1)])
def test_killed_at_any_call_the_next_run_finishes(logs: dict[str, Path], tmp_path: Path, state: str, done: float):
    before = held(logs[state])
    policies = RetainConfig(events=5)  # one segment is emptied, and one written again
    now_ns = recorded(before, 300) + 5 * SECOND_NS
    expected = left(logs[state], policies, now_ns)
    folder, call = tmp_path / "segments", 1
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(logs[state], folder)
        try:
            retained(folder, policies, now_ns, files=FaultyFiles(Fault(call, done)))
        except Killed:
            pass
        else:
            break
        between = held(folder)
        assert expected <= between.keys()
        assert all(before[position] == row for position, row in between.items())
        retained(folder, policies, now_ns)
        assert held(folder).keys() == expected
        call += 2
    assert call > 20
    check(folder, expected, before)


def test_a_full_disk_leaves_the_log_as_it_was(log: Path):
    before = held(log)
    for call in range(1, 5):
        with pytest.raises(NoSpaceError):
            retained(log, RetainConfig(events=5), recorded(before, 300) + 5 * SECOND_NS, files=full_disk(call))
        assert held(log) == before
        assert verify(evtool.open(log, read_only=True)).findings == []


def test_a_damaged_segment_is_left_and_the_others_lose_what_is_due(log: Path):
    before = held(log)
    ends = [int(segment.name) for segment in segments(log)]
    flip(segments(log)[1] / "frames.log", 400)
    report = retained(log, RetainConfig(events=5), recorded(before, ends[-1]) + 5 * SECOND_NS)
    assert [failure.folder for failure in report.failures] == [str(segments(log)[1])]
    assert report.emptied == len(ends) - 2


def test_one_rewrites_segments_at_a_time(log: Path):
    with evtool.open(log) as opened:
        lock = rewriting_lock(opened)
        with pytest.raises(LogLockedError, match="is being compacted by"):
            retained(log, RetainConfig(events=5), recorded(held(log), 500) + 5 * SECOND_NS)
        lock.release()


def test_a_log_that_is_read_only_loses_nothing(log: Path):
    policies = Config(log_path=log, retain=RetainConfig(events=5))
    with evtool.open(log, read_only=True) as opened:
        plan = retention.plan(opened, policies, recorded(held(log), 500) + 5 * SECOND_NS)
        with pytest.raises(LogReadOnlyError):
            retention.apply(opened, policies, plan)
