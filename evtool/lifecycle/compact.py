"""Compact: sealed segments become Parquet, small neighbours one. The events stay what they are, byte by byte.

A run of neighbours becomes one cold segment in the folder of the first: its files are written beside what is
there, read back, and compared by their logical digest. Then segment.msgpack is replaced, which is the switch:
before it nobody knows of the new files, behind it nobody needs the old ones. Whatever ends the process, the next
compact removes what is in the way and goes on. Readers take no lock: those that began before keep what they have
mapped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evtool import parallel
from evtool.errors import EvtoolError, LogDamagedError, LogLockedError, LogReadOnlyError
from evtool.files import Lock
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.materialising import NOTHING, Chosen, deriving
from evtool.log import coldfile, streamframes
from evtool.log.coldsegment import ColdSegment, open_cold
from evtool.log.digest import Columns, LogicalDigest, columns_of
from evtool.log.format import (
    BLOCK,
    CHUNK,
    COMPACT_LOCK_FILE,
    COPY_FILE,
    FORMAT_VERSION,
    INDEX_FILE,
    SUMMARY_FILE,
    checksum,
    events_file,
    map_file,
)
from evtool.log.log import Log
from evtool.log.segment import read_summary, summary_record
from evtool.log.segmentview import SegmentView
from evtool.log.streamindex import Pairs
from evtool.log.stripes import STORED_COLUMNS, Arranged, arrange, batches_of, stripes
from evtool.log.walk import Table
from evtool.projections.materialised import name_of, path_of, paths_of

_WRITING_SHARE = 0.75  # of the time that an event takes; the rest is reading it back
_MERGE_SHARE = 2  # a cold segment is not written again for the sake of less than this part of it

Progress = Callable[[int, int], None]  # events done, and how many there are


@dataclass(frozen=True)
class Compacted:
    """A run of `segments` neighbours that became one, or would; bytes are those on disk, the last ones estimated
    where nothing was done.
    """

    folder: str
    first_position: int
    last_position: int
    segments: int
    bytes_before: int
    bytes_after: int

    @property
    def events(self) -> int:
        """How many events it has."""
        return self.last_position - self.first_position + 1


@dataclass(frozen=True)
class Failure:
    """A segment that was left as it is, and why."""

    folder: str
    message: str
    hint: str


@dataclass(frozen=True)
class Lack:
    """A cold segment without some columns that it would get if it were written now."""

    folder: str
    names: list[str]


@dataclass
class Report:
    """What was done, or would be: the runs that became cold, and the segments that could not.

    `materialised` are the columns that runs get (without a run those that were chosen), `passed_over` the projections
    that could not say what they read, and `lacking` the cold segments that stay without some of these columns.
    """

    compacted: list[Compacted] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    materialised: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    lacking: list[Lack] = field(default_factory=list)


def compact(
    log: Log,
    target_bytes: int,
    columns: Chosen = NOTHING,
    on_progress: Progress = lambda done, total: None,
) -> Report:
    """Compact all that is sealed. Neighbours are merged up to `target_bytes`; `columns` are materialised.

    A segment that is damaged is left and reported. Raises LogReadOnlyError, LogLockedError (another one runs),
    LogDamagedError (the segments do not fit together), StorageError: then the log is as it was.
    """
    if log.is_read_only:
        raise LogReadOnlyError(f"{log.folder} was opened to be read only")
    lock = _lock(log)
    try:
        clear(log)
        runs = plan(log, target_bytes, columns)
        report = Report(materialised=_materialised(runs, columns), passed_over=[*columns.passed_over])
        total = sum(_events(run) for run in runs)
        done = 0
        for run in runs:

            def told(events: int, before: int = done) -> None:
                on_progress(before + events, total)

            _try(log, run, columns, report, told)
            done += _events(run)
        report.lacking += _lacking(log.snapshot().segments, columns)
        return report
    finally:
        lock.release()


def estimate(log: Log, target_bytes: int, columns: Chosen = NOTHING) -> Report:
    """What `compact` would do, and save, about: the first events of each run are encoded, in memory."""
    runs = plan(log, target_bytes, columns)
    report = Report(materialised=_materialised(runs, columns), passed_over=[*columns.passed_over])
    for run in runs:
        try:
            commits, maps = batches_of(run)
            names = _names(run, columns)
            stripe = next(iter(stripes(run)))
            (first, *_) = arrange(stripe, commits, log.partitions, deriving(names))
            taken = coldfile.encode(first, first.unit, names) / len(first.events)
            blocks = len(first.blocks) * _events(run) // len(first.events)
            width = len(first.events.schema.names)
            size = blocks * (BLOCK.itemsize + width * CHUNK.itemsize) + commits.nbytes + len(maps)
        except LogDamagedError as error:
            report.failures.append(Failure(str(run[0].folder), error.message, error.hint))
            continue
        report.compacted.append(_result(log, run, round(taken * _events(run)) + size))
    written = {segment.folder for run in runs for segment in run}
    rest = [segment for segment in log.snapshot().segments if segment.folder not in written]
    report.lacking += _lacking(rest, columns)
    return report


def plan(log: Log, target_bytes: int, columns: Chosen) -> list[tuple[SegmentView, ...]]:
    """The runs of neighbours that are worth it: what is hot, and what is small enough to go with it."""
    runs: list[list[SegmentView]] = []
    room = 0
    for segment in log.snapshot().segments:
        if not segment.is_sealed:
            continue
        if runs and segment.log_bytes <= room:
            runs[-1].append(segment)
            room -= segment.log_bytes
        else:
            runs.append([segment])
            room = target_bytes - segment.log_bytes
    return [found for run in runs if (found := _worth(run, columns))]


def _lock(log: Log) -> Lock:
    try:
        return log.files.lock(log.folder / COMPACT_LOCK_FILE)
    except LogLockedError as error:
        raise LogLockedError(
            error.message.replace("is being written", "is being compacted"), "Wait until it ends."
        ) from error


def _worth(run: list[SegmentView], columns: Chosen) -> tuple[SegmentView, ...]:
    """What of a run is worth its while: a cold one is not written again for the sake of much less."""
    while run and not _is_due(run[0], columns) and _is_much(run[0], run[1:]):
        run = run[1:]
    while run and not _is_due(run[-1], columns) and _is_much(run[-1], run[:-1]):
        run = run[:-1]
    return tuple(run)


def _is_much(segment: SegmentView, others: Sequence[SegmentView]) -> bool:
    return segment.log_bytes > _MERGE_SHARE * sum(one.log_bytes for one in others)


def _is_due(segment: SegmentView, columns: Chosen) -> bool:
    if not segment.is_cold or _absent(segment, columns.asked):
        return True
    return columns.only and bool(paths_of(segment.materialised).keys() - set(map(path_of, columns.names)))


def _absent(segment: SegmentView, names: Collection[str]) -> list[str]:
    """Those of some columns that a segment has not, by whatever name."""
    there = paths_of(segment.materialised)
    return [name for name in names if path_of(name) not in there]


def _lacking(segments: Iterable[SegmentView], columns: Chosen) -> Iterator[Lack]:
    for segment in segments:
        absent = _absent(segment, columns.names) if segment.is_cold else []
        if absent:
            yield Lack(str(segment.folder), absent)


def _try(
    log: Log,
    run: Sequence[SegmentView],
    columns: Chosen,
    report: Report,
    on_progress: Callable[[int], None],
) -> None:
    """Compact a run; where one of it is damaged, each alone."""
    try:
        cold, pairs = _compact(log, run, columns, on_progress)
    except LogDamagedError as error:
        if len(run) > 1:
            for segment in run:
                if _is_due(segment, columns):
                    _try(log, [segment], columns, report, on_progress)
            return
        report.failures.append(Failure(str(run[0].folder), error.message, error.hint))
        return
    report.compacted.append(_result(log, run, cold.log_bytes))
    # Behind the switch: until then, streams.idx is that of the frames.
    streamframes.write(log.files, log.manifest, cold, pairs)
    clear(log)


def _compact(
    log: Log, run: Sequence[SegmentView], columns: Chosen, on_progress: Callable[[int], None]
) -> tuple[ColdSegment, Pairs]:
    """Make a run one cold segment, up to the switch; its streams are not yet indexed."""
    folder = run[0].folder
    try:
        names = _names(run, columns)
        cold, pairs = _prepare(log, run, names, deriving(names), on_progress)
        record = summary_record(cold.summary)
        log.files.write_whole(folder / COPY_FILE, record)
        log.files.write_whole(folder / SUMMARY_FILE, record)
    except (EvtoolError, KeyboardInterrupt):
        with contextlib.suppress(EvtoolError):
            clear(log)
        raise
    return cold, pairs


def _prepare(
    log: Log,
    run: Sequence[SegmentView],
    names: list[str],
    derive: Callable[[pa.RecordBatch], list[pa.Array]],
    on_progress: Callable[[int], None],
) -> tuple[ColdSegment, Pairs]:
    """Write the files of a cold segment, read them back, and compare."""
    folder, commits_and_maps = run[0].folder, batches_of(run)
    commits, maps = commits_and_maps
    if int(commits["count"].sum(dtype=np.int64)) != _events(run):
        raise _differs(folder, "its batches do not add up to its events")
    first_summary, last_summary = (_summary(log, segment) for segment in (run[0], run[-1]))
    generation = int(first_summary.get("generation", 0)) + 1
    path = folder / events_file(generation)

    def arranged() -> Iterator[Arranged]:
        done = 0
        tasks = parallel.ordered(
            lambda stripe: arrange(stripe, commits, log.partitions, derive), stripes(run), ahead=0
        )
        with contextlib.closing(tasks):  # type: ignore[type-var]  # it is a generator
            for parts in tasks:
                for part in parts:
                    yield part
                    done += len(part.events)
                    on_progress(int(_WRITING_SHARE * done))

    written = None
    unit = coldfile.UNITS[0]
    while written is None:
        try:
            written = coldfile.write(log.files, path, arranged(), unit, names)
        except coldfile.FinerUnitError as error:
            unit = error.unit
    record, facts = coldfile.describe(log.files, path, written, commits, maps)
    log.files.write_whole(folder / map_file(generation), record)
    summary = _range(log, first_summary, last_summary, commits) | {"generation": generation} | facts
    summary["materialised"] = names
    cold = open_cold(log.files, folder, summary, log.manifest.id_bytes)
    done_before = _WRITING_SHARE * _events(run)
    _read_back(cold, lambda done: on_progress(int(done_before + (1 - _WRITING_SHARE) * done)))
    return cold, written.pairs


def _range(log: Log, first: dict[str, Any], last: dict[str, Any], commits: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What a summary says of a segment, hot or cold."""
    filled = commits[commits["count"] > 0]
    return {
        "version": FORMAT_VERSION,
        "log_id": log.manifest.id,
        "first_position": first["first_position"],
        "last_position": last["last_position"],
        "count": int(commits["count"].sum(dtype=np.int64)),
        "batches": len(commits),
        "last_batch": last["last_batch"],
        "recorded_at_min": first["recorded_at_min"],
        "recorded_at_max": last["recorded_at_max"],
        "timestamp_min": int(filled["timestamp_min"].min()),
        "timestamp_max": int(filled["timestamp_max"].max()),
        "digest": last["digest"],
        "previous_digest": first["previous_digest"],
    }


