"""Reading a selection out of a snapshot: which frames, decoded in parallel, as Polars frames.

Frames are read in groups of whole batches, small batches together, so that one Polars frame is worth
its overhead and memory stays within a few batches. Where streams, types or sources are asked for, the events of
others never become Polars columns: they are left out in Arrow, and whole frames without any before their other
columns are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from evtool import parallel
from evtool.event import STORED_SCHEMA
from evtool.log.frame import PLACED_SCHEMA, to_frame
from evtool.log.segmentview import SegmentView
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.streamindex import stream_hashes
from evtool.log.walk import Table

# Batches are read together until they have so many events, bytes as stored, or frames.
GROUP_EVENTS = 65_536
GROUP_BYTES = 8 * 1024 * 1024
GROUP_FRAMES = 1024
# To make a Polars frame of a few events takes 2 ms, as long as to find them. So what is found of them waits for
# more: until as many groups again have been read as before, so that the first one does not wait at all.
_GROUPS_TOGETHER_MAX = 64
_FEW_EVENTS = GROUP_EVENTS // _GROUPS_TOGETHER_MAX
_FEW_BYTES = 1024 * 1024


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


def fetched(
    found: Iterator[Group], columns: Callable[[SegmentView], Collection[str]], slow_start: bool = False
) -> Iterator[Group]:
    """The same groups, with what it takes to read some columns of them at hand.

    Those of archived segments are fetched in threads, ahead of their use; with `slow_start` the first one alone.
    `columns` says which ones of a segment.
    """
    first = next(found, None)
    if first is None:
        return iter(())
    every = itertools.chain([first], found)
    if not first.segment.is_archived:  # the archive has the first part of a log, so no later one is
        return every
    return parallel.ordered(lambda group: _fetched(group, columns), every, slow_start=slow_start)


def _fetched(group: Group, columns: Callable[[SegmentView], Collection[str]]) -> Group:
    if not group.segment.is_archived:
        return group
    return replace(group, segment=group.segment.fetched(group.rows, columns(group.segment)))


def load(
    group: Group, selection: Selection, partitions: int, columns: Collection[str] | None = None
) -> pl.DataFrame:
    """The selected events of a group in order of position, as columns of STORED_SCHEMA."""
    table = _among(group, _needed(selection, columns), selection.texts())
    group.segment.forget(group.rows)
    return _together([table], selection, partitions, columns)


def load_table(group: Group, selection: Selection, partitions: int, columns: Collection[str]) -> pa.Table:
    """The selected events of a group, piece behind piece: for who needs no order.

    `columns` are of PLACED_SCHEMA, and materialised ones of the group's segment; `event_id` brings `event_uuid`
    along. Texts lie in Arrow's buffers as they were decompressed, or are string views.
    """
    rest = _without_known(replace(selection, streams=None, types=None, sources=None), group)
    table = _among(group, {*columns, *rest.columns()}, selection.texts())
    group.segment.forget(group.rows)
    if rest.columns():
        looked_at = to_frame(table, rest.columns()).with_row_index("row")
        table = _taken(table, rest.apply(looked_at, partitions)["row"])
    return table.select(name for name in table.column_names if name in columns or name == "event_uuid")


def _taken(table: pa.Table, rows: pl.Series) -> pa.Table:
    """Some rows of a table. Arrow takes nothing from string views."""
    numbers = rows.to_arrow()
    return pa.table(
        {
            name: pl.Series(pl.from_arrow(column)).gather(rows).to_arrow(compat_level=pl.CompatLevel.newest())
            if pa.types.is_string_view(column.type)
            else column.take(numbers)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )


def _without_known(selection: Selection, group: Group) -> Selection:
    """A selection without those bounds of positions within which all of a group lies."""
    header = group.rows["header"]
    start, end = selection.start, selection.end
    if start is not None and header["first_position"].min() >= start:
        start = None
    if end is not None and header["last_position"].max() < end:
        end = None
    return replace(selection, start=start, end=end)


def _among(group: Group, columns: Collection[str], among: Mapping[str, pa.Array]) -> pa.Table:
    """The events of a group whose texts are among some, piece by piece, as columns of its segment."""
    return group.segment.together(group.rows, stored_names(columns), among, group.is_likely)


def stored_names(columns: Collection[str]) -> set[str]:
    """The columns of PLACED_SCHEMA, and materialised ones, that hold some columns of events."""
    return {*columns, "event_uuid"} if "event_id" in columns else set(columns)


def scan(
    snapshot: Snapshot,
    selection: Selection,
    partitions: int,
    columns: Collection[str] | None = None,
    slow_start: bool = False,
) -> Iterator[pl.DataFrame]:
    """Non-empty frames of selected events, in order of position, decoded in parallel.

    With `slow_start` nothing is read behind the first group before its events were taken: for who may need few.
    """

    def work(group: Group) -> pl.DataFrame | pa.Table:
        if not selection.texts():
            return load(group, selection, partitions, columns)
        found = _among(group, _needed(selection, columns), selection.texts())
        group.segment.forget(group.rows)
        is_few = len(found) <= _FEW_EVENTS and found.nbytes <= _FEW_BYTES
        return found if is_few else _together([found], selection, partitions, columns)

    few: list[pa.Table] = []
    waiting, waiting_max = 0, 1
    needed = {*_needed(selection, columns), *selection.texts()}
    chosen = fetched(groups(snapshot, selection, partitions), lambda segment: stored_names(needed), slow_start)
    # Nothing ahead: a group may be a whole batch, and a few of those are much memory.
    for found in parallel.ordered(work, chosen, ahead=0, slow_start=slow_start):
        if isinstance(found, pa.Table):
            few += [found] if len(found) else []
            waiting += 1
            if waiting < waiting_max or not few:
                continue
        if few:
            yield from _if_any(_together(few, selection, partitions, columns))
            few, waiting, waiting_max = [], 0, min(2 * waiting_max, _GROUPS_TOGETHER_MAX)
        if isinstance(found, pl.DataFrame):
            yield from _if_any(found)
    if few:
        yield from _if_any(_together(few, selection, partitions, columns))


def _if_any(events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if len(events):
        yield events


def _together(
    tables: Sequence[pa.Table], selection: Selection, partitions: int, columns: Collection[str] | None
) -> pl.DataFrame:
    """What else is asked for of events that were found by their texts, in order of position."""
    events = to_frame(_concatenated(tables), _needed(selection, columns))
    rest = replace(selection, streams=None, types=None, sources=None)
    return _in_order(rest.apply(events, partitions), columns)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of PLACED_SCHEMA as one: what is a string view in some of them is one in none."""
    if len(tables) == 1:
        return tables[0]
    schema = pa.schema(field for field in PLACED_SCHEMA if field.name in tables[0].column_names)
    return pa.concat_tables([table.cast(schema) for table in tables])


def _in_order(events: pl.DataFrame, columns: Collection[str] | None) -> pl.DataFrame:
    if not events["position"].is_sorted():
        # Two gathers of a few bytes a row are cheaper than a sort that carries texts along.
        events = events[np.argsort(events["position"].to_numpy())]
    return events.select(_wanted(columns))


def _wanted(columns: Collection[str] | None) -> list[str]:
    return [name for name in STORED_SCHEMA if columns is None or name in columns]


def _needed(selection: Selection, columns: Collection[str] | None) -> set[str]:
    return {*_wanted(columns), *selection.columns(), "position"}
