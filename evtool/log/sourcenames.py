"""The distinct sources of a log, in index/sources.msgpack: to find an event by its id alone, each is tried.

The file is a cache that only grows: a stream of msgpack arrays [checksum, body]. A body is msgpack too. The
first one is the map {"version": 1, "log_id": 16 bytes}, each other one an array of texts that are new, or nil:
there are more sources than are kept here, and an id alone is found by reading the log. What follows a torn
record, or one that does not match its checksum (XXH3-64), is not there.

A name is appended before its events are marked as applied in the index of ids, and synced before that one is;
so whoever takes `applied` of the ids first and reads the names then, has those of all events up to there.
Where this file had to be made anew (`is_new`), the ids are reset too, and both are built from the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from evtool.files import AppendFile, Files
from evtool.log.format import checksum

SOURCES_FILE = "sources.msgpack"
_VERSION = 1
_NAMES_MAX = 1 << 20
_NAMES_BYTES_MAX = 64 << 20  # UTF-8
_FILE_BYTES_MAX = 2 * _NAMES_BYTES_MAX


class SourceNames:
    """The sources of a log, for its writer."""

    def __init__(self, files: Files, folder: Path, log_id: bytes) -> None:
        self._files = files
        self._path = folder / SOURCES_FILE
        self._log_id = log_id
        self._names: set[str] = set()
        self._bytes = 0
        self._is_full = False
        self._file: AppendFile | None = None
        files.make_folder(folder)
        names, is_full, end = _read(files, self._path, log_id)
        self.is_new = end == 0
        if self.is_new:
            self.reset()
            return
        if files.size(self._path) > end:
            files.truncate(self._path, end)
        self._adopt(set(names), is_full)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def is_full(self) -> bool:
        """Whether the log has more sources than are kept; then none is."""
        return self._is_full

    def add_new(self, names: Iterable[str]) -> int:
        """Append those that are not there yet; how many. Raises StorageError; then it must be opened anew."""
        if self._is_full:
            return 0
        new = set(names) - self._names
        if not new:
            return 0
        self._names |= new
        self._bytes += sum(len(name.encode()) for name in new)
        if len(self._names) > _NAMES_MAX or self._bytes > _NAMES_BYTES_MAX:
            self._append(None)
            self._names, self._is_full = set(), True
            return 0
        self._append(sorted(new))
        return len(new)

    def reset(self) -> None:
        """Forget everything, to be built from the log anew."""
        self._files.write_whole(self._path, _record({"version": _VERSION, "log_id": self._log_id}))
        self._adopt(set(), is_full=False)

    def sync(self) -> None:
        """Bring all names to stable storage."""
        assert self._file is not None
        self._file.sync()

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        assert self._file is not None
        self._file.close()

    def _append(self, body: Any) -> None:
        assert self._file is not None
        self._file.append([_record(body)])

    def _adopt(self, names: set[str], is_full: bool) -> None:
        self._names, self._is_full = names, is_full
        self._bytes = sum(len(name.encode()) for name in names)
        if self._file is not None:
            self._file.close()
        self._file = self._files.open_append(self._path)


def read_source_names(files: Files, folder: Path, log_id: bytes) -> list[str] | None:
    """The sources of a log in alphabetical order; None when they are not known or too many."""
    names, is_full, end = _read(files, folder / SOURCES_FILE, log_id)
    return None if is_full or end == 0 else sorted(names)


def look_at(files: Files, folder: Path, log_id: bytes) -> tuple[frozenset[str] | None, int, int]:
    """The sources (None: too many), where the last whole record ends (0 if there is none), and the file's size."""
    size = files.size(folder / SOURCES_FILE)
    names, is_full, end = _read(files, folder / SOURCES_FILE, log_id)
    return None if is_full else frozenset(names), end, min(size, end) if is_full else size


def _record(body: Any) -> bytes:
    packed: bytes = msgpack.packb(body)
    record: bytes = msgpack.packb([checksum(packed), packed])
    return record


def _read(files: Files, path: Path, log_id: bytes) -> tuple[list[str], bool, int]:
    """The names, whether there are too many, and where the last whole record ends: 0 if there is none."""
    if files.size(path) > _FILE_BYTES_MAX:
        return [], False, 0
    try:
        data = files.read_whole(path)
    except FileNotFoundError:
        return [], False, 0
    names: list[str] = []
    end = 0
    for number, (body, behind) in enumerate(_bodies(data)):
        if number == 0 and body != {"version": _VERSION, "log_id": log_id}:
            break
        end = behind
        if body is None:
            return [], True, end
        if number:
            names += body
    return names, False, end


def _bodies(data: bytes) -> Iterator[tuple[Any, int]]:
    """The body of each whole record, and where the record ends."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) or 1)
    unpacker.feed(data)
    while True:
        try:
            found, packed = unpacker.unpack()
            if found != checksum(packed):
                return
            body = msgpack.unpackb(packed)
        except (ValueError, TypeError, msgpack.UnpackException):
            return
        yield body, unpacker.tell()
