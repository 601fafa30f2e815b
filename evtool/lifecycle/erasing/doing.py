"""An erasure, done: in segments, dead letters, and what was made from the events.

First erasing.msgpack says what is to be done. Each step after that leaves what is done already as it is, so
whatever ends the process, `resume` goes through all of them again. The file is removed last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from evtool.config import Config
from evtool.errors import LogDamagedError, LogLockedError
from evtool.files import Lock
from evtool.lifecycle import nightly
from evtool.lifecycle.archiving import place
from evtool.lifecycle.archiving.moving import move
from evtool.lifecycle.archiving.place import object_of
from evtool.lifecycle.archiving.sweeping import check_changing, sweep
from evtool.lifecycle.compact import Failure, names_for
from evtool.lifecycle.erasing import letters, models, pending, strays
from evtool.lifecycle.erasing.choosing import Positions, Progress
from evtool.lifecycle.erasing.pending import Pending
from evtool.lifecycle.erasing.planning import Plan, held_by
from evtool.lifecycle.forgetting import Choose, Mask, erasing, new_name
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.materialising import NOTHING
from evtool.lifecycle.patching import patch
from evtool.lifecycle.rewriting import in_turn, rewrite, rewriting_lock
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import FRAMES_FILE
from evtool.log.gone import ERASED
from evtool.log.log import Log
from evtool.log.lookup import events_at
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot
from evtool.log.stripes import Change
from evtool.log.versions import stream_keys

_FEW_SHARE = 0.5  # of the row groups of a segment: if more are to be changed, all are written anew

Record = Callable[[Mapping[str, int], Mapping[str, str]], None]  # counts, and words; nothing of what is erased


@dataclass
class Report:
    """What was done: the plan's counts, and the segments that were written anew; `failures` are damaged ones.

    `made_again` are projections, `not_made` those that could not be, with the reason.
    """

    counts: Mapping[str, int]
    segments: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    made_again: list[str] = field(default_factory=list)
    not_made: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def _unrecorded(counts: Mapping[str, int], details: Mapping[str, str]) -> None:
    pass


def apply(
    log: Log,
    config: Config,
    plan: Plan,
    reason: str = "",
    on_progress: Progress = lambda done, total: None,
    record: Record = _unrecorded,
    on_begin: Callable[[], None] = lambda: None,
) -> Report:
    """Erase what a plan says. `record` keeps what was done; if it is cut short just then, it is asked once more.

    `on_begin` is called when nothing has to be waited for any more, and before any event is touched.
    A segment that is damaged is left and reported: then the next `resume` tries it again. Raises LogReadOnlyError,
    LogLockedError (another one writes to the active segment, compacts, or has its nightly run; or there is an
    erasure that is not done), LogDamagedError, StorageError, and of a log with an archive ArchiveError and
    StoreError. Once it was begun, `resume` goes on with it.
    """
    log.check_writable()
    with _alone(log):
        if pending.is_there(log.folder):
            raise LogLockedError(f"an erasure from {log.folder} is not done yet", "`evtool erase` finishes it.")
        with contextlib.closing(_Rewriting(log)) as rewriting:  # before anything has begun
            archive = place.of(log)
            if archive is not None and len(plan.positions):
                check_changing(archive)
            _seal(log, plan.positions)
            begun = _begun(log, plan, reason)
            on_begin()
            pending.write(log.files, log.folder, log.manifest, begun)
            return _finish(log, config, begun, rewriting, on_progress, record)


def resume(
    log: Log,
    config: Config,
    on_progress: Progress = lambda done, total: None,
    record: Record = _unrecorded,
) -> Report | None:
    """Finish what was begun and cut short; None if there is nothing. Raises as `apply`."""
    if not pending.is_there(log.folder):
        return None
    with _alone(log):
        begun = pending.read(log.files, log.folder, log.manifest)
        if begun is None:
            return None
        with contextlib.closing(_Rewriting(log)) as rewriting:
            return _finish(log, config, begun, rewriting, on_progress, record)


class _Rewriting:
    """The lock of who writes sealed segments anew; let go of as soon as that is done."""

    def __init__(self, log: Log) -> None:
        self._lock: Lock | None = rewriting_lock(log)

    def close(self) -> None:
        """Let go of it, if that was not done."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


def _begun(log: Log, plan: Plan, reason: str) -> Pending:
    """What is to be done, as it is written down."""
    positions = plan.positions
    return Pending(
        positions=positions,
        names=_names(plan.chosen.whole, log.partitions),
        letters=plan.letters.ids,
        first=int(positions[0]) if len(positions) else None,
        lost=plan.made.lost,
        again=tuple(plan.made.again.values()),
        counts=plan.counts,
        details={"by": plan.wanted.by, "reason": reason, "segments": ", ".join(_folders(log, positions))},
    )


