"""Damage to what was acknowledged: found, never returned as data, never cut away."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import boot_again, flip
from samples import Row, config, event, frames_log, ids, make_log, make_segments, rows, segments

import evtool
from evtool.errors import LogDamagedError, LogError, LogExistsError, LogFormatError, LogNotFoundError
from evtool.lifecycle.verify import verify
from evtool.log.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES

BATCHES = [[event(3 * i + j, f"user-{j}") for j in range(3)] for i in range(6)]
Change = Callable[[Path], Any]


@pytest.fixture
def log_folder(folder: Path) -> Path:
    """Two sealed segments of two batches each, and an active one with two."""
    make_segments(folder, BATCHES[:2], BATCHES[2:4], BATCHES[4:])
    assert [path.name[-2:] for path in segments(folder)] == ["01", "07", "13"]
    return folder


def read_whatever_can_be(folder: Path) -> list[Row]:
    """All events that readers give before they find damage."""
    found: list[Row] = []
    try:
        for events in evtool.open(folder, read_only=True).scan():
            found += events.to_dicts()
    except LogDamagedError:
        return found
    return found


def same_boot(folder: Path) -> None:
    assert (folder / "HEAD").exists()


def no_head(folder: Path) -> None:
    (folder / "HEAD").unlink()


# Where in the first batch of a segment a bit is turned over.
PLACES = {
    "magic": SEGMENT_HEADER_BYTES,
    "version": SEGMENT_HEADER_BYTES + 4,
    "length": SEGMENT_HEADER_BYTES + 17,
    "position": SEGMENT_HEADER_BYTES + 24,
    "chain": SEGMENT_HEADER_BYTES + 92,
    "checksum": SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES - 1,
    "body": SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 400,
}
on_places = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


@on_places
@pytest.mark.parametrize("head", [boot_again, no_head], ids=lambda change: change.__name__)
def test_flipped_bit_in_an_acknowledged_batch_of_the_active_segment_is_refused(
    log_folder: Path, head: Change, place: int
):
    flip(frames_log(log_folder), place)
    head(log_folder)
    before = frames_log(log_folder).read_bytes()
    with evtool.open(log_folder) as log:
        for _ in range(2):
            with pytest.raises(LogDamagedError, match=r"frames\.log: at byte 64") as caught:
                log.append([event(100)])
            assert "backup" in caught.value.hint
    assert frames_log(log_folder).read_bytes() == before


@on_places
def test_flipped_bit_behind_the_back_of_head_is_not_cut(log_folder: Path, place: int):
    """A writer that trusts HEAD need not look at the batch, and must leave it where it is."""
    flip(frames_log(log_folder), place)
    before = frames_log(log_folder).read_bytes()
    with contextlib.suppress(LogDamagedError), evtool.open(log_folder) as log:
        log.append([event(100)])
    assert frames_log(log_folder).read_bytes().startswith(before)
    assert not verify(evtool.open(log_folder)).is_clean


@on_places
@pytest.mark.parametrize("segment", [0, 1, -1], ids=["first", "sealed", "active"])
def test_flipped_bit_is_found_by_readers_and_never_data(log_folder: Path, segment: int, place: int):
    before = rows(evtool.open(log_folder))
    flip(frames_log(log_folder, segment), place)
    path = str(frames_log(log_folder, segment))
    with pytest.raises(LogDamagedError, match=path):
        rows(evtool.open(log_folder, read_only=True))
    with pytest.raises(LogDamagedError, match=path):
        list(evtool.open(log_folder, read_only=True).replay())
    found = read_whatever_can_be(log_folder)
    assert found == before[: len(found)]


@on_places
@pytest.mark.parametrize("segment", [0, 1, -1], ids=["first", "sealed", "active"])
def test_flipped_bit_is_found_by_verify(log_folder: Path, segment: int, place: int):
    flip(frames_log(log_folder, segment), place)
    report = verify(evtool.open(log_folder, read_only=True))
    assert report.digest is None
    assert str(frames_log(log_folder, segment)) in {finding.file for finding in report.findings}


@pytest.mark.parametrize("head", [same_boot, boot_again, no_head], ids=lambda change: change.__name__)
@pytest.mark.parametrize("byte", [0, 8, 20, 33, 45, 63])
def test_flipped_bit_in_the_header_of_the_active_segment(log_folder: Path, byte: int, head: Change):
    """With acknowledged batches behind it, such a header is no sign of a segment that was never begun."""
    flip(frames_log(log_folder), byte, 3)
    head(log_folder)
    before = frames_log(log_folder).read_bytes()
    with evtool.open(log_folder) as log, pytest.raises(LogDamagedError):
        log.append([event(100)])
    assert frames_log(log_folder).read_bytes() == before
    with pytest.raises(LogDamagedError):
        ids(evtool.open(log_folder, read_only=True))
    assert not verify(evtool.open(log_folder, read_only=True)).is_clean


@on_places
def test_flipped_bit_is_not_cut_by_a_writer_that_does_not_sync(log_folder: Path, place: int):
    """How the log is written from now on says nothing of how it was: what is in it was synced."""
    flip(frames_log(log_folder), place)
    boot_again(log_folder)
    before = frames_log(log_folder).read_bytes()
    with evtool.open(log_folder, config=config(fsync="never")) as log, pytest.raises(LogDamagedError):
        log.append([event(100)])
    assert frames_log(log_folder).read_bytes() == before


@pytest.mark.parametrize("head", [same_boot, boot_again], ids=lambda change: change.__name__)
def test_flipped_bit_in_the_last_acknowledged_batch(log_folder: Path, head: Change):
    """No later batch shows that this one was acknowledged, but HEAD does."""
    flip(frames_log(log_folder), -300)
    head(log_folder)
    before = frames_log(log_folder).read_bytes()
    if head is boot_again:
        with evtool.open(log_folder) as log, pytest.raises(LogDamagedError):
            log.append([event(100)])
        assert frames_log(log_folder).read_bytes() == before
    else:
        with pytest.raises(LogDamagedError):
            ids(evtool.open(log_folder))
    assert not verify(evtool.open(log_folder)).is_clean


def test_a_bit_flipped_while_a_reader_holds_the_log_open(log_folder: Path):
    reader = evtool.open(log_folder, read_only=True)
    assert len(ids(reader)) == 18
    flip(frames_log(log_folder, 0), PLACES["body"])
    with pytest.raises(LogDamagedError):
        ids(reader)
    flip(frames_log(log_folder, 0), PLACES["body"])
    assert len(ids(reader)) == 18


def test_undamaged_segments_can_be_read_beside_a_damaged_one(log_folder: Path):
    flip(frames_log(log_folder, 0), PLACES["body"])
    log = evtool.open(log_folder, read_only=True)
    assert ids(log, start=7) == [f"event-{number}" for number in range(6, 18)]


def test_sealed_segment_cut_short(log_folder: Path):
    path = frames_log(log_folder, 0)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LogDamagedError, match=str(path)):
        ids(evtool.open(log_folder, read_only=True))
    assert not verify(evtool.open(log_folder, read_only=True)).is_clean


def test_sealed_frames_log_missing(log_folder: Path):
    frames_log(log_folder, 1).unlink()
    with pytest.raises(LogDamagedError, match=str(frames_log(log_folder, 1))):
        ids(evtool.open(log_folder, read_only=True))
    assert not verify(evtool.open(log_folder, read_only=True)).is_clean


def disk(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a log's folder but the locks, which name their holders."""
    paths = (path for path in folder.rglob("*") if path.suffix != ".lock")
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("number", [0, 1], ids=["first", "middle"])
@pytest.mark.parametrize("is_summed_up", [True, False], ids=["", "others lost their summaries"])
def test_missing_segment(log_folder: Path, number: int, is_summed_up: bool):
    missing = segments(log_folder)[number]
    shutil.rmtree(missing)
    if not is_summed_up:
        for path in log_folder.glob("*/segment.msgpack"):
            path.unlink()
    with pytest.raises(LogDamagedError, match="missing"):
        ids(evtool.open(log_folder, read_only=True))
    before = disk(log_folder)
    with evtool.open(log_folder) as log, pytest.raises(LogDamagedError, match=r"ends? at (position )?\d"):
        log.append([event(100)])
    assert disk(log_folder) == before
    report = verify(evtool.open(log_folder, read_only=True))
    assert report.digest is None
    assert any("missing" in finding.message + finding.hint for finding in report.findings)


