"""How many stored events a schema would refuse: counted by version, as upcasters make them."""

from __future__ import annotations

import json
from pathlib import Path

import evtool
from evtool.lifecycle import conformance
from evtool.schemas import document
from evtool.schemas import steps as writing
from evtool.schemas.record import Schema


def schema(version: int, name: str, *written: dict[str, str]) -> Schema:
    value = {"properties": {name: {"type": "integer", "maximum": 7}}, "required": [name]}
    return Schema("T", version, json.dumps(value), "none", "", writing.from_list(list(written), "steps"))


def make(folder: Path) -> evtool.Log:
    """Ten events of version 1, two of version 2, one of version 3, and others."""
    log = evtool.open(folder, create=True)
    base = {"source_id": "s", "stream_id": "u"}
    versions = [1] * 10 + [2] * 2 + [3]
    for number, version in enumerate(versions):
        payload = {"a" if version == 1 else "b": number}
        event = {"event_id": f"{number}", "event_type": "T", "schema_version": version, "payload": payload}
        log.append([base | event, base | {"event_id": f"x{number}", "event_type": "U"}])
    log.append([base | {"event_id": "text", "event_type": "T", "payload": {"a": "text"}}])
    return log


def test_events_are_counted_as_they_are_stored(folder: Path):
    with make(folder) as log:
        report = conformance.check(log, schema(1, "a"))
    assert (report.events, report.refused) == (11, 3)
    assert report.versions == {1: {"events": 11, "refused": 3}}
    found = [(example.position, example.path, example.rule) for example in report.examples]
    assert found == [
        (17, "/a", "/properties/a/maximum"),
        (19, "/a", "/properties/a/maximum"),
        (27, "/a", "/properties/a/type"),
    ]


def test_events_go_through_the_upcasters_first(folder: Path):
    with make(folder) as log:
        log.schemas.add("T", document.parse(schema(1, "a").text), compatibility="none")
        proposed = schema(2, "b", {"rename": "a", "to": "b"}, {"cast": "b", "to": "integer"})
        report = conformance.check(log, proposed)
        assert report.versions == {1: {"events": 11, "refused": 3}, 2: {"events": 2, "refused": 2}}
        assert [example.rule for example in report.examples][-1] == "upcast"
        assert report.examples[-1].message == 'cast b to integer: "text" is no integer'
        assert len(log.schemas.current()) == 1  # nothing was added
        assert conformance.check(log, proposed, first_version=2).versions == {2: {"events": 2, "refused": 2}}
        unchanged = conformance.check(log, schema(2, "b"))
        assert (unchanged.refused, len(unchanged.examples)) == (13, conformance.EXAMPLES_MAX)


def test_a_type_without_events(folder: Path):
    with make(folder) as log:
        report = conformance.check(log, Schema("Nowhere", 1, "false", "none", ""))
    assert (report.events, report.refused, report.versions) == (0, 0, {})
