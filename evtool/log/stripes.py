"""Stripes: consecutive events put in the order in which a cold segment has them.

A stripe is whole batches. Its events are cut into blocks, each of one partition and ordered by stream and
position, so that a stream's history lies together and compresses well. A block becomes a row group. A reader who
wants the order of position puts the blocks of one stripe in order, and never more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.log.coldsegment import recorded_at
from evtool.log.digest import Columns, columns_of
from evtool.log.format import BATCH, BLOCK, MIXED_PARTITIONS
from evtool.log.frame import PLACED_SCHEMA
from evtool.log.gone import Gone
from evtool.log.partitions import partitions_of
from evtool.log.segmentview import SegmentView, one_by_one
from evtool.log.sequence import SPLIT_EVENTS_MIN
from evtool.log.streamindex import PAIR, Pairs
from evtool.log.versions import stream_keys
from evtool.log.walk import Table

STRIPE_EVENTS = 262_144
STRIPE_BYTES = 32 * 1024 * 1024  # as stored before
BLOCK_EVENTS = 8_192
BLOCK_BYTES = 64 * 1024 * 1024  # of payloads and metadata

TABLE_BYTES = 1 << 30  # a column of texts ends at 2^31 bytes

STORED_COLUMNS = [name for name in PLACED_SCHEMA.names if name != "recorded_at"]
_UNITS = (("ms", 1_000_000), ("us", 1_000), ("ns", 1))  # of Parquet, coarsest first

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Derive: TypeAlias = Callable[[pa.RecordBatch], Sequence[pa.Array]]  # events -> further columns
Change: TypeAlias = Callable[
    [pa.RecordBatch], tuple[pa.RecordBatch, Gone]
]  # events -> those that stay, and the rest


@dataclass(frozen=True)
class Stripe:
    """Pieces of segments that together hold consecutive positions from `first_position` on."""

    first_position: int
    pieces: tuple[tuple[SegmentView, Table], ...]

    def halves(self) -> list[Stripe]:
        """The same in two, or one where nothing can be cut."""
        pieces = list(self.pieces)
        if len(pieces) == 1:
            segment, rows = pieces[0]
            cut = int(np.searchsorted(rows["header"]["batch"], rows["header"]["batch"][len(rows) // 2]))
            pieces = [(segment, part) for part in (rows[:cut], rows[cut:]) if len(part)]
        middle = len(pieces) // 2
        return [_stripe(part) for part in (pieces[:middle], pieces[middle:]) if part]


@dataclass(frozen=True)
class Arranged:
    """A stripe as it is written: `events` block behind block, and what the map says of the blocks.

    `events` has STORED_COLUMNS and then the derived ones; `unit` is the coarsest that its timestamps fit.
    `pairs` are streams and blocks, counted from 0; `columns` what the logical digest takes. `gone` are the events
    that a change has taken away, `before` what the logical digest took of all that were read.
    """

    events: pa.RecordBatch
    unit: str
    blocks: np.ndarray[Any, Any]
    pairs: Pairs
    columns: Columns
    gone: Gone
    before: Columns
    read: int


def stripes(segments: Sequence[SegmentView]) -> Iterator[Stripe]:
    """The stripes of neighbouring segments."""
    pieces: list[tuple[SegmentView, Table]] = []
    events = stored_bytes = 0
    for segment in segments:
        rows = segment.event_rows()
        _, starts = np.unique(rows["header"]["batch"], return_index=True)
        counts = np.add.reduceat(rows["header"]["count"], starts, dtype=np.int64).tolist() if len(rows) else []
        sizes = np.add.reduceat(rows["header"]["body_bytes"], starts, dtype=np.int64).tolist() if len(rows) else []
        begin = 0
        for start, count, size in zip(starts.tolist(), counts, sizes, strict=True):
            if events and (events + count > STRIPE_EVENTS or stored_bytes + size > STRIPE_BYTES):
                yield _stripe([*pieces, *([(segment, rows[begin:start])] if start > begin else [])])
                pieces, begin, events, stored_bytes = [], start, 0, 0
            events, stored_bytes = events + count, stored_bytes + size
        if begin < len(rows):
            pieces.append((segment, rows[begin:]))
    if pieces:
        yield _stripe(pieces)


def _stripe(pieces: Sequence[tuple[SegmentView, Table]]) -> Stripe:
    return Stripe(int(pieces[0][1]["header"]["first_position"].min()), tuple(pieces))


def nothing(events: pa.RecordBatch) -> tuple[pa.RecordBatch, Gone]:
    """The change that is none: it gives what it is given."""
    return events, Gone.none()


def arrange(
    stripe: Stripe,
    commits: np.ndarray[Any, Any],
    partitions: int,
    derive: Derive = lambda events: [],
    change: Change = nothing,
) -> list[Arranged]:
    """Read a stripe, change it, and put it in order; `commits` are the batches of all. Raises LogDamagedError.

    One whose texts would not fit into a column is several.
    """
    table = pa.Table.from_batches(
        view.batch(row, STORED_COLUMNS)
        for segment, rows in stripe.pieces
        for view, row in one_by_one(segment, rows, STORED_COLUMNS)
    )
    for segment, rows in stripe.pieces:
        segment.forget(rows)
    halves = stripe.halves() if table.nbytes > TABLE_BYTES else []
    if len(halves) > 1:
        del table
        return [part for half in halves for part in arrange(half, commits, partitions, derive, change)]
    events = table.combine_chunks().to_batches()[0]
    del table
    order = order_of(events["position"].to_numpy())
    if order is None:
        raise LogDamagedError(
            f"{stripe.pieces[0][0].folder}: positions from {stripe.first_position} on come twice",
            "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can.",
        )
    events = events.take(pa.array(order))
    columns = columns_of(events)
    kept, gone = change(events)
    if kept is events:
        return [_arranged(events, columns, commits, partitions, derive)]
    arranged = _arranged(kept, columns_of(kept), commits, partitions, derive)
    return [replace(arranged, gone=gone, before=columns, read=len(events))]


def _arranged(
    events: pa.RecordBatch,
    columns: Columns,
    commits: np.ndarray[Any, Any],
    partitions: int,
    derive: Derive,
) -> Arranged:
    """Of events in order of position."""
    is_split = len(events) >= SPLIT_EVENTS_MIN * partitions
    partition, rank, stream_ids = _placed(events["stream_id"], partitions if is_split else 1)
    order = np.argsort(rank << 32 | np.arange(len(events)))
    events, rank = events.take(pa.array(order)), rank[order]
    starts = _cuts(events, np.flatnonzero(np.diff(partition[rank])) + 1)
    blocks = _blocks(events, starts, commits)
    blocks["partition"] = partition[rank[starts]] if is_split else MIXED_PARTITIONS
    derived = derive(events)
    names = [*STORED_COLUMNS, *(f"derived {number}" for number in range(len(derived)))]
    return Arranged(
        events=pa.RecordBatch.from_arrays([*events.columns, *derived], names),
        unit=_unit(events["timestamp"].to_numpy()),
        blocks=blocks,
        pairs=_pairs(rank, starts, stream_ids),
        columns=columns,
        gone=Gone.none(),
        before=columns,
        read=len(events),
    )


def order_of(positions: Integers) -> Integers | None:
    """What puts events in order of position; None where a position comes twice."""
    offsets = positions - positions.min(initial=np.iinfo(np.int64).max)
    if len(offsets) and offsets.max() < len(offsets):  # without a gap, as nearly always
        order = np.full(len(offsets), -1, np.int64)
        order[offsets] = np.arange(len(offsets))
        return None if (order < 0).any() else order
    order = np.argsort(offsets)
    return None if (np.diff(offsets[order]) == 0).any() else order


def _placed(streams: pa.Array, partitions: int) -> tuple[Any, Integers, list[bytes]]:
    """The different streams by partition and name: their partitions; which of them each event has; the streams."""
    encoded = streams.dictionary_encode()
    names: list[bytes] = encoded.dictionary.cast(pa.binary()).to_pylist()
    partition = partitions_of(names, partitions)
    order = sorted(range(len(names)), key=lambda number: (partition[number], names[number]))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return partition[order], rank[encoded.indices.to_numpy()], [names[number] for number in order]


def _cuts(events: pa.RecordBatch, edges: Integers) -> Integers:
    """Where blocks begin: at the edges, and where one would be too large."""
    size = np.concatenate([[0], np.cumsum(_lengths(events["payload"]) + _lengths(events["metadata"]))])
    starts: list[int] = []
    for begin, end in pairwise([0, *edges.tolist(), len(events)]):
        pieces = max(-(-(end - begin) // BLOCK_EVENTS), int(-(-(size[end] - size[begin]) // BLOCK_BYTES)), 1)
        starts += np.linspace(begin, end, min(pieces, end - begin), endpoint=False, dtype=np.int64).tolist()
    return np.array(starts, np.int64)


def _lengths(texts: pa.Array) -> Integers:
    lengths: Integers = np.diff(
        np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    )
    return lengths.astype(np.int64)


def _blocks(events: pa.RecordBatch, starts: Integers, commits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    blocks = np.zeros(len(starts), BLOCK)
    blocks["count"] = np.diff(starts, append=len(events))
    positions, timestamps = events["position"].to_numpy(), events["timestamp"].to_numpy()
    blocks["first_position"] = np.minimum.reduceat(positions, starts)
    blocks["last_position"] = np.maximum.reduceat(positions, starts)
    blocks["recorded_at_min"] = recorded_at(commits, blocks["first_position"])
    blocks["recorded_at_max"] = recorded_at(commits, blocks["last_position"])
    blocks["timestamp_min"] = np.minimum.reduceat(timestamps, starts)
    blocks["timestamp_max"] = np.maximum.reduceat(timestamps, starts)
    return blocks


def _pairs(rank: Integers, starts: Integers, stream_ids: Sequence[bytes]) -> Pairs:
    is_first = np.diff(rank, prepend=-1) != 0
    is_first[starts] = True
    rows = np.flatnonzero(is_first)
    pairs = np.zeros(len(rows), PAIR)
    pairs["hash"] = stream_keys(stream_ids)[:, 0][rank[rows]]
    pairs["frame"] = np.searchsorted(starts, rows, side="right") - 1
    return pairs


def _unit(timestamps: Integers) -> str:
    return next(unit for unit, size in _UNITS if not (timestamps % size).any())


def batches_of(segments: Sequence[SegmentView]) -> tuple[np.ndarray[Any, Any], bytes]:
    """The batches of neighbouring segments as records of BATCH, and what producers handed over with them.

    Raises LogDamagedError: what is written from these is the only one that is left.
    """
    records, maps = [], []
    for segment in segments:
        segment.check_commits()
        commits = segment.commits
        batches = np.zeros(len(commits), BATCH)
        for name in ("base_position", "base_recorded_at", "timestamp_min", "timestamp_max", "checksum", "count"):
            batches[name] = commits[name]
        bodies = list(segment.producer_maps())[::-1]
        for number, body in bodies:
            batches["map_bytes"][number] = len(body)
            maps.append(body)
        records.append(batches)
    return np.concatenate(records), b"".join(maps)
