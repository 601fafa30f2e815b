"""Which runs are merged: a search asks few of them, and no addition pays for much, however large the state is."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.projections.sortedtables import MERGE_ROWS, MERGED_FOR_ONE
from evtool.projections.tiers import (
    HASH_LAST,
    PIECES,
    TIER_ROWS,
    TIER_RUNS,
    Ref,
    RunInfo,
    next_merge,
    without,
)

ADDED = st.lists(st.sampled_from([1, 50, 6_000, 50_000]), min_size=100, max_size=300)


def info_of(rows: int) -> RunInfo:
    return RunInfo(rows, 0, 0, 0, 0, 0)


@given(ADDED, st.booleans())
@settings(max_examples=10)
def test_runs_are_few_and_no_addition_pays_for_much(additions: list[int], has_base: bool) -> None:
    refs: list[Ref] = []
    numbers = itertools.count()
    written_rows, total = 0, 0
    for rows in [*([9_000_000] if has_base else []), *additions]:
        refs.append(Ref(next(numbers), 0, HASH_LAST, 0, HASH_LAST, info_of(rows)))
        total += rows
        rows_max = rest = max(MERGE_ROWS, MERGED_FOR_ONE * rows)
        while rest > 0 and (merge := next_merge(refs, rows_max)):
            merged = sum(ref.rows(merge.first, merge.last) for ref in merge.refs)
            assert merged <= max(rows_max, sum(ref.info.rows for ref in merge.refs) // PIECES) + TIER_RUNS
            refs = without(refs, merge)
            refs.append(Ref(next(numbers), merge.first, merge.last, merge.first, merge.last, info_of(merged)))
            written_rows += merged
            rest -= merged + 1
    tiers = 1 + max(ref.tier for ref in refs)
    assert written_rows <= tiers * total + len(additions) * TIER_ROWS * 2
    for point in [0, HASH_LAST, *(ref.first for ref in refs)]:
        lying_there = [ref for ref in refs if ref.first <= point <= ref.last]
        assert len(lying_there) <= 2 * TIER_RUNS * tiers
    assert len(refs) <= 4 * TIER_RUNS * PIECES


def test_what_is_left_of_a_run_lies_on_both_sides_of_a_merge() -> None:
    refs = [Ref(number, 0, HASH_LAST, 0, HASH_LAST, info_of(10)) for number in range(TIER_RUNS - 1)]
    middle = Ref(99, 1_000, 2_000, 1_000, 2_000, info_of(0))
    assert next_merge(refs, 100) is None
    merge = next_merge([*refs, middle], 100)
    assert merge is not None
    assert (merge.first, merge.last, len(merge.refs)) == (1_000, 2_000, TIER_RUNS)
    left = without([*refs, middle], merge)
    assert {(ref.first, ref.last) for ref in left} == {(0, 999), (2_001, HASH_LAST)}
