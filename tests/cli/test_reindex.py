"""`evtool reindex`: the indexes come from the log, and nothing of it is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import as_json, digest, failed, line, lines, numbers, run

import evtool
from evtool.errors import LogReadOnlyError
from evtool.files import Files
from evtool.log import caches
from evtool.log.ids import EventIds
from evtool.log.sequence import SPLIT_EVENTS_MIN

COUNT = 300


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of several segments, streams and sources."""
    (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    for start in range(0, COUNT, 100):
        data = b"".join(
            line(n, source_id=f"source-{n % 3}", metadata={"fill": os.urandom(300).hex()})
            for n in range(start, start + 100)
        )
        run("ingest", cwd=tmp_path, stdin=data)
    assert len(list((tmp_path / "segments").glob("0*"))) > 1
    return tmp_path / "segments"


def test_it_says_what_there_is(log: Path):
    before = digest(log)
    told = run("reindex", cwd=log.parent).stderr.decode()
    assert told.startswith("indexed 300 ids, 5 streams, 3 sources in ")
    found = as_json("reindex", cwd=log.parent)
    assert found.pop("seconds") > 0
    assert found == {"log": str(log), "ids": COUNT, "streams": 5, "sources": 3}
    assert digest(log) == before


def test_progress_counts_events_whatever_frame_they_are_in(log: Path, monkeypatch: pytest.MonkeyPatch):
    run("ingest", cwd=log.parent, stdin=lines(*range(COUNT, COUNT + SPLIT_EVENTS_MIN)))  # a frame a partition
    monkeypatch.setattr(caches, "_IDS_TOGETHER", 1)
    told: list[tuple[int, int]] = []
    with evtool.open(log) as opened:
        opened.reindex(lambda done, total: told.append((done, total)))
    frames = sum(len(segment.event_rows()) for segment in evtool.open(log, read_only=True).snapshot().segments)
    count = COUNT + SPLIT_EVENTS_MIN
    assert (len(told), told) == (frames, sorted(told))
    assert {total for _, total in told} == {count}
    assert told[-1] == (count, count)


def test_an_index_that_lies_is_made_true(log: Path):
    manifest = evtool.open(log, read_only=True).manifest
    table = EventIds(Files(), log / "index", manifest.id_bytes)
    synced = table.applied
    table.reset()  # it has forgotten every id, and says that it is complete
    table.mark_applied(synced)
    table.close()
    duplicate = run("replay", "--limit", "1", cwd=log.parent).stdout
    # Nobody knows it any more; only its version tells that it is not new.
    assert as_json("ingest", "--log", log, cwd=log.parent, stdin=duplicate)["dead_letters"] == 1
    assert as_json("reindex", cwd=log.parent)["ids"] == COUNT
    assert as_json("ingest", "--log", log, cwd=log.parent, stdin=duplicate)["duplicates"] == 1
    assert numbers(log) == list(range(COUNT))


def test_an_index_that_is_gone_or_broken_comes_back(log: Path):
    for path in (log / "index").iterdir():
        path.write_bytes(os.urandom(5000))
    assert as_json("reindex", cwd=log.parent)["ids"] == COUNT
    for path in (log / "index").iterdir():
        path.unlink()
    assert as_json("reindex", cwd=log.parent)["streams"] == 5


def test_it_is_a_writer_like_any_other(log: Path):
    with evtool.open(log) as opened:
        opened.writer()
        assert f"process {os.getpid()}" in failed(13, "reindex", cwd=log.parent)
        # In a program it goes on with the log that it has.
        assert opened.reindex().ids == COUNT
        event = {"event_id": "new", "source_id": "s", "stream_id": "u", "event_type": "t"}
        assert opened.append([event]).first_position == COUNT + 1
        assert opened.append([event]).duplicates == 1
    with pytest.raises(LogReadOnlyError), evtool.open(log, read_only=True) as opened:
        opened.reindex()
    assert "there is no log" in failed(10, "reindex", "--log", "nowhere", cwd=log.parent)


def test_an_empty_log_has_an_empty_index(tmp_path: Path):
    run("init", cwd=tmp_path)
    assert as_json("reindex", cwd=tmp_path)["ids"] == 0
    run("ingest", cwd=tmp_path, stdin=lines(0))
    assert as_json("reindex", cwd=tmp_path)["ids"] == 1
