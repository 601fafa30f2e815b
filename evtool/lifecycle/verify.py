"""Verify: every byte of a log against its checksums, every rule against every batch, and all that is made from it.

The log is looked at as it is when that begins; writers, refreshes and compactions go on meanwhile. Segments are
opened one behind the other, since each has to follow the one before, and their pieces are read in two threads.
Damage is reported, not repaired; a damaged piece does not keep the others from being looked at.

A fast one looks at headers, summaries, footers, sizes and the checksums of indexes: at nothing whose size is that
of the events.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evtool import parallel
from evtool.config import DEFAULT_READ_MODELS, Config
from evtool.errors import EvtoolError, StorageError, StoreError
from evtool.lifecycle import coldchecks, framechecks, indexchecks, projectionchecks, recordchecks, segmentchecks
from evtool.lifecycle.archiving.sweeping import listed, sizes_of
from evtool.lifecycle.audit import Mark
from evtool.lifecycle.findings import (
    NOT_THERE,
    OTHER_KIND,
    REARCHIVE,
    RESTORE_OBJECT,
    Finding,
    Findings,
    damaged,
    in_the_way,
    stale,
)
from evtool.lifecycle.fingerprints import IdSums, StreamSums, Sums
from evtool.lifecycle.logfiles import LogFiles, SegmentFiles, take
from evtool.lifecycle.projectionchecks import Made
from evtool.lifecycle.segmentchecks import Checked, Opened
from evtool.log.archive import OBJECT_KEY, is_archived
from evtool.log.digest import LogicalDigest
from evtool.log.log import Log
from evtool.log.scan import groups
from evtool.log.segment import is_cold
from evtool.log.segmentview import SegmentView
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.streamindex import PAIR, Pairs
from evtool.replay import Bound

_MOVE = "Move it away; what belongs there is made again, or is in a backup."
_SOURCES_MAX = 1 << 20  # of more nobody keeps a list

Mode = Literal["full", "fast"]
Progress = Callable[[int, int], None]  # events read, and how many there are to read


@dataclass
class Report:
    """What was verified, and what is wrong.

    `events`, `frames` (row groups too), `batches`, `segments` and `bytes` are those that were looked at: of a fast
    one no event was read. `skipped` segments end before the bound that was asked for, or are `archived` and were
    only looked for in the archive. `digest` is the logical digest, None where not every event was read. `audit` is
    the last line of the audit. `findings` are damage; `notes` harm nobody. Of very many the first ones are listed,
    and `unlisted` counts the others.
    """

    mode: Mode
    events: int = 0
    frames: int = 0
    batches: int = 0
    segments: int = 0
    skipped: int = 0
    archived: int = 0
    bytes: int = 0
    position: int = 0
    digest: str | None = None
    ids: int = 0
    streams: int = 0
    schemas: int = 0
    dead_letters: int = 0
    read_models: int = 0
    states: int = 0
    snapshots: int = 0
    audit: Mark | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    unlisted: int = 0
    error: EvtoolError | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.error is None

    def as_dict(self) -> dict[str, Any]:
        """All but the error, which the findings tell."""
        values = {name: value for name, value in vars(self).items() if name != "error"}
        values["audit"] = vars(self.audit) if self.audit else None
        return values | {name: [vars(one) for one in values[name]] for name in ("findings", "notes")}


def verify(
    log: Log,
    on_progress: Progress = lambda done, total: None,
    *,
    fast: bool = False,
    since: Bound | None = None,
    reads_archive: bool = True,
    read_models: Path | None = None,
    config: Config | None = None,
) -> Report:
    """Check a log as it is now, and what was made from it.

    With `since` only segments that have events from there on (a position, or a time of recording), and everything
    that is no segment. The first segments that are archived are read from there unless `reads_archive` is False;
    then their objects are listed, and must have the sizes of what was stored. `read_models` is their folder;
    without one, it is where it is by default. `config` says which definitions make them, for the advice. Raises
    StoreError (of an archived segment that is read), StorageError.
    """
    read_models = read_models or log.folder / DEFAULT_READ_MODELS
    config = config or Config(log_path=log.folder)
    return _Run(log, on_progress, fast, since, reads_archive, read_models, config).run()


@dataclass(frozen=True)
class _Task:
    """`work` runs in one of the threads; `settle` takes what it gives, in the order of the tasks."""

    work: Callable[[], Any]
    settle: Callable[[Any], None]


def _answer(work: Callable[[], Any], otherwise: Callable[[Path], Any]) -> Any:
    """What some work gives, or `otherwise` of the path where something else is than has to be there."""
    try:
        return work()
    except (StorageError, NotADirectoryError) as error:
        return otherwise(in_the_way(error))


def _made(path: Path) -> Made:
    return Made(findings=[stale(path, OTHER_KIND, _MOVE)])


def _none_of(path: Path) -> tuple[int, list[Finding]]:
    return 0, [damaged(path, OTHER_KIND, _MOVE)]


def _no_audit(path: Path) -> tuple[None, list[Finding]]:
    return None, [damaged(path, OTHER_KIND, _MOVE)]


@dataclass
class _Chain:
    """What the next segment has to go on from; None where damage keeps that from being known."""

    position: int | None = 0
    digest: int | None = 0
    recorded_at: int = 0

    def skip(self, summary: Mapping[str, Any] | None) -> None:
        """Go on behind a segment of which only the summary is known, or nothing."""
        if summary is None:
            self.position = self.digest = None
        else:
            self.position, self.digest = int(summary["last_position"]), int(summary["digest"])
            self.recorded_at = int(summary["recorded_at_max"])


@dataclass
class _Segment:
    """A segment whose pieces are being read, and what they have given so far."""

    files: SegmentFiles
    opened: Opened
    next_position: int
    digest: LogicalDigest | None
    pairs: list[Pairs] = field(default_factory=lambda: [np.zeros(0, PAIR)])
    is_whole: bool = True


class _Run:
    """One run, and what it has gathered."""

    def __init__(
        self,
        log: Log,
        on_progress: Progress,
        fast: bool,
        since: Bound | None,
        reads_archive: bool,
        read_models: Path,
        config: Config,
    ) -> None:
        self._log = log
        self._on_progress = on_progress
        self._fast = fast
        self._read_models = read_models
        self._config = config
        self._found = Findings()
        self._report = Report("fast" if fast else "full")
        self._files = self._take()
        self._log_id = self._files.manifest.id_bytes
        self._tables = indexchecks.open_tables(log.files, log.folder, self._log_id, fast)
        before = _skipped(self._files, since)
        self._reads_archive = reads_archive
        self._unread = [] if reads_archive else _archived(self._files, len(before))
        self._skipped = [*before, *self._unread]
        self._report.skipped = len(self._skipped)
        self._is_whole = not fast and not self._skipped
        self._total = _total(self._files, self._skipped)
        self._digest = LogicalDigest()
        self._end: int | None = 0  # where the segments end, if that is known
        self._ids: list[IdSums] = []
        self._held_ids: Sums = np.zeros(0, np.uint64)
        self._streams = StreamSums()
        self._sources: set[str] = set()
        self._store_error: StoreError | None = None

    def run(self) -> Report:
        """Do all of it."""
        self._found.add(*recordchecks.head(self._log.files, self._files), *self._tables.findings)
        self._found.add(*recordchecks.erasure(self._log.folder))
        self._found.add(*map(framechecks.superseded, self._files.superseded))
        for task, result in parallel.ordered(lambda task: (task, task.work()), self._tasks()):
            task.settle(result)
        self._check_claim()
        self._check_tables()
        report, found = self._report, self._found
        report.findings, report.notes = found.in_order, found.notes
        report.error = found.error or self._store_error
        if not report.segments and self._skipped:
            report.position = int(self._skipped[-1]["last_position"])
        report.unlisted = found.count - len(found.listed) - len(found.notes)
        report.digest = self._digest.hexdigest() if self._is_whole and not found.of_log else None
        return report

    def _take(self) -> LogFiles:
        """The log as it is now; as that of its segments where they say together that log.json is wrong."""
        log = self._log
        files = take(log)
        wrong = recordchecks.manifest(files)
        self._found.add(*wrong)
        if not wrong or files.log_id is None:
            return files
        return take(log, replace(log.manifest, id=files.log_id))

    def _tasks(self) -> Iterator[_Task]:
        files, folder = self._log.files, self._files.folder
        for work in projectionchecks.tasks(files, folder, self._read_models, self._fast, self._config):
            yield _Task(functools.partial(_answer, work, _made), self._take_made)
        schemas = functools.partial(recordchecks.schemas, files, folder)
        yield _Task(functools.partial(_answer, schemas, _none_of), self._take_schemas)
        letters = functools.partial(recordchecks.dead_letters, files, folder)
        yield _Task(functools.partial(_answer, letters, _none_of), self._take_letters)
        audit = functools.partial(recordchecks.audit, files, folder)
        yield _Task(functools.partial(_answer, audit, _no_audit), self._take_audit)
        if self._unread:
            yield _Task(self._look_for, self._take_looked_for)
        tables, segments = self._tables, self._files.segments[len(self._skipped) :]
        if tables.ids is not None and segments and not self._fast:
            first = segments[0].first_position
            yield _Task(
                functools.partial(indexchecks.held_ids, tables.ids, first, tables.ids_reached), self._take_held
            )
        yield from self._segments(segments)

    def _look_for(self) -> list[Finding] | StoreError:
        """What archived segments lack in the archive. A store that does not answer keeps nothing else back."""
        archive = self._log.archive
        try:
            there = listed(archive.store)
        except StoreError as error:
            return error
        if not there:
            return [damaged(archive.url, "the archive is not there: no object is", NOT_THERE)]
        findings = []
        for summary in self._unread:
            for name, problem in sizes_of(summary, there):
                if problem and name == summary[OBJECT_KEY]:
                    findings.append(damaged(archive.where(name), problem, RESTORE_OBJECT))
                elif problem:
                    findings.append(stale(archive.where(name), problem, REARCHIVE))
        return findings

    def _take_looked_for(self, found: list[Finding] | StoreError) -> None:
        if isinstance(found, StoreError):
            self._store_error = found
            return
        self._report.archived = len(self._unread)
        self._found.add(*found)

    def _take_made(self, made: Made) -> None:
        self._report.read_models += made.read_models
        self._report.states += made.states
        self._report.snapshots += made.snapshots
        self._found.add(*made.findings)

    def _take_schemas(self, result: tuple[int, list[Finding]]) -> None:
        self._report.schemas, findings = result
        self._found.add(*findings)

    def _take_letters(self, result: tuple[int, list[Finding]]) -> None:
        self._report.dead_letters, findings = result
        self._found.add(*findings)

    def _take_audit(self, result: tuple[Mark | None, list[Finding]]) -> None:
        self._report.audit, findings = result
        self._found.add(*findings)

    def _take_held(self, sums: Sums) -> None:
        self._held_ids = sums

    def _segments(self, segments: Sequence[SegmentFiles]) -> Iterator[_Task]:
        """The pieces of one segment behind those of the one before; what joins them is checked in passing."""
        chain = _Chain()
        for summary in self._skipped:
            chain.skip(summary)
        for segment in segments:
            if chain.position is not None and segment.first_position != chain.position + 1:
                message = f"it starts at position {segment.first_position:,}, not at {chain.position + 1:,}"
                hint = "`evtool repair` brings back what is missing before it, or names it as lost."
                self._found.add(damaged(segment.folder, message, hint))
                self._is_whole, chain.digest = False, None
            if not self._reads_archive and self._found.of_log and is_archived(segment.summary):
                chain.skip(segment.summary)  # behind damage of what is archived, which is not read either
                self._is_whole = False
                continue
            opened, findings = _open(self._files, segment, chain.digest)
            self._found.add(*findings)
            if opened is None and not findings:  # one that has just been begun
                continue
            self._report.segments += 1
            if opened is None:
                self._is_whole = False
                chain.skip(segment.summary)
                continue
            chain.recorded_at, broken = segmentchecks.batches(opened.view, chain.recorded_at)
            self._found.add(*broken)
            chain.position = opened.view.last_position if opened.digest is not None else None
            chain.digest = opened.digest
            yield from self._pieces(segment, opened)
        self._end = chain.position

    def _pieces(self, files: SegmentFiles, opened: Opened) -> Iterator[_Task]:
        view = opened.view
        self._report.frames += len(view.table)
        self._report.batches += len(view.commits)
        self._report.bytes += view.log_bytes
        self._report.position = view.last_position
        if self._fast:
            self._report.events += int(view.commits["count"].sum(dtype=np.int64))
            if opened.digest is not None:
                self._found.add(*indexchecks.stream_index(files, view, None, self._log_id))
            return
        digest = LogicalDigest() if opened.logical_digest is not None else None
        segment = _Segment(files, opened, view.first_position, digest)
        for group in groups(Snapshot((view,)), Selection(), self._log.partitions):
            work = functools.partial(segmentchecks.check, opened, group, self._log_id, self._log.partitions)
            yield _Task(work, functools.partial(self._take_pieces, segment))
        if len(view.gone):
            yield _Task(functools.partial(segmentchecks.check_gone, view), self._take_gone)
        yield _Task(opened.rest, functools.partial(self._end_segment, segment))

    def _take_gone(self, checked: Checked) -> None:
        self._found.add(*checked.findings)
        if checked.ids is not None and checked.streams is not None:
            self._ids.append(checked.ids)
            self._streams.add(checked.streams)

    def _take_pieces(self, segment: _Segment, checked: Checked) -> None:
        self._found.add(*checked.findings)
        self._report.events += checked.events
        segment.pairs.append(checked.pairs)
        if len(self._sources) <= _SOURCES_MAX:
            self._sources |= checked.sources
        if checked.ids is not None:
            self._ids.append(checked.ids)
        if checked.streams is not None:
            self._streams.add(checked.streams)
        if checked.columns is None or checked.positions is None:
            segment.is_whole = False
        else:
            first, last = checked.positions
            left = segment.opened.view.gone.absent_between(segment.next_position, first - 1)
            if segment.is_whole and first != segment.next_position + left:
                message = f"behind position {segment.next_position - 1:,} comes {first:,}"
                self._found.add(damaged(segment.opened.view.path, message))
            segment.next_position = last + 1
            self._digest.add(checked.columns)
            if segment.digest is not None:
                segment.digest.add(checked.columns)
        self._on_progress(self._report.events, max(self._total, self._report.events))

    def _end_segment(self, segment: _Segment, rest: list[Finding]) -> None:
        self._found.add(*rest)
        opened, view = segment.opened, segment.opened.view
        left = view.gone.absent_between(segment.next_position, view.last_position)
        segment.is_whole &= opened.digest is not None and segment.next_position + left == view.last_position + 1
        self._is_whole &= segment.is_whole
        if not segment.is_whole:
            return
        if segment.digest is not None and segment.digest.hexdigest() != opened.logical_digest:
            self._found.add(damaged(view.path, "its events are not those of its digest"))
        pairs = np.concatenate(segment.pairs)
        self._found.add(*indexchecks.stream_index(segment.files, view, pairs, self._log_id))

    def _check_claim(self) -> None:
        claim, end = self._files.claim, self._end
        if claim is not None and end is not None and claim.position > end:
            message = f"position {claim.position:,} was acknowledged, but the segments end at {end:,}"
            self._found.add(
                damaged(
                    self._files.folder,
                    message,
                    "`evtool repair` brings back what is missing, or names it as lost.",
                )
            )

    def _check_tables(self) -> None:
        """The tables of the index against what all pieces have given."""
        tables, last = self._tables, self._report.position
        are_known = not self._fast and tables.ids_reached >= last and len(self._sources) <= _SOURCES_MAX
        seen = frozenset(self._sources) if are_known else None
        self._found.add(*indexchecks.sources(self._log.files, tables.folder, self._log_id, seen))
        self._report.ids = len(tables.ids or ())
        self._report.streams = len(tables.streams or ())
        if self._fast:
            return
        are_all = not self._found.of_log
        self._found.add(*indexchecks.ids(tables, self._held_ids, self._ids, self._views, last, are_all))
        if self._is_whole and are_all:
            newest = lambda: self._log.snapshot().segments  # noqa: E731 - it is whole, so there is one
            self._found.add(*indexchecks.streams(tables, self._streams, self._views, newest, last))

    def _views(self) -> Iterator[SegmentView]:
        """The segments as they were read, opened again: to keep them would take memory by the frame."""
        for segment in self._files.segments[len(self._skipped) :]:
            opened, _ = _open(self._files, segment, None)
            if opened is not None:
                yield opened.view


def _open(files: LogFiles, segment: SegmentFiles, digest: int | None) -> tuple[Opened | None, list[Finding]]:
    if is_cold(segment.summary):
        return coldchecks.opened(segment, segment.summary, digest)
    return framechecks.opened(files, segment, digest)


def _skipped(files: LogFiles, since: Bound | None) -> list[Mapping[str, Any]]:
    """The summaries of the first segments, all of whose events come before a bound."""
    found: list[Mapping[str, Any]] = []
    for segment in files.segments:
        if since is None or segment.summary is None or not _is_before(segment.summary, since):
            break
        found.append(segment.summary)
    return found


def _archived(files: LogFiles, first: int) -> list[Mapping[str, Any]]:
    """The summaries of archived segments that follow each other from segment number `first` on."""
    found = itertools.takewhile(is_archived, (segment.summary for segment in files.segments[first:]))
    return [summary for summary in found if summary is not None]


def _is_before(summary: Mapping[str, Any], since: Bound) -> bool:
    if since.position is not None:
        return int(summary["last_position"]) < since.position
    return since.time is not None and int(summary["recorded_at_max"]) < since.time


def _total(files: LogFiles, skipped: Sequence[Mapping[str, Any]]) -> int:
    """How many events there are to read, about."""
    known = [int(segment.summary["last_position"]) for segment in files.segments if segment.summary is not None]
    last = max([0, *known, files.claim.position if files.claim is not None else 0])
    return last - (int(skipped[-1]["last_position"]) if skipped else 0)
