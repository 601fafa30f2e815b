"""The file of dead letters: what a line of it says, and that a crash leaves no half of one."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evtool.envelope import REASONS
from evtool.errors import NoSpaceError
from evtool.files import Files
from evtool.ingest.deadletters import FILE, FOLDER, DeadLetter, DeadLetterFile, decode

LETTER = DeadLetter("2026-01-01T00:00:00.000000000Z", "invalid_json", "no value", "events.ndjson", 7, 5, b"{oops")


def path_in(folder: Path) -> Path:
    return folder / FOLDER / FILE


def keep(folder: Path, *letters: DeadLetter) -> None:
    DeadLetterFile(Files(), folder, durable=True).append(list(letters))


def test_a_dead_letter_says_when_why_where_and_what():
    assert json.loads(LETTER.encode()) == {
        "id": LETTER.id,
        "time": "2026-01-01T00:00:00.000000000Z",
        "reason": "invalid_json",
        "message": "no value",
        "input": "events.ndjson",
        "line": 7,
        "bytes": 5,
        "raw": "{oops",
    }
    always = ["id", "time", "reason", "message", "input", "line", "bytes", "raw"]
    assert list(json.loads(LETTER.encode())) == always
    tried = replace(
        LETTER, source="web", resume="nightly", attempts=2, last_tried="2026-01-02T00:00:00.000000000Z"
    )
    assert list(json.loads(tried.encode())) == [*always[:-1], "source", "resume", "attempts", "last_tried", "raw"]


@given(
    letter=st.builds(
        DeadLetter,
        time=st.just(LETTER.time),
        reason=st.sampled_from(sorted(REASONS)),
        message=st.text(),
        input=st.text(),
        line=st.integers(1, 2**40),
        size_bytes=st.integers(0, 2**40),
        raw=st.binary(max_size=40) | st.text(max_size=10).map(str.encode),
        source=st.none() | st.text(min_size=1),
        resume=st.none() | st.text(min_size=1),
        attempts=st.integers(0, 9),
        last_tried=st.none() | st.just(LETTER.time),
    )
)
def test_what_is_read_is_what_was_written(letter: DeadLetter):
    found = decode(letter.encode())
    assert found == letter
    assert json.loads(letter.encode())["id"] == letter.id == found.id


def test_the_id_stays_whatever_becomes_of_a_letter_and_no_other_has_it():
    tried = replace(LETTER, reason="bad_utf8", message="else", attempts=5, last_tried=LETTER.time)
    assert tried.id == LETTER.id == "5d8a314d23c86c3c"  # and for ever
    others = [
        replace(LETTER, time="2026-01-01T00:00:00.000000001Z"),
        replace(LETTER, input="other"),
        replace(LETTER, line=8),
        replace(LETTER, raw=b"{oopt"),
    ]
    assert len({LETTER.id, *(other.id for other in others)}) == 5
    assert [other.mark == LETTER.mark for other in others] == [True, False, False, False]


def test_a_letter_of_before_there_were_ids_has_one():
    old = {"time": LETTER.time, "reason": "invalid_json", "message": "no value", "input": "events.ndjson"}
    text = json.dumps(old | {"line": 7, "bytes": 5, "raw": "{oops"}).encode()
    assert decode(text) == LETTER


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"{}",
        b"[1]",
        b"\xff",
        b'"a"',
        LETTER.encode()[:-3],
        LETTER.encode().replace(b'"raw"', b'"row"'),
    ],
)
def test_what_is_no_letter_is_none(text: bytes):
    assert decode(text) is None
    broken = json.loads(LETTER.encode())
    del broken["raw"]
    assert decode(json.dumps(broken | {"raw_base64": "no base 64"}).encode()) is None


@pytest.mark.parametrize(
    ("raw", "source", "wanted"),
    [
        (b'{"source_id":"web"}', None, "web"),
        (b'{"source_id":"web"}', "pipe", "web"),
        (b"{}", "pipe", "pipe"),
        (b"{oops", "pipe", "pipe"),
        (b'{"source_id":7}', None, None),
        (b'{"a":"\xff"}', None, None),
        (b"[" * 100_000, None, None),
    ],
)
def test_who_sent_it_is_told_if_it_can_be_read(raw: bytes, source: str | None, wanted: str | None):
    assert replace(LETTER, raw=raw, source=source).source_id == wanted


@given(st.binary(max_size=40) | st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_the_bytes_come_back_whatever_they_are(raw: bytes):
    encoded = replace(LETTER, raw=raw, size_bytes=len(raw)).encode()
    assert encoded.count(b"\n") == 1
    record = json.loads(encoded)
    assert ("raw" in record) != ("raw_base64" in record)
    assert (record["raw"].encode() if "raw" in record else b64decode(record["raw_base64"])) == raw


@given(st.text(min_size=1))
def test_any_message_and_any_name_of_a_file_can_be_told(text: str):
    # A file's name may hold bytes that are no UTF-8: Python has them as half surrogate pairs.
    record = json.loads(replace(LETTER, message=text, input=text + "\udcff").encode())
    assert record["message"]
    assert record["input"]


def test_there_is_no_file_before_there_is_a_letter(tmp_path: Path):
    keep(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_letters_are_added_behind_those_that_are_there(tmp_path: Path):
    keep(tmp_path, LETTER, replace(LETTER, line=8))
    keep(tmp_path, replace(LETTER, line=9))
    lines = path_in(tmp_path).read_bytes().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [7, 8, 9]


@pytest.mark.parametrize("torn", [b"{", LETTER.encode()[:-1], b"x" * 100_000])
@pytest.mark.parametrize("whole", [b"", LETTER.encode(), LETTER.encode() * 3])
def test_a_torn_line_at_the_end_is_cut_before_the_next_letter(tmp_path: Path, whole: bytes, torn: bytes):
    path_in(tmp_path).parent.mkdir()
    path_in(tmp_path).write_bytes(whole + torn)
    keep(tmp_path, LETTER)
    assert path_in(tmp_path).read_bytes() == whole + LETTER.encode()


def test_letters_that_cannot_be_kept_are_an_error(tmp_path: Path):
    class FullDisk(Files):
        def write(self, descriptor, buffers):
            raise OSError(28, "No space left on device")

    file = DeadLetterFile(FullDisk(), tmp_path, durable=True)
    with pytest.raises(NoSpaceError):
        file.append([LETTER])
    assert path_in(tmp_path).read_bytes() == b""
