"""Rejected lines, kept under the log: nothing bad is silent, and nothing is lost.

dead-letters/dead-letters.ndjson holds one JSON object a line:
time, reason, message, input, line (from 1), bytes (length of the line), and its bytes as `raw`, or as
`raw_base64` where they are not UTF-8. It only grows, and is synced before the batch that it belongs to is
acknowledged.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import msgspec

from evtool.files import AppendFile, Files

FOLDER = "dead-letters"
FILE = "dead-letters.ndjson"


@dataclass(frozen=True)
class DeadLetter:
    """A rejected line: when, why, where it stood, how long it was, and its bytes (or their beginning)."""

    time: str
    reason: str
    message: str
    input: str
    line: int
    size_bytes: int
    raw: bytes

    def encode(self) -> bytes:
        """As a line of the dead-letter file."""
        record = {
            "time": self.time,
            "reason": self.reason,
            "message": _printable(self.message),
            "input": _printable(self.input),
            "line": self.line,
            "bytes": self.size_bytes,
        }
        try:
            record["raw"] = self.raw.decode()
        except UnicodeDecodeError:
            record["raw_base64"] = base64.b64encode(self.raw).decode()
        return msgspec.json.encode(record) + b"\n"


def _printable(text: str) -> str:
    """A text that JSON can hold: a file's name may have bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


class DeadLetterFile:
    """The dead letters of a log, for the one who ingests. The file is made with the first one."""

    def __init__(self, files: Files, log_folder: Path, durable: bool) -> None:
        self._files = files
        self._path = log_folder / FOLDER / FILE
        self._durable = durable
        self._file: AppendFile | None = None

    def append(self, letters: list[DeadLetter]) -> None:
        """Keep some dead letters; they are durable when this returns. Raises StorageError."""
        if not letters:
            return
        if self._file is None:
            self._files.make_folder(self._path.parent)
            self._end_torn_line()
            self._file = self._files.open_append(self._path, create=True)
        self._file.append([letter.encode() for letter in letters])
        if self._durable:
            self._file.sync()

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end_torn_line(self) -> None:
        """Cut what a crash left of a line that was never acknowledged."""
        size = self._files.size(self._path)
        if not size:
            return
        data = self._files.map(self._path)
        end = size
        while end and data[end - 1] != ord("\n"):
            end -= 1
        del data
        if end < size:
            self._files.truncate(self._path, end)
