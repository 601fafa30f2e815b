"""Kinds by actor: what new events change, added to what was there, is what all events give at once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import at_once, frames, needed, same

from evtool.files import Files
from evtool.projections import sortedrun, sortedtables, tiers
from evtool.projections.funnel import Funnel
from evtool.projections.kind import ChangingKind
from evtool.projections.retention import Retention
from evtool.projections.sessions import Sessions
from evtool.projections.sortedtables import SortedTables
from evtool.projections.tiers import Ref

KEYS = st.sampled_from([(), ("key",), ("country", "key")])
MODES = ("strict_once", "strict_increase", "strict_order", "strict_deduplication")


def some_period(start: pl.Expr) -> pl.Expr:
    """Null for some; and 2 comes again after 3, as a day may where clocks are set back."""
    return pl.when(start > -15).then(pl.when(start.is_between(4, 5)).then(3).otherwise(start // 3))


funnels = st.builds(
    Funnel,
    keys=KEYS,
    names=st.just(("a", "b", "c")),
    within_ns=st.sampled_from([0, 3, 12, 100]),
    modes=st.frozensets(st.sampled_from(MODES), max_size=2),
)
retentions = st.builds(Retention, keys=KEYS, periods=st.sampled_from([0, 1, 3, 50]))
sessions = st.one_of(
    st.builds(Sessions, gap_ns=st.integers(0, 5), each=st.booleans(), keys=KEYS),
    st.builds(
        Sessions,
        gap_ns=st.integers(0, 5),
        each=st.just(False),
        period_of=st.just(some_period),
        period_name=st.just("third"),
        keys=KEYS,
    ),
)
steps = frames(step_1=pl.Boolean, step_2=pl.Boolean, step_3=pl.Boolean)
returns = frames(**{"period": pl.Int32, "start": pl.Boolean, "return": pl.Boolean})


class State:
    """Sorted tables in a folder of their own, and a result; `orders`, `merges` as the runner has them."""

    def __init__(self, kind: ChangingKind, folder: Path) -> None:
        self.kind = kind
        self.refs: dict[str, tuple[Ref, ...]] = {}
        self.results: list[pl.DataFrame] = []
        self._folder = folder
        self._numbers = itertools.count()

    def take(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Take up some events; the read model with them."""
        tables = SortedTables(Files(), self._folder, self.refs, lambda: next(self._numbers))
        new = self.kind.merge([self.kind.partial(rows.select(needed(self.kind)))])
        change = self.kind.change(new, tables.find)
        added = tables.add(self.kind.orders, [change.tables])
        tables.merge(self.kind.orders, self.kind.settle, added)
        self.results = [self.kind.total([*self.results, change.result])]
        assert list(tables.damage()) == []
        return self.kind.finalize(self.results[0])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows make several tiers, blocks and pages, and merges of several pieces."""
    monkeypatch.setattr(tiers, "TIER_RUNS", 3)
    monkeypatch.setattr(tiers, "TIER_ROWS", 2)
    monkeypatch.setattr(sortedtables, "MERGE_ROWS", 6)
    monkeypatch.setattr(sortedrun, "BLOCK_ROWS", 2)
    monkeypatch.setattr(sortedrun, "PAGE_BYTES", 64)


def batches(rows: pl.DataFrame, cuts: list[int]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The next of some parts, and all so far."""
    for start, end in itertools.pairwise([0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]):
        yield rows[start:end], rows[:end]


