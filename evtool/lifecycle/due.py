"""Which events are due by the policies of `[retain]`, and how many of a segment that are.

A policy of age is a limit of position (recorded_at rises with it) or of timestamp: what is below is due. A type
with an age of its own goes by that alone. A size is a limit of position for all types. Where the headers of frames
and row groups tell all, nothing is decoded; else position, timestamp and type at most.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from evtool import parallel
from evtool.config import RetainConfig
from evtool.event import INT64_MAX, INT64_MIN
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot
from evtool.timestamps import SECOND_NS

GENERAL, SIZE = 0, -1  # numbers of policies; those of types are 1, 2 and so on
_NOT_DUE = -2

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


@dataclass(frozen=True)
class Limits:
    """An event is due whose `column` is below that of its type, or of all where the type has none.

    Whatever its type, it is due if its position is below `first_kept`. None is behind `end`, a position.
    """

    column: Literal["position", "timestamp"]
    general: int
    types: Mapping[str, int] = field(default_factory=dict)
    first_kept: int = 0
    end: int = INT64_MAX

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of PLACED_SCHEMA that it looks at."""
        times = ("timestamp",) if self.column == "timestamp" else ()
        return ("position", *times, *(("event_type",) if self.types else ()))

    def policies(self, events: pa.RecordBatch) -> Numbers:
        """The number of the policy by which each of some events is due; below SIZE: by none."""
        positions, values = events["position"].to_numpy(), events[self.column].to_numpy()
        found: Numbers = np.zeros(len(events), np.int64)
        if self.types:
            encoded = events["event_type"].dictionary_encode()
            names = encoded.dictionary.to_pylist()
            numbers = np.array([self._numbers.get(name, GENERAL) for name in names], np.int64)
            found = numbers[encoded.indices.to_numpy()]
        found = np.where(values < self._values[found], found, _NOT_DUE)
        found[(found == _NOT_DUE) & (positions < self.first_kept)] = SIZE
        found[positions > self.end] = _NOT_DUE
        return found

    def choose(self, events: pa.RecordBatch) -> Mask:
        """Which of some events are due."""
        chosen: Mask = self.policies(events) != _NOT_DUE
        return chosen

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.types, 1)}

    @cached_property
    def _values(self) -> Numbers:
        return np.array([self.general, *self.types.values()], np.int64)

    @property
    def least(self) -> int:
        """What is below is due by an age, whatever its type."""
        return min(self.general, *self.types.values()) if self.types else self.general

    @property
    def greatest(self) -> int:
        """What is not below is due by no age."""
        return max(self.general, *self.types.values()) if self.types else self.general


@dataclass
class Tally:
    """How many events of a segment there are, and how many are due by each policy, from when to when.

    Times are ns UTC: of recording, or timestamps where ages are of these.
    """

    segment: SegmentView
    events: int
    counts: dict[int, int] = field(default_factory=dict)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def due(self) -> int:
        """How many are due."""
        return sum(self.counts.values())

    def add(self, policy: int, count: int, first: int, last: int) -> None:
        """Some more that are due by a policy, and their times."""
        low, high = self.times.get(policy, (first, last))
        self.counts[policy] = self.counts.get(policy, 0) + count
        self.times[policy] = min(low, first), max(high, last)


def limits_of(policies: RetainConfig, snapshot: Snapshot, now_ns: int, end: int) -> Limits:
    """The limits of ages at a moment; events behind the position `end` are not meant."""

    def limit(seconds: int | None) -> int:
        if seconds is None:
            return INT64_MIN
        moment = max(now_ns - seconds * SECOND_NS, INT64_MIN)
        return moment if policies.by == "timestamp" else first_recorded(snapshot, moment)

    types = {name: limit(seconds) for name, seconds in sorted(policies.types.items())}
    column: Literal["position", "timestamp"] = "timestamp" if policies.by == "timestamp" else "position"
    return Limits(column, limit(policies.events), types, 0, end)


def first_recorded(snapshot: Snapshot, moment: int) -> int:
    """The first position that was recorded at a moment or later; behind the last one if none was."""
    for segment in snapshot.segments:
        positions = range(segment.first_position, segment.last_position + 1)
        if positions and segment.recorded_at(positions[-1]) >= moment:
            return positions[bisect.bisect_left(positions, moment, key=segment.recorded_at)]
    return snapshot.last_position + 1


def tally(segment: SegmentView, limits: Limits, on_progress: Callable[[int], None] = lambda done: None) -> Tally:
    """Count what is due in a segment. Raises LogDamagedError."""
    rows = segment.event_rows()
    header = rows["header"]
    found = Tally(segment, int(header["count"].sum(dtype=np.int64)))
    is_none, is_all = _told(header, limits)
    for row in rows[is_all]:
        found.add(GENERAL, int(row["header"]["count"]), *_times(segment, limits, row["header"]))
    open_rows = rows[~(is_none | is_all)]

    def look(row: np.void) -> list[tuple[int, int, int, int]]:
        events = segment.batch(row, limits.columns)
        segment.forget(np.atleast_1d(row))
        policies = limits.policies(events)
        return [
            (int(policy), int(chosen.sum()), *_range(segment, limits, int(policy), events, chosen))
            for policy in np.unique(policies[policies != _NOT_DUE])
            for chosen in (policies == policy,)
        ]

    done = found.events - int(open_rows["header"]["count"].sum(dtype=np.int64))
    for row, counted in zip(open_rows, parallel.ordered(look, open_rows), strict=True):
        for each in counted:
            found.add(*each)
        done += int(row["header"]["count"])
        on_progress(done)
    return found


def _told(header: np.ndarray[Any, Any], limits: Limits) -> tuple[Mask, Mask]:
    """Of which pieces no event is due, and of which all are, by no policy but that of all types."""
    low, high = (
        (header["first_position"], header["last_position"])
        if limits.column == "position"
        else (header["timestamp_min"], header["timestamp_max"])
    )
    is_behind = header["first_position"] > limits.end
    is_none = is_behind | ((low >= limits.greatest) & (header["first_position"] >= limits.first_kept))
    is_all = (high < limits.least) & (header["last_position"] <= limits.end) & (not limits.types)
    return is_none, is_all


def _times(segment: SegmentView, limits: Limits, header: np.void) -> tuple[int, int]:
    if limits.column == "timestamp":
        return int(header["timestamp_min"]), int(header["timestamp_max"])
    return segment.recorded_at(int(header["first_position"])), segment.recorded_at(int(header["last_position"]))


def _range(
    segment: SegmentView, limits: Limits, policy: int, events: pa.RecordBatch, chosen: Mask
) -> tuple[int, int]:
    """From when to when some events are."""
    if limits.column == "timestamp" and policy != SIZE:
        times = events["timestamp"].to_numpy()[chosen]
        return int(times.min()), int(times.max())
    positions = events["position"].to_numpy()[chosen]
    return segment.recorded_at(int(positions.min())), segment.recorded_at(int(positions.max()))
