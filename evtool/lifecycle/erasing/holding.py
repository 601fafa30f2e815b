"""Backups that still hold what is erased: they are elsewhere, and never changed."""

from __future__ import annotations

from dataclasses import dataclass

from evtool.config import Config
from evtool.errors import EvtoolError
from evtool.files import Files
from evtool.lifecycle.backups import checking
from evtool.lifecycle.backups.contents import DEAD_LETTERS
from evtool.lifecycle.backups.manifest import Manifest
from evtool.lifecycle.backups.place import store_of
from evtool.log.manifest import Manifest as LogManifest


@dataclass(frozen=True)
class Holding:
    """The backups of a log at `url` that hold something of it, by id; or why that is not known."""

    url: str = ""
    ids: tuple[str, ...] = ()
    problem: str = ""


def choose(config: Config, files: Files, log: LogManifest, first: int | None, has_letters: bool) -> Holding | None:
    """The backups of the configured place that reach the position `first`, or have dead letters where some go.

    None where no place is configured. One that cannot be read counts: nobody knows what is in it.
    """
    if config.backup.to is None:
        return None
    try:
        store = store_of(config, files=files)
        listed = checking.every(store)
    except EvtoolError as error:
        return Holding(config.backup.to, problem=error.message)

    def holds(manifest: Manifest) -> bool:
        has_events = first is not None and manifest.position >= first
        has_theirs = has_letters and any(file.path == DEAD_LETTERS for file in manifest.every_file())
        return manifest.log_id == log.id and (has_events or has_theirs)

    ids = [each.id for each in listed if each.manifest is None or holds(each.manifest)]
    return Holding(store.url, tuple(ids))
