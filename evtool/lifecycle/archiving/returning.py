"""Segments brought back from the archive to this disk, and an archive that is at another place now."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import xxhash

from evtool.config import Config
from evtool.errors import ArchiveError, LogDamagedError, NoSpaceError
from evtool.files import translated
from evtool.lifecycle.archiving.place import Archive, archived, existing, object_of, store_at
from evtool.lifecycle.archiving.sweeping import (
    check_changing,
    check_place,
    read_catalogue,
    sizes,
    sweep,
)
from evtool.lifecycle.due import first_recorded
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.rewriting import rewriting_lock
from evtool.log.archive import CATALOGUE, OBJECT_KEY, Place, read_place, write_place
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import ARCHIVE_FILE, events_file
from evtool.log.log import Log
from evtool.log.segment import write_summary
from evtool.objectstore.store import Store
from evtool.replay import parse_bound

_COPY = "Copy all objects there first; nothing was changed."

Progress = Callable[[int, int], None]  # bytes done, and how many there are


def position_of(log: Log, bound: str, now_ns: int) -> int:
    """The first position from a bound on, as `replay --from` reads it. Raises ConfigError, PositionError."""
    found = parse_bound(bound, log, now_ns)
    if found.position is not None:
        return found.position
    assert found.time is not None
    return first_recorded(log.snapshot(), found.time)


@dataclass
class Returned:
    """What was brought back, and whether the log has no archive any more."""

    url: str
    segments: int = 0
    bytes: int = 0
    left: int = 0
    is_over: bool = False


def bring_back(log: Log, since: int, on_progress: Progress = lambda done, total: None) -> Returned:
    """Bring archived segments back that have events from position `since` on, the newest first.

    Their objects are removed. When none is left, the catalogue and archive.json go, too. Raises ArchiveError
    (there is no archive), LogReadOnlyError, LogLockedError, NoSpaceError (before anything is read),
    LogDamagedError (an object is not what was stored), StoreError, StorageError: what is back by then stays, and
    the next run goes on.
    """
    log.check_writable()
    lock = rewriting_lock(log)
    try:
        clear(log)
        archive = existing(log)
        check_changing(archive)
        there = [each for each in log.snapshot().segments if object_of(each) is not None]
        chosen = [each for each in there if isinstance(each, ColdSegment) and each.last_position >= since]
        report = Returned(archive.place.url, left=len(there))
        total = sum(int(each.summary["events_bytes"]) for each in chosen)
        _check_room(log, total)
        for segment in reversed(chosen):
            _fetch(archive, segment, lambda done: on_progress(report.bytes + done, total))
            report.segments += 1
            report.left -= 1
            report.bytes += int(segment.summary["events_bytes"])
        sweep(archive)
        if not report.left:
            archive.store.delete(CATALOGUE)
            log.files.remove(log.folder / ARCHIVE_FILE)
            log.archive.cache.keep_only(())
            report.is_over = True
        return report
    finally:
        lock.release()


def _check_room(log: Log, wanted: int) -> None:
    free = shutil.disk_usage(log.folder).free
    if free < wanted:
        raise NoSpaceError(
            f"{wanted:,} bytes are to come back to {log.folder}, and {free:,} are free",
            "Free some space, or bring fewer back: --from POSITION.",
        )


def _fetch(archive: Archive, segment: ColdSegment, on_progress: Callable[[int], None]) -> None:
    """Bring one segment back. The local file counts from when it is there; then the summary names no object."""
    log, summary = archive.log, dict(segment.summary)
    name, size = summary.pop(OBJECT_KEY), summary["events_bytes"]
    path = segment.folder / events_file(summary["generation"])
    temporary = path.with_name(path.name + ".tmp")
    log.files.remove(temporary)
    state, file = xxhash.xxh3_64(), log.files.open_append(temporary, create=True, durable=False)
    try:
        for part in archive.store.parts(name, size):
            state.update(part)
            file.append([part])
            on_progress(file.size)
        file.sync()
    except FileNotFoundError as error:
        raise _damage(archive, name, "it is missing") from error
    finally:
        file.close()
    if state.intdigest() != summary["events_checksum"]:
        log.files.remove(temporary)
        raise _damage(archive, name, "it is not what was stored")
    with translated("rename", path):
        log.files.replace(temporary, path)
    log.files.sync_folder(path.parent)
    write_summary(log.files, segment.folder, summary)


def _damage(archive: Archive, name: str, what: str) -> LogDamagedError:
    return LogDamagedError(
        f"{archive.store.url}/{name}: {what}",
        "`evtool archive --check` shows all of the damage; a backup has these events.",
        what,
    )


def moved_to(log: Log, config: Config, url: str) -> bool:
    """Let the archive be at `url` from now on, where its objects were copied to. Whether it was not there before.

    An archive.json that is lost or damaged is made anew by what is there. Raises ArchiveError where the archive is
    not there, LogReadOnlyError, LogLockedError, StoreError, StorageError.
    """
    log.check_writable()
    lock = rewriting_lock(log)
    try:
        clear(log)
        store = store_at(url, log.files, config)
        before = _place(log, store, url)
        archive = Archive(log, replace(before, url=url), store)
        check_place(archive)
        for name, problem in sizes(archive):
            if problem:
                raise ArchiveError(f"{url}/{name}: {problem}", _COPY)
        write_place(log.files, log.folder, archive.place)
        return before.url != url
    finally:
        lock.release()


def _place(log: Log, store: Store, url: str) -> Place:
    """What archive.json says, or else what it said, by the catalogue in a store, which must be there."""
    place = None
    with contextlib.suppress(LogDamagedError):
        place = read_place(log.files, log.folder, log.manifest.id)
    if place is None and not archived(log):
        return existing(log).place
    found = read_catalogue(store)
    if found is None:
        raise ArchiveError(f"there is no {CATALOGUE} at {url}", _COPY)
    return place or Place(log.manifest.id, "", found.id)
