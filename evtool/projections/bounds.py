"""Which part of a log a projection is asked for: `--from`, `--to` and `--as-of`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from evtool.errors import ConfigError, PositionError
from evtool.event import INT64_MAX
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.replay import parse_bound
from evtool.replay import select as select_events
from evtool.timestamps import SECOND_NS


def select(log: Log, start: str | None, end: str | None, as_of: str | None) -> Selection:
    """Event times, ids or positions from `start` (included) to `end` (excluded), of what was recorded by `as_of`.

    `as_of` is a time of recording, or the position or id of the last event that counts. Raises ConfigError,
    PositionError.
    """
    selection = select_events(log, start, end)
    if as_of is None:
        return selection
    last = last_position(log, as_of)
    before = INT64_MAX if selection.end is None else selection.end
    return replace(selection, end=min(before, last + 1))


def last_position(log: Log, as_of: str) -> int:
    """The position of the last event that was there at a moment. Raises ConfigError, PositionError."""
    bound = parse_bound(as_of, log, int(datetime.now(UTC).timestamp() * SECOND_NS))
    if bound.position is not None:
        if bound.position > log.position:
            raise PositionError(
                f"there is no position {bound.position:,} yet", f"The log ends with position {log.position:,}."
            )
        return bound.position
    if bound.time is None:
        raise ConfigError(f"{as_of!r} is no moment")
    return _recorded_by(log.snapshot(), bound.time)


def _recorded_by(snapshot: Snapshot, moment: int) -> int:
    """The last position that was recorded at a time (ns UTC) or before: recorded_at rises with positions."""
    low, high = 0, snapshot.last_position
    while low < high:
        middle = (low + high + 1) // 2
        recorded_at = snapshot.recorded_at(middle)
        if recorded_at is not None and recorded_at <= moment:
            low = middle
        else:
            high = middle - 1
    return low
