"""`evtool ingest`: where events may come from, what it says, and what it makes of every bad line."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from command_line import (
    COMMAND,
    as_json,
    check,
    digest,
    environment,
    failed,
    letters,
    line,
    lines,
    numbers,
    raw,
    replayed,
    run,
)

from evtool.envelope import REASONS
from evtool.event import LINE_BYTES_MAX
from evtool.timestamps import parse_text

SUMMARY_KEYS = [
    "accepted",
    "duplicates",
    "dead_letters",
    "batches",
    "first_position",
    "last_position",
    "bytes_in",
    "seconds",
    "events_per_second",
]


def nested(levels: int) -> bytes:
    """A line that nests so deep, itself counted."""
    return line(0, event_id="nested").replace(
        b'{"n": 0}', b'{"n":' + b"[" * (levels - 2) + b"]" * (levels - 2) + b"}"
    )


# line -> its reason; None for one that is an event
LINES: list[tuple[bytes, str | None]] = [
    (b"{oops", "invalid_json"),
    (line(0)[:-2], "invalid_json"),
    (line(0)[:-1] + line(1)[:-1], "invalid_json"),
    (b"[1, 2]", "not_an_object"),
    (line(0).replace(b"Seen", b"Se\xff"), "bad_utf8"),
    (line(0).replace(b"Seen", b"Se\\ud800"), "lone_surrogate"),
    (nested(129), "nesting_too_deep"),
    (nested(128), None),
    (line(0)[:-2] + b', "event_id": "again"}', "duplicate_key"),
    (b'{"event_id":"e","source_id":"s","event_type":"t"}', "missing_field"),
    (line(0, event_type=None), "missing_field"),
    (line(0, stream_id=""), "empty_field"),
    (line(0, stream_id=7), "wrong_type"),
    (line(0, payload=[]), "wrong_type"),
    (line(0, event_id="é" * 128 + "x"), "text_too_long"),
    (line(0, event_id="é" * 128), None),
    (line(0, timestamp="2026-01-01T00:00:00Z"), "id_conflict"),
    (line(0, schema_version=0), "number_out_of_range"),
    (line(0, timestamp="2026-02-30T00:00:00Z"), "timestamp_invalid"),
    (line(0, timestamp="2026-01-01T00:00:00"), "timestamp_without_offset"),
    (line(0, timestamp="2262-04-12T00:00:00Z"), "timestamp_out_of_range"),
    (line(0, timestamp=9_999_999_999), "timestamp_out_of_range"),
    (line(0, event_id="versioned", stream_id="versioned", stream_version=2), "version_conflict"),
    (b"\x00", "invalid_json"),
    (b"x" * (LINE_BYTES_MAX + 10), "line_too_long"),
    (b"x" * (LINE_BYTES_MAX + 2**21), "line_too_long"),
]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of two files in which each of LINES stands between good ones."""
    folder = tmp_path_factory.mktemp("dead-letters")
    bad = (text.rstrip(b"\n") for text, _ in LINES)
    data = b"".join(line(number) + b"\n" + text + b"\r\n" for number, text in enumerate(bad))
    (folder / "first.ndjson").write_bytes(b"\xef\xbb\xbf" + data)
    last = lines(*range(100, 200)) + b"not the last\n" + lines(200, 0, 100) + b"the last"  # two come again
    (folder / "second.ndjson").write_bytes(last)
    done = as_json("ingest", "first.ndjson", "second.ndjson", "--log", folder / "log", cwd=folder)
    rejected = sum(reason is not None for _, reason in LINES)
    assert (done["accepted"], done["dead_letters"]) == (2 * len(LINES) - rejected + 101, rejected + 2)
    assert done["duplicates"] == 2
    return folder / "log"


