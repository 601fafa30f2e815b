"""The distinct sources of a log, kept over torn tails and bounded."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from faults import full_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.errors import NoSpaceError
from evtool.files import Files
from evtool.log import sourcenames
from evtool.log.sourcenames import SOURCES_FILE, SourceNames, read_source_names

LOG_ID = bytes(range(16))


def open_names(folder: Path, log_id: bytes = LOG_ID) -> SourceNames:
    return SourceNames(Files(), folder, log_id)


def read(folder: Path, log_id: bytes = LOG_ID) -> list[str] | None:
    return read_source_names(Files(), folder, log_id)


@given(batches=st.lists(st.lists(st.text(max_size=5), max_size=6), max_size=8), reopen=st.integers(0, 7))
@settings(max_examples=40)
def test_names_are_a_set(tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], reopen: int):
    folder = tmp_path_factory.mktemp("names")
    names, known = open_names(folder), set[str]()
    assert names.is_new
    for number, batch in enumerate(batches):
        assert names.add_new(batch) == len(set(batch) - known)
        known |= set(batch)
        assert read(folder) == sorted(known)
        if number == reopen:
            names.close()
            names = open_names(folder)
            assert not names.is_new
    assert len(names) == len(known)
    names.close()


def test_file_cut_at_any_byte_keeps_whole_records(tmp_path: Path):
    names = open_names(tmp_path)
    path = tmp_path / SOURCES_FILE
    ends = [path.stat().st_size]
    for name in ("shop", "app", "é" * 100):
        names.add_new([name])
        ends.append(path.stat().st_size)
    names.close()
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        kept = sum(end <= size for end in ends) - 1
        whole = ["shop", "app", "é" * 100][: max(kept, 0)]
        assert read(tmp_path) == (sorted(whole) if kept >= 0 else None)
        names = open_names(tmp_path)
        assert (names.is_new, len(names)) == (kept < 0, len(whole))
        names.add_new(["later"])
        names.close()
        assert read(tmp_path) == sorted([*whole, "later"])


@pytest.mark.parametrize(
    "tail", [b"\0" * 512, b"\xc1", b"\x92\x01", b"\x92\x01\xc4\x01\xc0", b"\xdd\xff\xff\xff\xff"]
)
def test_garbage_behind_the_last_record_is_cut(tmp_path: Path, tail: bytes):
    names = open_names(tmp_path)
    names.add_new(["shop"])
    names.close()
    path = tmp_path / SOURCES_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert read(tmp_path) == ["shop"]
    assert not open_names(tmp_path).is_new
    assert path.read_bytes() == whole


def test_flipped_bit_ends_what_is_believed(tmp_path: Path):
    names = open_names(tmp_path)
    for name in ("a", "b", "c"):
        names.add_new([name])
    names.close()
    path = tmp_path / SOURCES_FILE
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xa1b", b"\xa1x"))
    assert read(tmp_path) == ["a"]


def test_names_of_another_log_or_of_none(tmp_path: Path):
    assert read(tmp_path) is None
    names = open_names(tmp_path)
    names.add_new(["shop"])
    names.close()
    assert read(tmp_path, bytes(16)) is None
    other = open_names(tmp_path, bytes(16))
    assert (other.is_new, len(other)) == (True, 0)
    assert read(tmp_path) is None


def test_reset(tmp_path: Path):
    names = open_names(tmp_path)
    names.add_new(["shop", "app"])
    names.reset()
    names.add_new(["app"])
    names.close()
    assert read(tmp_path) == ["app"]


@pytest.mark.parametrize("limit", [("_NAMES_MAX", 3), ("_NAMES_BYTES_MAX", 8)], ids=["names", "bytes"])
def test_more_sources_than_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]):
    monkeypatch.setattr(sourcenames, *limit)
    monkeypatch.setattr(sourcenames, "_FILE_BYTES_MAX", 1000)
    names = open_names(tmp_path)
    names.add_new(["aa", "bb", "cc"])
    assert (read(tmp_path), names.is_full) == (["aa", "bb", "cc"], False)
    names.add_new(["ddd"])
    assert (read(tmp_path), names.is_full, len(names)) == (None, True, 0)
    size = (tmp_path / SOURCES_FILE).stat().st_size
    assert names.add_new(["eeee", "aa"]) == 0
    names.close()
    assert (tmp_path / SOURCES_FILE).stat().st_size == size
    again = open_names(tmp_path)
    assert (again.is_new, again.is_full) == (False, True)
    again.close()
    again.reset()
    assert (read(tmp_path), again.is_full) == ([], False)


def test_file_that_is_too_long_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = open_names(tmp_path)
    names.add_new(["x" * 200])
    names.close()
    monkeypatch.setattr(sourcenames, "_FILE_BYTES_MAX", 100)
    assert read(tmp_path) is None
    assert open_names(tmp_path).is_new


def test_disk_that_is_full(tmp_path: Path):
    open_names(tmp_path).close()
    names = SourceNames(full_disk(1), tmp_path, LOG_ID)
    with pytest.raises(NoSpaceError):
        names.add_new(["shop" * 50])
    assert read(tmp_path) == []
    assert not open_names(tmp_path).is_new


def test_a_stream_of_checked_records(tmp_path: Path):
    names = open_names(tmp_path)
    names.add_new(["shop", "app"])
    names.close()
    with (tmp_path / SOURCES_FILE).open("rb") as file:
        records = list(msgpack.Unpacker(file))
    bodies = [msgpack.unpackb(body) for _, body in records]
    assert bodies == [{"version": 1, "log_id": LOG_ID}, ["app", "shop"]]
