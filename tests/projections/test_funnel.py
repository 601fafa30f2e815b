"""Funnels: ClickHouse's windowFunnel in all modes, a walk through all chains; states that merge in any order."""

from __future__ import annotations

import json
import random
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import at_once, frames, in_parts, needed, read_model, same

from evtool.projections.actors import ACTOR_BUCKETS, bucket_of, hash_of
from evtool.projections.funnel import DEPTH, DEPTHS, Funnel
from evtool.projections.kind import Tables, find_nothing
from evtool.projections.windows import STEPS_MAX

STRICT = ("strict_once", "strict_order", "strict_deduplication", "strict_increase")
MODES = [frozenset(modes) for count in range(5) for modes in combinations(STRICT, count)]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
DAY_NS = 86_400 * 10**9
TIMES = 16

seeds = st.integers(0, 2**32 - 1)
some_steps = frames(step_1=pl.Boolean, step_2=pl.Boolean, step_3=pl.Boolean)
modes_of_funnels = st.sampled_from(MODES)


def funnel(steps: int, within_ns: int, modes: frozenset[Any] = frozenset(), keys: tuple[str, ...] = ()) -> Funnel:
    return Funnel(keys, [f"step {number}" for number in range(1, steps + 1)], within_ns, modes)


def random_events(
    seed: int, steps: int, *, overlapping: bool, ties: bool = False, actors: int = 200
) -> pl.DataFrame:
    """Up to 8 events an actor at different (unless `ties`) times of 0 to TIMES - 1, most of them of some step."""
    rng = np.random.default_rng(seed)
    times = rng.random((actors, TIMES)).argsort(axis=1)[:, :8]
    if ties:
        times //= 4
    kept = rng.random(times.shape) < rng.random((actors, 1))
    chosen = rng.integers(0, steps + 1, times.shape)  # 0 is no step
    flags = chosen[..., None] == np.arange(1, steps + 1)
    if overlapping:
        flags |= (rng.random(flags.shape) < 0.2) & (chosen[..., None] > 0)
    actor = np.broadcast_to(np.arange(actors)[:, None], times.shape)[kept]
    columns = {f"step_{step + 1}": flags[..., step][kept] for step in range(steps)}
    frame = pl.DataFrame({"actor": actor, "timestamp": times[kept], **columns})
    frame = frame.with_columns(pl.col("actor").cast(pl.String), pl.col("timestamp").cast(pl.Int64))
    return frame.with_columns(position=pl.Series(rng.permutation(len(frame)), dtype=pl.Int64))


def depths(kind: Funnel, state: Tables) -> pl.DataFrame:
    return kind.change(state, find_nothing).tables[DEPTHS].select(*kind.keys, "actor", DEPTH)


def our_levels(kind: Funnel, events: pl.DataFrame) -> dict[str, int]:
    found = depths(kind, kind.partial(events.select(needed(kind))))
    return {actor: depth for actor, depth in found.select("actor", DEPTH).iter_rows() if depth}


def clickhouse_levels(events: pl.DataFrame, steps: int, within: int, options: list[str]) -> dict[str, int]:
    """Of the actors with a level above 0, the level that windowFunnel finds."""
    conditions = [f"step_{number}" for number in range(1, steps + 1)]
    unsigned = events.select("actor", pl.col("timestamp").cast(pl.UInt64), pl.col(conditions).cast(pl.UInt8))
    parameters = ", ".join([str(within), *(f"'{option}'" for option in options)])
    return levels_of(unsigned.to_arrow(), f"windowFunnel({parameters})(timestamp, {', '.join(conditions)})")


def levels_of(table: pa.Table, level: str) -> dict[str, int]:
    if not len(table):
        return {}
    sql = f"SELECT actor, {level} AS level FROM Python(table) GROUP BY actor HAVING level > 0"
    return dict(json.loads(chdb.query(sql, "JSONCompact").bytes())["data"])


@pytest.mark.parametrize("modes", MODES, ids=lambda modes: "+".join(sorted(modes)) or "default")
@given(seed=seeds, steps=st.integers(1, 5), within=st.integers(0, TIMES))
@settings(max_examples=3)
def test_clickhouse_finds_the_same_where_an_event_is_of_one_step(modes, seed, steps, within) -> None:
    events = random_events(seed, steps, overlapping=False)
    ours = our_levels(funnel(steps, within, modes), events)
    assert ours == clickhouse_levels(events, steps, within, sorted(modes))


