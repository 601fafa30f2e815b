"""`evtool repair`: it shows what it would do, asks, does it, and what was made from the log goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import line
from faults import flip
from within import failed, run

import evtool


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of some sealed segments, and an active one."""
    tmp_path = tmp_path_factory.mktemp("made")
    (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\npartitions = 2\n')
    for start in range(0, 2_500, 500):
        data = b"".join(
            line(number, timestamp="2026-01-01T00:00:00Z", payload={"text": f"{number * 7919:060d}"})
            for number in range(start, start + 500)
        )
        run("ingest", cwd=tmp_path, stdin=data)
    return tmp_path


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "here")


def segments(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "segments").iterdir() if path.name.isdigit())


def damage(folder: Path) -> None:
    flip(segments(folder)[0] / "frames.log", 3_000)


def compacted(folder: Path) -> None:
    """Let all of its events be in a cold segment."""
    with evtool.open(folder / "segments") as log:
        log.seal()
    run("compact", cwd=folder)


def as_json(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(run("repair", *arguments, "--json", cwd=folder, code=code).stdout)
    assert isinstance(found, dict)
    return found


def everything(folder: Path) -> dict[Path, bytes]:
    """All files but locks, which name their holders while they are held."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    }


def test_a_log_that_is_whole_has_nothing_to_repair(here: Path):
    before = everything(here)
    assert run("repair", "--yes", cwd=here).stderr == b"nothing to repair\n"
    assert as_json(here, "--yes")["lost"] == []
    assert everything(here) == before


def test_it_shows_what_is_lost_and_asks_before_it_changes_anything(here: Path):
    damage(here)
    before = everything(here)
    assert "there is no terminal" in failed(3, "repair", cwd=here)
    shown = run("repair", "--dry-run", cwd=here)
    assert b"lost: 500 events, positions 1 to 500" in shown.stderr
    assert b"written anew without what is lost" in shown.stdout
    assert as_json(here, "--dry-run")["lost"] == [[1, 500]]
    assert everything(here) == before
    done = run("repair", "--yes", cwd=here)
    assert b"repaired: the log is whole, 2,000 events up to position 2,500" in done.stderr
    run("verify", cwd=here)
    assert b"500 lost" in run("stats", cwd=here).stdout
    assert len(run("replay", cwd=here).stdout.splitlines()) == 2_000
    told = [json.loads(text) for text in run("audit", cwd=here).stdout.splitlines()][-2:]
    assert [(one["command"], one["outcome"], one["counts"]["lost_events"]) for one in told] == [
        ("repair", "began", 500),
        ("repair", "done", 500),
    ]


def test_what_was_made_of_lost_events_is_kept_and_goes_on(here: Path):
    run("project", "event-counts", cwd=here)
    damage(here)
    run("repair", "--yes", cwd=here)
    run("ingest", cwd=here, stdin=line(9_000, timestamp="2026-01-01T00:00:00Z"))
    rows = run("project", "event-counts", "--format", "csv", cwd=here).stdout.splitlines()[1:]
    assert sum(int(row.split(b",")[-1]) for row in rows) == 2_501
    report = json.loads(run("nightly", "--json", cwd=here).stdout)
    (recomputed,) = next(step["facts"]["projections"] for step in report["steps"] if step["name"] == "recompute")
    assert recomputed["is_kept"]
    full = run("project", "event-counts", "--full", "--format", "csv", cwd=here)
    assert sum(int(row.split(b",")[-1]) for row in full.stdout.splitlines()[1:]) == 2_001
    assert b"500 events" in full.stderr


def test_a_backup_of_evtool_toml_is_asked_and_brings_everything_back(here: Path):
    config = (here / "evtool.toml").read_text()
    (here / "evtool.toml").write_text(config + '[backup]\nto = "backups"\n')
    run("project", "event-counts", cwd=here)
    run("backup", cwd=here)
    digest = json.loads(run("verify", "--json", cwd=here).stdout)["digest"]
    damage(here)
    assert as_json(here, "--dry-run", "--without-backup")["lost_events"] == 500
    found = as_json(here, "--yes")
    assert (found["lost_events"], found["filled_events"], found["digest"]) == (0, 500, digest)
    assert json.loads(run("nightly", "--json", cwd=here).stdout)["exit_code"] == 0
    run("backup", cwd=here)


def test_a_store_that_is_down_or_of_another_log_is_a_sentence_and_the_log_stays(here: Path, tmp_path: Path):
    damage(here)
    run("ingest", "--log", "other", cwd=here, stdin=line(1))
    run("backup", "--log", "other", "--to", "others", cwd=here)
    before = everything(here / "segments")
    assert "there is no backup at" in failed(28, "repair", "--yes", "--from", "nowhere", cwd=here)
    assert "are of the log" in failed(28, "repair", "--yes", "--from", "others", cwd=here)
    assert everything(here / "segments") == before


def test_a_damaged_log_json_is_brought_back(here: Path):
    path = here / "segments" / "log.json"
    whole = path.read_bytes()
    flip(path, whole.index(b'"id"') + 1)
    failed(14, "stats", cwd=here)
    run("repair", "--yes", cwd=here)
    assert path.read_bytes() == whole
    path.unlink()
    assert "nothing tells what it was" in failed(14, "repair", "--yes", cwd=here)


def test_what_it_cannot_mend_is_named_with_who_can(here: Path):
    run("project", "event-counts", cwd=here)
    (parquet,) = (here / "segments" / "read-models").rglob("*.parquet")
    flip(parquet, 50)
    done = run("repair", "--yes", cwd=here, code=24)
    assert b"left as it is" in done.stderr
    assert b"evtool project" in done.stderr


def test_a_writer_keeps_it_from_beginning(here: Path):
    import evtool

    damage(here)
    with evtool.open(here / "segments") as log:
        log.writer()
        assert "is being written by" in failed(13, "repair", "--yes", cwd=here)


def test_a_damaged_object_of_the_archive_is_told_when_it_is_read_and_comes_from_a_backup(here: Path):
    compacted(here)
    run("archive", "--to", "archive", cwd=here)
    run("backup", "--to", "backups", cwd=here)
    for path in (here / "archive").glob("events/*/*.parquet"):
        flip(path, 900)
    assert run("repair", "--dry-run", cwd=here).stderr == b"nothing to repair\n"
    told = run("repair", "--read-archive", "--dry-run", cwd=here, code=14).stderr
    assert b"it is not what was stored" in told
    done = run("repair", "--read-archive", "--from", "backups", "--yes", cwd=here)
    assert b"made whole from the backup" in done.stdout
    run("verify", cwd=here)


def test_a_missing_events_file_is_told_in_a_few_lines(here: Path):
    compacted(here)
    path = next((here / "segments").glob("*/*.parquet"))
    path.unlink()
    shown = run("repair", "--dry-run", cwd=here).stderr
    assert b"events-1.parquet: it is missing" in shown
    assert len(shown.splitlines()) <= 8