@pytest.mark.parametrize("head", [same_boot, boot_again], ids=lambda change: change.__name__)
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_missing_last_segments(log_folder: Path, lost: int, head: Change):
    for path in segments(log_folder)[-lost:]:
        shutil.rmtree(path)
    head(log_folder)
    before = disk(log_folder)
    for _ in range(2):
        with evtool.open(log_folder) as log, pytest.raises(LogDamagedError, match="position 18 was acknowledged"):
            log.append([event(100)])
        with pytest.raises(LogDamagedError, match="position 18 was acknowledged"):
            ids(evtool.open(log_folder, read_only=True))
    assert disk(log_folder) == before
    assert not verify(evtool.open(log_folder, read_only=True)).is_clean


def test_sealed_segment_that_is_shorter_than_its_summary_and_lost_its_index(log_folder: Path):
    path = frames_log(log_folder, 1)
    data = path.read_bytes()
    path.write_bytes(data[: [at for at in range(len(data)) if data[at : at + 4] == b"EVF1"][-2]])
    (path.parent / "frames.idx").unlink()
    before = disk(log_folder)
    with evtool.open(log_folder) as log, pytest.raises(LogDamagedError, match="ends at position 9"):
        log.append([event(100)])
    assert disk(log_folder) == before


def test_segment_of_another_log(log_folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    make_segments(other, BATCHES[:2], BATCHES[2:4], BATCHES[4:])
    for number in (0, 1):
        shutil.rmtree(segments(log_folder)[number])
        shutil.copytree(segments(other)[number], log_folder / segments(other)[number].name)
    with pytest.raises(LogDamagedError, match="another log"):
        ids(evtool.open(log_folder, read_only=True))
    findings = verify(evtool.open(log_folder, read_only=True)).findings
    for number in (0, 1):
        path = str(frames_log(log_folder, number))
        assert [f.message for f in findings if f.file == path] == ["it belongs to another log"]


def test_active_segment_of_another_log(log_folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    make_segments(other, BATCHES[:2], BATCHES[2:4], BATCHES[4:])
    data = frames_log(other).read_bytes()
    frames_log(log_folder).write_bytes(data)
    with evtool.open(log_folder) as log, pytest.raises(LogDamagedError, match="another log"):
        log.append([event(100)])
    with pytest.raises(LogDamagedError, match="another log"):
        ids(evtool.open(log_folder, read_only=True))
    assert frames_log(log_folder).read_bytes() == data


def test_segments_in_each_other_s_place(log_folder: Path):
    first, second, _ = segments(log_folder)
    first.rename(log_folder / "away")
    second.rename(first)
    (log_folder / "away").rename(second)
    with pytest.raises(LogDamagedError, match="not where its folder says"):
        ids(evtool.open(log_folder, read_only=True))
    assert len(verify(evtool.open(log_folder, read_only=True)).findings) >= 2


def test_batch_taken_out_of_a_segment(log_folder: Path):
    """Every frame that is left is whole; the chain and the positions are not."""
    path = frames_log(log_folder, 0)
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"EVF1"]
    path.write_bytes(data[: starts[0]] + data[starts[2] :])
    (path.parent / "segment.msgpack").unlink()
    (path.parent / "frames.idx").unlink()
    with pytest.raises(LogDamagedError):
        ids(evtool.open(log_folder, read_only=True))
    assert not verify(evtool.open(log_folder, read_only=True)).is_clean


# A sealed segment that lost its summary is sealed anew, but only as what it was.


@pytest.mark.parametrize("active", [0, 2], ids=["empty active segment", "filled active segment"])
@pytest.mark.parametrize(
    "damage", ["missing", "empty", "header", "first batch", "last batch", "cut", "no commit", "a batch less"]
)
def test_sealed_segment_that_is_damaged_and_lost_its_summary(folder: Path, damage: str, active: int):
    make_segments(folder, BATCHES[:2], BATCHES[2:4], BATCHES[4 : 4 + active])
    path = frames_log(folder, 1)
    (path.parent / "segment.msgpack").unlink()
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "cut", "no commit", "a batch less"):
        starts = [at for at in range(len(data)) if data[at : at + 4] == b"EVF1"]
        sizes = {"empty": 0, "cut": 1_000, "no commit": starts[-1], "a batch less": starts[-2]}
        path.write_bytes(data[: sizes[damage]])
    else:
        flip(path, {"header": 20, "first batch": PLACES["length"], "last batch": -3}[damage])
    left = path.read_bytes() if path.exists() else None
    with evtool.open(folder) as log, pytest.raises(LogDamagedError):
        log.append([event(100)])
    assert (path.read_bytes() if path.exists() else None) == left
    assert not (path.parent / "segment.msgpack").exists()
    with pytest.raises(LogDamagedError):
        ids(evtool.open(folder, read_only=True))
    assert not verify(evtool.open(folder, read_only=True)).is_clean


