"""What backups there are, and whether their objects hold what was stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evtool import parallel
from evtool.errors import BackupDamagedError, BackupError
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.backups.manifest import OBJECTS, File, Manifest
from evtool.objectstore.store import Store


@dataclass(frozen=True)
class Listed:
    """A backup in a list: its manifest, or what is wrong with that."""

    id: str
    manifest: Manifest | None
    problem: str = ""


@dataclass(frozen=True)
class Damage:
    """An object that is not what was stored: its name, what is wrong, and the backups that need it."""

    object: str
    path: str
    message: str
    backups: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a check found in so many backups, objects and bytes. `unnamed_bytes` are in objects that no backup
    names.
    """

    backups: tuple[str, ...]
    objects: int
    bytes: int
    damaged: tuple[Damage, ...]
    unnamed: int
    unnamed_bytes: int


def every(store: Store) -> list[Listed]:
    """All backups in order. Raises StoreError."""
    found = []
    for backup_id in manifests.ids_of(store):
        try:
            found.append(Listed(backup_id, manifests.read(store, backup_id)))
        except BackupError as error:
            found.append(Listed(backup_id, None, error.message))
    return found


def check(store: Store, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every object that a backup names, in two threads. Raises BackupError (no backup), StoreError."""
    listed = every(store)
    if not listed:
        raise BackupError(
            f"there is no backup at {store.url}", "Check the URL; `evtool backup --to URL` makes the first one."
        )
    damaged = [
        Damage(manifests.manifest_name(each.id), "", each.problem, (each.id,))
        for each in listed
        if each.manifest is None
    ]
    whole = [each.manifest for each in listed if each.manifest is not None]
    named = {name: file for manifest in whole for name, file in manifest.objects().items()}
    there = {each.name: each.bytes for each in store.list(OBJECTS)}
    total, done = sum(file.bytes for file in named.values()), 0
    for file, problem in parallel.ordered(lambda file: (file, _problem(store, file, there)), named.values()):
        done += file.bytes
        on_progress(done, total)
        if problem:
            needed_by = tuple(manifest.id for manifest in whole if file.object in manifest.objects())
            damaged.append(Damage(file.object, file.path, problem, needed_by))
    unnamed = [size for name, size in there.items() if name not in named]
    return Report(tuple(each.id for each in listed), len(named), total, tuple(damaged), len(unnamed), sum(unnamed))


def error_of(report: Report, url: str) -> BackupDamagedError | None:
    """What a check has found, as an error."""
    if not report.damaged:
        return None
    first = report.damaged[0]
    backups = sorted({each for damage in report.damaged for each in damage.backups})
    return BackupDamagedError(
        f"{url}: damaged objects: {len(report.damaged)}, in {len(backups)} of {len(report.backups)} backups; "
        f"{first.object}: {first.message}",
        "Remove the damaged objects, and the next `evtool backup` stores what the log still has of them.",
    )


def _problem(store: Store, file: File, there: dict[str, int]) -> str:
    size = there.get(file.object)
    if size is None:
        return "it is missing"
    if size != file.bytes:
        return f"it has {size:,} bytes where {file.bytes:,} were stored"
    try:
        is_same = store.sha256(file.object, file.bytes) == file.sha256
    except FileNotFoundError:
        return "it is missing"
    return "" if is_same else "it is not what was stored"
