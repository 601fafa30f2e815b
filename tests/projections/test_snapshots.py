"""Snapshots: what was kept is what was there, what is computed from it is what the events give."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, FaultyFiles, Killed, flip, full_disk
from projecting import FIRST, SUMS, append, make, open_projection, purchase, write

import evtool
from evtool.errors import LogReadOnlyError, NoSpaceError, ProjectionError
from evtool.log.log import open as open_log
from evtool.log.selection import Selection
from evtool.projections import readmodel, snapshots
from evtool.projections.bounds import select
from evtool.projections.snapshots import Snapshot
from evtool.projections.source import Source

LATER = [purchase(number, f"u{number % 5}", f"{number}.x", hours=90 - number) for number in range(20, 32)]
DAY_NS = 86_400_000_000_000


@pytest.fixture
def name(tmp_path: Path) -> str:
    return write(tmp_path / "own", SUMS)


def take(folder: Path, name: str, label: str | None = None, **settings: str) -> Snapshot:
    with evtool.open(folder) as log:
        return snapshots.take(log, open_projection(log, name, **settings), label)


def every(folder: Path) -> list[Snapshot]:
    return snapshots.every(evtool.open(folder, read_only=True))


@pytest.fixture
def read_from(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The positions from which events were read."""
    found: list[int | None] = []
    parts = Source.parts

    def noted(self: Source, plan: object, selection: Selection) -> object:
        found.append(selection.start)
        return parts(self, plan, selection)  # type: ignore[arg-type]

    monkeypatch.setattr(Source, "parts", noted)
    return found


def as_of(folder: Path, name: str, position: int, from_nothing: bool = False) -> tuple[object, ...]:
    with evtool.open(folder, read_only=True) as log:
        runner = open_projection(log, name).runner
        answer = runner.compute(select(log, None, None, f"@{position}"), from_nothing=from_nothing)
    return answer.frame.rows(), answer.frame.schema, answer.position, answer.events, answer.failed_casts


def test_what_is_kept_is_what_was_there_and_says_so(folder: Path, name: str):
    make(folder, [FIRST])
    taken = take(folder, name, "before")
    with evtool.open(folder, read_only=True) as log:
        model = open_projection(log, name).runner.stale().frame
        append(folder, LATER)
        open_projection(log, name).runner.refresh()
        assert snapshots.frame(log, taken).equals(model)
        assert taken.recorded_at == log.snapshot().recorded_at(20)
    assert (taken.projection, taken.version, taken.position, taken.label) == ("mine", 1, 20, "before")
    assert taken.rows == len(model)
    assert taken.bytes > 0
    assert every(folder) == [taken]


def test_the_same_is_kept_once_and_another_label_again(folder: Path, name: str):
    make(folder, [FIRST])
    first = take(folder, name)
    assert take(folder, name) == first
    labelled = take(folder, name, "release")
    assert labelled.id != first.id
    append(folder, LATER)
    last = take(folder, name)
    assert {each.id for each in every(folder)} == {first.id, labelled.id, last.id}


@pytest.mark.parametrize("position", [20, 23, 31, 32])
def test_as_of_goes_on_from_the_nearest_one_and_gives_the_same(
    folder: Path, name: str, position: int, read_from: list[int | None]
):
    make(folder, [FIRST[:10], FIRST[10:]])
    take(folder, name)
    append(folder, LATER[:11])
    take(folder, name)
    append(folder, LATER[11:])
    wanted = as_of(folder, name, position, from_nothing=True)
    del read_from[:]
    assert as_of(folder, name, position) == wanted
    assert read_from == [32 if position >= 31 else 21]


