"""Rejected lines, kept under the log: nothing bad is silent, and nothing is lost.

dead-letters/dead-letters.ndjson holds one JSON object a line, see `DeadLetter.record`. An ingest appends to it,
and syncs it before the batch that the letters came with is acknowledged. `letterqueue` takes letters out again.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from evtool.files import Files
from evtool.log.identity import IdConflict
from evtool.log.preparing import Conflict

FOLDER = "dead-letters"
FILE = "dead-letters.ndjson"
APPEND_LOCK = "append.lock"  # held while letters are appended, or a new file takes the place of the old one

_BLOCK_BYTES = 4096


class _Line(msgspec.Struct):
    """A line of the file as it is read; letters of before there were retries have the first of them only."""

    time: str
    reason: str
    message: str
    input: str
    line: int
    bytes: int
    raw: str | None = None
    raw_base64: str | None = None
    source: str | None = None
    resume: str | None = None
    attempts: int = 0
    last_tried: str | None = None


class _Named(msgspec.Struct):
    source_id: str | None = None


_LINES = msgspec.json.Decoder(_Line)
_NAMES = msgspec.json.Decoder(_Named)


@dataclass(frozen=True)
class DeadLetter:
    """A rejected line: when, why, where it stood, how long it was, and its bytes (or their beginning).

    `source` is what its source_id was to be if it has none itself, `resume` the name of the load it came with.
    `attempts` and `last_tried` tell of retries, after which `reason` and `message` are those of the last one.
    """

    time: str
    reason: str
    message: str
    input: str
    line: int
    size_bytes: int
    raw: bytes
    source: str | None = None
    resume: str | None = None
    attempts: int = 0
    last_tried: str | None = None

    @property
    def id(self) -> str:
        """16 hexadecimal digits that depend on what never changes: time, input, line and the bytes."""
        return f"{xxhash.xxh3_64_intdigest(self.raw, xxhash.xxh3_64_intdigest(self._place(self.time))):016x}"

    @property
    def mark(self) -> int:
        """The same for each time that the same line of the same input is rejected."""
        return xxhash.xxh3_64_intdigest(self.raw, xxhash.xxh3_64_intdigest(self._place("")))

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning of the line was kept, so that it can never be read again."""
        return self.size_bytes > len(self.raw)

    @property
    def source_id(self) -> str | None:
        """Who sent it: what the line says, if that can be read, or what was to stand in."""
        try:
            named = _NAMES.decode(self.raw).source_id
        except (ValueError, RecursionError):  # UnicodeDecodeError and msgspec's errors are ValueErrors
            named = None
        return named or self.source

    def encode(self) -> bytes:
        """As a line of the dead-letter file."""
        return msgspec.json.encode(self.record()) + b"\n"

    def record(self) -> dict[str, Any]:
        """As a JSON object: what is always there, then what may be absent, then the bytes."""
        record: dict[str, Any] = {
            "id": self.id,
            "time": self.time,
            "reason": self.reason,
            "message": printable(self.message),
            "input": printable(self.input),
            "line": self.line,
            "bytes": self.size_bytes,
        }
        for name in ("source", "resume", "attempts", "last_tried"):
            if getattr(self, name):
                record[name] = getattr(self, name)
        try:
            record["raw"] = self.raw.decode()
        except UnicodeDecodeError:
            record["raw_base64"] = base64.b64encode(self.raw).decode()
        return record

    def _place(self, time: str) -> bytes:
        return f"{time}\n{printable(self.input)}\n{self.line}".encode()


def decode(text: bytes) -> DeadLetter | None:
    """The letter of a line of the file; None if it is none."""
    try:
        text.decode()  # msgspec does not look at what it passes over
        found = _LINES.decode(text)
        if found.raw is not None:
            raw = found.raw.encode()
        elif found.raw_base64 is not None:
            raw = base64.b64decode(found.raw_base64, validate=True)
        else:
            return None
    except (msgspec.MsgspecError, UnicodeError, binascii.Error):
        return None
    return DeadLetter(
        found.time,
        found.reason,
        found.message,
        found.input,
        found.line,
        found.bytes,
        raw,
        found.source,
        found.resume,
        found.attempts,
        found.last_tried,
    )


def explained(conflict: Conflict) -> tuple[str, str]:
    """Reason and message of a dead letter whose event does not fit what is stored."""
    if isinstance(conflict, IdConflict):
        return (
            "id_conflict",
            f"source {conflict.source_id!r} has sent {conflict.event_id!r} with another content, as position "
            f"{conflict.first_position}",
        )
    return (
        "version_conflict",
        f"stream {conflict.stream_id!r} expects version {conflict.expected}, and {conflict.given} was given",
    )


def printable(text: str) -> str:
    """A text that JSON can hold: a file's name may have bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


class DeadLetterFile:
    """The dead letters of a log, for the one who ingests. The file is made with the first one."""

    def __init__(self, files: Files, log_folder: Path, durable: bool) -> None:
        self._files = files
        self._path = log_folder / FOLDER / FILE
        self._durable = durable

    def append(self, letters: list[DeadLetter]) -> None:
        """Keep some dead letters; they are durable when this returns. Raises StorageError."""
        if not letters:
            return
        self._files.make_folder(self._path.parent)
        # The file is opened each time: a retry or a drop may have put another one in its place.
        lock = self._files.wait_for_lock(self._path.with_name(APPEND_LOCK))
        try:
            self._end_torn_line()
            self._append([letter.encode() for letter in letters])
        finally:
            lock.release()

    def _append(self, lines: list[bytes]) -> None:
        file = self._files.open_append(self._path, create=True)
        try:
            file.append(lines)
            if self._durable:
                file.sync()
        finally:
            file.close()

    def _end_torn_line(self) -> None:
        """Cut what a crash left of a line that was never acknowledged."""
        size = self._files.size(self._path)
        if not size:
            return
        data = self._files.map(self._path)
        end = _end_of_lines(data)
        del data
        if end < size:
            self._files.truncate(self._path, end)


def _end_of_lines(data: memoryview) -> int:
    """Where the last whole line ends."""
    end = len(data)
    while end:
        start = max(end - _BLOCK_BYTES, 0)
        at = bytes(data[start:end]).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
