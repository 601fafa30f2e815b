"""Upcasting payloads and frames: what changes, what stays byte for byte, what an error leaves behind."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ODD_OBJECTS

from evtool.errors import SchemaError
from evtool.schemas import steps as writing
from evtool.schemas import upcast as upcasting
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.steps import Step
from evtool.schemas.upcast import StepError

ODD_VALUES = (
    "1.10",
    "1E+05",
    "-0",
    "1e400",
    "123456789012345678901234567890",
    "9" * 5_000,
    "0.1000000000000000055511151231257827",
    '"\\u00e9\\/\\ud83d\\ude00"',
    '{ "z" : 1 , "z" : 2.0 }',
    "[ 1,\t2 ]",
    "null",
    '"漢字 \u2028"',
)


def step(**written: Any) -> Step:
    return writing.from_list([written], "steps")[0]


def upcast(text: str, *steps: Step) -> str:
    return upcasting.payload(steps, text)


@pytest.mark.parametrize(
    ("written", "before", "after"),
    [
        ({"rename": "a", "to": "b"}, '{"a":1.0,"c":2}', '{"c":2,"b":1.0}'),
        ({"rename": "a", "to": "b"}, '{"c":2}', '{"c":2}'),
        ({"rename": "o.a", "to": "b"}, '{"o":{"a":1},"c":2}', '{"o":{"b":1},"c":2}'),
        ({"rename": "o.a", "to": "b"}, '{"o":null}', '{"o":null}'),
        ({"rename": ["a.b"], "to": ["c.d"]}, '{"a.b":1}', '{"c.d":1}'),
        ({"move": "o.a", "to": "p.q.r"}, '{"o":{"a":1,"b":2}}', '{"o":{"b":2},"p":{"q":{"r":1}}}'),
        ({"move": "o", "to": "p.o"}, '{"o":{"a":1},"p":{}}', '{"p":{"o":{"a":1}}}'),
        ({"default": "a", "value": 1}, '{"a":null}', '{"a":null}'),
        ({"default": "a", "value": {"x": [1, None]}}, "{}", '{"a":{"x":[1,null]}}'),
        ({"default": "o.a", "value": "x"}, "{}", '{"o":{"a":"x"}}'),
        ({"drop": "a"}, '{"a":{"b":1},"c":2}', '{"c":2}'),
        ({"drop": "o.a"}, '{"o":{"a":1}}', '{"o":{}}'),
        ({"cast": "a", "to": "string"}, '{"a":1.10}', '{"a":"1.10"}'),
        ({"cast": "a", "to": "string"}, '{"a":true}', '{"a":"true"}'),
        ({"cast": "a", "to": "integer"}, '{"a":"12345678901234567890123"}', '{"a":12345678901234567890123}'),
        ({"cast": "a", "to": "integer"}, '{"a":-1.50e2}', '{"a":-150}'),
        ({"cast": "a", "to": "integer"}, '{"a":0.0}', '{"a":0}'),
        ({"cast": "a", "to": "integer"}, '{"a":null}', '{"a":null}'),
        ({"cast": "a", "to": "number"}, '{"a":"1.50"}', '{"a":1.50}'),
        ({"cast": "a", "to": "number"}, '{ "a" : 7 }', '{ "a" : 7 }'),
        ({"cast": "a", "to": "boolean"}, '{"a":"false"}', '{"a":false}'),
    ],
    ids=str,
)
def test_a_step(written: dict[str, Any], before: str, after: str):
    assert upcast(before, step(**written)) == after


@pytest.mark.parametrize(
    ("written", "before", "says"),
    [
        ({"rename": "a", "to": "b"}, '{"a":1,"b":2}', "there is 'b' already"),
        ({"move": "a", "to": "o.a"}, '{"a":1,"o":[1]}', "'o' is no object"),
        ({"default": "o.a", "value": 1}, '{"o":null}', "'o' is no object"),
        ({"drop": "o.a"}, '{"o":"text"}', "'o' is no object"),
        ({"cast": "a", "to": "integer"}, '{"a":1.5}', "1.5 is no integer"),
        ({"cast": "a", "to": "integer"}, '{"a":"01"}', '"01" is no integer'),
        ({"cast": "a", "to": "integer"}, '{"a":"1 "}', "is no integer"),
        ({"cast": "a", "to": "integer"}, '{"a":1e99999999999999999999}', "is no integer"),
        ({"cast": "a", "to": "integer"}, '{"a":1e9999}', "is no integer"),
        ({"cast": "a", "to": "integer"}, '{"a":true}', "true is no integer"),
        ({"cast": "a", "to": "number"}, '{"a":"NaN"}', "is no number"),
        ({"cast": "a", "to": "number"}, '{"a":"\\u0661"}', "is no number"),
        ({"cast": "a", "to": "boolean"}, '{"a":1}', "1 is no boolean"),
        ({"cast": "a", "to": "string"}, '{"a":{}}', "an object is not cast"),
        ({"cast": "a", "to": "string"}, '{"a":[]}', "an array is not cast"),
    ],
    ids=str,
)
def test_a_step_that_fails_says_which_and_why(written: dict[str, Any], before: str, says: str):
    with pytest.raises(StepError, match=r"^(rename|move|default|drop|cast) ") as caught:
        upcast(before, step(default="x", value=1), step(**written))
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ['{"c":1,"a":1,"\\u0063":2}', '{"c":1,"a":1,"c":2}', '{"a":1,"o":{"c":1,"c":1}}'])
def test_an_object_in_which_a_name_comes_twice_is_not_changed(text: str):
    with pytest.raises(StepError, match="a name stands twice"):
        upcast(text, step(rename="a", to="b"), step(drop="o.d"))


def test_names_that_come_twice_inside_an_untouched_value_do_not_matter():
    text = '{"o": {"a":1,"a":2}, "b":3}'
    assert upcast(text, step(rename="b", to="c")) == '{"o":{"a":1,"a":2},"c":3}'


@pytest.mark.parametrize("text", ODD_OBJECTS, ids=lambda text: text[:20])
def test_a_payload_that_no_step_changes_stays_byte_for_byte(text: str):
    if '"same"' in text:
        return
    steps = [step(rename="absent", to="b"), step(drop="absent.too"), step(cast="absent", to="string")]
    assert upcast(text, *steps) == text


members = st.dictionaries(
    st.sampled_from(["a", "b", "é", "c d", 'q"', "n\n", "😀"]), st.sampled_from(ODD_VALUES), min_size=1
)


@given(members, st.sampled_from(["", " ", "\t "]), st.sampled_from(["rename", "move", "drop", "default"]))
def test_untouched_values_survive_byte_for_byte(values: dict[str, str], space: str, kind: str):
    text = (
        "{" + ",".join(f"{space}{json.dumps(name)}{space}:{space}{value}" for name, value in values.items()) + "}"
    )
    taken = step(
        **{"default": "new", "value": 1}
        if kind == "default"
        else {kind: "a"} | ({} if kind == "drop" else {"to": "z"})
    )
    rest = {name: value for name, value in values.items() if name != "a" or kind == "default"}
    come = {"new": "1"} if kind == "default" else {"z": values["a"]} if kind != "drop" and "a" in values else {}
    if not come and "a" not in values:
        assert upcast(text, taken) == text
        return
    expected = ",".join(f"{json.dumps(name, ensure_ascii=False)}:{value}" for name, value in (rest | come).items())
    assert upcast(text, taken) == "{" + expected + "}"


def registry(*steps: tuple[Step, ...], event_type: str = "T", first: int = 1) -> Schemas:
    versions = [Schema(event_type, first + at, "{}", "none", "", taken) for at, taken in enumerate(steps)]
    return Schemas(tuple(versions))


def events(*rows: tuple[str, int, str]) -> pl.DataFrame:
    schema = {"event_type": pl.String, "schema_version": pl.Int32, "payload": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.int_range(1, len(rows) + 1).alias("position"))


CHAIN = registry((), (step(rename="a", to="b"),), (), (step(cast="b", to="string"),))


def test_a_frame_goes_through_the_chain_of_versions():
    given_events = events(
        ("T", 1, '{"a":1}'), ("U", 1, '{"a":1}'), ("T", 3, '{"b":2}'), ("T", 4, '{"b":3}'), ("T", 9, "{}")
    )
    found = upcasting.upcast(given_events, CHAIN)
    assert found["payload"].to_list() == ['{"b":"1"}', '{"a":1}', '{"b":"2"}', '{"b":3}', "{}"]
    assert found["schema_version"].to_list() == [4, 1, 4, 4, 9]
    assert found["upcast_error"].to_list() == [None] * 5
    assert found.schema == given_events.schema | {"upcast_error": pl.String()}
    second = upcasting.upcast(given_events, CHAIN, {"T": 2})
    assert second["payload"].to_list() == ['{"b":1}', '{"a":1}', '{"b":2}', '{"b":3}', "{}"]
    assert second["schema_version"].to_list() == [2, 1, 3, 4, 9]


def test_an_event_on_which_a_step_fails_is_given_as_it_was():
    found = upcasting.upcast(events(("T", 1, '{"a":1}'), ("T", 1, '{"a":[]}'), ("T", 2, '{"b":{}}')), CHAIN)
    assert found["payload"].to_list() == ['{"b":"1"}', '{"a":[]}', '{"b":{}}']
    assert found["schema_version"].to_list() == [4, 1, 2]
    first, *failed = found["upcast_error"].to_list()
    assert first is None
    assert failed == ["cast b to string: an array is not cast", "cast b to string: an object is not cast"]


def test_who_needs_every_event_is_told_the_position_of_the_first_that_fails():
    good = events(("T", 1, '{"a":1}'))
    assert "upcast_error" not in upcasting.upcast_all(good, CHAIN).columns
    with pytest.raises(SchemaError, match=r"position 2 .*cast b to string: an array is not cast"):
        upcasting.upcast_all(events(("T", 1, '{"a":1}'), ("T", 1, '{"a":[]}'), ("T", 1, '{"a":{}}')), CHAIN)


def test_a_frame_without_rows_or_schemas():
    for schemas in (Schemas(), CHAIN):
        found = upcasting.upcast(events(), schemas)
        assert (len(found), found.schema["upcast_error"]) == (0, pl.String)
    given_events = events(("T", 1, "{}"))
    assert upcasting.upcast(given_events, Schemas()).drop("upcast_error").equals(given_events)
