"""What a backup has of a damaged segment: its files, when it is proved that they are of this one.

A backup of the log by its id. A segment whose summary is that of the backup is the same, byte for byte. Of a hot
one the backup may have the beginning only: what follows is our own, and the chain of headers proves that both fit.
Where the segment has become another one since (compacted, or without some events), what is lost is looked for
event by event, in batches whose commit frames have the checksums of ours.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evtool.config import Config
from evtool.errors import BackupDamagedError, BackupError
from evtool.files import Files
from evtool.lifecycle.backups.manifest import File, Manifest, SegmentRecord
from evtool.lifecycle.logfiles import take
from evtool.lifecycle.repairing import hot
from evtool.lifecycle.repairing.survey import Damaged
from evtool.log.archive import OBJECT_KEY
from evtool.log.format import FRAME_HEADER_BYTES, FRAMES_FILE, SUMMARY_FILE, checksum, is_whole, segment_name
from evtool.log.log import Log
from evtool.log.manifest import Manifest as LogManifest
from evtool.log.segment import Segment, summary_record
from evtool.log.segmentview import SegmentView
from evtool.log.walk import check_header, walk_all
from evtool.objectstore.store import Store


@dataclass(frozen=True)
class Filling:
    """Files that make a segment whole again: those of the backup, fetched on use, or all bytes of frames.log."""

    record: SegmentRecord
    frames: bytes | None = None


class Backup:
    """One backup of a log, asked for what the log has lost."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest
        self._files = Files()
        self._place: Path | None = None
        self._fetched: set[int] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        return self._store.url

    def refuse_other(self, log_id: str) -> None:
        """Raise BackupError unless it is one of this log."""
        if self.manifest.log_id != log_id:
            raise BackupError(
                f"the backups at {self.url} are of the log {self.manifest.log_id}, and this one is {log_id}",
                "Name the place of this log's backups; nothing was changed.",
            )

    def filling(self, damaged: Damaged) -> Filling | None:
        """What makes a damaged segment whole; None where the backup has not got it.

        Raises StoreError, BackupError.
        """
        record = next(
            (each for each in self.manifest.segments if each.first_position == damaged.first_position), None
        )
        if record is None:
            return None
        if self._is_same(record, damaged):
            for file in record.files:
                self._check(file)
            return Filling(record)
        frames = next((file for file in record.files if file.path.endswith(f"/{FRAMES_FILE}")), None)
        is_hot = damaged.files is None or not damaged.files.has_cold_files
        return self._joined(record, frames, damaged) if frames is not None and is_hot else None

    def segments(self, first: int, last: int) -> list[SegmentView]:
        """The segments that it has of some positions, whole ones only, fetched. Raises StoreError, BackupError."""
        wanted = [
            each for each in self.manifest.segments if each.first_position <= last and each.last_position >= first
        ]
        return [view for record in wanted if (view := self._view(record)) is not None]

    def _view(self, record: SegmentRecord) -> SegmentView | None:
        if record.first_position not in self._fetched:
            folder = self._scratch() / segment_name(record.first_position)
            self._files.make_folder(folder)
            for file in record.files:
                self._fetch(file, folder / Path(file.path).name)
            self._fetched.add(record.first_position)
        log_id = bytes.fromhex(self.manifest.log_id)
        manifest = LogManifest(self.manifest.log_id, 1, 1, "")
        files = take(Log(self._files, self._scratch(), manifest, Config()))
        found = next(each for each in files.segments if each.first_position == record.first_position)
        if found.cold is not None:
            return found.cold
        if found.frames is None or check_header(found.frames, log_id, record.first_position):
            return None
        table = walk_all(found.frames, record.first_position, check_bodies=True).table
        return Segment(found.folder, record.first_position, table, found.frames, True)

    def _scratch(self) -> Path:
        """Where what is fetched lies until this is closed."""
        if self._place is None:
            self._place = Path(tempfile.mkdtemp(prefix="evtool-repair-"))
        return self._place

    def _fetch(self, file: File, path: Path) -> None:
        target = self._files.open_append(path, create=True)
        try:
            for part in self.parts(file):
                target.append([part])
        finally:
            target.close()

    def close(self) -> None:
        """Remove what was fetched."""
        if self._place is not None:
            self._files.remove_folder(self._place)
            self._place = None

    def file(self, path: str) -> bytes | None:
        """A small file that it has beside the segments; None if it has none of this path."""
        found = next((file for file in self.manifest.files if file.path == path), None)
        return None if found is None else b"".join(self.parts(found))

    def parts(self, file: File) -> Iterator[bytes]:
        """The bytes of a file, checked at the end. Raises BackupDamagedError, StoreError."""
        hashed = hashlib.sha256()
        try:
            for part in self._store.parts(file.object, file.bytes):
                hashed.update(part)
                yield part
        except FileNotFoundError as error:
            raise self._damage(file, "it is missing") from error
        if hashed.hexdigest() != file.sha256:
            raise self._damage(file, "it is not what was stored")

    def _check(self, file: File) -> None:
        for _ in self.parts(file):
            pass

    def _damage(self, file: File, what: str) -> BackupDamagedError:
        return BackupDamagedError(
            f"{self._store.url}/{file.object} ({file.path}): {what}",
            f"Nothing was changed. `evtool backup --check {self._store.url}` shows which backups are whole.",
        )

    def _is_same(self, record: SegmentRecord, damaged: Damaged) -> bool:
        """Whether the backup has this very segment, by its summary, or where that is lost by its neighbours."""
        if not record.identity:
            return False
        files, place = damaged.files, damaged.place
        if files is not None and files.summary is not None:
            own = {
                key: value for key, value in files.summary.items() if key != OBJECT_KEY
            }  # a backup has the events
            return record.identity == f"{checksum(summary_record(own)):016x}"
        if record.last_position != place.last_position or place.digest is None:
            return False
        file = next(file for file in record.files if file.path.endswith(f"/{SUMMARY_FILE}"))
        summary = b"".join(self.parts(file))
        told = _unpacked(summary)
        return (told.get("digest"), told.get("previous_digest")) == (place.digest, place.previous_digest)

    def _joined(self, record: SegmentRecord, file: File, damaged: Damaged) -> Filling | None:
        """The backup's beginning of a hot segment, and what we have behind it, if the chain goes through both."""
        data = b"".join(self.parts(file))
        own = memoryview(b"")
        if damaged.files is not None and damaged.files.frames is not None:
            own = damaged.files.frames
        place = damaged.place
        joined = data + bytes(own[len(data) : place.end])
        if check_header(memoryview(joined), place.log_id, damaged.first_position):
            return None
        found = walk_all(memoryview(joined), damaged.first_position, check_bodies=True)
        last = int(found.table["header"]["last_position"][-1]) if len(found.table) else 0
        wanted = place.last_position or max(place.claimed, damaged.last_position)
        is_end = place.digest is None or found.last_checksum == place.digest
        if last != wanted or not is_end or not _agree(joined, damaged):
            return None
        return Filling(record, joined[: found.end])


