"""`evtool dead-letters`: what each of its commands prints, chooses, changes and refuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, as_json, environment, failed, letters, line, lines, numbers, run, start

from evtool.event import LINE_BYTES_MAX

BAD = [
    b"{oops",
    line(1, timestamp="2026-01-01T00:00:00").rstrip(b"\n"),
    b'{"a":"\xff \x1b[31m[bold]"}',
    line(3, stream_id="late", stream_version=2, source_id="shop").rstrip(b"\n"),
]


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """A folder in which the lines of BAD and one event were ingested; gives the folder."""
    (tmp_path / "shop.ndjson").write_bytes(BAD[3])
    run("ingest", "-", "shop.ndjson", cwd=tmp_path, stdin=b"\n".join(BAD[:3]) + b"\n" + line(0))
    return tmp_path


def ask(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return run("dead-letters", *arguments, cwd=cwd, **options)


def listed(folder: Path, *flags: str) -> list[str]:
    """The reasons of those that `list` finds."""
    printed = ask("list", "--json", *flags, cwd=folder).stdout.splitlines()
    return [json.loads(text)["reason"] for text in printed]


def test_list_shows_a_table_and_counts_by_reason(queue: Path):
    done = ask("list", cwd=queue)
    table = done.stdout.decode().splitlines()
    assert table[0].split() == ["id", "time", "reason", "input", "line", "bytes", "attempts"]
    assert [row.split()[2:] for row in table[1:]] == [
        ["invalid_json", "stdin", "1", "5", "0"],
        ["timestamp_without_offset", "stdin", "2", str(len(BAD[1])), "0"],
        ["bad_utf8", "stdin", "3", str(len(BAD[2])), "0"],
        ["version_conflict", "shop.ndjson", "1", str(len(BAD[3])), "0"],
    ]
    assert [row.split()[0] for row in table[1:]] == [letter["id"] for letter in letters(queue / "segments")]
    told = done.stderr.decode()
    assert told.startswith("4 dead letters: ")
    assert "1 bad_utf8" in told


def test_list_for_programs_is_a_letter_a_line_without_its_bytes(queue: Path):
    printed = [json.loads(text) for text in ask("list", "--json", cwd=queue).stdout.splitlines()]
    for found, letter in zip(printed, letters(queue / "segments"), strict=True):
        letter.pop("raw", letter.pop("raw_base64", None))
        assert found == letter | ({"source_id": found["source_id"]} if "source_id" in found else {})
    assert [found.get("source_id") for found in printed] == [None, "s", None, "shop"]


def test_list_shows_so_many_and_counts_all(queue: Path):
    run("ingest", cwd=queue, stdin=b"bad\n" * 200)
    done = ask("list", cwd=queue)
    assert done.stdout.count(b"\n") == 101
    assert done.stderr.decode().splitlines()[0] == "the first 100 are shown; --limit shows more"
    assert done.stderr.decode().splitlines()[1].startswith("204 dead letters: 201 invalid_json, 1 ")
    assert ask("list", "--limit", "150", cwd=queue).stdout.count(b"\n") == 151
    assert ask("list", "--limit", "0", cwd=queue).stdout == b""
    assert len(listed(queue)) == 204
    assert len(listed(queue, "--limit", "3")) == 3


def test_filters_choose(queue: Path):
    reasons = ["invalid_json", "timestamp_without_offset", "bad_utf8", "version_conflict"]
    for flags, wanted in [
        (("--reason", "bad_utf8", "--reason", "invalid_json"), [reasons[0], reasons[2]]),
        (("--source", "shop.ndjson"), [reasons[3]]),
        (("--source", "shop"), [reasons[3]]),
        (("--source", "stdin", "--source", "shop"), reasons),
        (("--source", "s"), [reasons[1]]),
        (("--since", "-1h", "--until", "2200-01-01"), reasons),
        (("--since", "2200-01-01T00:00:00Z"), []),
        (("--until", "-1h"), []),
    ]:
        assert listed(queue, *flags) == wanted, flags
    for flag in ("--since", "--until"):
        assert flag in failed(3, "dead-letters", "list", flag, "@17", cwd=queue)


def test_show_tells_all_and_does_nothing_to_a_terminal(queue: Path):
    found = letters(queue / "segments")[2]
    done = ask("show", found["id"][:8], cwd=queue)
    told = done.stdout.decode()
    assert found["id"] in told
    assert found["message"] in told
    assert told.endswith('{"a":"\\xff \\x1b[31m[bold]"}\n')
    shown = json.loads(ask("show", found["id"], "--json", cwd=queue).stdout)
    assert shown == found
    assert "no dead letter" in failed(17, "dead-letters", "show", "nonsense", cwd=queue)


def test_retry_takes_todays_rules_and_says_what_became_of_them(queue: Path):
    done = ask("retry", cwd=queue)
    assert done.stderr.decode() == "0 dead letters passed, 4 failed again; 4 in the queue\n"
    run("ingest", cwd=queue, stdin=line(2, stream_id="late", source_id="shop"))
    path = queue / "segments" / "dead-letters" / "dead-letters.ndjson"
    mended = path.read_bytes().replace(b"T00:00:00\\", b"T00:00:00Z\\")
    path.write_bytes(mended)
    done = json.loads(ask("retry", "--json", cwd=queue).stdout)
    wanted = {"passed": 2, "accepted": 2, "duplicates": 0, "failed": 2, "not_tried": 0, "left": 2}
    assert done == wanted | {"first_position": 3, "last_position": 4, "interrupted": False}
    assert sorted(numbers(queue / "segments")) == [0, 1, 2, 3]
    found = letters(queue / "segments")
    assert [(letter["reason"], letter["attempts"]) for letter in found] == [("invalid_json", 2), ("bad_utf8", 2)]
    assert all(letter["time"] < letter["last_tried"] for letter in found)


def test_retry_of_what_was_stored_meanwhile_counts_as_passed(queue: Path):
    run("ingest", cwd=queue, stdin=line(2, stream_id="late", source_id="shop") + BAD[3])
    done = ask("retry", "--source", "shop", cwd=queue)
    told = "1 dead letter passed (1 event stored before), 0 failed again; 3 in the queue\n"
    assert done.stderr.decode() == told
    assert numbers(queue / "segments") == [0, 2, 3]


def test_a_line_that_was_cut_is_not_tried_and_not_exported(tmp_path: Path):
    run("ingest", cwd=tmp_path, stdin=b"x" * (LINE_BYTES_MAX + 2) + b"\n")
    told = "0 dead letters passed, 0 failed again, 1 cut at 16 MiB and not tried; 1 in the queue\n"
    assert ask("retry", cwd=tmp_path).stderr.decode() == told
    done = ask("export", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (b"", b"exported 0 dead letters; 1 line cut at 16 MiB left out\n")
    (letter,) = letters(tmp_path / "segments")
    assert json.loads(ask("export", "--json", cwd=tmp_path).stdout) == letter
    assert b"the first 16,777,216 of 16,777,218 bytes:" in ask("show", letter["id"], cwd=tmp_path).stderr


def test_export_gives_the_lines_as_they_were_sent(queue: Path):
    assert ask("export", cwd=queue).stdout == b"".join(text + b"\n" for text in BAD)
    run("dead-letters", "export", "--reason", "bad_utf8", "--out", "bad.ndjson", cwd=queue)
    assert (queue / "bad.ndjson").read_bytes() == BAD[2] + b"\n"
    exported = [json.loads(text) for text in ask("export", "--json", cwd=queue).stdout.splitlines()]
    assert exported == letters(queue / "segments")
    ids = [letter["id"] for letter in exported]
    assert ask("export", ids[3], ids[0], cwd=queue).stdout == BAD[0] + b"\n" + BAD[3] + b"\n"
    # Mended, they are events; then the letters can go.
    run("ingest", "-", cwd=queue, stdin=BAD[1].replace(b"T00:00:00", b"T00:00:00Z"))
    run("dead-letters", "drop", "--yes", ids[1], cwd=queue)
    assert listed(queue) == ["invalid_json", "bad_utf8", "version_conflict"]


def test_drop_takes_away_what_is_meant_and_nothing_else(queue: Path):
    assert (
        b"2 dead letters would be"
        in ask("drop", "--dry-run", "--source", "s", "--source", "shop", cwd=queue).stderr
    )
    assert as_json("dead-letters", "drop", "--dry-run", cwd=queue) == {"matching": 4, "dropped": 0}
    assert "--yes" in failed(3, "dead-letters", "drop", cwd=queue)
    assert len(listed(queue)) == 4
    assert ask("drop", "--yes", "--reason", "bad_utf8", cwd=queue).stderr == b"dropped 1 dead letter\n"
    assert listed(queue) == ["invalid_json", "timestamp_without_offset", "version_conflict"]
    assert as_json("dead-letters", "drop", "--yes", cwd=queue) == {"matching": 3, "dropped": 3}
    assert ask("list", cwd=queue).stderr == b"0 dead letters\n"
    assert ask("drop", cwd=queue).stderr == b"dropped 0 dead letters\n"  # there is nothing to ask about


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 4), (b"y\n", 0)])
def test_drop_asks_on_a_terminal(queue: Path, answer: bytes, left: int):
    ours, theirs = pty.openpty()
    command = [*COMMAND, "dead-letters", "drop"]
    process = subprocess.Popen(command, cwd=queue, stdin=theirs, stderr=subprocess.PIPE, env=environment())
    os.write(ours, answer)
    assert process.stderr is not None
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == (0 if left == 0 else 1)
    os.close(ours)
    os.close(theirs)
    assert b"Drop 4 dead letters for ever?" in told
    assert len(listed(queue)) == left


def test_drop_while_an_ingest_goes_on(queue: Path):
    process = start("ingest", "--max-latency", "20ms", cwd=queue)
    assert process.stdin is not None
    total = 4
    for number in range(8):
        process.stdin.write(b"bad %d\n" % number + line(100 + number))
        process.stdin.flush()
        done = as_json("dead-letters", "drop", "--yes", cwd=queue)
        total -= done["dropped"]
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    total += 8
    assert len(listed(queue)) == total
    assert len(numbers(queue / "segments")) == 9


def test_retry_while_another_writes_says_who(queue: Path):
    process = start("ingest", cwd=queue)
    assert process.stdin is not None
    process.stdin.write(lines(7) + b"bad\n")
    process.stdin.flush()
    while len(letters(queue / "segments")) < 5:
        assert process.poll() is None
    assert f"process {process.pid}" in failed(13, "dead-letters", "retry", cwd=queue)
    process.communicate(timeout=60)
    assert len(listed(queue)) == 5


def test_lines_that_are_no_letters_are_told_of_and_kept(queue: Path):
    path = queue / "segments" / "dead-letters" / "dead-letters.ndjson"
    path.write_bytes(path.read_bytes() + b"someone was here\n")
    told = ask("list", cwd=queue).stderr.decode().splitlines()
    assert told[1].startswith("1 line of segments/dead-letters/dead-letters.ndjson cannot be read")
    run("dead-letters", "drop", "--yes", cwd=queue)
    assert path.read_bytes() == b"someone was here\n"


def test_without_dead_letters_all_of_it_does_nothing(tmp_path: Path):
    run("init", cwd=tmp_path)
    assert ask("list", cwd=tmp_path).stderr == b"0 dead letters\n"
    assert b"0 dead letters passed" in ask("retry", cwd=tmp_path).stderr
    assert ask("export", cwd=tmp_path).stdout == b""
    assert ask("drop", cwd=tmp_path).stderr == b"dropped 0 dead letters\n"
    assert not (tmp_path / "segments" / "dead-letters").exists()
    assert "there is no log" in failed(10, "dead-letters", "list", "--log", "nowhere", cwd=tmp_path)
