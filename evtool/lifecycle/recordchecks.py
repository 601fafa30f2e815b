"""What `verify` asks of the small files of a log: log.json, HEAD, schemas, dead letters, the audit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.ingest.deadletters import DeadLetter
from evtool.ingest.letterqueue import LetterQueue
from evtool.lifecycle import audit as audits
from evtool.lifecycle.audit import Mark
from evtool.lifecycle.findings import Finding, damaged, note, stale
from evtool.lifecycle.logfiles import LogFiles
from evtool.log import head as head_file
from evtool.log.format import ERASING_FILE, HEAD_FILE, LOG_FILE
from evtool.schemas.registry import FILE, FOLDER, Registry

_STORE_SECONDS = 0.05
_BACKUP = "`evtool repair` brings it back, if a backup has it; events can be read without it."


def manifest(log: LogFiles) -> list[Finding]:
    """log.json against what all segments say (whose files check, so it is the one that has changed)."""
    told = log.log_id
    if told is None or told == log.manifest.id:
        return []
    message = f"its id is {log.manifest.id}, and that of all segments is {told}"
    return [damaged(log.folder / LOG_FILE, message, "`evtool repair` brings it back; it never changes.")]


def head(files: Files, log: LogFiles) -> list[Finding]:
    """HEAD; that it claims no more than there is, the segments are asked."""
    path = log.folder / HEAD_FILE
    hint = "It is a hint: readers walk the last segment instead, and the next writer makes it again."
    if log.head is not None:
        return []
    if path.exists():
        time.sleep(_STORE_SECONDS)  # perhaps a writer has just made it, and stores it now
        if head_file.read(files, log.folder) is not None:
            return []
        return [stale(path, "it is not as it was written", hint)]
    return [note(path, "it is missing", hint)] if log.segments else []


def erasure(folder: Path) -> list[Finding]:
    """What tells of an erasure that is not done."""
    path = folder / ERASING_FILE
    hint = "If nobody is at it, `evtool erase` finishes it, and so does the next command that writes."
    return [note(path, "an erasure has begun and is not done", hint)] if path.exists() else []


def schemas(files: Files, folder: Path) -> tuple[int, list[Finding]]:
    """How many schemas are registered, and what is wrong with their file."""
    path = folder / FOLDER / FILE
    try:
        return len(Registry(files, folder, read_only=True).current()), []
    except LogDamagedError as error:
        message = error.message.removeprefix(f"{path} is damaged: ")
        return 0, [damaged(path, message, _BACKUP)]


def dead_letters(files: Files, folder: Path) -> tuple[int, list[Finding]]:
    """How many dead letters there are, and those that are not as they were written."""
    queue = LetterQueue(files, folder)
    count, offset = 0, 0
    findings = []
    for number, entry in enumerate(queue.entries(), 1):
        count += 1
        for what in _wrong(entry.text, entry.letter):
            found = damaged(queue.path, what, "`evtool repair` puts this line aside, if it cannot be mended.")
            findings.append(replace(found, piece="line", number=number, offset=offset))
        offset += len(entry.text)
    return count, findings


def audit(files: Files, folder: Path) -> tuple[Mark | None, list[Finding]]:
    """The last line of the audit, and where its chain breaks first."""
    checked = audits.check(files, folder)
    if checked.broken is None:
        return checked.last, []
    hint = "`evtool audit` shows the line; `evtool repair` mends it, or puts the file aside."
    found = damaged(folder / audits.FILE, checked.problem, hint)
    return checked.last, [replace(found, piece="line", number=checked.broken)]


def _wrong(text: bytes, letter: DeadLetter | None) -> Iterator[str]:
    if letter is None:
        yield "it is no dead letter"
        return
    told = json.loads(text).get("id")
    if told is not None and told != letter.id:
        yield f"its id is {told}, and its content gives {letter.id}"
