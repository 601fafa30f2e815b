"""Sessions: DuckDB's windows cut events the same, and states merge in any order."""

from __future__ import annotations

import random
from collections.abc import Callable

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import at_once, frames, in_parts, read_model, same

from evtool.projections.sessions import Sessions

MS = 1_000_000
PERIOD = 8 * MS

events = frames().map(lambda frame: frame.with_columns(pl.col("timestamp") * (MS // 2)))
gaps = st.integers(0, 12).map(lambda halves: halves * (MS // 2))

DUCKDB_SESSIONS = """
    WITH begun AS (
        SELECT country, actor, timestamp,
            coalesce(timestamp - lag(timestamp) OVER own > $gap, true) AS begins
        FROM frame WHERE actor IS NOT NULL
        WINDOW own AS (PARTITION BY country, actor ORDER BY timestamp, position)
    ), numbered AS (
        SELECT *, sum(begins::INT) OVER (
            PARTITION BY country, actor ORDER BY timestamp ROWS UNBOUNDED PRECEDING
        ) AS number
        FROM begun
    ), each AS (
        SELECT country, actor, min(timestamp) AS started_at, max(timestamp) AS ended_at, count(*) AS events,
            (max(timestamp) - min(timestamp)) // 1000000 AS duration_ms
        FROM numbered GROUP BY country, actor, number
    )
"""


def daily(start: pl.Expr) -> pl.Expr:
    return start // PERIOD * PERIOD


def summary(gap_ns: int, keys: tuple[str, ...] = (), period_of: Callable | None = daily) -> Sessions:
    return Sessions(gap_ns, False, period_of, "day" if period_of else None, keys)


def asked(select: str, frame: pl.DataFrame, gap_ns: int) -> list[tuple]:
    return duckdb.execute(DUCKDB_SESSIONS + select, {"gap": gap_ns}).fetchall()


@given(frame=events, gap_ns=gaps)
@settings(max_examples=60)
def test_duckdb_finds_the_same_sessions(frame, gap_ns) -> None:
    peer = asked("SELECT * FROM each ORDER BY country NULLS FIRST, actor, started_at", frame, gap_ns)
    assert at_once(Sessions(gap_ns, keys=("country",)), frame).rows() == peer


@given(frame=events, gap_ns=gaps)
@settings(max_examples=60)
def test_duckdb_counts_the_same_by_the_period_of_the_start(frame, gap_ns) -> None:
    counts = f"""
        SELECT floor(started_at / {PERIOD})::BIGINT * {PERIOD} AS day, country, count(*), count(DISTINCT actor),
            sum(events)::BIGINT, count(*) FILTER (events = 1), sum(duration_ms)::BIGINT, avg(duration_ms)
        FROM each GROUP BY day, country ORDER BY day, country NULLS FIRST
    """
    assert at_once(summary(gap_ns, ("country",)), frame).rows() == asked(counts, frame, gap_ns)


@given(
    frame=events,
    gap_ns=gaps,
    rng=st.randoms(use_true_random=False),
    keyed=st.booleans(),
    each=st.booleans(),
    timed=st.booleans(),
)
@settings(max_examples=100)
def test_parts_in_any_order_and_association_are_one(frame, gap_ns, rng: random.Random, keyed, each, timed) -> None:
    keys = ("key", "country") if keyed else ()
    kind = Sessions(gap_ns, keys=keys) if each else summary(gap_ns, keys, daily if timed else None)
    assert same(read_model(kind, in_parts(kind, frame, rng)), at_once(kind, frame))


@given(frame=events, gap_ns=gaps)
@settings(max_examples=30)
def test_a_summary_adds_up_to_all_sessions(frame, gap_ns) -> None:
    each = at_once(Sessions(gap_ns), frame)
    [(sessions, actors, count, bounces, total, average)] = at_once(summary(gap_ns, period_of=None), frame).rows()
    assert (sessions, actors, count) == (len(each), each["actor"].n_unique(), each["events"].sum())
    assert (bounces, total) == ((each["events"] == 1).sum(), each["duration_ms"].sum())
    assert average == (total / sessions if sessions else None)


def at(*timestamps: int) -> pl.DataFrame:
    positions = range(1, len(timestamps) + 1)
    frame = pl.DataFrame({"actor": "a", "timestamp": timestamps, "position": positions})
    return frame.cast({"timestamp": pl.Int64, "position": pl.Int64})


def test_an_event_a_gap_after_the_last_one_is_of_its_session() -> None:
    assert at_once(Sessions(10), at(0, 10, 21))["started_at"].to_list() == [0, 21]


def test_a_late_event_joins_the_sessions_on_both_sides_of_it() -> None:
    kind = Sessions(10)
    parts = [kind.partial(at(*times)) for times in [(0, 8), (25, 30), (17,)]]
    assert read_model(kind, kind.merge(parts)).rows() == [("a", 0, 30, 5, 0)]


def test_a_stretch_within_a_longer_one_does_not_shorten_it() -> None:
    """The end of a session is the latest of all of its stretches, not that of the last to begin."""
    kind = Sessions(10)
    parts = [kind.partial(at(*range(0, 50, 10))), kind.partial(at(5)), kind.partial(at(50))]
    assert read_model(kind, kind.merge(parts)).select("ended_at", "events").rows() == [(50, 7)]


def test_gaps_and_durations_are_right_between_the_ends_of_time() -> None:
    first, last = -(2**63), 2**63 - 1
    assert at_once(Sessions(2**63 - 1), at(first, last))["started_at"].to_list() == [first, last]
    [duration] = at_once(Sessions(2**63 - 1), at(first, -1, 0, last))["duration_ms"]
    assert duration == (last - first) // MS


def test_an_average_is_rounded_once() -> None:
    """The sum of these durations is no float, so a division of two floats would round it before."""
    total, sessions = 2**53 + 1, 3
    counts = {"sessions": sessions, "actors": 1, "events": 9, "bounces": 0, "duration_ms_total": total}
    kind = summary(1, period_of=None)
    [average] = kind.finalize(pl.DataFrame({"bucket": 0, **counts}))["duration_ms_avg"]
    assert average == total / sessions
    assert average != float(total) / sessions


def test_nothing_has_no_sessions() -> None:
    assert at_once(Sessions(10), at()).rows() == []
    assert at_once(summary(10), at()).rows() == []
    assert at_once(summary(10, period_of=None), at()).rows() == [(0, 0, 0, 0, 0, None)]


def test_a_period_has_a_name() -> None:
    with pytest.raises(ValueError, match="a function and a name"):
        Sessions(10, each=False, period_name="day")
