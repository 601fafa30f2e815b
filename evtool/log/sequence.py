"""Giving a batch its places: position, recorded_at, stream versions and partitions, by the column.

A version that an event brings along must be the next one of its stream. Those that are not are left
out here, and reported with the version that was expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from evtool.log.format import MIXED_PARTITIONS
from evtool.log.partitions import partitions_of
from evtool.log.versions import Promise, StreamVersions, Versions, stream_keys

# A batch is split into a frame a partition when each would have at least so many events on average;
# below that the headers and dictionaries would outweigh them.
SPLIT_EVENTS_MIN = 2048


@dataclass(frozen=True)
class VersionConflict:
    """An event (its row in the batch) that brought another version than the next one of its stream."""

    row: int
    stream_id: str
    expected: int
    given: int


@dataclass(frozen=True)
class Versioned:
    """A batch with its versions: the rows that are kept, and the stream of each as a row of `stream_ids`."""

    events: pl.DataFrame
    stream_of_row: np.ndarray[Any, Any]
    stream_ids: list[bytes]
    conflicts: tuple[VersionConflict, ...]
    promise: Promise


def assign_versions(events: pl.DataFrame, versions: StreamVersions) -> Versioned:
    """Number the events of each stream on from its last version. The promise is the caller's to reserve."""
    encoded = events["stream_id"].to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    stream_ids = encoded.dictionary.cast(pa.large_binary()).to_pylist()
    stream_of_row = encoded.indices.to_numpy()
    keys = stream_keys(stream_ids)
    before = versions.lookup(stream_ids, keys)
    rank = _rank_within(stream_of_row)
    expected = before[stream_of_row] + rank + 1
    given = events["stream_version"]
    conflicts: tuple[VersionConflict, ...] = ()
    if given.null_count() < len(events):
        wrong = given.is_not_null().to_numpy() & (given.fill_null(0).to_numpy() != expected)
        if wrong.any():
            keep, expected, conflicts = _settle_conflicts(events, stream_of_row, before, expected, wrong)
            events = events.filter(pl.Series(keep))
            stream_of_row, expected = stream_of_row[keep], expected[keep]
    last = before.copy()
    np.maximum.at(last, stream_of_row, expected)
    numbered = events.with_columns(pl.Series("stream_version", expected, pl.Int64))
    changed = last > before
    promise = Promise([stream_ids[i] for i in np.flatnonzero(changed)], keys[changed], last[changed])
    return Versioned(numbered, stream_of_row, stream_ids, conflicts, promise)


def split(
    events: pl.DataFrame, stream_of_row: np.ndarray[Any, Any], stream_ids: list[bytes], partitions: int
) -> Iterator[tuple[int, pl.DataFrame]]:
    """(partition, its events) of a batch; small batches stay together as MIXED_PARTITIONS."""
    if len(events) < SPLIT_EVENTS_MIN * partitions:
        yield MIXED_PARTITIONS, events
        return
    partition_of_row = partitions_of(stream_ids, partitions)[stream_of_row]
    order = np.argsort(partition_of_row, kind="stable")
    sizes = np.bincount(partition_of_row, minlength=partitions)
    together = events[order]
    start = 0
    for partition, size in enumerate(sizes.tolist()):
        if size:
            yield partition, together.slice(start, size)
        start += size


def _rank_within(stream_of_row: np.ndarray[Any, Any]) -> Versions:
    """How many earlier rows of the batch are of the same stream: 0, 1, 2 …."""
    rank = pl.Series("stream", stream_of_row).to_frame().select(pl.int_range(pl.len()).over("stream"))
    return rank.to_series().to_numpy().astype(np.int64)


def _settle_conflicts(
    events: pl.DataFrame,
    stream_of_row: np.ndarray[Any, Any],
    before: Versions,
    expected: Versions,
    wrong: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], Versions, tuple[VersionConflict, ...]]:
    """Go through the streams that hold a wrong version event by event: one left out shifts the next."""
    touched = np.isin(stream_of_row, np.unique(stream_of_row[wrong]))
    keep = np.ones(len(events), bool)
    expected = expected.copy()
    given = events["stream_version"]
    stream_ids = events["stream_id"]
    last: dict[int, int] = {}
    conflicts = []
    for row in np.flatnonzero(touched).tolist():
        stream = int(stream_of_row[row])
        following = last.get(stream, int(before[stream])) + 1
        brought = given[row]
        if brought is not None and brought != following:
            keep[row] = False
            conflicts.append(VersionConflict(row, stream_ids[row], following, brought))
            continue
        expected[row] = last[stream] = following
    return keep, expected, tuple(conflicts)
