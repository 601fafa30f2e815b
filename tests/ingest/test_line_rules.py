"""The rules of a line, each at its border, by the fast way and by the slow one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from samples import as_frame

from evtool.envelope import RejectedError
from evtool.errors import ConfigError
from evtool.event import EVENT_SCHEMA, LINE_BYTES_MAX, NESTING_MAX
from evtool.ingest import members
from evtool.ingest.parse import Parser

BASE = {"event_id": '"e"', "source_id": '"s"', "stream_id": '"u"', "event_type": '"t"'}
GOOD = {
    "event_id": "e",
    "source_id": "s",
    "stream_id": "u",
    "event_type": "t",
    "schema_version": 1,
    "payload": "{}",
}


def line(**values: str) -> bytes:
    """A line of these values (JSON texts); an empty one leaves the field out."""
    return json_object({key: value for key, value in (BASE | values).items() if value}).encode()


def json_object(values: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in values.items()) + "}"


def says(data: bytes, fold_unknown: bool = True, source: str | None = None) -> dict[str, Any] | str:
    """What becomes of a line, three times: alone, among lines of its own kind, and among good ones."""
    try:
        values = members.row(data, source, fold_unknown)
        result: dict[str, Any] | str = dict(zip(EVENT_SCHEMA, values, strict=True))
    except RejectedError as error:
        result = error.reason
    for others, rows in ((data, range(100)), (line(), (50,))):
        lines = [others] * 50 + [data] + [others] * 49
        parsed = Parser(source, fold_unknown).parse(b"\n".join(lines) + b"\n")
        if isinstance(result, str):
            assert {reject.row: (reject.reason, reject.raw) for reject in parsed.rejects} == dict.fromkeys(
                rows, (result, data)
            )
        else:
            events = as_frame(parsed.events, parsed.order).to_dicts()
            assert parsed.events["row"].take(parsed.order).to_pylist() == list(range(100))
            assert [events[row] for row in rows] == [result] * len(rows)
    return result


def test_the_least_that_an_event_needs():
    assert says(line()) == dict.fromkeys(EVENT_SCHEMA) | GOOD


@pytest.mark.parametrize("name", BASE)
def test_a_text_field_at_its_borders(name: str):
    limit = 256 if name == "event_id" else 1024
    for text in ("x" * limit, "é" * (limit // 2), "🧦" * (limit // 4), "日" * (limit // 3) + "x" * (limit % 3)):
        assert len(text.encode()) == limit
        for ascii_only in (False, True):
            written = json.dumps(text, ensure_ascii=ascii_only)
            assert says(line(**{name: written})) == dict.fromkeys(EVENT_SCHEMA) | GOOD | {name: text}
            assert says(line(**{name: written[:-1] + 'x"'})) == "text_too_long"
    assert says(line(**{name: '""'})) == "empty_field"
    assert says(line(**{name: "null"})) == "missing_field"
    assert says(line(**{name: ""})) == "missing_field"
    for value in ("7", "true", "{}", "[]", "1.5", "[1e400]", '{"a":1e1000000}', f"[{'9' * 400}]"):
        assert says(line(**{name: value})) == "wrong_type"


def test_a_default_source_stands_in_where_there_is_none_and_keeps_the_rules():
    for value in ("null", ""):
        assert says(line(source_id=value), source="pipe") == says(line(source_id='"pipe"'))
    for source in ("", "s" * 1025, "é" * 513, "\udcff"):
        with pytest.raises(ConfigError, match="source"):
            Parser(source)


@pytest.mark.parametrize(
    ("name", "limit"), [("stream_version", 9_223_372_036_854_775_807), ("schema_version", 2_147_483_647)]
)
def test_a_version_at_its_borders(name: str, limit: int):
    for value in (1, 999_999_999, limit):
        found = says(line(**{name: str(value)}))
        assert isinstance(found, dict)
        assert found[name] == value
    for text in ("0", "-0", "-1", str(limit + 1), "9" * 30, "9" * 300, "-" + "9" * 300):
        assert says(line(**{name: text})) == "number_out_of_range"
    for text in ("1.0", "1e0", "1E+400", "0.1", '"1"', "true", "[1]", "{}"):
        assert says(line(**{name: text})) == "wrong_type"
    for text in ("01", "+1", "1.", "1e", "0x1", "１"):
        assert says(line(**{name: text})) == "invalid_json"
    assert says(line(**{name: "null"})) == says(line())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"2026-01-01T00:00:00Z"', 1_767_225_600 * 10**9),
        ('"2026-01-01t01:00:00.5+01:00"', 1_767_225_600_500_000_000),
        ('"2026-01-01 00:00:00.123456789z"', 1_767_225_600_123_456_789),
        ('"2026-01-01T00:00:00\\u005a"', 1_767_225_600 * 10**9),
        ('"1677-09-21T00:12:43.145224192Z"', -(2**63)),
        ('"2262-04-11T23:47:16.854775807Z"', 2**63 - 1),
        ("1767225600", 1_767_225_600 * 10**9),
        ("1767225600000", 1_767_225_600 * 10**9),
        ("1767225600000000", 1_767_225_600 * 10**9),
        ("1767225600000000000", 1_767_225_600 * 10**9),
        ("-86400", -86_400 * 10**9),
        ("-9223372036854775808", -(2**63)),
        ("0", 0),
        ("1767225600.123456789", 1_767_225_600_123_456_789),
        ("1767225600123.456", 1_767_225_600_123_456_000),
        ("1.7672256e9", 1_767_225_600 * 10**9),
        ("9223372036", 9_223_372_036 * 10**9),
        ("null", None),
        ('"2026-01-01T00:00:00"', "timestamp_without_offset"),
        ('"2026-02-30T00:00:00Z"', "timestamp_invalid"),
        ('"2026-01-01T24:00:00Z"', "timestamp_invalid"),
        ('"2016-12-31T23:59:60Z"', "timestamp_invalid"),
        ('"2026-01-01T00:00:00.1234567890Z"', "timestamp_invalid"),
        ('"2026-01-01T00:00:00+24:00"', "timestamp_invalid"),
        ('"1767225600"', "timestamp_invalid"),
        ('"yesterday"', "timestamp_invalid"),
        ('""', "timestamp_invalid"),
        ('"1677-09-21T00:12:43.145224191Z"', "timestamp_out_of_range"),
        ('"2262-04-11T23:47:16.854775808Z"', "timestamp_out_of_range"),
        ("9223372037", "timestamp_out_of_range"),
        ("99999999999", "timestamp_out_of_range"),
        ("9223372036855", "timestamp_out_of_range"),
        ("99999999999999999", "timestamp_out_of_range"),
        ("9223372036854775808", "timestamp_out_of_range"),
        ("1e400", "timestamp_out_of_range"),
        ("1e1000000", "timestamp_out_of_range"),
        ("-1e1000000", "timestamp_out_of_range"),
        ("1767225600.1234567891", "timestamp_invalid"),
        ("1767225600.12345678900000000000000000000001", "timestamp_invalid"),
        ("1e-400", "timestamp_invalid"),
        ("1e-1000000", "timestamp_invalid"),
        ("true", "wrong_type"),
        ("[1767225600]", "wrong_type"),
        ("{}", "wrong_type"),
    ],
)
def test_a_timestamp(value: str, expected: int | str | None):
    found = says(line(timestamp=value))
    assert (found["timestamp"] if isinstance(found, dict) else found) == expected


@pytest.mark.parametrize("number", ["9{5000}", "0e9{20}", "1e-9{20}", "1e9{20}", "-1e9{20}", "1.9{5000}"])
@pytest.mark.parametrize("name", ["timestamp", "stream_version", "schema_version"])
def test_a_number_that_no_computer_likes_is_refused_like_any_other(name: str, number: str):
    reason = says(line(**{name: number.replace("9{20}", "9" * 20).replace("9{5000}", "9" * 5000)}))
    assert reason in ("timestamp_invalid", "timestamp_out_of_range", "number_out_of_range", "wrong_type")


@pytest.mark.parametrize("name", ["payload", "metadata", "position", "colour"])
@pytest.mark.parametrize(("opening", "closing"), [('{"k":', "}"), ("[", "]")])
def test_a_line_nests_128_levels_and_no_more(name: str, opening: str, closing: str):
    # An unknown field becomes one of metadata, where it stands a level deeper than in its line.
    levels = NESTING_MAX - 1 - (name == "colour")
    for extra, is_good in ((0, True), (1, False), (3000, False)):
        inner = levels - 1 + extra
        value = '{"a":' + opening * inner + ("1" if opening != "[" else "") + closing * inner + "}"
        found = says(line(**{name: value}))
        assert isinstance(found, dict) if is_good else found == "nesting_too_deep"


def test_what_is_no_object_and_what_is_no_json():
    for text in (b"[]", b"7", b'"text"', b"null", b"true", b"[" + line() + b"]"):
        assert says(text) == "not_an_object"
    for text in (
        b"{",
        b"}",
        b"{}{}",
        line() + line(),
        line() + b",",
        line()[:-1],
        b"\xef\xbb\xbf" + line(),
        b"[1",
    ):
        assert says(text) == "invalid_json"
    for text in (
        b"\xff",
        line(payload='{"a":"?"}').replace(b"?", b"\xc3"),
        line().replace(b'"u"', b'"\xed\xa0\x80"'),
    ):
        assert says(text) == "bad_utf8"
    for text in (line(stream_id='"\\ud800"'), line(payload='{"\\udc00":1}'), line(colour='"\\ud800"')):
        assert says(text) == "lone_surrogate"


def test_a_key_of_the_envelope_stands_once():
    for twice in ("event_id", "payload", "colour", "position"):
        text = json_object(BASE | {"payload": "{}", "colour": "1", "position": "7"})
        assert says((text[:-1] + f',"{twice}":null}}').encode()) == "duplicate_key"
        assert says((text[:-1] + f',"\\u00{ord(twice[0]):02x}{twice[1:]}":null}}').encode()) == "duplicate_key"
    assert says(line(colour="1", metadata='{"colour":2}')) == "duplicate_key"
    assert says(line(colour="1", metadata='{"c\\u006flour":2}')) == "duplicate_key"


@pytest.mark.parametrize(
    "value", ["null", "7", '"red"', "true", "[1, 2]", "{}", '{"a": 1.10}', "1E5", '"\\u00e9"']
)
@pytest.mark.parametrize("key", ["colour", "größe", "", 'quo"te', "x" * 2000, "a\\b\tc"])
def test_an_unknown_field_goes_into_metadata_or_is_refused(key: str, value: str):
    name = json.dumps(key, ensure_ascii=False)
    found = says(line(**{key: value}))
    assert isinstance(found, dict)
    assert found["metadata"] == f"{{{name}:{value}}}"
    with_own = says(line(metadata='{ "own" : 1.0 }', **{key: value}))
    assert isinstance(with_own, dict)
    assert with_own["metadata"] == f'{{"own" : 1.0,{name}:{value}}}'
    assert says(line(**{key: value}), fold_unknown=False) == "unknown_field"


def test_unknown_fields_keep_their_order():
    values = {"z": "1", "a": "null", "m": '"x"', "b": "{}"}
    for metadata in ("", "{}", "null", " { } "):
        found = says(line(**values, metadata=metadata) if metadata else line(**values))
        assert isinstance(found, dict)
        assert found["metadata"] == '{"z":1,"a":null,"m":"x","b":{}}'


def test_what_the_log_gives_is_ignored_whatever_it_is():
    for value in ("7", "null", '"x"', "{}", "[[]]", "1e9", "true"):
        assert says(line(position=value, recorded_at=value)) == says(line())
        assert says(line(position=value, recorded_at=value), fold_unknown=False) == says(line())
    assert says(line(position="01")) == "invalid_json"


def test_lines_of_nothing_but_nulls_are_refused_one_by_one():
    assert says(b'{"payload":null}') == "missing_field"
    assert says(json_object(dict.fromkeys(EVENT_SCHEMA, "null")).encode()) == "missing_field"
    assert says(b"{}") == "missing_field"


@pytest.mark.parametrize("field", ["some_column", "x"])
def test_wide_lines_of_many_fields_are_as_good_as_others(field: str):
    # What stands between two values of theirs is longer than the lines around them.
    values = {f"{field}_{number}": "null" for number in range(200)}
    found = says(line(**values))
    assert isinstance(found, dict)
    assert json.loads(found["metadata"]) == dict.fromkeys(values)
    spaced = line().replace(b'"source_id"', b" " * 3000 + b'"source_id"')
    assert says(spaced) == says(line())


def test_a_line_of_16_mib_is_taken_and_one_byte_more_is_not():
    head, tail = line(payload='{"a":"?"}').split(b"?")
    longest = head + b"x" * (LINE_BYTES_MAX - len(head) - len(tail)) + tail
    parsed = Parser().parse(longest + b"\r\n" + longest + b" \n" + line() + b"\n")
    assert parsed.events["row"].take(parsed.order).to_pylist() == [0, 2]
    assert [(reject.row, reject.reason) for reject in parsed.rejects] == [(1, "line_too_long")]
    assert len(parsed.rejects[0].raw) == LINE_BYTES_MAX
