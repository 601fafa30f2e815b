"""Damaged files of archived segments: a repair brings them back, and never takes their events as lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import (
    archived,
    brought_back,
    check_archive,
    check_sound,
    make,
    objects,
    store_folder,
    stubs,
    taken_over,
)
from backing import backed_up, place, replay
from compacting import compacted
from faults import Fault, FaultyFiles, Killed, flip
from mending import repair
from samples import config as samples_config
from samples import make_log, many, segments

import evtool
from evtool.schemas import document

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three archived segments, a sealed hot one, and an active one; and a backup of it."""
    folder = tmp_path_factory.mktemp("archived") / "segments"
    make(folder, cold=3)
    archived(folder)
    assert len(stubs(folder)) == 3
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of both, in which archive.json says where the copy of the archive is."""
    folder = tmp_path / "segments"
    shutil.copytree(whole, folder)
    shutil.copytree(store_folder(whole), store_folder(folder))
    text = (folder / "archive.json").read_text()
    (folder / "archive.json").write_text(text.replace(store_folder(whole).as_uri(), store_folder(folder).as_uri()))
    return taken_over(folder)


def spoiled(path: Path) -> None:
    """More than a bit of a file has changed."""
    for byte in range(10):
        flip(path, byte)


def lengthened(path: Path) -> None:
    """Bytes that nobody wrote stand behind those of a file."""
    path.write_bytes(path.read_bytes() + b"more")


def without_summaries(folder: Path) -> None:
    for path in folder.glob("segment.*"):
        path.unlink()


DAMAGES: dict[str, Damage] = {
    "map": lambda folder: spoiled(segments(folder)[1] / "events-1.map"),
    "longer map": lambda folder: lengthened(segments(folder)[1] / "events-1.map"),
    "map missing": lambda folder: (segments(folder)[1] / "events-1.map").unlink(),
    "summaries": lambda folder: without_summaries(segments(folder)[1]),
    "last summaries": lambda folder: without_summaries(segments(folder)[2]),
    "segment": lambda folder: shutil.rmtree(segments(folder)[1]),
    "first segment": lambda folder: shutil.rmtree(segments(folder)[0]),
    "last segment": lambda folder: shutil.rmtree(segments(folder)[2]),
    "all": lambda folder: [shutil.rmtree(path) for path in segments(folder)[:3]],
    "all and a map": lambda folder: (
        shutil.rmtree(segments(folder)[0]),
        spoiled(segments(folder)[1] / "events-1.map"),
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_stub_comes_back_from_the_archive_and_nothing_is_lost(whole: Path, copy: Path, kind: str):
    DAMAGES[kind](copy)
    done = repair(copy)
    assert done.plan.stubs
    assert (done.lost, done.plan.segments, done.plan.left) == (set(), (), ())
    check_sound(copy, replay(whole))
    assert objects(copy) == objects(whole)
    archived(copy)  # what the next night does
    check_archive(copy)
    for path in segments(whole)[:3]:
        for file in path.iterdir():
            assert (copy / path.name / file.name).read_bytes() == file.read_bytes()


def away(folder: Path) -> Callable[[], Path]:
    """Take the archive away, as where its disk is not mounted; what brings it back."""
    kept = store_folder(folder).rename(folder.with_name("unmounted"))
    return lambda: kept.rename(store_folder(folder))


@pytest.mark.parametrize("kind", ["map", "map missing", "summaries", "segment", "all and a map"])
def test_with_the_archive_away_nothing_of_a_stub_is_changed(copy: Path, kind: str):
    DAMAGES[kind](copy)
    flip(segments(copy)[-2] / "frames.log", 2_000)  # of a segment that is not archived
    before = {path: path.read_bytes() for each in segments(copy)[:-2] for path in each.iterdir()}
    back = away(copy)
    done = repair(copy)
    assert done.plan.left
    assert "the archive" in done.plan.left[0].hint
    assert done.lost <= set(range(301, 401))
    assert [step.damaged.first_position for step in done.plan.segments] == [301]
    assert {path: path.read_bytes() for path in before} == before
    back()
    again = repair(copy)
    assert (again.lost, again.plan.left) == (set(), ())
    check_archive(copy)


def test_with_an_object_damaged_a_stub_is_left_and_comes_back_from_a_backup(whole: Path, copy: Path):
    backed_up(copy)
    shutil.rmtree(segments(copy)[1])
    (map_object,) = [name for name in objects(copy) if name.endswith(".map") and "101-" in name]
    spoiled(store_folder(copy) / map_object)
    done = repair(copy)
    assert (done.lost, len(done.plan.left), done.plan.is_empty) == (set(), 1, True)
    assert map_object in done.plan.left[0].message
    assert (done.plan.stubs, done.plan.segments) == ((), ())
    filled = repair(copy, place(copy))
    assert (filled.lost, filled.plan.left) == (set(), ())
    check_sound(copy, replay(whole))
    archived(copy)
    check_archive(copy)


def test_a_lost_archive_json_is_made_again_where_the_configuration_names_the_archive(whole: Path, copy: Path):
    (copy / "archive.json").unlink()
    spoiled(segments(copy)[0] / "events-1.map")
    done = repair(copy, archive=store_folder(copy).as_uri())
    assert done.plan.place is not None
    assert (done.lost, done.plan.left) == (set(), ())
    check_sound(copy, replay(whole))
    archived(copy)
    check_archive(copy)


def test_a_lost_log_json_comes_back_from_the_archive(whole: Path, copy: Path):
    (copy / "log.json").unlink()
    assert repair(copy).lost == set()
    assert (copy / "log.json").read_bytes() == (whole / "log.json").read_bytes()


def test_with_the_archive_away_other_damage_is_mended_of_pieces_of_one_partition_too(tmp_path: Path):
    folder = tmp_path / "segments"
    make_log(folder, [many(5_000, streams=99)], samples_config(segment_bytes=1, partitions=2))
    compacted(folder, 0)
    archived(folder)
    with evtool.open(folder) as log:
        log.schemas.add("Other", document.parse("{}"), compatibility="none")
    flip(folder / "schemas" / "schemas.ndjson", 40)
    away(folder)
    assert repair(folder).plan.schemas is not None


def test_a_damaged_events_file_beside_an_archived_one_goes(whole: Path, copy: Path):
    path = segments(copy)[1] / "events-1.parquet"
    (stored,) = [name for name in objects(copy) if name.endswith(".parquet") and "101-" in name]
    shutil.copy(store_folder(copy) / stored, path)
    flip(path, 1_000)
    done = repair(copy)
    assert (done.lost, len(done.plan.stubs)) == (set(), 1)
    check_sound(copy, replay(whole))
    assert len(stubs(copy)) == 3


def test_a_bit_of_a_map_is_turned_back_with_the_archive_away(whole: Path, copy: Path):
    flip(segments(copy)[0] / "events-1.map", 40)
    back = away(copy)
    assert repair(copy).lost == set()
    back()
    check_sound(copy, replay(whole))


def test_what_was_brought_back_since_is_not_taken_from_the_archive(whole: Path, copy: Path):
    brought_back(copy, 201)
    spoiled(segments(copy)[2] / "events-1.map")
    done = repair(copy)
    assert (done.plan.stubs, done.lost) == ((), set(range(201, 301)))


def test_a_return_of_a_stub_that_is_killed_is_taken_up(whole: Path, copy: Path, tmp_path: Path):
    DAMAGES["all and a map"](copy)
    kept = tmp_path / "kept"
    shutil.copytree(copy, kept)
    counting = FaultyFiles()
    repair(copy, files=counting)
    calls = len(counting.calls)
    for number in range(5):
        shutil.rmtree(copy)
        shutil.copytree(kept, copy)
        taken_over(copy)
        with pytest.raises(Killed):
            repair(copy, files=FaultyFiles(Fault(1 + number * (calls - 1) // 4, done=number % 3 / 2)))
        assert repair(copy).lost == set()
        check_sound(copy, replay(whole))


@pytest.mark.parametrize("kind", ["missing", "missing, and its stub", "flipped"])
def test_an_object_with_events_that_is_damaged_is_told_and_replaced_from_a_backup(
    whole: Path, copy: Path, kind: str
):
    backed_up(copy)
    (name,) = [name for name in objects(copy) if name.endswith(".parquet") and "101-" in name]
    if kind == "flipped":
        flip(store_folder(copy) / name, 1_000)
    else:
        (store_folder(copy) / name).unlink()
    if kind == "missing, and its stub":
        shutil.rmtree(segments(copy)[1])
    told = repair(copy, reads_archive=True)
    assert (told.lost, told.plan.segments, len(told.plan.left)) == (set(), (), 1)
    assert name in told.plan.left[0].file
    done = repair(copy, place(copy), reads_archive=True)
    assert (done.lost, done.plan.left, [step.way for step in done.plan.segments]) == (set(), (), ["restore"])
    archived(copy)
    check_archive(copy)
    shutil.rmtree(copy / "cache", ignore_errors=True)
    check_sound(copy, replay(whole))
