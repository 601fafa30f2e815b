"""Foreign JSON by a mapping: the fast way, the slow way and an oracle say the same; real producers' lines."""

from __future__ import annotations

import json
from typing import Any

import mapping_oracle as oracle
import pytest
from event_lines import joined
from hypothesis import given, note, settings
from hypothesis import strategies as st
from line_oracle import decoded
from samples import as_frame

from evtool.config import IngestConfig
from evtool.envelope import REASONS, RejectedError
from evtool.errors import ConfigError
from evtool.event import EVENT_SCHEMA
from evtool.ingest import formats, mapping
from evtool.ingest.columns import PARSED_SCHEMA
from evtool.ingest.mapped import MappedParser
from evtool.ingest.mapping import Rules, shape_of
from evtool.ingest.parse import Parsed

SEEDS = st.integers(0, 2**48)
MAPPINGS = st.sampled_from(oracle.MAPPINGS)
SOURCES = st.sampled_from([None, "pipe"])


def by_row(parsed: Parsed) -> dict[int, Any]:
    """Row -> its columns, or its reason, message and bytes."""
    assert parsed.events.schema == PARSED_SCHEMA
    rows = parsed.events["row"].take(parsed.order).to_pylist()
    assert rows == sorted(set(rows))
    found: dict[int, Any] = dict(zip(rows, as_frame(parsed.events, parsed.order).rows(), strict=True))
    return found | {reject.row: (reject.reason, reject.message, reject.raw) for reject in parsed.rejects}


def lines_of(data: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]


