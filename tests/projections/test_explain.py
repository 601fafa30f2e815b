"""The events behind the rows of a read model add up to it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import cuts, events, make, open_projection, purchase, write
from samples import rows

import evtool
from evtool.cli.frames import _spelled
from evtool.errors import ConfigError
from evtool.event import STORED_SCHEMA
from evtool.projections import explain, inventory
from evtool.projections.lineage import read_lineage
from evtool.projections.source import Source

TEXT = """
where = "event_type <> 'ButtonClicked'"
[time]
grain = ":grain"
timezone = ":zone"
[keys]
product = "payload.product_id"
amount = "cast(payload.amount as decimal(18,2))"
moment = "date_trunc('hour', timestamp)"
known = "payload.user_id is not null"
number = "cast(payload.quantity as bigint)"
[measures]
events = "count(*)"
highest = "max(position)"
[parameters]
grain = { value = "day" }
zone = { value = "Europe/Berlin" }
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explain")


def behind(log: evtool.Log, name: str, row: dict[str, str], **parameters: str) -> pl.DataFrame:
    source = Source(log.snapshot(), log.partitions, log.schemas.current())
    found = list(explain.events(open_projection(log, name, **parameters).plan, source, row))
    return pl.concat(found) if found else pl.DataFrame(schema=STORED_SCHEMA)


def spelled(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@given(data=st.data())
@settings(max_examples=6)
def test_the_events_behind_all_rows_are_the_events_that_count(data: st.DataObject, scratch: Path):
    folder = Path(tempfile.mkdtemp(dir=scratch))
    make(folder / "log", data.draw(cuts(data.draw(events(2, 25)))))
    name = write(folder, TEXT)
    grain = data.draw(st.sampled_from(["hour", "day", "week", "month", "all"]))
    with evtool.open(folder / "log", read_only=True) as log:
        frame = open_projection(log, name, grain=grain).runner.refresh().frame
        seen: list[int] = []
        keys = [column for column in frame.columns if column not in ("events", "highest")]
        for row, counts in zip(_spelled(frame).select(keys).rows(named=True), frame.rows(named=True), strict=True):
            found = behind(log, name, {key: spelled(value) for key, value in row.items()}, grain=grain)
            empty = [key for key, value in row.items() if value == ""]  # written as null is
            if not empty:
                assert len(found) == counts["events"], row
                assert found["position"].max() == counts["highest"]
                assert found["position"].is_sorted()
            seen += found["position"].to_list()
        counted = [event["position"] for event in rows(log) if event["event_type"] != "ButtonClicked"]
    assert set(seen) <= set(counted)


def test_the_whole_event_comes_back(folder: Path, tmp_path: Path):
    make(folder, [[purchase(1, metadata='{"a": 1}'), purchase(2)], [purchase(4)]])
    with evtool.open(folder, read_only=True) as log:
        found = behind(log, "revenue-by-product", {"product_id": "p1"})
        stored = [event for event in rows(log) if event["event_id"] in ("e-1", "e-4")]
        assert found.select(list(STORED_SCHEMA)).rows(named=True) == stored
        with pytest.raises(ConfigError, match="no row with product_id=no such"):
            behind(log, "revenue-by-product", {"product_id": "no such"})
        assert len(behind(log, "revenue-by-product", {})) == 3
        with pytest.raises(ConfigError, match="no key 'revenue'"):
            behind(log, "revenue-by-product", {"revenue": "1"})


def test_lineage_tells_a_flipped_byte(folder: Path):
    make(folder, [[purchase(1), purchase(2)]])
    with evtool.open(folder, read_only=True) as log:
        asked = open_projection(log, "revenue-by-product")
        written = asked.runner.refresh().written
    path = asked.places.read_model
    found = read_lineage(path)
    assert written is not None
    assert (found.matches, found.sha256) == (True, written.sha256)
    assert found.lineage["events"] == found.lineage["position"] == 2
    assert found.lineage["definition_hash"] == asked.identity.definition_hash
    flip(path, 20)  # of a value
    assert read_lineage(path).matches is False
    flip(path, 20)
    assert read_lineage(path).matches is True
    for byte in (-1, -8, -20):  # of what Parquet says of itself
        flip(path, byte)
        with pytest.raises(evtool.EvtoolError, match="damaged"):
            read_lineage(path)
        flip(path, byte)


@pytest.mark.parametrize(
    "change",
    [
        {"output": None},
        {"output": []},
        {"output": {}},
        {"output": {"sha256": 1, "rows": 2}},
        {"output": {"sha256": "x", "rows": 2, "parts": [3]}},
        {"parameters": 5},
        {"format": 7},
    ],
)
def test_what_stands_beside_a_read_model_in_another_shape_is_not_believed(folder: Path, change: dict[str, object]):
    make(folder, [[purchase(1), purchase(2)]])
    with evtool.open(folder, read_only=True) as log:
        asked = open_projection(log, "event-counts")
        expected = asked.runner.refresh().frame
        path = asked.places.folder / "event-counts.lineage.json"
        said = json.loads(path.read_text())
        del said["checksum"]  # which tells of any change
        path.write_text(json.dumps(said | change))
        assert read_lineage(asked.places.read_model).matches is False
        assert [each.lineage for each in inventory.kept(asked.places.root)] == [{}]
        with pytest.raises(evtool.EvtoolError, match="not what was written"):
            open_projection(log, "event-counts").runner.stale()
        assert open_projection(log, "event-counts").runner.refresh().frame.equals(expected)
        assert open_projection(log, "event-counts").runner.stale().frame.equals(expected)
