"""Sealed segments written anew, as cold ones: as they are, or changed.

A run of neighbours becomes one cold segment in the folder of the first: its files are written beside what is
there, read back, and compared by their logical digest. Then segment.msgpack is replaced, which is the switch:
before it nobody knows of the new files, behind it nobody needs the old ones. Whatever ends the process, `clear`
removes what is in the way, and who asked for it goes on. Readers take no lock: those that began before keep what
they have mapped. Of a segment of which nothing stays, only what identifies its events is read (`empty`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from evtool import parallel
from evtool.errors import EvtoolError, LogDamagedError, LogLockedError
from evtool.files import Lock
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.materialising import deriving
from evtool.log import coldfile, streamframes
from evtool.log.coldsegment import ColdSegment, open_cold
from evtool.log.digest import Columns, LogicalDigest, columns_of
from evtool.log.format import (
    COMPACT_LOCK_FILE,
    FORMAT_VERSION,
    checksum,
    checksum_of,
    events_file,
    gone_file,
    map_file,
)
from evtool.log.gone import Gone, followed, joined
from evtool.log.log import Log
from evtool.log.sealing import Sealing
from evtool.log.segment import read_summary, write_summary
from evtool.log.segmentview import SegmentView, one_by_one
from evtool.log.streamindex import Pairs
from evtool.log.stripes import (
    STORED_COLUMNS,
    Arranged,
    Change,
    Stripe,
    arrange,
    batches_of,
    nothing,
    order_of,
    stripes,
)
from evtool.log.walk import Table

_WRITING_SHARE = 0.75  # of the time that an event takes; the rest is reading it back

# What tells which event it is, and what of it is still counted when it has gone.
IDENTITY_COLUMNS = ("position", "event_uuid", "event_id", "source_id", "stream_id", "stream_version")

Progress = Callable[[int], None]  # events done
Run = TypeVar("Run", bound=Sequence[SegmentView])


def rewriting_lock(log: Log) -> Lock:
    """The lock of whoever writes sealed segments anew; before it is taken, what they have lost is made again.

    Raises LogLockedError while another one has it, and LogDamagedError where segments do not fit together.
    """
    try:
        Sealing(log.files, log.folder, log.manifest).leftovers()
        return log.files.lock(log.folder / COMPACT_LOCK_FILE)
    except LogLockedError as error:
        raise LogLockedError(
            error.message.replace("is being written", "is being compacted"), "Wait until it ends."
        ) from error


def positions_of(run: Sequence[SegmentView]) -> int:
    """How many positions neighbours have."""
    return run[-1].last_position - run[0].first_position + 1


def in_turn(runs: Iterable[Run], on_progress: Callable[[int, int], None]) -> Iterator[tuple[Run, Progress]]:
    """Runs of neighbours in turn, each with what tells how far it is: `on_progress` hears it of all."""
    runs = list(runs)
    total, done = sum(map(positions_of, runs)), 0
    for run in runs:

        def told(events: int, before: int = done) -> None:
            on_progress(before + events, total)

        yield run, told
        done += positions_of(run)
        on_progress(done, total)


def rewrite(
    log: Log,
    run: Sequence[SegmentView],
    names: list[str],
    change: Change = nothing,
    on_progress: Progress = lambda events: None,
) -> ColdSegment:
    """Make sealed neighbours one cold segment, with materialised columns of these names.

    `change` is asked for the events of each stripe which of them stay, and how. To be called under
    `rewriting_lock`. Raises LogDamagedError, StorageError; then the segments are as they were.
    """
    return switched(log, run[0].folder, lambda: _prepare(log, run, names, change, on_progress))


def rewrite_as(
    log: Log, source: SegmentView, summary: dict[str, Any], names: list[str], on_progress: Progress
) -> ColdSegment:
    """Make what is left of a damaged segment a cold one. `summary` has what is known of it, but for its files.

    To be called under compact.lock. Raises LogDamagedError, StorageError; then the segment is as it was.
    """
    return switched(log, source.folder, lambda: _prepare(log, [source], names, nothing, on_progress, summary))


def empty(
    log: Log,
    segment: SegmentView,
    names: list[str],
    depart: Callable[[pa.RecordBatch], Gone],
    on_progress: Progress = lambda events: None,
) -> ColdSegment:
    """Make a sealed segment a cold one of which no event is left; `depart` gives what is kept of events.

    It is given columns of IDENTITY_COLUMNS, and no others are read. To be called, and raises, as `rewrite`.
    """
    return switched(log, segment.folder, lambda: _emptied(log, segment, names, depart, on_progress))


def switched(log: Log, folder: Path, prepare: Callable[[], tuple[ColdSegment, Pairs]]) -> ColdSegment:
    """Have the files of a cold segment written, and let them take the place of what there was."""
    try:
        cold, pairs = prepare()
        write_summary(log.files, folder, cold.summary)
    except (EvtoolError, KeyboardInterrupt):
        with contextlib.suppress(EvtoolError):
            clear(log)
        raise
    # Behind the switch: until then, streams.idx is that of what was there before.
    streamframes.write(log.files, log.manifest, cold, pairs)
    clear(log)
    return cold


@dataclass
class _Passed:
    """What went by while stripes were written."""

    events: int = 0
    gone: list[Gone] = field(default_factory=list)
    digest: LogicalDigest = field(default_factory=LogicalDigest)


def _prepare(
    log: Log,
    run: Sequence[SegmentView],
    names: list[str],
    change: Change,
    on_progress: Progress,
    told: Mapping[str, Any] | None = None,
) -> tuple[ColdSegment, Pairs]:
    """Write the files of a cold segment, read them back, and compare. `told` is the summary, if it is known."""
    commits, maps = batches_of(run)
    if int(commits["count"].sum(dtype=np.int64)) != positions_of(run):
        raise _differs(run[0].folder, "its batches do not add up to its events")
    summary = dict(told or summary_of(log, run, commits)) | {"materialised": names}
    derive = deriving(names)
    passed = _Passed()

    def arranged() -> Iterator[Arranged]:
        nonlocal passed
        passed = _Passed()
        tasks = parallel.ordered(
            lambda stripe: arrange(stripe, commits, log.partitions, derive, change), stripes(run), ahead=0
        )
        with contextlib.closing(tasks):  # type: ignore[type-var]  # it is a generator
            for parts in tasks:
                for part in parts:
                    yield part
                    passed.events += part.read
                    passed.gone.append(part.gone)
                    passed.digest.add(part.before)
                    on_progress(int(_WRITING_SHARE * passed.events))

    path = run[0].folder / events_file(summary["generation"])
    written = coldfile.write(log.files, path, arranged, names)
    before = [segment.gone for segment in run]
    if passed.events + sum(part.absent for part in before) != positions_of(run):
        raise _differs(run[0].folder, "its positions have a gap or come twice")
    gone = followed(joined(before), joined(passed.gone))
    if any(map(len, passed.gone)):
        summary["replaced_digest"] = passed.digest.hexdigest()
    cold = described(log, path, written, (commits, maps), gone, summary)
    events = positions_of(run)
    read_back(cold, lambda done: on_progress(int(_WRITING_SHARE * events + (1 - _WRITING_SHARE) * done)))
    on_progress(events)
    return cold, written.pairs


def _emptied(
    log: Log,
    segment: SegmentView,
    names: list[str],
    depart: Callable[[pa.RecordBatch], Gone],
    on_progress: Progress,
) -> tuple[ColdSegment, Pairs]:
    """Write the files of a cold segment without events."""
    parts, done = [], 0

    def work(stripe: Stripe) -> Gone:
        rows = np.concatenate([rows for _, rows in stripe.pieces])
        table = pa.Table.from_batches(
            [view.batch(row, IDENTITY_COLUMNS) for view, row in one_by_one(segment, rows, IDENTITY_COLUMNS)]
        )
        segment.forget(rows)
        return joined([depart(events) for events in table.combine_chunks().to_batches()])

    for part in parallel.ordered(work, stripes([segment]), ahead=0):
        parts.append(part)
        done += len(part)
        on_progress(done)
    before = segment.gone
    if done + before.absent != positions_of([segment]):
        raise _differs(segment.folder, "its positions have a gap or come twice")
    commits, maps = batches_of([segment])
    summary = summary_of(log, [segment], commits) | {"materialised": names}
    replaced = _summary(log, segment).get("logical_digest")
    if replaced is not None:
        summary["replaced_digest"] = replaced
    path = segment.folder / events_file(summary["generation"])
    written = coldfile.write(log.files, path, tuple, names)
    cold = described(log, path, written, (commits, maps), followed(before, joined(parts)), summary)
    read_back(cold, lambda done: None)
    return cold, written.pairs


def described(
    log: Log,
    path: Path,
    written: coldfile.Written,
    batches: tuple[np.ndarray[Any, Any], bytes],
    gone: Gone,
    summary: dict[str, Any],
) -> ColdSegment:
    """Write what there is to say of the Parquet file at `path`, and open all of it.

    `batches` are as `batches_of` gives them; `summary` has all keys but those that the files say.
    """
    commits, maps = batches
    generation = summary["generation"]
    record, facts = coldfile.describe(log.files, path, written, commits, maps)
    log.files.write_whole(path.with_name(map_file(generation)), record)
    if len(gone):
        facts |= _write_gone(log, path.with_name(gone_file(generation)), gone)
    return open_cold(log.files, path.parent, summary | facts, log.manifest.id_bytes, log.archive)


def _write_gone(log: Log, path: Path, gone: Gone) -> dict[str, Any]:
    record = gone.encode()
    log.files.write_whole(path, record)
    return {
        "gone": gone.counts(),
        "gone_runs": len(gone.runs),
        "gone_bytes": len(record),
        "gone_checksum": checksum(record),
    }


def summary_of(log: Log, run: Sequence[SegmentView], commits: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What the summary of a run that becomes one says, but for its files."""
    first, last = (_summary(log, segment) for segment in (run[0], run[-1]))
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
        "generation": int(first.get("generation", 0)) + 1,
    }


