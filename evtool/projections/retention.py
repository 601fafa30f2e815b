"""Retention: of the actors who began in a period, how many came back in each later one.

Periods are numbers here (days, weeks or months since some origin); the caller makes them out of timestamps, and
makes dates of them again. The state is the table `periods`, for each (keys, actor) the periods in which it began
or came back, a set that merges in any order, and the table `seen`, the last period of any event.

An actor's cohort, kept in the table `cohorts`, only moves to earlier periods. So what lies behind its last offset
does not count any more, and is not kept; what is looked up for new events is their own periods, and of an actor
whose cohort moves those that count before or after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from evtool.projections.actors import ACTOR, as_ratio, everything, spans, with_hash
from evtool.projections.kind import BUCKET, EVENT, Change, Find, Tables
from evtool.projections.sortedrun import HASH

PERIODS, COHORTS, SEEN = "periods", "cohorts", "seen"
PERIOD, START, RETURN = "period", "start", "return"
LAST = "seen.last"  # no key has a dot in its name

_COHORT, _BEFORE = "actor.cohort", "actor.cohort_before"
_LOW, _HIGH = "actor.low", "actor.high"
_WEIGHT = "actor.weight"


@dataclass(frozen=True)
class Retention:
    """Counts actors by cohort, `keys` and offset.

    The rows need the keys, `actor` (String; rows without one are left out), `period` (Int32, never null) and the
    Booleans `start` and `return`; null is false. An actor's cohort is the first of the periods in which it has a
    `start`. It counts at the offset n, of 1 to `periods`, if it has a `return` in the period cohort + n, and at
    the offset 0 in any case. It has a cohort for each combination of keys that its events have.

    The read model: `cohort` (Int32, the number of a period), the keys, `offset` (Int32), `actors` (Int64) and
    `retention` (Float64), their share of the cohort. A cohort has a row for each offset from 0 to `periods` that
    is over or has begun: cohort + offset is at most the last period of any row with an actor, of whatever keys.
    The rows that a definition gives all have a `start` or a `return`.
    """

    keys: Sequence[str]
    periods: int

    needs_order = False

    @property
    def inputs(self) -> Sequence[str]:
        """The keys, the actor, and what its events say."""
        return [*self.keys, ACTOR, PERIOD, START, RETURN]

    def partial(self, rows: pl.DataFrame) -> Tables:
        """The periods of each actor."""
        rows = with_hash(rows, self.keys).with_columns(pl.col(START, RETURN).fill_null(False))
        seen = rows.select(BUCKET, pl.col(PERIOD).alias(LAST))
        of_period = rows.filter(pl.col(START) | pl.col(RETURN)).with_columns(pl.col(PERIOD).cast(pl.Int64))
        return self._distinct(of_period, seen)

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The periods of each actor, of all parts."""
        if len(parts) == 1:
            return parts[0]
        periods, seen = (pl.concat([part[name] for part in parts]) for name in (PERIODS, SEEN))
        return self._distinct(periods, seen)

    def reduce(self, state: Tables) -> pl.DataFrame:
        """`cohort`, the keys, `offset` and `actors`; and LAST, in a row that has nothing else."""
        return self.change(state).result

    @property
    def orders(self) -> Mapping[str, str | None]:
        """The periods of an actor in their order, and its cohort."""
        return {PERIODS: PERIOD, COHORTS: None}

    def change(self, new: Tables, find: Find | None = None) -> Change:
        """What comes to the cohorts of the actors of some events, and to their returns."""
        periods = new[PERIODS].drop(BUCKET)
        actors = self._actors(periods, find)
        before, after = periods.clear(), periods
        if find is not None:
            looked_up = actors.filter(pl.col(_LOW) <= pl.col(_HIGH))
            found = [before, *find(PERIODS, spans(looked_up, _LOW, _HIGH))]
            before, after = (self.settle(PERIODS, pl.concat(rows)) for rows in (found, [*found, periods]))
        moved = actors.filter(pl.col(_COHORT).ne_missing(pl.col(_BEFORE)))
        counted = [
            self._returns(before, actors, _BEFORE, -1),
            self._returns(after, actors, _COHORT, 1),
            self._cohorts(moved, _BEFORE, -1),
            self._cohorts(moved, _COHORT, 1),
        ]
        seen = new[SEEN].select(pl.col(LAST).max()).drop_nulls()
        known = periods.join(actors.select(*self._group, _COHORT), on=self._group, how="left", nulls_equal=True)
        may_count = (pl.col(PERIOD) <= pl.col(_COHORT) + self.periods).fill_null(True)
        tables = {
            PERIODS: known.filter(may_count).drop(_COHORT).sort(HASH, PERIOD),
            COHORTS: moved.select(*self._group, _COHORT).sort(HASH),
        }
        return Change(self._summed(pl.concat(counted), seen), tables)

    def settle(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """What an actor did in a period by any of them; the first of its cohorts."""
        if table == COHORTS:
            return rows.group_by(self._group).agg(pl.col(_COHORT).min()).sort(HASH)
        each = rows.group_by(*self._group, PERIOD).agg(pl.col(START, RETURN).any())
        return each.sort(HASH, PERIOD)

    def total(self, results: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The sums, and the last period of all. An actor leaves its cohort for an earlier one, so some vanish."""
        rows = pl.concat(results)
        return self._summed(rows.drop_nulls("cohort").drop(LAST), rows.select(pl.col(LAST).max()).drop_nulls())

    def behind(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`cohort`, the keys, `offset` and EVENT: what begins an actor's cohort, and each return that counts."""
        rows = rows.with_columns(pl.col(START, RETURN).fill_null(False))
        cohort = pl.col(PERIOD).filter(START).min().over(self._group).alias("cohort")
        offset = (pl.col(PERIOD) - pl.col("cohort")).alias("offset")
        begins = pl.col(START) & (pl.col("offset") == 0)
        returns = pl.col(RETURN) & pl.col("offset").is_between(1, self.periods)
        counted = rows.with_columns(cohort).with_columns(offset).filter(begins | returns)
        return counted.select("cohort", *self.keys, "offset", EVENT)

    def _actors(self, periods: pl.DataFrame, find: Find | None) -> pl.DataFrame:
        """The groups of some rows, their cohort, before and now, and between which periods that may count."""
        first = pl.col(PERIOD).filter(START).min().alias(_COHORT)
        extremes = pl.col(PERIOD).min().alias(_LOW), pl.col(PERIOD).max().alias(_HIGH)
        actors = periods.group_by(self._group).agg(first, *extremes)
        known = actors.select(*self._group, _COHORT).clear()
        if find is not None:
            known = self.settle(COHORTS, pl.concat([known, *find(COHORTS, everything(actors))]))
        known = known.rename({_COHORT: _BEFORE})
        actors = actors.join(known, on=self._group, how="left", nulls_equal=True)
        actors = actors.with_columns(pl.min_horizontal(_COHORT, _BEFORE).alias(_COHORT))
        has_moved = pl.col(_COHORT).ne_missing(pl.col(_BEFORE))
        low, until = pl.col(_COHORT), pl.coalesce(_BEFORE, _COHORT) + self.periods
        return actors.with_columns(
            pl.when(has_moved).then(low).otherwise(pl.max_horizontal(low, _LOW)).alias(_LOW),
            pl.when(has_moved).then(until).otherwise(pl.min_horizontal(until, _HIGH)).alias(_HIGH),
        )

    def _returns(self, periods: pl.DataFrame, actors: pl.DataFrame, cohort: str, weight: int) -> pl.DataFrame:
        """One row for each return that counts, with the cohorts of one of the columns of `actors`."""
        returns = periods.filter(RETURN).join(
            actors.select(*self._group, pl.col(cohort).alias("cohort")).drop_nulls("cohort"),
            on=self._group,
            nulls_equal=True,
        )
        offset = (pl.col(PERIOD) - pl.col("cohort")).alias("offset")
        return self._counted(
            returns.with_columns(offset).filter(pl.col("offset").is_between(1, self.periods)), weight
        )

    def _cohorts(self, actors: pl.DataFrame, cohort: str, weight: int) -> pl.DataFrame:
        """One row for each actor that is in one of the cohorts in a column."""
        began = actors.select(*self.keys, pl.col(cohort).alias("cohort"), pl.lit(0, pl.Int64).alias("offset"))
        return self._counted(began.drop_nulls("cohort"), weight)

    def _counted(self, rows: pl.DataFrame, weight: int) -> pl.DataFrame:
        cohort, offset = (pl.col(name).cast(pl.Int32) for name in ("cohort", "offset"))
        return rows.select(cohort, *self.keys, offset, pl.lit(weight, pl.Int64).alias("actors"))

    def _summed(self, counted: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
        sums = counted.group_by("cohort", *self.keys, "offset").agg(pl.col("actors").sum())
        return pl.concat([sums.filter(pl.col("actors") != 0), seen], how="diagonal")

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """All offsets of all cohorts, in order of cohort, keys and offset."""
        by = ["cohort", *self.keys]
        last = reduced[LAST].max()
        counts = reduced.drop_nulls("cohort").group_by(*by, "offset").agg(pl.col("actors").sum())
        sizes = counts.filter(pl.col("offset") == 0).select(*by, pl.col("actors").alias("retention"))
        offsets = pl.DataFrame({"offset": pl.int_range(self.periods + 1, dtype=pl.Int32, eager=True)})
        begun = pl.col("cohort").cast(pl.Int64) + pl.col("offset") <= pl.lit(last, pl.Int64)
        grid = sizes.join(offsets, how="cross").filter(begun)
        filled = grid.join(counts, on=[*by, "offset"], how="left", nulls_equal=True)
        ordered = filled.with_columns(pl.col("actors").fill_null(0)).sort(*by, "offset")
        return ordered.select(*by, "offset", "actors", as_ratio("actors", pl.col("retention")).alias("retention"))

    @property
    def _group(self) -> list[str]:
        return [HASH, *self.keys, ACTOR]

    def _distinct(self, periods: pl.DataFrame, seen: pl.DataFrame) -> Tables:
        each = periods.group_by(*self._group, PERIOD).agg(pl.col(BUCKET).first(), pl.col(START, RETURN).any())
        return {PERIODS: each, SEEN: seen.group_by(BUCKET).agg(pl.col(LAST).max())}
