"""The queue of dead letters: who is meant, and that what comes while some are taken out is not lost."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, FaultyFiles, Killed
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.errors import LetterNotFoundError, LogLockedError
from evtool.files import Files
from evtool.ingest import letterqueue
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile
from evtool.ingest.letterqueue import Filter, LetterQueue
from evtool.timestamps import parse_text

FIRST = DeadLetter("2026-01-01T00:00:00.000000000Z", "invalid_json", "no value", "events.ndjson", 1, 5, b"{oops")


def letter(number: int) -> DeadLetter:
    return replace(FIRST, line=number, reason="bad_utf8" if number % 2 else "invalid_json")


def filled(folder: Path, *numbers: int) -> LetterQueue:
    DeadLetterFile(Files(), folder, durable=True).append([letter(number) for number in numbers])
    return LetterQueue(Files(), folder)


def lines(queue: LetterQueue) -> list[int]:
    return [letter.line for letter in queue.letters()]


def drop(queue: LetterQueue, *numbers: int) -> None:
    with queue.change() as change:
        for entry in change.entries():
            if entry.letter is None or entry.letter.line not in numbers:
                change.keep(entry.text)
        change.finish()


@pytest.mark.parametrize(
    ("wanted", "is_meant"),
    [
        (Filter(), True),
        (Filter(ids={FIRST.id, "x"}), True),
        (Filter(ids={"x"}), False),
        (Filter(reasons={"bad_utf8", "invalid_json"}), True),
        (Filter(reasons={"bad_utf8"}), False),
        (Filter(sources={"events.ndjson"}), True),
        (Filter(sources={"web"}), True),
        (Filter(sources={"pipe"}), False),
        (Filter(since=parse_text(FIRST.time)), True),
        (Filter(since=parse_text(FIRST.time) + 1), False),
        (Filter(until=parse_text(FIRST.time) + 1), True),
        (Filter(until=parse_text(FIRST.time)), False),
        (Filter(since=0, until=2**62), True),
        (Filter(reasons={"invalid_json"}, sources={"pipe"}), False),
    ],
)
def test_a_letter_is_meant_if_all_of_a_filter_fits(wanted: Filter, is_meant: bool):
    assert wanted(replace(FIRST, source="web")) == is_meant


def test_a_letter_without_a_time_is_of_no_time():
    timeless = replace(FIRST, time="yesterday")
    assert Filter()(timeless)
    assert not Filter(since=0)(timeless)
    assert not Filter(until=2**62)(timeless)


def test_a_beginning_of_an_id_is_enough_if_only_one_letter_has_it(tmp_path: Path):
    queue = filled(tmp_path, *range(1, 40))
    ids = [found.id for found in queue.letters()]
    assert queue.get(ids[7]) == letter(8)
    assert queue.resolve([ids[3], ids[4][:12]]) == {ids[3], ids[4]}
    shared = next(start for start in "0123456789abcdef" if sum(text.startswith(start) for text in ids) > 1)
    for beginning, told in ((shared, "more than one"), ("xyz", "no dead letter"), ("", "more than one")):
        with pytest.raises(LetterNotFoundError, match=told):
            queue.resolve([ids[0], beginning])


def test_an_absent_queue_is_an_empty_one(tmp_path: Path):
    queue = LetterQueue(Files(), tmp_path)
    assert lines(queue) == []
    with queue.change() as change:
        assert list(change.entries()) == []
    with pytest.raises(LetterNotFoundError):
        queue.get("0")
    assert list(tmp_path.iterdir()) == []


def test_letters_are_taken_out_and_the_others_stay_as_they_are(tmp_path: Path):
    queue = filled(tmp_path, 1, 2, 3, 4)
    before = queue.path.read_bytes().splitlines()
    drop(queue, 2, 3)
    assert queue.path.read_bytes().splitlines() == [before[0], before[3]]
    drop(queue, 1, 4)
    assert queue.path.read_bytes() == b""
    assert lines(filled(tmp_path, 5)) == [5]


def test_a_change_that_is_not_finished_changes_nothing(tmp_path: Path):
    queue = filled(tmp_path, 1, 2)
    before = queue.path.read_bytes()
    with queue.change() as change:
        change.keep(b"x" * 2**21)
    assert queue.path.read_bytes() == before
    assert sorted(path.name for path in queue.path.parent.iterdir()) == [
        "append.lock",
        "dead-letters.ndjson",
        "queue.lock",
    ]


def test_lines_that_are_no_letters_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(letterqueue, "_LETTER_BYTES_MAX", 1000)
    queue = filled(tmp_path, 1)
    strange = [b"{}\n", b"\xff\xfe\n", b"\n", b"y" * 3500 + b"\n", b"z" * 999 + b"\n"]
    with queue.path.open("ab") as file:
        file.write(b"".join(strange))
    filled(tmp_path, 2)
    assert lines(queue) == [1, 2]
    drop(queue, 1)
    assert queue.path.read_bytes() == b"".join(strange) + letter(2).encode()


def test_what_comes_while_some_are_taken_out_is_kept(tmp_path: Path):
    queue = filled(tmp_path, 1, 2, 3)
    with queue.change() as change:
        filled(tmp_path, 4, 5)
        for entry in change.entries():
            assert entry.letter is not None
            assert entry.letter.line <= 3  # those that came later are nobody's business here
            if entry.letter.line != 2:
                change.keep(entry.text)
        filled(tmp_path, 6)
        assert lines(queue) == [1, 2, 3, 4, 5, 6]
        change.finish()
    assert lines(filled(tmp_path, 7)) == [1, 3, 4, 5, 6, 7]


def test_a_torn_letter_goes_with_the_change(tmp_path: Path):
    queue = filled(tmp_path, 1, 2)
    with queue.path.open("ab") as file:
        file.write(letter(3).encode()[:-1])
    drop(queue, 1)
    assert queue.path.read_bytes() == letter(2).encode()


def test_there_is_one_change_at_a_time(tmp_path: Path):
    queue = filled(tmp_path, 1)
    with queue.change(), pytest.raises(LogLockedError), queue.change():
        pass
    drop(queue, 1)


def test_appending_and_taking_out_at_once_lose_nothing(tmp_path: Path):
    count = 600
    queue = filled(tmp_path, 0)

    def append() -> None:
        file = DeadLetterFile(Files(), tmp_path, durable=False)
        for number in range(1, count, 2):
            file.append([letter(number), letter(number + 1)])

    thread = threading.Thread(target=append)
    thread.start()
    taken: list[int] = []
    while thread.is_alive():
        with queue.change() as change:
            for entry in change.entries():
                assert entry.letter is not None
                if entry.letter.line % 3:
                    taken.append(entry.letter.line)
                else:
                    change.keep(entry.text)
            change.finish()
    thread.join()
    left = lines(queue)
    assert sorted(taken + left) == list(range(count + 1))
    assert left == sorted(left)


@pytest.mark.parametrize("done", [0, 0.4, 1], ids=["before", "torn", "after"])
def test_a_change_killed_at_every_call_has_happened_or_not(tmp_path: Path, done: float):
    drop(LetterQueue(files := FaultyFiles(), filled(tmp_path / "counted", *range(9)).path.parents[1]), 3)
    for call in range(1, len(files.calls) + 1):
        folder = tmp_path / str(call)
        filled(folder, *range(9))
        with pytest.raises(Killed):
            drop(LetterQueue(FaultyFiles(Fault(call, done)), folder), 3)
        (folder / "dead-letters" / "dead-letters.ndjson.tmp").write_bytes(b"what a kill leaves")
        whole, less = list(range(9)), [0, 1, 2, 4, 5, 6, 7, 8]
        is_last = call == len(files.calls)
        assert lines(LetterQueue(Files(), folder)) == (less if is_last and done == 1 else whole)
        drop(queue := filled(folder, 9), 3)
        assert lines(queue) == [*less, 9]


STEPS = st.lists(
    st.tuples(st.just("append"), st.lists(st.integers(1, 50), max_size=4))
    | st.tuples(st.just("drop"), st.lists(st.integers(1, 50), max_size=4))
    | st.tuples(st.just("tear"), st.integers(1, 40)),
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_it_is_a_list_to_which_some_append_and_from_which_others_take(steps: list):
    with tempfile.TemporaryDirectory() as name:
        queue = filled(Path(name))
        model: list[int] = []
        for step, value in steps:
            if step == "append":
                filled(Path(name), *value)
                model += value
            elif step == "drop" and queue.path.exists():
                drop(queue, *value)
                model = [number for number in model if number not in value]
            elif step == "tear" and queue.path.exists():
                with queue.path.open("ab") as file:
                    file.write(letter(99).encode()[:value])
            assert lines(queue) == model
