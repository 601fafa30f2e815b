"""Sessions: an actor's events, cut where nothing happened for longer than a gap.

The state is the table `sessions`: stretches of time (actor, started_at, ended_at, events) in which no two events
that follow each other are further apart than the gap. Merging joins those of an actor that are not further apart
than that. What comes out are the stretches that all events at once would give: two events that are no more than
the gap apart come into one stretch, however the events were cut into parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evtool.projections.actors import ACTOR, Runs, in_runs, with_bucket
from evtool.projections.kind import BUCKET, Tables

SESSIONS = "sessions"
STARTED, ENDED, EVENTS = "started_at", "ended_at", "events"
DURATION = "duration_ms"

_NS_PER_MS = 1_000_000

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


@dataclass(frozen=True)
class Sessions:
    """The sessions of actors, each of them or counted by the period in which they began.

    The rows need the keys, `actor` (String; rows without one are left out) and `timestamp`. A new session begins
    with an event that is more than `gap_ns` after the one before. An actor has sessions for each combination of
    keys that its events have.

    The read model with `each`: the keys, `actor`, `started_at` and `ended_at` (Int64, ns), `events` (Int64) and
    `duration_ms` (Int64, rounded down), in order of keys, actor and start.

    Otherwise: the period, named `period_name`, which `period_of` makes of a start in ns (no such column without
    them), the keys, `sessions`, `actors` (different ones in this row), `events`, `bounces` (sessions of one
    event), `duration_ms_total` (all Int64) and `duration_ms_avg` (Float64), in order of period and keys. Without
    a period and keys there is one row, if only of zeros.
    """

    gap_ns: int
    each: bool = True
    period_of: Callable[[pl.Expr], pl.Expr] | None = None
    period_name: str | None = None
    keys: Sequence[str] = ()

    needs_order = True

    def __post_init__(self) -> None:
        if self.gap_ns < 0:
            raise ValueError("the gap between sessions is not negative")
        if (self.period_of is None) != (self.period_name is None):
            raise ValueError("a period needs a function and a name")

    @property
    def inputs(self) -> Sequence[str]:
        """The keys and the actor."""
        return [*self.keys, ACTOR]

    def partial(self, rows: pl.DataFrame) -> Tables:
        """The stretches of some events."""
        moment = pl.col("timestamp")
        events = moment.alias(STARTED), moment.alias(ENDED), pl.lit(1, pl.Int64).alias(EVENTS)
        columns = [BUCKET, *self.keys, ACTOR, *events]
        return {SESSIONS: self._joined(with_bucket(rows, self.keys).select(columns))}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The stretches of all parts, joined."""
        if len(parts) == 1:
            return parts[0]
        return {SESSIONS: self._joined(pl.concat([part[SESSIONS] for part in parts]))}

    def reduce(self, state: Tables) -> pl.DataFrame:
        """BUCKET and the columns of the read model that are no average."""
        sessions = state[SESSIONS].with_columns(_duration_ms())
        if self.each:
            return sessions
        if self.period_of is not None and self.period_name is not None:
            sessions = sessions.with_columns(self.period_of(pl.col(STARTED)).alias(self.period_name))
        return sessions.group_by(BUCKET, *self._by).agg(
            pl.len().cast(pl.Int64).alias("sessions"),
            pl.col(ACTOR).n_unique().cast(pl.Int64).alias("actors"),
            pl.col(EVENTS).sum(),
            (pl.col(EVENTS) == 1).sum().cast(pl.Int64).alias("bounces"),
            pl.col(DURATION).sum().alias("duration_ms_total"),
        )

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """All sessions, or all periods, in order."""
        if self.each:
            return reduced.drop(BUCKET).sort(*self.keys, ACTOR, STARTED)
        counts = pl.col("sessions", "actors", EVENTS, "bounces", "duration_ms_total").sum()
        by = self._by
        rows = reduced.group_by(by).agg(counts).sort(by) if by else reduced.select(counts)
        return rows.with_columns(pl.Series("duration_ms_avg", _averages(rows), dtype=pl.Float64))

    @property
    def _by(self) -> list[str]:
        return [*([] if self.period_name is None else [self.period_name]), *self.keys]

    def _joined(self, stretches: pl.DataFrame) -> pl.DataFrame:
        """The stretches of each actor, those joined that are not further apart than the gap."""
        runs = in_runs(stretches, self.keys, [STARTED], [STARTED, ENDED, EVENTS])
        group_of = runs.group_of_rows()
        begins = self._begins(runs, group_of)
        return runs.groups[group_of[begins]].with_columns(
            pl.Series(STARTED, runs.columns[STARTED][begins]),
            pl.Series(ENDED, np.maximum.reduceat(runs.columns[ENDED], begins)),
            pl.Series(EVENTS, np.add.reduceat(runs.columns[EVENTS], begins)),
        )

    def _begins(self, runs: Runs, group_of: Numbers) -> Numbers:
        """The rows with which a session begins: more than the gap after all that the actor's rows before cover."""
        started, covered = runs.columns[STARTED], _running_maximum(runs.columns[ENDED], group_of)
        is_first = np.ones(len(started), np.bool_)
        is_first[1:] = group_of[1:] != group_of[:-1]
        before = np.concatenate([covered[:1], covered[:-1]])
        apart = (started - before).view(np.uint64)  # right for any two times, where they are apart
        return np.flatnonzero(is_first | ((started > before) & (apart > np.uint64(self.gap_ns))))


def _running_maximum(values: Numbers, group_of: Numbers) -> Numbers:
    """The maximum of the values so far, within each group: of their ranks, which a later group's exceed."""
    order = np.argsort(values)
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values))
    above = group_of * len(values)
    highest: Numbers = values[order[np.maximum.accumulate(ranks + above) - above]]
    return highest


def _duration_ms() -> pl.Expr:
    length_ns = pl.col(ENDED).cast(pl.Int128) - pl.col(STARTED)
    return (length_ns // _NS_PER_MS).cast(pl.Int64).alias(DURATION)


def _averages(rows: pl.DataFrame) -> list[float | None]:
    """In Python, whose division of integers rounds once however great they are. There is a row a period."""
    pairs = zip(rows["duration_ms_total"], rows["sessions"], strict=True)
    return [total / sessions if sessions else None for total, sessions in pairs]
