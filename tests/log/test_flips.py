"""One bit turned over anywhere in a log's files: it is found, or it changes nothing that is read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import flip
from samples import MOMENT_NS, config, event, frames_log, make_log, segments

import evtool
from evtool.errors import LogDamagedError
from evtool.lifecycle.verify import verify
from evtool.log.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed segment and an active one, two batches each, one of them with a resume point of 7 bytes."""
    folder = tmp_path_factory.mktemp("flips") / "segments"
    batches = [
        [
            event(2 * number + j, f"user-{j}", timestamp=MOMENT_NS, metadata='{"a":1}' if j else None)
            for j in (0, 1)
        ]
        for number in range(4)
    ]
    with evtool.open(folder, create=True, config=config()) as log:
        log.append(batches[0], resume={"line": 1})
    make_log(folder, batches[1:2], config(segment_bytes=1))
    make_log(folder, batches[2:])
    assert len(segments(folder)) == 2
    return folder


@pytest.fixture
def log_folder(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)
    return folder


def read(folder: Path) -> bytes | None:
    """The replay of everything, None if there is damage in it."""
    try:
        return b"".join(evtool.open(folder, read_only=True).replay())
    except LogDamagedError:
        return None


def frames_of(path: Path) -> Iterator[tuple[int, int, int]]:
    """Of each frame: where it starts, where its body ends and where its padding does."""
    data = path.read_bytes()
    at = SEGMENT_HEADER_BYTES
    while at < len(data):
        body_bytes = int.from_bytes(data[at + 16 : at + 24], "little")
        end = at + FRAME_HEADER_BYTES + body_bytes
        yield at, end, end + -body_bytes % 8
        at = end + -body_bytes % 8


def test_there_is_padding_to_test(original: Path):
    assert [padded - end for _, end, padded in frames_of(frames_log(original, 0))] == [0, 1, 0, 0]


@pytest.mark.parametrize("bit", [0, 5, 7])
@pytest.mark.parametrize("segment", [0, 1], ids=["sealed", "active"])
def test_every_bit_of_a_header_counts(log_folder: Path, segment: int, bit: int):
    path = frames_log(log_folder, segment)
    headers = [start + i for start, _, _ in frames_of(path) for i in range(bit % 3, FRAME_HEADER_BYTES, 3)]
    for byte in [*range(bit % 3, SEGMENT_HEADER_BYTES, 3), *headers]:
        flip(path, byte, bit)
        assert not verify(evtool.open(log_folder, read_only=True)).is_clean, f"byte {byte}"
        flip(path, byte, bit)
    assert verify(evtool.open(log_folder, read_only=True)).is_clean


@pytest.mark.parametrize("segment", [0, 1], ids=["sealed", "active"])
def test_every_bit_of_a_body_counts(log_folder: Path, segment: int):
    path = frames_log(log_folder, segment)
    for start, end, _ in frames_of(path):
        for byte in {
            *range(start + FRAME_HEADER_BYTES, end, 17),
            *range(max(end - 8, start + FRAME_HEADER_BYTES), end),
        }:
            flip(path, byte, byte % 8)
            assert not verify(evtool.open(log_folder, read_only=True)).is_clean, f"byte {byte}"
            flip(path, byte, byte % 8)


@pytest.mark.parametrize("segment", [0, 1], ids=["sealed", "active"])
def test_padding_is_no_data(log_folder: Path, segment: int):
    before = read(log_folder)
    path = frames_log(log_folder, segment)
    for _, end, padded in frames_of(path):
        for byte in range(end, padded):
            flip(path, byte)
            assert read(log_folder) == before


@pytest.mark.parametrize("segment", [0, 1], ids=["sealed", "active"])
def test_no_flip_in_frames_log_is_read_as_data(log_folder: Path, segment: int):
    """What is not read in the course of a replay, such as a commit frame, may go unnoticed there."""
    before = read(log_folder)
    path = frames_log(log_folder, segment)
    for byte in range(0, path.stat().st_size, 13):
        flip(path, byte, byte % 8)
        assert read(log_folder) in (None, before), f"byte {byte}"
        flip(path, byte, byte % 8)


@pytest.mark.parametrize("name", ["HEAD", "00000000000000000001/segment.msgpack"])
def test_no_flip_in_a_hint_changes_what_is_read(log_folder: Path, name: str):
    before = read(log_folder)
    path = log_folder / name
    for byte in range(path.stat().st_size):
        flip(path, byte, byte % 8)
        assert read(log_folder) == before, f"byte {byte}"
        flip(path, byte, byte % 8)


def test_every_flip_in_the_index_of_a_sealed_segment_is_found_or_changes_nothing(log_folder: Path):
    before = read(log_folder)
    path = segments(log_folder)[0] / "frames.idx"
    for byte in range(0, path.stat().st_size, 3):
        flip(path, byte, byte % 8)
        assert not verify(evtool.open(log_folder, read_only=True)).is_clean or read(log_folder) == before, byte
        flip(path, byte, byte % 8)


def test_a_log_of_one_segment_is_as_safe(folder: Path):
    """Nothing but the file itself tells how it should go on: HEAD is missing too."""
    make_log(folder, [[event(1), event(2)], [event(3)], [event(4)]])
    (folder / "HEAD").unlink()
    path = frames_log(folder)
    starts = [start for start, _, _ in frames_of(path)]
    # Of the last batch alone nobody can say any more whether it was acknowledged.
    for byte in range(SEGMENT_HEADER_BYTES, starts[-2], 29):
        flip(path, byte, byte % 8)
        with evtool.open(folder) as log, pytest.raises(LogDamagedError):
            log.append([event(5)])
        flip(path, byte, byte % 8)
    with evtool.open(folder) as log:
        assert log.append([event(5)]).first_position == 5
