"""The registry's file: nothing that was added is lost or changed, readers see a whole one."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, FaultyFiles, Killed, flip

import evtool
from evtool.errors import LogDamagedError, LogReadOnlyError, NoSpaceError, SchemaError
from evtool.files import Files
from evtool.schemas import document, registry
from evtool.schemas import steps as writing
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.registry import Registry

ADDING = Path(__file__).with_name("adding.py")
STEPS = writing.from_list([{"rename": "o.a", "to": "b"}, {"default": ["x.y"], "value": {"n": 1}}], "steps")
CLOSED = '{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":false}'
WIDER = CLOSED.replace("integer", "number")
OTHER = CLOSED.replace("integer", "string")


def path_of(folder: Path) -> Path:
    return folder / "schemas" / "schemas.ndjson"


def add(folder: Path, text: str, event_type: str = "T", files: Files | None = None, **options: Any) -> Schema:
    return Registry(files or Files(), folder).add(event_type, document.parse(text), **options).schema


def known(folder: Path) -> list[tuple[str, int, str]]:
    schemas = Registry(Files(), folder).current()
    return [(schema.event_type, schema.version, schema.text) for schema in schemas.registered]


def test_what_was_added_comes_back_as_it_was(folder: Path):
    text = ' {\n  "title": "é 漢字 \\u00e9",\n "maximum": 1.10 }\n'
    first = add(folder, text, 'Type/../with "quotes"\n', compatibility="full_transitive")
    second = add(folder, "true", first.event_type, steps=STEPS, compatibility="none")
    third = add(folder, "{}", "Other", version=7)
    found = Registry(Files(), folder).current()
    assert found.registered == (first, second, third)
    assert found.get(first.event_type, 1) == first
    assert found.get(first.event_type, 1).text == text
    assert found.versions(first.event_type)[1].steps == STEPS
    assert found.get("Other", 1) is found.get("Other", 8) is found.get("Absent", 1) is None
    assert (found.latest_version("Other"), found.latest_version("Absent")) == (7, None)
    assert sorted(path.name for path in folder.rglob("*")) == ["schemas", "schemas.lock", "schemas.ndjson"]


def test_a_line_is_readable_and_says_what_it_holds(folder: Path):
    schema = add(folder, CLOSED)
    (line,) = path_of(folder).read_bytes().splitlines()
    kept = json.loads(line)
    assert list(kept) == [
        *("event_type", "schema_version", "registered_at", "compatibility", "schema", "digest", "checksum"),
    ]
    assert (kept["schema"], kept["digest"]) == (CLOSED, schema.document.digest)


def test_the_same_schema_again_changes_nothing(folder: Path):
    add(folder, CLOSED)
    add(folder, WIDER)
    before = path_of(folder).read_bytes()
    for options in ({}, {"version": 2}, {"compatibility": "backward"}):
        proposal = Registry(Files(), folder).add("T", document.parse(WIDER), **options)
        assert (proposal.is_known, proposal.schema.version) == (True, 2)
    assert Registry(Files(), folder).add("T", document.parse(CLOSED), version=1).is_known
    assert path_of(folder).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (OTHER, {"version": 1}, "registered with another schema"),
        (OTHER, {"version": 3}, "not the next one"),
        (OTHER, {"version": 2}, "breaks its compatibility, backward:\n  backward, type at /properties/a/type"),
        (CLOSED, {"compatibility": "full"}, "registered with another compatibility"),
        (CLOSED, {"steps": STEPS}, "registered with another upcaster"),
        (CLOSED, {"event_type": ""}, "event_type is empty"),
        (CLOSED, {"event_type": "x" * 2000}, "bytes; 1,024 is the limit"),
        (CLOSED, {"event_type": "U", "version": 0}, "0 is no schema_version"),
        (CLOSED, {"event_type": "U", "version": 2**31}, "is no schema_version"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_registered_never_changes(folder: Path, text: str, options: dict[str, Any], says: str):
    add(folder, CLOSED)
    before = path_of(folder).read_bytes()
    with pytest.raises(SchemaError) as caught:
        add(folder, text, **options)
    assert says in caught.value.message
    assert path_of(folder).read_bytes() == before


def test_the_mode_goes_on_until_another_is_given(folder: Path):
    assert add(folder, CLOSED, default="full").compatibility == "full"
    with pytest.raises(SchemaError, match="full"):
        add(folder, WIDER, default="none")
    assert add(folder, WIDER, compatibility="backward", default="none").compatibility == "backward"
    with pytest.raises(SchemaError, match="backward"):
        add(folder, OTHER, default="none")


def test_a_proposal_writes_nothing(folder: Path):
    work = Registry(Files(), folder)
    assert not work.propose("T", document.parse(CLOSED)).conflicts
    assert not folder.exists()
    add(folder, CLOSED)
    assert [str(found.finding.rule) for found in work.propose("T", document.parse(OTHER)).conflicts] == ["type"]
    assert known(folder) == [("T", 1, CLOSED)]


def test_a_reader_sees_what_was_added_since_and_reads_only_then(folder: Path, monkeypatch: pytest.MonkeyPatch):
    reader = Registry(Files(), folder)
    assert not reader.current()
    add(folder, CLOSED)
    first = reader.current()
    assert first.latest_version("T") == 1
    assert reader.current() is first
    add(folder, WIDER)
    assert reader.current().latest_version("T") == 2
    assert first.latest_version("T") == 1


def test_processes_that_add_at_once_do_not_lose_one_anothers(folder: Path):
    names, count = ("one", "two", "three"), 8
    commands = [[sys.executable, ADDING, folder, name, str(count), "shared"] for name in names]
    running = [
        subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) for command in commands
    ]
    reader = Registry(Files(), folder)
    seen = 0
    while any(process.poll() is None for process in running):
        now = len(reader.current())
        assert now >= seen
        seen = now
    said = []
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0
        said += [(words[0], int(words[1]), words[2]) for words in map(str.split, output.splitlines())]
    assert sorted(said) == sorted(known(folder))
    assert len(said) == len(names) * count * 2
    shared = [version for name, version, _ in known(folder) if name == "shared"]
    assert shared == list(range(1, len(names) * count + 1))


def calls_of_an_addition(folder: Path) -> int:
    add(folder, CLOSED)
    files = FaultyFiles()
    add(folder, WIDER, files=files)
    return len(files.calls)


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_a_process_that_ends_at_any_call_leaves_the_old_registry_or_the_new_one(tmp_path: Path, done: float):
    calls = calls_of_an_addition(tmp_path / "count")
    assert calls == 3
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        add(folder, CLOSED)
        with pytest.raises(Killed):
            add(folder, WIDER, files=FaultyFiles(Fault(call, done)))
        after = known(folder)
        assert after[0] == ("T", 1, CLOSED)
        assert len(after) == 1 + (call == calls and done == 1.0)
        assert add(folder, WIDER).version == 2  # the next one goes on
        assert [version for _, version, _ in known(folder)] == [1, 2]


def test_a_full_disk_leaves_the_old_registry_and_lets_the_lock_go(folder: Path):
    add(folder, CLOSED)
    files = FaultyFiles(Fault(1, 0.5, errno.ENOSPC, ("write",)))
    with pytest.raises(NoSpaceError):
        add(folder, WIDER, files=files)
    assert known(folder) == [("T", 1, CLOSED)]
    files.fault = None
    add(folder, WIDER, files=files)


def test_a_flipped_bit_anywhere_is_found(folder: Path):
    add(folder, CLOSED, compatibility="none")
    add(folder, "{}", steps=STEPS)
    path = path_of(folder)
    for byte in range(path.stat().st_size):
        flip(path, byte, byte % 8)
        with pytest.raises(LogDamagedError, match=r"schemas\.ndjson is damaged"):
            Registry(Files(), folder).current()
        flip(path, byte, byte % 8)
    Registry(Files(), folder).current()


def test_lines_that_are_missing_or_out_of_order_are_found(folder: Path):
    for text in (CLOSED, WIDER, "{}"):
        add(folder, text, compatibility="none")
    path = path_of(folder)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for lines in (first + third, second + first, first + second + third[:-1], first + first):
        path.write_bytes(lines)
        with pytest.raises(LogDamagedError):
            Registry(Files(), folder).current()


def test_who_waits_too_long_for_the_lock_is_told_who_holds_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    add(folder, CLOSED)
    monkeypatch.setattr(registry, "_LOCK_SECONDS_MAX", 0.05)
    held = Files().lock(folder / "schemas" / "schemas.lock")
    with pytest.raises(evtool.EvtoolError, match="process"):
        add(folder, WIDER)
    held.release()
    add(folder, WIDER)


def test_a_log_has_its_schemas(folder: Path):
    with evtool.open(folder, create=True) as log:
        assert log.schemas.current() == Schemas()
        log.schemas.add("T", document.parse(CLOSED))
        assert log.schemas.current().latest_version("T") == 1
    with (
        evtool.open(folder, read_only=True) as log,
        pytest.raises(LogReadOnlyError),
    ):
        log.schemas.add("T", document.parse(WIDER))
    assert evtool.open(folder).schemas.current().latest_version("T") == 1
