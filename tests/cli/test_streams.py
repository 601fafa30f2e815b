"""Standard streams that are closed, full or of another encoding: results are told, or that they cannot be."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, check, environment, line, lines, numbers, run

import evtool
from evtool import shop

with_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")

READING = [
    ("replay",),
    ("stats",),
    ("stats", "--json"),
    ("verify",),
    ("verify", "--json"),
    ("inspect", "1"),
    ("inspect", "1", "--json"),
    ("--version",),
    ("--help",),
]
on_reading = pytest.mark.parametrize("command", READING, ids=" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a log of a few events lies."""
    folder = tmp_path_factory.mktemp("streams")
    run("ingest", cwd=folder, stdin=lines(*range(5)))
    return folder


def redirected(redirection: str, *command: str | bytes, cwd: Path, stdin: bytes = b"") -> tuple[int, str, bytes]:
    """The exit code of a command in a shell, and what it said and printed, none of it a traceback."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *command]
    done = subprocess.run(shell, cwd=cwd, input=stdin, env=environment(), capture_output=True, check=False)
    check(done.returncode, done.stderr, None)
    return done.returncode, done.stderr.decode(), done.stdout


@with_dev_full
@on_reading
def test_a_result_that_cannot_be_printed_is_an_error(folder: Path, command: tuple[str, ...]):
    code, told, _ = redirected(">/dev/full", *command, cwd=folder)
    assert code == 21
    assert told.count("No space left") == 1
    assert told.count("standard output") == 1


@with_dev_full
def test_a_large_result_that_cannot_be_printed_is_an_error(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=b"".join(shop.blocks(20_000, 5)))
    code, told, _ = redirected(">/dev/full", "replay", cwd=tmp_path)
    assert code == 21
    assert told.startswith("evtool: cannot use standard output: No space left on device")


@with_dev_full
def test_a_summary_that_cannot_be_printed_is_an_error_that_says_what_was_stored(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=lines(0))
    code, told, _ = redirected(">/dev/full", "ingest", "--json", cwd=tmp_path, stdin=lines(1, 2) + b"oops\n")
    assert code == 21
    assert told.startswith("evtool: cannot print to standard output: No space left on device\n")
    assert "Stored all the same: 2 events up to position 3, 1 dead letter.\n" in told
    assert "again" not in told
    assert numbers(tmp_path / "segments") == [0, 1, 2]
    code, told, _ = redirected(">/dev/full", "ingest", "--json", cwd=tmp_path, stdin=b"")
    assert "Stored all the same: 0 events, 0 dead letters." in told


@with_dev_full
def test_a_failure_whose_summary_cannot_be_printed_is_still_that_failure(tmp_path: Path):
    (tmp_path / "cut").write_bytes(b"\x1f\x8b\x08")
    code, told, _ = redirected(">/dev/full", "ingest", "--json", "cut", cwd=tmp_path)
    assert code == 4
    assert "Stored all the same: 0 events" in told
    assert "cut: its gzip data is cut short" in told


@with_dev_full
def test_a_log_that_was_made_is_told_even_if_not_printed(tmp_path: Path):
    code, told, _ = redirected(">/dev/full", "init", "--json", cwd=tmp_path)
    assert code == 21
    assert "The log was made." in told
    assert evtool.open(tmp_path / "segments").position == 0


@with_dev_full
def test_what_cannot_be_said_changes_nothing(tmp_path: Path):
    for start in (0, 1, 2):
        flags = ("--json",) if start else ()
        code, _, printed = redirected("2>/dev/full", "ingest", *flags, cwd=tmp_path, stdin=lines(start))
        assert (code, bool(printed)) == (0, bool(start))
    assert redirected("2>/dev/full", "init", cwd=tmp_path)[0] == 11
    assert redirected("2>/dev/full", "inspect", "1", cwd=tmp_path)[0] == 0
    assert redirected("2>/dev/full", "replay", "--log", "none", cwd=tmp_path)[0] == 10
    assert numbers(tmp_path / "segments") == [0, 1, 2]


@on_reading
def test_closed_streams_are_nowhere(folder: Path, command: tuple[str, ...]):
    assert redirected("<&- >&- 2>&-", *command, cwd=folder) == (0, "", b"")
    if command == ("stats", "--json"):
        assert redirected(">&-", *command, cwd=folder) == (0, "", b"")
        code, told, printed = redirected("<&- 2>&-", *command, cwd=folder)
        assert (code, told, json.loads(printed)["events"]) == (0, "", 5)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["", "json"])
def test_a_closed_stream_does_not_keep_events_out(tmp_path: Path, redirection: str, flags: tuple[str, ...]):
    code, _, _ = redirected(redirection, "ingest", *flags, cwd=tmp_path, stdin=lines(0, 1) + b"oops\n")
    assert code == 0
    assert redirected(redirection, "ingest", "none", cwd=tmp_path)[0] == 4
    # No file of the log was taken for the stream that was closed.
    assert redirected(redirection, "verify", *flags, cwd=tmp_path)[0] == 0
    assert numbers(tmp_path / "segments") == [0, 1]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("ascii", b"caf\xc3\xa9"), ("latin-1", b"caf\xc3\xa9"), ("latin-1", "漢字".encode()), ("utf-8", b"\xff\xfe")],
)
def test_a_name_that_a_stream_cannot_hold(tmp_path: Path, encoding: str, name: bytes):
    env = environment(PYTHONIOENCODING=encoding)
    run("ingest", "--log", name, cwd=tmp_path, stdin=line(0, stream_id="é"), env=env)
    run("stats", "--log", name, cwd=tmp_path, env=env)
    printed = run("stats", "--json", "--log", name, cwd=tmp_path, env=env).stdout.decode(encoding)
    assert os.fsencode(json.loads(printed)["log"]) == name
    run("inspect", "1", "--log", name, cwd=tmp_path, env=env)
    # Events are UTF-8 whatever the terminal is.
    assert json.loads(run("replay", "--log", name, cwd=tmp_path, env=env).stdout.decode())["stream_id"] == "é"
