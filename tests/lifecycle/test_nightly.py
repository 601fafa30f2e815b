"""Nightly: every step has its turn, what is wrong is found and told, and no end of a process loses anything."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from faults import Fault, FaultyFiles, Killed, flip
from projecting import configuration, purchase, write
from samples import config, frame, segments

import evtool
from evtool.config import Config
from evtool.errors import (
    ConfigError,
    LogDamagedError,
    LogLockedError,
    LogReadOnlyError,
    ProjectionError,
    SchemaError,
)
from evtool.lifecycle import nightly
from evtool.lifecycle import recompute as recomputing
from evtool.lifecycle.nightly import Context, Report, Result, Step
from evtool.lifecycle.nightsteps import STEPS
from evtool.lifecycle.verify import verify
from evtool.log.log import open as open_log
from evtool.log.selection import Selection
from evtool.projections import catalogue, projection, snapshots
from evtool.projections.aggregate import Aggregate
from evtool.projections.plan import Plan
from evtool.projections.projection import Projection
from evtool.projections.source import Source

SUMS = """
[time]
grain = "day"
[keys]
product = "payload.product_id"
[measures]
orders = "count(*)"
latest = "last(event_id)"
"""
FIRST = [purchase(number, hours=number * 7) for number in range(20)]
LATER = [purchase(number, hours=number * 3) for number in range(20, 32)]


@pytest.fixture(autouse=True)
def _one_projection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The projections that there are: `mine` alone."""
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(catalogue, "_built_in", lambda: tmp_path / "none")
    write(tmp_path / "own", SUMS)


@pytest.fixture
def log(folder: Path) -> Path:
    """A log with two sealed segments and an active one."""
    with evtool.open(folder, create=True, config=config(segment_bytes=2_000)) as log:
        for start in range(0, 20, 5):
            log.append(frame(FIRST[start : start + 5]))
    return folder


def append(folder: Path) -> None:
    with evtool.open(folder, config=config(fsync="never")) as log:
        log.append(frame(LATER))


def settings(log: evtool.Log) -> Config:
    return configuration(log, log.folder.parent / "own")


def run(
    folder: Path,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    steps: Collection[Step] = STEPS,
    budget_seconds: float | None = None,
    files: FaultyFiles | None = None,
) -> Report:
    with open_log(folder, files=files) as log:
        return nightly.run(log, settings(log), tuple(steps), only, skip, budget_seconds)


def outcomes(report: Report) -> dict[str, str]:
    return {done.name: done.outcome for done in report.steps}


def facts(report: Report, step: str) -> dict[str, Any]:
    (found,) = (done.facts for done in report.steps if done.name == step)
    return dict(found)


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "nightly").glob("*.json"))]


def test_every_step_has_its_turn_and_the_report_stays(log: Path):
    report = run(log)
    assert outcomes(report) == dict.fromkeys(["verify", "recompute", "snapshot", "compact"], "ok")
    assert report.exit_code == 0
    assert facts(report, "verify")["events"] == 20
    (mine,) = facts(report, "recompute")["projections"]
    assert (mine["projection"], mine["position"], mine["is_same"]) == ("mine", 20, True)
    assert [each["position"] for each in facts(report, "snapshot")["taken"]] == [20]
    assert facts(report, "compact")["compacted"]
    (kept,) = written(log)
    assert [(step["name"], step["outcome"]) for step in kept["steps"]] == list(outcomes(report).items())
    assert not (log / "nightly" / "recompute").exists()


def numbered(
    names: str, done: list[str], fails: Collection[str] = (), on_run: Callable[[], None] = lambda: None
) -> list[Step]:
    """Steps that note that they ran."""

    def step(name: str) -> Step:
        def work(context: Context) -> Result:
            done.append(name)
            on_run()
            if name in fails:
                raise SchemaError(f"{name} is wrong")
            return Result({"name": name})

        return Step(name, work)

    return list(map(step, names))


