"""Old backups removed: first their manifests, then the objects that no manifest names any more.

Another backup may run meanwhile, of a copy of the log or from another machine, and rely on objects that no
manifest names yet. No lock in the store keeps the two apart, as one that was left behind would stop all backups:
an object is removed only when it was stored more than `AGE_SECONDS` ago, by the clocks of the store and of this
machine. A backup relies on objects without a name only if they are younger than half of that, and looks once more
before it writes its manifest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from evtool.errors import BackupDamagedError
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.backups.making import TRUSTED_SECONDS
from evtool.lifecycle.backups.manifest import OBJECTS
from evtool.objectstore.store import Store

AGE_SECONDS = 2 * TRUSTED_SECONDS


@dataclass(frozen=True)
class Pruned:
    """What was removed: backups by id, objects and their bytes."""

    backups: tuple[str, ...]
    objects: int
    bytes: int


def prune(store: Store, keep: int, age_seconds: float = AGE_SECONDS) -> Pruned:
    """Keep the newest `keep` backups (1 at least). A run that is cut short is taken up by the next one.

    Raises BackupDamagedError, with nothing removed, where a manifest that is kept cannot be read: nobody knows
    what it names. Raises StoreError.
    """
    ids = manifests.ids_of(store)
    outdated = ids[: -max(keep, 1)]
    for backup_id in ids[len(outdated) :]:
        _named(store, backup_id)
    for backup_id in outdated:
        store.delete(manifests.manifest_name(backup_id))
    # Listed before the manifests are read again: what is named by one that was written meanwhile is kept.
    before = time.time() - age_seconds
    old = [each for each in store.list(OBJECTS) if each.stored_at < before]
    named = {name for backup_id in manifests.ids_of(store) for name in _named(store, backup_id)}
    unnamed = [each for each in old if each.name not in named]
    for each in unnamed:
        store.delete(each.name)
    return Pruned(tuple(outdated), len(unnamed), sum(each.bytes for each in unnamed))


def _named(store: Store, backup_id: str) -> set[str]:
    try:
        return set(manifests.read(store, backup_id).objects())
    except BackupDamagedError as error:
        raise BackupDamagedError(
            error.message,
            f"Nothing was removed. Remove {manifests.manifest_name(backup_id)} by hand if it is not to be kept.",
        ) from error