def damage_state(folder: Path) -> None:
    for path in folder.glob("snapshots/*/state/*.arrow"):
        flip(path, path.stat().st_size // 2)


def lose_state(folder: Path) -> None:
    for path in folder.glob("snapshots/*/state"):
        shutil.rmtree(path)


def damage_record(folder: Path) -> None:
    for path in folder.glob("snapshots/*/record"):
        flip(path, 30)


def call_it_wrong(folder: Path) -> None:
    with evtool.open(folder) as log:
        for snapshot in snapshots.every(log):
            snapshots.mark_wrong(log, snapshot)


@pytest.mark.parametrize("spoil", [damage_state, lose_state, damage_record, call_it_wrong])
def test_what_is_no_good_is_not_gone_on_from(
    folder: Path, name: str, spoil: Callable[[Path], None], read_from: list[int | None]
):
    make(folder, [FIRST])
    take(folder, name)
    append(folder, LATER)
    wanted = as_of(folder, name, 30, from_nothing=True)
    spoil(folder)
    assert as_of(folder, name, 30) == wanted
    assert read_from[-1] is None  # from the first event on


def test_a_definition_that_has_changed_is_computed_from_nothing(
    folder: Path, name: str, read_from: list[int | None]
):
    make(folder, [FIRST])
    before = take(folder, name)
    Path(name).write_text(Path(name).read_text().replace("decimal(18,2)", "decimal(18,3)"))
    append(folder, LATER)
    assert as_of(folder, name, 25) == as_of(folder, name, 25, from_nothing=True)
    assert read_from[-2:] == [None, None]
    with evtool.open(folder) as log, pytest.raises(ProjectionError, match="another definition"):
        snapshots.take(log, open_projection(log, name))
    with evtool.open(folder, read_only=True) as log:
        assert len(snapshots.frame(log, before)) == before.rows
        open_projection(log, name).runner.refresh(full=True)
    after = take(folder, name)
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError, match="same columns"):
        snapshots.difference(log, before, after)


def test_other_parameters_are_another_projection(folder: Path, name: str, read_from: list[int | None]):
    make(folder, [FIRST])
    take(folder, name, grain="month")
    assert as_of(folder, name, 20) == as_of(folder, name, 20, from_nothing=True)
    assert read_from[-2:] == [None, None]


def test_a_log_that_was_cut_back_is_not_what_was_kept(
    folder: Path, name: str, tmp_path: Path, read_from: list[int | None]
):
    make(folder, [FIRST])
    shutil.copytree(folder, tmp_path / "older")
    append(folder, LATER)
    take(folder, name)
    shutil.copytree(folder / "snapshots", tmp_path / "older" / "snapshots")
    append(tmp_path / "older", [purchase(number, amount="1.00") for number in range(40, 52)])
    assert as_of(tmp_path / "older", name, 32) == as_of(tmp_path / "older", name, 32, from_nothing=True)
    assert read_from[-2:] == [None, None]


def test_a_difference_is_the_rows_of_one_alone(folder: Path, name: str):
    make(folder, [FIRST])
    before = take(folder, name)
    append(folder, [purchase(50, "new", "5.00", hours=7), purchase(51, "new", "7.00", hours=9_000)])
    after = take(folder, name)
    with evtool.open(folder, read_only=True) as log:
        changed = snapshots.difference(log, before, after)
        assert snapshots.difference(log, after, after).is_empty()
        one, other = (set(map(repr, snapshots.frame(log, each).rows())) for each in (before, after))
    found = {kind: {repr(row[1:]) for row in changed.rows() if row[0] == kind} for kind in ("before", "after")}
    assert found == {"before": one - other, "after": other - one}
    assert changed.columns[:3] == ["change", "day", "product"]
    assert len(changed) == 3


def test_a_state_that_has_lost_a_run_is_made_anew_before_it_is_kept(folder: Path, name: str):
    make(folder, [FIRST])
    with evtool.open(folder, read_only=True) as log:
        asked = open_projection(log, name)
        asked.runner.refresh()
        for path in asked.places.state_folder.glob("*.arrow"):
            path.unlink()
    take(folder, name)
    append(folder, LATER)
    assert as_of(folder, name, 30) == as_of(folder, name, 30, from_nothing=True)


