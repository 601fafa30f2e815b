"""A retry: today's rules decide, each event is stored once, and a kill at any moment loses and doubles nothing."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash
from faults import Fault, FaultyFiles, Killed, boot_again
from samples import check_sound, ids

import evtool
from evtool.config import IngestConfig
from evtool.errors import StorageError
from evtool.event import LINE_BYTES_MAX
from evtool.files import Files
from evtool.ingest import retry as retrying
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile
from evtool.ingest.letterqueue import Filter, LetterQueue, Wanted
from evtool.ingest.pipeline import Ingest
from evtool.ingest.retry import Retried, Retry
from evtool.schemas import document

TIME = "2026-01-01T00:00:00.000000000Z"


def text(number: int, more: str = "") -> bytes:
    return f'{{"event_id":"e-{number}","source_id":"s","stream_id":"u","event_type":"t"{more}}}'.encode()


def letter(number: int, raw: bytes | None = None, **fields: Any) -> DeadLetter:
    raw = text(number) if raw is None else raw
    return replace(DeadLetter(TIME, "bad_utf8", "told before", "in", number, len(raw), raw), **fields)


def bury(folder: Path, *letters: DeadLetter) -> None:
    evtool.open(folder, create=True)
    DeadLetterFile(Files(), folder, durable=True).append(list(letters))


def left(folder: Path) -> list[DeadLetter]:
    return list(LetterQueue(Files(), folder).letters())


def retry(folder: Path, wanted: Wanted = Filter(), files: Files | None = None, **options: Any) -> Retried:  # noqa: B008
    with evtool.open(folder, create=True, files=files) as log:
        return Retry(log, IngestConfig(**options)).run(wanted)


def stored(folder: Path) -> list[str]:
    check_sound(folder)
    return ids(evtool.open(folder, read_only=True))


def test_what_passes_leaves_the_queue_and_the_rest_says_why_it_stays(folder: Path):
    bad, cut = text(2, ',"timestamp":"2026-01-01T00:00:00"'), b"x" * 7
    bury(folder, letter(1), letter(2, bad), letter(3), letter(4, cut, size_bytes=LINE_BYTES_MAX + 1))
    result = retry(folder)
    assert (result.accepted, result.duplicates, result.stay, result.cut, result.left) == (2, 0, 1, 1, 2)
    assert (result.first_position, result.last_position) == (1, 2)
    assert stored(folder) == ["e-1", "e-3"]
    again, untried = left(folder)
    assert untried == letter(4, cut, size_bytes=LINE_BYTES_MAX + 1)
    assert again.last_tried is not None
    assert "offset" in again.message
    wanted = letter(2, bad, reason="timestamp_without_offset", attempts=1, last_tried=again.last_tried)
    assert again == replace(wanted, message=again.message)
    assert retry(folder).stay == 1
    assert left(folder)[0].attempts == 2


def test_only_those_that_are_meant_are_tried(folder: Path):
    bury(folder, letter(1), letter(2, reason="invalid_json"), letter(3))
    assert retry(folder, Filter(reasons={"invalid_json"})).accepted == 1
    assert stored(folder) == ["e-2"]
    assert left(folder) == [letter(1), letter(3)]
    before = (folder / "dead-letters" / "dead-letters.ndjson").stat().st_ino
    assert retry(folder, Filter(reasons={"unknown_field"})) == Retried(left=2)
    assert (folder / "dead-letters" / "dead-letters.ndjson").stat().st_ino == before


def test_an_event_that_is_stored_already_has_passed(folder: Path):
    bury(folder, letter(1), letter(1, line=9), letter(2, text(1, ',"payload":{"other":1}')))
    result = retry(folder)
    assert (result.accepted, result.duplicates, result.stay) == (1, 1, 1)
    assert [found.reason for found in left(folder)] == ["id_conflict"]
    bury(folder, letter(1))
    assert retry(folder, Filter(reasons={"bad_utf8"})).duplicates == 1
    assert stored(folder) == ["e-1"]


def test_an_event_that_comes_too_early_passes_when_it_is_its_turn(folder: Path):
    third, second = letter(3, text(3, ',"stream_version":3')), letter(2, text(2, ',"stream_version":2'))
    bury(folder, third, second)
    assert retry(folder).stay == 2
    with evtool.open(folder) as log:
        log.append([{"event_id": "e-1", "source_id": "s", "stream_id": "u", "event_type": "t"}])
    assert (retry(folder).accepted, [found.line for found in left(folder)]) == (1, [3])
    assert retry(folder).accepted == 1
    assert left(folder) == []
    assert stored(folder) == ["e-1", "e-2", "e-3"]


def test_todays_configuration_decides(folder: Path):
    bury(folder, letter(1, text(1, ',"colour":"red"')), letter(2, text(2).replace(b'"source_id":"s",', b"")))
    result = retry(folder, unknown_fields="reject")
    assert (result.stay, sorted(found.reason for found in left(folder))) == (2, ["missing_field", "unknown_field"])
    assert retry(folder, source="pipe").accepted == 2
    with evtool.open(folder, read_only=True) as log:
        found = [row for frame in log.scan(columns=("source_id", "metadata")) for row in frame.rows()]
    assert found == [("s", '{"colour":"red"}'), ("pipe", None)]


def test_the_source_that_was_to_stand_in_still_does(folder: Path):
    nameless = [text(number).replace(b'"source_id":"s",', b"") for number in range(4)]
    bury(folder, *(letter(n, raw, source="web" if n % 2 else None) for n, raw in enumerate(nameless)))
    assert retry(folder, source="pipe").accepted == 4
    with evtool.open(folder, read_only=True) as log:
        found = {row for frame in log.scan(columns=("event_id", "source_id")) for row in frame.rows()}
    assert found == {("e-0", "pipe"), ("e-1", "web"), ("e-2", "pipe"), ("e-3", "web")}


def test_a_letter_that_someone_has_mended_by_hand_is_one_line_or_stays(folder: Path):
    bury(folder, letter(1, text(1) + b"\n" + text(2)), letter(3, b" "), letter(4, text(4) + b"\r"))
    assert retry(folder).stay == 2
    assert [found.message for found in left(folder)] == [
        "it holds a line feed, and an event is one line",
        "the line is blank",
    ]
    assert stored(folder) == ["e-4"]


def test_all_reasons_keep_their_bytes(folder: Path):
    raws = [b"\xff", b"{", "é".encode(), b"\\", b"\x00", b'{"a":"\\ud800"}']
    bury(folder, *(letter(number, raw) for number, raw in enumerate(raws)))
    assert retry(folder).stay == len(raws)
    assert [found.raw for found in left(folder)] == raws


def test_a_long_queue_goes_through_in_parts_and_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying, "_LETTERS_TOGETHER_MAX", 7)
    bury(folder, *(letter(n) if n % 3 else letter(n, b"oops") for n in range(100)))
    assert retry(folder).accepted == 66
    assert [found.line for found in left(folder)] == list(range(0, 100, 3))
    assert stored(folder) == [f"e-{n}" for n in range(100) if n % 3]


def test_stopped_it_leaves_the_rest_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying, "_LETTERS_TOGETHER_MAX", 10)
    bury(folder, *(letter(n) for n in range(100)))

    def wanted(found: DeadLetter) -> bool:
        if found.line == 25:
            work.stop()
        return True

    with evtool.open(folder, create=True) as log:
        work = Retry(log, IngestConfig())
        result = work.run(wanted)
    assert (result.accepted, result.left, result.is_interrupted) == (30, 70, True)
    assert left(folder) == [letter(n) for n in range(30, 100)]
    assert retry(folder).accepted == 70


def test_letters_have_the_keys_and_the_id_that_the_format_s_page_says(tmp_path: Path):
    (tmp_path / "bad.ndjson").write_bytes(b"nonsense\n\xff\n")
    with evtool.open(folder := tmp_path / "segments", create=True) as log:
        Ingest(log, [str(tmp_path / "bad.ndjson")], IngestConfig(), source="web").run()
    retry(folder)
    lines = (folder / "dead-letters" / "dead-letters.ndjson").read_bytes().splitlines()
    page = (Path(__file__).resolve().parents[2] / "segments" / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## dead-letters") : page.index("## schemas/")]
    letters = [json.loads(line) for line in lines]
    cells = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[2:]
    assert {key for letter in letters for key in letter} | {"resume"} == {k for c in cells for k in c.split(", ")}
    for letter, raw in zip(letters, (b"nonsense", b"\xff"), strict=True):
        place = f"{letter['time']}\n{letter['input']}\n{letter['line']}".encode()
        assert letter["id"] == xxhash.xxh3_64_hexdigest(raw, xxhash.xxh3_64_intdigest(place))


def test_a_schema_of_today_decides(folder: Path):
    bury(folder, letter(1, text(1, ',"payload":{"n":"one"}')), letter(2, text(2, ',"payload":{"n":1}')))
    with evtool.open(folder) as log:
        log.schemas.add("t", document.parse('{"properties":{"n":{"type":"integer"}}}'))
    assert retry(folder).accepted == 1
    assert [found.reason for found in left(folder)] == ["schema_invalid"]
    assert stored(folder) == ["e-2"]


LETTERS = [
    letter(1),
    letter(2, b"oops"),
    letter(3),
    letter(4),
    letter(5, text(5).replace(b'"source_id":"s",', b""), source="s"),
]
PASSING = ["e-1", "e-3", "e-4", "e-5"]


def break_at_every_call(tmp_path: Path, fault: Callable[[int], Fault]) -> None:
    bury(tmp_path / "counted", *LETTERS)
    files = FaultyFiles()
    retry(tmp_path / "counted", files=files)
    assert {name for _, name in files.calls} >= {"frames.log", "dead-letters.ndjson.tmp", "dead-letters.ndjson"}
    for call in range(1, len(files.calls) + 1):
        folder = tmp_path / str(call)
        bury(folder, *LETTERS)
        with contextlib.suppress(Killed, StorageError):
            retry(folder, files=FaultyFiles(fault(call)))
        boot_again(folder) if call % 2 else None
        # Whatever has happened: who is not stored is in the queue, and nobody is stored twice.
        with evtool.open(folder) as log:
            log.writer()
        found, waiting = stored(folder), {f"e-{again.line}" for again in left(folder)}
        assert len(set(found)) == len(found)
        assert set(found) | waiting == {*PASSING, "e-2"}
        retry(folder)
        assert sorted(stored(folder)) == PASSING
        assert [(again.line, again.raw) for again in left(folder)] == [(2, b"oops")]
        assert 1 <= left(folder)[0].attempts <= 2
        shutil.rmtree(folder)


@pytest.mark.parametrize("done", [0, 0.4, 1], ids=["before", "torn", "after"])
def test_a_retry_killed_at_every_call_loses_and_doubles_nothing(
    tmp_path: Path, done: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retrying, "_LETTERS_TOGETHER_MAX", 2)
    break_at_every_call(tmp_path, lambda call: Fault(call, done))


def test_a_full_disk_at_every_call_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying, "_LETTERS_TOGETHER_MAX", 2)
    break_at_every_call(tmp_path, lambda call: Fault(call, 0.5, 28))
