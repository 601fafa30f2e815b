"""Archived segments of which files are damaged or missing here, and what the archive has of them.

Of an archived segment its summary, map, what is gone and streams.idx are here, and its events only there, so
nothing of it is lost where these are. The archive has all of them, and in its catalogue the summaries. Where the
summary here is whole, it says which objects those are and what their bytes must be; where it is lost, the
catalogue does, if that fits what stands before and behind it. Whatever cannot be had from the archive now is left
as it is, and never taken as lost: the next archiving would remove the events there, as no segment names them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evtool.config import Config
from evtool.errors import ArchiveError, ConfigError, EvtoolError, LogDamagedError, LogFormatError, StoreError
from evtool.files import Files
from evtool.lifecycle.archiving import moving
from evtool.lifecycle.archiving.place import Archive, asked_url, store_at
from evtool.lifecycle.archiving.sweeping import another, listed, read_catalogue
from evtool.lifecycle.findings import RESTORE_OBJECT, Finding, damaged
from evtool.lifecycle.logfiles import LogFiles, SegmentFiles
from evtool.lifecycle.repairing.aside import Aside
from evtool.lifecycle.repairing.bits import turned_back
from evtool.lifecycle.repairing.remains import Damage
from evtool.log import streamindex
from evtool.log.archive import (
    OBJECT_KEY,
    PLACE_HINT,
    Catalogue,
    IndexObject,
    Place,
    index_objects,
    is_archived,
    read_place,
    streams_object,
)
from evtool.log.coldsegment import is_map_of, of_parts
from evtool.log.format import (
    ARCHIVE_FILE,
    COPY_FILE,
    STREAMS_FILE,
    SUMMARY_FILE,
    checksum,
    checksum_of,
    events_file,
    map_file,
    segment_name,
)
from evtool.log.log import Log
from evtool.log.ranges import MappedFile
from evtool.log.segment import summary_record

_REFUSALS = (ArchiveError, ConfigError, LogDamagedError, LogFormatError, StoreError)  # of what is in the archive
_LEFT = (
    "Nothing of it is changed: its events are in the archive. Run `evtool repair` again when that can be read, "
    "or bring the object back from a copy of it; `evtool repair --from URL` takes the segment from a backup."
)
_NO_CATALOGUE = (
    "Nothing of it is changed: its events may be in the archive. Run `evtool repair` again when that can be read, "
    "or bring catalogue.msgpack back from a copy of it; `evtool repair --from URL` asks a backup."
)


@dataclass(frozen=True)
class StubStep:
    """An archived segment that is to be as `summary` says: what is damaged of its files comes from the archive."""

    folder: Path
    summary: Mapping[str, Any]
    damages: tuple[Damage, ...]

    @property
    def positions(self) -> tuple[int, int]:
        """Of its first event, and of its last one."""
        return int(self.summary["first_position"]), int(self.summary["last_position"])


@dataclass(frozen=True)
class Stubs:
    """What becomes of archived segments: those of `steps` are brought back, those of `left` stay as they are.

    `left` has what is to be said of each, by first position: of a segment, or of positions without one. `place` is
    what archive.json is to be. `derived` are files that can be made again of what is here.
    """

    steps: tuple[StubStep, ...] = ()
    left: Mapping[int, Finding] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    place: Place | None = None

    @property
    def summaries(self) -> dict[int, Mapping[str, Any]]:
        """Of segments that will be whole, by first position."""
        return {step.positions[0]: step.summary for step in self.steps}


class Source:
    """The archive of a log, asked when it is needed."""

    def __init__(self, log: Log, config: Config) -> None:
        self._log = log
        self._config = config

    @cached_property
    def place(self) -> Place | None:
        """What archive.json says; where that is lost, what the archive does that evtool.toml names.

        None where there is no archive. Raises LogDamagedError, StoreError, ConfigError.
        """
        log = self._log
        try:
            if (found := read_place(log.files, log.folder, log.manifest.id)) is not None:
                return found
            problem = None
        except LogDamagedError as error:
            problem = error
        url = asked_url(log, self._config)
        catalogue = read_catalogue(store_at(url, log.files, self._config)) if url is not None else None
        if url is not None and catalogue is not None:
            if catalogue.manifest.id != log.manifest.id:
                raise another(url, catalogue, log)
            return Place(log.manifest.id, url, catalogue.id)
        if problem is not None:
            raise problem
        return None

    @cached_property
    def archive(self) -> Archive:
        """The archive. Raises as `place`."""
        place = self.place
        if place is None:
            raise LogDamagedError(f"{self._log.folder / ARCHIVE_FILE} is missing", PLACE_HINT)
        return Archive(self._log, place, store_at(place.url, self._log.files, self._config))

    @cached_property
    def catalogue(self) -> Catalogue:
        """What there is. Raises LogDamagedError (also where it is of another archive), and as `place`."""
        archive = self.archive
        found = read_catalogue(archive.store)
        if found is None:
            raise LogDamagedError(f"{archive.place.url} has no catalogue.msgpack", _NO_CATALOGUE)
        if found.manifest.id != archive.log.manifest.id or found.id != archive.place.id:
            raise LogDamagedError(f"the archive at {archive.place.url} is not that of this log", PLACE_HINT)
        return found

    def log_json(self) -> bytes | None:
        """The text of log.json that the catalogue has; None where that cannot be had."""
        try:
            return self.catalogue.log.encode() if self.place is not None else None
        except _REFUSALS:
            return None

    def files(self, folder: Path, summary: Mapping[str, Any]) -> dict[str, bytes]:
        """The files of a stub by their names, but for its summary: those that are whole here, else of the archive.

        streams.idx is only there where it is right. Raises LogDamagedError, StoreError, StorageError.
        """
        found = {each.file: self._file(folder / each.file, each) for each in index_objects(summary)}
        record = memoryview(found[map_file(summary["generation"])])
        if not is_map_of(record, summary):
            raise LogDamagedError(f"{folder}: its summary does not fit its map")
        table = of_parts(folder, summary, record, MappedFile(folder, memoryview(b"")), b"").table
        for data in self._streams(folder, summary):
            log_id, first = bytes.fromhex(summary["log_id"]), int(summary["first_position"])
            index = streamindex.of(memoryview(data), log_id, first, table)
            if index is not None and index.is_whole():
                return found | {STREAMS_FILE: data}
        return found

    def _file(self, path: Path, wanted: IndexObject) -> bytes:
        own = _read(self._log.files, path)[: wanted.bytes]
        if _is(own, wanted):
            return own
        name = wanted.name
        try:
            found = self.archive.store.get(name)
        except FileNotFoundError:
            found, problem = b"", f"{self.archive.place.url}/{name} is missing"
        except EvtoolError as error:
            found, problem = b"", error.message
        else:
            problem = f"{self.archive.place.url}/{name} does not match its checksum"
        if _is(found, wanted):
            return found
        mended = turned_back(own, lambda tried: _is(tried, wanted))
        if mended is None:
            raise LogDamagedError(problem, _LEFT)
        return mended

    def _streams(self, folder: Path, summary: Mapping[str, Any]) -> Iterator[bytes]:
        yield _read(self._log.files, folder / STREAMS_FILE)
        with contextlib.suppress(FileNotFoundError, EvtoolError):  # it is worth time, and nothing else
            yield self.archive.store.get(streams_object(summary))


def look(log: Log, files: LogFiles, source: Source) -> Stubs:
    """What becomes of the archived segments of a log. A store that does not answer is told of in `left`.

    Raises StorageError.
    """
    steps: list[StubStep] = []
    left: dict[int, Finding] = {}
    derived: list[str] = []
    for segment in files.segments:
        if segment.summary is None or not is_archived(segment.summary):
            continue
        damages = tuple(_damages(log.files, segment))
        derived += _records(segment)
        if damages:
            _settle(source, StubStep(segment.folder, segment.summary, damages), steps, left)
    for first, last, found in _unknown(files):
        _look_up(source, files, (first, last), found, steps, left)
    return Stubs(tuple(steps), left, tuple(derived), _lost_place(log, source, files, bool(steps)))


def damaged_objects(source: Source, files: LogFiles, reads_archive: bool) -> dict[int, Finding]:
    """The objects with events that are missing, or not what was stored, by the first positions of their segments.

    Their content is only asked for with `reads_archive`. None where the store does not answer: verify says that.
    """
    summaries = [
        each.summary
        for each in files.segments
        if each.summary is not None and is_archived(each.summary) and not _has_events(each)
    ]
    if not summaries:
        return {}
    found = {}
    try:
        archive = source.archive
        there = listed(archive.store)
        for summary in summaries:
            name, size = str(summary[OBJECT_KEY]), int(summary["events_bytes"])
            problem = "" if there.get(name) == size else "it is missing, or has another size"
            if not problem and reads_archive:
                is_right = moving.stored_checksum(archive, name, size) == summary["events_checksum"]
                problem = "" if is_right else "it is not what was stored"
            if problem:
                where = f"{archive.place.url.rstrip('/')}/{name}"
                found[int(summary["first_position"])] = damaged(where, problem, RESTORE_OBJECT)
    except _REFUSALS:
        return {}
    return found


def _has_events(segment: SegmentFiles) -> bool:
    assert segment.summary is not None
    return events_file(segment.summary["generation"]) in segment.names


def brought_back(files: LogFiles, archived: Stubs) -> LogFiles:
    """The files of a log as they will be, as far as summaries go."""
    segments = {each.first_position: each for each in files.segments}
    for first, summary in archived.summaries.items():
        last = int(summary["last_position"])
        segments = {at: each for at, each in segments.items() if not first < at <= last}
        segments[first] = SegmentFiles(
            folder=files.folder / segment_name(first),
            first_position=first,
            summary=summary,
            log_id=str(summary["log_id"]),
            is_summary_whole=True,
            is_copy_whole=True,
            frames=None,
            index=None,
            streams=None,
            cold=None,
            problem=None,
            names=frozenset(),
        )
    return replace(files, segments=tuple(segments[at] for at in sorted(segments)))


def restore(log: Log, source: Source, step: StubStep, aside: Aside) -> None:
    """Let a stub be whole; what of it is damaged, or of nobody, is put aside first. The summary comes last.

    Raises LogDamagedError, StoreError, StorageError; then the next repair does it.
    """
    found = source.files(step.folder, step.summary)
    record = summary_record(step.summary)
    log.files.make_folder(step.folder)
    wanted = found | {COPY_FILE: record, SUMMARY_FILE: record}
    for path in sorted(path for path in step.folder.iterdir() if path.is_file()):
        if path.name not in wanted or _read(log.files, path) != wanted[path.name]:
            aside.move(path)
    for name, data in wanted.items():
        if not (step.folder / name).exists():
            log.files.write_whole(step.folder / name, data)
    log.files.sync_folder(step.folder)


def _damages(files: Files, segment: SegmentFiles) -> Iterator[Damage]:
    """What is damaged of an archived segment's files here."""
    assert segment.summary is not None
    for each in index_objects(segment.summary):
        path = segment.folder / each.file
        if path.name not in segment.names:
            yield Damage(str(path), "it is missing")
        elif not _is(_read(files, path), each):
            yield Damage(str(path), "it is not as it was written")
    path, size = segment.folder / events_file(segment.summary["generation"]), int(segment.summary["events_bytes"])
    if path.name in segment.names:
        data = files.map(path)
        if len(data) < size or checksum_of([data[:size]]) != segment.summary["events_checksum"]:
            yield Damage(str(path), "it is not as it was written; it is in the archive, too")


