"""Figures that others published for real shops' events, from the built-in projections."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from projecting import project

import evtool
from evtool.config import Config
from evtool.ingest.pipeline import Ingest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there are no real events in {DATA}")

SOLD = (
    "cast(payload.quantity as bigint) > 0 and cast(payload.unit_price as decimal(18,4)) > 0 "
    "and payload.user_id is not null"
)
AMOUNT = {"purchase": "true", "amount": "cast(payload.amount as decimal(18,4))", "user": "payload.user_id"}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return json.loads((DATA / "answers.json").read_text())


def opened(name: str, folder: Path) -> evtool.Log:
    log = evtool.open(folder / name, create=True)
    Ingest(log, [str(DATA / f"{name}.ndjson.zst")], Config().ingest).run()
    return log


@pytest.fixture(scope="module")
def retail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[evtool.Log]:
    with opened("retail", tmp_path_factory.mktemp("real")) as log:
        yield log


@pytest.fixture(scope="module")
def cliquebait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[evtool.Log]:
    with opened("cliquebait", tmp_path_factory.mktemp("real")) as log:
        yield log


def one(frame: pl.DataFrame) -> Any:
    """The one number that a read model without keys has."""
    assert len(frame) == 1
    return frame.row(0)[0]


def different(log: evtool.Log, what: str, **more: str) -> int:
    return one(project(log, "daily-active-users", user=what, grain="all", **more))


def test_counts_of_retail(retail: evtool.Log, answers: dict[str, Any]):
    expected = answers["retail"]
    assert project(retail, "event-counts", grain="all")["events"].sum() == expected["events"]
    assert different(retail, "stream_id") == expected["invoices (distinct stream_id)"]
    assert different(retail, "payload.user_id") == expected["customers (distinct non-null payload.user_id)"]
    assert different(retail, "payload.product_id") == expected["stock codes (distinct payload.product_id)"]


def test_revenue_of_retail(retail: evtool.Log, answers: dict[str, Any]):
    expected = answers["retail"]
    found = project(retail, "revenue-by-product", grain="all", **AMOUNT)
    assert found["revenue"].sum() == Decimal(expected["revenue (sum of payload.amount, purchases and refunds)"])
    by_product = dict(found.select("product_id", "revenue").rows())
    for product, revenue in expected["revenue by payload.product_id"].items():
        assert by_product[product] == Decimal(revenue)
    by_day = project(retail, "revenue-by-product", **AMOUNT)
    assert by_day["revenue"].sum() == found["revenue"].sum()
    assert by_day["orders"].sum() == expected["events"]


def test_what_retail_sold_to_known_users(retail: evtool.Log, answers: dict[str, Any]):
    expected = answers["retail"]["purchases with quantity > 0, unit_price > 0 and a user"]
    found = project(retail, "revenue-per-user", grain="all", where=SOLD, **AMOUNT)
    assert found["orders"].sum() == expected["events"]
    assert len(found) == expected["customers"]
    assert found["revenue"].sum() == Decimal(expected["revenue"])
    assert different(retail, "stream_id", where=SOLD) == expected["invoices"]


def test_counts_of_cliquebait(cliquebait: evtool.Log, answers: dict[str, Any]):
    expected = answers["cliquebait"]
    assert different(cliquebait, "payload.user_id") == expected["users"]
    assert different(cliquebait, "stream_id") == expected["visits"]
    months = project(cliquebait, "daily-active-users", user="stream_id", grain="month")
    assert {f"{month:%Y-%m}": visits for month, visits in months.rows()} == expected["visits by month"]
    types = project(cliquebait, "event-counts", grain="all")
    assert dict(types.rows()) == expected["events by type"]
    assert types["events"].sum() == expected["events"]


def test_funnel_of_cliquebait(cliquebait: evtool.Log, answers: dict[str, Any]):
    (name,) = (name for name in answers["cliquebait"] if name.startswith("funnel"))
    steps = "Page View > Add to Cart > Purchase"
    found = project(cliquebait, "funnel-conversion", steps=steps, user="stream_id", within="1 day")
    at_least = found["actors"].to_list()
    deepest = [many - more for many, more in zip(at_least, [*at_least[1:], 0], strict=True)]
    assert deepest == answers["cliquebait"][name]


def test_the_lines_are_those_of_the_file(cliquebait: evtool.Log):
    with (DATA / "cliquebait.ndjson.zst").open("rb") as file:
        lines = sum(1 for _ in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file)))
    assert cliquebait.position == lines