def agrees(kind: ChangingKind, rows: pl.DataFrame, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = State(kind, Path(folder))
        for part, so_far in batches(rows, cuts):
            found = state.take(part)
            assert same(found, at_once(kind, so_far)), (found, at_once(kind, so_far))


def crowd(seed: int) -> pl.DataFrame:
    """Events of 20 actors at 60 times, a fifth of them late, with all columns that a kind asks for."""
    rng = np.random.default_rng(seed)
    count = 240
    late = np.where(rng.random(count) < 0.2, rng.integers(0, 60, count), 0)
    moments = np.arange(count) // 4 - late
    columns: dict[str, Any] = {
        "actor": np.array([*"abcdefghijklmnopqrst"])[np.minimum(rng.geometric(0.15, count), 20) - 1],
        "key": np.array([0.0, -0.0, 1.5, float("nan")])[rng.integers(0, 4, count)],
        "country": np.array(["AT", "DE"])[rng.integers(0, 2, count)],
        "timestamp": moments,
        "position": np.arange(count) + 1,
        "period": moments // rng.integers(1, 9),
    }
    names = ("step_1", "step_2", "step_3", "start", "return")
    flags = {name: rng.random(count) < share for name, share in zip(names, rng.random(5), strict=True)}
    return pl.DataFrame(columns | flags).with_columns(
        pl.col("period").cast(pl.Int32), pl.when(pl.col("position") % 29 != 0).then("actor").alias("actor")
    )


crowds = st.integers(0, 2**32 - 1).map(crowd)
CUTS = st.lists(st.integers(0, 40), max_size=8)
CUTS_OF_CROWDS = st.lists(st.integers(0, 240), min_size=4, max_size=9)
some = settings(max_examples=8)


@pytest.mark.usefixtures("small")
class TestInAnyCut:
    @given(kind=funnels, data=st.data())
    @some
    def test_of_a_funnel(self, kind: Funnel, data: st.DataObject) -> None:
        agrees(kind, *data.draw(st.one_of(st.tuples(steps, CUTS), st.tuples(crowds, CUTS_OF_CROWDS))))

    @given(kind=retentions, data=st.data())
    @some
    def test_of_retention(self, kind: Retention, data: st.DataObject) -> None:
        agrees(kind, *data.draw(st.one_of(st.tuples(returns, CUTS), st.tuples(crowds, CUTS_OF_CROWDS))))

    @given(kind=sessions, data=st.data())
    @some
    def test_of_sessions(self, kind: Sessions, data: st.DataObject) -> None:
        agrees(kind, *data.draw(st.one_of(st.tuples(frames(), CUTS), st.tuples(crowds, CUTS_OF_CROWDS))))

    @given(kind=st.one_of(funnels, retentions, sessions), rows=crowds, cuts=CUTS_OF_CROWDS)
    @settings(max_examples=5)
    def test_where_all_actors_have_the_same_hash(self, kind: Any, rows: pl.DataFrame, cuts: list[int]) -> None:
        with pytest.MonkeyPatch.context() as patched:
            zeros = lambda codes, *_, **__: np.zeros(len(codes), np.uint64)  # noqa: E731
            patched.setattr("evtool.projections.actors.hash_ids", zeros)
            agrees(kind, rows, cuts)


def flat_kinds() -> Mapping[str, tuple[ChangingKind, pl.Expr]]:
    hour = 3_600
    return {
        "funnel": (Funnel((), ("a", "b"), hour), (pl.col("n") % 2 == 0).alias("step_1")),
        "retention": (Retention((), 5), (pl.col("timestamp") // hour).cast(pl.Int32).alias("period")),
        "sessions": (Sessions(60, False, lambda start: start // hour, "hour"), pl.lit(0).alias("none")),
    }


@pytest.mark.parametrize("name", ["funnel", "retention", "sessions"])
def test_what_is_read_of_the_state_does_not_grow_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of it that is believed was hashed. A few actors come all the time, the others once."""
    kind, column = flat_kinds()[name]
    monkeypatch.setattr(sortedrun, "PAGE_BYTES", 256)
    hashed: list[int] = []

    def counting(data: Any) -> int:
        hashed.append(len(data))
        return xxhash.xxh3_64_intdigest(data)

    found = []
    for count in (20_000, 160_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        state = State(kind, folder)
        state.take(visits(0, count).with_columns(column))
        index_bytes = sum(ref.info.index_size for refs in state.refs.values() for ref in refs)
        assert index_bytes < 3 * count
        monkeypatch.setattr(sortedrun, "xxhash", SimpleNamespace(xxh3_64_intdigest=counting))
        hashed.clear()
        new = kind.partial(visits(count, 30).with_columns(column).select(needed(kind)))
        kind.change(new, SortedTables(Files(), folder, state.refs, lambda: 99).find)
        monkeypatch.setattr(sortedrun, "xxhash", xxhash)
        found.append(sum(hashed) - index_bytes)
    assert 0 < found[1] < 1.2 * found[0] < 150_000


def visits(first: int, count: int) -> pl.DataFrame:
    """One event in ten seconds; a third of them of ten actors."""
    n = pl.col("n")
    return pl.DataFrame({"n": pl.int_range(first, first + count, eager=True)}).with_columns(
        pl.when(n % 3 == 0).then(n % 10).otherwise(n).cast(pl.String).alias("actor"),
        (n * 10).alias("timestamp"),
        (n + 1).alias("position"),
        pl.lit(False).alias("step_1"),
        pl.lit(False).alias("step_2"),
        pl.lit(True).alias("start"),
        pl.lit(True).alias("return"),
    )
