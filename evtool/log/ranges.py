"""The bytes of a cold segment's events file, by range: of a mapped file here, of an object in archived.py.

A piece is where some bytes lie, how many they are, and their checksum: a column of a row group, or the footer.
What is given for one has not been checked: whoever asked holds it against the checksum.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from evtool.files import forget
from evtool.log.format import checksum

if TYPE_CHECKING:
    import pyarrow as pa

_PART_BYTES = 16 * 1024 * 1024


class Piece(NamedTuple):
    """Some bytes of a file: where they start, how many they are, and their checksum."""

    start: int
    size: int
    checksum: int

    def is_of(self, data: bytes | memoryview) -> bool:
        """Whether these are its bytes."""
        return len(data) == self.size and checksum(data) == self.checksum


class Ranges(Protocol):
    """A file that is read by pieces, of `size` bytes."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def place(self) -> Path | str:
        """Its path, or the URL of its object."""

    @property
    def is_archived(self) -> bool:
        """Whether it is in the archive, and not here."""

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece. Raises StoreError; LogDamagedError where an object is shorter than it was."""

    def file(self, pieces: Sequence[Piece], found: Sequence[memoryview]) -> pa.NativeFile:
        """The file for Arrow, which reads no more of it than these pieces, as they were `read`."""

    def fetched(self, pieces: Sequence[Piece]) -> Ranges:
        """The same with these pieces at hand; itself where they are."""

    def parts(self) -> Iterator[memoryview]:
        """All of it, a part at a time, in order. Raises as `read`."""

    def forget(self, start: int, end: int) -> None:
        """Let go of the memory that reading these bytes took."""


class MappedFile:
    """A file of this machine. It holds the mapping, and stays valid when the file is removed."""

    is_archived = False

    def __init__(self, path: Path, data: memoryview) -> None:
        self.place = path
        self.data = data
        self.size = len(data)

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """Slices of the mapping."""
        data = self.data
        return [data[start : start + size] for start, size, _ in pieces]

    def file(self, pieces: Sequence[Piece], found: Sequence[memoryview]) -> pa.NativeFile:
        """All of it."""
        import pyarrow as pa

        return pa.BufferReader(pa.py_buffer(self.data))

    def fetched(self, pieces: Sequence[Piece]) -> MappedFile:
        """Itself."""
        return self

    def parts(self) -> Iterator[memoryview]:
        """Slices of the mapping, each forgotten behind its use."""
        for start in range(0, len(self.data), _PART_BYTES):
            end = min(start + _PART_BYTES, len(self.data))
            yield self.data[start:end]
            forget(self.data, start, end)

    def forget(self, start: int, end: int) -> None:
        """Give back the pages."""
        forget(self.data, start, end)


class Sparse(io.RawIOBase):
    """A file of which some pieces are there, in memory; a read that begins in one of them ends there, too."""

    def __init__(self, pieces: Sequence[Piece], found: Sequence[memoryview], size: int) -> None:
        super().__init__()
        self._pieces = [(piece.start, data) for piece, data in zip(pieces, found, strict=True)]
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from where it is; 0 where nothing is there."""
        view = memoryview(buffer).cast("B")
        for start, data in self._pieces:
            if start <= self._at < start + len(data):
                some = data[self._at - start : self._at - start + len(view)]
                view[: len(some)] = some
                self._at += len(some)
                return len(some)
        return 0
