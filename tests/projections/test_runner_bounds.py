"""What is asked of a part of a log is what a log of that part alone would answer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import Event, cuts, events, make, open_projection, write
from samples import rows

import evtool
from evtool.errors import ConfigError, PositionError
from evtool.projections.bounds import select
from evtool.timestamps import to_text

TEXT = """
[time]
grain = "day"
[keys]
product = "payload.product_id"
[measures]
events = "count(*)"
users = "count(distinct payload.user_id)"
amount = "sum(cast(payload.amount as decimal(18,2)))"
last = "last(stream_id)"
"""
NAMES = ("sessions", "funnel-conversion", "cohort-retention", "mine")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bounds")


def answers(
    folder: Path, start: str | None = None, end: str | None = None, as_of: str | None = None
) -> list[pl.DataFrame]:
    own = write(folder.parent, TEXT)
    with evtool.open(folder, read_only=True) as log:
        return [
            open_projection(log, own if name == "mine" else name)
            .runner.compute(select(log, start, end, as_of))
            .frame
            for name in NAMES
        ]


def of(folder: Path, batch: list[Event]) -> list[pl.DataFrame]:
    folder = Path(tempfile.mkdtemp(dir=folder)) / "log"
    return answers(make(folder, [batch] if batch else []))


def same(left: list[pl.DataFrame], right: list[pl.DataFrame]) -> bool:
    return all(one.equals(other) and one.schema == other.schema for one, other in zip(left, right, strict=True))


@given(data=st.data())
@settings(max_examples=5)
def test_a_part_by_position_id_or_time(data: st.DataObject, scratch: Path):
    root = Path(tempfile.mkdtemp(dir=scratch))
    happened = data.draw(events(4, 20))
    folder = make(root / "log", data.draw(cuts(happened)))
    first = data.draw(st.integers(1, len(happened)))
    last = data.draw(st.integers(first, len(happened)))
    with evtool.open(folder, read_only=True) as log:
        recorded = to_text(rows(log)[last - 1]["recorded_at"])
    part = of(root, happened[first - 1 : last])
    assert same(answers(folder, f"@{first}", f"@{last + 1}"), part)
    assert same(answers(folder, f"e-{first - 1}", as_of=f"@{last}"), part)
    assert same(answers(folder, f"@{first}", as_of=recorded), part)
    assert same(answers(folder, f"@{first}", as_of=f"e-{last - 1}"), part)
    moments = sorted({event["timestamp"] for event in happened})
    low, high = data.draw(st.sampled_from(moments)), data.draw(st.sampled_from(moments))
    within = [event for event in happened if low <= event["timestamp"] < high]
    assert same(answers(folder, to_text(low), to_text(high)), of(root, within))


def test_bounds_that_lie_outside(folder: Path):
    with evtool.open(folder, create=True) as log:
        assert log.position == 0
    assert same(answers(folder), answers(folder, as_of="2000-01-01T00:00:00Z"))
    with evtool.open(folder, read_only=True) as log:
        with pytest.raises(PositionError, match="no-such-event"):
            select(log, None, None, "no-such-event")
        with pytest.raises((ConfigError, PositionError)):
            select(log, "@x", None, None)
