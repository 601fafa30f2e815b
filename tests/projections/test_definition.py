"""Definitions: which keys there are, what is refused and where in the file it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from projecting import project
from samples import event

import evtool
from evtool.errors import ConfigError, ProjectionError
from evtool.projections import catalogue, definition, parameters

PLAIN = """\
name = "orders"
version = 3
where = "event_type = 'Bought'"

[time]
grain = ":grain"

[keys]
product = "payload.product"

[measures]
orders = "count(*)"

[parameters]
grain = { value = "day", choices = ["day", "month"], help = "how long" }
user = { expression = "stream_id" }
steps = { value = ["A", "B"] }
count = { value = 3 }
"""


def parse(text: str) -> definition.Definition:
    return definition.parse(text.encode(), "orders.toml")


def test_a_definition_says_what_it_is():
    found = parse(PLAIN)
    assert (found.name, found.version, found.kind) == ("orders", 3, "measures")
    assert list(found.parameters) == ["grain", "user", "steps", "count"]


def test_the_hash_is_that_of_what_decides():
    same = (
        PLAIN.replace("[keys]", "# a comment\n[keys]")
        .replace("how long", "otherwise")
        .replace("version = ", "version  =  ")
    )
    assert parse(same).hash == parse(PLAIN).hash
    assert parse('description = "what it is for"\n' + PLAIN).hash == parse(PLAIN).hash
    assert parse(PLAIN.replace("count(*)", "count(payload.a)")).hash != parse(PLAIN).hash
    assert parse(PLAIN.replace('"day", choices', '"month", choices')).hash != parse(PLAIN).hash


@pytest.mark.parametrize(
    ("before", "after", "place", "message"),
    [
        ('name = "orders"', 'name = "Orders"', "1:9", "name must be"),
        ('name = "orders"', 'name = "../orders"', "1:9", "name must be"),
        ("version = 3", "version = 0", "2:11", "version must be"),
        ("version = 3", "version = true", "2:11", "version must be"),
        ("[measures]", "[measure]", "11:1", "measure"),
        ("[measures]\norders", "[measures]\n[funnel]\norders", "12:1", "one of [measures]"),
        ("where =", "wehre =", "3:10", "'wehre'"),
        ('grain = ":grain"', 'grains = ":grain"', "6:11", "time.grains"),
        ('grain = ":grain"', "", "5:1", "[time] needs 'grain'"),
        ('product = "payload.product"', "product = 3", "9:11", "keys.product must be a text"),
        ('product = "payload.product"', '"a b" = "payload.product"', "9:", "no name of a column"),
        ('product = "payload.product"', 'orders = "payload.product"', "12:11", "is a key, too"),
        ('value = "day"', 'value = "year"', "15:", "none of the choices"),
        ("value = 3", "value = 3.5", "18:", "no text, number"),
        ("value = 3", 'value = 3, expression = "a"', "18:", "a parameter is"),
        ('expression = "stream_id"', 'expresion = "stream_id"', "16:", "a parameter is"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(before: str, after: str, place: str, message: str):
    assert before in PLAIN
    with pytest.raises(ProjectionError) as caught:
        parse(PLAIN.replace(before, after))
    assert caught.value.message.startswith(f"orders.toml:{place}")
    assert message in caught.value.message


def test_no_toml_and_no_utf_8():
    with pytest.raises(ProjectionError, match="line 1"):
        definition.parse(b"name = 3 x", "x.toml")
    with pytest.raises(ProjectionError, match="UTF-8"):
        definition.parse(b"name = '\xff'", "x.toml")


def test_values_come_from_the_definition_the_file_and_the_command_line():
    found = parse(PLAIN)
    configured = parameters.configured(found, {"grain": "month", "other": "x", "orders": {"count": 5}})
    given = parameters.given(found, parameters.settings(["steps=C > D", "user=payload.a"]))
    assert parameters.values(found, configured, given) == {
        "grain": "month",
        "user": "payload.a",
        "steps": ["C", "D"],
        "count": 5,
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("grain", "names no value"),
        ("grains=day", "no parameter 'grains'"),
        ("grain=year", "none of day, month"),
        ("count=many", "no whole number"),
        ('steps=["A",', "no JSON array"),
        ('steps=["A", 3]', "not what this parameter takes"),
    ],
)
def test_a_setting_that_makes_no_sense(setting: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        parameters.given(parse(PLAIN), parameters.settings([setting]))


def test_what_evtool_toml_says_of_one_projection_must_be_a_parameter_of_it():
    with pytest.raises(ConfigError, match="no parameter 'grian'"):
        parameters.configured(parse(PLAIN), {"orders": {"grian": "day"}})


def test_every_built_in_definition_is_of_its_name():
    names = set(catalogue.entries(None))
    assert names >= {
        "daily-active-users",
        "revenue-by-product",
        "revenue-per-user",
        "funnel-conversion",
        "engagement-score",
        "cohort-retention",
        "sessions",
        "event-counts",
        "experiment-outcomes",
    }
    for name in names:
        found = catalogue.find(name, None)
        assert found.name == name
        assert found.description
        assert all(parameter.help for parameter in found.parameters.values())


def test_an_unknown_name_shows_a_near_one():
    with pytest.raises(ProjectionError) as caught:
        catalogue.find("daily-active-user", None)
    assert "daily-active-users" in caught.value.hint


def test_a_sum_of_a_constant_adds_up_all_events(tmp_path: Path):
    """Polars gives one row where only constants are asked for."""
    (tmp_path / "constant.toml").write_text(
        'name = "constant"\nversion = 1\n[measures]\nones = "sum(1)"\ntwos = "sum(2) + count(*)"\n'
    )
    with evtool.open(tmp_path / "log", create=True) as log:
        log.append([event(number) for number in range(7)])
        found = project(log, str(tmp_path / "constant.toml"))
    assert [int(value) for value in found.row(0)] == [7, 21]