def test_one_that_fails_does_not_keep_the_others_and_the_first_one_sets_the_code(log: Path):
    done: list[str] = []
    steps = numbered("abcd", done, fails="b")

    def refuse(context: Context) -> Result:
        raise FileNotFoundError(2, "No such file or directory", "somewhere")

    steps[2] = Step("c", refuse)
    report = run(log, steps=steps)
    assert done == ["a", "b", "d"]
    assert outcomes(report) == {"a": "ok", "b": "failed", "c": "failed", "d": "ok"}
    assert report.exit_code == SchemaError.exit_code
    assert [each.message for each in report.steps[1:3]] == [
        "b is wrong",
        "cannot use somewhere: No such file or directory",
    ]


def test_steps_are_chosen(log: Path):
    done: list[str] = []
    steps = numbered("abcd", done)
    assert outcomes(run(log, only="db", steps=steps)) == {
        "b": "ok",
        "d": "ok",
        "a": "skipped",
        "c": "skipped",
    }
    run(log, skip="a", steps=steps)
    run(log, only="ab", skip="a", steps=steps)
    assert "".join(done) == "bd" + "bcd" + "b"
    for chosen in ({"only": ["x"]}, {"skip": ["x"]}):
        with pytest.raises(ConfigError, match="there is no step 'x'"):
            run(log, steps=steps, **chosen)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have gone by."""
    seconds = [100.0]
    monkeypatch.setattr(nightly.time, "monotonic", lambda: seconds[0])
    return seconds


def test_what_is_not_begun_within_the_budget_comes_first_the_next_time(log: Path, clock: list[float]):
    done: list[str] = []

    def wait() -> None:
        clock[0] += 60

    steps = numbered("abcd", done, on_run=wait)
    report = run(log, steps=steps, budget_seconds=100)
    assert outcomes(report) == {"a": "ok", "b": "ok", "c": "postponed", "d": "postponed"}
    assert report.exit_code == 0
    # What is left out meanwhile keeps its turn.
    run(log, only="a", steps=steps, budget_seconds=100)
    assert "".join(done) == "aba"
    run(log, steps=steps, budget_seconds=170)
    run(log, steps=steps)
    assert "".join(done) == "aba" + "cda" + "bacd"


def test_a_step_that_ended_the_process_does_not_keep_the_others_from_their_turn(log: Path):
    done: list[str] = []

    def end() -> None:
        if done[-1] == "b" and done.count("b") == 1:
            raise Killed

    steps = numbered("abc", done, on_run=end)
    with pytest.raises(Killed):
        run(log, steps=steps)
    (kept,) = written(log)
    assert [step["outcome"] for step in kept["steps"]] == ["ok", "failed", "postponed"]
    run(log, steps=steps)
    assert "".join(done) == "ab" + "cab"


def test_a_damaged_report_is_passed_over(log: Path):
    done: list[str] = []
    steps = numbered("ab", done)
    for text in ("", "[]", '{"steps": [{}]}', '{"steps": 1}'):
        (log / "nightly").mkdir(exist_ok=True)
        (log / "nightly" / "20990101T000000.000000Z.json").write_text(text)
        run(log, steps=steps)
    assert "".join(done) == "abababab"


def test_a_report_in_which_a_bit_was_flipped_does_not_end_the_next_night(log: Path):
    run(log, only=["recompute"])
    (path,) = (log / "nightly").glob("*.json")
    before = path.read_text()
    changes = (
        ('"position": 20', '"pouition": 20'),
        ('"position": 20', '"position": 22'),
        ('"position": 20', '"position": 1e400'),
        ('"projections": [', '"projections": [1, '),
        ('"facts": {}', '"facts": null'),
        ('"outcome": "skipped"', '"outcome": "postponed"'),
        (before, "[" * 100_000),
    )
    for old, new in changes:
        assert old in before
        path.write_text(before.replace(old, new))
        with open_log(log) as opened:
            assert [*nightly.reports(opened.files, log)] == []
        assert outcomes(run(log, only=["recompute"]))["recompute"] == "ok"
        for later in (log / "nightly").glob("*.json"):
            if later != path:
                later.unlink()
    path.write_text(before)
    with open_log(log) as opened:
        assert len([*nightly.reports(opened.files, log)]) == 1


def test_a_segment_msgpack_in_which_a_bit_was_flipped_is_made_anew_by_the_night(log: Path):
    path = segments(log)[0] / "segment.msgpack"
    flip(path, 20)
    with evtool.open(log, read_only=True) as opened:
        assert [one.file for one in verify(opened).findings] == [str(path)]
    assert run(log, only=["compact"]).exit_code == 0
    with evtool.open(log, read_only=True) as opened:
        assert opened.snapshot().segments[0].is_cold
        assert verify(opened).findings == []


def test_a_report_that_was_cut_short_by_a_full_disk_does_not_stay(log: Path):
    unfinished = log / "nightly" / "20260101T000000.000000Z.json.tmp"
    unfinished.parent.mkdir()
    unfinished.write_text('{"log":')
    run(log, only=["verify"])
    assert {path.suffix for path in unfinished.parent.iterdir()} == {".json"}


def test_a_second_one_is_told_of_the_first(log: Path):
    inside, over = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert over.wait(20)

    thread = threading.Thread(target=run, args=(log,), kwargs={"steps": numbered("a", [], on_run=wait)})
    thread.start()
    try:
        assert inside.wait(20)
        with pytest.raises(LogLockedError, match="has its nightly run already, in process"):
            run(log)
    finally:
        over.set()
        thread.join()
    assert len(written(log)) == 1


def test_a_log_that_is_read_only_has_no_nights(log: Path):
    with evtool.open(log, read_only=True) as opened, pytest.raises(LogReadOnlyError):
        nightly.run(opened, settings(opened), STEPS)
    assert not (log / "nightly").exists()


def test_a_damaged_segment_is_in_the_report_and_the_other_steps_go_on(log: Path):
    run(log)
    append(log)
    active = sorted(log.glob("0*/frames.log"))[-1]
    flip(active, 200)
    report = run(log)
    assert outcomes(report)["verify"] == "failed"
    assert outcomes(report)["compact"] == "ok"
    assert {done.name for done in report.steps if done.seconds} == {step.name for step in STEPS}
    assert report.exit_code == LogDamagedError.exit_code
    findings = facts(report, "verify")["findings"]
    assert active.parent.name in findings[0]["file"]
    assert written(log)[-1]["steps"][0]["facts"]["findings"] == findings


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of events that are lost by who goes on from a state, and not by who begins with the first event."""
    dropped: list[str] = []
    goes_on = False
    parts, partial = Source.parts, Aggregate.partial

    def noted(self: Source, plan: Plan, selection: Selection) -> Any:
        nonlocal goes_on
        goes_on = (selection.start or 1) > 1
        return parts(self, plan, selection)

    def wrong(self: Aggregate, rows: pl.DataFrame) -> Any:
        if not goes_on:
            return partial(self, rows)
        texts = [
            pl.col(name).is_in(dropped).fill_null(False) for name in rows.columns if rows[name].dtype == pl.String
        ]
        return partial(self, rows.filter(~pl.any_horizontal(texts)))

    monkeypatch.setattr(Source, "parts", noted)
    monkeypatch.setattr(Aggregate, "partial", wrong)
    return dropped


