"""Derived files: a log without them, with old ones or with garbage in them is the same log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import boot_again, flip
from samples import (
    MOMENT_NS,
    check_sound,
    config,
    event,
    frames_log,
    ids,
    make_log,
    make_segments,
    many,
    rows,
    segments,
)

import evtool
from evtool.errors import LogDamagedError
from evtool.log.format import HEAD_RECORD, INDEX_ROW, seal

SEGMENT_BYTES = 5_000  # of what is written behind a change
GARBAGE = bytes(i * 151 % 256 for i in range(10_000))

Change = Callable[[Path], Any]


SMALL = [[event(i, f"user-{i % 3}"), event(i + 100, "other", metadata='{"a":1}')] for i in range(10)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several sealed segments and an active one with two batches."""
    folder = tmp_path_factory.mktemp("caches") / "segments"
    make_segments(folder, SMALL[:3], [*SMALL[3:5], many(300, first=1_000)], SMALL[5:8], SMALL[8:])
    return folder


@pytest.fixture
def log_folder(original: Path, folder: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(original, folder)
    return folder


def remove(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            paths = list(folder.glob(name))
            assert paths
            for path in paths:
                path.unlink()

    return change


def put(name: str, data: bytes, segment: int | None = None) -> Change:
    def change(folder: Path) -> None:
        path = (folder if segment is None else segments(folder)[segment]) / name
        assert path.exists()
        path.write_bytes(data)

    return change


def cut(name: str, size: int, segment: int) -> Change:
    def change(folder: Path) -> None:
        path = segments(folder)[segment] / name
        path.write_bytes(path.read_bytes()[:size])

    return change


def lengthen(name: str, data: bytes, segment: int) -> Change:
    def change(folder: Path) -> None:
        with (segments(folder)[segment] / name).open("ab") as file:
            file.write(data)

    return change


def index_of_another_segment(folder: Path) -> None:
    shutil.copy(segments(folder)[1] / "frames.idx", segments(folder)[0] / "frames.idx")


def summary_that_is_a_head(folder: Path) -> None:
    """Its checksum has the same form, and matches."""
    shutil.copy(folder / "HEAD", segments(folder)[0] / "segment.msgpack")


def older_head(folder: Path) -> None:
    """HEAD as it was when the active segment was begun."""
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["position"], record["log_bytes"], record["frames"] = record["segment"] - 1, 64, 0
    (folder / "HEAD").write_bytes(seal(record))


def much_older_head(folder: Path) -> None:
    """HEAD as a power cut may leave it: of the first segment, which has been sealed since."""
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["position"], record["segment"], record["log_bytes"], record["frames"] = 0, 1, 64, 0
    (folder / "HEAD").write_bytes(seal(record))
    boot_again(folder)


def newer_head(folder: Path) -> None:
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["version"] = 2
    (folder / "HEAD").write_bytes(seal(record))


def everything_derived(folder: Path) -> None:
    remove("HEAD", "*/frames.idx", "index/streams.table", "*/segment.msgpack", "writer.lock")(folder)


def derived_folder(folder: Path) -> None:
    shutil.rmtree(folder / "index")


CHANGES = {
    "HEAD missing": remove("HEAD"),
    "HEAD empty": put("HEAD", b""),
    "HEAD all zeros": put("HEAD", bytes(64)),
    "HEAD garbage": put("HEAD", GARBAGE[:64]),
    "HEAD too long": put("HEAD", GARBAGE[:100]),
    "HEAD of another boot": boot_again,
    "HEAD of another segment and boot": much_older_head,
    "HEAD of a newer version": newer_head,
    "frames.idx missing": remove("*/frames.idx"),
    "frames.idx empty in a sealed segment": put("frames.idx", b"", 0),
    "frames.idx empty in the active segment": put("frames.idx", b"", -1),
    "frames.idx zeros in a sealed segment": put("frames.idx", bytes(5 * INDEX_ROW.itemsize), 0),
    "frames.idx zeros in the active segment": put("frames.idx", bytes(4 * INDEX_ROW.itemsize), -1),
    "frames.idx garbage in a sealed segment": put("frames.idx", GARBAGE, 0),
    "frames.idx garbage in the active segment": put("frames.idx", GARBAGE, -1),
    "frames.idx too short in a sealed segment": cut("frames.idx", 150, 0),
    "frames.idx too short in the active segment": cut("frames.idx", INDEX_ROW.itemsize, -1),
    "frames.idx too long in a sealed segment": lengthen("frames.idx", GARBAGE[:300], 0),
    "frames.idx too long in the active segment": lengthen("frames.idx", GARBAGE[:300], -1),
    "frames.idx of another segment": index_of_another_segment,
    "segment.msgpack missing": remove("*/segment.msgpack"),
    "segment.msgpack empty": put("segment.msgpack", b"", 0),
    "segment.msgpack garbage": put("segment.msgpack", GARBAGE[:200], 1),
    "segment.msgpack that is HEAD": summary_that_is_a_head,
    "segment.msgpack torn": cut("segment.msgpack", 100, -2),
    "streams.table missing": remove("index/streams.table"),
    "index folder missing": derived_folder,
    "streams.table empty": put("index/streams.table", b""),
    "streams.table garbage": put("index/streams.table", GARBAGE),
    "streams.table of a strange length": put("index/streams.table", GARBAGE[:4096] + bytes(23)),
    "writer.lock missing": remove("writer.lock"),
    "everything derived missing": everything_derived,
}
on_changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@on_changes
def test_readers_see_the_same_log(log_folder: Path, change: Change):
    before = rows(evtool.open(log_folder))
    change(log_folder)
    assert rows(evtool.open(log_folder, read_only=True)) == before
    check_sound(log_folder)


@on_changes
def test_the_writer_goes_on(log_folder: Path, change: Change):
    before = rows(evtool.open(log_folder))
    frames = {path: path.read_bytes() for path in log_folder.glob("*/frames.log")}
    change(log_folder)
    with evtool.open(log_folder, config=config(SEGMENT_BYTES)) as log:
        assert log.writer().cut_bytes == 0
        for number in range(4):
            log.append([event(number, "other"), event(number, f"new-{number}")])
    after = rows(evtool.open(log_folder))
    assert after[: len(before)] == before
    assert len(after) == len(before) + 8
    assert all(path.read_bytes().startswith(data) for path, data in frames.items())
    check_sound(log_folder)


@on_changes
def test_what_was_derived_is_made_again(log_folder: Path, change: Change):
    change(log_folder)
    with evtool.open(log_folder) as log:
        log.append([event(1)])
    for segment in segments(log_folder)[:-1]:
        assert (segment / "segment.msgpack").exists()
    frames = [(s / "frames.idx").stat().st_size // INDEX_ROW.itemsize for s in segments(log_folder)]
    assert sum(frames[:-1]) + frames[-1] >= check_sound(log_folder).frames
    assert len((log_folder / "HEAD").read_bytes()) == 64
    assert (log_folder / "index" / "streams.table").exists()


def test_head_older_than_the_frames_hides_nothing_from_the_writer(log_folder: Path):
    """As when the process was killed between the sync of a batch and the store of HEAD."""
    before = rows(evtool.open(log_folder))
    older_head(log_folder)
    first = int(segments(log_folder)[-1].name)
    assert rows(evtool.open(log_folder, read_only=True)) == before[: first - 1]
    with evtool.open(log_folder) as log:
        assert log.append([event(1, "other")]).first_position == len(before) + 1
    assert rows(evtool.open(log_folder))[:-1] == before
    check_sound(log_folder)


# The index of frames says which frames are read. A wrong one may stop a reader; it may never hide an event.


@pytest.mark.parametrize("segment", [0, -1], ids=["sealed", "active"])
@pytest.mark.parametrize("name", INDEX_ROW["header"].names)
def test_flipped_bit_in_frames_idx_hides_no_event(folder: Path, segment: int, name: str):
    small = [event(1, timestamp=MOMENT_NS), event(2, "user-2", timestamp=MOMENT_NS)]
    make_segments(folder, [small[:1], small[1:], small], [small[:1], small])
    before = rows(evtool.open(folder))
    header, start = INDEX_ROW.fields["header"][:2]
    kind, offset = header.fields[name][:2]
    path = segments(folder)[segment] / "frames.idx"
    everything: list[dict[str, Any]] = [
        {},
        {"start": 1, "end": 10**6},
        {"since": MOMENT_NS - 10**15, "until": MOMENT_NS + 10**15},
        {"since": 0, "clock": "recorded"},
        {"partitions": range(8)},
    ]
    for bit in sorted({0, 1, 6, 20, 50, 8 * kind.itemsize - 1} & set(range(8 * kind.itemsize))):
        place = start + offset + bit // 8
        flip(path, place, bit % 8)
        for selected in everything:
            try:
                found = rows(evtool.open(folder, read_only=True), **selected)
            except LogDamagedError:
                continue
            assert found == before, f"bit {bit} of {name}, {selected}"
        flip(path, place, bit % 8)


# The table of streams says which version comes next.


def next_versions(folder: Path, *streams: str) -> list[int]:
    """The versions that the next events of some streams get."""
    with evtool.open(folder, config=config(SEGMENT_BYTES)) as log:
        log.append([event(number, stream) for number, stream in enumerate(streams)])
        return [row["stream_version"] for row in rows(log, start=log.position - len(streams) + 1)]


@pytest.fixture
def two_times(folder: Path) -> tuple[Path, bytes, bytes]:
    """A log of 4 batches, and its table of streams as it was after the second and after the fourth."""
    make_log(folder, [[event(1), event(2, "user-2")], [event(3)]])
    table = folder / "index" / "streams.table"
    early = table.read_bytes()
    make_log(folder, [[event(4, "user-3"), event(5)], [event(6, "user-2")]])
    return folder, early, table.read_bytes()


@pytest.mark.parametrize("boot", [lambda folder: None, boot_again], ids=["same boot", "another boot"])
def test_streams_table_behind_the_log(two_times: tuple[Path, bytes, bytes], boot: Change):
    folder, early, _ = two_times
    (folder / "index" / "streams.table").write_bytes(early)
    boot(folder)
    assert next_versions(folder, "user-1", "user-2", "user-3", "user-4") == [4, 3, 2, 1]
    check_sound(folder)


@pytest.mark.parametrize("boot", [lambda folder: None, boot_again], ids=["same boot", "another boot"])
def test_streams_table_ahead_of_the_log(folder: Path, boot: Change):
    """As in a copy of a log that was written to meanwhile: its frames were copied before its table."""
    make_log(folder, [[event(1), event(2, "user-2")], [event(3)]])
    kept = {path: path.read_bytes() for path in (frames_log(folder), folder / "HEAD")}
    with evtool.open(folder) as log:
        log.append([event(4, "user-3"), event(5)])
        log.append([event(6, "user-2")])
        table = (folder / "index" / "streams.table").read_bytes()
    for path, data in kept.items():
        path.write_bytes(data)
    (folder / "index" / "streams.table").write_bytes(table)
    boot(folder)
    assert next_versions(folder, "user-1", "user-2", "user-3", "user-4") == [3, 2, 1, 1]
    check_sound(folder)


def test_streams_table_of_another_log(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    make_log(other, [[event(number)] for number in range(9)])
    make_log(folder, [[event(1)]])
    shutil.copy(other / "index" / "streams.table", folder / "index" / "streams.table")
    assert next_versions(folder, "user-1", "user-2") == [2, 1]
    check_sound(folder)


def test_streams_table_left_growing(folder: Path):
    make_log(folder, [[event(1)]])
    (folder / "index" / "streams.growing").write_bytes(GARBAGE)
    make_log(folder, [many(6_000, streams=5_000)])
    assert next_versions(folder, "user-1", "user-4999", "user-5000") == [4, 2, 1]
    check_sound(folder)


def test_a_log_whose_events_lie_in_sealed_segments_only(folder: Path):
    make_log(folder, [[event(1)], [event(2, "user-2")]], config(segment_bytes=1_000))
    everything_derived(folder)
    assert next_versions(folder, "user-1", "user-2", "user-3") == [2, 2, 1]
    assert len(ids(evtool.open(folder))) == 5
    check_sound(folder)