def _summary(log: Log, segment: SegmentView) -> dict[str, Any]:
    summary = read_summary(log.files, segment.folder)
    if summary is None:
        raise _differs(segment.folder, "its summary has gone")
    return summary


def _read_back(cold: ColdSegment, on_progress: Callable[[int], None]) -> None:
    """Raise LogDamagedError unless the file holds what was written to it."""
    if checksum(cold.data) != cold.summary["events_checksum"]:
        raise _differs(cold.folder, "what was written is not what is read back")
    digest, done, next_position = LogicalDigest(), 0, cold.first_position
    read = parallel.ordered(lambda rows: in_order(cold, rows), stripes_of(cold), ahead=0)
    for first_position, count, columns in read:
        if first_position != next_position:
            raise _differs(cold.folder, "what was written is in another order")
        digest.add(columns)
        done += count
        next_position += count
        on_progress(done)
    if digest.hexdigest() != cold.summary["logical_digest"] or next_position != cold.last_position + 1:
        raise _differs(cold.folder, "the events that were written are not those that were read")


def stripes_of(cold: ColdSegment) -> Iterator[Table]:
    """The rows of each stripe of a cold segment."""
    _, starts = np.unique(cold.table["header"]["batch"], return_index=True)
    return iter(np.split(cold.table, starts[1:]))