def _summary(log: Log, segment: SegmentView) -> dict[str, Any]:
    summary = read_summary(log.files, segment.folder, log.manifest.id)
    if summary is None:
        raise _differs(segment.folder, "its summary has gone")
    return summary


def read_back(cold: ColdSegment, on_progress: Progress) -> None:
    """Raise LogDamagedError unless the file holds what was written to it."""
    if checksum_of(cold.file.parts()) != cold.summary["events_checksum"]:
        raise _differs(cold.folder, "what was written is not what is read back")
    if digest_of(cold, on_progress) != cold.summary["logical_digest"]:
        raise _differs(cold.folder, "the events that were written are not those that were read")


def digest_of(cold: ColdSegment, on_progress: Progress) -> str:
    """The logical digest of all events, read. Raises LogDamagedError unless they are all there, in order."""
    digest, done, last_position = LogicalDigest(), 0, cold.first_position - 1
    read = parallel.ordered(lambda rows: _in_order(cold, rows), _stripes_of(cold), ahead=0)
    for positions, columns in read:
        if positions[0] <= last_position:
            raise _differs(cold.folder, "what was written is in another order")
        digest.add(columns)
        done += len(positions)
        last_position = int(positions[-1])
        on_progress(done)
    if done + cold.gone.absent != positions_of([cold]):
        raise _differs(cold.folder, "the events that were written are not those that were read")
    return digest.hexdigest()


def _stripes_of(cold: ColdSegment) -> Iterator[Table]:
    """The rows of each stripe of a cold segment."""
    if not len(cold.table):
        return iter(())
    _, starts = np.unique(cold.table["header"]["batch"], return_index=True)
    return iter(np.split(cold.table, starts[1:]))


def _in_order(cold: ColdSegment, rows: Table) -> tuple[np.ndarray[Any, Any], Columns]:
    """The positions of a stripe's events, and what of them is hashed."""
    events = cold.batches(rows, STORED_COLUMNS)
    cold.forget(rows)
    positions = events["position"].to_numpy()
    order = order_of(positions)
    if order is None:
        raise _differs(cold.folder, f"positions {positions.min()} to {positions.max()} come twice")
    events = events.take(pa.array(order))
    return events["position"].to_numpy(), columns_of(events)


def _differs(folder: Path, what: str) -> LogDamagedError:
    return LogDamagedError(f"{folder}: {what}", "Run `evtool verify` to see all of the damage.")
