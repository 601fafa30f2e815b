"""Retention: DuckDB and ClickHouse count the same, and states merge in any order."""

from __future__ import annotations

import json
import random

import chdb
import duckdb
import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import at_once, frames, in_parts, read_model, same

from evtool.projections.actors import bucket_of, hash_of
from evtool.projections.retention import Retention

COLUMNS = {"period": pl.Int32, "start": pl.Boolean, "return": pl.Boolean}
SCHEMA = {"cohort": pl.Int32, "offset": pl.Int32, "actors": pl.Int64, "retention": pl.Float64}

events_of_periods = frames(**COLUMNS)
numbers_of_periods = st.integers(0, 12)

DUCKDB = """
    WITH known AS (SELECT * FROM frame WHERE actor IS NOT NULL),
    cohorts AS (SELECT country, actor, min(period) AS cohort FROM known WHERE start GROUP BY ALL),
    grid AS (
        SELECT *, unnest(range($periods + 1))::INT AS "offset"
        FROM (SELECT cohort, country, count(*) AS size FROM cohorts GROUP BY ALL)
    ),
    retained AS (
        SELECT DISTINCT known.country, actor, cohort, period - cohort AS "offset"
        FROM known JOIN cohorts USING (actor)
        WHERE known.country IS NOT DISTINCT FROM cohorts.country AND "return" AND period > cohort
        UNION ALL SELECT country, actor, cohort, 0 FROM cohorts
    )
    SELECT g.cohort, g.country, g."offset", count(r.actor) AS actors, count(r.actor) / any_value(size) AS retention
    FROM grid g LEFT JOIN retained r
        ON g.cohort = r.cohort AND g."offset" = r."offset" AND g.country IS NOT DISTINCT FROM r.country
    WHERE g.cohort + g."offset" <= (SELECT max(period) FROM known)
    GROUP BY ALL ORDER BY g.cohort, g.country NULLS FIRST, g."offset"
"""


def framed(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, {"actor": pl.String, **COLUMNS}, orient="row")


@given(frame=events_of_periods, periods=numbers_of_periods)
@settings(max_examples=60)
def test_duckdb_counts_the_same(frame, periods) -> None:
    peer = duckdb.execute(DUCKDB, {"periods": periods}).fetchall()
    assert at_once(Retention(("country",), periods), frame).rows() == peer


@given(frame=events_of_periods)
@settings(max_examples=8)
def test_clickhouse_counts_the_same_actors(frame) -> None:
    known = frame.drop_nulls("actor").with_columns(pl.col("start", "return").fill_null(False).cast(pl.UInt8))
    ours = at_once(Retention((), 4), frame)
    retained = [row for row in ours.select("cohort", "offset", "actors").iter_rows() if row[2]]
    assert retained == clickhouse_retained(known.select("actor", *COLUMNS).to_arrow(), 4)


def clickhouse_retained(table: pa.Table, periods: int) -> list[tuple[int, int, int]]:
    """Cohort, offset and actors, by the function `retention`; without those of no actors."""
    if not len(table):
        return []
    later = "".join(f", return AND period = cohort + {offset}" for offset in range(1, periods + 1))
    sql = f"""
        SELECT cohort, sumForEach(met) FROM (
            SELECT cohort, retention(start AND period = cohort{later}) AS met
            FROM Python(table) AS events JOIN (
                SELECT actor, min(period) AS cohort FROM Python(table) WHERE start GROUP BY actor
            ) AS cohorts USING (actor)
            GROUP BY actor, cohort
        ) GROUP BY cohort ORDER BY cohort
    """
    answer = json.loads(chdb.query(sql, "JSONCompact").bytes())["data"]
    return [
        (cohort, offset, int(actors)) for cohort, met in answer for offset, actors in enumerate(met) if int(actors)
    ]


@given(
    frame=events_of_periods,
    periods=numbers_of_periods,
    rng=st.randoms(use_true_random=False),
    keyed=st.booleans(),
)
@settings(max_examples=60)
def test_parts_in_any_order_and_association_are_one(frame, periods, rng: random.Random, keyed) -> None:
    kind = Retention(("key", "country") if keyed else (), periods)
    assert same(read_model(kind, in_parts(kind, frame, rng)), at_once(kind, frame))


def test_the_last_period_is_that_of_any_actor_whatever_it_did() -> None:
    """An actor of another bucket, and an event that is neither start nor return, say how far the log goes."""
    assert bucket_of(hash_of(pl.DataFrame({"actor": ["a", "b"]}), ())).n_unique() == 2
    frame = framed(("a", 1, True, False), ("b", 3, False, False))
    assert at_once(Retention((), 9), frame)["offset"].to_list() == [0, 1, 2]
    assert at_once(Retention((), 1), frame)["offset"].to_list() == [0, 1]


def test_returns_count_in_later_periods_only_and_starts_only_once() -> None:
    frame = framed(
        ("a", 5, True, True),  # the cohort: a return in it adds nothing
        ("a", 4, False, True),  # before it began
        ("a", 6, True, False),  # began again, did not return
        ("a", 7, None, True),
        (None, 8, True, True),
    )
    assert at_once(Retention((), 3), frame).rows() == [(5, 0, 1, 1.0), (5, 1, 0, 0.0), (5, 2, 1, 1.0)]


def test_periods_are_right_between_the_ends_of_their_type() -> None:
    first, last = -(2**31), 2**31 - 1
    frame = framed(("a", first, True, False), ("a", last, False, True), ("b", last, True, True))
    assert at_once(Retention((), 1), frame).rows() == [(first, 0, 1, 1.0), (first, 1, 0, 0.0), (last, 0, 1, 1.0)]


def test_keys_have_names_that_the_state_could_want_too() -> None:
    keys = ("size", "last", "seen", "periods")
    frame = framed(("a", 1, True, True)).with_columns(pl.lit(7).alias(key) for key in keys)
    assert at_once(Retention(keys, 3), frame).rows() == [(1, 7, 7, 7, 7, 0, 1, 1.0)]


def test_nothing_has_no_cohorts() -> None:
    model = at_once(Retention((), 3), framed())
    assert model.rows() == []
    assert model.schema == SCHEMA
    assert at_once(Retention((), 3), framed(("a", 1, False, True))).rows() == []
