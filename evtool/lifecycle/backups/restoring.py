"""A log from a backup: every object checked while it is written, and log.json last.

    restore.unfinished      what the folder is, until log.json is there

So a folder in which a restore was cut short is no log, is told from anything else, and is begun anew by the next
one. With a bound the log is cut behind its last event (see `cutting`) before it becomes one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evtool.config import Config
from evtool.errors import BackupDamagedError, ConfigError, LogExistsError, PositionError
from evtool.files import Files
from evtool.lifecycle import audit
from evtool.lifecycle.backups import cutting
from evtool.lifecycle.backups.manifest import File, Manifest, SegmentRecord
from evtool.log.format import LOG_FILE, RESTORE_FILE, STREAMS_FILE, SUMMARY_FILE
from evtool.log.log import Log
from evtool.log.manifest import HARMLESS, parse
from evtool.log.writer import Writer
from evtool.objectstore.store import Store
from evtool.replay import Bound, parse_bound, parse_moment

Progress = Callable[[int, int], None]  # bytes done, and how many there are


@dataclass(frozen=True)
class Restored:
    """What was made: up to which position, and how many bytes were read."""

    folder: Path
    backup: Manifest
    position: int
    bytes: int


def restore(
    store: Store,
    backup: Manifest,
    folder: Path,
    files: Files,
    config: Config,
    until: str | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Restored:
    """Make `folder` the log that a backup holds, or what it was before `until` (as `replay --to` reads it, with
    times of recording).

    Raises LogExistsError (the folder is not empty), BackupDamagedError (an object is missing or not what was
    stored), ConfigError and PositionError (of `until`), StoreError, StorageError.
    """
    refuse_what_is_there(folder)
    files.make_folder(folder)
    files.write_whole(folder / RESTORE_FILE, backup.id.encode() + b"\n")
    _clear(files, folder)
    try:
        return _Restore(store, backup, folder, files, config, on_progress).run(until)
    except (ConfigError, PositionError):  # `until` makes no sense the next time either
        _clear(files, folder)
        files.remove(folder / RESTORE_FILE)
        raise


def refuse_what_is_there(folder: Path) -> None:
    """Raise LogExistsError unless a folder is absent, empty, or what a restore that was cut short has left.

    What may stand beside a log, as `lost+found`, is in nobody's way.
    """
    if folder.is_file():
        raise LogExistsError(f"{folder} is a file, not a folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if RESTORE_FILE in names and LOG_FILE not in names:
        return
    strangers = sorted(names - HARMLESS - {f"{RESTORE_FILE}.tmp"})
    if strangers:
        raise LogExistsError(
            f"{folder} is not empty: it holds {strangers[0]!r}",
            "Name an empty or a new folder with --to. Nothing is restored over what is there.",
        )


def _clear(files: Files, folder: Path) -> None:
    """Remove what an earlier restore has left."""
    for path in folder.iterdir():
        if path.name == RESTORE_FILE or path.name in HARMLESS:
            continue
        if path.is_dir() and not path.is_symlink():
            files.remove_folder(path)
        else:
            files.remove(path)


class _Restore:
    """One run."""

    def __init__(
        self, store: Store, backup: Manifest, folder: Path, files: Files, config: Config, on_progress: Progress
    ) -> None:
        self._store = store
        self._backup = backup
        self._folder = folder
        self._files = files
        self._config = config
        self._on_progress = on_progress
        self._done = self._total = 0

    def run(self, until: str | None) -> Restored:
        manifest_file, others = self._parted()
        log_json = b"".join(self._checked(manifest_file))
        log = Log(self._files, self._folder, parse(log_json, self._folder / LOG_FILE), self._config)
        now_ns = time.time_ns()
        bound = None if until is None else _known(until, log, now_ns)
        segments = [each for each in self._backup.segments if _is_needed(each, bound)]
        self._total = sum(file.bytes for each in segments for file in each.files)
        for segment in segments:
            for file in segment.files:
                self._write(file)
        last = self._backup.position
        if until is not None:
            found = bound or parse_bound(until, log, now_ns)
            last = min(last, _last_position(log, found))
            cutting.cut(log, self._config.log, last)
        snapshots = [file for each in self._backup.snapshots if each.position <= last for file in each.files]
        self._total += sum(file.bytes for file in (*snapshots, *others))
        for file in (*snapshots, *others):
            self._write(file)
        self._make_index(log)
        audit.record(self._files, self._folder, "restore", {"position": last}, self._told(until), "began")
        self._files.write_whole(self._folder / LOG_FILE, log_json)
        self._files.remove(self._folder / RESTORE_FILE)
        return Restored(self._folder, self._backup, last, self._done)

    def _told(self, until: str | None) -> dict[str, str]:
        """What the audit of the new log keeps of where it is from."""
        told = {"backup": self._backup.id, "from": audit.without_credentials(self._store.url)}
        return told | ({"until": until} if until is not None else {})

    def _parted(self) -> tuple[File, list[File]]:
        """log.json, and the files beside the segments."""
        found = [file for file in self._backup.files if file.path == LOG_FILE]
        if not found:
            raise BackupDamagedError(
                f"the backup {self._backup.id} names no {LOG_FILE}", "Restore another one with --backup ID."
            )
        return found[0], [file for file in self._backup.files if file.path != LOG_FILE]

    def _checked(self, file: File) -> list[bytes]:
        """The parts of a small object. Raises BackupDamagedError."""
        hashed, parts = hashlib.sha256(), []
        try:
            for part in self._store.parts(file.object, file.bytes):
                hashed.update(part)
                parts.append(part)
        except FileNotFoundError as error:
            raise self._damage(file, "it is missing") from error
        if hashed.hexdigest() != file.sha256:
            raise self._damage(file, "it is not what was stored")
        return parts

    def _write(self, file: File) -> None:
        """Write a file, durably, and check what is written."""
        path = self._folder / file.path
        self._files.make_folder(path.parent)
        hashed = hashlib.sha256()
        target = self._files.open_append(path, create=True)
        try:
            for part in self._store.parts(file.object, file.bytes):
                hashed.update(part)
                target.append([part])
                self._done += len(part)
                self._on_progress(self._done, self._total)
            target.sync()
        except FileNotFoundError as error:
            raise self._damage(file, "it is missing") from error
        finally:
            target.close()
        if hashed.hexdigest() != file.sha256:
            raise self._damage(file, "it is not what was stored")

    def _damage(self, file: File, what: str) -> BackupDamagedError:
        return BackupDamagedError(
            f"{self._store.url}/{file.object} ({file.path}): {what}",
            f"No log was made. `evtool backup --check {self._store.url}` shows which backups are whole: "
            "restore one of them with --backup ID.",
        )

    def _make_index(self, log: Log) -> None:
        """Make HEAD and index/, and streams.idx where a backup has none."""
        sealed = [path.parent for path in self._folder.glob(f"*/{SUMMARY_FILE}")]
        lacks = any(not (folder / STREAMS_FILE).exists() for folder in sealed)
        reindex: Progress | None = (lambda done, total: None) if lacks else None
        Writer(self._files, self._folder, log.manifest, self._config.log, reindex=reindex).close()


def _known(until: str, log: Log, now_ns: int) -> Bound | None:
    """A bound that can be told before there are events; None for an id, which has to be looked for."""
    is_id = until.startswith("id:") or (bool(until) and until[0] != "@" and parse_moment(until, now_ns) is None)
    return None if is_id else parse_bound(until, log, now_ns)


def _is_needed(segment: SegmentRecord, bound: Bound | None) -> bool:
    if bound is None:
        return True
    if bound.position is not None:
        return segment.first_position < bound.position
    return bound.time is not None and segment.recorded_at_min < bound.time


def _last_position(log: Log, bound: Bound) -> int:
    """Of the last event before a bound."""
    if bound.position is not None:
        return max(bound.position - 1, 0)
    assert bound.time is not None
    last = 0
    for segment in log.snapshot().segments:
        commits = segment.commits[segment.commits["count"] > 0]
        begins = commits["base_recorded_at"]
        number = int(np.searchsorted(begins, bound.time, side="left"))  # batches that begin before it
        if number:
            batch = commits[number - 1]
            events = min(int(batch["count"]), bound.time - int(batch["base_recorded_at"]))
            last = int(batch["base_position"]) + events - 1
    return last
