"""Pieces of an archive's objects that were fetched, kept as files up to a size: what was used last stays longest.

Several processes share it without a lock: a file is there whole or not at all, its name says what it is, and its
bytes are believed when they match the checksum that the map of the segment has. So whatever happens to a file, it
is fetched again at the worst. Each process looks through all of them after it has written a share of the size
(or before it writes for the first time), and removes the oldest, unfinished ones too. So one process keeps to the
size, and each further one exceeds it by that share at the most. Where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import threading
from pathlib import Path

import xxhash

from evtool.errors import StorageError
from evtool.files import Files
from evtool.log.ranges import Piece

_SHARES = 16  # after one of them was written, all are looked through


class ChunkCache:
    """The cache in a folder, of `limit_bytes` at the most."""

    def __init__(self, files: Files, folder: Path, limit_bytes: int) -> None:
        self._files = files
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._share_bytes = limit_bytes // _SHARES
        self._mutex = threading.Lock()
        self._written_bytes = limit_bytes  # since all were looked through, which nobody has done yet
        self._is_writable = limit_bytes > 0

    def get(self, name: str, piece: Piece) -> memoryview | None:
        """A piece of an object; None where it is not here, or is not what was fetched."""
        if not self._limit_bytes:
            return None
        path = self._path(name, piece)
        try:
            data = self._files.read_whole(path)
        except (FileNotFoundError, NotADirectoryError, StorageError):
            return None
        if not piece.is_of(data):
            self._remove(path)
            return None
        self._files.touch(path)
        return memoryview(data)

    def put(self, name: str, piece: Piece, data: memoryview) -> None:
        """Keep a piece, if that can be done."""
        if not self._is_writable or piece.size > self._share_bytes:
            return
        with self._mutex:
            is_due = self._written_bytes + piece.size > self._share_bytes
            self._written_bytes = 0 if is_due else self._written_bytes
            self._written_bytes += piece.size
        try:
            if is_due:
                self._make_room()
            self._files.write_loose(self._path(name, piece), data)
        except (OSError, StorageError):
            self._is_writable = False  # a full disk, a folder to read only: what there is stays

    def _path(self, name: str, piece: Piece) -> Path:
        numbers = b"".join(number.to_bytes(8, "little") for number in piece)
        key = xxhash.xxh3_128_hexdigest(name.encode() + b"\0" + numbers)
        return self._folder / key[:2] / key[2:]

    def _make_room(self) -> None:
        """Remove what was used longest ago, where there is too much."""
        found = sorted(self._files.entries(self._folder))
        total = sum(size for _, size, _ in found)
        if total <= self._limit_bytes - self._share_bytes:
            return
        for _, size, path in found:
            self._remove(path)
            total -= size
            if total <= self._limit_bytes - 2 * self._share_bytes:
                return

    def _remove(self, path: Path) -> None:
        try:
            self._files.remove(path)
        except StorageError:
            self._is_writable = False
