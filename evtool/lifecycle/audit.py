"""Who did what to a log, and when: `audit.ndjson`. Lines are only ever added, each chained to the one before.

    record      adds a line, which is durable when that returns
    lines       reads them
    check       says where the chain breaks, if it does

A line has the SHA-256 of its own text and that of the line before. So one that was changed, taken out, put in or
moved is found. Who can write the file can still write all of it anew, or cut lines off its end: what vouches for
the end are reports of nightly runs and backups (see `witnesses`). No event, stream or secret is in it.

The module imports nothing heavy: a short ingest leaves a line, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from evtool.files import Files

FILE = "audit.ndjson"
LOCK_FILE = "audit.lock"
NO_LINE = "0" * 64  # what the first line has for the SHA-256 of the one before

Outcome = Literal["began", "running", "done", "failed", "interrupted"]

TEXT_MAX = 1_000  # characters of one detail
_TAIL_BYTES = 1 << 18  # longer than any line
_NOBODY = 2**32 - 1  # the kernel's word for: nobody has logged in
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}')
_SEAL_BYTES = 77


@dataclass(frozen=True)
class Mark:
    """A line by its number, from 1, and its SHA-256: it vouches for all lines up to it."""

    number: int
    sha256: str


@dataclass(frozen=True)
class Line:
    """A line as it stands in the file. `record` is None where it is no object; `problem` says what is wrong."""

    number: int
    text: bytes
    record: Mapping[str, Any] | None
    sha256: str
    problem: str


@dataclass(frozen=True)
class Checked:
    """What a check found: how many lines, the last one, and the first one where the chain breaks.

    `torn_bytes` stand behind the last line: of one that a crash cut short, or that is being written.
    """

    lines: int
    last: Mark | None
    broken: int | None = None
    problem: str = ""
    torn_bytes: int = 0


def record(
    files: Files,
    folder: Path,
    action: str,
    counts: Mapping[str, int],
    details: Mapping[str, str],
    outcome: Outcome = "done",
) -> Mark:
    """Add a line to the audit of the log in `folder`; it is durable when this returns.

    What a crash has left of a line that was never finished is cut first, and told in the new line as `torn_bytes`.
    Raises StorageError.
    """
    path = folder / FILE
    lock = files.wait_for_lock(folder / LOCK_FILE)
    try:
        before, torn_bytes = _mended(files, path)
        counted = {**counts, "torn_bytes": torn_bytes} if torn_bytes else dict(counts)
        text, mark = _encoded(before, action, outcome, counted, details)
        file = files.open_append(path, create=True)
        try:
            file.append([text])
            file.sync()
        finally:
            file.close()
    finally:
        lock.release()
    return mark


def lines(files: Files, folder: Path) -> Iterator[Line]:
    """All lines but one that is not finished, each with what is wrong with it. Raises StorageError."""
    return lines_of(_read(files, folder / FILE))


def check(files: Files, folder: Path) -> Checked:
    """Follow the chain from the first line to the last. Raises StorageError."""
    return check_text(_read(files, folder / FILE))


def check_text(data: bytes) -> Checked:
    """The same of the bytes of such a file."""
    last, broken, problem = None, None, ""
    for line in lines_of(data):
        last = Mark(line.number, line.sha256)
        if line.problem and broken is None:
            broken, problem = line.number, line.problem
    return Checked(last.number if last else 0, last, broken, problem, len(data) - data.rfind(b"\n") - 1)


def lines_of(data: bytes) -> Iterator[Line]:
    """The same of the bytes of such a file."""
    expected = Mark(0, NO_LINE)
    for text in data.split(b"\n")[:-1]:
        number, sha256 = expected.number + 1, _sha256(text)
        found = _parsed(text)
        yield Line(number, text, found, sha256, _problem(text, found, expected))
        expected = Mark(number, sha256)


def _read(files: Files, path: Path) -> bytes:
    try:
        return files.read_whole(path)
    except FileNotFoundError:
        return b""


def without_credentials(url: str) -> str:
    """A URL without a user, a password and what stands behind its path."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _encoded(
    before: Mark, action: str, outcome: Outcome, counts: Mapping[str, int], details: Mapping[str, str]
) -> tuple[bytes, Mark]:
    line = {
        "number": before.number + 1,
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        **_who(),
        "command": action,
        "outcome": outcome,
        "counts": dict(counts),
        "details": {name: text[:TEXT_MAX] for name, text in details.items()},
        "evtool": version_of("evtool"),
        "previous": before.sha256,
    }
    text = json.dumps(line, separators=(",", ":")).encode()[:-1]
    sha256 = hashlib.sha256(text).hexdigest()
    return text + f',"sha256":"{sha256}"}}\n'.encode(), Mark(before.number + 1, sha256)


