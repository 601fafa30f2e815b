"""Whether the objects of an archive are what the summaries of the log say, byte by byte or by their sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evtool import parallel
from evtool.errors import LogDamagedError
from evtool.lifecycle.archiving.moving import stored_checksum
from evtool.lifecycle.archiving.place import Archive, archived
from evtool.lifecycle.archiving.sweeping import (
    catalogue_of,
    check_place,
    listed,
    objects_of,
    read_catalogue,
    sizes_of,
)
from evtool.log import archive as naming
from evtool.log.archive import CATALOGUE, OBJECT_KEY
from evtool.log.format import STREAMS_FILE, checksum, segment_name

Progress = Callable[[int, int], None]  # bytes read, and how many there are


@dataclass(frozen=True)
class Damage:
    """An object that is not what it should be, of a segment (0 positions: of all of them)."""

    object: str
    message: str
    first_position: int = 0
    last_position: int = 0


@dataclass(frozen=True)
class Report:
    """What was looked at; of a quick one only the catalogue was read. `unnamed` objects are in nobody's way."""

    url: str
    is_quick: bool
    segments: int
    position: int
    objects: int
    bytes: int
    damaged: tuple[Damage, ...]
    unnamed: int
    unnamed_bytes: int


def check(archive: Archive, is_quick: bool, on_progress: Progress = lambda done, total: None) -> Report:
    """Look at every object of an archive, by default by reading it, in two threads.

    Raises ArchiveError where what is there is not this archive, StoreError.
    """
    damaged = [*_catalogue(archive)]
    if not damaged:
        check_place(archive)
    summaries = archived(archive.log)
    there = listed(archive.store)
    named = {name: summary for summary in summaries for name in objects_of(summary)}
    problems = dict(pair for summary in summaries for pair in sizes_of(summary, there))
    total, done = sum(there.get(name, 0) for name in named), 0
    if not is_quick:
        whole = [name for name, problem in problems.items() if not problem]
        work = parallel.ordered(lambda name: (name, _content(archive, named[name], name, there[name])), whole)
        for name, problem in work:
            problems[name] = problem
            done += there[name]
            on_progress(done, total)
    damaged += [
        Damage(name, problem, int(named[name]["first_position"]), int(named[name]["last_position"]))
        for name, problem in problems.items()
        if problem
    ]
    unnamed = [size for name, size in there.items() if name not in named]
    position = catalogue_of(archive).last_position
    return Report(
        *(archive.place.url, is_quick, len(summaries), position, len(named), total),
        *(tuple(damaged), len(unnamed), sum(unnamed)),
    )


def error_of(report: Report) -> LogDamagedError | None:
    """What a check has found, as an error."""
    if not report.damaged:
        return None
    first = report.damaged[0]
    hint = (
        "Events come back from a copy of the archive, or from a backup. What is damaged of index/ can be removed: "
        "the next `evtool archive` stores it again, and makes catalogue.msgpack anew."
    )
    return LogDamagedError(
        f"{report.url}: {len(report.damaged)} of its objects are damaged; {first.object}: {first.message}", hint
    )


def _catalogue(archive: Archive) -> Iterator[Damage]:
    try:
        found = read_catalogue(archive.store)
    except LogDamagedError as error:
        yield Damage(CATALOGUE, error.what)
        return
    if found is None:
        yield Damage(CATALOGUE, "it is missing")
    elif found.manifest.id == archive.log.manifest.id and found != catalogue_of(archive):
        yield Damage(CATALOGUE, "it is not what the log says is archived")


def _content(archive: Archive, summary: Mapping[str, Any], name: str, size: int) -> str:
    """What is wrong with the bytes of an object."""
    known = {each.name: each.checksum for each in naming.index_objects(summary)}
    known[summary[OBJECT_KEY]] = summary["events_checksum"]
    expected = known.get(name)
    if expected is None:
        path = archive.log.folder / segment_name(summary["first_position"]) / STREAMS_FILE
        expected = checksum(archive.log.files.read_whole(path))
    found = stored_checksum(archive, name, size)
    if found is None:
        return "it is missing"
    return "" if found == expected else "it is not what was stored"
