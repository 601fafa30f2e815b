"""`evtool erase`: it shows what it would touch, asks, and is finished by whatever command comes next."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, TIMEOUT_SECONDS, environment
from compacting import compacted
from erasures import (
    MARKER,
    SMALL_COUNT,
    SMALL_PROJECTION,
    STREAM,
    check_erased,
    cut_short,
    found,
    make,
    make_small,
)
from within import failed, run

import evtool
from evtool.lifecycle.erasing import doing
from evtool.lifecycle.rewriting import rewriting_lock

ERASED = SMALL_COUNT // 4
BY_STREAM = ("--stream", STREAM)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(tmp_path_factory.mktemp("command") / "segments")


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A folder with a log in it."""
    shutil.copytree(small, tmp_path / "segments", symlinks=True)
    return tmp_path


def erase(folder: Path, *arguments: str) -> dict[str, Any]:
    found = json.loads(run("erase", *arguments, "--json", cwd=folder).stdout)
    assert isinstance(found, dict)
    return found


def test_a_plan_erases_nothing_and_yes_does(folder: Path):
    run("backup", "--to", "backups", cwd=folder)
    (folder / "evtool.toml").write_text('[backup]\nto = "backups"\n')
    told = run("erase", *BY_STREAM, "--dry-run", cwd=folder).stderr.decode()
    told += run("erase", *BY_STREAM, "--dry-run", cwd=folder).stdout.decode()
    for line in (
        f"{ERASED} of 1 stream, 1 of them whole, which get another name",
        "1 hot, 1 active: ",
        "1, with their states; 1 made again",
        "1 backup at ",
        "`evtool backup --keep 1` makes a new one",
    ):
        assert line in told
    assert found(folder / "segments") != []
    facts = erase(folder, *BY_STREAM, "--yes", "--reason", "Art. 17")
    assert facts["plan"]["events"] == facts["erased"]["counts"]["events"] == ERASED
    assert facts["erased"]["made_again"] == [SMALL_PROJECTION]
    assert len(facts["plan"]["backups"]["ids"]) == 1
    check_erased(folder / "segments")
    run("backup", "--keep", "1", cwd=folder)


def test_the_audit_tells_that_but_not_what_was_erased(folder: Path, small: Path):
    run("erase", *BY_STREAM, "--yes", "--reason", "Art. 17", cwd=folder)
    told = [json.loads(line) for line in run("audit", cwd=folder).stdout.splitlines()]
    assert [(line["command"], line["outcome"]) for line in told] == [("erase", "began"), ("erase", "done")]
    assert {line["details"]["reason"] for line in told} == {"Art. 17"}
    assert {(line["details"]["by"], line["counts"]["events"]) for line in told} == {("stream", ERASED)}
    assert len(told[-1]["details"]["segments"].split(", ")) == 2
    assert found(folder) == []


def test_nothing_is_left_in_the_archive_and_its_cache(tmp_path: Path):
    compacted(make(tmp_path / "segments"), 1 << 30)
    run("archive", "--to", "archive", "--older-than", "1d", "--by", "timestamp", cwd=tmp_path)
    run("replay", cwd=tmp_path)
    assert {path.split("/")[0] for path in found(tmp_path)} == {"archive", "segments"}
    run("erase", *BY_STREAM, "--yes", cwd=tmp_path)
    assert found(tmp_path) == []
    assert b"clean" in run("archive", "--check", cwd=tmp_path).stdout
    run("verify", cwd=tmp_path)


def test_by_a_condition(folder: Path):
    told = run("erase", "--yes", "--where", f"payload.name = '{MARKER}'", cwd=folder).stderr.decode()
    assert f"erased {ERASED} events in 2 segments: " in told
    assert f"made again: {SMALL_PROJECTION}" in told
    check_erased(folder / "segments")


