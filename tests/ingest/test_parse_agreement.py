"""The fast way and the slow way say the same of every line, and both say what JSON and the envelope say."""

from __future__ import annotations

from typing import Any

import pytest
from event_lines import chunk, joined
from hypothesis import given, note, settings
from hypothesis import strategies as st
from line_oracle import decoded, event, problems
from samples import as_frame

from evtool.envelope import REASONS, RejectedError
from evtool.event import EVENT_SCHEMA
from evtool.ingest import members
from evtool.ingest.columns import PARSED_SCHEMA
from evtool.ingest.parse import Parsed, Parser

SEEDS = st.integers(0, 2**48)
SOURCES = st.sampled_from([None, "pipe", 'a "quoted" source\\'])


def by_row(parsed: Parsed) -> dict[int, Any]:
    """Row -> its columns, or its reason, message and bytes."""
    assert parsed.events.schema == PARSED_SCHEMA
    rows = parsed.events["row"].take(parsed.order).to_pylist()
    rejected = [reject.row for reject in parsed.rejects]
    assert rows == sorted(set(rows))
    assert rejected == sorted(set(rejected))
    assert not set(rows) & set(rejected)
    found: dict[int, Any] = dict(zip(rows, as_frame(parsed.events, parsed.order).rows(), strict=True))
    return found | {reject.row: (reject.reason, reject.message, reject.raw) for reject in parsed.rejects}


def one_by_one(lines: list[bytes], source: str | None, fold: bool) -> dict[int, Any]:
    """The same, by the slow way."""
    found: dict[int, Any] = {}
    for number, line in enumerate(lines):
        if not line.strip(b" \t\r"):
            continue
        try:
            found[number] = members.row(line, source, fold)
        except RejectedError as error:
            found[number] = (error.reason, str(error), line)
    return found


def assert_same(found: dict[int, Any], expected: dict[int, Any], lines: list[bytes]) -> None:
    differing = [number for number in {*found, *expected} if found.get(number) != expected.get(number)]
    for number in differing[:5]:
        note(f"line {number}: {lines[number]!r}\n fast: {found.get(number)}\n slow: {expected.get(number)}")
    assert not differing


@settings(max_examples=150)
@given(seed=SEEDS, source=SOURCES, fold=st.booleans())
def test_the_fast_way_says_of_every_line_what_the_slow_way_says(seed: int, source: str | None, fold: bool):
    made = chunk(seed)
    data = joined(made, seed)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
    expected = one_by_one(lines, source, fold)
    parser = Parser(source, fold)
    assert_same(by_row(parser.parse(data)), expected, lines)
    assert_same(by_row(parser.parse(data)), expected, lines)  # by what it has learned the first time


@settings(max_examples=60)
@given(seeds=st.lists(SEEDS, min_size=2, max_size=4), source=SOURCES)
def test_what_was_learned_from_one_chunk_leads_astray_in_no_other(seeds: list[int], source: str | None):
    parser = Parser(source)
    for seed in seeds:
        data = joined(chunk(seed), seed)
        lines = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
        assert_same(by_row(parser.parse(data)), one_by_one(lines, source, True), lines)


@settings(max_examples=200)
@given(seed=SEEDS, source=SOURCES, fold=st.booleans())
def test_a_line_is_taken_exactly_when_json_and_the_envelope_allow_it(seed: int, source: str | None, fold: bool):
    data = joined(chunk(seed), seed)
    found = by_row(Parser(source, fold).parse(data))
    for number, raw in enumerate(data.split(b"\n")[:-1]):
        line = raw.removesuffix(b"\r")
        if not line.strip(b" \t\r"):
            assert number not in found
            continue
        reasons = problems(line, source, fold)
        says = f"of line {number}, {line!r}, evtool says {found[number]}, and json {reasons or 'that it is good'}"
        if reasons:
            assert len(found[number]) == 3, says
            assert found[number][0] in reasons & set(REASONS), says
            assert found[number][2] == line, says
        else:
            assert len(found[number]) == len(EVENT_SCHEMA), says
            columns = dict(zip(EVENT_SCHEMA, found[number], strict=True))
            for name in ("payload", "metadata"):
                text = columns[name]
                columns[name] = None if text is None else decoded(text)
            assert columns == event(line, source), says