def _who() -> dict[str, Any]:
    """Who runs this, as the kernel knows it: variables such as USER, which anybody may set, are not asked.

    `login` is who logged in, which neither su nor sudo changes; `sudo` what sudo said, and root can make up.
    """
    own = os.getuid()
    found: dict[str, Any] = {"user": _name(own), "uid": own}
    login = _login()
    if login not in (own, None):
        found["login"] = _name(login)
    if own == 0 and "SUDO_UID" in os.environ:
        found["sudo"] = os.environ.get("SUDO_USER", "")[:TEXT_MAX]
    return found | {"host": os.uname().nodename, "process": os.getpid()}


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"uid {uid}"


def _login() -> int | None:
    """The user id of who logged in; None where the kernel does not know, as in services."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY else uid


def _mended(files: Files, path: Path) -> tuple[Mark, int]:
    """The last line, behind which nothing stands any more, and how many bytes had to be cut for that."""
    try:
        data = files.map(path)
    except FileNotFoundError:
        return Mark(0, NO_LINE), 0
    size = len(data)
    tail = bytes(data[max(size - _TAIL_BYTES, 0) :])
    if b"\n" not in tail:
        tail = bytes(data)
    end = size - len(tail) + tail.rfind(b"\n") + 1
    kept = _finished(bytes(data[end:]))
    torn_bytes = size - end - kept
    last = bytes(data[end : end + kept]) or tail[: end - size or None].rstrip(b"\n").rpartition(b"\n")[2]
    found = _parsed(last)
    is_sound = found is not None and is_sealed(last)
    # A line that is damaged cannot be asked for its number; counting is as sure, and takes longer.
    number = int(found["number"]) if is_sound and found else bytes(data).count(b"\n", 0, end) + bool(kept)
    del data
    if torn_bytes:
        files.truncate(path, end + kept)
    if kept:
        _end_line(files, path)
    return (Mark(number, _sha256(last)) if number else Mark(0, NO_LINE)), torn_bytes


def _finished(torn: bytes) -> int:
    """How many bytes behind the last line break are a whole line of which only that is missing; 0 if none are."""
    for seal in _SEAL.finditer(torn):
        if is_sealed(torn[: seal.end()]):
            return seal.end()
    return 0


def _end_line(files: Files, path: Path) -> None:
    file = files.open_append(path)
    try:
        file.append([b"\n"])
        file.sync()
    finally:
        file.close()


def _parsed(text: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(found, dict) and isinstance(found.get("number"), int)
    return found if is_line else None


def _sha256(text: bytes) -> str:
    """Of what stands before a line's own SHA-256; of all of it where it has none."""
    has_seal = _SEAL.fullmatch(text[-_SEAL_BYTES:]) is not None
    return hashlib.sha256(text[:-_SEAL_BYTES] if has_seal else text).hexdigest()


def is_sealed(text: bytes) -> bool:
    """Whether a line ends with the SHA-256 of what stands before that."""
    seal = _SEAL.fullmatch(text[-_SEAL_BYTES:])
    return seal is not None and seal[1].decode() == _sha256(text)


def _problem(text: bytes, found: Mapping[str, Any] | None, before: Mark) -> str:
    if found is None or not is_sealed(text):
        return "it is not as it was written"
    if found.get("previous") != before.sha256:
        return "it does not follow the line before it: lines were changed, taken out or put in there"
    if found["number"] != before.number + 1:
        return f"it says that it is number {found['number']}"
    return ""
