"""What vouches for the audit of a log besides the audit itself: reports of its nightly runs, and its backups.

Lines that were cut off its end, or an audit that was written anew from some line on, cannot be told from the
file. Each verified night keeps number and SHA-256 of the last line in its report, and each backup keeps all of it.
Who can change all of these as well is found by nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from evtool.lifecycle import audit, nightly
from evtool.lifecycle.backups import manifest as manifests
from evtool.log.log import Log
from evtool.objectstore.store import Store


def contradicted(log: Log, store: Store | None = None) -> tuple[int, list[str]]:
    """How many witnesses there are, and what those say that the audit does not bear out, the oldest first.

    Raises StoreError, BackupError, StorageError.
    """
    told = [*_nights(log), *(_backups(log, store) if store is not None else ())]
    return len(told), [text for text in told if text]


def _nights(log: Log) -> Iterator[str]:
    """Of each night that has kept the last line, what does not fit; "" where all does."""
    known = {line.number: line.sha256 for line in audit.lines(log.files, log.folder)}
    for report in reversed([*nightly.reports(log.files, log.folder)]):
        for step in report["steps"]:
            mark = step["facts"].get("audit") if step["name"] == "verify" else None
            if mark:
                is_same = known.get(mark["number"]) == mark["sha256"]
                yield "" if is_same else f"the night of {report['started_at']} had another line {mark['number']:,}"


def _backups(log: Log, store: Store) -> Iterator[str]:
    """The same of each backup of this log: the file that it has must be the beginning of the one that is there."""
    try:
        data = log.files.read_whole(log.folder / audit.FILE)
    except FileNotFoundError:
        data = b""
    for backup_id in manifests.ids_of(store):
        manifest = manifests.read(store, backup_id)
        if manifest.log_id != log.manifest.id:
            continue
        for file in manifest.files:
            if file.path == audit.FILE:
                is_same = hashlib.sha256(data[: file.bytes]).hexdigest() == file.sha256
                yield "" if is_same else f"the backup {backup_id} has other lines"