def recomputed(report: Report) -> dict[str, Any]:
    (found,) = facts(report, "recompute")["projections"]
    return dict(found)


@pytest.mark.parametrize("number", [20, 25, 31])
def test_an_event_that_only_refreshes_drop_is_found_by_its_position(log: Path, dropping: list[str], number: int):
    run(log)
    append(log)
    dropping.append(f"e-{number}")
    report = run(log, only=["recompute"])
    found = recomputed(report)
    assert (found["first_position"], found["is_reproduced"]) == (number + 1, True)
    assert report.exit_code == ProjectionError.exit_code
    assert f"they part at position {number + 1}" in report.steps[0].message
    dropping.clear()
    right(log)
    assert recomputed(run(log, only=["recompute"]))["is_same"]


def test_an_event_that_one_refresh_has_dropped_is_found_by_the_rows_that_lack_it(log: Path, dropping: list[str]):
    run(log)
    append(log)
    dropping.append("e-21")  # the only one of its day and product behind position 20
    with evtool.open(log, read_only=True) as opened:
        asked(opened).runner.refresh()
    dropping.clear()
    report = run(log, only=["recompute"])
    found = recomputed(report)
    assert (found["first_position"], found["is_reproduced"]) == (22, False)
    assert "they part at the earliest at position 22" in report.steps[0].message
    right(log)