def _records(segment: SegmentFiles) -> Iterator[str]:
    """The one of the summary and its copy that is damaged."""
    if not segment.is_summary_whole:
        yield str(segment.folder / SUMMARY_FILE)
    if not segment.is_copy_whole:
        yield str(segment.folder / COPY_FILE)


def _settle(source: Source, step: StubStep, steps: list[StubStep], left: dict[int, Finding]) -> None:
    """Whether a segment can be had from the archive."""
    try:
        source.files(step.folder, step.summary)
        _check_events(source, step)
    except _REFUSALS as error:
        what = "; ".join(f"{Path(damage.file).name}: {damage.message}" for damage in step.damages)
        left[step.positions[0]] = damaged(step.folder, f"{what}; {error.message}", _LEFT)
    else:
        steps.append(step)


def _check_events(source: Source, step: StubStep) -> None:
    """That the events are there, before a damaged file goes that has some of them."""
    path = step.folder / events_file(step.summary["generation"])
    if not path.exists():
        return
    name = str(step.summary[OBJECT_KEY])
    if (
        moving.stored_checksum(source.archive, name, int(step.summary["events_bytes"]))
        != step.summary["events_checksum"]
    ):
        raise LogDamagedError(f"{source.archive.place.url}/{name} is not what was stored")


