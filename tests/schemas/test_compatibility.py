"""Compatibility: what is said to be compatible is so for every payload, and what is refused is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grammar import changed, payloads, schemas, text
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.schemas import compatibility, document, structure
from evtool.schemas.compatibility import MODES
from evtool.schemas.document import Node
from evtool.schemas.record import Schema
from evtool.schemas.steps import Step
from evtool.schemas.structure import Side

OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOSED = OPEN | {"additionalProperties": False}
MORE = {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}


def schema(value: Any, version: int = 1, steps: tuple[Step, ...] = ()) -> Schema:
    return Schema("T", version, json.dumps(value), "backward", "", steps)


def conflicts(mode: Any, new: Any, *earlier: Any, steps: tuple[Step, ...] = ()) -> list[tuple[str, str, str]]:
    """Direction, rule and path of what stands against a schema."""
    before = [schema(value, number) for number, value in enumerate(earlier, 1)]
    parsed = document.parse(json.dumps(new))
    found = compatibility.check(mode, parsed, len(before) + 1, steps, before)
    return [(conflict.direction, conflict.finding.rule, conflict.finding.path) for conflict in found]


def breaks(old: Any, new: Any) -> list[tuple[str, str]]:
    """Rule and path of what keeps a new schema from taking what an old one takes, for a property `p`."""
    wrapped = [{"properties": {"p": value}, "additionalProperties": False} for value in (old, new)]
    return [
        (rule, path.removeprefix("/properties/p"))
        for _, rule, path in conflicts("backward", wrapped[1], wrapped[0])
    ]


@pytest.mark.parametrize(
    ("new", "backward", "forward"),
    [
        (CLOSED, [], []),
        (CLOSED | MORE, [], [("unknown_property", "/additionalProperties")]),
        (
            CLOSED | {"properties": {}, "required": []},
            [("unknown_property", "/additionalProperties")],
            [("required", "/required")],
        ),
        (CLOSED | {"required": []}, [], [("required", "/required")]),
        (
            CLOSED | MORE | {"required": ["a", "b"]},
            [("required", "/required")],
            [("unknown_property", "/additionalProperties")],
        ),
        (OPEN, [], [("additional_properties", "/additionalProperties")]),
        (CLOSED | {"properties": {"a": {"type": "number"}}}, [], [("type", "/properties/a/type")]),
        (
            CLOSED | {"properties": {"a": {"type": "string"}}},
            [("type", "/properties/a/type")],
            [("type", "/properties/a/type")],
        ),
    ],
    ids=["same", "new optional", "removed", "made optional", "new required", "opened", "wider", "other type"],
)
def test_modes_of_a_closed_schema(new: Any, backward: list[Any], forward: list[Any]):
    found = {mode: conflicts(mode, new, CLOSED) for mode in MODES}
    assert found["backward"] == [("backward", *claim) for claim in backward]
    assert found["forward"] == [("forward", *claim) for claim in forward]
    assert found["full"] == found["backward"] + found["forward"]
    assert found["none"] == []
    for mode in ("backward", "forward", "full"):
        assert found[f"{mode}_transitive"] == found[mode]


def test_a_property_that_was_open_cannot_be_given_a_type():
    assert conflicts("full", OPEN | MORE, OPEN) == [("backward", "open_property", "/properties/b")]


def test_transitive_modes_look_at_every_version():
    first = {"properties": {"a": {"type": "string"}}, "additionalProperties": False}
    second = {"properties": {"a": {"type": ["string", "null"]}}, "additionalProperties": False}
    third = {"properties": {"a": {"type": "null"}}, "additionalProperties": False}
    assert conflicts("forward", third, second, second) == []
    assert conflicts("forward", third, first, second) == []
    assert conflicts("forward_transitive", third, first, second) == [("forward", "type", "/properties/a/type")]
    assert conflicts("backward_transitive", third, first, second) == 2 * [
        ("backward", "type", "/properties/a/type")
    ]
    assert conflicts("none", third, first, second) == []


@pytest.mark.parametrize(
    ("old", "new", "rule", "path"),
    [
        ({"minimum": 1}, {"minimum": 2}, "minimum", "/minimum"),
        ({"minimum": 1}, {"exclusiveMinimum": 1}, "minimum", "/exclusiveMinimum"),
        ({"maximum": 2**60 + 1}, {"maximum": 2**60}, "maximum", "/maximum"),
        ({}, {"maximum": 1}, "maximum", "/maximum"),
        ({"multipleOf": 2}, {"multipleOf": 4}, "multiple_of", "/multipleOf"),
        ({"maxLength": 3}, {"maxLength": 2}, "max_length", "/maxLength"),
        ({}, {"minLength": 1}, "min_length", "/minLength"),
        ({}, {"pattern": "^a"}, "pattern", "/pattern"),
        ({"pattern": "^a"}, {"pattern": "^[ab]"}, "cannot_be_proved", "/pattern"),
        ({"enum": ["x", "y"]}, {"enum": ["x"]}, "enum", "/enum"),
        ({"enum": ["x", "y"]}, {"const": "x"}, "enum", "/const"),
        ({"type": "string"}, {"enum": ["x"]}, "enum", "/enum"),
        ({"const": 1}, {"const": True}, "enum", "/const"),
        ({"type": "array"}, {"type": "array", "maxItems": 2}, "max_items", "/maxItems"),
        ({"type": "array"}, {"type": "array", "uniqueItems": True}, "unique_items", "/uniqueItems"),
        ({"items": {"type": "number"}}, {"items": {"type": "integer"}}, "type", "/items/type"),
        ({"type": "object"}, {"type": "object", "minProperties": 1}, "min_properties", "/minProperties"),
        ({"type": "object"}, {"dependentRequired": {"a": ["b"]}}, "dependent_required", "/dependentRequired"),
        ({}, False, "nothing", ""),
        ({}, {"not": {"type": "string"}}, "cannot_be_proved", "/not"),
        ({}, {"if": {"type": "string"}, "then": {"maxLength": 1}}, "cannot_be_proved", "/if"),
        ({"type": "string"}, {"oneOf": [{"type": "string"}, {"maxLength": 1}]}, "cannot_be_proved", "/oneOf"),
        ({}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, "cannot_be_proved", "/anyOf"),
        ({}, {"allOf": [{}, {"maxLength": 1}]}, "max_length", "/allOf/1/maxLength"),
        ({"type": "array"}, {"contains": {"type": "null"}}, "cannot_be_proved", "/contains"),
    ],
    ids=str,
)
def test_what_is_narrowed_is_named_with_its_place(old: Any, new: Any, rule: str, path: str):
    assert (rule, path) in breaks(old, new)
    assert breaks(old, old) == []
    assert breaks(new, new) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "integer"}, {"type": "number"}),
        ({"type": "integer"}, {"type": ["integer", "null"]}),
        ({"enum": ["x"]}, {"type": "string"}),
        ({"enum": [1, 2]}, {"minimum": 1, "maximum": 2}),
        ({"multipleOf": 4}, {"multipleOf": 2}),
        ({"exclusiveMinimum": 1}, {"minimum": 1}),
        ({"title": "t", "format": "date"}, {"description": "d", "format": "time", "x-mine": 1}),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": ["string", "null", "integer"]}),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"type": ["string", "number"]}),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, {"type": "string", "maxLength": 4}),
        ({"not": {"type": "string"}}, {"not": {"type": "string"}}),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"patternProperties": {"^a": {"type": "number"}}}),
        ({"prefixItems": [{"type": "integer"}]}, {"prefixItems": [{"type": "number"}]}),
    ],
    ids=str,
)
def test_what_is_widened_is_compatible(old: Any, new: Any):
    assert breaks(old, new) == []


def test_references_are_followed_also_in_a_circle():
    def tree(value: Any) -> dict[str, Any]:
        node = {"properties": {"value": value, "below": {"items": {"$ref": "#/$defs/node"}}}}
        return {"$defs": {"node": node}, "$ref": "#/$defs/node"}

    assert conflicts("backward", tree({"type": "number"}), tree({"type": "integer"})) == []
    found = conflicts("backward", tree({"type": "integer"}), tree({"type": "number"}))
    assert ("backward", "type", "/properties/value/type") in found


def test_a_property_named_as_a_keyword_is_a_property():
    old = {"properties": {"id": {"type": "integer"}, "items": {"type": "string"}, "$id": {"type": "null"}}}
    assert conflicts("full", json.loads(json.dumps(old)), old) == []
    assert conflicts("backward", {"properties": {"id": {"type": "string"}}}, old) != []


def test_other_drafts_are_compared_by_their_own_words():
    seven = {"$schema": "http://json-schema.org/draft-07/schema#"}
    loose = seven | {"dependentRequired": {"a": ["b"]}, "properties": {"a": {"prefixItems": [{"type": "null"}]}}}
    assert conflicts("backward", seven | {"required": ["b"]}, loose | {"required": ["a"]}) != []
    assert (
        conflicts(
            "backward",
            seven | {"properties": {"a": {"type": "number"}}},
            seven | MORE | {"additionalProperties": False},
        )
        == []
    )
    assert conflicts("backward", {"type": "object"}, seven) == [("backward", "cannot_be_proved", "/$schema")]


SEVEN = {"$schema": "http://json-schema.org/draft-07/schema#"}
LOOP = {"$defs": {"d": {"anyOf": [{"$ref": "#/$defs/d"}]}}, "$ref": "#/$defs/d"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
            {"properties": {"a": {"type": "integer"}}},
        ),
        (
            {"$defs": {"d": {"type": "string"}}, "properties": {"a": {"not": {"$ref": "#/$defs/d"}}}},
            {"$defs": {"d": {"type": "integer"}}, "properties": {"a": {"not": {"$ref": "#/$defs/d"}}}},
        ),
        (
            SEVEN | {"properties": {"a": {"prefixItems": [{"type": "integer"}]}}},
            SEVEN | {"properties": {"a": {"items": [{"type": "integer"}]}}},
        ),
        (
            SEVEN
            | {"properties": {"a": {"$ref": "#/definitions/d", "type": "integer"}}, "definitions": {"d": {}}},
            SEVEN | {"properties": {"a": {"type": "integer"}}},
        ),
        (
            {"properties": {"a": {}, "b": {"type": "null"}}, "unevaluatedProperties": False},
            {"properties": {"a": {}}, "unevaluatedProperties": False},
        ),
        (OPEN, LOOP),
        ({"maximum": 1, "properties": {"a": {"maximum": 1e300}}}, {"properties": {"a": {"maximum": 1e299}}}),
    ],
    ids=["pattern", "definitions", "prefix of another draft", "beside a reference", "unevaluated", "loop", "huge"],
)
def test_the_walk_does_not_take_for_proved_what_is_not(old: Any, new: Any):
    sides = [Side(parsed(value), name) for value, name in ((old, "old"), (new, "new"))]
    assert structure.compare(*sides) != []


def test_what_does_not_end_is_refused():
    loop = {"$defs": {"d": {"allOf": [{"$ref": "#/$defs/e"}]}, "e": {"allOf": [{"$ref": "#/$defs/d"}]}}}
    for old, new in ((OPEN, loop | {"$ref": "#/$defs/d"}), (loop | {"$ref": "#/$defs/d"}, CLOSED)):
        conflicts("backward", new, old)  # it comes to an end
    wide = {"minimum": 1e300, "multipleOf": 1e-300}
    assert breaks(wide, wide | {"maximum": 5}) != []


def check_by_payloads(writer: Any, reader: Any, tries: list[Any]) -> None:
    takes_old, takes_new = document.compiled(text(writer)), document.compiled(text(reader))
    for payload in tries:
        assert not takes_old.is_valid(payload) or takes_new.is_valid(payload), payload


def pairs(more: bool) -> st.SearchStrategy[tuple[Any, Any]]:
    return schemas(more).flatmap(lambda old: st.tuples(st.just(old), st.one_of(changed(old), schemas(more))))


def parsed(value: Any) -> Node:
    return document.parse(text(value)).value


@settings(max_examples=120)
@given(pairs(more=True), st.lists(payloads, min_size=5, max_size=15))
def test_what_the_walk_finds_compatible_is_so_for_every_payload(pair: tuple[Any, Any], tries: list[Any]):
    old, new = pair
    if not structure.compare(Side(parsed(old), "old"), Side(parsed(new), "new")):
        check_by_payloads(old, new, tries)


@settings(max_examples=120)
@given(st.booleans().flatmap(pairs), st.lists(payloads, min_size=5, max_size=15))
def test_what_is_called_compatible_is_so_for_every_payload(pair: tuple[Any, Any], tries: list[Any]):
    old, new = pair
    if not compatibility.contains(Side(parsed(old), "old"), Side(parsed(new), "new")):
        check_by_payloads(old, new, tries)
    assert compatibility.contains(Side(parsed(old), "old"), Side(parsed(old), "new")) == []
