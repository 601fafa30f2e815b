"""Nightly runs over what is damaged, unexpected, or written in Python: no step keeps another from its turn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.exceptions import PanicException
from projecting import configuration, make, purchase, write
from samples import config, frame

import evtool
from evtool.config import Config, NightlyConfig
from evtool.errors import ConfigError, InternalError, ProjectionError
from evtool.lifecycle import nightly, nightsteps
from evtool.lifecycle.nightly import Context, Report, Result, Step
from evtool.lifecycle.nightsteps import STEPS
from evtool.projections import catalogue, projection
from evtool.projections.custom import Custom

SUMS = '[keys]\nproduct = "payload.product_id"\n[measures]\norders = "count(*)"\n'
SESSIONS = '[sessions]\nby = "payload.user_id"\ngap = "30m"\n[time]\ngrain = "day"\n'
LONGEST = """
import polars as pl


class Longest:
    name = "longest"
    version = 1
    columns = ("event_type", "payload")

    def partial(self, events):
        return events.group_by("event_type").agg(pl.col("payload").str.len_bytes().max().alias("bytes"))

    def merge(self, partials):
        return pl.concat(partials).group_by("event_type").agg(pl.col("bytes").max())

    def finalize(self, state):
        return state.sort("event_type")
"""
REFERENCE = "longest_payloads:Longest"


@pytest.fixture
def log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of 40 events, beside own definitions of sums and sessions, and of none that are built in."""
    (folder.parent / "none").mkdir()
    monkeypatch.setattr(catalogue, "_built_in", lambda: folder.parent / "none")
    write(folder.parent / "own", SUMS, "sums")
    write(folder.parent / "own", SESSIONS, "visits")
    return make(folder, [[purchase(number, f"u{number % 4}", hours=number / 3) for number in range(40)]])


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "longest_payloads.py").write_text(LONGEST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield REFERENCE
    sys.modules.pop("longest_payloads", None)


def append(folder: Path, *numbers: int) -> None:
    with evtool.open(folder, config=config(fsync="never")) as log:
        log.append(frame([purchase(number, "a user with a longer name", hours=number) for number in numbers]))


def settings(log: evtool.Log, *names: str) -> Config:
    return replace(configuration(log, log.folder.parent / "own"), nightly=NightlyConfig(names or None))


def run(folder: Path, *names: str, steps: tuple[Step, ...] = STEPS, only: tuple[str, ...] = ()) -> Report:
    """A night with these projections, by default those that it takes by itself."""
    with evtool.open(folder) as log:
        return nightly.run(log, settings(log, *names), steps, only)


def recomputed(report: Report) -> list[dict[str, Any]]:
    (found,) = (done.facts["projections"] for done in report.steps if done.name == "recompute")
    return list(found)


def test_a_projection_in_python_is_recomputed_and_the_other_steps_run(log: Path, reference: str):
    for _ in range(2):
        report = run(log, reference, "sums")
        assert {done.outcome for done in report.steps} == {"ok"}
        assert [(each["projection"], each["is_same"]) for each in recomputed(report)] == [
            ("longest", True),
            ("sums", True),
        ]
        append(log, *range(40 + report.exit_code, 44))
    assert not (log / "nightly" / "recompute").exists()


def test_an_event_that_refreshes_of_a_projection_in_python_drop_is_found_by_its_position(
    log: Path, reference: str, monkeypatch: pytest.MonkeyPatch
):
    run(log, reference)
    append(log, *range(40, 45))
    partial = Custom.partial

    def dropping(self: Custom, rows: pl.DataFrame) -> Any:
        is_refresh = len(rows) <= 5
        return partial(self, rows.clear() if is_refresh else rows)

    monkeypatch.setattr(Custom, "partial", dropping)
    report = run(log, reference, only=("recompute",))
    (found,) = recomputed(report)
    assert (found["first_position"], found["is_reproduced"], report.exit_code) == (41, True, 19)
    monkeypatch.undo()


def test_a_projection_in_python_that_fails_on_a_beginning_is_made_anew_all_the_same(
    log: Path, reference: str, monkeypatch: pytest.MonkeyPatch
):
    append(log, 40)
    finalize = Custom.finalize
    is_wrong = True

    def failing(self: Custom, reduced: pl.DataFrame) -> pl.DataFrame:
        found = finalize(self, reduced)
        if is_wrong:
            return found.with_columns(pl.col("bytes") + 1)
        if reduced.is_empty():
            raise ProjectionError("there is nothing")
        return found

    monkeypatch.setattr(Custom, "finalize", failing)
    with evtool.open(log, read_only=True) as opened:
        projection.open(opened, reference, settings(opened)).runner.refresh()
    is_wrong = False
    (found,) = recomputed(run(log, reference, only=("recompute",)))
    assert (found["first_position"], found["is_reproduced"]) == (1, False)
    assert recomputed(run(log, reference, only=("recompute",)))[0]["is_same"]


@pytest.mark.parametrize("raised", [AssertionError("odd"), KeyError("odd"), PanicException("odd")], ids=repr)
def test_an_exception_that_nobody_expects_fails_its_step_alone(log: Path, raised: BaseException):
    done: list[str] = []

    def fail(context: Context) -> Result:
        raise raised

    def note(context: Context) -> Result:
        done.append("noted")
        return Result()

    report = run(log, steps=(Step("a", fail), Step("b", note)))
    assert done == ["noted"]
    assert [each.outcome for each in report.steps] == ["failed", "ok"]
    assert report.exit_code == InternalError.exit_code == 25
    assert type(raised).__name__ in report.steps[0].message
    assert "odd" in report.steps[0].message
    assert "test_nightly_repairs.py" in report.steps[0].message


def test_an_exception_in_one_recomputation_leaves_no_folder_and_the_others_run(
    log: Path, monkeypatch: pytest.MonkeyPatch
):
    recompute = nightsteps.recompute

    def failing(asked: projection.Projection, folder: Path, *more: Any) -> Any:
        if asked.identity.name == "sums":
            asked.aside(folder / "full").runner.refresh()
            raise AssertionError
        return recompute(asked, folder, *more)

    monkeypatch.setattr(nightsteps, "recompute", failing)
    report = run(log)
    assert {done.name: done.outcome for done in report.steps} == {
        "verify": "ok",
        "recompute": "failed",
        "snapshot": "ok",
        "compact": "ok",
    }
    assert report.exit_code == InternalError.exit_code
    sums, visits = recomputed(report)
    assert "AssertionError" in sums["message"]
    assert visits["is_same"]
    assert not (log / "nightly" / "recompute").exists()


def test_a_folder_of_recompute_does_not_stay_behind_an_interrupt(log: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(asked: projection.Projection, folder: Path, *more: Any) -> Any:
        asked.aside(folder / "full").runner.refresh()
        raise KeyboardInterrupt

    monkeypatch.setattr(nightsteps, "recompute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(log)
    assert not (log / "nightly" / "recompute").exists()


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file, and not in those that are the same one by another name."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize("pattern", ["state/*.arrow", "state/*.sorted", "state/checkpoint", "*.parquet"])
def test_the_night_behind_one_that_found_a_damaged_state_or_read_model_is_clean(
    log: Path, pattern: str, is_later: bool
):
    run(log)
    damaged = [path for path in log.glob(f"read-models/*/v1/{pattern}") if path.stat().st_size]
    assert damaged
    for path in damaged:
        damage(path)
    if is_later:
        append(log, 40)
    first = run(log, only=("verify", "recompute", "compact"))
    assert first.exit_code == 24
    assert all(each.get("is_same") for each in recomputed(first))
    assert run(log).exit_code == 0


def test_a_state_that_is_made_anew_is_in_the_report(log: Path):
    run(log)
    path = next(iter(log.glob("read-models/sums/v1/state/*.arrow")))
    damage(path)
    found = {each["projection"]: each["damaged"] for each in recomputed(run(log, only=("recompute",)))}
    assert found == {"sums": (str(path),), "visits": ()}


def test_a_night_without_time_for_any_step_is_an_error(log: Path):
    with evtool.open(log) as opened:
        report = nightly.run(opened, settings(opened), STEPS, budget_seconds=0.0)
        assert {done.outcome for done in report.steps} == {"postponed"}
        assert report.exit_code == ConfigError.exit_code
        assert "before any step began" in report.message
        assert next(nightly.reports(opened.files, log))["message"] == report.message
    assert dataclasses.asdict(run(log))["message"] == ""
