"""Retention: of the actors who began in a period, how many came back in each later one.

Periods are numbers here (days, weeks or months since some origin); the caller makes them out of timestamps, and
makes dates of them again. The state is the table `periods`, for each (keys, actor) the periods in which it began
or came back, a set that merges in any order, and the table `seen`, the last period of any event, one row a
bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from evtool.projections.actors import ACTOR, as_ratio, with_bucket
from evtool.projections.kind import BUCKET, Tables

PERIODS, SEEN = "periods", "seen"
PERIOD, START, RETURN = "period", "start", "return"
LAST = "seen.last"  # no key has a dot in its name


@dataclass(frozen=True)
class Retention:
    """Counts actors by cohort, `keys` and offset.

    The rows need the keys, `actor` (String; rows without one are left out), `period` (Int32, never null) and the
    Booleans `start` and `return`; null is false. An actor's cohort is the first of the periods in which it has a
    `start`. It counts at the offset n, of 1 to `periods`, if it has a `return` in the period cohort + n, and at
    the offset 0 in any case. It has a cohort for each combination of keys that its events have.

    The read model: `cohort` (Int32, the number of a period), the keys, `offset` (Int32), `actors` (Int64) and
    `retention` (Float64), their share of the cohort. A cohort has a row for each offset from 0 to `periods` that
    is over or has begun: cohort + offset is at most the last period of any row with an actor, of whatever keys,
    with a `start`, a `return` or neither.
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
        rows = with_bucket(rows, self.keys).with_columns(pl.col(START, RETURN).fill_null(False))
        seen = rows.select(BUCKET, pl.col(PERIOD).alias(LAST))
        return self._distinct(rows.filter(pl.col(START) | pl.col(RETURN)), seen)

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The periods of each actor, of all parts."""
        if len(parts) == 1:
            return parts[0]
        periods, seen = (pl.concat([part[name] for part in parts]) for name in (PERIODS, SEEN))
        return self._distinct(periods, seen)

    def reduce(self, state: Tables) -> pl.DataFrame:
        """BUCKET, `cohort`, the keys, `offset` and `actors`; and LAST, in a row that has nothing else."""
        periods, by = state[PERIODS], [*self.keys, ACTOR]
        cohorts = (
            periods.filter(START).group_by(by).agg(pl.col(BUCKET).first(), pl.col(PERIOD).min().alias("cohort"))
        )
        returns = periods.filter(RETURN).drop(BUCKET).join(cohorts, on=by, nulls_equal=True)
        offset = pl.col(PERIOD).cast(pl.Int64) - pl.col("cohort")
        later = returns.with_columns(offset=offset).filter(pl.col("offset").is_between(1, self.periods))
        columns = [BUCKET, "cohort", *self.keys, pl.col("offset").cast(pl.Int32)]
        each = pl.concat([cohorts.with_columns(offset=pl.lit(0, pl.Int32)).select(columns), later.select(columns)])
        counts = each.group_by(BUCKET, "cohort", *self.keys, "offset").agg(actors=pl.len().cast(pl.Int64))
        return pl.concat([counts, state[SEEN]], how="diagonal")

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

    def _distinct(self, periods: pl.DataFrame, seen: pl.DataFrame) -> Tables:
        by = [BUCKET, *self.keys, ACTOR, PERIOD]
        return {
            PERIODS: periods.group_by(by).agg(pl.col(START, RETURN).any()),
            SEEN: seen.group_by(BUCKET).agg(pl.col(LAST).max()),
        }
