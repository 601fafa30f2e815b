"""`evtool archive`: what it says, its exit codes, how it is configured, and what nights and backups do with it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from archives import COUNT, SMALL, archived, make, objects, stubs
from backing import digest, replay
from command_line import as_json, failed, run
from samples import make_log, many

from evtool.cli.archive import check_flags
from evtool.errors import (
    AccessDeniedError,
    ArchiveError,
    ConfigError,
    LogDamagedError,
    StoreError,
)

MOVING = ("--to", "--older-than", "--by", "--keep-local", "--dry-run")
OTHERS = ("--check", "--bring-back", "--moved-to")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a log of three cold segments, a sealed one and an active one."""
    make(tmp_path / "segments", cold=3)
    return tmp_path


def test_the_way_there_and_back(home: Path):
    log = home / "segments"
    wanted, before = replay(log), digest(log)
    told = run("archive", "--to", "archive", "--dry-run", cwd=home).stderr.decode()
    assert told.startswith("would move 3 segments, up to position 300, to file://")
    assert "300 events of 2026-01-01" in told
    assert "1 segment that is due and not compacted" in told
    assert "evtool compact" in told
    assert stubs(log) == []
    told = run("archive", "--to", "archive", cwd=home).stderr.decode()
    assert "moved 3 segments" in told
    assert "up to position 300" in told
    assert run("replay", cwd=home).stdout == wanted
    told = run("archive", cwd=home).stderr.decode()
    assert told.startswith("nothing to move; 3 segments at file://")
    shown = run("archive", "--check", cwd=home).stdout.decode()
    assert "3 segments at file://" in shown
    assert "clean" in shown
    told = run("archive", "--bring-back", "--from", "@201", cwd=home).stderr.decode()
    assert "brought 1 segment back" in told
    assert "2 stay there" in told
    facts = as_json("archive", "--bring-back", "--all", cwd=home)
    assert (facts["segments"], facts["left"], facts["is_over"]) == (2, 0, True)
    assert objects(log) == []
    lines = [json.loads(text) for text in (log / "audit.ndjson").read_bytes().splitlines()]
    told = [(each["command"], each["outcome"], each["counts"]["segments"]) for each in lines]
    assert told == [
        ("archive", "done", 3),
        ("archive --bring-back", "done", 1),
        ("archive --bring-back", "done", 2),
    ]
    assert (replay(log), digest(log)) == (wanted, before)


def test_it_is_configured_and_moves_when_it_was_copied(home: Path):
    (home / "evtool.toml").write_text('[archive]\nto = "archive"\nolder_than = "1h"\nby = "timestamp"\n')
    below = home / "below"
    below.mkdir()
    facts = as_json("archive", "--log", home / "segments", cwd=below)
    assert facts["url"] == (home / "archive").as_uri()  # relative to evtool.toml
    assert (facts["segments"], facts["moved"]["segments"], facts["first"][:10]) == (3, 3, "2026-01-01")
    wanted = replay(home / "segments")
    assert "--moved-to" in failed(ArchiveError.exit_code, "archive", "--to", "elsewhere", cwd=home)
    shutil.copytree(home / "archive", home / "elsewhere")
    assert b"elsewhere now" in run("archive", "--moved-to", "elsewhere", cwd=home).stderr
    shutil.rmtree(home / "archive")
    assert run("replay", cwd=home).stdout == wanted


def test_what_cannot_be_is_told_and_the_log_is_as_it_was(home: Path):
    log, wrong = home / "segments", ConfigError.exit_code
    wanted = replay(log)
    assert "is not said where" in failed(wrong, "archive", cwd=home)
    assert "as in 90d" in failed(wrong, "archive", "--to", "x", "--older-than", "90", cwd=home)
    assert "among the files of the log" in failed(wrong, "archive", "--to", "segments/x", cwd=home)
    assert "do not go together" in failed(wrong, "archive", "--check", "--to", "x", cwd=home)
    assert "has no archive" in failed(ArchiveError.exit_code, "archive", "--check", cwd=home)
    (home / "file").write_text("")
    failed(20, "archive", "--to", "file", "--json", cwd=home)
    archived(make(home / "other", cold=1), to=(home / "archive").as_uri())
    code = ArchiveError.exit_code
    assert "is of the log" in failed(code, "archive", "--to", "archive", "--json", cwd=home)
    env = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}
    env |= {"AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    (home / "evtool.toml").write_text("[archive]\npatience_ms = 200\n")
    told = failed(StoreError.exit_code, "archive", "--to", "s3://x/y", "--json", cwd=home, env=env)
    assert "does not answer" in told
    assert replay(log) == wanted
    assert stubs(log) == []
    assert not (log / "archive.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_must_not_be_written_is_told(home: Path):
    (home / "archive").mkdir(mode=0o500)
    failed(AccessDeniedError.exit_code, "archive", "--to", "archive", "--json", cwd=home)
    assert stubs(home / "segments") == []


def test_damage_is_told_by_check_and_by_verify(home: Path):
    archived(home / "segments", to=(home / "archive").as_uri())
    first = sorted((home / "archive").glob("events/*/*"))[0]
    data = first.read_bytes()
    first.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    code = LogDamagedError.exit_code
    done = run("archive", "--check", cwd=home, code=code)
    assert b"1 damaged" in done.stdout
    assert b"positions 1 to 100" in done.stderr
    facts = json.loads(run("archive", "--check", "--json", cwd=home, code=code).stdout)
    assert (facts["clean"], len(facts["damaged"])) == (False, 1)
    run("verify", cwd=home, code=code)


def test_a_night_archives_behind_the_backup_and_reads_nothing_of_what_is_there(home: Path):
    steps = ("nightly", "--only", "verify", "--only", "compact", "--only", "backup", "--only", "archive")
    (home / "evtool.toml").write_text(
        '[backup]\nto = "kept"\n[archive]\nto = "archive"\n[log]\nmaterialise = []\n'
    )
    first = {step["name"]: step for step in as_json(*steps, cwd=home)["steps"] if step["outcome"] == "ok"}
    assert list(first) == ["verify", "compact", "backup", "archive"]
    moved = first["archive"]["facts"]["segments"]
    assert moved == first["archive"]["facts"]["segments"] >= 1
    assert first["verify"]["facts"]["archived"] == 0
    make_log(home / "segments", [many(COUNT, 10_000)], SMALL)
    shutil.move(home / "archive" / "events", home / "archive" / "hidden")
    done = run(*steps, "--skip", "archive", cwd=home, code=LogDamagedError.exit_code)
    assert b"it is missing" in done.stderr
    assert b"backup: ok" in done.stderr  # which has these events already, and does not ask for them
    shutil.move(home / "archive" / "hidden", home / "archive" / "events")
    told = run(*steps, cwd=home).stderr.decode()
    assert "archived segment" in told
    assert "by size" in told
    assert "archive: ok" in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"--check": True, "--to": "x"}, "do not go together"),
        ({"--check": True, "--bring-back": True, "--all": True}, "do not go together"),
        ({"--quick": True}, "--quick is of --check"),
        ({"--bring-back": True}, "how much"),
        ({"--bring-back": True, "--all": True, "--from": "@1"}, "how much"),
        ({"--from": "@1"}, "of --bring-back"),
        ({"--moved-to": "x", "--all": True}, "of --bring-back"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags: dict[str, Any], told: str):
    moving, others = ({name: flags.get(name) for name in names} for names in (MOVING, OTHERS))
    quick, since, everything = flags.get("--quick", False), flags.get("--from"), flags.get("--all", False)
    with pytest.raises(ConfigError, match=told):
        check_flags(moving, others, quick, since, everything)
