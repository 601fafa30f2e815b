"""A hash table in a memory-mapped file: what the derived tables of a log have in common.

A file is a header of 4 KiB and then columns of `capacity` values each, one column behind the other; a slot
is a value of each of them. What a slot means is for the class that derives from MappedTable; this one
makes the file, finds out whether it may be believed, and grows it: into a new file that then takes the
place of the old one, so that there is a whole table at any moment.

The file is a cache of committed events. `applied` says up to which position it was brought; events after
it are applied again at the next open, which must change nothing where they were in it already. `synced`
is the same for what has reached stable storage: after a power cut the table goes on from there. Of its
pages any may then be newer than that, so a slot may be there, or a part of one, that no count knows of.

A table that is closed says what its slots hold, by a checksum, and is not believed when they hold anything else: a
flipped bit would let an event in twice. The checksum goes when a writer opens the table, and a table of more than
CHECKED_BYTES has none, as each start would have to read all of it: `evtool verify` does.

Pages that were used count as memory of the process. Of a table of any size no more than about RESIDENT_BYTES
do: rows are worked on in the order of the slots that they want, in parts, and what a part used is forgotten.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import xxhash

from evtool.files import Files, boot_identity, forget_all, translated

HEADER_BYTES = 4096
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("log_id", "V16"),
        ("capacity", "<u8"),
        ("count", "<u8"),
        ("applied", "<i8"),
        ("synced", "<i8"),
        ("boot", "<u8"),
        ("checksum", "<u8"),  # XXH3-64 of the slots, where nobody has opened the table to write since; else 0
    ]
)

SMALL_SLOTS, SMALL_GROWTH = 1 << 21, 4  # below so many slots space matters less than growing again and again
RESIDENT_BYTES = 128 << 20
CHECKED_BYTES = RESIDENT_BYTES
_SCAN_SLOTS = 1 << 18
_FAULT_BYTES = 64 << 10  # which the kernel maps at once around a byte that is asked for
PART_ROWS = 1 << 15  # what is worked on at once stays in the processor's cache
FEW = 32  # so many are found and stored one by one sooner than as columns

Column: TypeAlias = "np.ndarray[Any, Any]"
Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


@dataclass(frozen=True)
class Mapped:
    """A table's file, mapped. The arrays hold the mapping: it goes with the last of them."""

    memory: mmap.mmap | memoryview
    header: np.ndarray[Any, Any]
    columns: tuple[Column, ...]

    @property
    def capacity(self) -> int:
        """Its slots."""
        return len(self.columns[0])