@settings(max_examples=100)
@given(seed=SEEDS)
def test_payload_and_metadata_are_the_texts_that_were_written(seed: int):
    made = chunk(seed)
    data = joined(made, seed)
    parsed = Parser("pipe").parse(data)
    rows = parsed.events["row"].take(parsed.order).to_pylist()
    found = as_frame(parsed.events, parsed.order).select("payload", "metadata").rows()
    for row, (payload, metadata) in zip(rows, found, strict=True):
        values = made[row].values
        if values is None:
            continue
        given_payload, given_metadata = values.get("payload", "null"), values.get("metadata", "null")
        assert payload == ("{}" if given_payload == "null" else given_payload)
        if not set(values) - {*EVENT_SCHEMA, "position", "recorded_at"}:
            assert metadata == (None if given_metadata == "null" else given_metadata)


@settings(max_examples=60)
@given(seed=SEEDS, cut=st.integers(0, 10_000))
def test_where_a_chunk_is_cut_changes_nothing(seed: int, cut: int):
    data = joined(chunk(seed), seed)
    at = data.rfind(b"\n", 0, cut % len(data)) + 1
    whole = by_row(Parser("pipe").parse(data))
    parser = Parser("pipe")
    first = by_row(parser.parse(data[:at])) if at else {}
    before = data[:at].count(b"\n")
    second = by_row(parser.parse(data[at:]))
    assert first | {before + row: what for row, what in second.items()} == whole


def test_the_generated_lines_are_worth_their_while():
    # Without this, a mistake in the generator could make the tests above pass by testing nothing.
    taken = rejected = 0
    reasons: set[str] = set()
    for seed in range(200):
        data = joined(chunk(seed), seed)
        lines = [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1] if line.strip(b" \t\r")]
        for line in lines:
            found = problems(line, "pipe", True)
            taken += not found
            rejected += bool(found)
            reasons |= found
    assert taken > 10_000
    assert rejected > 500
    # What no such line shows: it depends on what is stored, on the line's length, the configuration or the format.
    elsewhere = {"id_conflict", "version_conflict", "line_too_long", "unknown_field"}
    elsewhere |= {"schema_invalid", "schema_missing", "row_malformed", "specversion_unknown"}
    assert reasons >= set(REASONS) - {"nesting_too_deep", *elsewhere}


@given(
    value=st.sampled_from(["{}{}", '{"a":1', "{} {}", "[]", "nul", "{},", '{"a":NaN}', '{"a":"\\ud800"}', "01"])
)
@settings(max_examples=30)
def test_one_bad_payload_among_good_ones_takes_none_of_them_along(value: str):
    shape = '{"event_id":"%s","source_id":"s","stream_id":"a","event_type":"t","payload":%s}'
    values = [value if number in (0, 70, 199) else '{"n":%d}' % number for number in range(200)]  # noqa: UP031
    data = "".join(shape % (number, text) + "\n" for number, text in enumerate(values)).encode()
    parsed = Parser().parse(data)
    assert [reject.row for reject in parsed.rejects] == [0, 70, 199]
    assert parsed.events["row"].take(parsed.order).to_pylist() == [
        number for number in range(200) if number not in (0, 70, 199)
    ]


@pytest.mark.parametrize(
    "values",
    [
        ('{"a":1', "}"),
        ('{"a":[{}', "{}]}"),
        ('{"a":{}', "{}}"),
        ("{}{}", "{"),
        ('{"a":"', '"}'),
        ('{"a":"}', '{"}'),
        ("{}}", "{{}"),
        ('{"a":{"b":{}', '{"c":{}}}}'),
        ("[1", "2]"),
        ("1,2", ",3"),
    ],
)
@pytest.mark.parametrize("field", ["payload", "metadata", "position", "colour"])
def test_two_values_that_are_only_together_json_are_both_refused(field: str, values: tuple[str, str]):
    shape = '{"event_id":"%s","source_id":"s","stream_id":"a","%s":%s,"event_type":"t"}'
    texts = [*values, *['{"n":1}'] * 100, *values[::-1], *['{"n":1}'] * 100, values[0]]
    data = "".join(shape % (number, field, text) + "\n" for number, text in enumerate(texts)).encode()
    bad = [number for number, text in enumerate(texts) if text != '{"n":1}']
    parsed = Parser().parse(data)
    assert [reject.row for reject in parsed.rejects] == bad
    assert {reject.reason for reject in parsed.rejects} == {"invalid_json"}


def test_events_of_a_chunk_keep_no_column_that_is_not_the_envelope_s():
    parsed = Parser().parse(b"\n\n")
    assert (len(parsed.events), parsed.rejects) == (0, ())
    assert parsed.events.schema == PARSED_SCHEMA
