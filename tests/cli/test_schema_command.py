"""`evtool schema` and `evtool replay --upcast`, as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import as_json, digest, failed, line, run

V1 = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
V2 = json.loads(json.dumps(V1).replace('"n"', '"number"'))
STEPS = '[[steps]]\nrename = "n"\nto = "number"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a log of twelve events in `segments`, and some files."""
    odd = line(10, payload={"n": "ten"}) + line(11, event_type="Other", payload={"n": "x"})
    run("ingest", cwd=tmp_path, stdin=b"".join(map(line, range(10))) + odd)
    for name, value in (("v1", V1), ("v2", V2), ("open", {"type": "object"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value, indent=1))
    (tmp_path / "steps.toml").write_text(STEPS)
    return tmp_path


def add(place: Path, file: str, *flags: str) -> dict[str, Any]:
    return as_json("schema", "add", file, "--type", "Seen", *flags, cwd=place)


def test_a_schema_is_added_listed_and_shown(place: Path):
    before = digest(place / "segments")
    assert add(place, "v1.json")["added"] is True
    assert add(place, "v1.json", "--version", "1")["added"] is False
    (found,) = as_json("schema", "list", cwd=place)["schemas"]
    assert (found["event_type"], found["schema_version"], found["compatibility"]) == ("Seen", 1, "backward")
    shown = run("schema", "show", "Seen", cwd=place)
    assert shown.stdout.decode().rstrip("\n") == (place / "v1.json").read_text()
    assert b"version 1 of Seen, compatibility backward" in shown.stderr
    assert (
        as_json("schema", "show", "Seen", "--version", "1", cwd=place)["schema"] == (place / "v1.json").read_text()
    )
    assert "Seen" in run("schema", "list", cwd=place).stdout.decode()
    assert digest(place / "segments") == before


def test_a_schema_may_come_from_a_pipe(place: Path):
    run("schema", "add", "-", "--type", "Seen", cwd=place, stdin=b"{}")
    assert run("schema", "show", "Seen", cwd=place).stdout == b"{}\n"


def test_the_rule_that_was_broken_is_told_with_its_place(place: Path):
    add(place, "v1.json")
    told = failed(8, "schema", "add", "v2.json", "--type", "Seen", cwd=place)
    assert "backward, required at /required: version 2 requires 'number', and version 1 does not" in told
    assert len(as_json("schema", "list", cwd=place)["schemas"]) == 1
    add(place, "v2.json", "--compatibility", "none")


def test_the_mode_of_the_configuration_holds_for_new_types(place: Path):
    (place / "evtool.toml").write_text('[schemas]\ncompatibility = "full"\n')
    assert add(place, "v1.json")["compatibility"] == "full"
    assert "full" in failed(8, "schema", "add", "open.json", "--type", "Seen", cwd=place)
    told = failed(3, "schema", "add", "open.json", "--type", "Seen", "--compatibility", "some", cwd=place)
    assert "--compatibility: 'some' is none of" in told


def test_check_counts_what_would_be_refused_and_ends_with_6(place: Path):
    done = run("schema", "check", "v1.json", "--type", "Seen", "--json", cwd=place, code=8)
    found = json.loads(done.stdout)
    assert (found["events"], found["refused"], found["conflicts"]) == (11, 1, [])
    (example,) = found["examples"]
    assert (example["position"], example["path"], example["rule"]) == (11, "/n", "/properties/n/type")
    told = run("schema", "check", "v1.json", "--type", "Seen", cwd=place, code=8).stdout.decode()
    assert '@11 /n: "ten" is not of type "integer" (rule /properties/n/type)' in told
    assert not (place / "segments" / "schemas").exists()
    assert as_json("schema", "check", "open.json", "--type", "Seen", cwd=place)["refused"] == 0
    assert as_json("schema", "check", "v1.json", "--type", "None", cwd=place)["events"] == 0


def test_check_tells_what_an_upcaster_would_make_of_it(place: Path):
    add(place, "v1.json")
    without = json.loads(run("schema", "check", "v2.json", "--type", "Seen", "--json", cwd=place, code=8).stdout)
    assert (without["refused"], without["conflicts"][0]["rule"]) == (11, "required")
    flags = ("v2.json", "--type", "Seen", "--upcast", "steps.toml")
    with_steps = json.loads(run("schema", "check", *flags, "--json", cwd=place, code=8).stdout)
    assert (with_steps["refused"], with_steps["conflicts"]) == (1, [])
    assert as_json("schema", "check", *flags, "--from-version", "2", cwd=place)["events"] == 0


def test_diff_says_what_changed_and_which_modes_it_keeps(place: Path):
    add(place, "v1.json")
    add(place, "v2.json", "--upcast", "steps.toml")
    found = as_json("schema", "diff", "Seen", cwd=place)
    assert (found["old"], found["new"], found["upcast"]) == (1, 2, ["rename n to number"])
    assert [change["path"] for change in found["changes"]] == ["/properties/n", "/properties/number", "/required"]
    assert (found["broken"]["backward"], [claim["rule"] for claim in found["broken"]["forward"]]) == (
        [],
        ["required", "unknown_property"],
    )
    told = run("schema", "diff", "Seen", "1", "2", cwd=place).stdout.decode()
    assert "backward kept\nforward  broken\n" in told
    assert 'changed  /required: ["n"] -> ["number"]' in told
    backwards = as_json("schema", "diff", "Seen", "2", "1", cwd=place)
    assert [change["change"] for change in backwards["changes"]] == ["removed", "added", "changed"]


def test_replay_gives_events_as_of_the_latest_version(place: Path):
    add(place, "v1.json")
    add(place, "v2.json", "--upcast", "steps.toml")
    before = run("replay", cwd=place).stdout
    found = [json.loads(text) for text in run("replay", "--upcast", cwd=place).stdout.splitlines()]
    assert [event["payload"] for event in found[:10]] == [{"number": number} for number in range(10)]
    assert {event["schema_version"] for event in found[:11]} == {2}
    assert (found[11]["schema_version"], found[11]["payload"]) == (1, {"n": "x"})  # of another type
    assert not [event for event in found if "upcast_error" in event]
    assert run("replay", cwd=place).stdout == before


def test_an_event_that_cannot_be_upcast_is_given_as_it_is_with_the_error(place: Path):
    add(place, "v1.json")
    (place / "steps.toml").write_text('[[steps]]\ncast = "n"\nto = "integer"\n')
    add(place, "open.json", "--upcast", "steps.toml")
    stored = run("replay", cwd=place).stdout.splitlines()
    found = run("replay", "--upcast", cwd=place).stdout.splitlines()
    error = b',"upcast_error":"cast n to integer: \\"ten\\" is no integer"}'
    assert found[10] == stored[10][:-1] + error
    assert found[9] == stored[9].replace(b'"schema_version":1', b'"schema_version":2')
    limited = run("replay", "--upcast", "--from", "@11", "--limit", "1", cwd=place).stdout
    assert limited == found[10] + b"\n"


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (4, ("add", "absent.json", "--type", "T"), "cannot read absent.json"),
        (8, ("add", "steps.toml", "--type", "T"), "steps.toml is not JSON"),
        (8, ("add", "v1.json", "--type", "T", "--upcast", "v1.json"), "v1.json holds no steps"),
        (8, ("add", "remote.json", "--type", "T"), "refers to what is not in it"),
        (8, ("show", "Nothing"), "there is no schema for the event type 'Nothing'"),
        (8, ("diff", "Nothing"), "there is no schema for the event type 'Nothing'"),
        (10, ("list", "--log", "nowhere"), "there is no log in nowhere"),
        (10, ("add", "v1.json", "--type", "T", "--log", "nowhere"), "there is no log in nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_ends_in_a_sentence(place: Path, code: int, words: tuple[str, ...], says: str):
    (place / "remote.json").write_text('{"$ref":"https://example.com/a"}')
    assert says in failed(code, "schema", *words, cwd=place)


def test_a_damaged_registry_is_told_and_events_are_read_without_it(place: Path):
    add(place, "v1.json")
    path = place / "segments" / "schemas" / "schemas.ndjson"
    path.write_bytes(path.read_bytes().replace(b"integer", b"number."))
    for words in (("schema", "list"), ("schema", "show", "Seen"), ("replay", "--upcast")):
        assert "is damaged: line 1: its checksum is wrong" in failed(14, *words, cwd=place)
    failed(14, "schema", "add", "v1.json", "--type", "T", cwd=place)
    assert len(run("replay", cwd=place).stdout.splitlines()) == 12