def in_order(cold: ColdSegment, rows: Table) -> tuple[int, int, Columns]:
    """The first position and the number of a stripe's events, and what of them is hashed."""
    table = pa.Table.from_batches([cold.batch(row, STORED_COLUMNS) for row in rows])
    cold.forget(rows)
    events = table.combine_chunks().to_batches()[0]
    order = np.argsort(events["position"].to_numpy())
    events = events.take(pa.array(order))
    positions = events["position"].to_numpy()
    if (np.diff(positions) != 1).any():
        raise _differs(cold.folder, f"positions {positions[0]} to {positions[-1]} have a gap or come twice")
    return int(positions[0]), len(events), columns_of(events)


def _differs(folder: Path, what: str) -> LogDamagedError:
    return LogDamagedError(f"{folder}: {what}", "Run `evtool verify` to see all of the damage.")


def _names(run: Sequence[SegmentView], columns: Chosen) -> list[str]:
    """The columns that a run gets: those that were chosen, and those that any of it has, unless these shall go."""
    if columns.only:
        return columns.names
    had = {path: name for segment in run for path, name in paths_of(segment.materialised).items()}
    return sorted({*columns.names, *(name_of(path) or name for path, name in had.items())})


def _materialised(runs: Sequence[Sequence[SegmentView]], columns: Chosen) -> list[str]:
    return sorted({name for run in runs for name in _names(run, columns)}) if runs else columns.names


def _events(run: Sequence[SegmentView]) -> int:
    return run[-1].last_position - run[0].first_position + 1


def _result(log: Log, run: Sequence[SegmentView], bytes_after: int) -> Compacted:
    before = sum(segment.log_bytes + _index_bytes(log, segment) for segment in run)
    return Compacted(
        str(run[0].folder), run[0].first_position, run[-1].last_position, len(run), before, bytes_after
    )


def _index_bytes(log: Log, segment: SegmentView) -> int:
    return log.files.size(segment.folder / INDEX_FILE)
