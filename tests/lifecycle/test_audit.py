"""The audit of a log: each line follows the one before, and whatever happens to the file is found."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from backing import backed_up, place, restored
from faults import Fault, FaultyFiles, Killed, flip
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import event

import evtool
from evtool.config import Config
from evtool.files import Files
from evtool.lifecycle import audit, nightly, witnesses
from evtool.lifecycle.nightsteps import STEPS
from evtool.lifecycle.verify import verify


def add(folder: Path, number: int = 0, files: Files | None = None) -> audit.Mark:
    return audit.record(files or Files(), folder, "retain", {"events": number}, {"why": "é, \udcff"})


def filled(folder: Path, count: int = 4) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        add(folder, number)
    return (folder / audit.FILE).read_bytes()


def made(folder: Path) -> Path:
    """A log with two events and two lines."""
    with evtool.open(folder, create=True) as log:
        log.append([event(1), event(2)])
    filled(folder, 2)
    return folder


def test_each_line_says_what_who_and_when_and_follows_the_one_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    lines = filled(folder).splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["number"] for line in found] == [1, 2, 3, 4]
    assert [line["counts"]["events"] for line in found] == [0, 1, 2, 3]
    assert [line["previous"] for line in found] == [audit.NO_LINE, *(line["sha256"] for line in found[:-1])]
    assert {(line["uid"], line["command"], line["outcome"]) for line in found} == {(os.getuid(), "retain", "done")}
    assert "somebody-else" not in lines[0].decode()
    assert sorted(line["time"] for line in found) == [line["time"] for line in found]
    assert audit.check(Files(), folder) == audit.Checked(4, audit.Mark(4, found[-1]["sha256"]))


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_a_line_less_or_more_or_moved_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("audit")
    whole = filled(folder)
    lines = whole.splitlines(keepends=True)
    kind = data.draw(st.sampled_from(["flip", "take out", "put in", "swap"]))
    at = data.draw(st.integers(0, len(lines) - 2))
    if kind == "flip":
        byte = data.draw(st.integers(0, len(whole) - 2))
        flip(folder / audit.FILE, byte, data.draw(st.integers(0, 7)))
        at = whole[:byte].count(b"\n")
    else:
        changed = {
            "take out": lines[:at] + lines[at + 1 :],
            "put in": [*lines[: at + 1], lines[at], *lines[at + 1 :]],
            "swap": [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
        }[kind]
        (folder / audit.FILE).write_bytes(b"".join(changed))
        at += kind == "put in"
    assert audit.check(Files(), folder).broken == at + 1
    mark = add(folder)  # whatever it is, the next line is added
    again = audit.check(Files(), folder)
    assert again.last is not None
    assert (again.broken, again.last.sha256) == (at + 1, mark.sha256)


def test_a_line_that_a_crash_cut_short_is_cut_and_told(folder: Path):
    whole = filled(folder)
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in (*range(start, len(whole), 9), len(whole) - 1):
        (folder / audit.FILE).write_bytes(whole[:end])
        add(folder, 7)
        last = [json.loads(line.text) for line in audit.lines(Files(), folder)][-1]
        is_finished = end == len(whole) - 1  # only its line break is missing: nothing is cut
        assert last["number"] == (5 if is_finished else 4)
        assert last["counts"].get("torn_bytes", 0) == (0 if is_finished else end - start)
        assert audit.check(Files(), folder).broken is None


def test_a_last_line_break_that_became_something_else_costs_no_line(folder: Path):
    whole = filled(folder)
    (folder / audit.FILE).write_bytes(whole[:-1] + b"\x0b")
    add(folder)
    found = (folder / audit.FILE).read_bytes()
    assert found.startswith(whole)
    assert json.loads(found.splitlines()[-1])["counts"]["torn_bytes"] == 1


def test_killed_at_each_operation_the_lines_before_stay_and_the_next_one_follows(folder: Path):
    filled(folder, 2)
    counting = FaultyFiles()
    add(folder, 2, counting)
    assert ("fdatasync", audit.FILE) in counting.calls
    for call in range(1, len(counting.calls) + 1):
        for done in (0.0, 0.5, 1.0):
            before = (folder / audit.FILE).read_bytes()
            with pytest.raises(Killed):
                add(folder, 9, FaultyFiles(Fault(call, done)))
            assert (folder / audit.FILE).read_bytes().startswith(before)
            add(folder, 10)
            assert audit.check(Files(), folder).broken is None
            assert (folder / audit.FILE).read_bytes().startswith(before)


def test_many_at_once_make_one_chain(folder: Path):
    folder.mkdir()
    threads = [threading.Thread(target=filled, args=(folder, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checked = audit.check(Files(), folder)
    assert (checked.lines, checked.broken) == (40, None)


def test_verify_names_the_line_and_a_torn_one_is_no_damage(folder: Path):
    made(folder)
    with evtool.open(folder, read_only=True) as log:
        assert verify(log).audit == audit.check(log.files, folder).last
        whole = (folder / audit.FILE).read_bytes()
        (folder / audit.FILE).write_bytes(whole + whole[:9])
        assert verify(log).is_clean
        (folder / audit.FILE).write_bytes(whole.replace(b'"events":1', b'"events":2'))
        (found,) = verify(log).findings
    assert (found.piece, found.number, found.severity) == ("line", 2, "log")


def test_a_backup_has_the_audit_and_the_restored_log_goes_on_with_it(folder: Path, tmp_path: Path):
    whole = filled(made(folder), 1)
    backed_up(folder)
    restored(place(folder), tmp_path / "again")
    found = (tmp_path / "again" / audit.FILE).read_bytes()
    assert found.startswith(whole)
    (line,) = found[len(whole) :].splitlines()
    assert [json.loads(line)[name] for name in ("number", "command", "outcome")] == [4, "restore", "began"]
    assert audit.check(Files(), tmp_path / "again").broken is None


def test_lines_cut_off_the_end_contradict_the_night_and_the_backup(folder: Path):
    whole = (made(folder) / audit.FILE).read_bytes()
    with evtool.open(folder) as log:
        nightly.run(log, Config(log_path=folder), STEPS, only=["verify"])
        backed_up(folder)
        assert witnesses.contradicted(log, place(folder)) == (2, [])
        add(folder)
        assert witnesses.contradicted(log, place(folder)) == (2, [])
        (folder / audit.FILE).write_bytes(whole.splitlines(keepends=True)[0])
        add(folder)  # and the chain holds
        assert audit.check(log.files, folder).broken is None
        count, told = witnesses.contradicted(log, place(folder))
    assert (count, len(told)) == (2, 2)
    assert "another line 2" in told[0]
    assert "the backup 00000001-" in told[1]


def test_urls_lose_what_gives_access():
    keep = audit.without_credentials
    assert keep("s3://key:secret@bucket/prefix?token=1#x") == "s3://bucket/prefix"
    assert keep("/mnt/backups") == "/mnt/backups"
