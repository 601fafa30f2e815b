"""Funnels: how many actors came how far along a row of steps within a window of time.

The state is the table `events`: the events of some step, each with a number whose bits are its steps. windows.py
has the algorithm that finds how far an actor came, however late its events arrive. The table `depths` has what it
found last of each actor, and from when on an actor is settled, as more events do not change that.

More events make more chains, and no chain is longer than the window. So an actor's depth only grows, by chains of
its new events with those at most a window away, which are looked up; and who has come through all steps is settled
for good, so that its events are let go of as soon as that is known. In the modes that let an actor's events end
somewhere this is not so, as a late event may end them earlier or later. There all events of an actor are looked
up, unless it is settled and what is new comes behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import polars as pl

from evtool.projections.actors import ACTOR, Runs, as_ratio, bucket_of, everything, in_runs, spans, with_hash
from evtool.projections.kind import BUCKET, EVENT, Change, Find, Tables
from evtool.projections.sortedrun import HASH
from evtool.projections.windows import STEPS, STEPS_MAX, TIMESTAMP, Mode, chains, outcomes

EVENTS, THROUGH, DEPTHS = "events", "through", "depths"
POSITION = "position"
DEPTH = "actor.depth"

_BEFORE, _SETTLED_BEFORE = "actor.before", "actor.settled_before"
_SETTLED, _AS_OF, _HAS_STEP = "actor.settled", "actor.as_of", "actor.has_step"
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
        columns = [BUCKET, *self._group, TIMESTAMP, POSITION, STEPS]
        events = with_hash(self._with_steps(rows), self.keys).select(columns)
        through = events.select(BUCKET, *self._group, POSITION).clear()
        return {EVENTS: events, THROUGH: through} if self._may_end else self._without_those_through(events)

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """All events of the parts, and who is through in any of them."""
        events, through = (pl.concat([part[name] for part in parts]) for name in (EVENTS, THROUGH))
        latest = through.group_by(BUCKET, *self._group).agg(pl.col(POSITION).max())
        return {EVENTS: events, THROUGH: latest}

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The keys, `step` and `actors`."""
        return self.change(state).result

    @property
    def orders(self) -> Mapping[str, str | None]:
        """Events in order of time, and depths."""
        return {EVENTS: TIMESTAMP, DEPTHS: None}

    def change(self, new: Tables, find: Find | None = None) -> Change:
        """What comes to the depths of the actors of some events."""
        through = new[THROUGH].drop(BUCKET)
        events = new[EVENTS].drop(BUCKET).join(through, on=self._group, how="anti", nulls_equal=True)
        considered, known = (events, None) if find is None else self._looked_up(events, through, find)
        runs = in_runs(considered, self.keys, [TIMESTAMP, POSITION], [TIMESTAMP, STEPS])
        after = pl.concat([self._depths(runs), self._depths_of_those_through(through)])
        grown = self._differing(after.filter(_HAS_STEP).drop(_HAS_STEP), known)
        before = grown.drop(DEPTH).rename({_BEFORE: DEPTH}).drop_nulls(DEPTH)
        as_of = pl.concat([events[POSITION], through[POSITION]]).max()
        depths = grown.select(*self._group, DEPTH, _SETTLED, pl.lit(as_of, pl.Int64).alias(_AS_OF))
        if not self._may_end:
            is_open = pl.col(HASH).is_in(after.filter(pl.col(_SETTLED).is_null())[HASH].implode())
            events = events.filter(is_open)
        tables = {EVENTS: events.sort(HASH, TIMESTAMP), DEPTHS: depths.sort(HASH)}
        return Change(self._result(before, grown), tables)

    def settle(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Events as they are; of an actor what was found last."""
        if table == EVENTS:
            return rows.sort(HASH, TIMESTAMP)
        return rows.sort(HASH, _AS_OF).unique(self._group, keep="last", maintain_order=True)

    def total(self, results: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The sums. A row whose actors are none stays: its keys have events."""
        return pl.concat(results).group_by(*self.keys, "step").agg(pl.col("actors").sum())

    def behind(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The keys, `step`, `name` and EVENT: for each actor at a step a chain that got it there first."""
        runs = in_runs(self._with_steps(rows), self.keys, [TIMESTAMP, EVENT], [TIMESTAMP, STEPS, EVENT])
        group_of = runs.group_of_rows()
        parts = [
            runs.groups[group_of[chosen]].with_columns(
                pl.lit(step, pl.Int32).alias("step"), pl.Series(EVENT, runs.columns[EVENT][chosen])
            )
            for step, chosen in enumerate(chains(runs, len(self.names), self.within_ns, self.modes), 1)
        ]
        return pl.concat(parts).join(self._steps(), on="step").select(*self.keys, "step", "name", EVENT)

    @property
    def _may_end(self) -> bool:
        return bool(self.modes & _ENDING)

    def _without_those_through(self, events: pl.DataFrame) -> Tables:
        """Some events, but for those of who comes through all steps by these: that is all there is to know."""
        runs = in_runs(events, self.keys, [TIMESTAMP, POSITION], [TIMESTAMP, STEPS])
        is_through = pl.col(_SETTLED).is_not_null() & ~pl.col(HASH).is_duplicated()
        through = self._depths(runs).filter(is_through).select(self._group)
        position = pl.lit(events[POSITION].max(), pl.Int64).alias(POSITION)
        return {
            EVENTS: events.filter(~pl.col(HASH).is_in(through[HASH].implode())),
            THROUGH: through.select(bucket_of(through[HASH]), pl.all(), position),
        }

    def _depths_of_those_through(self, through: pl.DataFrame) -> pl.DataFrame:
        depth = pl.lit(len(self.names), pl.Int32).alias(DEPTH)
        settled = pl.lit(0, pl.Int64).alias(_SETTLED)
        return through.select(*self._group, depth, settled, pl.lit(True).alias(_HAS_STEP))

    def _looked_up(
        self, events: pl.DataFrame, through: pl.DataFrame, find: Find
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """What has to be considered with some new events, and what was known of their groups."""
        found = find(DEPTHS, everything(pl.concat([events.select(HASH), through.select(HASH)])))
        known = self.settle(DEPTHS, pl.concat(found)) if found else None
        considered = events if known is None else self._open(events, known)
        around = spans(considered, TIMESTAMP, TIMESTAMP, self.within_ns)
        found = find(EVENTS, everything(considered) if self._may_end else around)
        return pl.concat([considered, *found]), known

    def _open(self, events: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """The events of the groups to which some of them may matter."""
        settled = known.filter(pl.col(_SETTLED).is_not_null()).select(*self._group, _SETTLED)
        if self._may_end:
            late = events.select(*self._group, TIMESTAMP).join(settled, on=self._group, nulls_equal=True)
            late = late.filter(pl.col(TIMESTAMP) < pl.col(_SETTLED))
            settled = settled.join(late, on=self._group, how="anti", nulls_equal=True)
        return events.join(settled, on=self._group, how="anti", nulls_equal=True)

    def _depths(self, runs: Runs) -> pl.DataFrame:
        """The groups, DEPTH and _SETTLED of each, and whether it has an event of any step."""
        found = outcomes(runs, len(self.names), self.within_ns, self.modes)
        times = np.append(runs.columns[TIMESTAMP], 0)
        is_settled = pl.Series(found.settled < len(times) - 1)
        has_step = np.maximum.reduceat(runs.columns[STEPS], runs.first) > 0
        return runs.groups.with_columns(
            pl.Series(DEPTH, found.depths, dtype=pl.Int32),
            pl.when(is_settled).then(pl.Series(times[found.settled])).alias(_SETTLED),
            pl.Series(_HAS_STEP, has_step),
        )

    def _differing(self, after: pl.DataFrame, known: pl.DataFrame | None) -> pl.DataFrame:
        """The groups about which something else is found than was known, with their depth of _BEFORE, or null."""
        if known is None:
            return after.with_columns(pl.lit(None, pl.Int32).alias(_BEFORE))
        before = known.select(*self._group, pl.col(DEPTH).alias(_BEFORE), pl.col(_SETTLED).alias(_SETTLED_BEFORE))
        both = after.join(before, on=self._group, how="left", nulls_equal=True)
        if not self._may_end:  # what was not looked up may have got it further
            both = both.with_columns(pl.max_horizontal(DEPTH, _BEFORE), pl.coalesce(_SETTLED_BEFORE, _SETTLED))
        differs = pl.col(DEPTH).ne_missing(pl.col(_BEFORE)) | pl.col(_SETTLED).ne_missing(pl.col(_SETTLED_BEFORE))
        return both.filter(differs).drop(_SETTLED_BEFORE)

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

    def _with_steps(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows that matter, with their steps as bits."""
        rows = rows.with_columns(reduce(or_, self._bits()).alias(STEPS))
        return rows if "strict_order" in self.modes else rows.filter(pl.col(STEPS) != 0)

    def _steps(self) -> pl.DataFrame:
        numbers = pl.Series("step", range(1, len(self.names) + 1), dtype=pl.Int32)
        return pl.DataFrame([numbers, pl.Series("name", self.names, dtype=pl.String)])
