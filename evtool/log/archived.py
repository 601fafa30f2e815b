"""Events of archived segments, read from the archive by range.

What is asked for at once is fetched at once: pieces that lie near each other in one request, and several requests
at the same time. Nothing is asked of the store before a piece is read that the cache does not have.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evtool.errors import LogDamagedError, StorageError, StoreError, StoreRefusedError
from evtool.files import Files
from evtool.log import streamindex
from evtool.log.archive import OBJECT_KEY, PLACE_HINT, read_place, streams_object
from evtool.log.chunkcache import ChunkCache
from evtool.log.format import (
    ARCHIVE_FILE,
    CACHE_FOLDER,
    MIRROR_LOCK_FILE,
    STREAMS_FILE,
    events_file,
    segment_name,
)
from evtool.log.ranges import Piece, Ranges, Sparse
from evtool.log.streamindex import Hashes, Numbers, StreamIndex
from evtool.log.walk import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from evtool.objectstore.store import Store

CACHE_BYTES = 1 << 30
PATIENCE_SECONDS = 60.0

# What lies between two pieces is fetched, too, where that is faster than a request more. By time it could be a few
# times as much, but who bills by the byte takes as much for 5 KB as for a request.
# Several requests of a few megabytes together are faster than a large one.
_GAP_BYTES = 64 * 1024
_REQUEST_BYTES = 4 * 1024 * 1024
_PART_BYTES = 32 * 1024 * 1024  # of a whole object

_DAMAGE_HINT = "Run `evtool verify` to see all of the damage; bring this object back from a copy of the archive."
_GONE_HINT = (
    "Run it again: its segment may have been written anew meanwhile. If it stays so, look whether the bucket or "
    "the folder was changed; bring the object back from a copy of the archive. `evtool verify` tells of all that "
    "is missing."
)


class Archive:
    """The archive of the log in `folder`, as archive.json says; nothing is asked of it before that is needed.

    `fetched_bytes` and `requests` are what was asked of the store so far.
    """

    def __init__(
        self,
        files: Files,
        folder: Path,
        log_id: str,
        cache_bytes: int = CACHE_BYTES,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._files = files
        self._folder = folder
        self._log_id = log_id
        self._patience_seconds = patience_seconds
        self._mutex = threading.Lock()
        self._store: Store | None = None
        self.cache = ChunkCache(files, folder / CACHE_FOLDER, cache_bytes)
        self.fetched_bytes = 0
        self.requests = 0

    @cached_property
    def url(self) -> str:
        """Where it is. Raises LogDamagedError."""
        place = read_place(self._files, self._folder, self._log_id)
        if place is None:
            raise LogDamagedError(
                f"{self._folder / ARCHIVE_FILE} is missing, and segments have their events where it says",
                PLACE_HINT,
            )
        return place.url

    @property
    def store(self) -> Store:
        """The store of it. Raises LogDamagedError, ConfigError."""
        with self._mutex:
            if self._store is None:
                from evtool.objectstore.opening import open_store

                self._store = open_store(self.url, self._files, patience_seconds=self._patience_seconds)
            return self._store

    def events(self, summary: Mapping[str, Any]) -> ArchivedFile:
        """The events file of an archived segment. Raises LogDamagedError."""
        local = self._folder / segment_name(summary["first_position"]) / events_file(summary["generation"])
        return ArchivedFile(self, str(summary[OBJECT_KEY]), int(summary["events_bytes"]), local)

    def streams(self, summary: Mapping[str, Any]) -> memoryview | None:
        """The streams.idx of an archived segment; None where the archive has none. A mirror keeps it.

        Raises StoreError, LogDamagedError, ConfigError.
        """
        try:
            data = self.store.get(streams_object(summary))
        except FileNotFoundError:  # it is worth time, and nothing else
            return None
        with self._mutex:
            self.fetched_bytes += len(data)
            self.requests += 1
        if (self._folder / MIRROR_LOCK_FILE).exists():
            path = self._folder / segment_name(summary["first_position"]) / STREAMS_FILE
            with contextlib.suppress(FileNotFoundError, StorageError):
                self._files.write_whole(path, data, durable=False, shared=True)
        return memoryview(data)

    def brought_back(self, path: Path, size: int) -> memoryview | None:
        """An events file that was brought back since its segment was looked at, if it was."""
        with contextlib.suppress(FileNotFoundError):
            data = self._files.map(path, size)
            return data if len(data) == size else None
        return None

    def where(self, name: str) -> str:
        """An object, as messages name it."""
        return f"{self.url.rstrip('/')}/{name}"

    def fetch(self, name: str, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Bytes of an object from a start to an end, of several spans at once; fewer where it is shorter.

        Raises FileNotFoundError, StoreError, StorageError.
        """
        found = [memoryview(data) for data in self.store.read_ranges(name, spans)]
        with self._mutex:
            self.fetched_bytes += sum(map(len, found))
            self.requests += len(spans)
        return found


class ArchivedStreams:
    """The streams.idx of an archived segment that has none here: fetched when a stream is looked for."""

    def __init__(self, archive: Archive, summary: Mapping[str, Any], log_id: bytes, table: Table) -> None:
        self._archive = archive
        self._summary = summary
        self._log_id = log_id
        self._table = table

    def frames_of(self, hashes: Hashes) -> Numbers | None:
        """As `StreamIndex`; None, too, where the archive has none. Raises StoreError."""
        return self._index.frames_of(hashes) if self._index is not None else None

    @cached_property
    def _index(self) -> StreamIndex | None:
        data = self._archive.streams(self._summary)
        first_position = int(self._summary["first_position"])
        return None if data is None else streamindex.of(data, self._log_id, first_position, self._table)


