"""The catalogue of an archive, and what no segment names any more.

The summaries in the log's folder are the truth. The catalogue is what they say, as far as archived segments follow
each other from the first one on. An object that no summary names goes, behind the catalogue that does not name it.
Whatever cut a run short, the next one comes to the same end from what it finds.

Who writes archived segments again, as `retain` does, calls `check_changing` before anything else, `moving.move`
for each that was written, and `sweep` at the end: then nothing of what it let go of is in the archive any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evtool.errors import ArchiveError, LogDamagedError
from evtool.lifecycle.archiving.place import Archive, archived, summaries_of
from evtool.log import archive as naming
from evtool.log.archive import CATALOGUE, OBJECT_KEY, Catalogue
from evtool.log.format import LOG_FILE
from evtool.log.log import Log
from evtool.objectstore.store import Store

FOLDERS = ("events/", "index/")

_UNFINISHED = r"\.[0-9a-f]{32}\.tmp"  # what a folder has of an object that was being put
_OWN = re.compile(
    rf"(events/day=[^/]+|index)/\d{{20}}-\d+\.(parquet|map|gone|streams)({_UNFINISHED})?|{CATALOGUE}{_UNFINISHED}"
)


@dataclass(frozen=True)
class Swept:
    """What was removed."""

    objects: int
    bytes: int


def objects_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """The objects of an archived segment, its events first."""
    yield summary[OBJECT_KEY]
    yield from (each.name for each in naming.index_objects(summary))
    yield naming.streams_object(summary)


def catalogue_of(archive: Archive, changed: Mapping[int, Mapping[str, Any]] | None = None) -> Catalogue:
    """What the summaries say is archived; some of them are `changed`, by first position."""
    log, found, expected = archive.log, [], 1
    for first_position, summary in (summaries_of(log) | dict(changed or {})).items():
        if first_position != expected or OBJECT_KEY not in summary:
            break
        found.append(summary)
        expected = int(summary["last_position"]) + 1
    return Catalogue(log.files.read_whole(log.folder / LOG_FILE).decode(), found, archive.place.id)


def read_catalogue(store: Store) -> Catalogue | None:
    """The catalogue that is there, None without one. Raises LogDamagedError, LogFormatError, StoreError."""
    try:
        return naming.decode(store.get(CATALOGUE), f"{store.url}/{CATALOGUE}")
    except FileNotFoundError:
        return None


def put_catalogue(archive: Archive, catalogue: Catalogue) -> None:
    """Have the store hold a catalogue, read back. Raises StoreError, StorageError, ArchiveError."""
    data = naming.encode(catalogue)
    archive.store.put(CATALOGUE, data)
    if archive.store.get(CATALOGUE) != data:
        raise not_stored(archive.store, CATALOGUE)


def not_stored(store: Store, name: str) -> ArchiveError:
    """What is raised when a store does not give back what it was given."""
    return ArchiveError(
        f"{store.url}/{name}: what was stored is not what is read back",
        "Nothing was removed from this disk. Check the store, then run it again.",
    )


def check_changing(archive: Archive) -> None:
    """Raise ArchiveError unless this log may change what is in the store; StoreError where that does not answer.

    The folder of a log may be copied with its archive.json. Then both would remove objects that the other needs.
    """
    log, place = archive.log, archive.place
    if place.owner not in (0, naming.owner_of(log.files, log.folder)):
        raise ArchiveError(
            f"{log.folder} was copied, or moved to another disk, since its archive at {place.url} was begun",
            "Two copies would remove each other's objects. If the other one is no more, or has lost its "
            f"archive.json, this one takes over: `evtool archive --moved-to {place.url}`.",
        )
    check_place(archive)


def check_place(archive: Archive) -> None:
    """Raise ArchiveError unless what is in the store is the archive of this log, and of no other copy of it.

    A catalogue that is missing or damaged does no harm where the objects are there, as it is made anew. Raises
    StoreError where the store does not answer.
    """
    found = _readable(archive.store)
    if found is None:
        missing = [name for name, problem in sizes(archive) if problem]
        if missing:
            raise ArchiveError(
                f"{archive.store.url} does not have {missing[0]}, nor a catalogue that can be read",
                "Is the disk mounted, the bucket the right one? archive.json of the log says where it is.",
            )
    elif found.manifest.id != archive.log.manifest.id:
        raise another(archive.store.url, found, archive.log)
    elif found.id != archive.place.id:
        raise ArchiveError(
            f"the archive at {archive.store.url} was begun by another copy of this log",
            "Name another URL: two copies would remove each other's objects.",
        )


def check_new(log: Log, store: Store) -> None:
    """Raise ArchiveError unless a place is free for a new archive. Raises StoreError.

    An archive of this log that has nothing yet is in nobody's way: a run was cut short when it was begun.
    """
    found = _readable(store)
    if found is not None and found.manifest.id != log.manifest.id:
        raise another(store.url, found, log)
    if found is not None and found.segments:
        raise ArchiveError(
            f"{store.url} is the archive of this log already, begun by a copy of it",
            "Two would remove each other's objects: name another URL. If that copy is no more, remove all there.",
        )
    for folder in FOLDERS:
        for each in store.list(folder):
            raise ArchiveError(
                f"{store.url} is not empty: it holds {each.name!r}", "Name a new folder, or another prefix."
            )


def another(url: str, found: Catalogue, log: Log) -> ArchiveError:
    """What is raised where another log has its archive."""
    return ArchiveError(
        f"the archive at {url} is of the log {found.manifest.id}, and this one is {log.manifest.id}",
        "Name another URL: each log has a place of its own.",
    )


def _readable(store: Store) -> Catalogue | None:
    try:
        return read_catalogue(store)
    except LogDamagedError:
        return None


def sizes(archive: Archive) -> Iterator[tuple[str, str]]:
    """The objects that the log names, each with what is wrong with its size, or "". Raises StoreError."""
    there = listed(archive.store)
    for summary in archived(archive.log):
        yield from sizes_of(summary, there)


def listed(store: Store) -> dict[str, int]:
    """The objects of segments that are there, and their bytes. Raises StoreError."""
    return {each.name: each.bytes for folder in FOLDERS for each in store.list(folder)}


def sizes_of(summary: Mapping[str, Any], there: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The same of one segment, by what is there."""
    known = {each.name: each.bytes for each in naming.index_objects(summary)}
    known[summary[OBJECT_KEY]] = summary["events_bytes"]
    for name in objects_of(summary):
        size, wanted = there.get(name), known.get(name)
        if size is None:
            yield name, "it is missing"
        elif wanted is not None and size != wanted:
            yield name, f"it has {size:,} bytes where {wanted:,} were stored"
        else:
            yield name, ""


def sweep(archive: Archive) -> Swept:
    """Let the catalogue be what the log says, and remove the objects that it does not name, and what is cached.

    Behind this nobody finds what was dropped or erased. To be called under `rewriting_lock`, behind
    `check_changing`. Raises StoreError; then the next one goes on.
    """
    wanted = catalogue_of(archive)
    if _readable(archive.store) != wanted:
        put_catalogue(archive, wanted)
    named = {name for summary in archived(archive.log) for name in objects_of(summary)}
    there = archive.store.list("")
    unnamed = [each for each in there if each.name not in named and _OWN.fullmatch(each.name)]
    if unnamed:
        forget_cached(archive.log)
    for each in unnamed:
        archive.store.delete(each.name)
    if unnamed:
        forget_cached(archive.log)  # what others fetched meanwhile
    return Swept(len(unnamed), sum(each.bytes for each in unnamed))


def forget_cached(log: Log) -> None:
    """Remove what was fetched of objects that are archived no more. Raises StorageError, LogDamagedError."""
    log.archive.cache.keep_only(summary[OBJECT_KEY] for summary in archived(log))
