"""Cold segments moved to the archive, one after the other: stored, read back, named, then removed from this disk.

Of each the object with its events comes first, then those of its index, then the catalogue. Its summary with the
name of the object is the switch: before it the local file counts, behind it nobody needs that one, and readers who
have it mapped keep it. Whatever ends the process, the next run looks at what is there, and does not send it again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evtool.config import Config
from evtool.errors import LogDamagedError
from evtool.files import forget_all
from evtool.lifecycle.archiving.place import Archive, archived, object_of, of, store_at, url_of
from evtool.lifecycle.archiving.planning import Plan
from evtool.lifecycle.archiving.sweeping import (
    catalogue_of,
    check_changing,
    check_new,
    listed,
    not_stored,
    put_catalogue,
    sizes_of,
    sweep,
)
from evtool.lifecycle.compact import Failure
from evtool.lifecycle.findings import RESTORE_OBJECT
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.rewriting import rewriting_lock
from evtool.log.archive import (
    OBJECT_KEY,
    Catalogue,
    Place,
    events_object,
    index_objects,
    streams_object,
    write_place,
)
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import (
    LOG_FILE,
    STREAMS_FILE,
    checksum,
    checksum_of,
    events_file,
    segment_name,
)
from evtool.log.log import Log
from evtool.log.segment import write_summary

Progress = Callable[[int, int], None]  # bytes done, and how many there are


@dataclass
class Report:
    """What was moved, and what was removed as no segment names it.

    `failures` are segments that were left here as they are damaged, and objects with events that are not there.
    """

    url: str
    segments: int = 0
    bytes: int = 0
    position: int = 0
    removed: int = 0
    removed_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """What the audit tells of it."""
        return {"segments": self.segments, "bytes": self.bytes, "objects_removed": self.removed}


def move_all(
    log: Log, config: Config, plan: Plan, url: str, on_progress: Progress = lambda done, total: None
) -> Report:
    """Move what a plan says to the archive at `url`, which begins with the first one, and tidy up there.

    Raises LogReadOnlyError, LogLockedError (another one writes segments), ArchiveError (it is at another place, or
    what is there is not this archive), StoreError, StorageError: what was moved by then stays so, and the next run
    goes on.
    """
    log.check_writable()
    report = Report(url)
    lock = rewriting_lock(log)
    try:
        clear(log)
        url = url_of(log, config, url)
        archive = of(log)
        if plan.segments and (archive is None or archive.place.url != url):
            archive = _begun(log, config, url)
        if archive is None:
            return report
        check_changing(archive)
        report.failures += _finish(archive)
        _move_planned(archive, plan, report, on_progress)
        swept = sweep(archive)
        report.removed, report.removed_bytes = swept.objects, swept.bytes
        report.position = catalogue_of(archive).last_position
        return report
    finally:
        lock.release()


def move(archive: Archive, segment: ColdSegment) -> None:
    """Move one segment. To be called under `rewriting_lock`, behind `check_changing`.

    Raises LogDamagedError (nothing was stored), ArchiveError, StoreError, StorageError.
    """
    files, folder = archive.log.files, segment.folder
    summary = {**segment.summary, OBJECT_KEY: events_object(segment.summary)}
    _store(archive, folder, summary)
    put_catalogue(archive, catalogue_of(archive, {segment.first_position: summary}))
    write_summary(files, folder, summary)
    files.remove(folder / events_file(summary["generation"]))


def _finish(archive: Archive) -> list[Failure]:
    """Store what archived segments lack there, and remove the events that they have here; what nobody has.

    A run was cut short, or somebody brought a file, or removed an object.
    """
    there, lost = listed(archive.store), []
    for summary in archived(archive.log):
        folder = archive.log.folder / segment_name(summary["first_position"])
        events = folder / events_file(summary["generation"])
        if events.exists():
            _store(archive, folder, summary)
            archive.log.files.remove(events)
            continue
        problems = {name: problem for name, problem in sizes_of(summary, there) if problem}
        if what := problems.pop(summary[OBJECT_KEY], None):
            lost.append(Failure(archive.log.archive.where(summary[OBJECT_KEY]), what, RESTORE_OBJECT))
        if problems:
            _store_index(archive, folder, summary)
    return lost


def _store(archive: Archive, folder: Path, summary: Mapping[str, Any]) -> None:
    """Have the objects of a segment be what is in its folder."""
    events = folder / events_file(summary["generation"])
    _put(archive, summary[OBJECT_KEY], events, summary["events_bytes"], summary["events_checksum"])
    _store_index(archive, folder, summary)


def _store_index(archive: Archive, folder: Path, summary: Mapping[str, Any]) -> None:
    for each in index_objects(summary):
        _put(archive, each.name, folder / each.file, each.bytes, each.checksum)
    streams = folder / STREAMS_FILE
    _put(archive, streams_object(summary), streams, archive.log.files.size(streams), None)


def _begun(log: Log, config: Config, url: str) -> Archive:
    """A new archive. archive.json is written when the store has taken a catalogue, and given it back."""
    store = store_at(url, log.files, config)
    check_new(log, store)
    archive = Archive(log, Place(log.manifest.id, url, uuid.uuid4().hex), store)
    put_catalogue(archive, Catalogue(log.files.read_whole(log.folder / LOG_FILE).decode(), [], archive.place.id))
    write_place(log.files, log.folder, archive.place)
    return archive


def _move_planned(archive: Archive, plan: Plan, report: Report, on_progress: Progress) -> None:
    for segment in _local(archive.log, plan.last_position):
        try:
            move(archive, segment)
        except LogDamagedError as error:  # those behind it wait, as an archive has no gap
            report.failures.append(Failure(str(segment.folder), error.message, error.hint))
            return
        report.segments += 1
        report.bytes += int(segment.summary["events_bytes"])
        on_progress(report.bytes, plan.bytes)


def _local(log: Log, until: int) -> list[ColdSegment]:
    """The cold segments up to a position that are on this disk."""
    return [
        each
        for each in log.snapshot().segments
        if isinstance(each, ColdSegment) and object_of(each) is None and each.last_position <= until
    ]


def _put(archive: Archive, name: str, path: Path, size: int, expected: int | None) -> None:
    """See to it that an object has what a file has, which is of this checksum (None: whatever it holds)."""
    data = archive.log.files.map(path, size)
    found = checksum(data)
    if len(data) != size or expected not in (None, found):
        raise LogDamagedError(
            f"{path}: it does not match its checksum", "Run `evtool verify` to see all of the damage."
        )
    there = archive.store.head(name)
    if there is None or there.bytes != size or stored_checksum(archive, name, size) != found:
        archive.store.put(name, data)
        if stored_checksum(archive, name, size) != found:
            raise not_stored(archive.store, name)
    forget_all(data)


def stored_checksum(archive: Archive, name: str, size: int) -> int | None:
    """XXH3-64 of an object, read back; None where it is not there. Raises StoreError."""
    try:
        return checksum_of(archive.store.parts(name, size))
    except FileNotFoundError:
        return None
