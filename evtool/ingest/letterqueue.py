"""The queue of dead letters: look through it, find one of them, take some out.

Readers take no lock. Who takes letters out (a retry, a drop) writes a new file, which takes the place of the old
one when it is whole, and holds `queue.lock` meanwhile, so that there is one at a time. An ingest goes on appending
to the old file: what has come since is copied at the end, under `append.lock`. An ingest needs that for every
append, and it is held for that moment only. So nothing is lost, and a crash leaves the old file or the new one.

Memory is bounded by the longest letter: no more than one is looked at at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from evtool import timestamps
from evtool.errors import LetterNotFoundError
from evtool.event import LINE_BYTES_MAX
from evtool.files import AppendFile, Files, Lock
from evtool.ingest.deadletters import APPEND_LOCK, FILE, FOLDER, DeadLetter, decode
from evtool.timestamps import TimestampError

QUEUE_LOCK = "queue.lock"

# A byte of a line takes six of JSON at most (\u0000), and a message is short.
_LETTER_BYTES_MAX = 6 * LINE_BYTES_MAX + (1 << 20)
_BUFFER_BYTES = 1 << 20
_ID_DIGITS = 16

Wanted: TypeAlias = Callable[[DeadLetter], bool]


@dataclass(frozen=True)
class Filter:
    """Which letters are meant: all that fit. Empty collections and None mean any; times are ns UTC.

    `sources` are names of inputs or source_ids. `since` is included, `until` is not.
    """

    ids: Collection[str] = ()
    reasons: Collection[str] = ()
    sources: Collection[str] = ()
    since: int | None = None
    until: int | None = None

    def __call__(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        if self.ids and letter.id not in self.ids:
            return False
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.since is not None or self.until is not None:
            time = _nanoseconds(letter.time)
            if time is None or (self.since is not None and time < self.since):
                return False
            if self.until is not None and time >= self.until:
                return False
        return not self.sources or letter.input in self.sources or letter.source_id in self.sources


@dataclass(frozen=True)
class Entry:
    """A line of the file, with its line feed, and the letter that it is; None if it was damaged by someone."""

    text: bytes
    letter: DeadLetter | None


class LetterQueue:
    """The dead letters of a log."""

    def __init__(self, files: Files, log_folder: Path) -> None:
        self._files = files
        self.path = log_folder / FOLDER / FILE

    def entries(self) -> Iterator[Entry]:
        """All lines, in the order in which they were rejected."""
        return (entry for entry, _ in _entries(self._files, self.path))

    def letters(self, wanted: Wanted = lambda letter: True) -> Iterator[DeadLetter]:
        """The letters that are wanted."""
        return (entry.letter for entry in self.entries() if entry.letter is not None and wanted(entry.letter))

    def resolve(self, beginnings: Collection[str]) -> frozenset[str]:
        """The ids that begin so. Raises LetterNotFoundError unless there is exactly one for each."""
        if not beginnings:
            return frozenset()
        found: dict[str, set[str]] = {beginning: set() for beginning in beginnings}
        for letter in self.letters():
            for beginning, ids in found.items():
                if letter.id.startswith(beginning) and len(ids) < 2:
                    ids.add(letter.id)
        for beginning, ids in found.items():
            if len(ids) != 1:
                problem = "no dead letter has the id" if not ids else "more than one dead letter has an id like"
                hint = f"`evtool dead-letters list` shows the ids; all {_ID_DIGITS} digits name one letter."
                raise LetterNotFoundError(f"{problem} {beginning!r}", hint)
        return frozenset().union(*found.values())

    def get(self, beginning: str) -> DeadLetter:
        """The letter whose id begins so. Raises LetterNotFoundError."""
        ids = self.resolve([beginning])
        for letter in self.letters(lambda letter: letter.id in ids):
            return letter
        raise LetterNotFoundError(f"no dead letter has the id {beginning!r} any more")

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """Go through the queue to take letters out of it. Raises LogLockedError while another does."""
        if not self.path.exists():
            yield Change(self._files, self.path)
            return
        lock = self._files.lock(self.path.with_name(QUEUE_LOCK))
        try:
            change = Change(self._files, self.path)
            try:
                yield change
            finally:
                change.close()
        finally:
            lock.release()


class Change:
    """One way through the queue: what is kept of `entries` makes up the new file, once `finish` is called."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._new_path = path.with_name(path.name + ".tmp")
        self._new: AppendFile | None = None
        self._buffer: list[bytes] = []
        self._buffer_bytes = 0
        self._reached = self._end = 0
        if path.exists():
            with self._appending():  # so that it is the end of a letter
                self._end = files.size(path)

    def entries(self) -> Iterator[Entry]:
        """The lines of when the change began; each time from the start."""
        self._reached = 0
        for entry, end in _entries(self._files, self._path):
            if end > self._end:
                return
            self._reached = end
            yield entry

    def keep(self, text: bytes) -> None:
        """Put a line into the new file, behind those that are there."""
        self._buffer.append(text)
        self._buffer_bytes += len(text)
        if self._buffer_bytes >= _BUFFER_BYTES:
            self._flush()

    def finish(self) -> None:
        """Put the new file in place, with what was appended to the old one meanwhile. Then it is durable."""
        with self._appending():
            for entry, end in _entries(self._files, self._path, self._reached):
                self._reached = end
                self.keep(entry.text)
            self._flush().sync()
            self._files.replace(self._new_path, self._path)
            self._files.sync_folder(self._path.parent)

    def close(self) -> None:
        """Let go. Unless it was finished, everything is as it was."""
        if self._new is not None:
            self._new.close()
            self._files.remove(self._new_path)

    def _flush(self) -> AppendFile:
        if self._new is None:
            self._files.remove(self._new_path)  # what a crash left
            self._new = self._files.open_append(self._new_path, create=True, durable=False)
        self._new.append(self._buffer)
        self._buffer, self._buffer_bytes = [], 0
        return self._new

    @contextlib.contextmanager
    def _appending(self) -> Iterator[Lock]:
        lock = self._files.wait_for_lock(self._path.with_name(APPEND_LOCK))
        try:
            yield lock
        finally:
            lock.release()


def _entries(files: Files, path: Path, start: int = 0) -> Iterator[tuple[Entry, int]]:
    """The lines of the file from byte `start`, and where each ends: with a line feed, or it is no line yet."""
    try:
        file = files.open_read(path)
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        end = start
        # A longer one was not written by evtool: it comes in pieces, which are no letters, and stays as it is.
        while text := file.readline(_LETTER_BYTES_MAX):
            end += len(text)
            if text.endswith(b"\n") or len(text) == _LETTER_BYTES_MAX:
                yield Entry(text, decode(text)), end


def _nanoseconds(time: str) -> int | None:
    try:
        return timestamps.parse_text(time)
    except TimestampError:
        return None
