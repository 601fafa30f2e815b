"""A result with nothing in it, because of a type that no event has, says so."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from compacting import compacted
from projecting import make, open_projection, purchase
from samples import make_segments

import evtool
from evtool.projections.unknowntypes import absent, lacks_something


@pytest.fixture
def shop(folder: Path) -> Path:
    viewed = [purchase(number, hours=number, event_type="ItemViewed") for number in range(4)]
    return make(folder, [viewed, [purchase(4, hours=5)], [purchase(5, hours=6, event_type="ButtonClicked")]])


def missing(folder: Path, name: str, **settings: str) -> dict[str, str | None]:
    """What is said of a result, if anything."""
    with evtool.open(folder, read_only=True) as log:
        asked = open_projection(log, name, **settings)
        assert asked.definition
        if not lacks_something(asked.runner.refresh().frame, asked.definition.kind):
            return {}
        return dict(absent(asked.plan.named_types, log.snapshot(), log.partitions))


CASES = [
    ("funnel-conversion", {"steps": "ItemViewed > ItemPurchsed"}, {"ItemPurchsed": "ItemPurchased"}),
    (
        "funnel-conversion",
        {"steps": "ItemView > ItemPurchased", "mode": "strict_order"},
        {"ItemView": "ItemViewed"},
    ),
    ("funnel-conversion", {"steps": "ItemPurchased > ItemViewed"}, {}),  # none in this order
    ("funnel-conversion", {"steps": "ItemViewed > Refund", "grain": "day"}, {"Refund": None}),
    ("funnel-conversion", {"steps": "ItemViewed > b: event_type in ('ItemPurchased', 'Refund')"}, {}),
    ("revenue-by-product", {"purchase": "event_type = 'Refund' and position > 1"}, {"Refund": None}),
    ("experiment-outcomes", {"purchase": "event_type = 'itempurchased'"}, {"itempurchased": "ItemPurchased"}),
    ("cohort-retention", {"return": "event_type = 'Refund'", "grain": "day"}, {}),  # only one day has begun
    ("cohort-retention", {"start": "event_type = 'Refund'"}, {"Refund": None}),
    (
        "sessions",
        {"where": "event_type in ('Refund', 'itemviewed')"},
        {"Refund": None, "itemviewed": "ItemViewed"},
    ),
    ("sessions", {"where": "event_type not in ('Refund') and position > 99"}, {}),
    ("daily-active-users", {"where": "event_type = 'ItemPurchased'"}, {}),
    ("engagement-score", {"click": "event_type = 'Refund'", "view": "false"}, {"Refund": None}),
]


@pytest.mark.parametrize(("name", "settings", "expected"), CASES)
def test_a_type_that_no_event_has_is_found_where_nothing_counts(shop: Path, name, settings, expected) -> None:
    assert missing(shop, name, **settings) == expected


def test_types_are_looked_for_in_cold_segments_too(folder: Path) -> None:
    batches = [[purchase(number, hours=number, event_type=f"Type{number}")] for number in range(4)]
    make_segments(folder, *([batch] for batch in batches))
    assert compacted(folder).compacted
    for number in range(4):
        name = f"Type{number}"
        steps = {"steps": f"{name} > {name}{name}"}
        assert missing(folder, "funnel-conversion", **steps) == {name * 2: name}


def test_a_log_without_events_lacks_no_type(folder: Path) -> None:
    assert missing(make(folder, []), "revenue-by-product") == {}


def test_a_column_without_a_number_is_nothing() -> None:
    assert lacks_something(pl.DataFrame({"a": [1, 2], "b": [None, 0]}), "measures")
    assert not lacks_something(pl.DataFrame({"a": [0, 2], "b": [None, 0.5], "c": ["", ""]}), "measures")
    assert lacks_something(pl.DataFrame({"a": []}, {"a": pl.String}), "score")
