"""`evtool backup` and `evtool restore`: what they say, their exit codes, and how they are configured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import as_json, digest, failed, line, numbers, run
from faults import flip
from samples import config

import evtool
from evtool.errors import BackupDamagedError, BackupError, ConfigError, LogExistsError, PositionError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a log of two sealed segments and an active one."""
    (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    append(tmp_path, *range(100))
    append(tmp_path, *range(100, 200))
    append(tmp_path, *range(200, 250))
    return tmp_path


def append(home: Path, *numbers: int) -> None:
    """Append events in a batch, as lines of `line` would."""
    events = [json.loads(line(number, metadata={"fill": os.urandom(900).hex()})) for number in numbers]
    with evtool.open(home / "segments", create=True, config=config(segment_bytes=64 * 1024)) as log:
        log.append(events)


def test_the_way_there_and_back(home: Path):
    before = digest(home / "segments")
    told = run("backup", "--to", "kept", cwd=home).stderr.decode()
    assert told.startswith("backup 00000001-")
    assert "position 250" in told
    assert b"nothing has changed since backup 00000001-" in run("backup", "--to", "kept", cwd=home).stderr
    append(home, 1000, 1001)
    facts = as_json("backup", "--to", f"file://{home}/kept", cwd=home)
    assert (facts["new"], facts["position"], facts["events"], facts["stored"], facts["removed"]) == (
        *(True, 252, 252, 1),
        None,
    )
    first, second = as_json("backup", "list", "kept", cwd=home)["backups"]
    assert (first["position"], second["position"], second["id"]) == (250, 252, facts["backup"])
    shown = run("backup", "list", "kept", cwd=home).stdout.decode().splitlines()
    assert [row.split()[0] for row in shown[1:]] == [first["id"], second["id"]]
    assert b"clean" in run("backup", "--check", "kept", cwd=home).stdout
    told = run("restore", "--from", "kept", "--to", "old", "--backup", first["id"], cwd=home).stderr.decode()
    assert "250 events up to position 250" in told
    assert "every byte is verified" in told
    assert before in told
    assert digest(home / "old") == before
    found = as_json("restore", "--from", "kept", "--to", "new", "--no-verify", cwd=home)
    assert (found["position"], found["verified"], found["digest"], found["clean"]) == (252, "fast", None, True)
    assert numbers(home / "new") == [*range(250), 1000, 1001]
    told = run("restore", "--from", "kept", "--to", "cut", "--until", "id:e-120", cwd=home).stderr.decode()
    assert "120 events up to position 120" in told
    assert numbers(home / "cut") == [*range(120)]


def test_it_is_configured(home: Path):
    with (home / "evtool.toml").open("a") as file:
        file.write('[backup]\nto = "kept"\nkeep = 2\n')
    below = home / "below"
    below.mkdir()
    ids = []
    for number in range(3):
        append(home, 1000 + number)
        ids.append(as_json("backup", cwd=below)["backup"])
    assert (home / "kept" / "backups").is_dir()  # relative to evtool.toml
    assert [each["id"] for each in as_json("backup", "list", cwd=below)["backups"]] == ids[1:]
    (home / "segments").rename(home / "lost")
    run("restore", cwd=home)
    assert numbers(home / "segments") == numbers(home / "lost")
    append(home, 2000)
    told = run("backup", "--keep", "1", cwd=home).stderr.decode()
    assert "removed 2 older backups and 0 objects" in told


def test_a_night_makes_one_where_it_is_configured(home: Path):
    only = ("nightly", "--skip", "recompute", "--skip", "snapshot")
    assert "backup" not in {step["name"] for step in as_json(*only, cwd=home)["steps"]}
    with (home / "evtool.toml").open("a") as file:
        file.write('[backup]\nto = "kept"\nkeep = 5\n')
    night = as_json(*only, cwd=home)
    (step,) = (step for step in night["steps"] if step["name"] == "backup")
    assert (step["outcome"], step["facts"]["position"], step["facts"]["new"]) == ("ok", 250, True)
    (home / "kept" / "backups").rename(home / "kept" / "moved")
    (home / "kept" / "backups").write_text("")
    assert b"backup: failed" in run(*only, cwd=home, code=20).stderr


def test_what_cannot_be_is_told(home: Path):
    wrong, exists = ConfigError.exit_code, LogExistsError.exit_code
    assert "is not said where" in failed(wrong, "backup", cwd=home)
    assert "is not said where" in failed(wrong, "restore", "--to", "x", cwd=home)
    assert "--keep" in failed(wrong, "backup", "--to", "kept", "--keep", "0", cwd=home)
    assert "makes no backup" in failed(wrong, "backup", "--check", "kept", "--keep", "2", cwd=home)
    missing = BackupError.exit_code
    assert "there is no backup at" in failed(missing, "restore", "--from", "kept", "--to", "x", cwd=home)
    assert b"there is no backup at" in run("backup", "list", "kept", cwd=home).stderr
    run("backup", "--to", "kept", cwd=home)
    another = ("restore", "--from", "kept", "--to", "x", "--backup", "7")
    assert "has no backup 7" in failed(missing, *another, cwd=home)
    assert "not empty" in failed(exists, "restore", "--from", "kept", cwd=home)
    unknown = ("restore", "--from", "kept", "--to", "x", "--until", "nobody")
    assert "nobody" in failed(PositionError.exit_code, *unknown, cwd=home)


def test_damage_is_told_with_what_it_costs(home: Path):
    run("backup", "--to", "kept", cwd=home)
    append(home, 1000)
    run("backup", "--to", "kept", cwd=home)
    largest = max((home / "kept" / "objects").glob("*/*"), key=lambda path: path.stat().st_size)
    flip(largest, 1000)
    done = run("backup", "--check", "kept", cwd=home, code=BackupDamagedError.exit_code)
    told = done.stderr.decode()
    assert largest.name in told
    assert "frames.log" in told
    assert "needed by 00000001-" in told
    assert b"1 damaged" in done.stdout
    facts = json.loads(run("backup", "--check", "kept", "--json", cwd=home, code=29).stdout)
    assert (facts["clean"], len(facts["damaged"]), len(facts["backups"])) == (False, 1, 2)
    assert largest.name in failed(29, "restore", "--from", "kept", "--to", "again", cwd=home)


def test_a_place_in_the_log_s_own_folder_is_refused(home: Path):
    (home / "alias").symlink_to("segments")
    for url in ("segments", "segments/kept", f"file://{home}/segments/kept", "alias/kept"):
        assert "own folder" in failed(ConfigError.exit_code, "backup", "--to", url, cwd=home)
    assert not (home / "segments" / "kept").exists()
    run("backup", "--to", ".", cwd=home)  # the folder around it is another one


def test_a_flag_of_backup_before_list_is_not_left_out_without_a_word(home: Path):
    run("backup", "--to", "kept", cwd=home)
    for flags in (("--to", "kept"), ("--check", "kept"), ("--keep", "1")):
        assert "list takes no --to" in failed(ConfigError.exit_code, "backup", *flags, "list", cwd=home)


def test_an_object_that_had_gone_is_told_when_it_is_stored_again(home: Path):
    run("backup", "--to", "kept", cwd=home)
    next((home / "kept" / "objects").rglob("*/*")).unlink()
    assert b"1 object had gone" in run("backup", "--to", "kept", cwd=home).stderr
    assert b"clean" in run("backup", "--check", "kept", cwd=home).stdout


def test_the_help_of_restore_names_the_default_of_from(home: Path):
    told = " ".join(run("restore", "--help", cwd=home).stdout.decode().split())
    assert "Where the backups are. (default: evtool.toml)" in told
