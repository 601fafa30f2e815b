"""Making a backup: what is not there yet is stored, read back, and then named by a manifest.

Objects are named by what they hold, so whatever ends the process, the next run finds them and goes on: of a backup
that was cut short there are objects and no manifest, which is no backup. A sealed segment never changes, so one
that the newest backup has is not read again; all else is read and hashed, and stored where no object has it.

Two of one log cannot run at the same time (backup.lock in its folder). Copies of a log, elsewhere, can: see
`pruning`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from evtool.errors import (
    AccessDeniedError,
    BackupDamagedError,
    BackupError,
    ConfigError,
)
from evtool.files import forget_all
from evtool.lifecycle.backups import contents as taking
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.backups.contents import Contents, Piece, SegmentContent
from evtool.lifecycle.backups.manifest import OBJECTS, File, Manifest, SegmentRecord, SnapshotRecord
from evtool.log.log import Log
from evtool.objectstore.folder import FolderStore
from evtool.objectstore.store import PART_BYTES, Store, Stored

LOCK_FILE = "backup.lock"

# An object that no manifest names may be one that is about to be removed, unless it is newer than that.
TRUSTED_SECONDS = 24 * 3600

Progress = Callable[[int, int], None]  # bytes done, and how many there are


@dataclass(frozen=True)
class Made:
    """What a run did. `is_new` is False where nothing has changed since the newest backup, which is `manifest`
    then.

    `stored_bytes` were sent in `stored` objects; the rest was there.
    """

    manifest: Manifest
    is_new: bool
    stored: int
    stored_bytes: int


def back_up(log: Log, store: Store, on_progress: Progress = lambda done, total: None) -> Made:
    """Back a log up as it is now. Readers, its writer and compactions go on.

    Raises ConfigError (the store is in the log's folder), BackupError (the backups there are of another log, or of
    more than this one has), BackupDamagedError (the store does not give back what was stored), LogLockedError
    (another one runs), LogDamagedError, StoreError, StorageError.
    """
    _refuse_own_folder(log, store)
    with _locked(log):
        return _Backup(log, store, on_progress).run()


def _refuse_own_folder(log: Log, store: Store) -> None:
    if isinstance(store, FolderStore) and store.folder.resolve().is_relative_to(log.folder.resolve()):
        raise ConfigError(
            f"{store.url} is in the log's own folder: whatever takes the log would take its backups, too",
            "Name a folder elsewhere, on another disk if there is one.",
        )


@contextlib.contextmanager
def _locked(log: Log) -> Iterator[None]:
    try:
        lock = log.files.lock(log.folder / LOCK_FILE, "is being backed up by", "Wait until it ends.")
    except AccessDeniedError:  # a log that is only to be read can be backed up
        yield
        return
    try:
        yield
    finally:
        lock.release()


class _Backup:
    """One run."""

    def __init__(self, log: Log, store: Store, on_progress: Progress) -> None:
        self._log = log
        self._store = store
        self._on_progress = on_progress
        self._done = self._total = 0
        self._stored = self._stored_bytes = 0

    def run(self) -> Made:
        ids = manifests.ids_of(self._store)
        newest = _newest(self._store, ids)
        if newest is not None:
            _refuse_others(self._log, newest, self._store.url)
        self._there = {each.name: each for each in self._store.list(OBJECTS)}
        self._named = newest.objects() if newest else {}
        found = taking.take(self._log)
        self._total = _bytes_of(found)
        known = {(each.first_position, each.identity): each for each in newest.segments} if newest else {}
        segments = tuple(
            self._segment(each, known.get((each.first_position, each.identity))) for each in found.segments
        )
        kept = tuple(
            SnapshotRecord(each.id, each.position, tuple(map(self._file, each.pieces))) for each in found.snapshots
        )
        others = tuple(map(self._file, found.others))
        made = self._manifest(ids, found, segments, kept, others)
        if newest is not None and replace(made, id=newest.id, made_at=newest.made_at) == newest:
            return Made(newest, False, self._stored, self._stored_bytes)
        self._look_again(made)
        self._write(made)
        return Made(made, True, self._stored, self._stored_bytes)

    def _manifest(
        self,
        ids: list[str],
        found: Contents,
        segments: tuple[SegmentRecord, ...],
        kept: tuple[SnapshotRecord, ...],
        others: tuple[File, ...],
    ) -> Manifest:
        now = datetime.now(UTC)
        snapshot = self._log.snapshot()  # of later, but a log only grows
        digest = snapshot.digest_at(found.position)
        assert digest is not None, "the position of a commit"
        made = Manifest(
            id="",
            log_id=self._log.manifest.id,
            made_at=int(now.timestamp()) * 1_000_000_000,
            position=found.position,
            recorded_at=snapshot.recorded_at(found.position),
            digest=digest,
            events=sum(segment.events for segment in found.segments),
            segments=segments,
            snapshots=kept,
            files=others,
        )
        return replace(made, id=manifests.next_id(ids, now, made))

    def _segment(self, content: SegmentContent, known: SegmentRecord | None) -> SegmentRecord:
        if known is not None and known.identity and self._has_all(known, content):
            self._tell(sum(piece.size for piece in content.pieces))
            return known
        content.check()
        return SegmentRecord(
            content.first_position,
            content.last_position,
            content.recorded_at_min,
            content.identity,
            tuple(map(self._file, content.pieces)),
        )

    def _has_all(self, known: SegmentRecord, content: SegmentContent) -> bool:
        """Whether the objects of a segment that was backed up are there, and it has no file that was not."""
        paths = {file.path for file in known.files}
        return all(self._is_there(file) for file in known.files) and all(
            piece.path in paths for piece in content.pieces
        )

    def _is_there(self, file: File) -> bool:
        found = self._there.get(file.object)
        return found is not None and found.bytes == file.bytes

    def _file(self, piece: Piece) -> File:
        """See to it that an object has what a file has."""
        size, data = piece.size, piece.data()
        file = File(piece.path, size, _sha256(data))
        if not (self._is_there(file) and (file.object in self._named or self._is_sound(file))):
            self._store.put(file.object, data)
            self._stored += 1
            self._stored_bytes += size
            if not self._is_same(file):
                raise BackupDamagedError(
                    f"{self._store.url}/{file.object}: what was stored is not what is read back",
                    "No backup was made; earlier ones stay. Check the store, then run it again.",
                )
        self._named[file.object] = file
        self._there[file.object] = Stored(file.object, size, time.time())
        forget_all(data)
        self._tell(size)
        return file

    def _is_sound(self, file: File) -> bool:
        """Whether an object of a backup that was cut short can be relied on."""
        return time.time() - self._there[file.object].stored_at < TRUSTED_SECONDS and self._is_same(file)

    def _is_same(self, file: File) -> bool:
        try:
            return self._store.sha256(file.object, file.bytes) == file.sha256
        except FileNotFoundError:
            return False

    def _look_again(self, made: Manifest) -> None:
        """Raise BackupError if objects that were there have gone since: another one has tidied up."""
        there = {each.name: each.bytes for each in self._store.list(OBJECTS)}
        for name, file in made.objects().items():
            if there.get(name) != file.bytes:
                raise BackupError(
                    f"{self._store.url}/{name} has gone while the backup was made",
                    "Somebody else removes objects there. No backup was made: run it again.",
                )

    def _write(self, made: Manifest) -> None:
        data, name = manifests.encode(made), manifests.manifest_name(made.id)
        self._store.put(name, data)
        if self._store.get(name) != data:
            raise BackupDamagedError(
                f"{self._store.url}/{name}: what was stored is not what is read back", "Check the store."
            )

    def _tell(self, size: int) -> None:
        self._done += size
        self._on_progress(self._done, self._total)


def _newest(store: Store, ids: list[str]) -> Manifest | None:
    """The newest manifest that is whole: one that is damaged keeps nobody from a new backup."""
    for backup_id in reversed(ids):
        with contextlib.suppress(BackupDamagedError):
            return manifests.read(store, backup_id)
    return None


def _refuse_others(log: Log, newest: Manifest, url: str) -> None:
    """Raise BackupError unless the log is that of a backup, and has all that it had."""
    if newest.log_id != log.manifest.id:
        raise BackupError(
            f"the backups at {url} are of the log {newest.log_id}, and this one is {log.manifest.id}",
            "Name another URL: each log has a place of its own.",
        )
    snapshot = log.snapshot()
    if snapshot.last_position < newest.position:
        raise BackupError(
            f"{log.folder} ends at position {snapshot.last_position:,}, and the backup {newest.id} has position "
            f"{newest.position:,}: the log was cut back, or an earlier state of it was restored",
            f"`evtool restore --from {url}` has what is missing. If it is to stay as it is, name another URL.",
        )
    if snapshot.digest_at(newest.position) != newest.digest:
        raise BackupError(
            f"{log.folder} has other batches up to position {newest.position:,} than the backup {newest.id}: an "
            "earlier state of the log was restored, and went on in another way",
            "Name another URL: each history has a place of its own.",
        )


def _bytes_of(found: Contents) -> int:
    pieces = [*found.others, *(piece for segment in found.segments for piece in segment.pieces)]
    pieces += [piece for snapshot in found.snapshots for piece in snapshot.pieces]
    return sum(piece.size for piece in pieces)


def _sha256(data: memoryview) -> str:
    found = hashlib.sha256()
    for start in range(0, len(data), PART_BYTES):
        found.update(data[start : start + PART_BYTES])
    return found.hexdigest()