def test_nothing_to_erase_has_an_exit_code(folder: Path):
    assert "nothing to erase" in failed(32, "erase", "--stream", "nobody", "--yes", cwd=folder)
    assert "nothing to erase" in failed(32, "erase", "--where", "event_type = 'No'", "--dry-run", cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--yes",), "say what is to be erased, by --stream or by --where"),
        (("--yes", *BY_STREAM, "--where", "true"), "say what is to be erased, by --stream or by --where"),
        (("--yes", "--where", "payload.name ="), "--where, line 1, column"),
        (("--yes", "--where", "payload.name"), "a condition is wanted"),
        (BY_STREAM, "there is no terminal"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(folder: Path, arguments: tuple[str, ...], told: str):
    assert told in failed(3, "erase", *arguments, cwd=folder)
    assert found(folder / "segments") != []


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_on_a_terminal_it_shows_the_plan_and_asks(folder: Path, answer: bytes, code: int):
    master, terminal = os.openpty()
    os.write(master, answer)
    done = subprocess.run(
        [*COMMAND, "erase", *BY_STREAM],
        cwd=folder,
        stdin=terminal,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    os.close(master)
    os.close(terminal)
    assert done.returncode == code
    assert b"Erase this for ever?" in done.stderr
    assert (found(folder / "segments") == []) == (code == 0)


@pytest.mark.parametrize(
    "command",
    [
        ("erase",),
        ("ingest",),
        ("project", SMALL_PROJECTION),
        ("nightly", "--only", "verify"),
        ("backup", "--to", "backups"),
    ],
)
def test_commands_that_write_finish_what_was_cut_short(folder: Path, small: Path, command: tuple[str, ...]):
    cut_short(folder / "segments", Path(shutil.copytree(small, folder / "other", symlinks=True)))
    shutil.rmtree(folder / "other")
    shutil.rmtree(folder / "backups", ignore_errors=True)
    run(*command, cwd=folder)
    assert found(folder) == []
    check_erased(folder / "segments")


def outcomes(folder: Path) -> list[str]:
    return [json.loads(line)["outcome"] for line in run("audit", cwd=folder).stdout.splitlines()]


def test_one_that_has_to_wait_says_that_nothing_was_erased(folder: Path):
    with evtool.open(folder / "segments") as log:
        lock = rewriting_lock(log)
        told = run("erase", *BY_STREAM, "--yes", cwd=folder, code=13).stderr.decode()
        lock.release()
    assert "nothing was erased" in told
    assert outcomes(folder) == ["began", "failed"]
    run("erase", *BY_STREAM, "--yes", cwd=folder)
    check_erased(folder / "segments")


def test_one_that_is_interrupted_says_who_finishes_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(doing.letters, "drop", interrupt)
        told = run("erase", *BY_STREAM, "--yes", cwd=folder, code=130).stderr.decode()
    assert "the erasure has begun: `evtool erase` finishes it" in told
    assert outcomes(folder) == ["began", "interrupted"]
    run("erase", cwd=folder)
    assert outcomes(folder) == ["began", "interrupted", "done"]
    check_erased(folder / "segments")


def test_a_dry_run_tells_of_one_that_was_cut_short_and_does_not_finish_it(folder: Path, small: Path):
    cut_short(folder / "segments", Path(shutil.copytree(small, folder / "other", symlinks=True)))
    for arguments in ((), BY_STREAM):
        told = run("erase", "--dry-run", *arguments, cwd=folder, code=None).stderr.decode()
        assert "an erasure that was cut short is not done yet: `evtool erase` finishes it" in told
        assert (folder / "segments/erasing.msgpack").exists()


def test_a_command_goes_on_where_it_cannot_be_finished(folder: Path, small: Path):
    cut_short(folder / "segments", Path(shutil.copytree(small, folder / "other", symlinks=True)))
    path = folder / "segments/erasing.msgpack"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    told = run("stats", cwd=folder).stderr + run("ingest", cwd=folder).stderr
    assert b"an erasure is not done yet" in told
    assert "say once more" in failed(14, "erase", cwd=folder)