def test_every_reason_has_its_line(ingested: Path):
    found = {letter["line"]: letter for letter in letters(ingested) if letter["input"] == "first.ndjson"}
    expected = {3 * number + 3: reason for number, (_, reason) in enumerate(LINES) if reason}
    assert {number: letter["reason"] for number, letter in found.items()} == expected
    # The configuration decides about unknown fields, schemas about payloads, other formats have reasons of their
    # own; tests of their own show that.
    elsewhere = {"unknown_field", "schema_invalid", "schema_missing", "row_malformed", "specversion_unknown"}
    assert set(expected.values()) == set(REASONS) - elsewhere


def test_a_dead_letter_keeps_the_bytes_of_its_line_and_says_when_and_why(ingested: Path):
    for letter in letters(ingested):
        if letter["input"] == "first.ndjson":
            bad = LINES[letter["line"] // 3 - 1][0].rstrip(b"\n")
            assert letter["bytes"] == len(bad)
            assert raw(letter) == bad[:LINE_BYTES_MAX]
        assert parse_text(letter["time"]) > 0
        assert letter["message"]
        assert letter["reason"] in REASONS


def test_the_lines_of_another_file_are_counted_anew(ingested: Path):
    found = [letter for letter in letters(ingested) if letter["input"] == "second.ndjson"]
    assert [(letter["line"], raw(letter)) for letter in found] == [(101, b"not the last"), (105, b"the last")]


def test_the_good_lines_around_them_are_kept(ingested: Path):
    events = replayed(ingested)
    plain = [event["payload"]["n"] for event in events if event["stream_id"] != "u-0"]
    assert plain == [number for number in (*range(len(LINES)), *range(100, 201)) if number % 5]
    # In the stream of the bad lines there are the good ones, and the two of LINES that are good as well.
    others = [event for event in events if event["stream_id"] == "u-0"]
    assert [event["stream_version"] for event in others] == list(range(1, len(others) + 1))
    assert len(events) == len(LINES) + 101 + 2
    assert any(event["event_id"] == "é" * 128 for event in events)
    digest(ingested)


def test_unknown_fields_are_folded_or_refused(tmp_path: Path):
    data = line(0, colour=1.10) + line(1)
    (tmp_path / "evtool.toml").write_text('[ingest]\nunknown_fields = "reject"\n')
    assert as_json("ingest", cwd=tmp_path, stdin=data)["dead_letters"] == 1
    assert [letter["reason"] for letter in letters(tmp_path / "segments")] == ["unknown_field"]
    (tmp_path / "evtool.toml").write_text('[ingest]\nunknown_fields = "metadata"\n')
    done = as_json("ingest", cwd=tmp_path, stdin=data)
    assert (done["dead_letters"], done["accepted"], done["duplicates"]) == (0, 1, 1)
    assert [event.get("metadata") for event in replayed(tmp_path / "segments")] == [None, {"colour": 1.1}]


def test_a_pipe_a_dash_and_several_files_in_their_order(tmp_path: Path):
    (tmp_path / "a").write_bytes(lines(1, 2).rstrip(b"\n"))
    (tmp_path / "b").write_bytes(lines(5))
    (tmp_path / "c").write_bytes(lines(6))
    run("ingest", cwd=tmp_path, stdin=lines(0))
    done = as_json("ingest", "a", "-", "b", "a", cwd=tmp_path, stdin=lines(3, 4))
    assert (done["accepted"], done["duplicates"]) == (5, 2)
    assert numbers(tmp_path / "segments") == [0, 1, 2, 3, 4, 5]
    with (tmp_path / "c").open("rb") as file:
        run("ingest", "-", cwd=tmp_path, stdin=file)
    assert numbers(tmp_path / "segments") == [0, 1, 2, 3, 4, 5, 6]


def test_what_is_compressed_is_told_by_content(tmp_path: Path):
    parts = [lines(*range(start, start + 100)) for start in range(0, 500, 100)]
    zstd = zstandard.ZstdCompressor()
    (tmp_path / "a.ndjson").write_bytes(gzip.compress(parts[0]) + gzip.compress(parts[1]))
    (tmp_path / "b.gz").write_bytes(zstd.compress(parts[2]) + zstd.compress(parts[3]))
    done = as_json("ingest", "a.ndjson", "b.gz", "-", cwd=tmp_path, stdin=gzip.compress(parts[4]))
    assert done["bytes_in"] == sum(map(len, parts))
    assert numbers(tmp_path / "segments") == list(range(500))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_compressed_file_that_was_cut_short_keeps_its_lines_and_fails(tmp_path: Path, compress):
    data = compress(b"".join(line(number, metadata={"id": f"{number * 7919}"}) for number in range(50_000)))
    (tmp_path / "cut").write_bytes(data[: len(data) * 2 // 3])
    done = run("ingest", "cut", "--json", cwd=tmp_path, code=4)
    assert "cut: its" in done.stderr.decode()
    found = numbers(tmp_path / "segments")
    assert 1000 < len(found) < 50_000
    assert found == list(range(len(found)))
    assert f'"accepted": {len(found)},' in done.stdout.decode()
    assert letters(tmp_path / "segments") == []


def test_the_summary_for_programs_has_its_keys(tmp_path: Path):
    data = lines(0, 1) + b"oops\n"
    first = as_json("ingest", cwd=tmp_path, stdin=data)
    assert list(first) == SUMMARY_KEYS
    counted = {name: first[name] for name in SUMMARY_KEYS[:7]}
    assert counted == dict(zip(SUMMARY_KEYS, [2, 0, 1, 1, 1, 2, len(data)], strict=False))
    assert first["seconds"] > 0
    assert isinstance(first["events_per_second"], int)
    second = as_json("ingest", cwd=tmp_path, stdin=b"oops\n")
    assert (second["accepted"], second["first_position"], second["last_position"]) == (0, None, None)


def test_the_summary_for_people_is_a_sentence_on_standard_error(tmp_path: Path):
    done = run("ingest", cwd=tmp_path, stdin=lines(*range(1500)) + b"oops\n")
    told = done.stderr.decode()
    assert done.stdout == b""
    assert told.startswith("accepted 1,500 events at positions 1 to 1,500 in 1 batch, 1 dead letter; ")
    assert told.endswith(" events/s\n")
    assert run("ingest", cwd=tmp_path).stderr.startswith(b"accepted 0 events in 0 batches; ")


def test_batches_are_cut_as_the_flags_say(tmp_path: Path):
    data = lines(*range(1000))
    flags = ("--batch-events", "300", "--max-latency", "1h")
    assert as_json("ingest", *flags, cwd=tmp_path, stdin=data)["batches"] == 4
    assert as_json("ingest", *flags, cwd=tmp_path, stdin=data)["batches"] == 0  # all of it is there
    data = lines(*range(1000, 2000))
    flags = ("--batch-bytes", str(len(data) // 5 + 1000), "--max-latency", "1h")
    assert 5 <= as_json("ingest", *flags, cwd=tmp_path, stdin=data)["batches"] <= 8
    assert numbers(tmp_path / "segments") == list(range(2000))


def test_a_source_stands_in_where_there_is_none(tmp_path: Path):
    (tmp_path / "evtool.toml").write_text('[ingest]\nsource = "of the file"\n')
    run("ingest", cwd=tmp_path, stdin=line(0, source_id=None))
    run("ingest", "--source", "of the flag", cwd=tmp_path, stdin=line(1, source_id=None) + line(2))
    assert [event["source_id"] for event in replayed(tmp_path / "segments")] == ["of the file", "of the flag", "s"]


def test_a_file_may_have_any_name(tmp_path: Path):
    name = b"caf\xe9 \n[bold].ndjson"  # no UTF-8, and nothing that a console may take for markup
    (tmp_path / os.fsdecode(name)).write_bytes(lines(0) + b"oops\n")
    done = run("ingest", name, cwd=tmp_path)
    assert b"1 dead letter" in done.stderr
    assert numbers(tmp_path / "segments") == [0]
    assert len(letters(tmp_path / "segments")) == 1
    assert "[bold]" in failed(4, "ingest", b"[bold]\xff", cwd=tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_a_very_long_line_is_an_event_and_takes_bounded_memory(tmp_path: Path):
    data = line(0, payload={"n": 0, "text": "x" * (15 * 2**20)}) + line(1)
    (tmp_path / "long.ndjson").write_bytes(data)
    # The peak that a process tells of itself: what its parent has of it counts the parent's own memory, too.
    code = (
        "import atexit, sys; atexit.register(lambda: print(open('/proc/self/status').read(), flush=True));"
        "sys.argv = ['evtool', 'ingest', 'long.ndjson']; from evtool.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0
    (peak,) = re.findall(rb"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak) < 600 * 1024
    assert [len(event["payload"].get("text", "")) for event in replayed(tmp_path / "segments")] == [15 * 2**20, 0]


def test_a_closed_standard_input_is_an_error_in_a_sentence(tmp_path: Path):
    shell = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "ingest"]
    done = subprocess.run(shell, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    check(done.returncode, done.stderr, 4)
    assert done.stderr.startswith(b"evtool: ")


def test_rejected_lines_are_not_read_while_they_are_written(tmp_path: Path):
    """Each would be rejected again, without an end."""
    run("ingest", cwd=tmp_path, stdin=line(0) + b"oops\n")
    path = tmp_path / "segments" / "dead-letters" / "dead-letters.ndjson"
    (tmp_path / "link").symlink_to(path)
    before = path.read_bytes()
    assert "rejected lines go" in failed(4, "ingest", path, cwd=tmp_path)
    assert "rejected lines go" in failed(4, "ingest", "link", cwd=tmp_path)
    with path.open("rb") as file:
        assert "rejected lines go" in failed(4, "ingest", cwd=tmp_path, stdin=file)
    assert path.read_bytes() == before
    run("ingest", path, "--log", "other", cwd=tmp_path)
    assert len(letters(tmp_path / "other")) == 1


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file here that cannot be read")
def test_an_input_whose_first_byte_cannot_be_read(tmp_path: Path):
    assert b"cannot read /proc/self/mem" in run("ingest", "/proc/self/mem", cwd=tmp_path, code=4).stderr
    with (tmp_path / "out").open("wb") as file:
        assert b"cannot read stdin" in run("ingest", cwd=tmp_path, stdin=file, code=4).stderr


HOSTILE = ["../../etc/passwd", "a/b", "/", ".", "..", "nul\x00", "log.json", "CON", "x" * 1024, "-", "\n", "%00"]


def test_names_are_never_paths(tmp_path: Path):
    below = tmp_path / "a" / "b" / "c"
    below.mkdir(parents=True)
    log = below / "log"
    data = b"".join(
        line(number, stream_id=text, event_type=text, source_id=text, event_id=text[:200])
        for number, text in enumerate(HOSTILE)
    )
    run("ingest", "--log", log, "--batch-events", "1", cwd=below, stdin=data)
    assert [event["stream_id"] for event in replayed(log)] == HOSTILE
    flags = ("--stream", "../../etc/passwd", "--type", "../../etc/passwd", "--source", "../../etc/passwd")
    assert run("replay", "--log", log, *flags, cwd=below).stdout.count(b"\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in below.iterdir()] == ["log"]
    others = {"log.json", "HEAD", "writer.lock", "audit.lock", "audit.ndjson"}
    assert {path.name for path in log.iterdir()} <= others | {"index", "0" * 19 + "1"}
    run("ingest", "--log", log, "--source", "../../up", cwd=below, stdin=line(99, source_id=None))
    assert [path.name for path in below.iterdir()] == ["log"]
