"""Reading a selection out of a snapshot: which frames, decoded in parallel, as Polars frames.

Frames are read in groups of whole batches, small batches together, so that one Polars frame is worth
its overhead and memory stays within a few batches. Where streams, types or sources are asked for, the events of
others never become Polars columns: they are left out in Arrow, and whole frames without any before their other
columns are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from evtool import parallel
from evtool.event import STORED_SCHEMA, empty_frame
from evtool.log.frame import to_frame
from evtool.log.segmentview import SegmentView
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.streamindex import stream_hashes
from evtool.log.walk import Table

# Batches are read together until they have so many events, bytes as stored, or frames.
GROUP_EVENTS = 65_536
GROUP_BYTES = 8 * 1024 * 1024
GROUP_FRAMES = 1024


@dataclass(frozen=True)
class Group:
    """Frames of one segment that are read together, of whole batches.

    `is_likely` when the index of streams says that each holds a selected one.
    """

    segment: SegmentView
    rows: Table
    is_likely: bool = False


def groups(snapshot: Snapshot, selection: Selection, partitions: int) -> Iterator[Group]:
    """The frames that may hold selected events, in order of position."""
    streams = None if selection.streams is None else stream_hashes(selection.streams)
    for segment in snapshot.segments:
        rows, is_likely = (segment.event_rows(), False) if streams is None else segment.rows_of(streams)
        rows = selection.prune(rows, partitions)
        if not len(rows):
            continue
        _, starts = np.unique(rows["header"]["batch"], return_index=True)
        events_before = [0, *np.cumsum(rows["header"]["count"], dtype=np.int64).tolist()]
        bytes_before = [0, *np.cumsum(rows["header"]["body_bytes"], dtype=np.int64).tolist()]
        begin, last = 0, len(rows)
        for end in [*starts[1:].tolist(), last]:
            is_full = (
                events_before[end] - events_before[begin] >= GROUP_EVENTS
                or bytes_before[end] - bytes_before[begin] >= GROUP_BYTES
                or end - begin >= GROUP_FRAMES
            )
            if is_full or end == last:
                yield Group(segment, rows[begin:end], is_likely)
                begin = end


def load(
    group: Group,
    selection: Selection,
    partitions: int,
    columns: Collection[str] | None = None,
    in_order: bool = True,
) -> pl.DataFrame:
    """The selected events of a group as columns of STORED_SCHEMA, in order of position (or frame by frame)."""
    wanted = [name for name in STORED_SCHEMA if columns is None or name in columns]
    needed = {*wanted, *selection.columns(), *(["position"] if in_order else [])}
    among = selection.texts()
    if among or not in_order:
        rest = replace(selection, streams=None, types=None, sources=None)
        together = rest.apply(_among(group, needed, among), partitions)
    else:
        frames = [selection.apply(group.segment.events(row, needed), partitions) for row in group.rows]
        together = pl.concat(frames) if len(frames) > 1 else frames[0]
    group.segment.forget(group.rows)
    if in_order and not together["position"].is_sorted():
        # Two gathers of a few bytes a row are cheaper than a sort that carries texts along.
        together = together[np.argsort(together["position"].to_numpy())]
    return together.select(wanted)


def _among(group: Group, columns: Collection[str], among: Mapping[str, pa.Array]) -> pl.DataFrame:
    """The events of a group whose texts are among some, frame behind frame."""
    stored = {*columns, "event_uuid"} if "event_id" in columns else set(columns)
    segment = group.segment
    if among:
        found = [segment.matching(row, stored, among, group.is_likely) for row in group.rows]
    else:
        found = [segment.batch(row, stored) for row in group.rows]
    batches = [batch for batch in found if batch is not None]
    if not batches:
        return empty_frame().select(name for name in STORED_SCHEMA if name in columns)
    return to_frame(pa.Table.from_batches(batches), columns)


def scan(
    snapshot: Snapshot, selection: Selection, partitions: int, columns: Collection[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Non-empty frames of selected events, in order of position, decoded in parallel."""

    def work(group: Group) -> pl.DataFrame:
        return load(group, selection, partitions, columns)

    # Nothing ahead: a group may be a whole batch, and a few of those are much memory.
    for events in parallel.ordered(work, groups(snapshot, selection, partitions), ahead=0):
        if len(events):
            yield events