# log.json


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "log.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_log_of_a_newer_format_version(log_folder: Path):
    change_manifest(log_folder, version=2)
    for options in ({}, {"read_only": True}, {"create": True}):
        with pytest.raises(LogFormatError, match="format version 2") as caught:
            evtool.open(log_folder, **options)
        assert "newer evtool" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "something else"},
        {"id": "0123"},
        {"id": "z" * 32},
        {"id": None},
        {"version": "1"},
        {"partitions": 0},
        {"partitions": 1025},
        {"partitions": "8"},
        {"partitions": None},
    ],
    ids=str,
)
def test_log_json_that_makes_no_sense(log_folder: Path, changes: dict[str, Any]):
    change_manifest(log_folder, **changes)
    with pytest.raises(LogDamagedError, match=r"log\.json"):
        evtool.open(log_folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"{}", bytes(100)])
def test_log_json_that_is_garbage(log_folder: Path, data: bytes):
    (log_folder / "log.json").write_bytes(data)
    with pytest.raises(LogDamagedError, match=r"log\.json"):
        evtool.open(log_folder)


@pytest.mark.parametrize("byte", range(0, 200, 3))
def test_flipped_bit_in_log_json_gives_the_same_events_or_an_error(log_folder: Path, byte: int):
    before = rows(evtool.open(log_folder))
    path = log_folder / "log.json"
    flip(path, byte % path.stat().st_size, byte % 7)
    with contextlib.suppress(LogError):
        assert rows(evtool.open(log_folder, read_only=True)) == before