def events(parser: MappedParser, *lines: dict[str, Any] | str) -> list[dict[str, Any]]:
    """The events of some lines, all of which are good."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    parsed = parser.parse("".join(text + "\n" for text in texts).encode())
    assert parsed.rejects == ()
    return as_frame(parsed.events, parsed.order).to_dicts()


def refused(parser: MappedParser, line: dict[str, Any] | str) -> str:
    parsed = parser.parse((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
    assert len(parsed.events) == 0
    return parsed.rejects[0].reason


def parser_of(fields: dict[str, Any], **options: Any) -> MappedParser:
    found = formats.parser(IngestConfig(fields=fields, **options))
    assert isinstance(found, MappedParser)
    return found


@settings(max_examples=250)
@given(seed=SEEDS, places=MAPPINGS, source=SOURCES, folds=st.booleans(), derives=st.booleans())
def test_the_fast_way_says_of_every_line_what_the_slow_way_says(
    seed: int, places: Any, source: str | None, folds: bool, derives: bool
):
    data = joined(oracle.chunk(seed), seed)
    shape, rules = shape_of(oracle.table(places)), Rules(source, folds, derives)
    found = by_row(MappedParser(shape, rules).parse(data))
    for number, line in enumerate(lines_of(data)):
        if not line.strip(b" \t\r"):
            assert number not in found
            continue
        try:
            expected: Any = mapping.row(line, shape, rules)
        except RejectedError as error:
            expected = (error.reason, str(error), line)
        note(f"line {number}: {line!r}")
        assert found[number] == expected


@settings(max_examples=250)
@given(seed=SEEDS, places=MAPPINGS, source=SOURCES, folds=st.booleans(), derives=st.booleans())
def test_a_line_becomes_what_json_and_the_mapping_say(
    seed: int, places: Any, source: str | None, folds: bool, derives: bool
):
    data = joined(oracle.chunk(seed), seed)
    found = by_row(MappedParser(shape_of(oracle.table(places)), Rules(source, folds, derives)).parse(data))
    for number, line in enumerate(lines_of(data)):
        if not line.strip(b" \t\r"):
            continue
        reasons = oracle.problems(line, places, source, folds, derives)
        note(f"line {number}: {line!r} is {found[number]}, and json says {reasons or 'that it is good'}")
        if reasons:
            assert len(found[number]) == 3
            assert found[number][0] in reasons & set(REASONS)
            assert found[number][2] == line
            continue
        columns = dict(zip(EVENT_SCHEMA, found[number], strict=True))
        expected = oracle.event(line, places, source)
        if expected["event_id"] is None:
            expected["event_id"] = columns["event_id"]
        for name in ("payload", "metadata"):
            text = columns[name]
            columns[name] = None if text is None else decoded(text)
            if name == "payload" and text != "{}":
                assert text.encode() in line, "every byte is as it was"
        assert columns == expected


@settings(max_examples=60)
@given(seed=SEEDS, places=MAPPINGS, cut=st.integers(0, 10_000))
def test_where_a_chunk_is_cut_changes_nothing(seed: int, places: Any, cut: int):
    data = joined(oracle.chunk(seed), seed)
    at = data.rfind(b"\n", 0, cut % len(data)) + 1
    parser = MappedParser(shape_of(oracle.table(places)), Rules("pipe"))
    first = by_row(parser.parse(data[:at])) if at else {}
    before = data[:at].count(b"\n")
    second = by_row(parser.parse(data[at:]))
    assert first | {before + row: what for row, what in second.items()} == by_row(parser.parse(data))


def test_the_generated_lines_are_worth_their_while():
    taken, reasons = [0] * len(oracle.MAPPINGS), set()
    for seed in range(100):
        for line in lines_of(joined(oracle.chunk(seed), seed)):
            for number, places in enumerate(oracle.MAPPINGS):
                found = oracle.problems(line, places, "pipe", True, number == 4)
                taken[number] += not found
                reasons |= found
    assert min(taken) > 500, taken
    assert reasons >= {
        *("invalid_json", "not_an_object", "bad_utf8", "lone_surrogate", "nesting_too_deep", "duplicate_key"),
        *("missing_field", "empty_field", "wrong_type", "text_too_long", "number_out_of_range"),
        *("timestamp_invalid", "timestamp_without_offset", "timestamp_out_of_range"),
    }


@pytest.mark.parametrize(
    "bad", ["{}", "{", "[]", '{"id":{}}', '{"id":"1","actor":{"login":"a"},"type":1.50,"x":01}']
)
def test_the_good_lines_around_a_bad_one_are_kept(bad: str):
    parser = parser_of({"event_id": "id", "stream_id": "actor.login", "event_type": "type"}, source="s")
    good = '{"id":%d,"actor":{"login":"a"},"type":"t"}'
    lines = [bad if number in (0, 700, 701, 1999) else good % number for number in range(2000)]
    parsed = parser.parse("".join(line + "\n" for line in lines).encode())
    assert [reject.row for reject in parsed.rejects] == [0, 700, 701, 1999]
    assert parsed.events["row"].take(parsed.order).to_pylist() == [
        number for number in range(2000) if number not in (0, 700, 701, 1999)
    ]


@pytest.mark.parametrize("texts", [('{"a":{}', '"b":{}}'), ('{"a":{}}{"b":{}}', "{"), ('{"a":{}},{"b":{}}', "{}")])
def test_two_lines_that_are_only_together_json_are_both_refused(texts: tuple[str, str]):
    parser = parser_of({"payload": "."}, derive_id="content")
    parsed = parser.parse(("\n".join(texts) + "\n").encode())
    assert [reject.row for reject in parsed.rejects] == [0, 1]


def test_ids_that_are_numbers_or_truths_become_their_text():
    parser = parser_of({"event_id": "id", "stream_id": "user.id", "event_type": "ok", "payload": "."}, source="s")
    ids = [1, 2**63, 10**30, "x", -5]
    found = events(parser, *({"id": each, "user": {"id": 7}, "ok": True} for each in ids))
    assert [event["event_id"] for event in found] == [str(each) for each in ids]
    assert {(event["stream_id"], event["event_type"]) for event in found} == {("7", "true")}
    (found,) = events(parser, '{"id":1.50,"user":{"id":1e3},"ok":false}')  # as they are written
    assert (found["event_id"], found["stream_id"], found["event_type"]) == ("1.50", "1e3", "false")


def test_the_first_of_several_places_at_which_something_is_counts():
    fields = {"event_id": "id", "stream_id": ["user.id", "session", "ip"], "event_type": {"constant": "Hit"}}
    found = events(
        parser_of(fields, source="s"),
        {"id": 1, "user": {"id": "u"}, "session": "s"},
        {"id": 2, "user": None, "session": "s", "ip": "i"},
        {"id": 3, "user": {"id": None}, "ip": "i"},
    )
    assert [event["stream_id"] for event in found] == ["u", "s", "i"]
    assert {event["event_type"] for event in found} == {"Hit"}
    # What a field took only because nothing was at an earlier place is kept as well.
    assert json.loads(found[1]["metadata"]) == {"user": None, "session": "s", "ip": "i"}


def test_the_first_of_several_payloads_that_is_there_counts():
    parser = parser_of({"payload": ["data", "body"]}, source="s")
    event = '"event_id":"1","stream_id":"s","event_type":"t"'
    members = (
        '"data":{"a":1},"body":{"b":1}',
        '"data":null,"body":{"b":1}',
        '"body":{"b":1}',
        '"data":{"a":1}',
        '"c":1',
    )
    found = events(parser, *(f"{{{event},{each}}}" for each in members))
    assert [each["payload"] for each in found] == ['{"a":1}', '{"b":1}', '{"b":1}', '{"a":1}', "{}"]


def test_constants():
    fields = {
        "source_id": {"constant": "gate"},
        "schema_version": {"constant": 3},
        "metadata": {"constant": {"team": "a", "n": 1}},
        "payload": ".",
    }
    (found,) = events(parser_of(fields), {"event_id": "1", "stream_id": "s", "event_type": "t"})
    assert (found["source_id"], found["schema_version"], found["metadata"]) == ("gate", 3, '{"team":"a","n":1}')


def test_what_no_field_takes_is_kept_in_metadata_or_refused():
    line = '{"id":1,"user":{"id":"u","name":"n"},"kind":"k","data":{"a": 1.0},"position":4,"z":[ 1 ]}'
    fields = {"event_id": "id", "stream_id": "user.id", "event_type": "kind", "payload": "data"}
    (found,) = events(parser_of(fields, source="s"), line)
    assert found["payload"] == '{"a": 1.0}'
    assert found["metadata"] == '{"user":{"id":"u","name":"n"},"position":4,"z":[ 1 ]}'
    assert refused(parser_of(fields, source="s", unknown_fields="reject"), line) == "unknown_field"
    (found,) = events(parser_of(fields | {"payload": "."}, source="s", unknown_fields="reject"), line)
    assert (found["payload"], found["metadata"]) == (line, None)


def test_a_payload_and_a_place_inside_of_it_may_both_be_mapped():
    fields = {"event_id": "data.id", "stream_id": "data.user.id", "event_type": "kind", "payload": "data"}
    data = '{"id": 7,"user":{"id":"u"},"big":123456789012345678901234567890}'
    (found,) = events(parser_of(fields, source="s"), f'{{"kind":"k","data":{data}}}')
    assert (found["event_id"], found["stream_id"], found["payload"]) == ("7", "u", data)


def test_the_whole_line_is_the_payload_without_the_space_around_it():
    line = '{ "event_id":"1", "stream_id":"s","event_type":"t","n":1.10 ,"b":"\\u00e9" }'
    (found,) = events(parser_of({"payload": "."}, source="s"), f" \t{line} \r")
    assert found["payload"] == line


def test_times_without_an_offset_need_a_zone():
    fields = {"timestamp": "at", "payload": "."}
    line = {"event_id": "1", "stream_id": "s", "event_type": "t", "at": "2026-07-01T12:00:00"}
    assert refused(parser_of(fields, source="s"), line) == "timestamp_without_offset"
    (found,) = events(parser_of(fields, source="s", timezone="Europe/Berlin"), line)
    assert found["timestamp"] == 1_782_900_000 * 10**9
    (native,) = (
        as_frame(parsed.events, parsed.order).to_dicts()
        for parsed in [
            formats.parser(IngestConfig(source="s", timezone="Europe/Berlin")).parse(
                json.dumps(
                    {key: value for key, value in line.items() if key != "at"} | {"timestamp": line["at"]}
                ).encode()
                + b"\n"
            )
        ]
    )
    assert native[0]["timestamp"] == found["timestamp"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"stream": "a"}, "no field"),
        ({"stream_id": ""}, "no path"),
        ({"stream_id": 7}, "no path"),
        ({"stream_id": []}, "no path"),
        ({"stream_id": "a..b"}, "no path"),
        ({"stream_id": "a["}, "no path"),
        ({"stream_id": "[0].a"}, "no path"),
        ({"stream_id": "a[x]"}, "no path"),
        ({"stream_id": "."}, "only payload"),
        ({"payload": [".", "data"]}, "alone"),
        ({"stream_id": {"const": "a"}}, "cannot be taken"),
        ({"event_id": {"constant": "a"}}, "cannot be taken"),
        ({"timestamp": {"constant": "2026-01-01T00:00:00Z"}}, "cannot be taken"),
        ({"source_id": {"constant": ""}}, "empty"),
        ({"source_id": {"constant": 1}}, "must be a text"),
        ({"schema_version": {"constant": 0}}, "between"),
        ({"metadata": {"constant": "a"}}, "must be an object"),
    ],
    ids=str,
)
def test_a_mapping_that_makes_no_sense_is_refused(fields: dict[str, Any], word: str):
    with pytest.raises(ConfigError, match=word) as caught:
        parser_of(fields)
    assert f"ingest.fields.{next(iter(fields))}" in caught.value.message


@pytest.mark.parametrize("name", ["event_id", "stream_id", "event_type", "source_id"])
def test_a_path_that_names_nothing_of_the_input_is_told_with_examples(name: str):
    parser = parser_of({name: "actor.logn"})
    lines = [{"id": number, "actor": {"login": "a"}, f"k{number}": 1} for number in range(7)]
    chunk = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with pytest.raises(ConfigError, match="nothing in the first 7 events; nothing was stored") as caught:
        parser.check(b"not json\n\n" + chunk)
    assert f'ingest.fields.{name} = "actor.logn"' in caught.value.message
    assert "'actor.login'" in caught.value.hint
    assert [f"{n}: id, actor, k{n - 1}" in caught.value.hint for n in range(1, 8)] == [True] * 5 + [False] * 2


def test_a_path_of_a_field_with_a_default_needs_more_lines_to_be_judged():
    line = b'{"event_id":"1","stream_id":"s","event_type":"t"}\n'
    for fields, options in (({"timestamp": "at"}, {}), ({"event_id": "id"}, {"derive_id": "content"})):
        parser_of(fields, **options).check(line * 99)
        with pytest.raises(ConfigError, match="first 100 events"):
            parser_of(fields, **options).check(line * 100)
    parser_of({"stream_id": ["user", "stream_id"], "payload": "."}).check(line)


def test_a_mapping_is_judged_by_the_first_chunk_that_holds_an_event():
    parser = parser_of({"stream_id": "user"})
    parser.check(b"\nno event\n")
    parser.check(b'{"user":"a"}\n')
    parser.check(b'{"id":1}\n' * 1000)


@pytest.mark.parametrize("places", oracle.MAPPINGS[:3])
def test_the_fast_way_reads_what_is_good(monkeypatch: pytest.MonkeyPatch, places: Any):
    # Without this, the fast way could leave everything to the slow way, and nobody would notice but the clock.
    slow: list[bytes] = []
    row = mapping.row

    def counted(line: bytes, *arguments: Any) -> Any:
        slow.append(line)
        return row(line, *arguments)

    monkeypatch.setattr(mapping, "row", counted)
    parser = MappedParser(shape_of(oracle.table(places)), Rules("pipe"))
    total = taken = 0
    for seed in range(60):
        data = joined(oracle.chunk(seed), seed)
        total += len(parser.parse(data).events)
        taken += sum(not oracle.problems(line, places, "pipe", True, False) for line in slow)
        slow.clear()
    assert total > 1000
    assert taken < total / 3  # odd spacing, and lists whose items are of several kinds