def _unknown(files: LogFiles) -> Iterator[tuple[int, int, SegmentFiles | None]]:
    """Positions of which no summary is known, and no frames are there: from, to (0: to the end), the segment."""
    expected, is_open = 1, False
    for number, segment in enumerate(files.segments):
        if segment.first_position > expected:
            yield expected, segment.first_position - 1, None
        following = files.segments[number + 1 :]
        end = following[0].first_position - 1 if following else 0
        if segment.summary is not None:
            expected = int(segment.summary["last_position"]) + 1
            continue
        if segment.frames is None:
            yield segment.first_position, end, segment
        is_open = segment.frames is not None and not following
        expected = end + 1 if end else segment.first_position
    is_told = bool(files.segments) and files.segments[-1].summary is None
    if not is_open and not is_told:
        yield expected, 0, None


def _look_up(
    source: Source,
    files: LogFiles,
    span: tuple[int, int],
    segment: SegmentFiles | None,
    steps: list[StubStep],
    left: dict[int, Finding],
) -> None:
    """What the catalogue has of positions of which nothing is known here."""
    first, last = span
    folder = files.folder / segment_name(first)
    claimed = files.claim.position if files.claim is not None else 0
    try:
        if source.place is None:
            return
        catalogue = source.catalogue
    except _REFUSALS as error:
        if segment is not None or last or claimed >= first:
            left[first] = damaged(folder, f"its summary is missing or damaged; {error.message}", _NO_CATALOGUE)
        return
    end = last or catalogue.last_position
    found = [
        each for each in catalogue.segments if each["last_position"] >= first and each["first_position"] <= end
    ]
    if not found:
        return
    if found[0]["first_position"] != first or (last and found[-1]["last_position"] > last):
        left[first] = damaged(folder, "the archive has other segments of these positions", _LEFT)
        return
    if not _fits(found, files, {step.positions[1] + 1: step.summary for step in steps}):
        left[first] = damaged(folder, "what the archive has does not fit the segments beside it", _LEFT)
        return
    for summary in found:
        path = files.folder / segment_name(summary["first_position"])
        message = "it is missing" if segment is None else "neither segment.msgpack nor segment.copy is whole"
        _settle(source, StubStep(path, summary, (Damage(str(path), message),)), steps, left)


