"""Which segments are to be moved to the archive: the oldest ones, one behind the other, all cold.

Where an archived segment was written again, it is on this disk once more, and goes back whatever its age is: the
archive is the log up to a position, without a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evtool.config import ArchiveConfig
from evtool.lifecycle.archiving.place import object_of
from evtool.log.coldsegment import ColdSegment
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.timestamps import SECOND_NS


@dataclass(frozen=True)
class Plan:
    """The segments that go: how many, up to which position, their events and bytes, and from when these are.

    `first` and `last` are the least and the greatest timestamp, ns UTC. `archived` segments are there already.
    `hot` segments are due and not compacted; with those behind them they are `waiting`. `local_bytes` are those on
    this disk before, and `missed_bytes` what stays there beyond `keep_local`.
    """

    segments: int = 0
    last_position: int = 0
    events: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    archived: int = 0
    archived_bytes: int = 0
    hot: int = 0
    waiting: int = 0
    local_bytes: int = 0
    missed_bytes: int = 0


def plan(log: Log, settings: ArchiveConfig, now_ns: int) -> Plan:
    """What is to be moved at a moment. Raises LogDamagedError when the segments do not fit together."""
    snapshot = log.snapshot()
    archived = [each for each in snapshot.segments if object_of(each) is not None]
    local = sum(each.log_bytes for each in snapshot.segments if object_of(each) is None)
    due = list(_due(snapshot.segments, settings, now_ns, local))
    going = [each for each in due[: _until_hot(due)] if isinstance(each, ColdSegment)]
    hot = [each for each in due if not each.is_cold]
    left = local - sum(int(each.summary["events_bytes"]) for each in going)
    return Plan(
        segments=len(going),
        last_position=going[-1].last_position if going else 0,
        events=sum(map(_events, going)),
        bytes=sum(int(each.summary["events_bytes"]) for each in going),
        first=min((int(each.summary["timestamp_min"]) for each in going), default=None),
        last=max((int(each.summary["timestamp_max"]) for each in going), default=None),
        archived=len(archived),
        archived_bytes=sum(
            int(each.summary["events_bytes"]) for each in archived if isinstance(each, ColdSegment)
        ),
        hot=len(hot),
        waiting=len(due) - len(going),
        local_bytes=local,
        missed_bytes=0 if settings.keep_local is None else max(left - settings.keep_local, 0),
    )


def _events(segment: ColdSegment) -> int:
    """How many are there: of those that were erased a row is."""
    gone = segment.gone_counts
    return int(segment.summary["count"]) - sum(gone.values()) + gone.get("erased", 0)


def _until_hot(due: list[SegmentView]) -> int:
    """How many stand before the first one that is not compacted."""
    return next((number for number, each in enumerate(due) if not each.is_cold), len(due))


def _due(
    segments: tuple[SegmentView, ...], settings: ArchiveConfig, now_ns: int, local_bytes: int
) -> Iterator[SegmentView]:
    """Sealed segments that are not archived, up to the first one that is not due."""
    end = max((each.last_position for each in segments if object_of(each) is not None), default=0)
    limit = None if settings.older_than is None else now_ns - settings.older_than * SECOND_NS
    is_all = settings.older_than is None and settings.keep_local is None
    for each in segments:
        if object_of(each) is not None:
            continue
        if not each.is_sealed:  # there may be no event in it
            return
        is_too_much = settings.keep_local is not None and local_bytes > settings.keep_local
        is_old = limit is not None and _newest(each, settings.by) < limit
        if not (is_all or is_too_much or is_old or each.last_position <= end):
            return
        yield each
        local_bytes -= each.log_bytes


def _newest(segment: SegmentView, clock: str) -> int:
    """When its last event was recorded, or the greatest timestamp, ns."""
    if clock == "recorded":
        return segment.recorded_at(segment.last_position)
    if isinstance(segment, ColdSegment):
        return int(segment.summary["timestamp_max"])
    return int(segment.event_rows()["header"]["timestamp_max"].max())
