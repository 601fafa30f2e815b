"""Retention beside what is made of events: projections go on, nights compare what can be, and what is old goes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from projecting import HOUR_NS, configuration, open_projection, purchase, refreshed, write
from samples import MOMENT_NS, config, frame

import evtool
from evtool.config import Config, NightlyConfig, RetainConfig
from evtool.ingest.deadletters import FILE, FOLDER
from evtool.lifecycle import nightly, retention
from evtool.lifecycle.nightsteps import steps
from evtool.log.selection import Selection
from evtool.projections import inventory, snapshots
from evtool.timestamps import SECOND_NS, to_text

DAY = 86_400
NAMES = ("revenue-by-product", "daily-active-users", "funnel-conversion", "sessions")


def batch(first: int) -> pl.DataFrame:
    return frame([purchase(number, f"u{number % 7}", hours=number) for number in range(first, first + 40)])


@pytest.fixture
def log(folder: Path) -> Path:
    """A log with two sealed segments of 40 events, and an empty active one."""
    for first in (0, 40):
        append(folder, first)
    return folder


def append(folder: Path, first: int) -> None:
    with evtool.open(folder, create=True, config=config(segment_bytes=1)) as opened:
        opened.append(batch(first))


def settings_of(opened: evtool.Log, policies: RetainConfig, **others: Any) -> Config:
    return replace(configuration(opened), retain=policies, nightly=NightlyConfig(NAMES[:2]), **others)


def drop(folder: Path, hours: int = 40) -> retention.Report:
    """Drop all events with timestamps of before so many hours."""
    with evtool.open(folder) as opened:
        settings = settings_of(opened, RetainConfig(events=1, by="timestamp"))
        plan = retention.plan(opened, settings, MOMENT_NS + hours * HOUR_NS + SECOND_NS)
        return retention.apply(opened, settings, plan)


@pytest.mark.parametrize("name", NAMES)
def test_a_projection_keeps_what_it_counted_and_goes_on(log: Path, folder: Path, tmp_path: Path, name: str):
    whole = tmp_path / "whole"
    for first in (0, 40, 80):
        append(whole, first)
    with evtool.open(whole) as opened:
        wanted, _ = refreshed(opened, name)
    with evtool.open(log) as opened:
        refreshed(opened, name)
    assert drop(log).events == 40
    append(log, 80)
    with evtool.open(log) as opened:
        answer, _ = refreshed(opened, name)
        assert answer.frame.equals(wanted.frame)
        assert (answer.absent, answer.is_outlived) == (0, True)
        again, _ = refreshed(opened, name)
        assert again.is_outlived
        full, _ = refreshed(opened, name, full=True)
        assert (full.absent, full.is_outlived) == (40, False)
        assert full.events < answer.events == wanted.events
        as_of = open_projection(opened, name).runner.compute(Selection(end=61))
        assert (as_of.absent, as_of.events) == (40, 20)


def test_as_of_goes_on_from_a_snapshot_of_what_was(log: Path):
    with evtool.open(log) as opened:
        asked = open_projection(opened, NAMES[0])
        before = asked.runner.refresh()
        snapshots.take(opened, asked)
    drop(log)
    append(log, 80)
    with evtool.open(log) as opened:
        asked = open_projection(opened, NAMES[0])
        found = asked.runner.compute(Selection(end=81))
        assert (found.frame.equals(before.frame), found.absent) == (True, 0)


def night(folder: Path, policies: RetainConfig | None = None) -> dict[str, nightly.Done]:
    with evtool.open(folder) as opened:
        settings = settings_of(opened, policies or RetainConfig())
        report = nightly.run(opened, settings, steps(settings))
    return {done.name: done for done in report.steps}


def test_a_night_keeps_a_projection_whose_events_are_gone_and_compares_the_others(log: Path):
    with evtool.open(log) as opened:
        kept = refreshed(opened, NAMES[0])[1]
    drop(log)
    done = night(log)
    assert {step.outcome for step in done.values()} == {"ok"}
    outlived, compared = done["recompute"].facts["projections"]
    assert (outlived["is_kept"], outlived["is_same"], outlived["first_position"]) == (True, False, None)
    assert (compared["is_kept"], compared["is_same"]) == (False, True)
    with evtool.open(log) as opened:
        answer, found = refreshed(opened, NAMES[0])
        assert (found, answer.is_outlived) == (kept, True)
        refreshed(opened, NAMES[0], full=True)
    assert [each["is_same"] for each in night(log)["recompute"].facts["projections"]] == [True, True]


def test_a_difference_does_not_mark_snapshots_of_what_was(log: Path, monkeypatch: pytest.MonkeyPatch):
    from evtool.lifecycle import recompute

    with evtool.open(log) as opened:
        taken = snapshots.take(opened, open_projection(opened, NAMES[0]))
    drop(log)
    with evtool.open(log) as opened:
        asked = open_projection(opened, NAMES[0])
        asked.runner.refresh(full=True)
        assert snapshots.is_outlived(opened, taken)
        assert recompute._mark_wrong(asked, log / "aside", 1) == []


def test_a_night_retains_where_there_are_policies_and_refuses_to_drop_everything(log: Path):
    assert "retain" not in night(log)
    with evtool.open(log) as opened:
        opened.append(frame([purchase(80, hours=80)]))
    old = RetainConfig(events=1, by="timestamp")
    done = night(log, old)
    assert list(done) == ["verify", "recompute", "snapshot", "retain", "compact"]
    assert done["retain"].outcome == "failed"
    assert "every event that can be dropped, 80 of them" in done["retain"].message
    age = (time.time_ns() - MOMENT_NS - 79 * HOUR_NS // 2) // SECOND_NS
    done = night(log, replace(old, events=age))
    assert (done["retain"].outcome, done["retain"].facts["events"]) == ("ok", 40)


def test_old_read_models_that_do_not_serve_go(log: Path, tmp_path: Path):
    own = tmp_path / "own"
    write(own, '[measures]\nevents = "count(*)"\n', "mine")
    later = time.time_ns() + 3 * DAY * SECOND_NS
    with evtool.open(log) as opened:
        open_projection(opened, "mine", own).runner.refresh()
        open_projection(opened, NAMES[0], grain="month").runner.refresh()
        open_projection(opened, NAMES[0]).runner.refresh()
        settings = settings_of(opened, RetainConfig(unused_read_models=2 * DAY))
        root = settings.read_models_path
        assert retention.plan(opened, settings, later - 2 * DAY * SECOND_NS).is_empty
        plan = retention.plan(opened, settings, later)
        (model,) = plan.read_models
        assert (model.name, model.serves) == (NAMES[0], False)
        assert retention.apply(opened, settings, plan).read_models == [model.id]
        assert [each.id for each in inventory.kept(root)] == ["mine/v1", f"{NAMES[0]}/v1"]


def test_old_snapshots_without_a_label_go(log: Path):
    with evtool.open(log) as opened:
        asked = open_projection(opened, NAMES[0])
        taken = snapshots.take(opened, asked)
        kept = snapshots.take(opened, asked, "end of the quarter")
        settings = settings_of(opened, RetainConfig(snapshots=30 * DAY))
        for days, wanted in ((29, ()), (31, (taken.id,))):
            plan = retention.plan(opened, settings, taken.taken_at + days * DAY * SECOND_NS)
            assert tuple(each.id for each in plan.snapshots) == wanted
        assert retention.apply(opened, settings, plan).snapshots == [taken.id]
        assert snapshots.every(opened) == [kept]


def test_old_dead_letters_go_and_the_rest_stays_byte_by_byte(log: Path):
    times = [MOMENT_NS + days * DAY * SECOND_NS for days in (0, 5, 1, 9)]
    lines = [
        f'{{"time":"{to_text(at)}","reason":"not_json","message":"m","input":"stdin","line":{number},'
        f'"bytes":1,"raw":"x"}}\n'.encode()
        for number, at in enumerate(times, 1)
    ]
    lines.insert(2, b"damaged by someone\n")
    path = log / FOLDER / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(lines))
    with evtool.open(log) as opened:
        settings = settings_of(opened, RetainConfig(dead_letters=2 * DAY))
        plan = retention.plan(opened, settings, MOMENT_NS + 4 * DAY * SECOND_NS)
        assert plan.dead_letters == 2
        assert retention.apply(opened, settings, plan).dead_letters == 2
    assert path.read_bytes() == lines[1] + lines[2] + lines[4]
