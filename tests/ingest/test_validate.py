"""Schemas at ingest and append: what breaks a rule is a dead letter, or refuses the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import event, ids

import evtool
from evtool.config import Config, IngestConfig, SchemasConfig
from evtool.errors import EventError
from evtool.ingest.pipeline import Ingest
from evtool.schemas import document

NUMBERED = {"type": "object", "required": ["number"], "properties": {"number": {"type": "integer"}}}


def seen(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "event_id": f"event-{number}",
        "source_id": "shop",
        "stream_id": f"user-{number % 7}",
        "event_type": "Seen",
        "payload": {"number": number},
    } | fields


@pytest.fixture
def log(folder: Path) -> evtool.Log:
    log = evtool.open(folder, create=True)
    log.schemas.add("Seen", document.parse(json.dumps(NUMBERED)))
    return log


def ingest(log: evtool.Log, path: Path, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ingest some events; the dead letters that the log has then."""
    path.write_text("".join(json.dumps(item) + "\n" for item in events))
    Ingest(log, [str(path)], IngestConfig()).run()
    letters = log.folder / "dead-letters" / "dead-letters.ndjson"
    return [json.loads(line) for line in letters.read_text().splitlines()] if letters.exists() else []


def test_what_breaks_its_schema_is_a_dead_letter_and_the_rest_is_stored(log: evtool.Log, tmp_path: Path):
    bad = {3: {"number": "3"}, 200: {}, 499: {"number": 1.5}}
    events = [seen(number, payload=bad.get(number, {"number": number})) for number in range(500)]
    letters = ingest(log, tmp_path / "events.ndjson", events)
    assert [(letter["line"], letter["reason"]) for letter in letters] == [
        (number + 1, "schema_invalid") for number in bad
    ]
    assert "/number" in letters[0]["message"]
    assert [json.loads(letter["raw"]) for letter in letters] == [events[number] for number in bad]
    assert ids(log) == [f"event-{number}" for number in range(500) if number not in bad]


def test_rejects_of_parsing_and_of_schemas_stand_in_the_order_of_their_lines(log: evtool.Log, tmp_path: Path):
    events = [seen(0, payload={}), seen(1, stream_id=""), seen(2), seen(3, payload={}), seen(4, event_id=1)]
    letters = ingest(log, tmp_path / "events.ndjson", events)
    assert [(letter["line"], letter["reason"]) for letter in letters] == [
        (1, "schema_invalid"),
        (2, "empty_field"),
        (4, "schema_invalid"),
        (5, "wrong_type"),
    ]
    assert ids(log) == ["event-2"]


def test_types_without_a_schema_are_allowed_or_rejected_as_configured(log: evtool.Log, tmp_path: Path):
    other = seen(1, event_type="Bought", payload={})
    assert ingest(log, tmp_path / "events.ndjson", [other]) == []
    strict = evtool.open(log.folder, config=Config(schemas=SchemasConfig(unknown_types="reject")))
    log.close()
    letters = ingest(strict, tmp_path / "events.ndjson", [other | {"event_id": "event-2"}, seen(3)])
    assert [(letter["line"], letter["reason"]) for letter in letters] == [(1, "schema_missing")]
    assert ids(strict) == ["event-1", "event-3"]


def test_a_version_without_a_schema_is_no_way_around_it(log: evtool.Log, tmp_path: Path):
    letters = ingest(log, tmp_path / "events.ndjson", [seen(1, schema_version=2, payload={})])
    assert [letter["reason"] for letter in letters] == ["schema_missing"]


def test_an_append_that_breaks_a_schema_is_refused_whole(log: evtool.Log):
    with pytest.raises(EventError, match=r"event 1 of the batch: .*/number.* \(schema_invalid\)"):
        log.append([seen(1), seen(2, payload={"number": "2"})])
    assert ids(log) == []
    log.append([seen(1), event(2)])
    assert ids(log) == ["event-1", "event-2"]