@pytest.mark.parametrize("modes", MODES, ids=lambda modes: "+".join(sorted(modes)) or "default")
@given(seed=seeds, steps=st.integers(2, 5), within=st.integers(0, TIMES))
@settings(max_examples=3)
def test_clickhouse_finds_the_same_where_an_event_is_of_several_steps(modes, seed, steps, within) -> None:
    events = random_events(seed, steps, overlapping=True)
    ours = our_levels(funnel(steps, within, modes), events)
    # With strict_increase alone ClickHouse forgets a chain at an event of two steps that could go on with it.
    peer = modes | {"strict_once"} if "strict_increase" in modes else modes
    assert ours == clickhouse_levels(events, steps, within, sorted(peer))


@given(seed=seeds, steps=st.integers(2, 4), within=st.integers(0, 4))
@settings(max_examples=3)
def test_strictly_increasing_chains_pass_over_equal_timestamps(seed, steps, within) -> None:
    events = random_events(seed, steps, overlapping=True, ties=True)
    ours = our_levels(funnel(steps, within, frozenset({"strict_increase"})), events)
    assert ours == clickhouse_levels(events, steps, within, ["strict_increase", "strict_once"])


@pytest.mark.parametrize("modes", [modes for modes in MODES if "strict_increase" not in modes])
@given(seed=seeds, steps=st.integers(2, 4), within=st.integers(0, 4))
@settings(max_examples=2)
def test_among_equal_timestamps_the_position_decides(modes, seed, steps, within) -> None:
    """As if positions were fractions of the unit of time, too small for the window."""
    events = random_events(seed, steps, overlapping=True, ties=True)
    unit = 2 * len(events)
    fine = events.with_columns(pl.col("timestamp") * unit + pl.col("position"))
    peer = clickhouse_levels(fine, steps, within * unit + len(events) - 1, sorted(modes))
    assert our_levels(funnel(steps, within, modes), events) == peer


def walked(events: pl.DataFrame, kind: Funnel) -> dict[tuple, int]:
    """The depths by a walk that keeps every chain: (length, start, last)."""
    found: dict[tuple, int] = {}
    ended: set[tuple] = set()
    chains: dict[tuple, set[tuple[int, int, int]]] = {}
    for row in events.sort("timestamp", "position").iter_rows(named=True):
        group = (row["country"], row["actor"])
        steps = [n for n in range(1, len(kind.names) + 1) if row[f"step_{n}"]]
        if row["actor"] is None or group in ended:
            continue
        own = chains.setdefault(group, set())
        depth = found.get(group, 0)
        if "strict_deduplication" in kind.modes and any(1 < step <= depth for step in steps):
            ended.add(group)
            continue
        now = row["timestamp"]
        before = set(own)
        for step in steps:
            own |= {
                (step, start, now)
                for length, start, last in (before if "strict_once" in kind.modes else own)
                if length + 1 == step
                and now - start <= kind.within_ns
                and ("strict_increase" not in kind.modes or last < now)
            } | ({(1, now, now)} if step == 1 else set())
        found[group] = max((length for length, _, _ in own), default=0)
        if "strict_order" in kind.modes and found[group] and (not steps or max(steps) > found[group] + 1):
            ended.add(group)
    return {group: depth for group, depth in found.items() if depth}


@given(events=some_steps, within=st.integers(0, 25), modes=modes_of_funnels)
@settings(max_examples=120)
def test_the_depth_is_the_length_of_the_longest_of_all_chains(events, within, modes) -> None:
    kind = funnel(3, within, modes, ("country",))
    found = depths(kind, kind.partial(events.select(needed(kind))))
    ours = {(country, actor): depth for country, actor, depth in found.iter_rows() if depth}
    assert ours == walked(events, kind)


@given(events=some_steps, rng=st.randoms(use_true_random=False), modes=modes_of_funnels, keyed=st.booleans())
@settings(max_examples=60)
def test_parts_in_any_order_and_association_are_one(events, rng: random.Random, modes, keyed) -> None:
    kind = funnel(3, 10, modes, ("key", "country") if keyed else ())
    assert same(read_model(kind, in_parts(kind, events, rng)), at_once(kind, events))


