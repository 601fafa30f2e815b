"""The files of lines beside the segments: what is mended of them, and what is put aside.

Lines of schemas, dead letters and of the audit have checksums, or ids that follow from what is in them: a bit
that turned over is turned back. A dead letter that cannot be mended is put aside. A schema is brought back from a
backup, and left as it is without one: who reads events by it must know. An audit that does not hold even so is put
aside as a whole, and begun anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from evtool.files import Files
from evtool.ingest import deadletters
from evtool.ingest.letterqueue import LetterQueue
from evtool.lifecycle import audit
from evtool.lifecycle.repairing.bits import turned_back
from evtool.lifecycle.repairing.filling import Backup
from evtool.log.format import checksum
from evtool.schemas import registry

_LINE_BYTES_MAX = 1 << 14  # of one whose bits are tried
_SEAL_BYTES = 31  # of the checksum at the end of a schema's line


@dataclass(frozen=True)
class FileStep:
    """What becomes of a file: its new bytes, and what of the old ones is put aside, if `message` is to be said."""

    path: Path
    message: str
    data: bytes
    aside: bytes


def schemas(files: Files, folder: Path, backup: Backup | None) -> FileStep | None:
    """The registry of schemas, if it can be mended; None otherwise."""
    path = folder / registry.FOLDER / registry.FILE
    data = _read(files, path)
    lines = [_mended(line, _is_schema) for line in data.splitlines(keepends=True)]
    if all(line is not None for line in lines):
        return FileStep(path, "mended, nothing of it is lost", b"".join(map(bytes, filter(None, lines))), data)
    stored = backup.file(f"{registry.FOLDER}/{registry.FILE}") if backup is not None else None
    if stored is None:
        return None
    count = len(stored.splitlines())
    rest = lines[count:]
    if any(line is None for line in rest):
        return None
    return FileStep(path, "brought back, nothing of it is lost", stored + b"".join(filter(None, rest)), data)


def _is_schema(line: bytes | bytearray) -> bool:
    text = bytes(line).removesuffix(b"\n")
    seal = f',"checksum":"{checksum(text[:-_SEAL_BYTES]):016x}"}}'.encode()
    return line.endswith(b"\n") and text[-_SEAL_BYTES:] == seal


def _mended(line: bytes, is_right: Callable[[bytes | bytearray], bool]) -> bytes | None:
    if is_right(line):
        return line
    return turned_back(line, is_right) if len(line) <= _LINE_BYTES_MAX else None


def letters(files: Files, folder: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """Each dead letter's line that is not as it was written, and the line that it was, if that can be told."""
    for entry in LetterQueue(files, folder).entries():
        if not _is_letter(entry.text):
            yield entry.text, _mended(entry.text, _is_proved)


def mend_letters(files: Files, folder: Path) -> None:
    """Put lines back that can be, and take those out that cannot. Raises StorageError."""
    with LetterQueue(files, folder).change() as change:
        for entry in change.entries():
            line = entry.text if _is_letter(entry.text) else _mended(entry.text, _is_proved)
            if line is not None:
                change.keep(line)
        change.finish()


def _is_letter(line: bytes | bytearray) -> bool:
    letter = deadletters.decode(bytes(line))
    if letter is None or not line.endswith(b"\n"):
        return False
    return bool(json.loads(line).get("id", letter.id) == letter.id)


def _is_proved(line: bytes | bytearray) -> bool:
    """Whether it has an id, and its content gives this one."""
    return _is_letter(line) and "id" in json.loads(line)


def audit_lines(files: Files, folder: Path, backup: Backup | None) -> FileStep:
    """The audit as it was; without any line where that cannot be told any more."""
    path = folder / audit.FILE
    data = _read(files, path)
    lines = [_mended(line, _is_audit_line) for line in data.splitlines(keepends=True)]
    candidates = [b"".join(filter(None, lines))] if all(line is not None for line in lines) else []
    stored = backup.file(audit.FILE) if backup is not None else None
    if stored is not None:
        candidates.append(stored + data[len(stored) :])
    for found in candidates:
        if audit.check_text(found).broken is None:
            return FileStep(path, "mended, nothing of it is lost", found, data)
    return FileStep(path, "put aside, and begun anew: its chain was broken", b"", data)


def _is_audit_line(line: bytes | bytearray) -> bool:
    return line.endswith(b"\n") and audit.is_sealed(bytes(line[:-1]))


def _read(files: Files, path: Path) -> bytes:
    try:
        return files.read_whole(path)
    except FileNotFoundError:
        return b""
