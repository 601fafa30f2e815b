"""A restored log cut behind one of its events, which may lie in the middle of a batch.

Segments behind it go. Of a hot segment the whole batches before the cut stay as they are, byte for byte, and the
events of the batch that is cut are appended again: same positions, versions and times of recording, as a batch
that ends earlier. A cold segment is written anew without the events behind; its batches stay what they were, but
for the one that is cut. What a producer handed over with that one (up to where its input was durable) goes: it is
not true any more.

Nobody uses such a folder yet, so nothing here has to be safe against an end of the process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evtool.batch import BATCH_SCHEMA
from evtool.config import LogConfig
from evtool.errors import LogDamagedError
from evtool.lifecycle.materialising import deriving
from evtool.lifecycle.rewriting import described, read_back
from evtool.log import coldfile, streamframes
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import (
    COMMIT_FRAME,
    COPY_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    SEGMENT_HEADER_BYTES,
    STREAMS_FILE,
    SUMMARY_FILE,
    checksum,
    events_file,
    gone_file,
    map_file,
)
from evtool.log.gone import Gone, gone
from evtool.log.log import Log
from evtool.log.lookup import events_at
from evtool.log.segment import Segment, summary_record
from evtool.log.snapshot import Snapshot
from evtool.log.stripes import Arranged, arrange, batches_of, stripes
from evtool.log.writer import Writer

_TIMESTAMPS = ("position", "timestamp")


def cut(log: Log, config: LogConfig, last: int) -> None:
    """Leave nothing of a log behind the position `last`. Raises LogDamagedError, StorageError."""
    snapshot = log.snapshot()
    for segment in reversed(snapshot.segments):
        if segment.first_position > last:
            log.files.remove_folder(segment.folder)
        elif segment.last_position > last:
            if isinstance(segment, ColdSegment):
                _cut_cold(log, snapshot, segment, last)
            else:
                assert isinstance(segment, Segment)
                _cut_hot(log, config, snapshot, segment, last)


def _cut_hot(log: Log, config: LogConfig, snapshot: Snapshot, segment: Segment, last: int) -> None:
    header = segment.table["header"]
    whole = np.flatnonzero((header["kind"] == COMMIT_FRAME) & (header["last_position"] <= last))
    rows = int(whole[-1]) + 1 if len(whole) else 0
    end = int(segment.table["offset"][rows]) if rows < len(segment.table) else segment.log_bytes
    first = int(header["last_position"][rows - 1]) + 1 if rows else segment.first_position
    events = _events(snapshot, first, last) if first <= last else None
    recorded_at = segment.recorded_at(first)
    log.files.truncate(segment.folder / FRAMES_FILE, end if rows else SEGMENT_HEADER_BYTES)
    for name in (INDEX_FILE, STREAMS_FILE, SUMMARY_FILE):
        log.files.remove(segment.folder / name)
    if events is not None:
        _append(log, config, events, recorded_at)


def _events(snapshot: Snapshot, first: int, last: int) -> pa.RecordBatch:
    """The events at some positions, as a batch on its way into a log."""
    table = events_at(snapshot, np.arange(first, last + 1), BATCH_SCHEMA.names)
    batch = table.select(BATCH_SCHEMA.names).cast(BATCH_SCHEMA).combine_chunks().to_batches()[0]
    if len(batch) != last - first + 1:
        raise LogDamagedError(f"positions {first:,} to {last:,} are not all there", "Restore another backup.")
    return batch


def _append(log: Log, config: LogConfig, events: pa.RecordBatch, recorded_at: int) -> None:
    """Append the beginning of a batch, recorded when it was."""
    writer = Writer(log.files, log.folder, log.manifest, config, now_ns=lambda: recorded_at)
    try:
        prepared = writer.prepare(events)
        if prepared.count != len(events) or prepared.base_recorded_at != recorded_at:
            raise LogDamagedError(
                f"{log.folder}: the events from position {prepared.base_position:,} on cannot be told from others",
                "Restore without --until, and run `evtool verify`.",
            )
        writer.commit(prepared, [writer.encode(part) for part in prepared.parts])
    finally:
        writer.close()


def _cut_cold(log: Log, snapshot: Snapshot, cold: ColdSegment, last: int) -> None:
    commits, maps = _cut_batches(snapshot, cold, last)
    summary = _summary(cold, commits, last)
    path = cold.folder / events_file(summary["generation"])
    names = list(cold.summary["materialised"])
    written = coldfile.write(log.files, path, lambda: _arranged(log, cold, commits, last, names), names)
    new = described(log, path, written, (commits, maps), _left_of(cold.gone, last), summary)
    for name in (COPY_FILE, SUMMARY_FILE):
        log.files.write_whole(cold.folder / name, summary_record(new.summary))
    streamframes.write(log.files, log.manifest, new, written.pairs)
    read_back(new, lambda events: None)
    for name_of in (events_file, map_file, gone_file):
        log.files.remove(cold.folder / name_of(int(cold.summary["generation"])))


def _arranged(
    log: Log, cold: ColdSegment, commits: np.ndarray[Any, Any], last: int, names: list[str]
) -> Iterator[Arranged]:
    def up_to_last(events: pa.RecordBatch) -> tuple[pa.RecordBatch, Gone]:
        keep = pc.less_equal(events["position"], last)
        return (events, Gone.none()) if pc.all(keep).as_py() else (events.filter(keep), Gone.none())

    for stripe in stripes([cold]):
        if stripe.first_position <= last:
            yield from arrange(stripe, commits, log.partitions, deriving(names), up_to_last)


def _cut_batches(snapshot: Snapshot, cold: ColdSegment, last: int) -> tuple[np.ndarray[Any, Any], bytes]:
    """The batches up to a position, and what producers handed over with them; of one that is cut, nothing."""
    commits, maps = batches_of([cold])
    # An empty batch stands at the position behind it; it goes with the next one, unless that is where the cut is.
    commits = commits[commits["base_position"] + np.minimum(commits["count"], 1) <= last + 1].copy()
    batch = commits[-1]
    first, count = int(batch["base_position"]), last - int(batch["base_position"]) + 1
    if count < batch["count"]:
        batch["count"], batch["map_bytes"] = count, 0
        # What vouched for the whole batch does not vouch for a part of it.
        batch["checksum"] = checksum(struct.pack("<Qq", int(batch["checksum"]), last))
        times = events_at(snapshot, np.arange(first, last + 1), _TIMESTAMPS)["timestamp"]
        if len(times):
            batch["timestamp_min"], batch["timestamp_max"] = pc.min(times).as_py(), pc.max(times).as_py()
    return commits, maps[: int(commits["map_bytes"].sum(dtype=np.int64))]


def _left_of(all_gone: Gone, last: int) -> Gone:
    """Those up to a position."""
    keep = all_gone.positions <= last
    if not keep.any():
        return Gone.none()
    keys, versions = all_gone.streams
    return gone(all_gone.positions[keep], all_gone.kinds[keep], all_gone.ids[keep], keys[keep], versions[keep])


def _summary(cold: ColdSegment, commits: np.ndarray[Any, Any], last: int) -> dict[str, Any]:
    """The summary of what is left, without what its files say."""
    told = {name: value for name, value in cold.summary.items() if not name.startswith("gone")}
    told.pop("replaced_digest", None)
    filled = commits[commits["count"] > 0]
    end = commits[-1]
    return told | {
        "last_position": last,
        "count": int(commits["count"].sum(dtype=np.int64)),
        "batches": len(commits),
        "last_batch": int(cold.summary["last_batch"]) - (len(cold.commits) - len(commits)),
        "recorded_at_max": int(end["base_recorded_at"]) + max(int(end["count"]), 1) - 1,
        "timestamp_min": int(filled["timestamp_min"].min()),
        "timestamp_max": int(filled["timestamp_max"].max()),
        "digest": int(end["checksum"]),
        "generation": int(cold.summary["generation"]) + 1,
    }
