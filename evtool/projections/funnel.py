"""Funnels: how many actors came how far along a row of steps within a window of time.

The state is the table `events`: the events of some step, each with a number whose bits are its steps. What an
actor reached is worked out in `reduce`, as an event that arrives late may change it; windows.py has the algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import polars as pl

from evtool.projections.actors import ACTOR, as_ratio, in_runs, with_bucket
from evtool.projections.kind import BUCKET, Tables
from evtool.projections.windows import STEPS, STEPS_MAX, TIMESTAMP, Mode, deepest

EVENTS = "events"
POSITION = "position"
DEPTH = "actor.depth"


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
        columns = [BUCKET, *self.keys, ACTOR, TIMESTAMP, POSITION, STEPS]
        return {EVENTS: with_bucket(rows, self.keys).select(columns)}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """All events of the parts."""
        return {EVENTS: pl.concat([part[EVENTS] for part in parts])}

    def reduce(self, state: Tables) -> pl.DataFrame:
        """BUCKET, the keys, `step` and `actors`."""
        by = [BUCKET, *self.keys]
        counts = depths(self, state).group_by(*by, DEPTH).agg(pl.len().cast(pl.Int64).alias("actors"))
        reaching = pl.col("actors").filter(pl.col(DEPTH) >= pl.col("step")).sum()
        each = counts.join(self._steps().select("step"), how="cross")
        return each.group_by(*by, "step").agg(reaching)

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
    """BUCKET, the keys, `actor` and DEPTH (Int32): how far each actor came, of those with an event of some step.

    The depth is 0 where there is none of the first step.
    """
    events = state[EVENTS]
    runs = in_runs(events, funnel.keys, [TIMESTAMP, POSITION], [TIMESTAMP, STEPS])
    depth = deepest(runs, len(funnel.names), funnel.within_ns, funnel.modes)
    has_step = np.maximum.reduceat(runs.columns[STEPS], runs.first) > 0
    return runs.groups.with_columns(pl.Series(DEPTH, depth, dtype=pl.Int32)).filter(pl.Series(has_step))
