"""Stored events as lines: JSON for everyone, every byte of a payload as it was."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool import ndjson, timestamps
from evtool.event import STORED_SCHEMA, empty_frame

KEYS = [
    "position",
    "recorded_at",
    "event_id",
    "source_id",
    "stream_id",
    "event_type",
    "timestamp",
    "stream_version",
    "schema_version",
    "payload",
    "metadata",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    '"\\\x00\x1f\x7f\u2028{},:'
)
MOMENTS = st.integers(-(2**63), 2**63 - 1)
OBJECTS = st.sampled_from(
    [
        "{}",
        '{"n":1.10,"m":1E5,"z":-0,"big":12345678901234567890123}',
        '{ "b" : "\\u00e9\\/" , "a" : "é日本🧦" }',
        '{"a":1,"a":2}',
        '{"text":"},\\"metadata\\":{}"}',
    ]
)
EVENTS = st.fixed_dictionaries(
    {
        "position": st.integers(1, 2**63 - 1),
        "recorded_at": MOMENTS,
        "event_id": TEXTS,
        "source_id": TEXTS,
        "stream_id": TEXTS,
        "event_type": TEXTS,
        "timestamp": MOMENTS,
        "stream_version": st.integers(1, 2**63 - 1),
        "schema_version": st.integers(1, 2**31 - 1),
        "payload": OBJECTS,
        "metadata": st.none() | OBJECTS,
    }
)


def frame(events: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=STORED_SCHEMA, orient="row")


def expected_line(event: dict[str, Any]) -> dict[str, Any]:
    line = event | {name: timestamps.to_text(event[name]) for name in ("recorded_at", "timestamp")}
    line["payload"] = json.loads(event["payload"])
    line["metadata"] = json.loads(event["metadata"]) if event["metadata"] else None
    return {name: line[name] for name in KEYS if line[name] is not None}


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=5))
def test_a_line_is_json_and_says_what_the_event_is(events: list[dict[str, Any]]):
    data = ndjson.render(frame(events))
    lines = data.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(events)
    for line, event in zip(lines, events, strict=True):
        assert json.loads(line) == expected_line(event)
        assert list(json.loads(line)) == KEYS[: len(KEYS) - (event["metadata"] is None)]
        assert f'"payload":{event["payload"]}'.encode() in line
        if event["metadata"] is not None:
            assert line.endswith(f',"metadata":{event["metadata"]}}}'.encode())


@given(st.lists(EVENTS, min_size=3, max_size=6))
def test_a_part_of_a_frame_gives_the_lines_of_that_part(events: list[dict[str, Any]]):
    whole = frame(events)
    lines = [line + b"\n" for line in ndjson.render(whole).split(b"\n")[:-1]]
    assert ndjson.render(whole[1:-1]) == b"".join(lines[1:-1])
    assert ndjson.render(whole.filter(pl.int_range(pl.len()) % 2 == 0)) == b"".join(lines[::2])
    assert ndjson.render(pl.concat([whole[:1], whole[1:]], rechunk=False)) == b"".join(lines)


def test_no_events_give_no_bytes():
    assert ndjson.render(empty_frame()) == b""


def test_the_line_is_compact_and_its_times_have_nine_digits():
    event = {
        "position": 7,
        "recorded_at": 1_767_225_600_000_000_000,
        "event_id": 'say "é"',
        "source_id": "shop",
        "stream_id": "user/1",
        "event_type": "Item\tViewed",
        "timestamp": -1,
        "stream_version": 3,
        "schema_version": 1,
        "payload": '{ "a" :1.10}',
        "metadata": "{}",
    }
    assert ndjson.render(frame([event])).decode() == (
        '{"position":7,"recorded_at":"2026-01-01T00:00:00.000000000Z","event_id":"say \\"é\\"","source_id":"shop",'
        '"stream_id":"user/1","event_type":"Item\\tViewed","timestamp":"1969-12-31T23:59:59.999999999Z",'
        '"stream_version":3,"schema_version":1,"payload":{ "a" :1.10},"metadata":{}}\n'
    )
