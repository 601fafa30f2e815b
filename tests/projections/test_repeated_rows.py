"""Rows that repeat the one before are left out, and no row that is another one."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evtool.projections import repeats
from evtool.projections.repeats import without_repeats

LONG = "a text that is longer than twelve bytes"
VALUES = {
    pl.String: st.sampled_from([None, "", "a", "b", LONG, LONG + "!", LONG[:12], "\x00"]),
    pl.Int64: st.sampled_from([None, 0, 1, -1]),
    pl.Boolean: st.sampled_from([None, True, False]),
    pl.Float64: st.sampled_from([None, 0.0, 1.5]),
    pl.Decimal(18, 2): st.sampled_from([None, 1, 2]),
}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_ROWS_MIN", 1)
    monkeypatch.setattr(repeats, "_SAMPLE_ROWS", 3)


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Rows of some columns, each of them several times, in one or two chunks."""
    kinds = draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=3))
    row = st.tuples(*(VALUES[kind] for kind in kinds))
    runs = draw(st.lists(st.tuples(row, st.integers(1, 4)), max_size=12))
    rows = [values for values, times in runs for _ in range(times)]
    found = pl.DataFrame(rows, {f"c{at}": kind for at, kind in enumerate(kinds)}, orient="row")
    return pl.concat([found[:5], found[5:]], rechunk=False) if draw(st.booleans()) else found


@given(frames())
def test_the_same_rows_are_different(rows: pl.DataFrame):
    order = rows.columns
    assert without_repeats(rows).unique().sort(order).equals(rows.unique().sort(order))


def test_what_repeats_is_gone_and_what_does_not_stays():
    users = pl.Series([LONG, "u", None]).gather([0] * 30 + [1] * 40 + [2] * 30)  # as a dictionary is read
    rows = pl.DataFrame({"day": [1] * 50 + [2] * 50, "user": users})
    assert without_repeats(rows).rows() == [(1, LONG), (1, "u"), (2, "u"), (2, None)]
    mixed = pl.DataFrame({"user": [f"u{at % 2}" for at in range(100)]})
    assert without_repeats(mixed).equals(mixed)
