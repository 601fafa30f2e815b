"""Payloads against schemas, by the column: exact, in order, and cheap where there is nothing to check."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from grammar import payloads, schemas, text
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.envelope import REASONS
from evtool.files import Files
from evtool.schemas import document, validation
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.registry import Registry
from evtool.schemas.validation import Validator

NUMBER = {"properties": {"n": {"type": "integer"}}, "required": ["n"]}


def check(
    known: Schemas, *rows: tuple[str, int, str], rejects_unknown: bool = False
) -> tuple[list[bool], list[Any]]:
    frame = pl.DataFrame(rows, schema={"t": pl.String, "v": pl.Int32, "p": pl.String}, orient="row")
    good, bad = validation.check(known, frame["t"], frame["v"], frame["p"], rejects_unknown)
    assert good.dtype == np.bool_
    assert [row for row, is_good in enumerate(good) if not is_good] == [row for row, _, _ in bad]
    assert {reason for _, reason, _ in bad} <= REASONS.keys()
    return good.tolist(), bad


def registered(*values: Any, event_type: str = "T", first: int = 1) -> Schemas:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return Schemas(tuple(Schema(event_type, first + at, t, "none", "") for at, t in enumerate(texts)))


def is_valid(schema: str, payload: str) -> bool:
    return check(registered(schema), ("T", 1, payload))[0] == [True]


def test_each_event_is_held_against_the_schema_of_its_type_and_version():
    known = Schemas(
        (*registered(NUMBER, {"maxProperties": 0}).registered, *registered(NUMBER, event_type="U").registered)
    )
    good, bad = check(
        known,
        ("T", 1, '{"n":1}'),
        ("T", 2, '{"n":1}'),
        ("U", 1, '{"n":"x"}'),
        ("W", 1, "{}"),
        ("T", 1, "{}"),
        ("T", 2, "{}"),
        ("T", 3, "{}"),
    )
    assert good == [True, False, False, True, False, True, False]
    assert [(row, reason) for row, reason, _ in bad] == [
        (1, "schema_invalid"),
        (2, "schema_invalid"),
        (4, "schema_invalid"),
        (6, "schema_missing"),
    ]
    assert bad[1][2] == '/n: "x" is not of type "integer" (rule /properties/n/type) of U version 1'
    assert bad[2][2] == 'the payload: "n" is a required property (rule /required) of T version 1'
    assert bad[3][2] == "there is no schema for version 3 of T, which has versions 1 to 2"


def test_types_without_a_schema_pass_or_not_by_policy():
    rows = (("T", 1, '{"n":1}'), ("W", 1, "{}"))
    assert check(registered(NUMBER), *rows) == ([True, True], [])
    good, bad = check(registered(NUMBER), *rows, rejects_unknown=True)
    assert (good, bad[0][:2]) == ([True, False], (1, "schema_missing"))
    assert check(Schemas(), *rows) == ([True, True], [])
    assert check(Schemas(), *rows, rejects_unknown=True)[0] == [False, False]
    assert check(registered(NUMBER), rejects_unknown=True) == ([], [])


def test_a_version_before_the_first_one_is_missing():
    assert check(registered(NUMBER, first=2), ("T", 1, '{"n":1}'), ("T", 2, '{"n":1}'))[0] == [False, True]


def test_nothing_is_decoded_where_no_type_has_a_schema(monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("a payload was looked at")

    monkeypatch.setattr(validation, "invalid", refuse)
    assert check(registered(NUMBER), ("W", 1, "{}"), ("V", 2, "no JSON"))[0] == [True, True]


def test_a_validator_follows_its_registry(tmp_path: Path):
    registry = Registry(Files(), tmp_path)
    validator = Validator(registry)
    columns = pl.Series(["T"]), pl.Series([1], dtype=pl.Int32), pl.Series(["{}"])
    assert validator.check(*columns)[0].tolist() == [True]
    assert Validator(registry, "reject").check(*columns)[0].tolist() == [False]
    registry.add("T", document.parse(json.dumps(NUMBER)))
    assert validator.check(*columns)[0].tolist() == [False]


@pytest.mark.parametrize(
    ("schema", "number", "is_good"),
    [
        ('{"maximum":9007199254740992}', "9007199254740993", False),
        ('{"maximum":9007199254740992}', "9007199254740992.5", False),
        ('{"maximum":123456789012345678901234567890}', "123456789012345678901234567891", False),
        ('{"maximum":123456789012345678901234567890}', "123456789012345678901234567890", True),
        ('{"const":123456789012345678901234567890}', "123456789012345678901234567891", False),
        ('{"maximum":0.1}', "0.1", True),
        ('{"maximum":0.1}', "0.1000000000000000055", False),
        ('{"exclusiveMaximum":0.1000000000000000055}', "0.1", True),
        ('{"const":0.1000000000000000055}', "0.1", False),
        ('{"minimum":0.1000000000000000055}', "0.1", False),
        ('{"maximum":0.1000000000000000055}', "0.10000000000000000551", False),
        ('{"type":"integer"}', "1.0", True),
        ('{"type":"integer"}', "1e400", True),
        ('{"type":"integer"}', "9007199254740993.5", False),
        ('{"type":"integer"}', "1.0000000000000000000001", False),
        ('{"minimum":0,"exclusiveMinimum":0}', "1e-400", True),
        ('{"multipleOf":0.01}', "4.35", True),
        ('{"multipleOf":0.01}', "4.351", False),
        ('{"maximum":1e400}', "1e401", False),
        ('{"const":1}', "1.0", True),
        ('{"const":1}', "true", False),
        ('{"type":"number"}', "9" * 5000, False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_count_as_they_are_written(schema: str, number: str, is_good: bool):
    assert is_valid(f'{{"properties":{{"n":{schema}}}}}', f'{{"n":{number}}}') is is_good


def test_a_number_that_cannot_be_checked_does_not_hide_its_neighbours():
    rows = [
        ("T", 1, '{"n":1}'),
        ("T", 1, '{"n":' + "9" * 5000 + "}"),
        ("T", 1, '{"n":1.5}'),
        ("T", 1, '{"n":1e400}'),
    ]
    good, bad = check(registered(NUMBER), *rows)
    assert good == [True, False, False, True]
    assert "cannot be checked" in bad[0][2]
    assert "1.5 is not of type" in bad[1][2]


def spelled(digits: int, exponent: int, sign: str, form: str) -> str:
    """A number of up to 15 digits, with an exponent or without; a fraction only below 2^53."""
    return f"{sign}{Decimal(digits).scaleb(exponent):{form}}"


def decimals(form: str) -> st.SearchStrategy[str]:
    return st.builds(
        spelled, st.integers(1, 10**15 - 1), st.integers(-14, 20), st.sampled_from(["", "-"]), st.just(form)
    )


@given(decimals("f"), decimals("f") | decimals("e"), st.sampled_from(["minimum", "exclusiveMinimum", "const"]))
def test_bounds_of_up_to_15_digits_are_exact(bound: str, number: str, word: str):
    for value in (number, bound, f"{Decimal(bound):e}", bound + ("0" if "." in bound else ".0")):
        exact, limit = Fraction(value), Fraction(bound)
        wanted = {"minimum": exact >= limit, "exclusiveMinimum": exact > limit, "const": exact == limit}[word]
        assert is_valid(f'{{"properties":{{"n":{{"{word}":{bound}}}}}}}', f'{{"n":{value}}}') == wanted


@settings(max_examples=100)
@given(schemas(), st.lists(payloads, max_size=8))
def test_a_column_is_judged_as_its_rows_are(schema: Any, tries: list[Any]):
    parsed = document.parse(text(schema))
    known = registered(parsed.text)
    good, bad = check(known, *(("T", 1, text(payload)) for payload in tries))
    one_by_one = [document.compiled(parsed.text).is_valid(json.loads(text(payload))) for payload in tries]
    assert good == one_by_one
    assert all("(rule " in message for _, _, message in bad)
