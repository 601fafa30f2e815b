"""What is moved to the archive and what is not, and that nobody sees a difference."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import xxhash
from archives import (
    COUNT,
    SMALL,
    archived,
    brought_back,
    check_archive,
    check_sound,
    dropped,
    make,
    objects,
    planned,
    settings,
    store_folder,
    stubs,
)
from backing import backed_up, replay, restored
from backing import place as backups
from compacting import compacted
from faults import flip
from samples import make_log, many, segments

import evtool
from evtool.errors import (
    ArchiveError,
    ConfigError,
    EvtoolError,
    IdConflictError,
    LogDamagedError,
    LogLockedError,
    LogReadOnlyError,
    StorageError,
)
from evtool.lifecycle import nightly as nights
from evtool.lifecycle.archiving import checking, moving, place, planning, returning
from evtool.lifecycle.nightsteps import steps
from evtool.lifecycle.rewriting import rewrite, rewriting_lock
from evtool.lifecycle.verify import verify


def test_all_that_is_cold_is_moved_and_read_from_there(folder: Path):
    wanted = replay(make(folder))
    report = archived(folder)
    assert (report.segments, report.position, report.removed) == (4, 4 * COUNT, 0)
    assert [path.name for path in stubs(folder)] == [path.name for path in segments(folder)[:4]]
    assert len(objects(folder)) == 3 * 4 + 1
    check_sound(folder, wanted)
    check_archive(folder)
    again = archived(folder)
    assert (again.segments, again.removed, again.position) == (0, 0, 4 * COUNT)
    compacted(folder, 0)
    assert archived(folder).position == 5 * COUNT
    check_sound(folder, wanted)


def test_a_plan_says_what_goes_and_what_is_in_the_way(folder: Path):
    make(folder, cold=2, hot=2)
    plan = planned(folder)
    assert (plan.segments, plan.events, plan.last_position) == (2, 2 * COUNT, 2 * COUNT)
    assert (plan.hot, plan.waiting, plan.archived) == (2, 2, 0)
    assert planned(folder, older_than=3_600).segments == 0
    assert planned(folder, older_than=3_600, by="timestamp").segments == 2  # timestamps are of January
    assert plan.bytes < plan.local_bytes
    archived(folder)
    plan = planned(folder)
    assert (plan.segments, plan.archived, plan.hot) == (0, 2, 2)


def test_a_size_takes_the_oldest_until_the_rest_fits(folder: Path):
    make(folder)
    whole = planned(folder).local_bytes
    assert planned(folder, keep_local=whole).segments == 0
    assert planned(folder, keep_local=whole - 1).segments == 1
    plan = planned(folder, keep_local=0)
    assert plan.segments == 4
    assert plan.missed_bytes > 0
    archived(folder, keep_local=whole - 1)
    assert len(stubs(folder)) == 1
    assert planned(folder, keep_local=planned(folder).local_bytes).segments == 0


def test_a_segment_that_is_not_compacted_keeps_those_behind_it(folder: Path):
    make_log(folder, [many(COUNT, number * COUNT) for number in range(3)], SMALL)
    first, kept = segments(folder)[0], folder.with_name("kept")
    shutil.copytree(first, kept)
    compacted(folder, 0)
    shutil.rmtree(first)
    shutil.move(kept, first)
    plan = planned(folder)
    assert (plan.segments, plan.hot, plan.waiting) == (0, 1, 3)
    assert archived(folder).segments == 0
    assert not store_folder(folder).exists()


def test_readers_keep_what_they_have_mapped(folder: Path):
    wanted = replay(make(folder))
    with evtool.open(folder, read_only=True) as log:
        blocks = log.replay()
        first = next(blocks)
        archived(folder)
        shutil.rmtree(store_folder(folder))
        assert b"".join([first, *blocks]) == wanted


def test_compact_leaves_archived_segments_alone(folder: Path):
    wanted = replay(make(folder, cold=2, hot=3))
    archived(folder)
    before = objects(folder)
    report = compacted(folder)
    assert [run.segments for run in report.compacted] == [3]
    assert objects(folder) == before
    assert len(stubs(folder)) == 2
    assert compacted(folder, 1 << 30, "payload.number").lacking == []
    check_sound(folder, wanted)


def test_archive_tells_of_objects_that_are_missing_or_cut_off_and_goes_on(folder: Path):
    archived(make(folder, cold=5))
    make_log(folder, [many(COUNT, 5 * COUNT + 107)], SMALL)
    compacted(folder, 0)
    cut, lost = sorted(store_folder(folder).rglob("*.parquet"))[1:3]
    cut.write_bytes(cut.read_bytes()[:-1])
    lost.unlink()
    report = archived(folder)
    assert report.segments > 0
    assert [failure.folder for failure in report.failures] == [f"file://{cut}", f"file://{lost}"]
    assert report.failures[1].message == "it is missing"


def test_what_is_dropped_is_not_in_the_archive_any_more(folder: Path):
    wanted = replay(make(folder)).splitlines(keepends=True)
    archived(folder)
    before = set(objects(folder))
    with evtool.open(folder, read_only=True) as log:
        size = sum(each.log_bytes for each in log.snapshot().segments)
    assert replay(folder) == b"".join(wanted)
    dropped(folder, size=size - 1)
    kept = {xxhash.xxh3_128_hexdigest(name.encode()) for name in objects(folder)}
    cached = {path.name for path in folder.glob("cache/*")}
    assert len(cached) == 3  # of what was fetched before
    assert cached < kept
    check_sound(folder, b"".join(wanted[COUNT:]))
    assert check_archive(folder).position == 4 * COUNT
    gone = before - set(objects(folder))
    assert {Path(name).name.split(".")[0] for name in gone} == {f"{1:020d}-1", "catalogue"} - {"catalogue"}
    assert f"index/{1:020d}-2.gone" in objects(folder)
    assert len(stubs(folder)) == 4


def test_retain_refuses_while_the_store_is_not_there(folder: Path):
    wanted = replay(make(folder))
    archived(folder)
    shutil.move(store_folder(folder), folder.with_name("elsewhere"))
    with pytest.raises(ArchiveError, match="does not have"):
        dropped(folder, events=1, by="timestamp")
    shutil.move(folder.with_name("elsewhere"), store_folder(folder))
    check_sound(folder, wanted)


def test_segments_come_back_from_a_position_on_and_all_of_them(folder: Path):
    wanted = replay(make(folder))
    archived(folder)
    back = brought_back(folder, 2 * COUNT + 1)
    assert (back.segments, back.left, back.is_over) == (2, 2, False)
    assert len(stubs(folder)) == 2
    assert check_archive(folder).position == 2 * COUNT
    check_sound(folder, wanted)
    back = brought_back(folder)
    assert (back.segments, back.left, back.is_over) == (2, 0, True)
    assert objects(folder) == []
    assert not (folder / "archive.json").exists()
    check_sound(folder, wanted)
    with pytest.raises(ArchiveError, match="has no archive"):
        brought_back(folder)
    archived(folder, to=folder.with_name("another").as_uri())
    check_sound(folder, wanted)


def test_an_object_that_is_damaged_or_missing_does_not_come_back(folder: Path):
    make(folder)
    archived(folder)
    last = sorted(store_folder(folder).glob("events/*/*"))[-1]
    flip(last, 1000)
    with pytest.raises(LogDamagedError, match="not what was stored"):
        brought_back(folder, 3 * COUNT + 1)
    last.rename(last.with_name("elsewhere"))
    with pytest.raises(LogDamagedError, match="missing"):
        brought_back(folder, 3 * COUNT + 1)
    assert len(stubs(folder)) == 4
    last.with_name("elsewhere").rename(last)
    flip(last, 1000)
    check_archive(folder)


def test_an_archive_that_was_copied_elsewhere_is_read_there(folder: Path):
    wanted = replay(make(folder))
    archived(folder)
    target = folder.with_name("moved")
    asked = settings(folder)
    with evtool.open(folder) as log, pytest.raises(ArchiveError, match="is at") as caught:
        place.url_of(log, asked, str(target))
    assert "--moved-to" in caught.value.hint
    with evtool.open(folder) as log, pytest.raises(ArchiveError, match=r"no catalogue\.msgpack"):
        returning.moved_to(log, asked, target.as_uri())
    shutil.copytree(store_folder(folder), target)
    missing = next(target.glob("events/*/*"))
    kept = missing.read_bytes()
    missing.unlink()
    with evtool.open(folder) as log, pytest.raises(ArchiveError, match="it is missing"):
        returning.moved_to(log, asked, target.as_uri())
    missing.write_bytes(kept)
    with evtool.open(folder) as log:
        assert returning.moved_to(log, asked, target.as_uri())
    shutil.rmtree(store_folder(folder))
    check_sound(folder, wanted)


def test_objects_that_are_damaged_or_missing_are_found(folder: Path):
    make(folder)
    archived(folder)
    first, second, *_ = sorted(store_folder(folder).glob("events/*/*"))
    flip(first, 1000)
    second.unlink()
    flip(next(store_folder(folder).glob("index/*.streams")), 20)
    with evtool.open(folder, read_only=True) as log:
        found = place.existing(log)
        quick, whole = checking.check(found, True), checking.check(found, False)
    assert [(each.first_position, each.message) for each in quick.damaged] == [(COUNT + 1, "it is missing")]
    assert sorted(each.object.partition("/")[0] for each in whole.damaged) == ["events", "events", "index"]
    error = checking.error_of(whole)
    assert isinstance(error, LogDamagedError)


def test_a_catalogue_that_is_lost_is_written_anew_where_the_objects_are_there(folder: Path):
    make(folder)
    archived(folder)
    (store_folder(folder) / "catalogue.msgpack").unlink()
    archived(folder)
    check_archive(folder)
    flip(store_folder(folder) / "catalogue.msgpack", 10)
    archived(folder)
    check_archive(folder)


def test_a_local_file_that_is_brought_counts_and_mends_the_archive(folder: Path):
    wanted = replay(make(folder))
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    archived(folder)
    lost = next(store_folder(folder).glob(f"events/*/{1:020d}-1.parquet"))
    lost.unlink()
    shutil.copy(segments(kept)[0] / "events-1.parquet", segments(folder)[0])
    check_sound(folder, wanted)
    archived(folder)
    assert lost.exists()
    assert len(stubs(folder)) == 4
    check_archive(folder)


def test_a_place_of_something_else_is_refused_and_nothing_is_moved(folder: Path, tmp_path: Path):
    make(folder, cold=1)
    make(tmp_path / "other", cold=1)
    archived(tmp_path / "other", to=store_folder(folder).as_uri())
    with pytest.raises(ArchiveError, match="is of the log"):
        archived(folder)
    full = folder.with_name("full")
    (full / "events").mkdir(parents=True)
    (full / "events" / "mine.csv").write_text("1")
    with pytest.raises(ArchiveError, match=r"mine\.csv"):
        archived(folder, to=full.as_uri())
    for inside in (folder, folder / "x"):
        with pytest.raises(ConfigError, match="among the files of the log"):
            archived(folder, to=str(inside))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        archived(folder, to=(tmp_path / "file").as_uri())
    assert stubs(folder) == []
    assert not (folder / "archive.json").exists()


def test_a_copy_of_a_log_does_not_take_over_its_archive(folder: Path, tmp_path: Path):
    make(folder)
    shutil.copytree(folder, tmp_path / "copy")
    archived(folder)
    with pytest.raises(ArchiveError, match="a copy of it"):
        archived(tmp_path / "copy", to=store_folder(folder).as_uri())
    archived(tmp_path / "copy", to=(tmp_path / "another").as_uri())
    with (
        evtool.open(tmp_path / "copy") as log,
        pytest.raises(ArchiveError, match="another copy"),
    ):
        returning.moved_to(log, settings(folder), store_folder(folder).as_uri())
    check_archive(folder)


def test_a_folder_that_was_copied_with_its_archive_removes_no_object_of_it(folder: Path, tmp_path: Path):
    make(folder)
    archived(folder)
    copy, url = Path(shutil.copytree(folder, tmp_path / "copy")), store_folder(folder).as_uri()
    wanted, there = replay(folder), objects(folder)
    changes = (brought_back, lambda copy: archived(copy, to=url), lambda copy: dropped(copy, size=1))
    for change in changes:
        with pytest.raises(ArchiveError, match="was copied") as caught:
            change(copy)
        assert f"--moved-to {url}" in caught.value.hint
    assert objects(folder) == there
    assert replay(copy) == wanted
    with evtool.open(copy) as log:  # the folder that it was copied from is no more
        assert not returning.moved_to(log, settings(folder), url)
    brought_back(copy)
    assert replay(copy) == wanted
    assert objects(folder) == []


def test_an_archive_waits_for_nobody_and_is_for_writers(folder: Path):
    make(folder)
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        with pytest.raises(LogLockedError):
            archived(folder)
        lock.release()
    with evtool.open(folder, read_only=True) as log, pytest.raises(LogReadOnlyError):
        moving.move_all(log, settings(folder), planning.Plan(), "file:///x")


def test_a_damaged_segment_is_left_and_those_behind_it_wait(folder: Path):
    make(folder)
    flip(segments(folder)[1] / "events-1.parquet", 200)
    report = archived(folder)
    assert (report.segments, report.position) == (1, COUNT)
    assert [failure.folder for failure in report.failures] == [str(segments(folder)[1])]


@pytest.mark.parametrize("is_damaged", [False, True], ids=["missing", "damaged"])
def test_an_archive_json_that_is_lost_is_made_anew_by_what_is_there(folder: Path, is_damaged: bool):
    wanted = replay(make(folder))
    archived(folder)
    kept = (folder / "archive.json").read_bytes()
    if is_damaged:
        flip(folder / "archive.json", 0)
    else:
        (folder / "archive.json").unlink()
    for attempt in (archived, brought_back, replay):
        with pytest.raises(EvtoolError) as caught:
            attempt(folder)
        assert "--moved-to" in caught.value.hint
    with evtool.open(folder) as log, pytest.raises(ArchiveError):
        returning.moved_to(log, settings(folder), folder.with_name("elsewhere").as_uri())
    with evtool.open(folder) as log:
        returning.moved_to(log, settings(folder), store_folder(folder).as_uri())
    assert (folder / "archive.json").read_bytes() == kept
    check_sound(folder, wanted)


@pytest.mark.parametrize("is_before", [True, False], ids=["backed up before", "archived before"])
def test_a_backup_has_what_is_archived_and_reads_it_once(folder: Path, tmp_path: Path, is_before: bool):
    wanted = replay(make(folder))
    if is_before:
        backed_up(folder)
    archived(folder)
    made = backed_up(folder)
    assert made.is_new is not is_before
    shutil.rmtree(store_folder(folder))
    assert not backed_up(folder).is_new  # of what is there nothing is asked
    restored(backups(folder), tmp_path / "again")
    assert replay(tmp_path / "again") == wanted
    assert stubs(tmp_path / "again") == []
    assert not (tmp_path / "again" / "archive.json").exists()
    assert not [*folder.glob("backup.fetched*")]


def test_an_index_that_is_lost_is_found_at_night_and_stored_again(folder: Path):
    make(folder)
    archived(folder)
    next(store_folder(folder).glob("index/*.map")).unlink()
    with evtool.open(folder, read_only=True) as log:
        report = verify(log, reads_archive=False)
        assert [(each.severity, each.message) for each in report.findings] == [("derived", "it is missing")]
        assert (report.archived, report.skipped, report.events, report.digest) == (4, 4, COUNT + 7, None)
    archived(folder)
    check_archive(folder)
    with evtool.open(folder, read_only=True) as log:
        assert verify(log, reads_archive=False).findings == []
        shutil.rmtree(store_folder(folder) / "events")
        damaged = verify(log, reads_archive=False)
        shutil.rmtree(store_folder(folder))
        unmounted = verify(log, reads_archive=False)
    assert {each.severity for each in damaged.findings} == {"log"}
    assert len(damaged.findings) == 4
    assert [each.message for each in unmounted.findings] == ["the archive is not there: no object is"]


def test_a_writer_goes_on_meanwhile_and_knows_what_was_archived(folder: Path):
    make(folder)
    with evtool.open(folder) as log:
        assert log.append(many(COUNT, 1_000)).count == COUNT
        archived(folder)
        assert log.append(many(COUNT, 1_050)).count == COUNT // 2
        assert log.append(many(2 * COUNT)).count == 0  # all of them are in the archive
        with pytest.raises(IdConflictError):
            log.append(many(1).with_columns(payload=pl.lit("{}")))
    wanted = replay(folder)
    assert wanted.count(b"\n") == 5 * COUNT + 7 + COUNT + COUNT // 2
    check_sound(folder, wanted)


@pytest.mark.parametrize(("nightly", "events"), [("sizes", COUNT + 7), ("full", 5 * COUNT + 7)])
def test_a_night_reads_archived_segments_only_where_it_is_told_to(folder: Path, nightly: str, events: int):
    make(folder)
    archived(folder)
    asked = settings(folder, nightly=nightly)
    with evtool.open(folder, config=asked) as log:
        report = nights.run(log, asked, steps(asked), only=("verify",))
    (step,) = (each for each in report.steps if each.name == "verify")
    assert (step.outcome, step.facts["events"]) == ("ok", events)


def test_an_active_segment_without_events_has_no_age(folder: Path):
    make(folder, cold=1, hot=1)
    with evtool.open(folder) as log:
        log.seal()
    for clock in ("timestamp", "recorded"):
        assert planned(folder, older_than=0, by=clock).segments == 1


def test_a_segment_that_was_written_again_goes_back_whatever_its_age_is(folder: Path):
    wanted = replay(make(folder))
    archived(folder)
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        rewrite(log, [log.snapshot().segments[1]], [])  # as far as a drop comes that is killed then
        lock.release()
    assert planned(folder, older_than=3_600).segments == 1
    archived(folder, older_than=3_600)
    assert len(stubs(folder)) == 4
    assert check_archive(folder).position == 4 * COUNT
    check_sound(folder, wanted)
