"""Nightly: which projections it looks after, which reports it keeps, and what full disks and clocks do to it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from compacting import compacted
from faults import flip, full_disk
from projecting import configuration, purchase, write
from samples import config, frame, segments

import evtool
from evtool.config import NightlyConfig
from evtool.errors import NoSpaceError
from evtool.lifecycle import nightly
from evtool.lifecycle.nightly import Report, Step
from evtool.lifecycle.nightsteps import STEPS
from evtool.log.log import open as open_log
from evtool.projections import catalogue, projection, snapshots

COUNTS = '[keys]\nproduct = "payload.product_id"\n[measures]\norders = "count(*)"\n'


@pytest.fixture(autouse=True)
def _projections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are built in, `used` and `unused`, and one's own: `mine`."""
    monkeypatch.setattr(catalogue, "_built_in", lambda: tmp_path / "built-in")
    for name in ("used", "unused"):
        write(tmp_path / "built-in", COUNTS, name)
    write(tmp_path / "own", COUNTS)


@pytest.fixture
def log(folder: Path) -> Path:
    """A log with three sealed segments, and a read model of `used`."""
    for start in range(0, 30, 10):
        with evtool.open(folder, create=True, config=config(segment_bytes=1)) as log:
            log.append(frame([purchase(number) for number in range(start, start + 10)]))
            projection.open(log, "used", configuration(log)).runner.refresh()
    return folder


def run(
    folder: Path,
    only: Collection[str] = (),
    steps: Collection[Step] = STEPS,
    settings: NightlyConfig | None = None,
    files: Any = None,
) -> Report:
    with open_log(folder, files=files) as log:
        chosen = replace(configuration(log, folder.parent / "own"), nightly=settings or NightlyConfig())
        return nightly.run(log, chosen, tuple(steps), only)


def facts(report: Report, step: str) -> dict[str, Any]:
    (found,) = (done.facts for done in report.steps if done.name == step)
    return dict(found)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "nightly").iterdir())


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [(None, ["mine", "used"]), (("unused",), ["unused"]), (("used", "mine"), ["used", "mine"])],
    ids=str,
)
def test_projections_are_ones_own_and_used_ones_or_those_that_are_named(
    log: Path, chosen: tuple[str, ...] | None, wanted: list[str]
):
    report = run(log, ["recompute", "snapshot"], settings=NightlyConfig(chosen))
    assert [each["projection"] for each in facts(report, "recompute")["projections"]] == wanted
    assert [each["projection"] for each in facts(report, "snapshot")["taken"]] == wanted
    assert report.exit_code == 0


def test_one_that_there_is_not_is_told_and_the_others_go_on(log: Path):
    report = run(log, ["recompute"], settings=NightlyConfig(("nobody", "mine")))
    nobody, mine = facts(report, "recompute")["projections"]
    assert "there is no projection 'nobody'" in nobody["message"]
    assert mine["is_same"]
    assert report.exit_code == 19


def test_the_newest_reports_are_kept_and_nothing_else_is_removed(log: Path):
    (log / "nightly").mkdir()
    (log / "nightly" / "notes.json").write_text("{}")
    for number in range(1, 6):
        before = [name for name in names(log) if name != "notes.json"] if number > 1 else []
        run(log, steps=[], settings=NightlyConfig(keep_reports=3))
        after = [name for name in names(log) if name != "notes.json"]
        assert after[:-1] == before[-2:]
    assert "notes.json" in names(log)
    run(log, steps=[], settings=NightlyConfig(keep_reports=1))
    assert len(names(log)) == 2


def test_a_clock_that_is_put_back_does_not_change_the_order_of_reports(log: Path, monkeypatch: pytest.MonkeyPatch):
    now = datetime(2026, 2, 3, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(nightly, "datetime", Clock)
    reports = []
    for hours in (0, -30, -2, 1):
        now = datetime(2026, 2, 3, tzinfo=UTC) + timedelta(hours=hours)
        before = set(names(log)) if reports else set()
        run(log, steps=[Step(f"step{len(reports)}", lambda context: nightly.Result())])
        (name,) = set(names(log)) - before
        reports.append(name)
        assert json.loads((log / "nightly" / name).read_text())["started_at"] == f"{now:%Y-%m-%dT%H:%M:%S.%f}Z"
    assert reports == sorted(reports)
    newest = next(nightly.reports(open_log(log).files, log))
    assert newest["steps"][0]["name"] == "step3"


@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_when_the_report_is_written(log: Path, call: int):
    """Before the first step nothing is done; behind it, what it did stays."""
    before = {path: path.read_bytes() for path in log.glob("0*/*")}
    with pytest.raises(NoSpaceError, match=r"nightly/.*\.json"):
        run(log, ["verify"], files=full_disk(call))
    assert {path: path.read_bytes() for path in log.glob("0*/*")} == before
    assert run(log).exit_code == 0


def test_a_full_disk_while_a_snapshot_is_taken(log: Path):
    with evtool.open(log) as opened:
        own = configuration(opened, log.parent / "own")
        first = snapshots.take(opened, projection.open(opened, "mine", own), "first")
        before = {path: path.read_bytes() for path in log.glob("0*/*")}
    for call in range(1, 4):
        with open_log(log, files=full_disk(call)) as opened, pytest.raises(NoSpaceError):
            snapshots.take(opened, projection.open(opened, "mine", own), "second")
        with evtool.open(log) as opened:
            assert snapshots.every(opened) == [first]
    assert {path: path.read_bytes() for path in log.glob("0*/*")} == before
    with evtool.open(log) as opened:
        snapshots.take(opened, projection.open(opened, "mine", own), "second")
    assert run(log, ["verify"]).exit_code == 0
    assert not list((log / "snapshots").glob("*.tmp"))


@pytest.mark.parametrize("name", ["events-1.map", "events-1.parquet"])
def test_a_cold_segment_that_fails_its_digest_is_named_and_left(log: Path, name: str):
    compacted(log, 0)
    path = segments(log)[1] / name
    flip(path, 40)
    before = path.read_bytes()
    report = run(log)
    assert report.exit_code == 14
    (found,) = facts(report, "verify")["findings"]
    assert found["file"] == str(path)
    assert all(done.message or done.outcome == "ok" for done in report.steps)
    assert path.read_bytes() == before


def test_what_can_be_made_again_is_told_by_another_code(log: Path):
    (model,) = log.glob("read-models/used/v1/used.parquet")
    flip(model, 100)
    report = run(log, ["verify"])
    assert (report.exit_code, report.steps[0].outcome) == (24, "failed")
    assert report.steps[0].hint == "Make it again: evtool project used --full"
