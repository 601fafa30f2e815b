"""Steps as they are written: what is understood, what is refused, and that they come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evtool.errors import SchemaError
from evtool.schemas import steps as writing

TOML = b"""
[[steps]]
rename = "amount"
to = "total"
[[steps]]
move = "address.city"
to = "city"
[[steps]]
default = "rate"
value = 1.10
[[steps]]
cast = "quantity"
to = "integer"
[[steps]]
drop = ["a.b", "c"]
"""
AS_LIST = [
    {"rename": "amount", "to": "total"},
    {"move": "address.city", "to": "city"},
    {"default": "rate", "value": 1.10},
    {"cast": "quantity", "to": "integer"},
    {"drop": ["a.b", "c"]},
]


def test_toml_and_json_say_the_same_and_come_back():
    found = writing.parse(TOML, "steps.toml")
    assert list(map(str, found)) == [
        *("rename amount to total", "move address.city to city", "default rate to 1.10"),
        *("cast quantity to integer", "drop a.b.c"),
    ]
    written = writing.encode({"steps": [step.as_dict() for step in found]})
    assert b'"value":1.10' in written
    assert writing.parse(written, "steps.json") == found
    assert json.loads(written)["steps"] == AS_LIST


def test_a_rename_stays_in_its_object():
    (step,) = writing.from_list([{"rename": "a.b", "to": "c"}], "steps")
    assert step.to == ("a", "c")
    again = writing.from_list([json.loads(writing.encode(step.as_dict()))], "steps")
    assert again == (step,)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\xff", b"steps =", b"{", b"", b"[steps]\na = 1\n", b'{"steps":{}}', b'{"steps":[],"more":1}', b"[]"),
        *(b'{"steps":[1]}', b'{"steps":[{"drop":"a"}],"steps":1}'),
    ],
)
def test_what_holds_no_steps_is_refused(data: bytes):
    with pytest.raises(SchemaError, match=r"s\.toml"):
        writing.parse(data, "s.toml")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"to": "a"},
        {"rename": "a"},
        {"rename": "a", "to": "a"},
        {"rename": "a", "to": "b.c"},
        {"rename": "a", "to": "b", "value": 1},
        {"rename": "a", "drop": "b", "to": "c"},
        {"move": "a", "to": "a.b"},
        {"move": "a.b", "to": "a"},
        {"cast": "a", "to": "date"},
        {"default": "a", "to": "b"},
        {"drop": ""},
        {"drop": "a..b"},
        {"drop": []},
        {"drop": [1]},
        {"drop": 1},
        {"drop": "\ud800"},
        {"default": "a", "value": {1, 2}},
        "drop",
    ],
    ids=str,
)
def test_a_step_that_makes_no_sense_is_refused_with_its_number(entry: Any):
    with pytest.raises(SchemaError, match=r"^here: step 2: "):
        writing.from_list([{"drop": "a"}, entry], "here")


def test_a_date_of_toml_is_no_json():
    with pytest.raises(SchemaError, match=r"step 1: the value"):
        writing.parse(b'[[steps]]\ndefault = "a"\nvalue = 2026-01-01', "s.toml")