class ArchivedFile:
    """A file of `size` bytes that is an object of an archive; `local` is where it is when it was brought back."""

    is_archived = True

    def __init__(self, archive: Archive, name: str, size: int, local: Path) -> None:
        self._archive = archive
        self._name = name
        self._local = local
        self.size = size

    @property
    def place(self) -> str:
        """Its URL. Raises LogDamagedError where archive.json is not there: only who reads it has to know."""
        return self._archive.where(self._name)

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece, from the cache, or fetched and kept there."""
        found = self._archive.cache.get(self._name, pieces)
        missing = [piece for piece, data in zip(pieces, found, strict=True) if data is None]
        if missing:
            fetched = iter(self._fetched(missing))
            found = [next(fetched) if data is None else data for data in found]
        return [data for data in found if data is not None]

    def file(self, pieces: Sequence[Piece], found: Sequence[memoryview]) -> pa.NativeFile:
        """A file of these pieces alone."""
        import pyarrow as pa

        return pa.PythonFile(Sparse(pieces, found, self.size), mode="r")

    def fetched(self, pieces: Sequence[Piece]) -> Ranges:
        """The same, with these pieces in memory."""
        return _Held(self, dict(zip(pieces, self.read(pieces), strict=True)))

    def parts(self) -> Iterator[memoryview]:
        """All of it, and nothing of it is kept."""
        for start in range(0, self.size, _PART_BYTES):
            end = min(start + _PART_BYTES, self.size)
            starts = range(start, end, _REQUEST_BYTES)
            yield from self._spans([(at, min(at + _REQUEST_BYTES, end)) for at in starts])

    def forget(self, start: int, end: int) -> None:
        """Nothing: what was read is no mapping."""

    def loss(self) -> str:
        """What of it is not there any more, as a clause; "" where it is as large as it was. Raises StoreError."""
        stored = self._archive.store.head(self._name)
        if stored is None:
            return "" if self._archive.brought_back(self._local, self.size) else "it is missing"
        if stored.bytes < self.size:
            return f"it has {stored.bytes:,} bytes where {self.size:,} were written"
        return ""

    def _fetched(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece from the store."""
        spans = spans_of(pieces)
        data = self._spans(spans)
        found, at = {}, 0
        for piece in sorted(pieces):
            while piece.start + piece.size > spans[at][1]:
                at += 1
            offset = piece.start - spans[at][0]
            found[piece] = data[at][offset : offset + piece.size]
        # Copied, so that what lies between them is not held.
        chunks = [found[piece] for piece in pieces]
        together = b"".join(chunks)
        if all(map(Piece.is_of, pieces, chunks)):  # who reads it says so where it is not
            self._archive.cache.put(self._name, pieces, together)
        view, ends = memoryview(together), np.cumsum([piece.size for piece in pieces]).tolist()
        return [view[end - piece.size : end] for piece, end in zip(pieces, ends, strict=True)]

    def _spans(self, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
        try:
            found = self._archive.fetch(self._name, spans)
        except FileNotFoundError as error:
            data = self._archive.brought_back(self._local, self.size)
            if data is None:
                raise StoreError(
                    f"{self.place} is missing, and events of this log are in it", _GONE_HINT
                ) from error
            found = [data[start:end] for start, end in spans]
        except StoreRefusedError:
            with contextlib.suppress(StoreError):  # of a range behind the end a store says that it makes no sense
                self._refuse_shorter()
            raise
        if any(len(data) != end - start for data, (start, end) in zip(found, spans, strict=True)):
            self._refuse_shorter()
        return found

    def _refuse_shorter(self) -> None:
        loss = self.loss()
        if loss:
            raise LogDamagedError(f"{self.place}: {loss}", _DAMAGE_HINT, loss)


class _Held:
    """An archived file of which some pieces are in memory."""

    is_archived = True

    def __init__(self, file: ArchivedFile, held: Mapping[Piece, memoryview]) -> None:
        self._file = file
        self._held = held
        self.size = file.size

    @property
    def place(self) -> str:
        """The URL of the file."""
        return self._file.place

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """The bytes of each piece."""
        rest = [piece for piece in pieces if piece not in self._held]
        found = dict(zip(rest, self._file.read(rest), strict=True)) if rest else {}
        return [self._held[piece] if piece in self._held else found[piece] for piece in pieces]

    def file(self, pieces: Sequence[Piece], found: Sequence[memoryview]) -> pa.NativeFile:
        """A file of these pieces alone."""
        return self._file.file(pieces, found)

    def fetched(self, pieces: Sequence[Piece]) -> Ranges:
        """The same, with these pieces in memory, and not those before."""
        return _Held(self._file, dict(zip(pieces, self.read(pieces), strict=True)))

    def parts(self) -> Iterator[memoryview]:
        """All of the file."""
        return self._file.parts()

    def forget(self, start: int, end: int) -> None:
        """Nothing: it goes with this."""


def spans_of(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """What to ask for to have some pieces: from where to where, in order, no two of them near each other or large.

    Each piece lies in one of them.
    """
    spans: list[tuple[int, int]] = []
    for start, size, _ in sorted(pieces):
        end = start + size
        if (
            spans
            and start <= spans[-1][1] + _GAP_BYTES
            and max(end, spans[-1][1]) <= spans[-1][0] + _REQUEST_BYTES
        ):
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans
