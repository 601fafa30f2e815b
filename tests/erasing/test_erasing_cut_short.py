"""An erasure that is cut short: wherever that is, the next one who opens the log to write brings it to its end."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from erasures import (
    MARKER,
    SMALL_COUNT,
    STREAM,
    check_erased,
    cut_short,
    erased,
    found,
    make_small,
    planned,
    resumed,
    settings,
)
from faults import Fault, FaultyFiles, Killed
from samples import event

import evtool
from evtool.errors import LogDamagedError, LogLockedError, StorageError
from evtool.lifecycle.erasing import doing, pending
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.rewriting import rewriting_lock
from evtool.lifecycle.verify import verify

BY_STREAM = Wanted((STREAM,))
STEP = 4  # calls come by threes: a file is written, synced and named


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(tmp_path_factory.mktemp("cut") / "segments")


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A log whose erasure was cut short."""
    cut = copied(small, tmp_path)
    cut_short(cut, copied(small, tmp_path, 1))
    return cut


def copied(folder: Path, tmp_path: Path, number: int = 0) -> Path:
    return Path(shutil.copytree(folder, tmp_path / str(number) / "segments", symlinks=True))


def test_killed_at_each_operation_it_is_done_by_who_comes_next(small: Path, tmp_path: Path):
    counted = FaultyFiles()
    erased(copied(small, tmp_path), BY_STREAM, counted)
    first = next(number for number, call in enumerate(counted.calls) if call[1] == "erasing.msgpack") + 1
    kinds = ("write", "fdatasync", "replace", "link")
    calls = [call for call in counted.calls if call[0] in kinds]
    outcomes = set()
    for number in range(1, len(calls) + 1, STEP):
        folder = copied(small, tmp_path, number)
        with pytest.raises(Killed):
            erased(folder, BY_STREAM, FaultyFiles(Fault(number, done=number // STEP % 2)))
        begun = pending.is_there(folder)
        outcomes.add(begun)
        assert begun or number <= first + 2 or found(folder) == []
        with evtool.open(folder, read_only=True) as log:  # whoever reads goes on
            assert sum(map(len, log.scan())) == SMALL_COUNT
        assert (resumed(folder) is not None) == begun
        if not begun:
            erased(folder, BY_STREAM)
        assert (found(folder), pending.is_there(folder)) == ([], False)
        if number % 5 == 0:
            check_erased(folder)
        shutil.rmtree(folder.parent)
    assert outcomes == {True, False}


def test_what_is_written_down_meanwhile_tells_nothing_of_it(folder: Path):
    path = folder / "erasing.msgpack"
    with evtool.open(folder) as log:
        begun = pending.read(log.files, folder, log.manifest)
    assert begun is not None
    assert begun.positions.tolist() == [number + 1 for number in range(0, SMALL_COUNT, 4)]
    assert begun.details["reason"] == "asked for"
    assert MARKER.encode() not in path.read_bytes()
    assert MARKER not in repr(begun)


def test_verify_tells_of_it(folder: Path):
    report = verify(evtool.open(folder, read_only=True))
    assert report.findings == []
    assert [found.message for found in report.notes] == ["an erasure has begun and is not done"]


def test_a_writer_of_the_library_warns_and_goes_on(folder: Path):
    with evtool.open(folder) as log, pytest.warns(UserWarning, match="an erasure was cut short"):
        log.append([event(SMALL_COUNT, STREAM)])
    assert resumed(folder) is not None
    with evtool.open(folder) as log, warnings.catch_warnings():
        warnings.simplefilter("error")
        # It came after the plan, and is not erased.
        assert log.append([event(SMALL_COUNT, STREAM)]).duplicates == 1
        assert len(log.stream(STREAM)) == 1


def test_it_is_recorded_once_it_is_done(folder: Path, small: Path, tmp_path: Path):
    records: list[tuple[object, object]] = []
    resumed(folder, record=lambda counts, details: records.append((counts, details)))
    ((counts, details),) = records
    assert counts == planned(copied(small, tmp_path, 2), BY_STREAM).counts
    assert details["by"] == "stream"  # type: ignore[index]
    assert MARKER not in repr(records)
    assert resumed(folder) is None


def test_a_damaged_segment_is_left_and_tried_again(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path)
    plan = planned(folder, BY_STREAM)
    path = sorted(folder.glob("0*"))[0] / "frames.log"
    whole = path.read_bytes()
    config = settings(folder)
    with evtool.open(folder, config=config) as log:
        path.write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
        report = doing.apply(log, config, plan)
        assert [failure.folder for failure in report.failures] == [str(path.parent)]
        assert pending.is_there(folder)
        with pytest.raises(LogLockedError, match="is not done yet"):
            doing.apply(log, config, plan)
    path.write_bytes(whole)
    again = resumed(folder)
    assert again is not None
    assert again.failures == []
    check_erased(folder)


def test_who_writes_to_the_active_segment_keeps_it_waiting(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path)
    with evtool.open(folder) as log:
        log.append([event(SMALL_COUNT, "user-1")])
        with pytest.raises(LogLockedError):
            erased(folder, BY_STREAM)
        assert not pending.is_there(folder)
        only_sealed = Wanted(where=f"stream_id = '{STREAM}' and position <= {SMALL_COUNT // 2}")
        assert erased(folder, only_sealed).counts["events"] == SMALL_COUNT // 8
        log.append([event(SMALL_COUNT + 1, "user-1")])
    erased(folder, BY_STREAM)
    assert found(folder) == []


def test_while_segments_are_compacted_nothing_is_begun(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path)
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        with pytest.raises(LogLockedError, match="is being compacted"):
            erased(folder, BY_STREAM)
        lock.release()
    assert not pending.is_there(folder)
    erased(folder, BY_STREAM)
    assert found(folder) == []


def test_a_damaged_file_of_what_is_to_be_done_is_told_of(folder: Path):
    path = folder / "erasing.msgpack"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(LogDamagedError, match="is not known any more"):
        resumed(folder)
    path.unlink()
    erased(folder, BY_STREAM)
    check_erased(folder)


def test_a_disk_that_fails_leaves_it_to_the_next(small: Path, tmp_path: Path):
    folder = copied(small, tmp_path)
    with pytest.raises(StorageError):
        erased(folder, BY_STREAM, FaultyFiles(Fault(12, error=28, kinds=("write",))))
    assert pending.is_there(folder)
    resumed(folder)
    check_erased(folder)
