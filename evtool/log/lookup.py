"""Stored events by their positions: for those who know which ones, wherever in the log they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from evtool.log.frame import PLACED_SCHEMA
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot

Events = TypeVar("Events", pa.Table, pa.RecordBatch)
Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_LIKELY = 16  # where so many times what is asked for is all that a frame holds, it is read in one go


def events_at(snapshot: Snapshot, positions: Positions, columns: Collection[str] | None = None) -> pa.Table:
    """The events at some positions, as the asked columns of PLACED_SCHEMA (default: all), in order of position.

    One that the snapshot does not have is passed over. Of the frames that may hold some, only
    the positions are read before it is known that they do, unless they may hold many. Raises LogDamagedError.
    """
    positions = np.sort(positions)  # numpy's unique hashes, which takes many times as long
    positions = positions[np.diff(positions, prepend=-1) > 0]
    wanted = {*(columns or PLACED_SCHEMA.names), "position"}
    schema = pa.schema([field for field in PLACED_SCHEMA if field.name in wanted])
    batches = [batch for segment in snapshot.segments for batch in _within(segment, positions, schema.names)]
    found = pa.Table.from_batches(batches, schema).combine_chunks()
    return taken(found, np.argsort(found["position"].to_numpy(), kind="stable"))


def taken(events: Events, rows: Positions) -> Events:
    """Some rows of a table or a batch; all of them in their order are no copy."""
    if len(rows) == len(events) and bool((rows == np.arange(len(rows))).all()):
        return events
    return events.take(pa.array(rows))


def _within(segment: SegmentView, positions: Positions, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    first, last = np.searchsorted(positions, (segment.first_position, segment.last_position + 1))
    if first == last:
        return
    inside = positions[first:last]
    rows = segment.event_rows()
    starts = np.searchsorted(inside, rows["header"]["first_position"])
    ends = np.searchsorted(inside, rows["header"]["last_position"], side="right")
    for number in np.flatnonzero(starts < ends).tolist():
        row = rows[number]
        asked = inside[starts[number] : ends[number]]
        is_likely = len(asked) * _LIKELY >= int(row["header"]["count"])
        batch = segment.batch(row, columns if is_likely else ("position",))
        held = batch["position"].to_numpy()
        at = np.searchsorted(held, asked)
        hits = at[held[at] == asked]
        if len(hits):
            yield taken(batch if is_likely else segment.batch(row, columns), hits)
        segment.forget(rows[number : number + 1])
