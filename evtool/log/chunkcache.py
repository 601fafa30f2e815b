"""Pieces of an archive's objects that were fetched, kept in files up to a size: what was used last stays longest.

What was fetched together is one file, a *pack*, in a folder for its object: a table of its pieces (their number as
u64, and for each its start, size and checksum as u64), then their bytes. A piece is believed when its bytes match
the checksum that the map of the segment has; where they do not, the pack goes, and they are fetched again.

Several processes share a cache without a lock: a pack is there whole or not at all, and may go at any time. Before
a process writes a sixteenth of the size, or a pack that is larger, it looks through all of them, and removes the
oldest, unfinished ones too: so one process keeps to the size, and each further one exceeds it by as much at the
most. Where nothing can be written, nothing is kept, and nobody is told.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from evtool.errors import StorageError
from evtool.files import Files, translated
from evtool.log.ranges import Piece

_SHARES = 16  # after one of them was written, all are looked through
_COUNT_BYTES = 8
_REMOVED = ".removed"  # of a folder that is
_RECORD = np.dtype([("start", "<u8"), ("size", "<u8"), ("checksum", "<u8")])


@dataclass
class _Known:
    """What is known of an object's folder: packs whose tables were read, and where in which one a piece starts.

    `identity` is that of the folder when it was looked at: another one where a pack came or went since.
    """

    identity: tuple[int, ...] = ()
    packs: set[Path] = field(default_factory=set)
    places: dict[Piece, tuple[Path, int]] = field(default_factory=dict)


class ChunkCache:
    """The cache in a folder, of `limit_bytes` at the most."""

    def __init__(self, files: Files, folder: Path, limit_bytes: int) -> None:
        self._files = files
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._mutex = threading.Lock()
        self._granted_bytes = 0  # may be written before all are looked through
        self._is_writable = limit_bytes > 0
        self._known: dict[Path, _Known] = {}

    @property
    def stored_bytes(self) -> int:
        """What it takes."""
        return self._files.folder_size(self._folder)

    def get(self, name: str, pieces: Sequence[Piece]) -> list[memoryview | None]:
        """Pieces of an object; None for each that is not here, or is not what was fetched."""
        if not self._limit_bytes:
            return [None] * len(pieces)
        places = self._looked_at(self._folder_of(name)).places
        packs: dict[Path, memoryview] = {}
        found: list[memoryview | None] = []
        for piece in pieces:
            path, offset = places.get(piece, (None, 0))
            if path is None:
                found.append(None)
                continue
            if path not in packs:
                packs[path] = self._pack(path)
                self._files.touch(path)
            data = packs[path][offset : offset + piece.size]
            is_whole = piece.is_of(data)
            found.append(data if is_whole else None)
            if not is_whole:
                self._remove(path)
                places.pop(piece, None)
        return found

    def put(self, name: str, pieces: Sequence[Piece], data: bytes) -> None:
        """Keep pieces whose bytes are `data`, one behind the other, if that can be done."""
        table = np.array(pieces, _RECORD)
        record = len(pieces).to_bytes(_COUNT_BYTES, "little") + table.tobytes()
        size = len(record) + len(data)
        if not self._is_writable or size > self._limit_bytes // 2:
            return
        folder = self._folder_of(name)
        path = folder / xxhash.xxh3_128_hexdigest(record)
        try:
            self._make_room(size)
            self._files.make_folder(folder)
            self._files.write_whole(path, record + data, durable=False, shared=True)
        except (OSError, StorageError):
            self._is_writable = False  # a full disk, a folder to read only: what there is stays
            return
        with self._mutex:
            known = self._known.setdefault(folder, _Known())
            known.packs.add(path)
            known.places |= _places(path, record)
            # Who has looked at all of it need not again; of another process' pack of this moment it may miss some.
            known.identity = self._files.identity(folder) if known.identity else ()

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove what is of other objects: they are gone, and what they held must be, too. Raises StorageError.

        Each folder is renamed first: readers, who go on, may put a pack there. No two may do this at once.
        """
        kept = {self._folder_of(name).name for name in names}
        for entry in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if not entry.is_dir():
                self._files.remove(entry)
            elif entry.name not in kept:
                removed = entry.with_suffix(_REMOVED)
                if entry != removed:
                    self._files.remove_folder(removed)
                    with contextlib.suppress(FileNotFoundError), translated("rename", entry):
                        self._files.replace(entry, removed)
                self._files.remove_folder(removed)

    def _folder_of(self, name: str) -> Path:
        return self._folder / xxhash.xxh3_128_hexdigest(name.encode())

    def _looked_at(self, folder: Path) -> _Known:
        """What is in the folder of an object now."""
        with self._mutex:
            known = self._known.setdefault(folder, _Known())
            with contextlib.suppress(OSError, StorageError):
                identity = self._files.identity(folder)
                if known.identity != identity:
                    for _, _, path in self._files.entries(folder):
                        if path not in known.packs and not path.suffix:
                            known.places |= _places(path, self._pack(path))
                            known.packs.add(path)
                    known.identity = identity
            return known

    def _pack(self, path: Path) -> memoryview:
        """All of a pack; nothing where it has gone, or cannot be read."""
        try:
            return self._files.map(path)
        except (OSError, StorageError):
            return memoryview(b"")

    def _make_room(self, size: int) -> None:
        """Let so many bytes be written: remove what was used longest ago, where there is too much."""
        with self._mutex:
            if size > self._granted_bytes:
                grant = max(size, self._limit_bytes // _SHARES)
                packs = sorted(self._files.entries(self._folder))
                total = sum(size for _, size, _ in packs)
                wanted = self._limit_bytes - grant
                for _, pack_bytes, path in packs if total > wanted else []:
                    if total <= wanted - grant:  # not at once again
                        break
                    self._remove(path)
                    total -= pack_bytes
                self._granted_bytes = grant
            self._granted_bytes -= size

    def _remove(self, path: Path) -> None:
        try:
            self._files.remove(path)
        except StorageError:
            self._is_writable = False


def _places(path: Path, data: bytes | memoryview) -> dict[Piece, tuple[Path, int]]:
    """What the table of a pack says; nothing where it makes no sense."""
    start = _COUNT_BYTES + int.from_bytes(data[:_COUNT_BYTES], "little") * _RECORD.itemsize
    if not _COUNT_BYTES < start <= len(data):
        return {}
    table = np.frombuffer(data[_COUNT_BYTES:start], _RECORD)
    offsets = (start + np.cumsum(table["size"]) - table["size"]).tolist()
    return {Piece(*row): (path, at) for row, at in zip(table.tolist(), offsets, strict=True)}
