"""The last version of every stream, on disk: an open-addressing hash table in a memory-mapped file.

A stream is known by the 128 bits of XXH3-128 of its id; among a thousand million streams two would
share them with a probability of 10^-21. A slot is (key high, key low, version), empty when the version
is 0. Collisions probe the next slot (Knuth, The Art of Computer Programming 3, section 6.4, algorithm L).
A batch is looked up and stored as columns: each round settles all streams whose slot is decided.

The file is a cache of committed events; what batches on their way to the disk have been promised is kept
beside it in memory. `applied` says up to which position it was brought; events after
it are applied again at the next open, which changes nothing where they were in it already. `synced` is
the same for what has reached stable storage: after a power cut the table goes on from there.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash

from evtool.files import Files, boot_identity

TABLE_FILE = "streams.table"
_MAGIC = b"EVSTRM01"
_HEADER_BYTES = 4096
_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("log_id", "V16"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("applied", "<i8"),
        ("synced", "<i8"),
        ("boot", "<u8"),
    ]
)
_SLOT = np.dtype([("high", "<u8"), ("low", "<u8"), ("version", "<i8")])
_CAPACITY_MIN = 1 << 12
_LOAD_MAX = 0.6
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


class StreamVersions:
    """Stream -> last version, for the writer of a log."""

    def __init__(self, files: Files, folder: Path, log_id: bytes) -> None:
        self._files = files
        self._path = folder / TABLE_FILE
        self._log_id = log_id
        files.make_folder(folder)
        self._map: mmap.mmap | None = None
        self._mutex = threading.Lock()
        self._reserved: dict[bytes, int] = {}
        self._batches: deque[Promise] = deque()
        if not self._open():
            self.reset()

    @property
    def applied(self) -> int:
        """The position up to which the table is sure to hold every stream's last version."""
        return int(self._header["applied"] if self._is_of_this_boot() else self._header["synced"])

    @property
    def reaches(self) -> int:
        """The last position that may have left something in the table."""
        return max(int(self._header["applied"]), int(self._header["synced"]))

    def __len__(self) -> int:
        return int(self._header["count"])

    def lookup(self, stream_ids: Sequence[bytes], keys: Keys) -> Versions:
        """The last version of each (different) stream, reserved or committed; 0 for a new one."""
        with self._mutex:
            versions = self._find(keys)
            if self._reserved:
                reserved = self._reserved.get
                for row, stream_id in enumerate(stream_ids):
                    versions[row] = reserved(stream_id, versions[row])
        return versions

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

    def mark_applied(self, position: int) -> None:
        """State that the table holds every stream's last version up to `position`."""
        self._header["applied"] = position
        self._header["boot"] = boot_identity()

    def sync(self) -> None:
        """Bring the table to stable storage. Called when a segment is sealed and at the end."""
        assert self._map is not None
        self._map.flush()
        self._header["synced"] = self._header["applied"]
        self._map.flush()

    def _find(self, keys: Keys) -> Versions:
        versions = np.zeros(len(keys), np.int64)
        pending = np.arange(len(keys))
        slots = self._home(keys)
        while len(pending):
            found = self._slots[slots]
            same = (found["high"] == keys[pending, 0]) & (found["low"] == keys[pending, 1])
            versions[pending[same]] = found["version"][same]
            go_on = ~same & (found["version"] != 0)
            pending, slots = pending[go_on], self._next(slots[go_on])
        return versions

    def _store(self, keys: Keys, versions: Versions) -> None:
        self._make_room(len(keys))
        self._header["count"] += self._put(self._slots, keys, versions)

    def reset(self) -> None:
        """Forget everything, to be built from the log anew."""
        self._create(self._path, _CAPACITY_MIN)

    def close(self) -> None:
        """Sync and unmap."""
        self.sync()
        self._unmap()

    def _is_of_this_boot(self) -> bool:
        return boot_identity() != 0 and int(self._header["boot"]) == boot_identity()

    def _open(self) -> bool:
        size = self._files.size(self._path)
        if size <= _HEADER_BYTES:
            return False
        self._adopt(self._path, size)
        capacity = int(self._header["capacity"])
        fits = size == _HEADER_BYTES + capacity * _SLOT.itemsize and capacity & (capacity - 1) == 0
        mine = self._header["magic"] == _MAGIC and self._header["log_id"].tobytes() == self._log_id
        if not (fits and mine):
            self._unmap()
        elif not self._is_of_this_boot():  # a power cut may have kept a slot and lost its count
            self._header["count"] = np.count_nonzero(self._slots["version"])
        return bool(fits and mine)

    def _adopt(self, path: Path, size: int) -> None:
        self._map = self._files.map_writable(path, size)
        self._header = np.frombuffer(self._map, _HEADER, 1)[0:1].reshape(())
        self._slots = np.frombuffer(self._map, _SLOT, (size - _HEADER_BYTES) // _SLOT.itemsize, _HEADER_BYTES)

    def _unmap(self) -> None:
        # The arrays hold the mapping; it goes with the last of them.
        self._map = None
        del self._header, self._slots

    def _create(self, path: Path, capacity: int) -> None:
        self._files.remove(path)
        self._adopt(path, _HEADER_BYTES + capacity * _SLOT.itemsize)
        self._header["magic"], self._header["capacity"] = _MAGIC, capacity
        self._header["log_id"] = np.void(self._log_id)

    def _make_room(self, more: int) -> None:
        needed = len(self) + more
        capacity = len(self._slots)
        if needed <= capacity * _LOAD_MAX:
            return
        while needed > capacity * _LOAD_MAX:
            capacity *= 2
        old_slots, old_header = self._slots, self._header.copy()
        larger = self._path.with_suffix(".growing")
        self._create(larger, capacity)
        for start in range(0, len(old_slots), _GROW_SLOTS):
            part = old_slots[start : start + _GROW_SLOTS]
            part = part[part["version"] != 0]
            self._put(self._slots, np.stack([part["high"], part["low"]], axis=1), part["version"])
        for name in ("count", "applied", "boot"):
            self._header[name] = old_header[name]
        self.sync()
        self._files.replace(larger, self._path)

    def _put(self, slots: np.ndarray[Any, Any], keys: Keys, versions: Versions) -> int:
        """Store, and return how many streams are new."""
        pending = np.arange(len(keys))
        at = self._home(keys)
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
            pending, at = pending[go_on], self._next(at[go_on])
        return new

    def _home(self, keys: Keys) -> np.ndarray[Any, Any]:
        return (keys[:, 0] & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _next(self, slots: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (slots + 1) & (len(self._slots) - 1)
