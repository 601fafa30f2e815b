"""The file of dead letters: what a line of it says, and that a crash leaves no half of one."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evtool.errors import NoSpaceError
from evtool.files import Files
from evtool.ingest.deadletters import FILE, FOLDER, DeadLetter, DeadLetterFile

LETTER = DeadLetter("2026-01-01T00:00:00.000000000Z", "invalid_json", "no value", "events.ndjson", 7, 5, b"{oops")


def path_in(folder: Path) -> Path:
    return folder / FOLDER / FILE


def keep(folder: Path, *letters: DeadLetter) -> None:
    file = DeadLetterFile(Files(), folder, durable=True)
    file.append(list(letters))
    file.close()


def test_a_dead_letter_says_when_why_where_and_what():
    assert json.loads(LETTER.encode()) == {
        "time": "2026-01-01T00:00:00.000000000Z",
        "reason": "invalid_json",
        "message": "no value",
        "input": "events.ndjson",
        "line": 7,
        "bytes": 5,
        "raw": "{oops",
    }
    assert list(json.loads(LETTER.encode())) == ["time", "reason", "message", "input", "line", "bytes", "raw"]


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
    file.close()
    assert path_in(tmp_path).read_bytes() == b""
