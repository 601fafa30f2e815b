"""`evtool ingest` on a slow pipe: events are there soon, and a signal loses none of them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from command_line import check, digest, letters, line, lines, numbers, run, start

import evtool
from evtool.errors import LogNotFoundError

PATIENCE_SECONDS = 60
STOPPED = re.compile(r"stopped behind line ([\d,]+) of (.+); everything up to there is committed")


def position(log: Path) -> int:
    """What a reader sees now."""
    try:
        with evtool.open(log, read_only=True) as opened:
            return opened.position
    except LogNotFoundError:
        return 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def ended(process: subprocess.Popen[bytes], code: int) -> str:
    """Wait for the end, and return what was said."""
    stderr, stdout = process.stderr, process.stdout
    assert stderr is not None
    assert stdout is not None
    told = stderr.read()
    process.wait(PATIENCE_SECONDS)
    for pipe in (process.stdin, stdout, stderr):
        _close(pipe)
    check(process.returncode, told, code)
    return told.decode()


def _close(pipe: IO[bytes] | None) -> None:
    assert pipe is not None
    pipe.close()


def test_what_comes_slowly_is_there_while_the_pipe_is_still_open(tmp_path: Path):
    log = tmp_path / "segments"
    process = start("ingest", cwd=tmp_path)
    for number in range(5):
        send(process, line(number))
        wait_until(lambda wanted=number + 1: position(log) == wanted)
    send(process, b"oops\n")
    wait_until(lambda: len(letters(log)) == 1)
    assert process.poll() is None
    send(process, line(5).rstrip(b"\n"))
    assert process.stdin is not None
    process.stdin.close()
    assert "accepted 6 events" in ended(process, 0)
    assert numbers(log) == list(range(6))


def test_lines_that_keep_coming_do_not_hold_back_those_before_them(tmp_path: Path):
    # One every few milliseconds: there is never a pause, so only the latency cuts a batch.
    log = tmp_path / "segments"
    process = start("ingest", "--max-latency", "100ms", cwd=tmp_path)
    number = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while position(log) == 0:
        assert time.monotonic() < deadline
        send(process, line(number))
        number += 1
        time.sleep(0.005)
    assert process.stdin is not None
    process.stdin.close()
    assert f"accepted {number:,} events" in ended(process, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("latency", ["1h", "50ms"], ids=["batch in hand", "all on disk"])
def test_a_signal_commits_what_is_in_hand_and_says_where_it_stopped(
    tmp_path: Path, number: signal.Signals, code: int, latency: str
):
    log = tmp_path / "segments"
    whole = [line(n) if n % 10 else b"oops %d\n" % n for n in range(3000)]
    process = start("ingest", "--max-latency", latency, cwd=tmp_path)
    send(process, b"".join(whole[:999]) + whole[999][:20])  # the last one is not whole
    if latency == "1h":
        wait_until((log / "log.json").exists)
        time.sleep(1)  # for the lines to be read; too little of it makes the stop come earlier, not wrong
    else:
        wait_until(lambda: position(log) == 899)
    process.send_signal(number)
    told = STOPPED.search(ended(process, code))
    assert told is not None
    assert told[2] == "stdin"
    reached = int(told[1].replace(",", ""))
    assert reached == 999 if latency != "1h" else reached <= 999
    assert numbers(log) == [n for n in range(reached) if n % 10]
    assert [letter["line"] for letter in letters(log)] == [n + 1 for n in range(reached) if n % 10 == 0]
    # Going on behind that line gives what it would have been in one go.
    run("ingest", cwd=tmp_path, stdin=b"".join(whole[reached:]))
    assert numbers(log) == [n for n in range(3000) if n % 10]
    assert len(letters(log)) == 300
    digest(log)


def test_a_signal_stops_a_long_file_at_a_line_and_the_rest_makes_it_whole(tmp_path: Path):
    count = 400_000
    path = tmp_path / "long.ndjson"
    data = b"".join(
        b'{"event_id":"%d","source_id":"s","stream_id":"u","event_type":"t"}\n' % n for n in range(count)
    )
    path.write_bytes(data)
    log = tmp_path / "segments"
    flags = ("--batch-events", "1000", "--json")
    process = start("ingest", "long.ndjson", *flags, cwd=tmp_path)
    wait_until(lambda: position(log) > 0)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    printed = process.stdout.read()
    told = STOPPED.search(ended(process, 130))
    if told is None:
        pytest.skip("the machine was quicker than the signal")
    assert told[2] == "long.ndjson"
    reached = int(told[1].replace(",", ""))
    assert 0 < reached < count
    assert position(log) == reached
    assert f'"accepted": {reached}'.encode() in printed
    assert f'"stopped_at": {{"input": "long.ndjson", "line": {reached}}}'.encode() in printed
    rest = b"".join(data.splitlines(keepends=True)[reached:])
    run("ingest", cwd=tmp_path, stdin=rest)
    with evtool.open(log, read_only=True) as opened:
        ids = [text for frame in opened.scan(columns=["event_id"]) for text in frame["event_id"].to_list()]
    assert ids == [str(n) for n in range(count)]


def test_a_signal_before_anything_came_says_so(tmp_path: Path):
    told, patience_seconds = "", 0.05
    while not told:  # it came before ingest was ready for it, and ended the process like any other
        assert patience_seconds < PATIENCE_SECONDS
        process = start("ingest", "--json", cwd=tmp_path)
        wait_until((tmp_path / "segments" / "log.json").exists)
        time.sleep(patience_seconds)
        patience_seconds *= 4
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        printed = process.stdout.read()
        told = ended(process, 130)
    assert told.startswith("stopped before anything was committed")
    assert b'"accepted": 0' in printed
    assert b'"stopped_at": {"input": null, "line": 0}' in printed
    assert position(tmp_path / "segments") == 0


def test_a_second_signal_ends_it_at_once_and_the_log_stays_whole(tmp_path: Path):
    log = tmp_path / "segments"
    process = start("ingest", "--max-latency", "50ms", cwd=tmp_path)
    send(process, lines(*range(100)))
    wait_until(lambda: position(log) == 100)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    ended(process, 130)
    assert numbers(log) == list(range(100))
