"""What an object store is to evtool: named bytes that are there whole or not at all.

    put(name, data)          in the place of what has this name; when it returns, the object is stored
    get(name)                all of a small object
    read(name, start, end)   some bytes of a large one
    read_ranges(name, spans) several such at once
    head(name)               is it there, how large is it
    list(prefix)             all whose names begin like this
    delete(name)             it need not be there

Names are relative, with `/` between their parts. An object that is absent is a FileNotFoundError, for the caller
to speak of; whatever else goes wrong is a StoreError or, of a folder, a StorageError.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evtool.files import Buffer

PART_BYTES = 8 * 1024 * 1024  # what is sent or read at once


@dataclass(frozen=True)
class Stored:
    """An object: its name, bytes, and when it was put (seconds since 1970, by the clock of the store)."""

    name: str
    bytes: int
    stored_at: float


class Store(ABC):
    """One place for objects. `url` names it, without any secret."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def put(self, name: str, data: Buffer) -> None:
        """Store an object, whole or not at all. Raises StoreError, StorageError."""

    @abstractmethod
    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or to the object's end. Raises FileNotFoundError, StoreError."""

    def read_ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[Buffer]:
        """The bytes of each span, as `read` gives them. Raises FileNotFoundError, StoreError."""
        return [self.read(name, start, end) for start, end in spans]

    @abstractmethod
    def get(self, name: str) -> bytes:
        """All bytes of a small object. Raises FileNotFoundError, StoreError."""

    @abstractmethod
    def head(self, name: str) -> Stored | None:
        """What is known of an object; None when it is absent. Raises StoreError."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Stored]:
        """The objects whose names begin with `prefix`, which ends with a `/` or is empty. Raises StoreError."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object, if it is there. Raises StoreError."""

    def parts(self, name: str, size: int) -> Iterator[bytes]:
        """The first `size` bytes of an object, a part at a time; fewer where it is shorter."""
        for start in range(0, size, PART_BYTES):
            yield self.read(name, start, min(start + PART_BYTES, size))

    def sha256(self, name: str, size: int) -> str:
        """SHA-256 of the first `size` bytes of an object, read back, as 64 hexadecimal digits."""
        found = hashlib.sha256()
        for part in self.parts(name, size):
            found.update(part)
        return found.hexdigest()
