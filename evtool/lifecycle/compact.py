"""Compact: sealed segments become Parquet, small neighbours one. The events stay what they are, byte by byte.

Runs of neighbours are rewritten as one cold segment each (rewriting.py), as long as that is worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from evtool.errors import LogDamagedError
from evtool.lifecycle.archiving.place import object_of
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.materialising import NOTHING, Chosen, deriving
from evtool.lifecycle.rewriting import in_turn, positions_of, rewrite, rewriting_lock
from evtool.log import coldfile
from evtool.log.format import BLOCK, CHUNK, INDEX_FILE
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.log.stripes import arrange, batches_of, stripes
from evtool.projections.materialised import name_of, path_of, paths_of

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

    `materialised` are the columns that runs get (without a run those that were chosen), `passed_over` the
    projections that could not say what they read, and `lacking` the cold segments that stay without some of these
    columns.
    """

    compacted: list[Compacted] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    materialised: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    lacking: list[Lack] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """What was done, as the audit keeps it."""
        names = ("segments", "events", "bytes_before", "bytes_after")
        return {name: sum(getattr(one, name) for one in self.compacted) for name in names}


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
    log.check_writable()
    lock = rewriting_lock(log)
    try:
        clear(log)
        runs = plan(log, target_bytes, columns)
        report = Report(materialised=_materialised(runs, columns), passed_over=[*columns.passed_over])
        for run, told in in_turn(runs, on_progress):
            _try(log, run, columns, report, told)
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
            names = names_for(run, columns)
            stripe = next(iter(stripes(run)))
            (first, *_) = arrange(stripe, commits, log.partitions, deriving(names))
            taken = coldfile.encode(first, first.unit, names) / len(first.events)
            blocks = len(first.blocks) * positions_of(run) // len(first.events)
            width = len(first.events.schema.names)
            size = blocks * (BLOCK.itemsize + width * CHUNK.itemsize) + commits.nbytes + len(maps)
        except LogDamagedError as error:
            report.failures.append(Failure(str(run[0].folder), error.message, error.hint))
            continue
        report.compacted.append(_result(run, _bytes(log, run), round(taken * positions_of(run)) + size))
    written = {segment.folder for run in runs for segment in run}
    rest = [segment for segment in log.snapshot().segments if segment.folder not in written]
    report.lacking += _lacking(rest, columns)
    return report


def plan(log: Log, target_bytes: int, columns: Chosen) -> list[tuple[SegmentView, ...]]:
    """The runs of neighbours that are worth it: what is hot, and what is small enough to go with it.

    What is archived is left alone, and parts those before it from those behind it.
    """
    runs: list[list[SegmentView]] = []
    room = 0
    for segment in log.snapshot().segments:
        if not segment.is_sealed:
            continue
        if object_of(segment) is not None:
            room = -1
        elif runs and segment.log_bytes <= room:
            runs[-1].append(segment)
            room -= segment.log_bytes
        else:
            runs.append([segment])
            room = target_bytes - segment.log_bytes
    return [found for run in runs if (found := _worth(run, columns))]


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
        could_have = segment.is_cold and object_of(segment) is None
        absent = _absent(segment, columns.names) if could_have else []
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
    before = _bytes(log, run)
    try:
        rewritten = rewrite(log, run, names_for(run, columns), on_progress=on_progress)
    except LogDamagedError as error:
        if len(run) > 1:
            for segment in run:
                if _is_due(segment, columns):
                    _try(log, [segment], columns, report, on_progress)
            return
        report.failures.append(Failure(str(run[0].folder), error.message, error.hint))
        return
    report.compacted.append(_result(run, before, rewritten.log_bytes))


def names_for(run: Sequence[SegmentView], columns: Chosen) -> list[str]:
    """The columns that a run gets: those that were chosen, and those that any of it has, unless these shall go."""
    if columns.only:
        return columns.names
    had = {path: name for segment in run for path, name in paths_of(segment.materialised).items()}
    return sorted({*columns.names, *(name_of(path) or name for path, name in had.items())})


def _materialised(runs: Sequence[Sequence[SegmentView]], columns: Chosen) -> list[str]:
    """The columns that runs get; without a run, those that were chosen."""
    return sorted({name for run in runs for name in names_for(run, columns)}) if runs else columns.names


def _result(run: Sequence[SegmentView], before: int, after: int) -> Compacted:
    return Compacted(str(run[0].folder), run[0].first_position, run[-1].last_position, len(run), before, after)


def _bytes(log: Log, run: Sequence[SegmentView]) -> int:
    return sum(segment.log_bytes + log.files.size(segment.folder / INDEX_FILE) for segment in run)
