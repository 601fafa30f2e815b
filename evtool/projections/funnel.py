"""Funnels: how many actors came how far along a row of steps within a window of time.

The state is the table `events`: the events of some step, each with a number whose bits are its steps. windows.py
has the algorithm that finds how far an actor came, however late its events arrive.

More events make more chains, and no chain is longer than the window. So an actor's depth only grows, by chains of
its new events with those at most a window away: these are what is looked up, and its depth so far, in the table
`depths`. Who has come through all steps can be forgotten but for that. In the modes that let an actor's events
end somewhere this is not so, as a late event may end them earlier or later: there all events of an actor are
looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import polars as pl

from evtool.projections.actors import ACTOR, Runs, as_ratio, everything, in_runs, spans, with_hash
from evtool.projections.kind import BUCKET, Change, Find, Tables, find_nothing
from evtool.projections.sortedrun import HASH
from evtool.projections.windows import STEPS, STEPS_MAX, TIMESTAMP, Mode, deepest

EVENTS, DEPTHS = "events", "depths"
POSITION = "position"
DEPTH = "actor.depth"

_BEFORE = "actor.before"
_WEIGHT = "actor.weight"
_ENDING: frozenset[Mode] = frozenset({"strict_order", "strict_deduplication"})


@dataclass(frozen=True)
class Funnel:
    """Counts actors by `keys` and step.

    The rows need the keys, `actor` (String; rows without one are left out) and the Boolean columns `step_1` ...
    of the 1 to STEPS_MAX steps that `names` names; null is false. A chain of steps takes at most `within_ns`.
    An actor counts once for each combination of keys that its events have, with the chains of these events.

    The read model: the keys, `step` (Int32), `name`, `actors` (Int64) that came to this step at least,
    `conversion` (Float64), which is their share of those of the previous step and 1.0 for the first, and
    `conversion_total`, their share of those of the first step; null where that is a share of none. Keys that have
    no event of any step do not appear.
    """

    keys: Sequence[str]
    names: Sequence[str]
    within_ns: int
    modes: frozenset[Mode] = frozenset()

    needs_order = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= STEPS_MAX:
            raise ValueError(f"a funnel has 1 to {STEPS_MAX} steps, not {len(self.names)}")
        if self.within_ns < 0:
            raise ValueError("the window of a funnel is not negative")

    @property
    def inputs(self) -> Sequence[str]:
        """The keys, the actor and the steps."""
        return [*self.keys, ACTOR, *self._step_columns()]

    def partial(self, rows: pl.DataFrame) -> Tables:
        """The events of some step; with `strict_order` all of them, as any other event ends a chain."""
        rows = rows.with_columns(reduce(or_, self._bits()).alias(STEPS))
        if "strict_order" not in self.modes:
            rows = rows.filter(pl.col(STEPS) != 0)
        columns = [BUCKET, HASH, *self.keys, ACTOR, TIMESTAMP, POSITION, STEPS]
        return {EVENTS: with_hash(rows, self.keys).select(columns)}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """All events of the parts."""
        return {EVENTS: pl.concat([part[EVENTS] for part in parts])}

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The keys, `step` and `actors`."""
        return self.change(state, find_nothing).result

    @property
    def orders(self) -> Mapping[str, str | None]:
        """Events in order of time; with modes in which depths only grow, those too."""
        return {EVENTS: TIMESTAMP} if self.modes & _ENDING else {EVENTS: TIMESTAMP, DEPTHS: None}

    def change(self, new: Tables, find: Find) -> Change:
        """What comes to the depths of the actors of some events."""
        events = new[EVENTS].drop(BUCKET)
        if self.modes & _ENDING:
            before = pl.concat([events.clear(), *find(EVENTS, everything(events))])
            after = pl.concat([before, events])
            result = self._result(depths(self, {EVENTS: before}), depths(self, {EVENTS: after}))
            return Change(result, {EVENTS: events.sort(HASH, TIMESTAMP)})
        return self._deepened(events, find)

    def settle(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Events as they are; of depths the greatest."""
        if table == EVENTS:
            return rows.sort(HASH, TIMESTAMP)
        return rows.group_by(self._group).agg(pl.col(DEPTH).max()).sort(HASH)

    def total(self, results: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The sums. A row whose actors are none stays: its keys have events."""
        return pl.concat(results).group_by(*self.keys, "step").agg(pl.col("actors").sum())

    def _deepened(self, events: pl.DataFrame, find: Find) -> Change:
        """The change where depths only grow."""
        before = [self.settle(DEPTHS, pl.concat(found)) for found in [find(DEPTHS, everything(events))] if found]
        first_position = events[POSITION].min()
        if before:
            through = before[0].filter(pl.col(DEPTH) == len(self.names))
            events = events.join(through, on=self._group, how="anti", nulls_equal=True)
            around = find(EVENTS, spans(events, TIMESTAMP, TIMESTAMP, self.within_ns))
            events = pl.concat([events, *around])
        runs = in_runs(events, self.keys, [TIMESTAMP, POSITION], [TIMESTAMP, STEPS, POSITION])
        depth = deepest(runs, len(self.names), self.within_ns, self.modes)
        found = runs.groups.with_columns(pl.Series(DEPTH, depth, dtype=pl.Int32))
        if before:
            known = before[0].rename({DEPTH: _BEFORE})
            found = found.join(known, on=self._group, how="left", nulls_equal=True, maintain_order="left")
            found = found.with_columns(pl.max_horizontal(DEPTH, _BEFORE).alias(DEPTH))
        else:
            found = found.with_columns(pl.lit(None, pl.Int32).alias(_BEFORE))
        grown = found.filter(pl.col(DEPTH).ne_missing(pl.col(_BEFORE)))
        earlier = grown.drop(DEPTH).rename({_BEFORE: DEPTH}).drop_nulls(DEPTH)
        tables = {
            EVENTS: self._kept(runs, found[DEPTH].to_numpy() < len(self.names), first_position),
            DEPTHS: grown.select(*self._group, DEPTH).sort(HASH),
        }
        return Change(self._result(earlier, grown.drop(_BEFORE)), tables)

    def _kept(self, runs: Runs, is_open: np.ndarray[Any, np.dtype[np.bool_]], first_position: Any) -> pl.DataFrame:
        """The new events of groups that may still get further, in the order of their table."""
        group_of = runs.group_of_rows()
        rows = np.flatnonzero(is_open[group_of] & (runs.columns[POSITION] >= (first_position or 0)))
        columns = [pl.Series(name, runs.columns[name][rows]) for name in (TIMESTAMP, POSITION, STEPS)]
        return runs.groups[group_of[rows]].with_columns(columns).sort(HASH, TIMESTAMP)

    def _result(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """How many actors more came to each step, where the depths of some are others than before."""
        weighted = pl.concat(
            [
                after.select(*self.keys, DEPTH, pl.lit(1, pl.Int64).alias(_WEIGHT)),
                before.select(*self.keys, DEPTH, pl.lit(-1, pl.Int64).alias(_WEIGHT)),
            ]
        )
        counts = weighted.group_by(*self.keys, DEPTH).agg(pl.col(_WEIGHT).sum())
        reaching = pl.col(_WEIGHT).filter(pl.col(DEPTH) >= pl.col("step")).sum().alias("actors")
        each = counts.join(self._steps().select("step"), how="cross")
        return each.group_by(*self.keys, "step").agg(reaching)

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """All steps of all keys, in the order of both. Without keys all steps are there, if only with 0 actors."""
        counts = reduced.select(*self.keys, "step", "actors")
        if not self.keys:
            counts = pl.concat([counts, self._steps().select("step", actors=pl.lit(0, pl.Int64))])
        total = counts.group_by(*self.keys, "step").agg(pl.col("actors").sum())
        ordered = total.join(self._steps(), on="step").sort(*self.keys, "step")
        actors, row = pl.col("actors"), pl.int_range(pl.len())
        conversion = pl.when(pl.col("step") == 1).then(1.0).otherwise(as_ratio("actors", actors.shift(1)))
        of_first = as_ratio("actors", actors.gather(row - row % len(self.names)))
        ratios = conversion.alias("conversion"), of_first.alias("conversion_total")
        return ordered.select(*self.keys, "step", "name", "actors", *ratios)

    @property
    def _group(self) -> list[str]:
        return [HASH, *self.keys, ACTOR]

    @property
    def _mask(self) -> type[pl.DataType]:
        sizes = {8: pl.UInt8, 16: pl.UInt16, 32: pl.UInt32, 64: pl.UInt64}
        return next(dtype for bits, dtype in sizes.items() if len(self.names) <= bits)

    def _bits(self) -> list[pl.Expr]:
        columns = (pl.col(name).fill_null(False).cast(self._mask) for name in self._step_columns())
        return [column * pl.lit(1 << step, self._mask) for step, column in enumerate(columns)]

    def _step_columns(self) -> list[str]:
        return [f"step_{number}" for number in range(1, len(self.names) + 1)]

    def _steps(self) -> pl.DataFrame:
        numbers = pl.Series("step", range(1, len(self.names) + 1), dtype=pl.Int32)
        return pl.DataFrame([numbers, pl.Series("name", self.names, dtype=pl.String)])


def depths(funnel: Funnel, state: Tables) -> pl.DataFrame:
    """HASH, the keys, `actor` and DEPTH (Int32): how far each actor came, of those with an event of some step.

    The depth is 0 where there is none of the first step.
    """
    events = state[EVENTS]
    runs = in_runs(events, funnel.keys, [TIMESTAMP, POSITION], [TIMESTAMP, STEPS])
    depth = deepest(runs, len(funnel.names), funnel.within_ns, funnel.modes)
    has_step = np.maximum.reduceat(runs.columns[STEPS], runs.first) > 0
    return runs.groups.with_columns(pl.Series(DEPTH, depth, dtype=pl.Int32)).filter(pl.Series(has_step))
