"""The image of a schema under an upcaster: it takes everything that comes out, and says enough to be of use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grammar import names, payloads, scalars, schemas, text
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.schemas import compatibility, document, upcast
from evtool.schemas import steps as writing
from evtool.schemas.assertions import UndecidedError
from evtool.schemas.image import image
from evtool.schemas.record import Schema
from evtool.schemas.steps import CASTS, Step
from evtool.schemas.upcast import StepError

ADDRESS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "street": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
OLD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "address": ADDRESS},
    "required": ["a", "address"],
    "additionalProperties": False,
}


def new(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


INTEGER, TEXT = {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize(
    ("step", "good", "bad"),
    [
        (
            {"rename": "a", "to": "c"},
            new(["c"], c=INTEGER, b=TEXT, address=ADDRESS),
            new(["c", "b"], c=INTEGER, b=TEXT, address=ADDRESS),
        ),
        (
            {"rename": "b", "to": "c"},
            new(["a"], a=INTEGER, c=TEXT, address=ADDRESS),
            new(["a", "c"], a=INTEGER, c=TEXT, address=ADDRESS),
        ),
        (
            {"default": "b", "value": "x"},
            new(["a", "b"], a=INTEGER, b=TEXT, address=ADDRESS),
            new(["a", "b"], a=INTEGER, b={"enum": ["x"]}, address=ADDRESS),
        ),
        (
            {"drop": "b"},
            new(["a"], a=INTEGER, address=ADDRESS),
            new(["a"], a=INTEGER, b=TEXT),
        ),
        (
            {"cast": "a", "to": "string"},
            new(["a"], a=TEXT, b=TEXT, address=ADDRESS),
            OLD,
        ),
        (
            {"move": "address.city", "to": "city"},
            new(["a", "city"], a=INTEGER, b=TEXT, city=TEXT, address=new([], street=TEXT)),
            new(["a", "city"], a=INTEGER, b=TEXT, city=TEXT, address=ADDRESS),
        ),
        (
            {"default": "address.street", "value": "-"},
            new(["a"], a=INTEGER, b=TEXT, address=ADDRESS | {"required": ["city", "street"]}),
            new(["a"], a=INTEGER, b=TEXT, address=ADDRESS | {"maxProperties": 1}),
        ),
    ],
    ids=str,
)
def test_compatibility_is_decided_behind_the_upcaster(step: dict[str, Any], good: Any, bad: Any):
    old = Schema("T", 1, json.dumps(OLD), "backward", "")
    steps = writing.from_list([step], "steps")
    assert compatibility.check("backward", document.parse(json.dumps(good)), 2, steps, [old]) == []
    assert compatibility.check("backward", document.parse(json.dumps(bad)), 2, steps, [old]) != []
    if step != {"default": "b", "value": "x"} and "street" not in str(step):
        assert compatibility.check("backward", document.parse(json.dumps(good)), 2, (), [old]) != []


@pytest.mark.parametrize(
    ("step", "old", "wrong"),
    [
        (
            {"rename": "b", "to": "c"},
            new([], b=TEXT, c=INTEGER),
            new([], c=TEXT),
        ),
        (
            {"default": "address.street", "value": "-"},
            new([], address=ADDRESS),
            new(["address"], address=ADDRESS | {"required": ["city", "street"]}),
        ),
        (
            {"move": "a", "to": "address.a"},
            new([], a=TEXT, address={"type": "integer"}),
            new([], address={"type": "object"}),
        ),
        ({"cast": "a", "to": "string"}, new([], a={"type": ["integer", "null"]}), new([], a=TEXT)),
        (
            {"drop": "address.city"},
            new([], address={"type": ["object", "null"]}),
            new([], address={"type": "object"}),
        ),
    ],
    ids=str,
)
def test_what_may_not_happen_is_not_taken_for_done(step: dict[str, Any], old: Any, wrong: Any):
    steps = writing.from_list([step], "steps")
    before = Schema("T", 1, json.dumps(old), "backward", "")
    assert compatibility.check("backward", document.parse(json.dumps(wrong)), 2, steps, [before]) != []


def test_a_transitive_mode_takes_all_upcasters_on_the_way():
    first = Schema("T", 1, json.dumps(new(["a"], a=INTEGER)), "backward_transitive", "")
    steps = writing.from_list([{"rename": "a", "to": "b"}], "steps")
    second = Schema("T", 2, json.dumps(new(["b"], b=INTEGER)), "backward_transitive", "", steps)
    third = document.parse(json.dumps(new(["c"], c=TEXT)))
    more = writing.from_list([{"rename": "b", "to": "c"}, {"cast": "c", "to": "string"}], "steps")
    assert compatibility.check("backward_transitive", third, 3, more, [first, second]) == []
    found = compatibility.check("backward_transitive", third, 3, more[:1], [first, second])
    assert {conflict.version for conflict in found} == {1, 2}


def test_references_to_what_a_step_changes_are_not_taken():
    schema = {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "string"}}}
    steps = writing.from_list([{"drop": "b"}], "steps")
    with pytest.raises(UndecidedError):
        image(schema, steps)
    old = Schema("T", 1, json.dumps(schema), "backward", "")
    (found,) = compatibility.check("backward", document.parse(json.dumps(schema)), 2, steps, [old])
    assert found.finding.rule == "cannot_be_proved"


paths = st.lists(names, min_size=1, max_size=2).map(tuple)


@st.composite
def one_step(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from(["move", "move", "default", "cast", "drop"]))
    path, to = draw(paths), draw(paths)
    if kind == "move" and to[: len(path)] != path and path[: len(to)] != to:
        return Step("move", path, to=to)
    if kind == "default":
        return Step("default", path, value=text(draw(scalars)))
    return Step("cast", path, type=draw(st.sampled_from(CASTS))) if kind == "cast" else Step("drop", path)


@settings(max_examples=120)
@given(
    st.booleans().flatmap(schemas),
    st.lists(one_step(), min_size=1, max_size=3),
    st.lists(payloads, min_size=5, max_size=15),
)
def test_what_comes_out_is_taken_by_the_image(schema: Any, steps: list[Step], tries: list[Any]):
    parsed = document.parse(text(schema))
    try:
        after = document.compiled(text(image(parsed.value, steps)))
    except UndecidedError:
        return
    before = document.compiled(parsed.text)
    for payload in tries:
        if before.is_valid(payload):
            try:
                upcasted = upcast.payload(steps, text(payload))
            except StepError:
                continue
            assert after.is_valid(json.loads(upcasted)), upcasted
