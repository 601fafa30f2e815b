"""What may hold something of any event, beside the log itself: bytes put aside, and files left unfinished.

`evtool repair` puts damaged bytes aside, and nobody can tell which events are in them. So an erasure removes
these, whatever it erases; of each repair the report stays, without messages, which may name streams.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evtool.errors import LogLockedError
from evtool.files import Files
from evtool.lifecycle.archiving.sweeping import forget_cached
from evtool.log.format import DAMAGED_FOLDER, DAMAGED_REPORT_FILE, FRAMES_FILE, LOCK_FILE
from evtool.log.log import Log

_TELLING = ("derived", "others")  # what verify found, in words


@dataclass(frozen=True)
class Aside:
    """How many files were put aside, and their bytes."""

    files: int = 0
    bytes: int = 0


def aside(files: Files, folder: Path) -> Aside:
    """What repairs have put aside in the folder of a log."""
    sizes = [
        files.size(path)
        for entry in _put_aside(folder)
        for path in ([entry] if _is_file(entry) else entry.rglob("*"))
        if _is_file(path)
    ]
    return Aside(len(sizes), sum(sizes))


def remove(log: Log) -> None:
    """Remove what was put aside, what was fetched from an archive, and frames whose writing was cut short.

    To be called under the lock of who writes sealed segments anew. Raises StorageError.
    """
    files, folder = log.files, log.folder
    for entry in _put_aside(folder):
        if _is_file(entry):
            files.remove(entry)
        else:
            files.remove_folder(entry)
    for report in sorted(folder.glob(f"{DAMAGED_FOLDER}/*/{DAMAGED_REPORT_FILE}")):
        _silence(files, report)
    forget_cached(log)
    for segment in log.snapshot().segments:
        unfinished = segment.folder / f"{FRAMES_FILE}.tmp"
        if segment.is_sealed:
            files.remove(unfinished)
        elif unfinished.exists():
            with contextlib.suppress(LogLockedError):  # whoever writes begins it anew
                lock = files.lock(folder / LOCK_FILE)
                try:
                    files.remove(unfinished)
                finally:
                    lock.release()


def _put_aside(folder: Path) -> Iterator[Path]:
    """All that is in the folders of repairs, but for the reports."""
    for entry in sorted(folder.glob(f"{DAMAGED_FOLDER}/*")):
        if _is_file(entry):
            yield entry
        else:
            yield from (path for path in sorted(entry.iterdir()) if path.name != DAMAGED_REPORT_FILE)


def _is_file(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def _silence(files: Files, report: Path) -> None:
    """Take what is told in words out of a report; one that cannot be read goes."""
    try:
        facts: Any = json.loads(files.read_whole(report))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        files.remove(report)
    elif any(facts.get(name) for name in _TELLING):
        silent = {**facts, **{name: [] for name in _TELLING}}
        files.write_whole(report, json.dumps(silent, indent=2).encode() + b"\n")
