"""Definitions that say another thing than their writer means are refused, with what to write instead."""

from __future__ import annotations

import json

import pytest

from evtool.errors import ProjectionError
from evtool.projections import definition, kinds, parameters
from evtool.projections.plan import Plan

FUNNEL = 'name = "f"\nversion = 1\n[funnel]\nby = "stream_id"\nwithin = "1h"\nsteps = {}\n'
RETENTION = (
    'name = "r"\nversion = 1\n[time]\ngrain = "week"\n[retention]\nby = "stream_id"\nstart = {}\nreturn = "true"\n'
)
WHERE = 'name = "w"\nversion = 1\nwhere = {}\n[measures]\nevents = "count(*)"\n'


def compiled(text: str) -> Plan:
    found = definition.parse(text.encode(), "x.toml")
    return kinds.compile(found, parameters.values(found))


def refused(text: str) -> ProjectionError:
    with pytest.raises(ProjectionError) as caught:
        compiled(text)
    return caught.value


@pytest.mark.parametrize(
    "step",
    [
        "event_type = 'UserSignedIn'",
        'event_type == "UserSignedIn"',
        "evnt_type = 'UserSignedIn'",
        "starts_with(event_type, 'User')",
        "event_type in ('A', 'B')",
        "not payload.a is null",
    ],
)
def test_a_condition_without_a_name_was_an_event_type_that_nobody_has(step: str):
    error = refused(FUNNEL.format(json.dumps(["ItemViewed", step])))
    assert "is a condition without a name" in error.message
    assert f'"step 2: {step}"' in error.hint
    if "==" not in step and "evnt" not in step:
        compiled(FUNNEL.format(json.dumps(["ItemViewed", f"step 2: {step}"])))


def test_event_types_of_any_words_are_steps():
    steps = ["not found", "cart and more", "order.placed", "user-signed-in", "Items in cart", "true", "B is null"]
    assert list(compiled(FUNNEL.format(json.dumps(steps))).kind.names) == steps  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["UserSignedIn", "user.signed-in"])
@pytest.mark.parametrize("form", [RETENTION, WHERE])
def test_an_event_type_in_the_place_of_a_condition_shows_the_condition(form: str, name: str):
    assert refused(form.format(f'"{name}"')).hint == f"A condition is wanted: event_type = '{name}'."


def test_a_text_in_double_quotes_was_called_a_column():
    error = refused(WHERE.format("""'event_type == "it''s bought"'""".replace("''", "")))
    assert error.hint == "Texts stand in single quotes: 'its bought'."
    compiled(WHERE.format("""'"Event_Type" = payload."a b"'"""))  # names may have them


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (FUNNEL.replace('"1h"', "3600").format('["A", "B"]'), 'within = "1h"'),
        (FUNNEL.format("3"), 'steps = ["ItemViewed", "ItemPurchased"]'),
        (FUNNEL.replace('"stream_id"', "true").format('["A", "B"]'), "an expression"),
        ('name = "s"\nversion = 1\n[sessions]\nby = "stream_id"\ngap = 30\n', 'gap = "30m"'),
        ('name = "s"\nversion = 1\n[sessions]\nby = "stream_id"\ngap = "30m"\neach = "yes"\n', "true or false"),
        (RETENTION.replace('[time]\ngrain = "week"\n', "").format('"true"'), 'grain = "week"'),
    ],
)
def test_a_value_of_a_wrong_type_shows_a_right_one(text: str, wanted: str):
    assert wanted in refused(text).hint