@contextlib.contextmanager
def _alone(log: Log) -> Iterator[None]:
    """Keep nightly runs away, which compute projections beside everything."""
    taken = "has its nightly run, or is erased from, in"
    lock = log.files.lock(log.folder / nightly.LOCK_FILE, taken, "Wait until it ends.")
    try:
        yield
    finally:
        lock.release()


def _seal(log: Log, positions: Positions) -> None:
    """Let no event that goes be in the active segment, nor anything behind its last commit."""
    for segment in log.snapshot().segments:
        if segment.is_sealed:
            continue
        if len(held_by(segment, positions)):
            log.seal()
        elif log.files.size(segment.folder / FRAMES_FILE) > segment.log_bytes:
            with contextlib.suppress(LogLockedError):  # whoever writes has cut what a crash left
                log.writer()


def _folders(log: Log, positions: Positions) -> list[str]:
    """The names of the segments that hold something."""
    return [one.folder.name for one in log.snapshot().segments if len(held_by(one, positions))]


def _names(streams: tuple[str, ...], partitions: int) -> dict[bytes, str]:
    """What streams are called from now on, by their keys."""
    keys = stream_keys([stream.encode() for stream in streams])
    return {key.tobytes(): new_name(stream, partitions) for stream, key in zip(streams, keys, strict=True)}


def _finish(
    log: Log, config: Config, begun: Pending, rewriting: _Rewriting, on_progress: Progress, record: Record
) -> Report:
    report = Report(begun.counts)
    if len(begun.positions):
        clear(log)
        _rewrite_all(log, begun, report, on_progress)
    strays.remove(log)
    rewriting.close()
    letters.drop(log, begun.letters)
    if begun.first is not None or begun.lost:
        models.remove(log, config, begun.first, begun.lost)
    failed = models.make_again(log, config, begun.again)
    report.not_made = {name: error.message for name, error in failed.items()}
    report.made_again = [name for name in begun.again if name not in failed]
    if not report.failures:
        record(begun.counts, begun.details)
        pending.remove(log.files, log.folder)
    return report


def _rewrite_all(log: Log, begun: Pending, report: Report, on_progress: Progress) -> None:
    """Write the segments anew that still hold something; those of the archive go back there."""
    archive = place.of(log)
    if archive is not None:
        check_changing(archive)
    those = [(segment,) for segment in log.snapshot().segments if _is_left(log, segment, begun)]
    change_names = _Names(begun)
    for (segment,), told in in_turn(those, on_progress):
        before = segment.log_bytes
        change = erasing(_choose(begun.positions), log.manifest.id_bytes, change_names)
        try:
            written = _rewritten(log, segment, begun, change, told)
            if archive is not None and object_of(segment) is not None:
                move(archive, written)
        except LogDamagedError as error:
            report.failures.append(Failure(str(segment.folder), error.message, error.hint))
            continue
        report.segments.append(segment.folder.name)
        report.bytes_before += before
        report.bytes_after += written.log_bytes
    if archive is not None:
        sweep(archive)


def _rewritten(
    log: Log, segment: SegmentView, begun: Pending, change: Change, told: Callable[[int], None]
) -> ColdSegment:
    """Write a segment anew; of a cold one only the row groups that hold something, where these are few."""
    if isinstance(segment, ColdSegment):
        header = segment.table["header"]
        starts = np.searchsorted(begun.positions, header["first_position"])
        ends = np.searchsorted(begun.positions, header["last_position"], side="right")
        rows = segment.table[ends > starts]
        holds = [row for row in rows if _choose(begun.positions)(segment.batch(row, ("position",))).any()]
        if len(holds) <= _FEW_SHARE * len(segment.table):
            return patch(log, segment, np.array(holds, segment.table.dtype), change, told)
    return rewrite(log, [segment], names_for([segment], NOTHING), change, told)


def _is_left(log: Log, segment: SegmentView, begun: Pending) -> bool:
    """Whether a segment holds an event that is not erased yet, or one in a stream that is not renamed yet."""
    positions = held_by(segment, begun.positions)
    places = segment.gone.find(positions)
    if (places < 0).any():
        return True
    were_erased = positions[segment.gone.kinds[places] == ERASED]
    if not begun.names or not len(were_erased):
        return False
    events = events_at(Snapshot((segment,)), were_erased, ["stream_id"])
    return any(begun.name_of(name) != name for name in events["stream_id"].unique().to_pylist())


def _choose(positions: Positions) -> Choose:
    def choose(events: pa.RecordBatch) -> Mask:
        held = events["position"].to_numpy()
        at = np.searchsorted(positions, held)
        at[at == len(positions)] = 0
        chosen: Mask = positions[at] == held
        return chosen

    return choose


class _Names(Mapping[str, str]):
    """The new names of streams, by the old ones, which are known by their keys alone."""

    def __init__(self, begun: Pending) -> None:
        self._begun = begun

    def __getitem__(self, name: str) -> str:
        return self._begun.name_of(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return len(self._begun.names)
