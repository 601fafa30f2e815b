"""A log whose cold segments are in its archive reads as one that has them here, and so does the archive alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from archives import COUNT, archived, brought_back, make, store_folder, stubs
from backing import digest, replay
from bucket_proxy import Proxy
from compacting import compacted
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import refreshed
from samples import config, make_log, many, rows

import evtool
from evtool import shop
from evtool.config import ArchiveConfig, Config
from evtool.errors import LogDamagedError, LogNotFoundError, LogReadOnlyError, StoreError
from evtool.lifecycle.verify import verify
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.projections import catalogue
from evtool.replay import blocks

EVENTS = 6_000


def shop_events() -> list[dict[str, str]]:
    found = []
    for line in b"".join(shop.blocks(EVENTS, 7)).splitlines():
        event = json.loads(line)
        found.append(event | {key: json.dumps(event[key]) for key in ("payload", "metadata") if key in event})
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A compacted log, and the same with all that is cold in an archive beside it."""
    here = tmp_path_factory.mktemp("here") / "segments"
    events = shop_events()
    small = config(segment_bytes=96 * 1024, partitions=2)
    make_log(here, [events[start : start + 500] for start in range(0, EVENTS - 500, 500)], small)
    compacted(here, 0, "payload.user_id", "payload.amount")
    make_log(here, [events[EVENTS - 500 :]], config(partitions=2))
    there = tmp_path_factory.mktemp("there") / "segments"
    shutil.copytree(here, there)
    archived(there)
    assert len(stubs(there)) > 2
    return here, there


def mirror(there: Path) -> Log:
    return evtool.open(store_folder(there).as_uri())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors are made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def test_an_archived_log_is_read_as_a_local_one(pair: tuple[Path, Path]):
    here, there = pair
    assert replay(there) == replay(here)
    assert digest(there) == digest(here)
    with evtool.open(here) as one, evtool.open(there) as other:
        event_id = rows(one, start=77, end=78)[0]["event_id"]
        assert other.find(event_id) == one.find(event_id) == 77
        stream = rows(one, start=1_000, end=1_001)[0]["stream_id"]
        assert other.stream(stream).equals(one.stream(stream))
        assert other.reindex().ids == one.reindex().ids


@settings(max_examples=25)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "start": st.integers(1, EVENTS),
            "end": st.integers(1, EVENTS + 2),
            "types": st.lists(st.sampled_from(["ItemViewed", "ItemPurchased", "None"]), min_size=1),
            "sources": st.lists(st.sampled_from(["shop-ios", "shop-web", "none"]), min_size=1),
            "partitions": st.just([1]),
            "columns": st.lists(
                st.sampled_from(["event_id", "timestamp", "payload", "recorded_at", "stream_id"]), min_size=1
            ),
        },
    ),
    st.sampled_from([0, 100_000, 1 << 30]),
)
def test_any_part_of_an_archived_log_is_read_as_of_a_local_one(
    pair: tuple[Path, Path], selected: dict[str, object], cache_bytes: int
):
    here, there = pair
    asked = Config(archive=ArchiveConfig(cache_bytes=cache_bytes))
    with evtool.open(here, read_only=True) as one, evtool.open(there, read_only=True, config=asked) as other:
        for expected, found in zip(one.scan(**selected), other.scan(**selected), strict=True):
            assert found.equals(expected)


@pytest.mark.parametrize("name", catalogue.entries(None))
def test_projections_of_an_archived_log_have_the_same_bytes(pair: tuple[Path, Path], home: Path, name: str):
    here, there = pair
    with evtool.open(here, read_only=True) as one, evtool.open(there, read_only=True) as other:
        assert refreshed(other, name, full=True)[1] == refreshed(one, name, full=True)[1]


def test_an_archive_alone_is_a_log_to_read_only(pair: tuple[Path, Path], home: Path):
    here, there = pair
    with mirror(there) as log:
        last = log.position
        assert 0 < last < EVENTS
        assert b"".join(log.replay()) == replay(here, end=last + 1)
        assert verify(log).is_clean
        assert log.find(rows(log, start=9, end=10)[0]["event_id"]) == 9
        assert refreshed(log, "event-counts")[0].frame["events"].sum() == last
        assert log.folder.is_relative_to(home)
        with pytest.raises(LogReadOnlyError, match="read only"):
            log.append(many(1))
    with evtool.open(log.folder) as again, pytest.raises(LogReadOnlyError):  # by its path, too
        again.append(many(1))
    with pytest.raises(LogReadOnlyError):
        evtool.open(store_folder(there).as_uri(), create=True)
    with pytest.raises(LogNotFoundError, match="no archive of a log"):
        evtool.open(f"{store_folder(there).as_uri()}/nowhere")


def test_a_mirror_follows_its_archive_and_mends_itself(folder: Path, home: Path):
    make(folder, cold=2)
    archived(folder)
    first = len(stubs(folder))
    with mirror(folder) as log:
        assert log.position == first * 100
        place = log.folder
    compacted(folder, 0)
    archived(folder)
    assert len(stubs(folder)) > first
    flip(next(place.rglob("*.map")), 9)
    next(place.rglob("segment.msgpack")).unlink()
    with mirror(folder) as log:
        assert b"".join(log.replay()) == replay(folder, end=log.position + 1)
        assert log.position == len(stubs(folder)) * 100
    shutil.rmtree(store_folder(folder))
    other = folder.with_name("other")
    make(other, cold=2)  # another log, in the place of the first one
    archived(other)
    with mirror(folder) as log:
        assert b"".join(log.replay()) == replay(other, end=201)
        assert log.folder == place