def test_segments_without_log_json(log_folder: Path):
    (log_folder / "log.json").unlink()
    with pytest.raises(LogDamagedError, match=r"no log\.json"):
        evtool.open(log_folder, create=True)
    with pytest.raises(LogNotFoundError):
        evtool.open(log_folder)
    assert not (log_folder / "log.json").exists()


# Folders that are no log.


def test_no_log_here(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, tmp_path / "nothing", file, file / "below"):
        with pytest.raises(LogNotFoundError):
            evtool.open(path)


def test_folder_that_holds_something_else(tmp_path: Path):
    (tmp_path / "accounts.xls").touch()
    with pytest.raises(LogExistsError, match=r"accounts\.xls"):
        evtool.open(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["accounts.xls"]


def test_file_where_a_log_should_be_made(tmp_path: Path):
    (tmp_path / "segments").touch()
    with pytest.raises(LogExistsError):
        evtool.open(tmp_path / "segments", create=True)
    with pytest.raises(LogExistsError):
        evtool.open(tmp_path / "segments" / "below", create=True)


@pytest.mark.parametrize("name", ["README.md", ".gitignore", "log.json.tmp"])
def test_notes_do_not_keep_a_log_from_being_made(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with evtool.open(tmp_path, create=True) as log:
        assert log.append([event(1)]).last_position == 1


def test_strange_names_beside_segments_are_left_alone(log_folder: Path):
    (log_folder / "notes").mkdir()
    (log_folder / "123").mkdir()
    (log_folder / "00000000000000000099").touch()  # a file, not a folder
    assert len(ids(evtool.open(log_folder))) == 18
    make_log(log_folder, [[event(100)]])
    assert verify(evtool.open(log_folder)).is_clean
