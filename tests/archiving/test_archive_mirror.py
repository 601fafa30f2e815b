"""The folder through which an archive is read: whatever was cut short, it is what the catalogue says."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import xxhash
from archives import archived, dropped, make, objects, store_folder
from backing import replay
from compacting import compacted
from faults import Fault, FaultyFiles, Killed

import evtool
from evtool.errors import LogDamagedError, StoreError
from evtool.lifecycle.verify import verify
from evtool.location import mirror_folder
from evtool.log.streamindex import stream_hashes
from evtool.objectstore.folder import FolderStore


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors are made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def read(folder: Path) -> bytes:
    with evtool.open(store_folder(folder).as_uri()) as log:
        return b"".join(log.replay())


def test_a_mirror_that_is_killed_at_each_step_is_made_whole_by_the_next(folder: Path):
    make(folder, cold=2)
    archived(folder)
    url = store_folder(folder).as_uri()
    read(folder)
    place, kept = mirror_folder(url), folder.with_name("kept")
    shutil.copytree(place, kept)
    compacted(folder, 0)  # what was hot
    archived(folder)
    expected = replay(folder, end=301)
    call, was_killed = 0, True
    while was_killed:
        call, was_killed = call + 1, False
        files = FaultyFiles(Fault(call, done=call % 3 / 2))
        try:
            evtool.open(url, files=files).close()
        except Killed:
            was_killed = True
        assert read(folder) == expected
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    assert call > 5


def test_several_open_an_archive_at_once(folder: Path):
    make(folder)
    archived(folder)
    expected, found = replay(folder, end=401), []
    threads = [threading.Thread(target=lambda: found.append(read(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_an_index_that_is_damaged_or_missing_is_told_and_streams_are_read_without_theirs(folder: Path):
    make(folder, cold=2)
    archived(folder)
    index = store_folder(folder) / "index"
    for path in index.glob("*.streams"):
        path.unlink()
    with evtool.open(store_folder(folder).as_uri()) as log:
        assert len(log.stream("user-1")) == 29
    for path in mirror_folder(store_folder(folder).as_uri()).rglob("*.map"):
        path.unlink()
    path = next(index.glob("*.map"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(LogDamagedError, match=f"{path.name} does not match its checksum"):
        read(folder)
    path.unlink()
    with pytest.raises(StoreError, match=f"{path.name} is missing, and the catalogue names it"):
        read(folder)
    path.write_bytes(data)
    assert read(folder) == replay(folder, end=201)


def test_an_index_of_streams_is_fetched_when_a_stream_is_looked_for_and_kept(folder: Path):
    make(folder, cold=3)
    archived(folder)
    url = store_folder(folder).as_uri()
    kept = mirror_folder(url)
    with evtool.open(url) as log:
        assert list(kept.rglob("streams.idx")) == []
        rows, is_chosen = log.snapshot().segments[0].rows_of(stream_hashes(["no such stream"]))
        assert (len(rows), is_chosen) == (0, True)
        assert len(list(kept.rglob("streams.idx"))) == 1
        wanted = log.stream("user-1")
    assert len(list(kept.rglob("streams.idx"))) == 3
    for path in (store_folder(folder) / "index").glob("*.streams"):
        path.unlink()  # nobody asks for it again
    with evtool.open(url) as log:
        assert all(segment.rows_of(stream_hashes(["user-1"]))[1] for segment in log.snapshot().segments)
        assert log.stream("user-1").equals(wanted)
        assert verify(log).findings == []


def test_an_archive_that_has_not_changed_is_opened_by_its_catalogue_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    make(folder)
    archived(folder)
    read(folder)
    asked: list[str] = []
    get = FolderStore.get
    monkeypatch.setattr(FolderStore, "get", lambda self, name: (asked.append(name), get(self, name))[1])
    assert read(folder) == replay(folder, end=401)
    assert asked == ["catalogue.msgpack"]


def test_what_was_dropped_is_not_in_a_mirror_when_it_was_opened_again(folder: Path):
    make(folder)
    archived(folder)
    place = mirror_folder(store_folder(folder).as_uri())
    with evtool.open(store_folder(folder).as_uri()) as before:
        assert len(list(before.replay())) > 0
        first = next(name for name in objects(folder) if name.startswith("events/"))
        cached = place / "cache" / xxhash.xxh3_128_hexdigest(first.encode())
        assert cached.is_dir()
        with evtool.open(folder, read_only=True) as log:
            size = sum(each.log_bytes for each in log.snapshot().segments)
        dropped(folder, size=size - 1)
        assert read(folder) == replay(folder, end=401)
        assert not cached.exists()
        assert [path.name for path in sorted(place.glob("*1/*.map"))][:2] == ["events-2.map", "events-1.map"]
        assert b"".join(before.replay()) == read(folder)  # a snapshot of its own each time
