"""Reading a selection out of a snapshot: which frames, decoded in parallel, as Polars frames.

Frames are read in groups of whole batches, small batches together, so that one Polars frame is worth
its overhead and memory stays within a few batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from evtool import parallel
from evtool.event import STORED_SCHEMA
from evtool.log.segment import Segment
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.walk import Table

# Batches are read together until they have so many events, bytes as stored, or frames.
GROUP_EVENTS = 65_536
GROUP_BYTES = 8 * 1024 * 1024
GROUP_FRAMES = 1024


@dataclass(frozen=True)
class Group:
    """Frames of one segment that are read together; they hold whole batches."""

    segment: Segment
    rows: Table


def groups(snapshot: Snapshot, selection: Selection, partitions: int) -> Iterator[Group]:
    """The frames that may hold selected events, in order of position."""
    for segment in snapshot.segments:
        rows = selection.prune(segment.event_rows(), partitions)
        if not len(rows):
            continue
        batches, starts = np.unique(rows["header"]["batch"], return_index=True)
        events_before = np.concatenate([[0], np.cumsum(rows["header"]["count"], dtype=np.int64)])
        bytes_before = np.concatenate([[0], np.cumsum(rows["header"]["body_bytes"], dtype=np.int64)])
        starts = np.append(starts, len(rows))
        first = 0
        for number in range(1, len(batches) + 1):
            begin, end = starts[first], starts[number]
            is_full = (
                events_before[end] - events_before[begin] >= GROUP_EVENTS
                or bytes_before[end] - bytes_before[begin] >= GROUP_BYTES
                or end - begin >= GROUP_FRAMES
            )
            if is_full or number == len(batches):
                yield Group(segment, rows[begin:end])
                first = number


def load(
    group: Group, selection: Selection, partitions: int, columns: Collection[str] | None = None
) -> pl.DataFrame:
    """The selected events of a group in order of position, as columns of STORED_SCHEMA."""
    wanted = [name for name in STORED_SCHEMA if columns is None or name in columns]
    needed = {*wanted, *selection.columns(), "position"}
    frames = [
        selection.apply(group.segment.events(row, needed), partitions).select(sorted(needed)) for row in group.rows
    ]
    group.segment.forget(group.rows)
    together = pl.concat(frames) if len(frames) > 1 else frames[0]
    if not together["position"].is_sorted():
        # Two gathers of a few bytes a row are cheaper than a sort that carries texts along.
        together = together[np.argsort(together["position"].to_numpy())]
    return together.select(wanted)


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
