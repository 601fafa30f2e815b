"""A batch gets its place in the log: what is new of it, positions, times, versions, and its parts.

    events -> which are new (identity) -> stream versions (sequence) -> positions and times -> parts

Nothing is changed here: the writer reserves what comes out, once it is sure to commit it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from evtool.envelope import Row
from evtool.errors import EventError, IdConflictError, VersionConflictError
from evtool.log.caches import Caches
from evtool.log.clock import RecordedClock
from evtool.log.format import MIXED_PARTITIONS
from evtool.log.frame import Part
from evtool.log.hashing import Hashes
from evtool.log.identity import IdConflict, Placed, Sight, Verdicts, compare
from evtool.log.sequence import Rows, VersionConflict, Versioned, assign_versions, split
from evtool.log.versions import Promise, StreamVersions, stream_keys

Conflict: TypeAlias = IdConflict | VersionConflict
Expected: TypeAlias = int | Literal["any", "no_stream", "exists"]  # a stream's last version, before an append


@dataclass(frozen=True)
class Prepared:
    """A batch with its places given, not yet on disk.

    `count` events are new, as `parts`. `duplicates` are stored already; `conflicts` were left out, in the order
    of the batch. `kept` are the places in the batch of those that are new, `placed` (None without any) what they
    become.
    """

    base_position: int
    base_recorded_at: int
    count: int
    parts: tuple[Part, ...]
    kept: Rows
    duplicates: int
    conflicts: tuple[Conflict, ...]
    placed: Placed | None
    promise: Promise


def place(
    events: pa.RecordBatch, rows: Rows, caches: Caches, base_position: int, clock: RecordedClock, partitions: int
) -> Prepared:
    """Prepare the given rows of `events` (of BATCH_SCHEMA), in their order, to follow on `base_position` - 1.

    Raises LogDamagedError when what an id points to cannot be read.
    """
    hashes = caches.identity.hashes(events)[rows]
    sight, versioned, kept, refused = _settle(events, rows, hashes, caches)
    count = len(kept)
    base_recorded_at = clock.take(count)
    numbers = np.arange(count)
    timestamps = _timestamps(events["timestamp"], versioned.rows, base_recorded_at + numbers)
    placed = Placed(
        events, versioned.rows, hashes[kept], base_position, base_recorded_at, timestamps, versioned.versions
    )
    verdicts = [sight.verdicts]
    if len(sight.followers):
        verdicts.append(compare(events, rows, sight.followers, placed, np.searchsorted(kept, sight.firsts)))
    known = Verdicts.joined(verdicts)
    conflicts: list[Conflict] = [*known.conflicts(events, rows), *refused]
    conflicts.sort(key=lambda conflict: conflict.place)
    parts = _parts(placed, versioned, partitions) if count else ()
    return Prepared(
        base_position,
        base_recorded_at,
        count,
        parts,
        kept,
        known.duplicates,
        tuple(conflicts),
        placed if count else None,  # nothing to keep in mind: such a batch is never settled either
        versioned.promise,
    )


def place_few(
    values: Sequence[Row], events: pa.RecordBatch, caches: Caches, base_position: int, clock: RecordedClock
) -> Prepared | None:
    """The same for all of a few events, given as rows too; None when one of them may be known, or refused.

    Most appends are of new events, one or a few; to go through columns would cost them ten times as much.
    """
    hashes = caches.identity.are_unseen([(row[1], row[0]) for row in values])
    if hashes is None:
        return None
    last: dict[bytes, int] = {}
    versions = []
    for _, _, stream, _, _, given, *_ in values:
        stream_id = stream.encode()
        following = (last[stream_id] if stream_id in last else caches.versions.lookup_one(stream_id)) + 1
        if given not in (None, following):
            return None
        last[stream_id] = following
        versions.append(following)
    count, stream_ids = len(values), list(last)
    base_recorded_at = clock.take(count)
    times = [base_recorded_at + number if row[4] is None else row[4] for number, row in enumerate(values)]
    numbers, timestamps, stream_versions = np.arange(count), np.array(times), np.array(versions)
    positions = base_position + numbers
    return Prepared(
        base_position,
        base_recorded_at,
        count,
        (Part(MIXED_PARTITIONS, base_position, events, None, positions, timestamps, stream_versions),),
        numbers,
        0,
        (),
        Placed(
            events,
            numbers,
            np.array(hashes, np.uint64),
            base_position,
            base_recorded_at,
            timestamps,
            stream_versions,
        ),
        Promise(stream_ids, stream_keys(stream_ids), np.array(list(last.values()))),
    )


def check_expected(expected: Mapping[str, Expected], caches: Caches) -> None:
    """Raise VersionConflictError unless each stream is, before a batch, as it was expected to be.

    Raises EventError for an expectation that makes no sense.
    """
    stream_ids = [stream_id.encode() for stream_id in expected]
    found = caches.versions.lookup(stream_ids, stream_keys(stream_ids)).tolist()
    for (stream_id, wanted), version in zip(expected.items(), found, strict=True):
        holds = {"any": True, "no_stream": version == 0, "exists": version > 0, version: True}
        if type(wanted) is not int and wanted not in ("any", "no_stream", "exists"):
            raise EventError(
                f"version {wanted!r} cannot be expected of stream {stream_id!r}",
                'Give its last version as a whole number, or "any", "no_stream" or "exists".',
            )
        if not holds.get(wanted):
            raise VersionConflictError(stream_id, wanted, version)


def refusal(conflict: Conflict) -> IdConflictError | VersionConflictError:
    """What is raised when a batch was to be stored whole or not at all."""
    if isinstance(conflict, IdConflict):
        return IdConflictError(conflict.source_id, conflict.event_id, conflict.first_position, conflict.place)
    return VersionConflictError(conflict.stream_id, conflict.given, conflict.expected - 1, conflict.place)


def _settle(
    events: pa.RecordBatch, rows: Rows, hashes: Hashes, caches: Caches
) -> tuple[Sight, Versioned, Rows, list[VersionConflict]]:
    """What is known of the rows, the versions of the new ones, their places, and those with a wrong version."""
    sight = caches.identity.sight(events, rows, hashes)
    new = np.flatnonzero(sight.is_new)
    versioned = assign_versions(events, rows[new], caches.versions)
    refused = [replace(conflict, place=int(new[conflict.place])) for conflict in versioned.conflicts]
    wrong = np.array([conflict.place for conflict in refused], np.int64)
    if np.isin(sight.firsts, wrong).any():
        sight, refused = _settle_followers(events, rows, sight, caches.versions)
        new, wrong = np.flatnonzero(sight.is_new), wrong[:0]
        versioned = assign_versions(events, rows[new], caches.versions)
    return sight, versioned, np.setdiff1d(new, wrong, assume_unique=True), refused


def _settle_followers(
    events: pa.RecordBatch, rows: Rows, sight: Sight, versions: StreamVersions
) -> tuple[Sight, list[VersionConflict]]:
    """Go through a batch event by event, where one with a wrong version has followers.

    It is not stored, so the next one of its id does not follow it, and may shift all versions behind.
    """
    places = np.sort(np.concatenate([np.flatnonzero(sight.is_new), sight.followers]))
    first_of = dict(zip(sight.followers.tolist(), sight.firsts.tolist(), strict=True))
    streams = events["stream_id"].take(pa.array(rows[places])).to_pylist()
    given = events["stream_version"].take(pa.array(rows[places])).to_pylist()
    stream_ids = [stream.encode() for stream in dict.fromkeys(streams)]
    last = dict(zip(stream_ids, versions.lookup(stream_ids, stream_keys(stream_ids)).tolist(), strict=True))
    kept: dict[int, int] = {}  # the first one of an id -> the one of them that is stored
    followers: dict[int, int] = {}
    refused = []
    for place, stream, version in zip(places.tolist(), streams, given, strict=True):
        first, following = first_of.get(place, place), last[stream.encode()] + 1
        if first in kept:
            followers[place] = kept[first]
        elif version in (None, following):
            kept[first], last[stream.encode()] = place, following
        else:
            refused.append(VersionConflict(place, stream, following, version))
    is_new = np.zeros(len(rows), bool)
    is_new[list(kept.values())] = True
    follows, firsts = np.array([*followers.items()], np.int64).reshape(-1, 2).T
    return replace(sight, is_new=is_new, followers=follows, firsts=firsts), refused


def _timestamps(given: pa.Array, rows: Rows, recorded_at: Rows) -> Rows:
    times: Rows = given.fill_null(0).to_numpy()[rows]
    if not given.null_count:
        return times
    return np.where(given.is_null().to_numpy(zero_copy_only=False)[rows], recorded_at, times)


def _parts(placed: Placed, versioned: Versioned, partitions: int) -> tuple[Part, ...]:
    numbers = np.arange(len(placed.rows))
    is_whole = len(placed.rows) == len(placed.events) and bool((placed.rows == numbers).all())
    return tuple(
        Part(
            partition,
            placed.base_position,
            placed.events,
            None if is_whole and isinstance(chosen, slice) else placed.rows[chosen],
            placed.base_position + numbers[chosen],
            placed.timestamps[chosen],
            placed.stream_versions[chosen],
        )
        for partition, chosen in split(versioned, partitions)
    )