class MappedTable(ABC):
    """A table of one log. One thread changes it; `applied`, `reaches` and `len` may be asked by any."""

    file_name: ClassVar[str]
    magic: ClassVar[bytes]  # 8 bytes
    column_types: ClassVar[tuple[np.dtype[Any], ...]]
    capacity_min: ClassVar[int] = 1 << 12
    load_max: ClassVar[float]  # the part of the slots that may be in use
    growth: ClassVar[float]  # by which the capacity is multiplied, once it is not small any more

    def __init__(self, files: Files, folder: Path, log_id: bytes, mapped: Mapped | None = None) -> None:
        self._files = files
        self._path = folder / self.file_name
        self._log_id = log_id
        self._rows_used = 0  # since the mapping was forgotten
        if mapped is not None:
            self._mapped = mapped
            return
        files.make_folder(folder)
        mapped = self._open(files, self._path, log_id)
        if mapped is None:
            self.reset()
            return
        self._mapped = mapped
        mapped.header["checksum"] = 0
        if not self._is_of_this_boot():  # a power cut may have kept a slot and lost its count
            mapped.header["count"] = self._count_used(mapped)

    @classmethod
    def open_read(cls, files: Files, folder: Path, log_id: bytes) -> Self | None:
        """The table as it is on disk, for one who only asks; None when there is none that can be believed."""
        try:
            mapped = cls._open(files, folder / cls.file_name, log_id, read_only=True)
        except FileNotFoundError:
            return None
        return None if mapped is None else cls(files, folder, log_id, mapped)

    @property
    def applied(self) -> int:
        """The position up to which the table is sure to hold every event."""
        header = self._mapped.header
        return int(header["applied"] if self._is_of_this_boot() else header["synced"])

    @property
    def reaches(self) -> int:
        """The last position that may have left something in the table."""
        header = self._mapped.header
        return max(int(header["applied"]), int(header["synced"]))

    def __len__(self) -> int:
        return int(self._mapped.header["count"])

    def mark_applied(self, position: int) -> None:
        """State that the table holds every event up to `position`."""
        header = self._mapped.header
        header["applied"] = position
        header["boot"] = boot_identity()

    def sync(self) -> None:
        """Bring the table to stable storage. Called when a segment is sealed and at the end."""
        self._sync(0)

    def reset(self) -> None:
        """Forget everything, to be built from the log anew."""
        self._mapped = self._create(self._path, self.capacity_min)

    def close(self) -> None:
        """Sync and unmap."""
        self._sync(_checksum(self._mapped.memory))
        del self._mapped

    def _sync(self, checksum: int) -> None:
        mapped, applied = self._mapped, self.applied
        self._flush(self._path, mapped)
        mapped.header["synced"], mapped.header["checksum"] = applied, checksum
        self._flush(self._path, mapped)

    def kept(self) -> Iterator[tuple[Column, ...]]:
        """The columns of all slots that are in use and are met by who starts at the slot that they want, in
        blocks, copied. Another process may store meanwhile.
        """
        capacity = self._mapped.capacity
        last_empty = self._last_empty() - capacity  # as seen from slot 0: the table goes on there behind its end
        for start in range(0, capacity, _SCAN_SLOTS):
            columns = tuple(column[start : start + _SCAN_SLOTS].copy() for column in self._mapped.columns)
            numbers = np.arange(start, start + len(columns[0]))
            in_use = self._is_used(*columns)
            empty_before = np.maximum.accumulate(np.where(in_use, last_empty, numbers))
            last_empty = int(empty_before[-1])
            steps = numbers - self._wanted(capacity, *columns)
            steps[steps < 0] += capacity  # from the end of the table it goes on at its beginning
            met = in_use & (numbers - steps > empty_before)
            forget_all(self._mapped.memory)
            yield tuple(column[met] for column in columns)

    def _last_empty(self) -> int:
        """The last slot that is not in use; -1 if all are."""
        for end in range(self._mapped.capacity, 0, -_SCAN_SLOTS):
            columns = (column[max(end - _SCAN_SLOTS, 0) : end] for column in self._mapped.columns)
            empty = np.flatnonzero(~self._is_used(*columns))
            if len(empty):
                return max(end - _SCAN_SLOTS, 0) + int(empty[-1])
        return -1

    @staticmethod
    @abstractmethod
    def _is_used(*columns: Column) -> Mask:
        """Which slots are in use."""

    @staticmethod
    @abstractmethod
    def _wanted(capacity: int, *columns: Column) -> Column:
        """The slot that each wants first."""

    def _parts(self, wishes: Column) -> Iterator[Rows]:
        """The rows in parts that are worked on one after another; `wishes` rise with the slots that they want."""
        rows, part_rows = np.arange(len(wishes)), PART_ROWS
        size = len(self._mapped.memory)
        if size > RESIDENT_BYTES:
            rows = np.argsort(wishes)
            part_rows = min(PART_ROWS, max(len(rows) * RESIDENT_BYTES // size, RESIDENT_BYTES // _FAULT_BYTES))
        for start in range(0, len(rows), part_rows):
            yield rows[start : start + part_rows]

    def _used(self, rows: int) -> None:
        """Note that so many rows were looked for or stored, and forget what that took before it is too much."""
        self._rows_used += rows
        if self._rows_used * _FAULT_BYTES >= RESIDENT_BYTES:
            self._rows_used = 0
            if len(self._mapped.memory) > RESIDENT_BYTES:
                forget_all(self._mapped.memory)

    @abstractmethod
    def _count_used(self, mapped: Mapped) -> int:
        """How many slots are in use."""

    @abstractmethod
    def _refill(self, old: Mapped, new: Mapped) -> int:
        """Store everything that is in `old` in `new`, which is larger and empty; how many slots that takes."""

    @classmethod
    def _is_capacity(cls, capacity: int) -> bool:
        """Whether a table can have so many slots."""
        return capacity > 0

    @classmethod
    def _open(cls, files: Files, path: Path, log_id: bytes, read_only: bool = False) -> Mapped | None:
        """The table in a file, if it is one of this log."""
        size = files.size(path)
        if size <= HEADER_BYTES:
            return None
        memory = files.map(path) if read_only else files.map_writable(path, size)
        if len(memory) <= HEADER_BYTES:
            return None
        header = np.frombuffer(memory, HEADER, 1).reshape(())
        capacity = int(header["capacity"])
        fits = len(memory) == cls._size_of(capacity) and cls._is_capacity(capacity)
        fits &= int(header["count"]) <= capacity  # a count with a bit more would let it grow over the whole disk
        mine = header["magic"] == cls.magic and header["log_id"].tobytes() == log_id
        return cls._take(memory, capacity) if fits and mine and _is_as_closed(memory, header) else None

    @classmethod
    def _size_of(cls, capacity: int) -> int:
        return HEADER_BYTES + capacity * sum(kind.itemsize for kind in cls.column_types)

    @classmethod
    def _take(cls, memory: mmap.mmap | memoryview, capacity: int) -> Mapped:
        columns, start = [], HEADER_BYTES
        for kind in cls.column_types:
            columns.append(np.frombuffer(memory, kind, capacity, start))
            start += capacity * kind.itemsize
        return Mapped(memory, np.frombuffer(memory, HEADER, 1).reshape(()), tuple(columns))

    def _create(self, path: Path, capacity: int) -> Mapped:
        self._files.remove(path)
        mapped = self._take(self._files.map_writable(path, self._size_of(capacity)), capacity)
        mapped.header["magic"], mapped.header["capacity"] = self.magic, capacity
        mapped.header["log_id"] = np.void(self._log_id)
        return mapped

    def _make_room(self, more: int) -> None:
        """Let so many slots more be used. Raises StorageError; then the table is as it was."""
        old = self._mapped
        needed, capacity = len(self) + more, old.capacity
        if needed <= capacity * self.load_max:
            return
        while needed > capacity * self.load_max:
            capacity = int(capacity * (self.growth if capacity >= SMALL_SLOTS else SMALL_GROWTH))
        larger = self._path.with_suffix(".growing")
        new = self._create(larger, capacity)
        new.header["count"] = self._refill(old, new)
        # Not what the old header says: of another boot it may tell of events that are being applied again.
        new.header["applied"] = new.header["synced"] = self.applied
        new.header["boot"] = boot_identity()
        self._flush(larger, new)
        with translated("rename", larger):
            self._files.replace(larger, self._path)
        self._mapped = new

    def _flush(self, path: Path, mapped: Mapped) -> None:
        assert isinstance(mapped.memory, mmap.mmap), "it was opened to be read"
        self._files.flush(path, mapped.memory)

    def _is_of_this_boot(self) -> bool:
        return boot_identity() != 0 and int(self._mapped.header["boot"]) == boot_identity()


def _is_as_closed(memory: mmap.mmap | memoryview, header: np.ndarray[Any, Any]) -> bool:
    """Whether the slots are those that the table was closed with, as far as is known. A writer may open it now."""
    if not header["checksum"]:
        return True
    found = _checksum(memory)
    return not found or not header["checksum"] or bool(header["checksum"] == found)


def _checksum(memory: mmap.mmap | memoryview) -> int:
    """Of all slots; 0 where they are too many."""
    if len(memory) > CHECKED_BYTES:
        return 0
    with memoryview(memory) as data, data[HEADER_BYTES:] as slots:
        return xxhash.xxh3_64_intdigest(slots)
