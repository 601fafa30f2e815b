"""What top_k and approx_count_distinct say, beside what DuckDB counts exactly."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import Event, cuts, events, make, open_projection, purchase, write
from samples import config, frame

import evtool

TOP = """[keys]
event_type = "event_type"
[measures]
top = "top_k(payload.product_id, 2)"
"""
APPROXIMATE = """[measures]
about = "approx_count_distinct(payload.user_id)"
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("duckdb")


def most_frequent(happened: list[Event], kept: int) -> dict[str, list[list[object]]]:
    """The products of each event type that come most often, the first by name where several do, and how often."""
    table = pl.DataFrame({name: [each[name] for each in happened] for name in ("event_type", "payload")})
    found: dict[str, list[list[object]]] = {each["event_type"]: [] for each in happened}
    with duckdb.connect() as connection:
        connection.register("events", table.to_arrow())
        rows = connection.execute(
            """select event_type, payload ->> '$.product_id' as product, count(*) as times from events
            where product is not null group by all order by event_type, times desc, product"""
        ).fetchall()
    for event_type, product, times in rows:
        if len(found[event_type]) < kept:
            found[event_type].append([product, times])
    return found


@given(data=st.data())
@settings(max_examples=14)
def test_the_most_frequent_values(data: st.DataObject, scratch: Path):
    folder = Path(tempfile.mkdtemp(dir=scratch))
    happened = data.draw(events(20, 60))
    reference = write(folder, TOP)
    for batch in data.draw(cuts(happened)):
        make(folder / "log", [batch])
        with evtool.open(folder / "log", read_only=True) as log:  # each refresh adds to what the last one left
            frame = open_projection(log, reference).runner.refresh().frame
    ours = {event_type: json.loads(top) if top else [] for event_type, top in frame.rows()}
    assert ours == most_frequent(happened, 2)


def test_an_approximation_is_within_three_of_its_errors(folder: Path, tmp_path: Path):
    counts = {}
    for users in (1, 100, 5_000, 40_000):
        log_folder = folder / str(users)
        make(log_folder, [[purchase(number, f"user-{number}") for number in range(users)]])
        with evtool.open(log_folder, read_only=True) as log:
            counts[users] = open_projection(log, write(tmp_path, APPROXIMATE)).runner.refresh().frame.item()
    assert all(abs(found / users - 1) < 3 * 0.0153 for users, found in counts.items()), counts
    assert counts[1] == 1


def test_an_approximation_does_not_depend_on_how_events_came_together(tmp_path: Path):
    happened = [purchase(number, f"user-{number * 7 % 3_000}") for number in range(4_000)]
    reference = write(tmp_path, APPROXIMATE)
    seen = set()
    for cut, order in ((4_000, 1), (1_500, 1), (700, -1), (333, -1)):
        with evtool.open(tmp_path / f"{cut}", create=True, config=config(fsync="never")) as log:
            for at in range(0, len(happened), cut):
                log.append(frame(happened[::order][at : at + cut]))
                found = open_projection(log, reference).runner.refresh().frame.item()
            seen |= {found, open_projection(log, reference).runner.refresh(full=True).frame.item()}
    assert len(seen) == 1, seen