def test_what_is_left_out_is_not_fetched(pair: tuple[Path, Path]):
    _, there = pair
    asked = Config(archive=ArchiveConfig(cache_bytes=0))
    with evtool.open(there, read_only=True, config=asked) as log:
        segments = [segment for segment in log.snapshot().segments if segment.is_archived]
        assert list(log.scan(start=EVENTS * 2)) == []
        assert list(log.scan(until=0)) == []
        assert log.position > 0
        assert log.archive.fetched_bytes == 0
        last = segments[-1].last_position
        assert rows(log, start=last, end=last + 1)
        of_stripe = [row["header"]["body_bytes"] for row in segments[-1].table][-2:]
        footer_bytes = segments[-1].summary["footer_bytes"]  # type: ignore[attr-defined]
        assert log.archive.fetched_bytes <= sum(of_stripe) + footer_bytes


def test_a_second_read_fetches_nothing(folder: Path):
    make(folder)
    archived(folder)
    lines = replay(folder)
    with evtool.open(folder, read_only=True) as log:
        assert b"".join(log.replay()) == lines
        assert log.archive.fetched_bytes == 0


def test_a_damaged_object_is_damage_and_a_missing_one_is_told(folder: Path):
    make(folder)
    archived(folder)
    lines = replay(folder)
    path = sorted(store_folder(folder).rglob("*.parquet"))[1]
    data = path.read_bytes()

    def read() -> bytes:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return replay(folder)

    flip(path, 200)
    with pytest.raises(LogDamagedError, match=f"{path.name}: row group 0 .* does not match its checksum"):
        read()
    report = verify(evtool.open(folder, read_only=True))
    assert [finding.file for finding in report.findings] == [f"file://{path}"]
    path.write_bytes(data[:-1])
    with pytest.raises(LogDamagedError, match=f"{path.name}: it has .* bytes where .* were written"):
        read()
    path.unlink()
    with pytest.raises(StoreError, match=f"{path.name} is missing, and events of this log are in it") as caught:
        read()
    assert "copy of the archive" in caught.value.hint
    path.write_bytes(data)
    assert read() == lines
    (folder / "archive.json").unlink()
    with pytest.raises(LogDamagedError, match=r"archive\.json is missing"):
        read()


def test_a_cache_that_is_a_link_to_another_disk_is_emptied_when_objects_go(folder: Path, tmp_path: Path):
    lines = replay(make(folder))
    disk = tmp_path / "disk"
    disk.mkdir()
    (folder / "cache").symlink_to(disk)
    archived(folder)
    for since, left in ((2 * COUNT + 1, 2), (1, 0)):
        assert replay(folder) == lines
        assert len(list(disk.iterdir())) > left
        brought_back(folder, since)
        assert len(list(disk.iterdir())) == left
    assert replay(folder) == lines


def test_verify_names_objects_that_are_cut_off_or_missing_and_reads_the_others(folder: Path):
    archived(make(folder))
    cut, lost = sorted(store_folder(folder).rglob("*.parquet"))[1:3]
    cut.write_bytes(cut.read_bytes()[:-1])
    lost.unlink()
    with evtool.open(folder, read_only=True) as log:
        report = verify(log)
    assert [(found.file, found.first_position, found.last_position) for found in report.findings] == [
        (f"file://{cut}", COUNT + 1, 2 * COUNT),
        (f"file://{lost}", 2 * COUNT + 1, 3 * COUNT),
    ]
    assert report.findings[1].message == "it is missing"
    assert report.events == 3 * COUNT + 7


def test_an_archive_in_a_bucket_is_read_and_waits_for_its_server(line: Proxy, folder: Path, home: Path):
    make(folder, cold=3)
    lines = replay(folder)
    url = f"s3://backups/{folder.parent.name}"
    archived(folder, to=url)
    assert replay(folder) == lines
    with evtool.open(url) as log:
        assert b"".join(log.replay()) == replay(folder, end=301)
        assert verify(log).is_clean
    shutil.rmtree(folder / "cache")
    impatient = Config(archive=ArchiveConfig(patience_ms=300))
    line.cut()
    with evtool.open(folder, read_only=True, config=impatient) as log:
        with pytest.raises(StoreError, match=r"\.parquet: the store does not answer") as caught:
            list(log.replay())
        assert "known-" not in caught.value.message + caught.value.hint
    line.mend_later(1.0)
    with evtool.open(folder, read_only=True) as log:  # a patient one waits for that
        assert b"".join(log.replay()) == lines


def test_a_reader_goes_on_where_its_segments_were_brought_back_meanwhile(folder: Path):
    lines = replay(make(folder, cold=8))
    archived(folder)
    asked = Config(archive=ArchiveConfig(cache_bytes=0))
    with evtool.open(folder, read_only=True, config=asked) as log:
        reading = log.replay()
        first = next(reading)
        brought_back(folder)
        assert not list(store_folder(folder).rglob("*.parquet"))
        assert first + b"".join(reading) == lines


@pytest.mark.parametrize("selected", [{"types": ["ItemViewed"]}, {"since": 0}, {}])
def test_nothing_is_fetched_behind_the_events_that_a_limit_asks_for(
    pair: tuple[Path, Path], selected: dict[str, object]
):
    _, there = pair
    asked = Config(archive=ArchiveConfig(cache_bytes=0))
    with evtool.open(there, read_only=True, config=asked) as log:
        found = b"".join(blocks(log, Selection.of(**selected), limit=2))
        assert len(found.splitlines()) == 2
        first = log.snapshot().segments[0]
        assert 0 < log.archive.fetched_bytes <= first.events_bytes
