"""Stored events by their positions: for those who know which ones, wherever in the log they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from evtool import parallel
from evtool.log.frame import PLACED_SCHEMA
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot
from evtool.log.walk import Table

Events = TypeVar("Events", pa.Table, pa.RecordBatch)
Result = TypeVar("Result")
Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_SERIAL_MAX = 4096  # so many events are looked at before threads for them would have started
_LIKELY = 16  # where so many times what is asked for is all that a frame holds, it is read in one go


def events_at(snapshot: Snapshot, positions: Positions, columns: Collection[str] | None = None) -> pa.Table:
    """The events at some positions, as the asked columns of PLACED_SCHEMA (default: all), in order of position.

    One that the snapshot does not have is passed over. Raises LogDamagedError.
    """
    positions = np.sort(positions)  # numpy's unique hashes, which takes many times as long
    positions = positions[np.diff(positions, prepend=-1) > 0]
    wanted = {*(columns or PLACED_SCHEMA.names), "position"}
    schema = pa.schema([field for field in PLACED_SCHEMA if field.name in wanted])
    batches = look_at(snapshot, positions, lambda batch, _: batch, schema.names)
    found = pa.Table.from_batches(batches, schema).combine_chunks()
    return taken(found, np.argsort(found["position"].to_numpy(), kind="stable"))


def look_at(
    snapshot: Snapshot,
    positions: Positions,
    look: Callable[[pa.RecordBatch, Positions], Result],
    columns: Collection[str] | None = None,
) -> list[Result]:
    """What `look` says of the events at some positions, frame by frame; several frames at once, in threads.

    The positions must not fall, and may repeat. `look` gets the events of one frame (asked columns of
    PLACED_SCHEMA, `position` among them) and for each of them which of the positions it is at.
    Of the frames that may hold some, only the positions are read before it is known that they do, unless they
    may hold many. Raises LogDamagedError.
    """
    names = PLACED_SCHEMA.names if columns is None else [*columns]

    def work(frame: tuple[SegmentView, Table, int, int]) -> Result | None:
        segment, row, first, end = frame
        found = _found(segment, row, positions[first:end], names)
        return None if found is None else look(found[0], found[1] + first)

    frames = _frames(snapshot, positions)
    results = map(work, frames) if len(positions) <= _SERIAL_MAX else parallel.ordered(work, frames)
    return [result for result in results if result is not None]


def taken(events: Events, rows: Positions) -> Events:
    """Some rows of a table or a batch; all of them in their order are no copy."""
    if len(rows) == len(events) and bool((rows == np.arange(len(rows))).all()):
        return events
    return events.take(pa.array(rows))


def _frames(snapshot: Snapshot, positions: Positions) -> Iterator[tuple[SegmentView, Table, int, int]]:
    """The frames that may hold some of the positions, and which: from the first to before the end."""
    for segment in snapshot.segments:
        first, last = np.searchsorted(positions, (segment.first_position, segment.last_position + 1)).tolist()
        if first == last:
            continue
        inside = positions[first:last]
        rows = segment.event_rows()
        starts = np.searchsorted(inside, rows["header"]["first_position"])
        ends = np.searchsorted(inside, rows["header"]["last_position"], side="right")
        for number in np.flatnonzero(starts < ends).tolist():
            yield segment, rows[number : number + 1], first + int(starts[number]), first + int(ends[number])


def _found(
    segment: SegmentView, rows: Table, asked: Positions, columns: Collection[str]
) -> tuple[pa.RecordBatch, Positions] | None:
    """The events of a frame (one row) that are asked for, and which of these each of them is."""
    row = rows[0]
    is_likely = len(asked) * _LIKELY >= int(row["header"]["count"])
    batch = segment.batch(row, columns if is_likely else ("position",))
    held = batch["position"].to_numpy()
    at = np.searchsorted(held, asked)
    at[at == len(held)] = 0
    hits = np.flatnonzero(held[at] == asked)
    found = None
    if len(hits):
        found = taken(batch if is_likely else segment.batch(row, columns), at[hits]), hits
    segment.forget(rows)
    return found
