"""Giving a batch its places: stream versions and partitions, by the column.

A version that an event brings along must be the next one of its stream. Those that are not are left
out here, and reported with the version that was expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from evtool.log.format import MIXED_PARTITIONS
from evtool.log.partitions import partitions_of
from evtool.log.versions import Promise, StreamVersions, Versions, stream_keys

# A batch is split into a frame a partition when each would have at least so many events on average;
# below that the headers and dictionaries would outweigh them.
SPLIT_EVENTS_MIN = 2048

Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Codes: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"


@dataclass(frozen=True)
class VersionConflict:
    """An event (its place in the batch) that brought another version than the next one of its stream."""

    place: int
    stream_id: str
    expected: int
    given: int


@dataclass(frozen=True)
class Versioned:
    """The events that keep their place in a batch, in order of position.

    `rows` are their rows in the batch's table, `versions` their stream versions, and `streams` which of
    `stream_ids` each belongs to.
    """

    rows: Rows
    versions: Versions
    streams: Codes
    stream_ids: list[bytes]
    conflicts: tuple[VersionConflict, ...]
    promise: Promise


def assign_versions(events: pa.RecordBatch, rows: Rows, known: StreamVersions) -> Versioned:
    """Number the events of each stream on from its last version. The promise is the caller's to reserve.

    `events` has BATCH_SCHEMA; `rows` takes its rows in order of position.
    """
    encoded = events["stream_id"].dictionary_encode()
    stream_ids = encoded.dictionary.cast(pa.binary()).to_pylist()
    streams = encoded.indices.to_numpy()[rows]
    keys = stream_keys(stream_ids)
    before = known.lookup(stream_ids, keys)
    versions = before[streams] + _rank_within(streams) + 1
    conflicts: tuple[VersionConflict, ...] = ()
    given = events["stream_version"]
    if given.null_count < len(events):
        brought = given.fill_null(0).to_numpy()[rows]
        wrong = (brought != 0) & (brought != versions)
        if wrong.any():
            keep, versions, conflicts = _settle_conflicts(stream_ids, streams, brought, before, versions, wrong)
            rows, streams, versions = rows[keep], streams[keep], versions[keep]
    last = before.copy()
    last[streams] = versions  # in order: the last one of a stream stays
    changed = last > before
    promise = Promise([stream_ids[i] for i in np.flatnonzero(changed)], keys[changed], last[changed])
    return Versioned(rows, versions, streams, stream_ids, conflicts, promise)


def split(versioned: Versioned, partitions: int) -> Iterator[tuple[int, Rows | slice]]:
    """(partition, which of the events are in it, in order); small batches stay whole as MIXED_PARTITIONS."""
    if len(versioned.rows) < SPLIT_EVENTS_MIN * partitions:
        yield MIXED_PARTITIONS, slice(None)
        return
    partition_of_event = partitions_of(versioned.stream_ids, partitions)[versioned.streams]
    order = np.argsort(partition_of_event, kind="stable")
    ends = np.cumsum(np.bincount(partition_of_event, minlength=partitions)).tolist()
    for partition, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if start < end:
            yield partition, order[start:end]


def _rank_within(streams: Codes) -> Versions:
    """How many earlier events of the batch are of the same stream: 0, 1, 2 …."""
    order = _stable_order(streams)
    ordered = streams[order]
    numbers = np.arange(len(streams))
    is_first = np.ones(len(streams), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    rank = np.empty(len(streams), np.int64)
    rank[order] = numbers - np.maximum.accumulate(np.where(is_first, numbers, 0))
    return rank


def _stable_order(codes: Codes) -> Rows:
    """What sorts the codes, equal ones in their order: 16 bits at a time, for which numpy has a radix sort."""
    order: Rows = np.argsort(codes.astype(np.uint16), kind="stable")
    if len(codes) and int(codes.max()) >> 16:
        high = (codes >> 16).astype(np.uint16)
        order = order[np.argsort(high[order], kind="stable")]
    return order


def _settle_conflicts(
    stream_ids: list[bytes],
    streams: Codes,
    brought: Versions,
    before: Versions,
    versions: Versions,
    wrong: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], Versions, tuple[VersionConflict, ...]]:
    """Go through the streams that hold a wrong version event by event: one left out shifts the next."""
    touched = np.isin(streams, streams[wrong])
    keep = np.ones(len(streams), bool)
    versions = versions.copy()
    last: dict[int, int] = {}
    conflicts = []
    for row in np.flatnonzero(touched).tolist():
        stream = int(streams[row])
        following = last.get(stream, int(before[stream])) + 1
        given = int(brought[row])
        if given not in (0, following):
            keep[row] = False
            conflicts.append(VersionConflict(row, stream_ids[stream].decode(), following, given))
            continue
        versions[row] = last[stream] = following
    return keep, versions, tuple(conflicts)
