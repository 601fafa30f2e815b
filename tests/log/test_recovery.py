"""Opening a log after a crash: what was acknowledged is there, what was not is cut and counted.

Each case is named after what it finds on the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import boot_again
from samples import check_sound, config, event, frames_log, ids, make_log, make_segments, rows, segments

import evtool
from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.lifecycle.verify import verify
from evtool.log.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from evtool.log.head import HeadFile

ACKNOWLEDGED = [
    [event(1), event(2, "user-2")],
    [event(3)],
    [event(4, metadata='{"a":1}'), event(5), event(6, "new")],
]
TORN = [event(7), event(8, "user-2"), event(9, "newest")]
IDS = [f"event-{number}" for number in range(1, 7)]

Change = Callable[[Path], Any]


@dataclass
class Crash:
    """A log as it was before its last batch, the bytes of that batch, and where in them its frames start."""

    folder: Path
    batch: bytes
    commit_at: int
    acknowledged_bytes: int

    def leave(self, tail: bytes) -> None:
        """Let `tail` be all that the disk got of the batch."""
        with frames_log(self.folder).open("ab") as file:
            file.write(tail)


def no_head(folder: Path) -> None:
    (folder / "HEAD").unlink()


def same_boot(folder: Path) -> None:
    assert (folder / "HEAD").exists()


@pytest.fixture(params=[same_boot, boot_again, no_head], ids=lambda change: change.__name__)
def crash(request: pytest.FixtureRequest, tmp_path: Path) -> Crash:
    """A crash of the process, of the machine, or of a machine that lost HEAD too."""
    folder, other = tmp_path / "segments", tmp_path / "went-on"
    make_log(folder, ACKNOWLEDGED)
    acknowledged_bytes = frames_log(folder).stat().st_size
    shutil.copytree(folder, other)
    with evtool.open(other) as log:
        log.append(TORN, resume={"file": "events.ndjson", "line": 12345})
    batch = frames_log(other).read_bytes()[acknowledged_bytes:]
    commit_at = batch.rindex(b"EVF1")
    request.param(folder)
    return Crash(folder, batch, commit_at, acknowledged_bytes)


def check_cut(crash: Crash, cut_bytes: int) -> None:
    """Readers see what was acknowledged, the writer cuts the rest, and the log goes on."""
    assert ids(evtool.open(crash.folder, read_only=True)) == IDS
    with evtool.open(crash.folder) as log:
        assert log.writer().cut_bytes == cut_bytes
        assert frames_log(crash.folder).stat().st_size == crash.acknowledged_bytes
        commit = log.append([event(10, "user-2"), event(11, "newest")])
        assert (commit.batch, commit.first_position) == (4, 7)
        assert [row["stream_version"] for row in rows(log, start=7)] == [2, 1]
        assert ids(log) == [*IDS, "event-10", "event-11"]
    assert check_sound(crash.folder).batches == 4


def test_nothing_of_a_batch(crash: Crash):
    check_cut(crash, 0)


@pytest.mark.parametrize("size", [1, 4, 8, FRAME_HEADER_BYTES // 2, FRAME_HEADER_BYTES - 1])
def test_torn_frame_header(crash: Crash, size: int):
    crash.leave(crash.batch[:size])
    check_cut(crash, size)


def test_frame_header_without_body(crash: Crash):
    crash.leave(crash.batch[:FRAME_HEADER_BYTES])
    check_cut(crash, FRAME_HEADER_BYTES)


@pytest.mark.parametrize("missing", [1, 8, 500])
def test_torn_body(crash: Crash, missing: int):
    crash.leave(crash.batch[: crash.commit_at - missing])
    check_cut(crash, crash.commit_at - missing)


def test_missing_commit_frame(crash: Crash):
    crash.leave(crash.batch[: crash.commit_at])
    check_cut(crash, crash.commit_at)


@pytest.mark.parametrize("size", [1, FRAME_HEADER_BYTES - 1, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 9])
def test_torn_commit_frame(crash: Crash, size: int):
    crash.leave(crash.batch[: crash.commit_at + size])
    check_cut(crash, crash.commit_at + size)


def test_commit_frame_without_its_last_byte(crash: Crash):
    crash.leave(crash.batch[:-1])
    check_cut(crash, len(crash.batch) - 1)


def test_file_made_longer_but_the_batch_never_written(crash: Crash):
    crash.leave(bytes(len(crash.batch)))
    check_cut(crash, len(crash.batch))


@pytest.mark.parametrize("block_bytes", [64, 512])
def test_batch_of_which_only_later_blocks_reached_the_disk(crash: Crash, block_bytes: int):
    crash.leave(bytes(block_bytes) + crash.batch[block_bytes:])
    check_cut(crash, len(crash.batch))


def test_batch_with_a_hole_in_its_body(crash: Crash):
    middle = crash.commit_at // 2
    crash.leave(crash.batch[:middle] + bytes(64) + crash.batch[middle + 64 :])
    check_cut(crash, len(crash.batch))


def test_batch_with_a_hole_in_its_commit_frame(crash: Crash):
    crash.leave(crash.batch[: crash.commit_at] + bytes(len(crash.batch) - crash.commit_at))
    check_cut(crash, len(crash.batch))


def test_garbage_behind_the_last_commit(crash: Crash):
    garbage = bytes(i * 151 % 256 for i in range(1000))
    crash.leave(garbage)
    check_cut(crash, len(garbage))


def test_older_batch_again_behind_the_last_commit(crash: Crash):
    first = frames_log(crash.folder).read_bytes()[SEGMENT_HEADER_BYTES : SEGMENT_HEADER_BYTES + 2000]
    crash.leave(first)
    check_cut(crash, len(first))


def test_frame_header_with_a_monstrous_length(crash: Crash):
    header = bytearray(crash.batch[:FRAME_HEADER_BYTES])
    header[16:24] = b"\xff" * 8
    crash.leave(bytes(header))
    check_cut(crash, FRAME_HEADER_BYTES)


def test_whole_batch_that_was_not_acknowledged_counts_from_now_on(crash: Crash):
    crash.leave(crash.batch)
    with evtool.open(crash.folder) as log:
        assert log.writer().cut_bytes == 0
        assert log.position == 9
        log.append([event(10), event(11, "newest")])
        assert ids(log) == [*IDS, "event-7", "event-8", "event-9", "event-10", "event-11"]
        assert [row["stream_version"] for row in rows(log, streams=["newest"])] == [1, 2]
    assert check_sound(crash.folder).batches == 5


def test_whole_batch_and_a_torn_one(crash: Crash):
    crash.leave(crash.batch + crash.batch[:500])
    with evtool.open(crash.folder) as log:
        assert log.writer().cut_bytes == 500
        assert log.position == 9
    check_sound(crash.folder)


def test_crash_again_and_again(crash: Crash):
    for number in range(3):
        crash.leave(crash.batch[: 100 * (number + 1)])
        with evtool.open(crash.folder) as log:
            assert log.writer().cut_bytes == 100 * (number + 1)
        assert ids(evtool.open(crash.folder)) == IDS
    check_cut(crash, 0)


def test_reading_cuts_nothing(crash: Crash):
    crash.leave(crash.batch[:700])
    before = frames_log(crash.folder).read_bytes()
    check_sound(crash.folder)
    assert frames_log(crash.folder).read_bytes() == before


# A segment was sealed, and the next one is as a crash may leave it.


@pytest.fixture
def sealed(folder: Path) -> Path:
    """Two sealed segments, and an active one that holds nothing yet."""
    make_segments(folder, ACKNOWLEDGED[:1], ACKNOWLEDGED[1:2], [])
    assert frames_log(folder).stat().st_size == SEGMENT_HEADER_BYTES
    return folder


def without_folder(folder: Path) -> None:
    shutil.rmtree(segments(folder)[-1])


def without_files(folder: Path) -> None:
    without_folder(folder)
    (folder / "00000000000000000004").mkdir()


def with_empty_frames_log(folder: Path) -> None:
    without_files(folder)
    frames_log(folder).touch()


def with_half_a_header(folder: Path) -> None:
    frames_log(folder).write_bytes(frames_log(folder).read_bytes()[:30])


def with_a_temporary_file(folder: Path) -> None:
    without_files(folder)
    frames_log(folder).with_name("frames.log.tmp").write_bytes(b"half")


def without_index(folder: Path) -> None:
    frames_log(folder).with_name("frames.idx").unlink()


def without_summary_but_half_of_one(folder: Path) -> None:
    without_folder(folder)
    summary = segments(folder)[-1] / "segment.msgpack"
    summary.rename(summary.with_name("segment.msgpack.tmp"))


@pytest.mark.parametrize("head", [boot_again, no_head], ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    "change",
    [
        without_folder,
        without_files,
        with_empty_frames_log,
        with_half_a_header,
        with_a_temporary_file,
        without_index,
        without_summary_but_half_of_one,
    ],
    ids=lambda change: change.__name__,
)
def test_segment_after_a_sealed_one(sealed: Path, change: Change, head: Change):
    # HEAD was stored in memory only when the next segment was begun: what the disk has is older.
    change(sealed)
    head(sealed)
    assert ids(evtool.open(sealed, read_only=True)) == IDS[:3]
    assert verify(evtool.open(sealed, read_only=True)).findings == []
    with evtool.open(sealed, config=config(segment_bytes=1)) as log:
        assert log.append([event(4)]).first_position == 4
        assert ids(log) == IDS[:4]
        assert [row["stream_version"] for row in rows(log, streams=["user-1"])] == [1, 2, 3]
    assert check_sound(sealed).batches == 3


@pytest.mark.parametrize(
    "change", [without_folder, without_files, with_empty_frames_log], ids=lambda c: c.__name__
)
def test_segment_after_a_sealed_one_when_the_process_was_killed(sealed: Path, change: Change):
    """HEAD still tells of the sealed segment: the next one was being made."""
    sealed_bytes = frames_log(sealed, -2).stat().st_size
    change(sealed)
    head = HeadFile(Files(), sealed)
    head.store(3, 3, sealed_bytes, 2, rows(evtool.open(sealed))[-1]["recorded_at"], is_synced=True)
    head.close()
    assert ids(evtool.open(sealed, read_only=True)) == IDS[:3]
    with evtool.open(sealed) as log:
        assert log.append([event(4)]).first_position == 4
    assert check_sound(sealed).batches == 3


# What HEAD vouches for is gone: that is damage, and never the beginning of a new log.


def remove_frames_log(folder: Path) -> None:
    frames_log(folder).unlink()


def empty_frames_log(folder: Path) -> None:
    frames_log(folder).write_bytes(b"")


def cut_into_the_header(folder: Path) -> None:
    frames_log(folder).write_bytes(frames_log(folder).read_bytes()[:40])


def cut_after_the_header(folder: Path) -> None:
    frames_log(folder).write_bytes(frames_log(folder).read_bytes()[:SEGMENT_HEADER_BYTES])


def cut_the_last_batch(folder: Path) -> None:
    data = frames_log(folder).read_bytes()
    frames_log(folder).write_bytes(data[: data.rindex(b"EVF1")])


def remove_the_active_folder(folder: Path) -> None:
    shutil.rmtree(segments(folder)[-1])


@pytest.fixture(params=[same_boot, boot_again], ids=lambda change: change.__name__)
def shorter(request: pytest.FixtureRequest, folder: Path) -> Callable[[Change, int], Path]:
    """Make a log whose last segment holds two acknowledged batches, then change it."""

    def make(change: Change, before: int) -> Path:
        make_segments(folder, *([batch] for batch in ACKNOWLEDGED[:before]), [[event(7)], [event(8)]])
        change(folder)
        request.param(folder)
        return folder

    return make


on_shorter = pytest.mark.parametrize(
    ("change", "before"),
    [
        (change, before)
        for before in (0, 3)
        for change in (
            remove_frames_log,
            empty_frames_log,
            cut_into_the_header,
            cut_after_the_header,
            cut_the_last_batch,
            remove_the_active_folder,
        )
    ],
    ids=lambda value: value.__name__ if callable(value) else ("after sealed ones" if value else "only segment"),
)


@on_shorter
def test_active_segment_shorter_than_head_says_is_refused_by_the_writer(
    shorter: Callable[[Change, int], Path], change: Change, before: int
):
    folder = shorter(change, before)
    left = {path: path.read_bytes() for path in folder.glob("*/frames.log")}
    with evtool.open(folder) as log, pytest.raises(LogDamagedError):
        log.append([event(9)])
    assert {path: path.read_bytes() for path in folder.glob("*/frames.log")} == left


@on_shorter
def test_active_segment_shorter_than_head_says_is_found_by_verify(
    shorter: Callable[[Change, int], Path], change: Change, before: int
):
    assert not verify(evtool.open(shorter(change, before), read_only=True)).is_clean


@pytest.mark.parametrize("shorter", [same_boot], ids=["same_boot"], indirect=True)
@on_shorter
def test_active_segment_shorter_than_head_says_is_found_by_readers(
    shorter: Callable[[Change, int], Path], change: Change, before: int
):
    with pytest.raises(LogDamagedError):
        ids(evtool.open(shorter(change, before), read_only=True))
