"""Exactly once: which events of a batch are new, and which the log has already.

An event is known by (source_id, event_id). One that comes again with the same content is a duplicate,
with another content a conflict. The index of ids tells what may be in the log, by hashes; batches that are
on their way to the disk are kept here until it does; and a batch may hold an id twice. Whatever they point
to is compared, id and content, byte for byte, before an event is left out.

What an event leaves open agrees with what it was given: no timestamp with its recorded_at, no
stream_version with any.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from evtool.log.frame import PLACED_SCHEMA
from evtool.log.gone import ids_of
from evtool.log.hashing import Hashes, hash_ids, hash_one, source_seed, source_seeds
from evtool.log.ids import EventIds
from evtool.log.lookup import look_at, taken
from evtool.log.snapshot import Snapshot
from evtool.log.sourcenames import SourceNames
from evtool.log.table import FEW

Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

_BOXES_EACH, _BOX_BITS_MAX = 16, 22
_NONE: Rows = np.zeros(0, np.int64)
_IDENTITY = ("source_id", "event_uuid", "event_id")
_CONTENT = ("stream_id", "event_type", "schema_version", "payload", "metadata")


@dataclass(frozen=True)
class IdConflict:
    """An event (its place in the batch) whose id another event has, the one at `first_position`."""

    place: int
    source_id: str
    event_id: str
    first_position: int


@dataclass(frozen=True)
class Verdicts:
    """Events of a batch (their places, rising) that are known by their id: whether all of them is the same, and
    the position of the one that came first.
    """

    places: Rows
    is_same: Mask
    positions: Rows

    @staticmethod
    def none() -> Verdicts:
        """Nothing is known."""
        return Verdicts(_NONE, np.zeros(0, bool), _NONE)

    @staticmethod
    def joined(verdicts: list[Verdicts]) -> Verdicts:
        """All of them; of several about one event that it is the same, or else the first.

        There are several where a log is older than this rule, and has an id more than once.
        """
        if not verdicts:
            return Verdicts.none()
        places = np.concatenate([verdict.places for verdict in verdicts])
        is_same = np.concatenate([verdict.is_same for verdict in verdicts])
        positions = np.concatenate([verdict.positions for verdict in verdicts])
        order = np.argsort(places)
        if (np.diff(places[order]) > 0).all():  # as nearly always
            return Verdicts(places[order], is_same[order], positions[order])
        order = np.lexsort((positions, ~is_same, places))
        chosen = order[np.unique(places[order], return_index=True)[1]]
        return Verdicts(places[chosen], is_same[chosen], positions[chosen])

    @property
    def duplicates(self) -> int:
        """How many are the same."""
        return int(self.is_same.sum())

    def conflicts(self, events: pa.RecordBatch, rows: Rows) -> list[IdConflict]:
        """Those that are not."""
        found = []
        for place, position in zip(
            self.places[~self.is_same].tolist(), self.positions[~self.is_same].tolist(), strict=True
        ):
            source_id, uuid, event_id = (events[name][int(rows[place])].as_py() for name in _IDENTITY)
            found.append(IdConflict(place, source_id, event_id or str(UUID(bytes=uuid)), position))
        return found


@dataclass(frozen=True)
class Sight:
    """What is known of the events of a batch, by their places in it.

    `is_new` are those that nobody has seen. `followers` are those whose id a new one of the batch has that
    comes before: `firsts`. On the rest there are verdicts.
    """

    is_new: Mask
    followers: Rows
    firsts: Rows
    verdicts: Verdicts


@dataclass(frozen=True)
class Placed:
    """Events of a batch with their places in the log given: columns of PLACED_SCHEMA made when asked for."""

    events: pa.RecordBatch
    rows: Rows
    hashes: Hashes
    base_position: int
    base_recorded_at: int
    timestamps: Rows
    stream_versions: Rows

    def take(self, numbers: Rows) -> pa.Table:
        """Some of them, by their numbers from 0."""
        given = {
            "position": pa.array(self.base_position + numbers),
            "recorded_at": pa.array(self.base_recorded_at + numbers),
            "timestamp": pa.array(self.timestamps[numbers]),
            "stream_version": pa.array(self.stream_versions[numbers]),
        }
        taken = self.events.take(pa.array(self.rows[numbers]))
        return pa.table({name: given[name] if name in given else taken[name] for name in PLACED_SCHEMA.names})


class Identity:
    """Knows every id of a log, for its writer."""

    def __init__(
        self, index: EventIds, sources: SourceNames, log_id: bytes, snapshot: Callable[[], Snapshot]
    ) -> None:
        self._index = index
        self._sources = sources
        self._log_id = log_id
        self._snapshot = snapshot
        self._mutex = threading.Lock()
        self._pending: deque[Placed] = deque()

    def hashes(self, events: pa.RecordBatch) -> Hashes:
        """What the index knows the events of a batch by."""
        return hash_events(events, self._log_id)

    def sight(self, events: pa.RecordBatch, rows: Rows, hashes: Hashes) -> Sight:
        """Look at some rows of a batch, in order; `hashes` are theirs. Raises LogDamagedError."""
        # The batches first: one that is committed meanwhile is then found in both, not in neither.
        with self._mutex:
            pending = tuple(self._pending)
        places, positions = self._index.candidates(hashes)
        suspects = _repeated(hashes, [batch.hashes for batch in pending])
        is_new = np.ones(len(rows), bool)
        if not len(places) and not len(suspects):
            return Sight(is_new, _NONE, _NONE, Verdicts.none())
        found = []
        if len(places):
            snapshot = self._snapshot()
            # One that was copied while it was written may know of events that this log does not have.
            is_there = positions <= snapshot.last_position
            places, positions = places[is_there], positions[is_there]
            order = np.argsort(positions)
            suspected = places[order]
            found += self._gone(snapshot, events, rows, suspected, positions[order])
            found += look_at(
                snapshot, positions[order], lambda known, at: _judge(events, rows, suspected[at], known)
            )
        for batch in pending if len(suspects) else ():
            places, numbers = _of_one_hash(hashes, suspects, batch.hashes)
            found.append(_judge(events, rows, places, batch.take(numbers)))
        verdicts = Verdicts.joined(found)
        # What is said of the first of an id is said of those that follow it, too.
        followers, firsts = _repeats_within(
            events, rows, np.setdiff1d(suspects, verdicts.places, assume_unique=True)
        )
        is_new[verdicts.places] = False
        is_new[followers] = False
        return Sight(is_new, followers, firsts, verdicts)

    def _gone(
        self, snapshot: Snapshot, events: pa.RecordBatch, rows: Rows, places: Rows, positions: Rows
    ) -> list[Verdicts]:
        """Those of some events that have the id of one that is gone, at positions that rise: the same, as far as
        anybody knows.
        """
        found = []
        for segment in snapshot.segments:
            start, end = np.searchsorted(positions, (segment.first_position, segment.last_position + 1))
            if start == end or not len(segment.gone):
                continue
            numbers = segment.gone.find(positions[start:end])
            at, ids = places[start:end][numbers >= 0], segment.gone.ids[numbers[numbers >= 0]]
            given = identify(taken(events, rows[at]), self._log_id)
            is_same = given == ids
            gone_at = positions[start:end][numbers >= 0][is_same]
            found.append(Verdicts(at[is_same], np.ones(len(gone_at), bool), gone_at))
        return found

    def are_unseen(self, ids: Sequence[tuple[str, str]]) -> list[int] | None:
        """The hashes of a few (source_id, event_id) if these are different and surely new, without columns."""
        hashes = [hash_one(event_id, source_seed(self._log_id, source_id)) for source_id, event_id in ids]
        with self._mutex:  # first, as in `sight`
            pending = tuple(self._pending)
        if len(set(hashes)) < len(hashes):
            return None
        if any((batch.hashes == np.uint64(value)).any() for batch in pending for value in hashes):
            return None
        return None if self._index.may_hold(hashes) else hashes

    def reserve(self, placed: Placed) -> None:
        """Keep in mind what is on its way to the disk; batches are committed in this order."""
        with self._mutex:
            self._pending.append(placed)

    def settle(self, applied: int) -> None:
        """Store the oldest of these in the index: its batch, up to position `applied`, is durable."""
        with self._mutex:
            placed = self._pending[0]
        sources = placed.events["source_id"]
        if len(placed.hashes) <= FEW:
            self._sources.add_new(sources.to_pylist() if len(sources) <= FEW else pc.unique(sources).to_pylist())
            self._index.add_few(placed.hashes.tolist(), placed.base_position)
        else:
            self._sources.add_new(pc.unique(sources).to_pylist())
            self._index.add(placed.hashes, placed.base_position + np.arange(len(placed.hashes)))
        self._index.mark_applied(applied)
        with self._mutex:
            self._pending.popleft()


def compare(events: pa.RecordBatch, rows: Rows, places: Rows, placed: Placed, numbers: Rows) -> Verdicts:
    """What becomes of events that follow a new one of their own batch, by now number `numbers` of `placed`."""
    return _judge(events, rows, places, placed.take(numbers))


def identify(events: pa.RecordBatch, log_id: bytes) -> np.ndarray[Any, Any]:
    """What is kept of the ids of events that go: their hashes, and others of the same kind."""
    return ids_of(hash_events(events, log_id), hash_events(events, log_id[8:] + log_id[:8]))


def hash_events(events: pa.RecordBatch, log_id: bytes) -> Hashes:
    """The hashes of a batch that has at least the columns of an identity."""
    sources = events["source_id"].dictionary_encode()
    ids = events["event_uuid"]
    uuid_bytes = np.frombuffer(ids.buffers()[1], np.uint8, len(ids) * 16, ids.offset * 16).reshape(-1, 16)
    is_uuid = ids.is_valid().to_numpy(zero_copy_only=False)
    texts = None if is_uuid.all() else events["event_id"]
    seeds = source_seeds(log_id, sources.dictionary.to_pylist())
    return hash_ids(sources.indices.to_numpy(), seeds, uuid_bytes, texts, is_uuid)


def _judge(events: pa.RecordBatch, rows: Rows, places: Rows, known: pa.Table | pa.RecordBatch) -> Verdicts:
    """Compare the events at some places with as many known ones: who has the same id, and the same content?"""
    given = taken(events, rows[places])
    same_id = _all_equal(given, known, _IDENTITY)
    same = _all_equal(given, known, _CONTENT)
    timestamps = _mask(pc.equal(given["timestamp"], known["timestamp"]))
    was_open = _mask(pc.equal(known["recorded_at"], known["timestamp"]))
    same &= np.where(_mask(pc.is_null(given["timestamp"])), was_open, timestamps)
    versions = given["stream_version"]
    same &= _mask(pc.is_null(versions)) | _mask(pc.equal(versions, known["stream_version"]))
    return Verdicts(places[same_id], same[same_id], known["position"].to_numpy()[same_id])


def _all_equal(given: pa.RecordBatch, known: pa.Table | pa.RecordBatch, names: tuple[str, ...]) -> Mask:
    """Which rows agree in all of some columns; nulls agree with each other."""
    agree = np.ones(len(given), bool)
    for name in names:
        left, right = given[name], known[name]
        agree &= _mask(pc.equal(left, right)) | _mask(pc.and_(pc.is_null(left), pc.is_null(right)))
    return agree


def _mask(column: pa.Array | pa.ChunkedArray) -> Mask:
    mask: Mask = (
        column.fill_null(False).to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else (column.fill_null(False).to_numpy())
    )
    return mask


def _repeated(hashes: Hashes, others: list[Hashes]) -> Rows:
    """The places of those hashes that stand there more than once, or among the others.

    Sorting them all would cost more than the rest of what is done for new events. So each hash first goes into
    one of many boxes, and only those that are not alone in theirs are sorted.
    """
    shift = np.uint64(64 - min((_BOXES_EACH * (len(hashes) + sum(map(len, others)))).bit_length(), _BOX_BITS_MAX))
    boxes = (hashes >> shift).astype(np.int64)
    other_boxes = [(other >> shift).astype(np.int64) for other in others]
    is_crowded = np.zeros(1 << (64 - int(shift)), bool)
    for other in other_boxes:
        is_crowded[other] = True
    owner = np.empty(len(is_crowded), np.int32)
    numbers = np.arange(len(hashes), dtype=np.int32)
    owner[boxes] = numbers
    is_crowded[boxes[owner[boxes] != numbers]] = True
    places = np.flatnonzero(is_crowded[boxes])
    if not len(places):
        return _NONE
    is_crowded[:] = False
    is_crowded[boxes[places]] = True
    crowd = [other[is_crowded[theirs]] for other, theirs in zip(others, other_boxes, strict=True)]
    ordered = np.sort(np.concatenate([hashes[places], *crowd]))
    return places[np.isin(hashes[places], ordered[1:][ordered[1:] == ordered[:-1]])]


def _of_one_hash(hashes: Hashes, suspects: Rows, others: Hashes) -> tuple[Rows, Rows]:
    """(place, number) for each of the suspects and each of the others that have its hash."""
    order = np.argsort(others)
    ordered = others[order]
    starts = np.searchsorted(ordered, hashes[suspects])
    counts = np.searchsorted(ordered, hashes[suspects], side="right") - starts
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(suspects, counts), order[np.repeat(starts, counts) + steps]


def _repeats_within(events: pa.RecordBatch, rows: Rows, suspects: Rows) -> tuple[Rows, Rows]:
    """Those of the suspects, whose hashes repeat, that an earlier one has the very id of, and that one."""
    if not len(suspects):
        return _NONE, _NONE
    ids = events.select(_IDENTITY).take(pa.array(rows[suspects]))
    named = pl.DataFrame(pl.from_arrow(ids)).with_columns(pl.Series("place", suspects))
    firsts = named.select(pl.col("place").first().over(_IDENTITY)).to_series().to_numpy()
    follows = firsts != suspects
    return suspects[follows], firsts[follows]
