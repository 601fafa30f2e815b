"""Sealed segments written anew, as cold ones: as they are, or changed.

A run of neighbours becomes one cold segment in the folder of the first: its files are written beside what is
there, read back, and compared by their logical digest. Then segment.msgpack is replaced, which is the switch:
before it nobody knows of the new files, behind it nobody needs the old ones. Whatever ends the process, `clear`
removes what is in the way, and who asked for it goes on. Readers take no lock: those that began before keep what
they have mapped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    COPY_FILE,
    FORMAT_VERSION,
    SUMMARY_FILE,
    checksum,
    events_file,
    gone_file,
    map_file,
)
from evtool.log.gone import Gone, joined
from evtool.log.log import Log
from evtool.log.segment import read_summary, summary_record
from evtool.log.segmentview import SegmentView
from evtool.log.streamindex import Pairs
from evtool.log.stripes import STORED_COLUMNS, Arranged, Change, arrange, batches_of, nothing, stripes
from evtool.log.walk import Table

_WRITING_SHARE = 0.75  # of the time that an event takes; the rest is reading it back

Progress = Callable[[int], None]  # events done


def rewriting_lock(log: Log) -> Lock:
    """The lock of whoever writes sealed segments anew. Raises LogLockedError while another one has it."""
    try:
        return log.files.lock(log.folder / COMPACT_LOCK_FILE)
    except LogLockedError as error:
        raise LogLockedError(
            error.message.replace("is being written", "is being compacted"), "Wait until it ends."
        ) from error


def positions_of(run: Sequence[SegmentView]) -> int:
    """How many positions neighbours have."""
    return run[-1].last_position - run[0].first_position + 1


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
    folder = run[0].folder
    try:
        cold, pairs = _prepare(log, run, names, change, on_progress)
        record = summary_record(cold.summary)
        log.files.write_whole(folder / COPY_FILE, record)
        log.files.write_whole(folder / SUMMARY_FILE, record)
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
    log: Log, run: Sequence[SegmentView], names: list[str], change: Change, on_progress: Progress
) -> tuple[ColdSegment, Pairs]:
    """Write the files of a cold segment, read them back, and compare."""
    folder = run[0].folder
    commits, maps = batches_of(run)
    if int(commits["count"].sum(dtype=np.int64)) != positions_of(run):
        raise _differs(folder, "its batches do not add up to its events")
    first_summary, last_summary = (_summary(log, segment) for segment in (run[0], run[-1]))
    generation = int(first_summary.get("generation", 0)) + 1
    path = folder / events_file(generation)
    derive = deriving(names)
    passed = _Passed()

    def arranged() -> Iterator[Arranged]:
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

    written = None
    unit = coldfile.UNITS[0]
    while written is None:
        passed = _Passed()
        try:
            written = coldfile.write(log.files, path, arranged(), unit, names)
        except coldfile.FinerUnitError as error:
            unit = error.unit
    before = [segment.gone for segment in run]
    if passed.events + sum(part.absent for part in before) != positions_of(run):
        raise _differs(folder, "its positions have a gap or come twice")
    record, facts = coldfile.describe(log.files, path, written, commits, maps)
    gone = joined([*before, *passed.gone])
    log.files.write_whole(folder / map_file(generation), record)
    if len(gone):
        facts |= write_gone(log, folder / gone_file(generation), gone)
    summary = _range(log, first_summary, last_summary, commits) | {"generation": generation} | facts
    summary["materialised"] = names
    if any(map(len, passed.gone)):
        summary["replaced_digest"] = passed.digest.hexdigest()
    cold = open_cold(log.files, folder, summary, log.manifest.id_bytes)
    events = positions_of(run)
    read_back(cold, lambda done: on_progress(int(_WRITING_SHARE * events + (1 - _WRITING_SHARE) * done)))
    on_progress(events)
    return cold, written.pairs


def write_gone(log: Log, path: Path, gone: Gone) -> dict[str, Any]:
    """Write what is known of events that are gone, and say what the summary says of it."""
    record = gone.encode()
    log.files.write_whole(path, record)
    return {
        "gone": gone.counts(),
        "gone_runs": len(gone.runs),
        "gone_bytes": len(record),
        "gone_checksum": checksum(record),
    }


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


def read_back(cold: ColdSegment, on_progress: Progress) -> None:
    """Raise LogDamagedError unless the file holds what was written to it."""
    if checksum(cold.data) != cold.summary["events_checksum"]:
        raise _differs(cold.folder, "what was written is not what is read back")
    digest, done, last_position = LogicalDigest(), 0, cold.first_position - 1
    read = parallel.ordered(lambda rows: _in_order(cold, rows), _stripes_of(cold), ahead=0)
    for positions, columns in read:
        if positions[0] <= last_position:
            raise _differs(cold.folder, "what was written is in another order")
        digest.add(columns)
        done += len(positions)
        last_position = int(positions[-1])
        on_progress(done)
    if digest.hexdigest() != cold.summary["logical_digest"] or done + cold.gone.absent != positions_of([cold]):
        raise _differs(cold.folder, "the events that were written are not those that were read")


def _stripes_of(cold: ColdSegment) -> Iterator[Table]:
    """The rows of each stripe of a cold segment."""
    if not len(cold.table):
        return iter(())
    _, starts = np.unique(cold.table["header"]["batch"], return_index=True)
    return iter(np.split(cold.table, starts[1:]))


def _in_order(cold: ColdSegment, rows: Table) -> tuple[np.ndarray[Any, Any], Columns]:
    """The positions of a stripe's events, and what of them is hashed."""
    table = pa.Table.from_batches([cold.batch(row, STORED_COLUMNS) for row in rows])
    cold.forget(rows)
    events = table.combine_chunks().to_batches()[0]
    order = np.argsort(events["position"].to_numpy())
    events = events.take(pa.array(order))
    positions = events["position"].to_numpy()
    if (np.diff(positions) <= 0).any():
        raise _differs(cold.folder, f"positions {positions[0]} to {positions[-1]} come twice")
    return positions, columns_of(events)


def _differs(folder: Path, what: str) -> LogDamagedError:
    return LogDamagedError(f"{folder}: {what}", "Run `evtool verify` to see all of the damage.")
