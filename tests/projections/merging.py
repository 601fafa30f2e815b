"""Events cut into parts and merged in any order and association: what every kind of projection must not notice."""

from __future__ import annotations

import random
from collections.abc import Iterator

import polars as pl
from hypothesis import strategies as st

from evtool.projections.kind import BUCKET, Kind, Tables

ACTORS = ["a", "b", "é", "", None]
KEYS = [0.0, -0.0, 1.5, float("nan"), None]


def frames(**columns: pl.DataType) -> st.SearchStrategy[pl.DataFrame]:
    """Events with the actor, two keys, small timestamps that are often equal, a position, and these columns."""
    values: dict[str, st.SearchStrategy] = {
        "actor": st.sampled_from(ACTORS),
        "key": st.sampled_from(KEYS),
        "country": st.sampled_from(["AT", "DE", None]),
        "timestamp": st.integers(-20, 20),
    }
    flags = st.sampled_from([True, False, None])
    values |= {name: flags if dtype == pl.Boolean else st.integers(-5, 5) for name, dtype in columns.items()}
    schema = {"actor": pl.String, "key": pl.Float64, "country": pl.String, "timestamp": pl.Int64, **columns}

    def framed(rows: list[tuple]) -> pl.DataFrame:
        frame = pl.DataFrame(rows, schema, orient="row")
        return frame.with_columns(position=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))

    row = st.tuples(*values.values())
    return st.one_of(st.lists(row, max_size=8), st.lists(row, min_size=20, max_size=40)).map(framed)


def in_parts(kind: Kind, events: pl.DataFrame, rng: random.Random) -> Tables:
    """The state of events that were shuffled, cut into parts, and merged in random order, some at a time."""
    events = events[rng.sample(range(len(events)), len(events))]
    edges = sorted(rng.choices(range(len(events) + 1), k=rng.randrange(6)))
    pairs = zip([0, *edges], [*edges, len(events)], strict=True)
    states = [kind.partial(events.select(needed(kind))[start:end]) for start, end in pairs]
    while len(states) > 1:
        rng.shuffle(states)
        count = rng.randint(1, len(states))
        states = [kind.merge(states[:count]), *states[count:]]
    return states[0]


def needed(kind: Kind) -> list[str]:
    """The columns that a kind asks for, and no other."""
    return [*dict.fromkeys([*kind.inputs, *(["timestamp", "position"] if kind.needs_order else [])])]


def read_model(kind: Kind, state: Tables) -> pl.DataFrame:
    """What is made of a state bucket by bucket."""
    results = [kind.reduce(part) for part in _buckets(state)]
    return kind.finalize(pl.concat(results or [kind.reduce(state)]))


def at_once(kind: Kind, events: pl.DataFrame) -> pl.DataFrame:
    """The read model of events that came in one part."""
    return read_model(kind, kind.partial(events.select(needed(kind))))


def same(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether two read models are equal to the last bit, in order too. NaN is a value."""
    return left.schema == right.schema and repr(left.rows()) == repr(right.rows())


def _buckets(state: Tables) -> Iterator[Tables]:
    numbers = pl.concat([table[BUCKET] for table in state.values()]).unique()
    for number in numbers:
        yield {name: table.filter(pl.col(BUCKET) == number) for name, table in state.items()}
