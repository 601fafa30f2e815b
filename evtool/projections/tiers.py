"""Which sorted runs are merged: those of one tier, once TIER_RUNS of them lie above each other, a piece at a time.

A log-structured merge tree by tiers of size: a run with TIER_RUNS times as many rows is a tier up. So a row is
written again once for each tier, a logarithm of the rows, and a search asks a number of runs that is one as well.

A merge takes a range of hashes with a bounded number of rows, and leaves the rest of its runs for the next time:
no refresh has to pay for all of a large merge at once. What is still to be read of a run is a `Ref`; the pieces
that a large merge becomes count as one run of their tier, as they lie beside each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

TIER_RUNS = 8
TIER_ROWS = 8_192  # the runs of the lowest tier have fewer than TIER_RUNS times as many
PIECES = 32  # a merge is done in so many steps at the most
HASH_LAST = (1 << 64) - 1


class RunInfo(NamedTuple):
    """What a checkpoint has of a run: with it its index can be checked, or need not be read at all."""

    rows: int
    index_offset: int
    index_size: int
    index_checksum: int
    low: int  # the least and the greatest number of any row
    high: int


class Ref(NamedTuple):
    """A run, by its number, of which the hashes from `first` to `last` count; it was made of `made` of them."""

    run: int
    first: int
    last: int
    made_first: int
    made_last: int
    info: RunInfo

    @property
    def tier(self) -> int:
        """By how many rows it would have if it were of all hashes."""
        return _tier(self.info.rows * (HASH_LAST + 1) // (self.made_last - self.made_first + 1))

    def rows(self, first: int, last: int) -> int:
        """About how many rows it has from hash to hash."""
        return self.info.rows * (last - first + 1) // (self.made_last - self.made_first + 1)


class Merge(NamedTuple):
    """The runs to be merged, between two hashes."""

    refs: list[Ref]
    first: int
    last: int


def next_merge(refs: Sequence[Ref], rows_max: int) -> Merge | None:
    """What to merge next, of about `rows_max` rows or a PIECES-th of these runs; None if nothing has to be."""
    tiers: dict[int, list[Ref]] = {}
    for ref in refs:
        tiers.setdefault(ref.tier, []).append(ref)
    for _, those in sorted(tiers.items()):
        first = _deep_point(those)
        if first is not None:
            return _piece([ref for ref in those if ref.first <= first <= ref.last], first, rows_max)
    return None


def _deep_point(refs: Sequence[Ref]) -> int | None:
    """The first hash at which TIER_RUNS of some runs lie above each other."""
    depth = 0
    changes = [(ref.first, 1) for ref in refs] + [(ref.last + 1, -1) for ref in refs]
    for point, change in sorted(changes):
        depth += change
        if depth >= TIER_RUNS:
            return point
    return None


def without(refs: Sequence[Ref], merge: Merge) -> list[Ref]:
    """What is left of some runs when those of a merge do not count any more where it was made."""
    left: list[Ref] = []
    for ref in refs:
        if ref not in merge.refs:
            left.append(ref)
            continue
        if ref.first < merge.first:
            left.append(ref._replace(last=merge.first - 1))
        if ref.last > merge.last:
            left.append(ref._replace(first=merge.last + 1))
    return left


def _piece(chosen: list[Ref], first: int, rows_max: int) -> Merge:
    last = min(ref.last for ref in chosen)
    rows = sum(ref.rows(first, last) for ref in chosen)
    limit = max(rows_max, sum(ref.info.rows for ref in chosen) // PIECES)
    if rows > limit:
        last = first + (last - first) * limit // rows
    return Merge(chosen, first, last)


def _tier(rows: int) -> int:
    tier = 0
    while rows >= TIER_ROWS * TIER_RUNS:
        rows, tier = rows // TIER_RUNS, tier + 1
    return tier
