"""Sessions: an actor's events, cut where nothing happened for longer than a gap.

The state is the table `sessions`: stretches of time (actor, started_at, ended_at, events) in which no two events
that follow each other are further apart than the gap. Merging joins those of an actor that are not further apart
than that. What comes out are the stretches that all events at once would give: two events that are no more than
the gap apart come into one stretch, however the events were cut into parts.

New stretches change the sessions that they are no further apart from, and no others: these are looked up, and
what they become with the new ones is kept beside them. Of the forms that a session had, the last one has most
events and covers the others. An actor counts in a period as long as it has sessions there: how many it has is in
the table `starts`, as numbers that are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evtool.projections.actors import ACTOR, Runs, bucket_of, everything, in_runs, spans, with_hash
from evtool.projections.kind import BUCKET, EVENT, Change, Find, Tables
from evtool.projections.sortedrun import HASH

SESSIONS, STARTS = "sessions", "starts"
STARTED, ENDED, EVENTS = "started_at", "ended_at", "events"
DURATION = "duration_ms"

_IS_NEW, _COUNT, _PERIOD = "actor.is_new", "actor.count", "actor.period"
_NS_PER_MS = 1_000_000
_INT64_MIN = -(1 << 63)
_SUMS = ["sessions", "actors", EVENTS, "bounces", "duration_ms_total"]

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
        columns = [BUCKET, HASH, *self.keys, ACTOR, *_of_one_event()]
        return {SESSIONS: self._merged(with_hash(rows, self.keys).select(columns))}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """The stretches of all parts, joined."""
        if len(parts) == 1:
            return parts[0]
        return {SESSIONS: self._merged(pl.concat([part[SESSIONS] for part in parts]))}

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The columns of the read model that are no average; of each session, that it is one."""
        return self.change(state).result

    @property
    def orders(self) -> Mapping[str, str | None]:
        """Sessions by their start, and where they are counted how many start in a period."""
        return {SESSIONS: STARTED} if self.each else {SESSIONS: STARTED, STARTS: _PERIOD}

    def change(self, new: Tables, find: Find | None = None) -> Change:
        """What sessions become by new stretches."""
        stretches = new[SESSIONS].drop(BUCKET)
        before, after = stretches.clear(), stretches
        if find and (found := self._near(stretches, find)):
            before, after = self._joined_with(self.settle(SESSIONS, pl.concat(found)), stretches)
        count = [pl.lit(number, pl.Int64).alias(_COUNT) for number in (-1, 1)]
        forms = pl.concat([before.with_columns(count[0]), after.with_columns(count[1])])
        tables = {SESSIONS: after.sort(HASH, STARTED)}
        if self.each:
            columns = [*self.keys, ACTOR, STARTED, ENDED, EVENTS, _duration_ms(), _COUNT]
            return Change(self.total([forms.select(columns)]), tables)
        forms = forms.with_columns(self._period())
        starts = self._starts(forms, find)
        tables[STARTS] = starts.select(*self._group, _PERIOD, _COUNT).sort(HASH, _PERIOD)
        return Change(self.total([self._counted(forms), self._actors(starts)]), tables)

    def settle(self, table: str, rows: pl.DataFrame) -> pl.DataFrame:
        """The last form of each session; how many start in a period after all that came and went."""
        if table == STARTS:
            counts = rows.group_by(*self._group, _PERIOD).agg(pl.col(_COUNT).sum())
            return counts.filter(pl.col(_COUNT) != 0).sort(HASH, _PERIOD)
        return self._joined(rows, np.maximum)[0].sort(HASH, STARTED)

    def total(self, results: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """The sums, where they are not all 0: without a session they are."""
        rows = pl.concat(results)
        if self.each:
            by = [column for column in rows.columns if column != _COUNT]
            return rows.group_by(by).agg(pl.col(_COUNT).sum()).filter(pl.col(_COUNT) != 0)
        sums = pl.col(_SUMS).sum()
        counts = rows.group_by(self._by).agg(sums) if self._by else rows.select(sums)
        return counts.filter(pl.any_horizontal(pl.col(_SUMS) != 0))

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """All sessions, or all periods, in order."""
        if self.each:
            return reduced.drop(_COUNT).sort(*self.keys, ACTOR, STARTED)
        counts = pl.col(_SUMS).sum()
        by = self._by
        rows = reduced.group_by(by).agg(counts).sort(by) if by else reduced.select(counts)
        return rows.with_columns(pl.Series("duration_ms_avg", _averages(rows), dtype=pl.Float64))

    def behind(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What tells sessions apart, or the periods in which they began, and EVENT: all events of each."""
        joined, runs, begins = self._joined(rows.with_columns(_of_one_event()), np.add, EVENT)
        events = runs.columns[EVENT]
        session_of = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(events)))
        found = joined[session_of].with_columns(pl.Series(EVENT, events))
        if self.each:
            return found.select(*self.keys, ACTOR, STARTED, ENDED, EVENT)
        return found.with_columns(self._period()).select(*self._by, EVENT)

    @property
    def _by(self) -> list[str]:
        return [*([] if self.period_name is None else [self.period_name]), *self.keys]

    @property
    def _group(self) -> list[str]:
        return [HASH, *self.keys, ACTOR]

    def _merged(self, stretches: pl.DataFrame) -> pl.DataFrame:
        """Stretches of different events, joined, in their buckets."""
        joined = self._joined(stretches, np.add)[0]
        return joined.with_columns(bucket_of(joined[HASH]))

    def _near(self, stretches: pl.DataFrame, find: Find) -> list[pl.DataFrame]:
        """All forms of sessions that may be no further than the gap from some stretches, and others."""
        found = find(SESSIONS, spans(stretches, STARTED, ENDED, self.gap_ns, with_previous=True))
        groups = pl.concat([rows.select(self._group) for rows in (stretches, *found)]).unique()
        shared = groups.filter(pl.col(HASH).is_duplicated())
        if len(shared):  # what comes before may be of another group, and stand before what comes before
            found += find(SESSIONS, everything(shared))
        return found

    def _joined_with(self, sessions: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Those of some sessions that new stretches change, and what they become with them."""
        parts = [sessions.with_columns(pl.lit(0, pl.Int64).alias(_IS_NEW))]
        parts.append(new.with_columns(pl.lit(1, pl.Int64).alias(_IS_NEW)))
        forms = pl.concat(parts)
        joined, runs, begins = self._joined(forms, np.add, _IS_NEW)
        is_touched = np.maximum.reduceat(runs.columns[_IS_NEW], begins) > 0
        lengths = np.diff(begins, append=len(forms))
        rows = np.flatnonzero(np.repeat(is_touched, lengths) & (runs.columns[_IS_NEW] == 0))
        before = runs.groups[runs.group_of_rows()[rows]].with_columns(
            pl.Series(name, runs.columns[name][rows]) for name in (STARTED, ENDED, EVENTS)
        )
        return before, joined.filter(pl.Series(is_touched))

    def _period(self) -> list[pl.Expr]:
        """The period of a session, and its number: null has one as well."""
        if self.period_of is None or self.period_name is None:
            return [pl.lit(0, pl.Int64).alias(_PERIOD)]
        period = self.period_of(pl.col(STARTED))
        return [period.alias(self.period_name), period.cast(pl.Int64).fill_null(_INT64_MIN).alias(_PERIOD)]

    def _counted(self, forms: pl.DataFrame) -> pl.DataFrame:
        """What each form of a session adds or takes away."""
        count = pl.col(_COUNT)
        return forms.select(
            *self._by,
            count.alias("sessions"),
            pl.lit(0, pl.Int64).alias("actors"),
            (count * pl.col(EVENTS)).alias(EVENTS),
            (count * (pl.col(EVENTS) == 1)).alias("bounces"),
            (count * _duration_ms()).alias("duration_ms_total"),
        )

    def _starts(self, forms: pl.DataFrame, find: Find | None) -> pl.DataFrame:
        """How many sessions of an actor more start in a period, where that are others; and how many there were."""
        by = [*self._group, _PERIOD]
        more = (
            forms.group_by(*dict.fromkeys([*by, *self._by])).agg(pl.col(_COUNT).sum()).filter(pl.col(_COUNT) != 0)
        )
        known = more.select(*by, _COUNT).clear()
        if find is not None:
            known = self.settle(STARTS, pl.concat([known, *find(STARTS, spans(more, _PERIOD, _PERIOD))]))
        return more.join(known, on=by, how="left", nulls_equal=True, suffix=".before")

    def _actors(self, starts: pl.DataFrame) -> pl.DataFrame:
        """How many actors more there are in each period."""
        before = pl.col(_COUNT + ".before").fill_null(0)
        more = (before + pl.col(_COUNT) > 0).cast(pl.Int64) - (before > 0).cast(pl.Int64)
        others = (pl.lit(0, pl.Int64).alias(name) for name in _SUMS if name != "actors")
        return starts.select(*self._by, more.alias("actors"), *others).select(*self._by, *_SUMS)

    def _joined(self, stretches: pl.DataFrame, add: np.ufunc, *others: str) -> tuple[pl.DataFrame, Runs, Numbers]:
        """The stretches of each actor, those joined that are not further apart than the gap.

        Their events are added up by `add`. And the stretches as they were, with `others` of their columns, in
        runs; and of these the row with which each joined one begins.
        """
        runs = in_runs(stretches, self.keys, [STARTED], [STARTED, ENDED, EVENTS, *others])
        group_of = runs.group_of_rows()
        begins = self._begins(runs, group_of)
        joined = runs.groups[group_of[begins]].with_columns(
            pl.Series(STARTED, runs.columns[STARTED][begins]),
            pl.Series(ENDED, np.maximum.reduceat(runs.columns[ENDED], begins)),
            pl.Series(EVENTS, add.reduceat(runs.columns[EVENTS], begins)),
        )
        return joined, runs, begins

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


def _of_one_event() -> list[pl.Expr]:
    """The stretch that an event is by itself."""
    moment = pl.col("timestamp")
    return [moment.alias(STARTED), moment.alias(ENDED), pl.lit(1, pl.Int64).alias(EVENTS)]


def _duration_ms() -> pl.Expr:
    length_ns = pl.col(ENDED).cast(pl.Int128) - pl.col(STARTED)
    return (length_ns // _NS_PER_MS).cast(pl.Int64).alias(DURATION)


def _averages(rows: pl.DataFrame) -> list[float | None]:
    """In Python, whose division of integers rounds once however great they are. There is a row a period."""
    pairs = zip(rows["duration_ms_total"], rows["sessions"], strict=True)
    return [total / sessions if sessions else None for total, sessions in pairs]
