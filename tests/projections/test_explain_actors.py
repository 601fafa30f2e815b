"""The events behind a row of a funnel, a retention or sessions make that row, and no other event does."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import duckdb
import polars as pl
import pytest
from compacting import compacted
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import at_once, frames
from projecting import Event, make, open_projection, purchase, write
from samples import make_segments

import evtool
from evtool.errors import ConfigError
from evtool.projections import explain
from evtool.projections.actors import with_hash
from evtool.projections.funnel import Funnel
from evtool.projections.kind import EVENT, TracingKind
from evtool.projections.retention import Retention
from evtool.projections.sessions import Sessions
from evtool.projections.source import Source
from evtool.projections.windows import Mode

MODES = [frozenset(modes) for count in range(5) for modes in combinations(get_args(Mode), count)]
KEYS = ("key", "country")

of_steps = frames(step_1=pl.Boolean, step_2=pl.Boolean, step_3=pl.Boolean)
of_periods = frames(period=pl.Int32, start=pl.Boolean, **{"return": pl.Boolean})


def pairs(kind: TracingKind, events: pl.DataFrame) -> pl.DataFrame:
    """Rows of the read model, each with the position of each event behind it."""
    rows = with_hash(events, kind.keys).with_columns(pl.col("position").alias(EVENT))
    return kind.behind(rows)


def by_row(kind: TracingKind, events: pl.DataFrame) -> dict[str, list[int]]:
    """The positions behind each row that has some, by what tells the row apart."""
    found: dict[str, list[int]] = {}
    for *row, position in pairs(kind, events).iter_rows():
        found.setdefault(repr(row), []).append(position)
    return found


@given(events=of_steps, within=st.integers(0, 20), modes=st.sampled_from(MODES))
@settings(max_examples=35)
def test_the_events_behind_a_step_of_a_funnel_get_its_actors_there(events, within, modes) -> None:
    kind = Funnel(KEYS, ["a", "b", "c"], within, modes)
    found = by_row(kind, events)
    for key, country, step, name, actors, *_ in at_once(kind, events).iter_rows():
        positions = found.pop(repr([key, country, step, name]), [])
        assert actors <= len(set(positions)) <= len(positions) == step * actors
        if actors:
            chosen = at_once(kind, events.filter(pl.col("position").is_in(positions)))
            counted = [row[4] for row in chosen.iter_rows() if repr(row[:3]) == repr((key, country, step))]
            assert counted == [actors]
    assert not found


@given(events=frames(), gap_ns=st.integers(0, 6), each=st.booleans(), timed=st.booleans())
@settings(max_examples=20)
def test_the_events_behind_sessions_make_them(events, gap_ns, each, timed) -> None:
    period = None if each or not timed else (lambda start: start // 8)
    kind = Sessions(gap_ns, each, period, "day" if period else None, KEYS)
    by = [*(["day"] if period else []), *KEYS, *(["actor", "started_at", "ended_at"] if each else [])]
    found = by_row(kind, events)
    for row in at_once(kind, events).iter_rows(named=True):
        positions = found.pop(repr([row[name] for name in by]))
        assert len(positions) == row["events"]
        chosen = at_once(kind, events.filter(pl.col("position").is_in(positions)))
        assert repr(chosen.rows(named=True)) == repr([row])
    assert not found


@given(events=of_periods, periods=st.integers(0, 12))
@settings(max_examples=20)
def test_the_events_behind_a_cohort_are_its_starts_and_returns(events, periods) -> None:
    sql = """
        WITH cohorts AS (SELECT country, actor, min(period) AS cohort FROM events WHERE start GROUP BY ALL)
        SELECT cohort, e.country, period - cohort AS "offset", position
        FROM events e JOIN cohorts c ON e.actor = c.actor AND e.country IS NOT DISTINCT FROM c.country
        WHERE (start AND period = cohort) OR ("return" AND period - cohort BETWEEN 1 AND $periods)
    """
    peer = duckdb.execute(sql, {"periods": periods}).fetchall()
    assert sorted(pairs(Retention(("country",), periods), events).rows(), key=repr) == sorted(peer, key=repr)


def behind(log: evtool.Log, name: str, row: dict[str, str], **parameters: str) -> list[str]:
    """The ids of the events behind a row."""
    source = Source(log.snapshot(), log.partitions, log.schemas.current())
    found = list(explain.events(open_projection(log, name, **parameters).plan, source, row))
    return pl.concat(found)["event_id"].to_list() if found else []


def viewed(number: int, user: str | None, hours: float, **fields: Any) -> Event:
    return purchase(number, user, hours=hours, event_type="ItemViewed", **fields)


@pytest.fixture(params=["hot", "cold"])
def shop(folder: Path, request: pytest.FixtureRequest) -> Path:
    """Two users, one of whom comes back the next day. Event 5 came late, and event 6 has no user."""
    first = [viewed(1, "u1", 1), purchase(2, "u1", hours=1.25), viewed(3, "u2", 2)]
    batches = [first, [purchase(4, "u1", hours=25), viewed(5, "u1", 0.75)], [viewed(6, None, 9)]]
    if request.param == "hot":
        return make(folder, batches)
    make_segments(folder, *([batch] for batch in batches))
    assert compacted(folder).compacted
    return folder


def test_a_step_a_day_or_a_cohort_is_asked_for_by_its_columns(shop: Path) -> None:
    with evtool.open(shop, read_only=True) as log:
        steps = {"steps": "ItemViewed > ItemPurchased", "within": "1h"}
        assert behind(log, "funnel-conversion", {"step": "2"}, **steps) == ["e-1", "e-2"]
        assert behind(log, "funnel-conversion", {"name": "ItemViewed"}, **steps) == ["e-3", "e-5", "e-6"]
        days = [
            str(row["day"]) for row in open_projection(log, "sessions").runner.refresh().frame.rows(named=True)
        ]
        assert behind(log, "sessions", {"day": days[0]}) == ["e-1", "e-2", "e-3", "e-5", "e-6"]
        assert behind(log, "sessions", {"day": days[1]}) == ["e-4"]
        of_day = {"grain": "day", "where": "payload.user_id is not null"}
        assert behind(log, "cohort-retention", {"day": days[0], "offset": "1"}, **of_day) == ["e-4"]
        assert behind(log, "cohort-retention", {"day": days[0]}, **of_day) == ["e-1", "e-2", "e-3", "e-4", "e-5"]
        assert behind(log, "engagement-score", {"user_id": "u1", "day": days[0]}) == ["e-1", "e-5"]


def test_a_row_that_counts_nobody_has_no_events_and_one_that_is_not_there_is_an_error(shop: Path) -> None:
    with evtool.open(shop, read_only=True) as log:
        steps = {"steps": "ItemPurchased > ButtonClicked"}
        assert behind(log, "funnel-conversion", {"step": "2"}, **steps) == []
        with pytest.raises(ConfigError, match="no row with step=3"):
            behind(log, "funnel-conversion", {"step": "3"}, **steps)
        with pytest.raises(ConfigError, match="no row with day=1999-01-01"):
            behind(log, "sessions", {"day": "1999-01-01"})
        with pytest.raises(ConfigError, match="no key 'sessions'") as caught:
            behind(log, "sessions", {"sessions": "1"})
        assert caught.value.hint == "Rows are found by day."
        assert len(behind(log, "sessions", {})) == 6


def test_a_key_called_position_is_not_where_an_event_stands(folder: Path, tmp_path: Path) -> None:
    text = """
        [time]
        grain = "day"
        [keys]
        position = "payload.product_id"
        timestamp = "cast(payload.amount as decimal(9,2))"
        [retention]
        by = "payload.user_id"
        start = "true"
        return = "true"
    """
    make(folder, [[purchase(1), purchase(2), purchase(4)]])
    with evtool.open(folder, read_only=True) as log:
        assert behind(log, write(tmp_path, text), {"position": "p1", "timestamp": "1.50"}) == ["e-1", "e-4"]


def test_one_session_is_found_by_its_actor_and_start(folder: Path, tmp_path: Path) -> None:
    make(folder, [[purchase(1), purchase(2, hours=0.25), purchase(3, "u2"), purchase(4, hours=5)]])
    path = write(tmp_path, '[sessions]\nby = "payload.user_id"\ngap = "30m"\neach = true\n')
    with evtool.open(folder, read_only=True) as log:
        assert behind(log, path, {"actor": "u1"}) == ["e-1", "e-2", "e-4"]
        start = explain._MOMENT
        [first, *_] = open_projection(log, path).runner.refresh().frame["started_at"].dt.strftime(start)
        assert behind(log, path, {"started_at": first, "actor": "u1"}) == ["e-1", "e-2"]