def _fits(
    found: Collection[Mapping[str, Any]], files: LogFiles, restored: Mapping[int, Mapping[str, Any]]
) -> bool:
    """Whether segments follow what stands before them, and what stands behind them follows those."""
    summaries = [each.summary for each in files.segments if each.summary is not None]
    ends = {int(each["last_position"]) + 1: each for each in summaries} | dict(restored)
    starts = {int(each["first_position"]): each for each in summaries}
    for summary in found:
        first, end = int(summary["first_position"]), int(summary["last_position"]) + 1
        before, behind = ends.get(first), starts.get(end)
        if before is not None and before["digest"] != summary["previous_digest"]:
            return False
        if behind is not None and behind["previous_digest"] != summary["digest"]:
            return False
        ends[end] = summary
    return True


def _lost_place(log: Log, source: Source, files: LogFiles, has_steps: bool) -> Place | None:
    """What archive.json is to be, where it is lost and something is archived."""
    if not has_steps and not any(is_archived(each.summary) for each in files.segments):
        return None
    try:
        if read_place(log.files, log.folder, log.manifest.id) is not None:
            return None
    except LogDamagedError:
        pass
    with contextlib.suppress(*_REFUSALS):
        return source.place
    return None


def _is(data: bytes | bytearray, wanted: IndexObject) -> bool:
    return len(data) == wanted.bytes and checksum(data) == wanted.checksum


def _read(files: Files, path: Path) -> bytes:
    try:
        return files.read_whole(path)
    except FileNotFoundError:
        return b""
