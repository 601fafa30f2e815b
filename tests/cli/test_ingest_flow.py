"""`evtool ingest` as a part of something larger: acknowledgements, loads that go on, exit codes."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import as_json, check, digest, failed, letters, line, lines, numbers, run, start

ACK_KEYS = [
    "batch",
    "first_position",
    "last_position",
    "accepted",
    "duplicates",
    "dead_letters",
    "input",
    "line",
    "bytes",
]


def acks(printed: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in printed.splitlines()]


def small(number: int) -> bytes:
    return b'{"event_id":"%d","source_id":"s","stream_id":"u","event_type":"t","payload":{"n":%d}}\n' % (
        number,
        number,
    )


def test_each_batch_is_told_and_the_summary_comes_last(tmp_path: Path):
    (tmp_path / "in").write_bytes(lines(*range(10)) + b"bad\n" + lines(10, 11, 0))
    done = run("ingest", "in", "--ack", "--json", "--batch-events", "5", cwd=tmp_path)
    *told, summary = acks(done.stdout)
    assert all(list(ack) == ACK_KEYS for ack in told)
    assert [(ack["batch"], ack["first_position"], ack["last_position"]) for ack in told] == [
        (1, 1, 5),
        (2, 6, 10),
        (3, 11, 12),
    ]
    counts = [(ack["line"], ack["dead_letters"], ack["duplicates"]) for ack in told]
    assert counts == [(5, 0, 0), (10, 0, 0), (14, 1, 1)]
    assert told[-1]["bytes"] == summary["bytes_in"]
    assert {ack["input"] for ack in told} == {"in"}
    assert summary["accepted"] == 12


def test_what_stores_nothing_new_is_told_too(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=lines(0, 1))
    for data, counts in [(lines(0, 1), (0, 2, 0)), (b"bad\n", (0, 0, 1)), (b"\n", (0, 0, 0))]:
        (ack,) = acks(run("ingest", "--ack", cwd=tmp_path, stdin=data).stdout)
        assert (ack["accepted"], ack["duplicates"], ack["dead_letters"]) == counts
        assert ack["batch"] is ack["first_position"] is ack["last_position"] is None
        assert (ack["input"], ack["line"]) == ("stdin", data.count(b"\n"))
    assert run("ingest", "--ack", cwd=tmp_path).stdout == b""


def test_an_acknowledgement_comes_while_the_pipe_is_open(tmp_path: Path):
    process = start("ingest", "--ack", "--max-latency", "30ms", cwd=tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        process.stdin.write(line(number))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["line"] == number + 1
        assert numbers(tmp_path / "segments") == list(range(number + 1))
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_producer_that_goes_on_behind_the_last_acknowledgement_sends_all_of_it_once(
    tmp_path: Path, number: signal.Signals
):
    chosen, whole, reached, kills = random.Random(7), [small(n) for n in range(60_000)], 0, 0
    while reached < len(whole):
        process = start("ingest", "--ack", "--batch-events", "2000", cwd=tmp_path)
        assert process.stdin is not None
        data = b"".join(whole[reached:])
        if kills < 5:
            part = data[: chosen.randrange(len(data))]
            if number == signal.SIGTERM:  # after which it may see the end of the pipe, and half a line would count
                part = part[: part.rfind(b"\n") + 1]
            _send(process, part)
            time.sleep(chosen.random() / 2)
            process.send_signal(number)
            kills += 1
        else:
            _send(process, data)
        printed, told = process.communicate(timeout=100)
        check(process.returncode, told, None)
        # A line that the kill has cut in two was never acknowledged.
        told_of = [json.loads(text) for text in printed.split(b"\n")[:-1]]
        reached += told_of[-1]["line"] if told_of else 0
    assert numbers(tmp_path / "segments") == list(range(len(whole)))
    digest(tmp_path / "segments")


def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        process.stdin.flush()
    except BrokenPipeError:
        pass


@pytest.mark.parametrize("compress", [bytes, lambda data: gzip.compress(data, 1)], ids=["plain", "gzip"])
def test_a_load_that_is_killed_again_and_again_goes_on_and_has_all_of_it_once(tmp_path: Path, compress: Any):
    count = 200_000
    whole = [small(n) if n % 50 else b"bad %d\n" % n for n in range(count)]
    (tmp_path / "large").write_bytes(compress(b"".join(whole)))
    command = ("ingest", "large", "--resume", "nightly", "--batch-events", "5000")
    chosen, starts = random.Random(3), []
    for _ in range(5):
        process = start(*command, "--ack", cwd=tmp_path)
        assert process.stdout is not None
        for _ in range(chosen.randint(1, 4)):
            process.stdout.readline()
        process.kill()
        _, told = process.communicate(timeout=100)
        starts += [text for text in told.decode().splitlines() if text.startswith("going on behind line ")]
    assert len(starts) == 4
    assert len(set(starts)) == 4
    rest = as_json(*command, cwd=tmp_path)
    assert rest["duplicates"] == 0
    assert 0 < rest["accepted"] < count
    assert numbers(tmp_path / "segments") == [n for n in range(count) if n % 50]
    assert [letter["line"] for letter in letters(tmp_path / "segments")] == [n + 1 for n in range(0, count, 50)]
    digest(tmp_path / "segments")
    assert as_json(*command, cwd=tmp_path)["bytes_in"] == 0


def test_an_interrupted_load_goes_on_from_a_pipe(tmp_path: Path):
    data = b"".join(small(n) for n in range(5000))
    for part in (data[:100_001], data[:200_001], data):
        run("ingest", "--resume", "p", cwd=tmp_path, stdin=part)
    assert numbers(tmp_path / "segments") == list(range(5000))
    with (tmp_path / "as-file").open("wb+") as file:
        file.write(b"what someone else reads\n" + data + small(5000))
        file.seek(24)
        run("ingest", "--resume", "p", cwd=tmp_path, stdin=file)
    assert numbers(tmp_path / "segments") == list(range(5001))


def test_another_file_in_its_place_is_an_error_that_says_what_to_do(tmp_path: Path):
    (tmp_path / "in").write_bytes(lines(*range(20)))
    run("ingest", "in", "--resume", "n", cwd=tmp_path)
    (tmp_path / "in").write_bytes(lines(*range(20, 60)))
    done = run("ingest", "in", "--resume", "n", cwd=tmp_path, code=4)
    assert "in does not begin as it did when the load 'n' read it" in done.stderr.decode()
    assert "--resume under another name" in done.stderr.decode()
    assert numbers(tmp_path / "segments") == list(range(20))
    run("ingest", "in", "--resume", "n2", cwd=tmp_path)
    assert numbers(tmp_path / "segments") == list(range(60))
    assert "--resume" in failed(3, "ingest", "in", "--resume", "", cwd=tmp_path)
    assert "--resume" in failed(3, "ingest", "in", "--resume", b"\xff", cwd=tmp_path)


def test_a_file_of_any_name_can_be_acknowledged_and_resumed(tmp_path: Path):
    name = b"caf\xe9.ndjson"
    (tmp_path / name.decode(errors="surrogateescape")).write_bytes(lines(0) + b"bad\n" + lines(1))
    (ack,) = acks(run("ingest", name, "--ack", "--resume", "n", cwd=tmp_path).stdout)
    assert ack["line"] == 3
    assert acks(run("ingest", name, "--ack", "--resume", "n", cwd=tmp_path).stdout) == []


def test_strict_fails_after_the_good_lines_were_stored(tmp_path: Path):
    done = run("ingest", "--strict", cwd=tmp_path, stdin=lines(0) + b"bad\n" + lines(1), code=9)
    told = done.stderr.decode().splitlines()
    assert told[0].startswith("accepted 2 events")
    assert told[1] == "evtool: 1 line of 3 became dead letters"
    assert numbers(tmp_path / "segments") == [0, 1]
    assert len(letters(tmp_path / "segments")) == 1
    run("ingest", "--strict", cwd=tmp_path, stdin=lines(0, 1, 2))
    conflict = line(2, payload={"n": 3})
    printed = json.loads(run("ingest", "--strict", "--json", cwd=tmp_path, stdin=conflict, code=9).stdout)
    assert printed["dead_letters"] == 1


@pytest.mark.parametrize(("alert", "bad", "code"), [("0.01", 2, 18), ("0.02", 2, 0), ("0", 0, 0), ("0", 1, 18)])
def test_more_dead_letters_than_their_share_set_the_exit_code(tmp_path: Path, alert: str, bad: int, code: int):
    (tmp_path / "evtool.toml").write_text(f"[ingest]\ndead_letter_alert = {alert}\n")
    data = lines(*range(98)) + b"bad\n" * bad
    done = run("ingest", cwd=tmp_path, stdin=data + lines(0, 1)[: 0 if bad == 2 else None], code=code)
    assert (b"became dead letters: more than dead_letter_alert" in done.stderr) == (code == 18)
    assert numbers(tmp_path / "segments") == list(range(98))
    if code:
        run("ingest", "--strict", cwd=tmp_path, stdin=b"bad\n", code=9)


def test_a_retry_uses_the_source_of_the_command_line_or_that_of_today(tmp_path: Path):
    late = [line(n, source_id=None, stream_id=f"late-{n}", stream_version=2) for n in (1, 2)]
    (tmp_path / "evtool.toml").write_text('[ingest]\nsource = "wrong"\n')
    run("ingest", cwd=tmp_path, stdin=late[0])
    run("ingest", "--source", "flag", cwd=tmp_path, stdin=late[1])
    (tmp_path / "evtool.toml").write_text('[ingest]\nsource = "right"\n')
    run("ingest", cwd=tmp_path, stdin=line(3, stream_id="late-1") + line(4, stream_id="late-2"))
    assert as_json("dead-letters", "retry", cwd=tmp_path)["accepted"] == 2
    found = run("replay", "--stream", "late-1", "--stream", "late-2", cwd=tmp_path).stdout.splitlines()
    assert [json.loads(text)["source_id"] for text in found] == ["s", "s", "right", "flag"]