def test_a_snapshot_of_what_was_wrong_is_marked_and_gone_on_from_no_more(log: Path, dropping: list[str]):
    run(log)
    append(log)
    dropping.append("e-27")
    with evtool.open(log) as opened:
        sound = snapshots.every(opened)
        wrong = snapshots.take(opened, asked(opened), "in use")
    dropping.clear()
    assert recomputed(run(log, skip=["compact"]))["wrong_snapshots"] == (wrong.id,)
    with evtool.open(log, read_only=True) as opened:
        marked = {each.id: each.is_wrong for each in snapshots.every(opened)}
        assert marked.pop(wrong.id)
        assert len(marked) == len(sound)  # the policy keeps one of this day, and no wrong one
        assert not any(marked.values())
    right(log)


def asked(log: evtool.Log) -> Projection:
    return projection.open(log, "mine", settings(log))


def right(folder: Path) -> None:
    """What is kept, and what is computed as of any position, is what the events give."""
    with evtool.open(folder, read_only=True) as log:
        wanted = asked(log).aside(folder.parent / "aside").runner.refresh(full=True).frame
        assert asked(log).runner.stale().frame.equals(wanted)
        assert asked(log).runner.compute(Selection(end=log.position + 1)).frame.equals(wanted)


def test_a_refresh_meanwhile_is_no_difference(log: Path, monkeypatch: pytest.MonkeyPatch):
    look = recomputing._sha256

    def refresh() -> None:
        with evtool.open(log, read_only=True) as opened:
            asked(opened).runner.refresh()

    other = threading.Thread(target=refresh)

    def look_later(projection: Projection) -> str:
        monkeypatch.setattr(recomputing, "_sha256", look)
        append(log)
        other.start()
        other.join(0.5)  # time enough for it, if nothing holds it back
        return look(projection)

    monkeypatch.setattr(recomputing, "_sha256", look_later)
    report = run(log, only=["recompute"])
    other.join()
    assert (recomputed(report)["position"], recomputed(report)["is_same"]) == (20, True)
    assert report.exit_code == 0


def test_a_definition_that_has_changed_fails_and_the_others_are_recomputed(log: Path):
    own = log.parent / "own"
    run(log)
    write(own, SUMS, "other")
    (own / "mine.toml").write_text((own / "mine.toml").read_text().replace("count(*)", "count(*) + 1"))
    report = run(log)
    assert outcomes(report) == {"verify": "ok", "recompute": "failed", "snapshot": "failed", "compact": "ok"}
    assert report.exit_code == ProjectionError.exit_code
    mine, other = facts(report, "recompute")["projections"]
    assert "another definition" in mine["message"]
    assert other["is_same"]
    assert [("id" in each) for each in facts(report, "snapshot")["taken"]] == [False, True]


def test_a_kill_at_any_call_loses_nothing_and_the_next_night_finishes(log: Path):
    run(log, skip=["compact"])
    append(log)
    saved = log.with_name("saved")
    log.rename(saved)
    steps = [step for step in STEPS if step.name in ("recompute", "snapshot")]
    shutil.copytree(saved, log)
    files = FaultyFiles()
    run(log, steps=steps, files=files)
    shutil.rmtree(log)
    calls = sum(kind in Fault(1).kinds for kind, _ in files.calls)
    assert calls > 30
    for call in range(1, calls + 1):
        shutil.copytree(saved, log)
        with pytest.raises(Killed):
            run(log, steps=steps, files=FaultyFiles(Fault(call, (0.0, 0.5, 1.0)[call % 3])))
        report = run(log, steps=steps)
        assert set(outcomes(report).values()) == {"ok"}
        assert recomputed(report)["position"] == 32
        with evtool.open(log, read_only=True) as opened:
            assert [each.position for each in snapshots.every(opened)] == [32]
        assert {path.suffix for path in (log / "nightly").iterdir()} <= {".json", ".tmp"}
        shutil.rmtree(log)
