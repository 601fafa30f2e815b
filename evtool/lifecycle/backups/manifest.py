"""The manifest of a backup: what a log had at one position, and which objects hold it.

    backups/00000012-20260131T031700Z-4f1c09ab.json    a manifest: one line of JSON, and a line with its SHA-256
    objects/4f/4f1c…                                   the bytes of a file, by their SHA-256 (64 hex digits)

A manifest is written last and names objects that are there: without it there is no backup. Its number is one more
than that of the newest one, so the order of names is that of the backups, whatever the clock does. It ends with a
part of the SHA-256 of what it says: two copies of a log that are backed up in one second have two manifests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import msgspec

from evtool.errors import BackupDamagedError, BackupError
from evtool.objectstore.store import Store

MANIFESTS = "backups/"
OBJECTS = "objects/"
FORMAT = "evtool backup"
VERSION = 1

_NAME = re.compile(re.escape(MANIFESTS) + r"(\d{8}-\d{8}T\d{6}Z-[0-9a-f]{8})\.json")
_OTHER = "Restore another one with --backup ID: `evtool backup --check` shows which are whole."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """A file of a log, its path relative to the log's folder, and the object that holds it."""

    path: str
    bytes: int
    sha256: str

    @property
    def object(self) -> str:
        """The name of the object."""
        return object_name(self.sha256)


@dataclass(frozen=True)
class SegmentRecord:
    """A segment: its positions, times of recording (ns), and files.

    `identity` tells a sealed one from whatever else it may become: XXH3-64 of its summary. "" where it can grow.
    """

    first_position: int
    last_position: int
    recorded_at_min: int
    identity: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot of a projection: the position that it is of, and its files."""

    id: str
    position: int
    files: tuple[File, ...]


@dataclass(frozen=True)
class Manifest:
    """A backup. `digest` vouches for all batches up to `position`; `files` are those beside the segments.

    `made_at` and `recorded_at` (of `position`; None in an empty log) are ns UTC. `events` are those that are
    there.
    """

    id: str
    log_id: str
    made_at: int
    position: int
    recorded_at: int | None
    digest: str
    events: int
    segments: tuple[SegmentRecord, ...]
    snapshots: tuple[SnapshotRecord, ...]
    files: tuple[File, ...]
    format: str = FORMAT
    version: int = VERSION

    def every_file(self) -> Iterator[File]:
        """All of its files, those of segments first."""
        for segment in self.segments:
            yield from segment.files
        for snapshot in self.snapshots:
            yield from snapshot.files
        yield from self.files

    def objects(self) -> dict[str, File]:
        """The objects that it names, each once, by name."""
        return {file.object: file for file in self.every_file()}

    @property
    def bytes(self) -> int:
        """Of all its objects."""
        return sum(file.bytes for file in self.objects().values())


def object_name(sha256: str) -> str:
    """The object that holds bytes with this SHA-256."""
    return f"{OBJECTS}{sha256[:2]}/{sha256}"


def next_id(ids: list[str], now: datetime, made: Manifest) -> str:
    """The id of a backup that is made now, behind these."""
    number = int(ids[-1].partition("-")[0]) + 1 if ids else 1
    content = hashlib.sha256(encode(made)).hexdigest()
    return f"{number:08d}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{content[:8]}"


def manifest_name(backup_id: str) -> str:
    """The object that holds the manifest of a backup."""
    return f"{MANIFESTS}{backup_id}.json"


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest."""
    text = json.dumps(asdict(manifest), separators=(",", ":")).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def decode(data: bytes, name: str) -> Manifest:
    """What `encode` gave. Raises BackupDamagedError; BackupError where a newer evtool wrote it."""
    text, _, rest = data.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() + b"\n" != rest:
        raise BackupDamagedError(f"{name} does not match its checksum", _OTHER)
    table = json.loads(text)
    if table.get("format") != FORMAT or table.get("version") != VERSION:
        raise BackupError(
            f"{name} has version {table.get('version')}; this evtool reads version {VERSION}",
            "Install a newer evtool: pip install --upgrade evtool",
        )
    try:
        manifest = msgspec.convert(table, Manifest)
    except msgspec.ValidationError as error:
        raise BackupDamagedError(f"{name} makes no sense: {error}", _OTHER) from error
    for file in manifest.every_file():
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not _SHA256.fullmatch(file.sha256) or file.bytes < 0:
            raise BackupDamagedError(f"{name} names {file.path!r}, which no log has", _OTHER)
    return manifest


def ids_of(store: Store) -> list[str]:
    """The ids of all backups, in order. Raises StoreError."""
    found = (_NAME.fullmatch(each.name) for each in store.list(MANIFESTS))
    return sorted(match[1] for match in found if match)


def read(store: Store, backup_id: str) -> Manifest:
    """One manifest. Raises BackupError (there is none), BackupDamagedError, StoreError."""
    name = manifest_name(backup_id)
    try:
        return decode(store.get(name), f"{store.url}/{name}")
    except FileNotFoundError as error:
        raise BackupError(
            f"{store.url} has no backup {backup_id}", f"`evtool backup list {store.url}` shows those that it has."
        ) from error


def find(store: Store, backup_id: str | None) -> Manifest:
    """The manifest of an id, or the newest one. Raises BackupError, BackupDamagedError, StoreError."""
    if backup_id is not None:
        return read(store, backup_id)
    ids = ids_of(store)
    if not ids:
        raise BackupError(
            f"there is no backup at {store.url}", "Check the URL; `evtool backup --to URL` makes the first one."
        )
    return read(store, ids[-1])
