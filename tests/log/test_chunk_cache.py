"""Pieces of an archive's objects: what is given is what was put, a cache keeps to its size and harms nobody."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from faults import Fault, FaultyFiles
from hypothesis import given
from hypothesis import strategies as st

from evtool.errors import LogDamagedError, StoreError
from evtool.files import Files
from evtool.log.archive import Place, write_place
from evtool.log.archived import Archive, ArchivedFile, spans_of
from evtool.log.chunkcache import ChunkCache
from evtool.log.format import checksum
from evtool.log.ranges import Piece
from evtool.objectstore.folder import FolderStore

NAME = "events/day=2026-01-01/x.parquet"
LIMIT = 64_000


def piece_of(data: bytes, start: int, size: int) -> Piece:
    return Piece(start, size, checksum(data[start : start + size]))


def put(cache: ChunkCache, data: bytes, start: int, size: int, name: str = NAME) -> Piece:
    piece = piece_of(data, start, size)
    cache.put(name, [piece], data[start : start + size])
    return piece


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


DATA = os.urandom(300_000)
sizes = st.integers(1, 20_000)
steps = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 280_000), sizes), min_size=1, max_size=40)


@given(steps)
def test_the_cache_gives_what_was_put_and_keeps_to_its_size(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int, int]]
):
    folder = tmp_path_factory.mktemp("cache")
    one, other = (ChunkCache(Files(), folder, LIMIT) for _ in range(2))  # as of two processes
    for who, start, size in puts:
        writer, reader = (one, other) if who % 2 else (other, one)
        name = f"{NAME}{who // 2}"
        piece = put(writer, DATA, start, size, name)
        (found,) = reader.get(name, [piece])
        assert found == DATA[start : start + size]
        assert size_of(folder) <= LIMIT + max(LIMIT // 16, 20_100)
        assert reader.get("another", [piece]) == [None]
    alone = ChunkCache(Files(), folder, LIMIT)
    put(alone, DATA, 0, 100)
    assert size_of(folder) <= LIMIT


def test_what_was_used_last_stays_longest(tmp_path: Path):
    cache = ChunkCache(Files(), tmp_path, LIMIT)
    first = put(cache, DATA, 0, 3_000)
    for number in range(1, 60):
        put(cache, DATA, number * 3_000, 3_000)
        for path in tmp_path.rglob("*"):  # a clock of coarse steps tells nothing
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        assert cache.get(NAME, [first]) == [DATA[:3_000]]
    assert cache.get(NAME, [piece_of(DATA, 3_000, 3_000)]) == [None]


@given(st.integers(0, 3_100), st.integers(1, 255))
def test_no_changed_byte_of_a_pack_is_believed(tmp_path_factory: pytest.TempPathFactory, at: int, change: int):
    folder = tmp_path_factory.mktemp("cache")
    cache = ChunkCache(Files(), folder, 1 << 20)
    pieces = [piece_of(DATA, 10, 1_000), piece_of(DATA, 5_000, 2_000)]
    wanted = [DATA[10:1_010], DATA[5_000:7_000]]
    cache.put(NAME, pieces, b"".join(wanted))
    path = next(path for path in folder.rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[min(at, len(data) - 1)] ^= change
    path.write_bytes(data)
    for reader in (cache, ChunkCache(Files(), folder, 1 << 20)):
        for found, expected in zip(reader.get(NAME, pieces), wanted, strict=True):
            assert found in (None, expected)
    path.write_bytes(data[: at // 2])
    for found, expected in zip(ChunkCache(Files(), folder, 1 << 20).get(NAME, pieces), wanted, strict=True):
        assert found in (None, expected)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, error: int):
    files = FaultyFiles(Fault(1, done=0.5, error=error))
    cache = ChunkCache(files, tmp_path / "cache", 1 << 20)
    piece = put(cache, DATA, 0, 1_000)
    assert cache.get(NAME, [piece]) == [None]
    assert size_of(tmp_path) == 0
    calls = len(files.calls)
    put(cache, DATA, 0, 1_000)
    assert len(files.calls) == calls  # it is not tried again and again


def test_something_else_in_the_place_of_the_cache_is_no_cache(tmp_path: Path):
    (tmp_path / "cache").write_text("mine")
    cache = ChunkCache(Files(), tmp_path / "cache", 1 << 20)
    piece = put(cache, DATA, 0, 1_000)
    assert cache.get(NAME, [piece]) == [None]
    assert (tmp_path / "cache").read_text() == "mine"


def test_a_cache_that_is_removed_meanwhile_is_filled_again(tmp_path: Path):
    cache = ChunkCache(Files(), tmp_path / "cache", 1 << 20)
    for _ in range(3):
        piece = put(cache, DATA, 0, 1_000)
        assert cache.get(NAME, [piece]) == [DATA[:1_000]]
        for path in [*(tmp_path / "cache").rglob("*")][::-1]:
            path.rmdir() if path.is_dir() else path.unlink()
        assert cache.get(NAME, [piece]) == [None]


pieces = st.lists(st.tuples(st.integers(0, 290_000), st.integers(0, 10_000)), min_size=1, max_size=30, unique=True)


class CountingStore(FolderStore):
    """A store that tells what was asked of it, and fails when it is told to."""

    asked: int = 0
    is_down = False

    def read(self, name: str, start: int, end: int) -> bytes:
        if self.is_down:
            raise StoreError("it does not answer")
        self.asked += end - start
        return super().read(name, start, end)


def opened(tmp_path: Path, cache_bytes: int) -> tuple[ArchivedFile, CountingStore]:
    store = CountingStore(Files(), tmp_path / "archive")
    store.put(NAME, DATA)
    write_place(Files(), tmp_path, Place("ab" * 16, (tmp_path / "archive").as_uri()))
    archive = Archive(Files(), tmp_path, "ab" * 16, cache_bytes)
    archive._store = store
    return ArchivedFile(archive, NAME, len(DATA), tmp_path / "local"), store


@given(pieces, pieces, st.sampled_from([0, 50_000, 1 << 20]))
def test_pieces_of_an_object_are_its_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    held: list[tuple[int, int]],
    asked: list[tuple[int, int]],
    cache_bytes: int,
):
    file, _ = opened(tmp_path_factory.mktemp("log"), cache_bytes)
    ahead = file.fetched([piece_of(DATA, *span) for span in held])
    for source in (file, ahead, file):
        found = source.read([piece_of(DATA, *span) for span in asked])
        assert [bytes(each) for each in found] == [DATA[start : start + size] for start, size in asked]
    assert b"".join(file.parts()) == DATA


@given(st.lists(st.tuples(st.integers(0, 50_000_000), st.integers(0, 6_000_000)), min_size=1, max_size=30))
def test_each_piece_lies_in_one_request(spans: list[tuple[int, int]]):
    asked = spans_of([Piece(start, size, 0) for start, size in spans])
    for start, size in spans:
        assert any(first <= start and start + size <= end for first, end in asked)
    assert asked == sorted(asked)
    largest = max(size for _, size in spans)
    assert all(end - start <= max(largest, 4 << 20) for start, end in asked)


def test_nothing_is_fetched_twice_nor_what_is_far_away(tmp_path: Path):
    file, store = opened(tmp_path, 1 << 20)
    wanted = [piece_of(DATA, 0, 100), piece_of(DATA, 299_000, 100)]
    for _ in range(2):
        file.read(wanted)
    assert store.asked == 200


def test_a_store_that_dies_and_comes_back(tmp_path: Path):
    file, store = opened(tmp_path, 1 << 20)
    known, other = piece_of(DATA, 0, 100), piece_of(DATA, 500, 100)
    file.read([known])
    store.is_down = True
    assert file.read([known]) == [DATA[:100]]  # it is kept
    with pytest.raises(StoreError, match="does not answer"):
        file.read([known, other])
    store.is_down = False
    assert file.read([known, other]) == [DATA[:100], DATA[500:600]]


def test_an_object_that_is_shorter_or_not_there_is_told(tmp_path: Path):
    file, store = opened(tmp_path, 0)
    store.put(NAME, DATA[:-1])
    with pytest.raises(LogDamagedError, match="it has 299,999 bytes where 300,000 were written"):
        file.read([piece_of(DATA, 299_000, 1_000)])
    store.delete(NAME)
    with pytest.raises(StoreError, match=r"x\.parquet is missing, and events of this log are in it"):
        file.read([piece_of(DATA, 0, 10)])


def test_threads_share_a_cache(tmp_path: Path):
    file, _ = opened(tmp_path, LIMIT)
    wrong: list[int] = []

    def read(first: int) -> None:
        for number in range(60):
            start = (first + number * 7_919) % 290_000
            (found,) = file.read([piece_of(DATA, start, 2_000)])
            if found != DATA[start : start + 2_000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(number * 1_000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert size_of(tmp_path / "cache") <= LIMIT