def test_the_policy_keeps_the_last_ones_of_days_and_weeks_and_what_has_a_label(folder: Path, name: str):
    make(folder, [FIRST])
    monday = 1_767_571_200 * 10**9  # 2026-01-05
    moments = {day: monday + day * DAY_NS for day in range(0, 30)}
    first = take(folder, name)
    with evtool.open(folder) as log:
        for day, moment in moments.items():
            for hour in (3, 15):
                taken = moment + hour * 3600 * 10**9
                label = "kept" if (day, hour) == (2, 3) else None
                record(folder, replace(first, id=f"{day:02}{hour:02}", taken_at=taken, label=label))
        late = moments[29] + 20 * 3600 * 10**9
        record(folder, replace(first, id="wrong", taken_at=late, is_wrong=True))
        snapshots.drop(log, [first])
        snapshots.drop(log, snapshots.outdated(log, 3, 4))
        days = sorted(each.id for each in snapshots.every(log))
        assert days == ["0203", "1315", "2015", "2715", "2815", "2915"]
        assert snapshots.outdated(log, 3, 4) == []


def record(folder: Path, snapshot: Snapshot) -> None:
    """Let there be a snapshot that is nothing but its record."""
    place = folder / "snapshots" / snapshot.id
    place.mkdir()
    (place / snapshots.RECORD_FILE).write_bytes(snapshots._record(snapshot))


def test_ids_are_found_by_their_beginning(folder: Path, name: str):
    make(folder, [FIRST])
    taken = take(folder, name)
    other = replace(taken, id=taken.id[:15] + ("0" if taken.id[15] != "0" else "1"))
    log = evtool.open(folder, read_only=True)
    assert snapshots.find(log, taken.id[:4]) == taken
    record(folder, other)
    assert snapshots.find(log, taken.id) == taken
    for beginning, message in ((taken.id[:4], "2 snapshots have"), ("x", "no snapshot has"), ("", "2 snapshots")):
        with pytest.raises(ProjectionError, match=message):
            snapshots.find(log, beginning)


def test_a_log_that_is_read_only_keeps_and_drops_nothing(folder: Path, name: str):
    make(folder, [FIRST])
    taken = take(folder, name)
    with evtool.open(folder, read_only=True) as log:
        for attempt in (
            lambda: snapshots.take(log, open_projection(log, name)),
            lambda: snapshots.drop(log, [taken]),
        ):
            with pytest.raises(LogReadOnlyError):
                attempt()


def test_a_kill_at_any_call_leaves_the_old_ones_and_the_next_one_finishes(folder: Path, name: str):
    make(folder, [FIRST])
    first = take(folder, name)
    append(folder, LATER)
    saved = folder.with_name("saved")
    folder.rename(saved)
    counted = attempt(saved, folder, name, FaultyFiles())
    shutil.rmtree(folder)
    assert ("link", "checkpoint") in counted.calls
    calls = sum(kind in Fault(1).kinds for kind, _ in counted.calls)
    for call in range(1, calls + 1):
        with pytest.raises(Killed):
            attempt(saved, folder, name, FaultyFiles(Fault(call, call % 2)))
        assert first in every(folder)
        last = take(folder, name)
        assert last.position == 32
        assert [each.position for each in every(folder)] == [20, 32]
        assert not list((folder / "snapshots").glob("*.tmp"))
        with evtool.open(folder, read_only=True) as log:
            assert snapshots.frame(log, last).equals(open_projection(log, name).runner.stale().frame)
        shutil.rmtree(folder)
    with pytest.raises(NoSpaceError):
        attempt(saved, folder, name, full_disk(1))


def attempt(saved: Path, folder: Path, name: str, files: FaultyFiles) -> FaultyFiles:
    """Take a snapshot in a copy of a log, where something may go wrong."""
    shutil.copytree(saved, folder)
    with open_log(folder, files=files) as log:
        snapshots.take(log, open_projection(log, name))
    return files


def test_where_files_have_one_name_they_are_copied(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: object, source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    make(folder, [FIRST])
    with monkeypatch.context() as patched:
        patched.setattr(FaultyFiles, "link", refuse)
        with open_log(folder, files=FaultyFiles()) as log:
            taken = snapshots.take(log, open_projection(log, name))
    append(folder, LATER)
    assert as_of(folder, name, 31) == as_of(folder, name, 31, from_nothing=True)
    assert readmodel.read(folder / "snapshots" / taken.id, "mine") is not None
