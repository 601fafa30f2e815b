"""Columns that stand behind a path in coalesce() are read where the path has no value, and only there."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from projecting import make, open_projection, project, purchase, write

import evtool
from evtool.log import scan

BATCHES = 6


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "GROUP_EVENTS", 10)


def batches(without_user: set[int]) -> list[list[dict]]:
    """Batches of 60 events of 7 users; in some of them every fifth event has none."""
    return [
        [
            purchase(
                number * 60 + at,
                user=None if number in without_user and at % 5 == 0 else f"u{at % 7}",
                stream_id=f"stream-{at % 3}",
            )
            for at in range(60)
        ]
        for number in range(BATCHES)
    ]


@pytest.mark.parametrize("without_user", [set(), {0}, {3}, {5}, {2, 4}, set(range(BATCHES))], ids=str)
def test_events_without_a_user_count_by_their_stream(tmp_path: Path, without_user: set[int]):
    events = batches(without_user)
    users = {
        each["stream_id"] if (number in without_user and at % 5 == 0) else f"u{at % 7}"
        for number, batch in enumerate(events)
        for at, each in enumerate(batch)
    }
    definition = write(
        tmp_path / "own", '[measures]\nusers = "count(distinct coalesce(payload.user_id, stream_id))"'
    )
    with evtool.open(make(tmp_path / "log", events), read_only=True) as log:
        assert open_projection(log, definition).plan.spare_columns == {"stream_id"}
        assert project(log, definition)["users"].to_list() == [len(users)]


@pytest.mark.parametrize(
    "where", ["stream_id <> 'stream-1'", "coalesce(stream_id, payload.user_id) <> 'stream-1'"]
)
def test_a_column_that_also_stands_elsewhere_is_read(tmp_path: Path, where: str):
    text = f'where = "{where}"\n[keys]\nwho = "coalesce(payload.user_id, stream_id)"\n[measures]\nn = "count(*)"'
    definition = write(tmp_path / "own", text)
    with evtool.open(make(tmp_path / "log", batches({1})), read_only=True) as log:
        assert open_projection(log, definition).plan.spare_columns == set()
        found = project(log, definition)
    assert found["n"].sum() == BATCHES * 40
    assert found.filter(pl.col("who").str.starts_with("stream"))["who"].to_list() == ["stream-0", "stream-2"]