@given(events=some_steps, modes=modes_of_funnels)
@settings(max_examples=30)
def test_the_read_model_counts_the_depths(events, modes) -> None:
    kind = funnel(3, 10, modes, ("country",))
    deepest = depths(kind, kind.partial(events.select(needed(kind))))
    model = at_once(kind, events)
    assert model.rows() == sorted(model.rows(), key=lambda row: (row[0] is not None, row[0] or "", row[1]))
    of_some_step = events.drop_nulls("actor").filter(pl.any_horizontal("step_1", "step_2", "step_3"))
    assert {*model["country"]} == {*of_some_step["country"]}
    for country, step, name, actors, conversion, total in model.iter_rows():
        own = deepest.filter(pl.col("country").eq_missing(pl.lit(country)))[DEPTH]
        first, before = (own >= 1).sum(), (own >= step - 1).sum()
        assert (name, actors) == (f"step {step}", (own >= step).sum())
        assert conversion == (1.0 if step == 1 else actors / before if before else None)
        assert total == (actors / first if first else None)


def test_nothing_is_a_row_a_step_without_keys_and_no_row_with_keys() -> None:
    rows = [(1, "step 1", 0, 1.0, None), (2, "step 2", 0, None, None)]
    schema = {"country": pl.String, "actor": pl.String, "step_1": pl.Boolean, "step_2": pl.Boolean}
    nothing = pl.DataFrame(schema={**schema, "timestamp": pl.Int64, "position": pl.Int64})
    model = at_once(funnel(2, 10), nothing)
    assert model.rows() == rows
    types = {"step": pl.Int32, "name": pl.String, "actors": pl.Int64}
    assert model.schema == {**types, "conversion": pl.Float64, "conversion_total": pl.Float64}
    assert at_once(funnel(2, 10, keys=("country",)), nothing).rows() == []


def test_keys_have_names_that_the_state_could_want_too() -> None:
    keys = ("n", "depth", "steps", "events", "mask")
    flags = {"step_1": [True], "step_2": [False]}
    events = pl.DataFrame({"actor": ["a"], "timestamp": [1], "position": [1], **flags})
    events = events.with_columns(pl.lit(7).alias(key) for key in keys)
    assert at_once(funnel(2, 1, keys=keys), events)["actors"].to_list() == [1, 0]


def test_as_many_steps_as_a_mask_has_bits() -> None:
    steps = range(1, STEPS_MAX + 1)
    flags = {f"step_{step}": [step == now for now in steps] for step in steps}
    events = pl.DataFrame({"actor": "a", "timestamp": steps, "position": steps, **flags})
    assert our_levels(funnel(STEPS_MAX, STEPS_MAX - 1), events) == {"a": STEPS_MAX}
    assert our_levels(funnel(STEPS_MAX, STEPS_MAX - 2), events) == {"a": STEPS_MAX - 1}
    with pytest.raises(ValueError, match="64 steps"):
        funnel(STEPS_MAX + 1, 1)


def test_a_window_is_right_between_the_ends_of_time() -> None:
    first, last = -(2**63), 2**63 - 1
    flags = {"step_1": [True, False], "step_2": [False, True]}
    events = pl.DataFrame({"actor": "a", "timestamp": [first, last], "position": [1, 2], **flags})
    assert our_levels(funnel(2, 2**63 - 1), events) == {"a": 1}


def test_the_bucket_of_an_actor_is_the_same_for_ever() -> None:
    actors = pl.Series(["", "a", "ccf365", "é", "0b9c2f50-6f0e-4f57-9df5-1a2b3c4d5e6f", "user-0000000000001"])
    assert bucket_of(hash_of(actors.to_frame("actor"), ())).to_list() == [0, 62, 23, 61, 34, 28]
    users = pl.DataFrame({"actor": [f"user-{number}" for number in range(64_000)]})
    many = bucket_of(hash_of(users, ()))
    sizes = np.bincount(many.to_numpy(), minlength=ACTOR_BUCKETS)
    assert sizes.min() > 850
    assert sizes.max() < 1150


@pytest.mark.skipif(not (SHARED / "cliquebait.ndjson.zst").exists(), reason="the data is not here")
def test_visits_of_the_cliquebait_shop_come_as_far_as_published() -> None:
    text = zstandard.ZstdDecompressor().stream_reader((SHARED / "cliquebait.ndjson.zst").read_bytes()).read()
    lines = pl.read_ndjson(text, schema={"stream_id": pl.String, "event_type": pl.String, "timestamp": pl.String})
    steps = enumerate(["Page View", "Add to Cart", "Purchase"], 1)
    events = lines.select(
        pl.col("stream_id").alias("actor"),
        pl.col("timestamp").str.to_datetime(time_unit="ns", time_zone="UTC").cast(pl.Int64),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("position"),
        *((pl.col("event_type") == name).alias(f"step_{number}") for number, name in steps),
    )
    actors = at_once(funnel(3, DAY_NS), events)["actors"].to_list()
    assert [here - beyond for here, beyond in pairwise([*actors, 0])] == [1054, 733, 1777]
