"""The last version of every stream, on disk: an open-addressing hash table in a memory-mapped file.

A stream is known by the 128 bits of XXH3-128 of its id; among a thousand million streams two would
share them with a probability of 10^-21. A slot is (key high, key low, version), empty when the version
is 0. Collisions probe the next slot (Knuth, The Art of Computer Programming 3, section 6.4, algorithm L).
A batch is looked up and stored as columns: each round settles all streams whose slot is decided.

The table holds what was committed (`table.py` says what that means over crashes); what batches on their way
to the disk have been promised is kept beside it in memory.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash

from evtool.files import Files, forget_all
from evtool.log.table import FEW, Column, Mapped, MappedTable, Mask

_SLOT = np.dtype([("high", "<u8"), ("low", "<u8"), ("version", "<i8")])
_KEY = struct.Struct("<2Q")
_GROW_SLOTS = 1 << 20

Keys: TypeAlias = "np.ndarray[Any, Any]"  # n x 2 of uint64
Versions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def stream_keys(stream_ids: Sequence[bytes]) -> Keys:
    """The 128-bit keys of streams given as UTF-8: n x 2, uint64."""
    digest = xxhash.xxh3_128_digest
    return np.frombuffer(b"".join(map(digest, stream_ids)), "<u8").reshape(-1, 2)


@dataclass(frozen=True)
class Promise:
    """The last versions (each at least 1) that some different streams will have after a batch."""

    stream_ids: Sequence[bytes]
    keys: Keys
    versions: Versions


class StreamVersions(MappedTable):
    """Stream -> last version, for the writer of a log."""

    file_name = "streams.table"
    magic = b"EVSTRM01"
    column_types = (_SLOT,)
    load_max = 0.6
    growth = 2

    def __init__(self, files: Files, folder: Path, log_id: bytes, mapped: Mapped | None = None) -> None:
        self._mutex = threading.Lock()
        self._reserved: dict[bytes, int] = {}
        self._batches: deque[Promise] = deque()
        super().__init__(files, folder, log_id, mapped)

    def pairs(self) -> Iterator[tuple[Keys, Versions]]:
        """Everything that is found, in blocks: keys and versions of streams."""
        for (slots,) in self.kept():
            yield np.stack([slots["high"], slots["low"]], axis=1), slots["version"]

    def lookup(self, stream_ids: Sequence[bytes], keys: Keys) -> Versions:
        """The last version of each (different) stream, reserved or committed; 0 for a new one."""
        with self._mutex:
            versions = self._find(keys)
            if self._reserved:
                reserved = self._reserved.get
                for row, stream_id in enumerate(stream_ids):
                    versions[row] = reserved(stream_id, versions[row])
        return versions

    def lookup_one(self, stream_id: bytes) -> int:
        """The same for one stream, without columns."""
        with self._mutex:
            version = self._reserved.get(stream_id)
            if version is None:
                _, version = _find_one(self._mapped.columns[0], *_KEY.unpack(xxhash.xxh3_128_digest(stream_id)))
                self._used(1)
        return version

    def reserve(self, promise: Promise) -> None:
        """Promise versions to a batch; batches are committed in the order of their reservations."""
        with self._mutex:
            self._reserved.update(zip(promise.stream_ids, promise.versions.tolist(), strict=True))
            self._batches.append(promise)

    def settle(self, applied: int) -> None:
        """Store what the oldest reservation promised: its batch, up to position `applied`, is durable."""
        with self._mutex:
            promise = self._batches.popleft()
            self._store(promise.keys, promise.versions)
            self.mark_applied(applied)
            if not self._batches:
                self._reserved.clear()
                return
            for stream_id, version in zip(promise.stream_ids, promise.versions.tolist(), strict=True):
                if self._reserved.get(stream_id) == version:
                    del self._reserved[stream_id]

    def apply(self, stream_ids: Sequence[bytes], versions: Versions) -> None:
        """Store what committed events say (each stream's highest version); `mark_applied` comes after all."""
        with self._mutex:
            self._store(stream_keys(stream_ids), versions)

    def raise_to(self, keys: Keys, versions: Versions) -> None:
        """Store what committed events say whose streams are known by their keys alone, which may repeat, unless
        more is known of them.
        """
        order = np.lexsort((versions, keys[:, 1], keys[:, 0]))
        keys, versions = keys[order], versions[order]
        is_last = np.append((keys[1:] != keys[:-1]).any(axis=1), True)[: len(keys)]
        keys, versions = keys[is_last], versions[is_last]
        with self._mutex:
            is_more = versions > self._find(keys)
            self._store(keys[is_more], versions[is_more])

    def _find(self, keys: Keys) -> Versions:
        (slots,) = self._mapped.columns
        versions = np.zeros(len(keys), np.int64)
        for part in self._parts(_home(slots, keys)):
            versions[part] = _find(slots, keys[part])
            self._used(len(part))
        return versions

    def _store(self, keys: Keys, versions: Versions) -> None:
        self._make_room(len(keys))
        (slots,), header = self._mapped.columns, self._mapped.header
        header["count"] += len(keys)  # before, so that whoever ends this process leaves no count that is too low
        new = 0
        if len(keys) <= FEW:
            new = _put_few(slots, keys, versions)
            self._used(len(keys))
        else:
            for part in self._parts(_home(slots, keys)):
                new += _put(slots, keys[part], versions[part])
                self._used(len(part))
        header["count"] -= len(keys) - new

    @staticmethod
    def _is_used(*columns: Column) -> Mask:
        used: Mask = columns[0]["version"] != 0
        return used

    @staticmethod
    def _wanted(capacity: int, *columns: Column) -> Column:
        return (columns[0]["high"] & np.uint64(capacity - 1)).astype(np.int64)

    @classmethod
    def _is_capacity(cls, capacity: int) -> bool:
        return capacity > 0 and capacity & (capacity - 1) == 0

    def _count_used(self, mapped: Mapped) -> int:
        return int(np.count_nonzero(mapped.columns[0]["version"]))

    def _refill(self, old: Mapped, new: Mapped) -> int:
        (slots,), (larger,) = old.columns, new.columns
        count = 0
        for start in range(0, len(slots), _GROW_SLOTS):
            part = slots[start : start + _GROW_SLOTS]
            part = part[part["version"] != 0]
            count += _put(larger, np.stack([part["high"], part["low"]], axis=1), part["version"])
            forget_all(old.memory)  # each slot becomes one of two, both in order: what lies behind is done with
            forget_all(new.memory)
        return count


def _find(slots: Column, keys: Keys) -> Versions:
    """The version of each stream; 0 for one that is not there."""
    versions = np.zeros(len(keys), np.int64)
    pending = np.arange(len(keys))
    at = _home(slots, keys)
    while len(pending):
        found = slots[at]
        same = (found["high"] == keys[pending, 0]) & (found["low"] == keys[pending, 1])
        versions[pending[same]] = found["version"][same]
        go_on = ~same & (found["version"] != 0)
        pending, at = pending[go_on], _next(slots, at[go_on])
    return versions


def _put(slots: Column, keys: Keys, versions: Versions) -> int:
    """Store, and return how many streams are new."""
    pending = np.arange(len(keys))
    at = _home(slots, keys)
    new = 0
    while len(pending):
        found = slots[at]
        same = (found["high"] == keys[pending, 0]) & (found["low"] == keys[pending, 1])
        empty = found["version"] == 0
        # Of several new streams that want one empty slot, the one that numpy writes last gets it;
        # the others see a stranger there and go on.
        claim = np.zeros(int(empty.sum()), _SLOT)
        claimed = pending[empty]
        claim["high"], claim["low"], claim["version"] = (
            keys[claimed, 0],
            keys[claimed, 1],
            versions[claimed],
        )
        slots[at[empty]] = claim
        won = np.zeros(len(pending), bool)
        won[empty] = (slots["high"][at[empty]] == claim["high"]) & (slots["low"][at[empty]] == claim["low"])
        slots["version"][at[same]] = versions[pending[same]]
        new += int(won.sum())
        go_on = ~same & ~won
        pending, at = pending[go_on], _next(slots, at[go_on])
    return new


def _find_one(slots: Column, high: int, low: int) -> tuple[int, int]:
    """The slot that a stream has or would have, and its version: 0 where it has none."""
    at = high & (len(slots) - 1)
    while True:
        held_high, held_low, version = slots.item(at)
        if not version or (held_high == high and held_low == low):
            return at, version
        at = (at + 1) & (len(slots) - 1)


def _put_few(slots: Column, keys: Keys, versions: Versions) -> int:
    """The same as `_put`, stream by stream."""
    new = 0
    for (high, low), version in zip(keys.tolist(), versions.tolist(), strict=True):
        at, before = _find_one(slots, high, low)
        slots[at] = (high, low, version)
        new += not before
    return new


def _home(slots: Column, keys: Keys) -> Column:
    return (keys[:, 0] & np.uint64(len(slots) - 1)).astype(np.int64)


def _next(slots: Column, at: Column) -> Column:
    return (at + 1) & (len(slots) - 1)