def _unpacked(record: bytes) -> dict[str, object]:
    import msgpack

    return dict(msgpack.unpackb(record[:-8])) if len(record) > 8 and is_whole(record) else {}


def _agree(joined: bytes, damaged: Damaged) -> bool:
    """Whether every frame header that we can believe stands in what was joined, too."""
    pieces = damaged.known.pieces if damaged.known is not None else None
    if not isinstance(pieces, hot.Frames):
        return True
    return all(
        joined[offset : offset + FRAME_HEADER_BYTES] == header
        for offset, header in pieces.headers.items()
        if offset < len(joined)
    )


def put(files: Files, backup: Backup, filling: Filling, folder: Path) -> None:
    """Let the files of a filling take the place of those that are there; the summary comes last.

    Raises StoreError, BackupDamagedError, StorageError.
    """
    files.make_folder(folder)
    if filling.frames is not None:
        files.write_whole(folder / FRAMES_FILE, filling.frames)
        return
    in_order = sorted(filling.record.files, key=lambda file: file.path.endswith(f"/{SUMMARY_FILE}"))
    for file in in_order:
        path = folder / Path(file.path).name
        if _sha256(files, path) == file.sha256:
            continue
        fetched = path.with_name(path.name + ".tmp")
        files.remove(fetched)
        target = files.open_append(fetched, create=True)
        try:
            for part in backup.parts(file):
                target.append([part])
            target.sync()
        finally:
            target.close()
        files.replace(fetched, path)
        files.sync_folder(folder)


def _sha256(files: Files, path: Path) -> str:
    hashed = hashlib.sha256()
    try:
        hashed.update(files.map(path))
    except FileNotFoundError:
        return ""
    return hashed.hexdigest()
