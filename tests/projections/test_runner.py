"""Refreshing goes on only from what is right, and no end of a process leaves half of anything."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from faults import Fault, FaultyFiles, Killed, flip
from projecting import FIRST, SUMS, append, configuration, make, open_projection, purchase, refreshed, write

import evtool
from evtool.errors import ProjectionError
from evtool.log.log import open as open_log
from evtool.projections import projection as projections
from evtool.projections import store
from evtool.schemas import document
from evtool.schemas import steps as writing

LATER = [purchase(number, f"u{number % 5}", f"{number}.5", hours=90 - number) for number in range(20, 32)]


@pytest.fixture
def name(tmp_path: Path) -> str:
    return write(tmp_path / "own", SUMS)


def run(folder: Path, name: str, full: bool = False, **settings: str) -> bytes:
    with evtool.open(folder, read_only=True) as log:
        return refreshed(log, name, full, **settings)[1]


def clean(folder: Path, name: str) -> bytes:
    """What a run that nothing went wrong for gives, in a copy of the log."""
    copy = folder.with_name("clean")
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("read-models"))
    try:
        return run(copy, name)
    finally:
        shutil.rmtree(copy)


def state(folder: Path) -> Path:
    return folder / "read-models" / "mine" / "v1" / "state"


def rewritten(name: str, before: str, after: str) -> None:
    path = Path(name)
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def refusal(folder: Path, name: str) -> ProjectionError:
    with pytest.raises(ProjectionError) as caught:
        run(folder, name)
    assert caught.value.exit_code == 19
    assert "--full" in caught.value.hint
    return caught.value


def test_another_definition_of_the_same_version_is_refused_and_a_new_version_is_built_beside(
    folder: Path, name: str
):
    make(folder, [FIRST])
    before = run(folder, name)
    rewritten(name, "decimal(18,2)", "decimal(18,3)")
    error = refusal(folder, name)
    assert "mine version 1" in error.message
    assert "Raise its version" in error.hint
    places = folder / "read-models" / "mine"
    assert (places / "v1" / "mine.parquet").read_bytes() == before
    rewritten(name, "version = 1", "version = 2")
    after = run(folder, name)
    assert (places / "v1" / "mine.parquet").read_bytes() == before != after
    assert (places / "v2" / "mine.parquet").read_bytes() == after


def test_full_makes_the_same_version_of_another_definition(folder: Path, name: str):
    make(folder, [FIRST])
    run(folder, name)
    rewritten(name, "decimal(18,2)", "decimal(18,3)")
    assert run(folder, name, full=True) == run(folder, name) == clean(folder, name)


def test_a_log_that_was_cut_back_is_refused(folder: Path, name: str, tmp_path: Path):
    make(folder, [FIRST])
    shutil.copytree(folder, tmp_path / "older")
    append(folder, LATER)
    run(folder, name)
    shutil.copytree(folder / "read-models", tmp_path / "older" / "read-models")
    shutil.rmtree(folder)
    (tmp_path / "older").rename(folder)
    assert "position 32" in refusal(folder, name).message
    # The same number of other events is no less another log.
    append(folder, [event | {"payload": "{}"} for event in LATER])
    assert "position 32" in refusal(folder, name).message
    assert run(folder, name, full=True) == run(folder, name) == clean(folder, name)


def test_another_log_is_refused(folder: Path, name: str, tmp_path: Path):
    make(folder, [FIRST])
    run(folder, name)
    make(tmp_path / "other", [FIRST])
    shutil.copytree(folder / "read-models", tmp_path / "other" / "read-models")
    assert "another log" in refusal(tmp_path / "other", name).message


@pytest.mark.parametrize("suffix", ["checkpoint", "arrow", "no run", "no checkpoint", "no state", "no read model"])
@pytest.mark.parametrize("grows", [False, True])
def test_what_is_damaged_is_made_anew(folder: Path, name: str, suffix: str, grows: bool):
    make(folder, [FIRST])
    run(folder, name)
    runs = sorted(state(folder).glob("*.arrow"))
    assert runs
    match suffix:
        case "arrow":
            for path in runs:
                flip(path, path.stat().st_size // 2)
        case "no run":
            for path in runs:
                path.unlink()
        case "checkpoint":
            flip(state(folder) / store.CHECKPOINT_FILE, 30)
        case "no checkpoint":
            (state(folder) / store.CHECKPOINT_FILE).unlink()
        case "no state":
            shutil.rmtree(state(folder))
        case _:
            (state(folder).parent / "mine.parquet").unlink()
            (state(folder).parent / "mine.lineage.json").unlink()
    if grows:
        append(folder, LATER)
    assert run(folder, name) == clean(folder, name)


def test_a_state_of_another_engine_is_made_anew(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    from evtool.projections import runner

    make(folder, [FIRST])
    with monkeypatch.context() as patched:
        patched.setattr(runner, "ENGINE", "state 0, polars 0.1")
        run(folder, name)
    for path in state(folder).glob("*.arrow"):  # it would be noticed if these were looked at
        path.write_bytes(b"of an engine that nobody remembers")
    append(folder, LATER)
    assert run(folder, name) == clean(folder, name)


def test_other_parameters_have_a_read_model_of_their_own(folder: Path, name: str):
    make(folder, [FIRST])
    by_day = run(folder, name)
    by_month = run(folder, name, grain="month")
    append(folder, LATER)
    assert run(folder, name, grain="month") != by_month
    assert (folder / "read-models" / "mine" / "v1" / "mine.parquet").read_bytes() == by_day
    assert len(list((folder / "read-models" / "mine" / "v1").glob("with-*"))) == 1


def test_other_configured_parameters_make_the_state_anew(folder: Path, name: str):
    make(folder, [FIRST])
    run(folder, name)
    with evtool.open(folder, read_only=True) as log:
        asked = projections.open(log, name, configuration(log, mine={"grain": "month"}))
        asked.runner.refresh()
        configured = asked.places.read_model.read_bytes()
        fresh = refreshed(log, name, grain="month")[0].frame
        assert asked.runner.stale().frame.equals(fresh)
    assert configured != run(folder, name, full=True)


def kills(folder: Path, name: str) -> int:
    """How many calls a refresh makes that can be the last one of a process."""
    copy = folder.with_name("counted")
    shutil.copytree(folder, copy)
    files = FaultyFiles()
    with open_log(copy, read_only=True, files=files) as log:
        open_projection(log, name).runner.refresh()
    shutil.rmtree(copy)
    return sum(kind in Fault(1).kinds for kind, _ in files.calls)


def test_a_kill_at_any_call_leaves_what_was_there_and_the_next_run_gives_the_same(folder: Path, name: str):
    make(folder, [FIRST])
    before = run(folder, name)
    append(folder, LATER)
    whole = clean(folder, name)
    saved = folder.with_name("saved")
    folder.rename(saved)
    calls = kills(saved, name)
    assert calls >= 4  # runs, what is announced, the read model, the checkpoint
    for call in range(1, calls + 1):
        for done in (0.0, 1.0) if call % 2 else (0.5, 1.0):
            shutil.copytree(saved, folder)
            with (
                open_log(folder, read_only=True, files=FaultyFiles(Fault(call, done))) as log,
                pytest.raises(Killed),
            ):
                open_projection(log, name).runner.refresh()
            with evtool.open(folder, read_only=True) as log:
                asked = open_projection(log, name)
                stale = asked.runner.stale()  # whole, and what stands beside it is of it
                assert asked.places.read_model.read_bytes() in (before, whole)
                assert stale.position in (20, 32)
                assert asked.places.read_model.read_bytes() == (before if stale.position == 20 else whole)
                assert refreshed(log, name)[1] == whole
            append(folder, [purchase(99)])
            assert run(folder, name) == clean(folder, name)
            shutil.rmtree(folder)


def test_a_kill_during_the_first_run_leaves_nothing_that_answers(folder: Path, name: str):
    make(folder, [FIRST])
    calls = kills(folder, name)
    whole = clean(folder, name)
    saved = folder.with_name("saved")
    folder.rename(saved)
    for call in range(1, calls + 1):
        shutil.copytree(saved, folder)
        with open_log(folder, read_only=True, files=FaultyFiles(Fault(call))) as log, pytest.raises(Killed):
            open_projection(log, name).runner.refresh()
        assert run(folder, name) == whole
        shutil.rmtree(folder)


def test_runs_at_the_same_time_wait_for_each_other(folder: Path, name: str):
    make(folder, [FIRST, LATER])
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(run(folder, name))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [clean(folder, name)] * 3


def test_a_bucket_of_many_runs_is_merged_into_one(folder: Path, name: str):
    make(folder, [[FIRST[0]]])
    for number in range(100, 124):
        append(folder, [purchase(number, hours=number % 3)])
        run(folder, name)
    assert len(list(state(folder).glob("*.arrow"))) <= 20
    assert run(folder, name) == clean(folder, name)


def test_the_tally_counts_events_and_casts_over_all_runs(folder: Path, name: str):
    make(folder, [[purchase(1), purchase(2, amount="n/a")]])
    run(folder, name)
    append(folder, [purchase(3, amount="1.005"), purchase(4, amount=None)])
    with evtool.open(folder, read_only=True) as log:
        answer, _ = refreshed(log, name)
        again, _ = refreshed(log, name)
        stale = open_projection(log, name).runner.stale()
    for each in (answer, again, stale):
        assert (each.position, each.events, list(each.failed_casts.values())) == (4, 4, [2])


def test_stale_says_how_far_behind_it_is_and_needs_a_read_model(folder: Path, name: str):
    make(folder, [FIRST])
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError, match="no read model yet"):
        open_projection(log, name).runner.stale()
    run(folder, name)
    append(folder, LATER)
    with evtool.open(folder, read_only=True) as log:
        stale = open_projection(log, name).runner.stale()
    assert (stale.position, stale.behind, stale.events) == (20, 12, 20)
    assert stale.keys == ("day", "product")


def test_upcasters_change_what_projections_see_and_the_state_with_it(folder: Path, name: str):
    make(folder, [FIRST])
    before = run(folder, name)
    with evtool.open(folder) as log:
        log.schemas.add("ItemPurchased", document.parse(b'{"type":"object"}'), compatibility="none")
    assert run(folder, name) == before
    second = document.parse(b'{"type":"object","title":"as price"}')
    with evtool.open(folder) as log:
        moved = writing.from_list([{"rename": "product_id", "to": "item"}], "steps")
        log.schemas.add("ItemPurchased", second, compatibility="none", steps=moved)
    after = run(folder, name)
    assert after != before
    with evtool.open(folder, read_only=True) as log:
        frame_after = refreshed(log, name)[0].frame
    assert frame_after["product"].null_count() == len(frame_after) > 0
    append(folder, LATER)
    assert run(folder, name) == run(folder, name, full=True)
