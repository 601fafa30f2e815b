"""A cold segment of which a few row groups are written anew: all others are copied as the bytes that they are.

To erase one stream among many touches a row group or two of each stripe. The rows of these stay in it, in order
of their streams as these are called then; so all that the map says of them holds. What was copied is compared by
its checksums, what was written anew by its events, and the logical digest is that of what is read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from evtool.errors import LogDamagedError
from evtool.lifecycle.materialising import deriving
from evtool.lifecycle.rewriting import Progress, described, digest_of, summary_of, switched
from evtool.log import coldfile, footer, streamframes
from evtool.log.coldfile import Written
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import BLOCK, events_file
from evtool.log.gone import Gone, followed, joined
from evtool.log.log import Log
from evtool.log.streamindex import PAIR, Pairs
from evtool.log.stripes import STORED_COLUMNS, Change, batches_of
from evtool.log.walk import Table


def patch(
    log: Log, segment: ColdSegment, rows: Table, change: Change, on_progress: Progress = lambda events: None
) -> ColdSegment:
    """Write a cold segment anew, with those of its row groups changed that `rows` are.

    `change` must leave every event in its place. To be called, and raises, as `rewriting.rewrite`.
    """
    return switched(log, segment.folder, lambda: _prepare(log, segment, rows, change, on_progress))


def _prepare(
    log: Log, segment: ColdSegment, rows: Table, change: Change, on_progress: Progress
) -> tuple[ColdSegment, Pairs]:
    names = list(segment.summary["materialised"])
    changed, gone = _changed(segment, rows, change)
    derive = deriving(names)
    fields = [*STORED_COLUMNS, *(f"derived {number}" for number in range(len(names)))]
    batches = [pa.RecordBatch.from_arrays([*events.columns, *derive(events)], fields) for events in changed]
    unit = segment.metadata.schema.to_arrow_schema().field("timestamp").type.unit
    encoded = coldfile.encode_groups(batches, unit, names)

    commits, maps = batches_of([segment])
    summary = summary_of(log, [segment], commits) | {"materialised": names}
    summary["replaced_digest"] = segment.summary["logical_digest"]
    path = segment.folder / events_file(summary["generation"])
    written = _write(log, path, segment, rows, encoded)
    cold = described(log, path, written, (commits, maps), followed(segment.gone, gone), summary)
    _check(segment, cold, rows, changed)
    digest = digest_of(cold, on_progress)
    return replace(cold, summary={**cold.summary, "logical_digest": digest}), streamframes.read_pairs(cold)


def _changed(segment: ColdSegment, rows: Table, change: Change) -> tuple[list[pa.RecordBatch], Gone]:
    """The events of these row groups as they are to be, each group in its order, and what went."""
    found, parts = [], []
    for row in rows:
        events, gone = change(segment.batch(row, STORED_COLUMNS))
        order = [("stream_id", "ascending"), ("position", "ascending")]
        found.append(events.take(pa.compute.sort_indices(pa.Table.from_batches([events]), sort_keys=order)))
        parts.append(gone)
    return found, joined(parts)


def _write(log: Log, path: Path, segment: ColdSegment, rows: Table, encoded: memoryview) -> Written:
    """Write the Parquet file: row groups of the segment, and in their place those that were encoded anew."""
    places = {int(number): place for place, number in enumerate(rows["number"])}
    before = footer.read(segment.footer.read())
    own, new = footer.groups(before), footer.groups(footer.read(encoded))
    new_ranges = _ranges_of_new(encoded, len(new))
    log.files.remove(path)
    file = log.files.open_append(path, create=True)
    digest = xxhash.xxh3_64(footer.MAGIC)
    try:
        file.append([footer.MAGIC])
        chosen = []
        for number, row in enumerate(segment.table):
            place = places.get(number)
            if place is None:
                described, start, data = own[number], int(row["offset"]), segment.stored(row)
            else:
                described, (start, size) = new[place], new_ranges[place]
                data = [encoded[start : start + size]]
            chosen.append(footer.Group(described, file.size - start))
            for piece in data:
                digest.update(piece)
            file.append(data)
        end = footer.write(before, chosen)
        digest.update(end)
        file.append([end])
        file.sync()
    finally:
        file.close()
    blocks = _blocks(segment)
    return Written(file.size, digest.intdigest(), blocks, np.zeros(0, PAIR), "")


def _ranges_of_new(encoded: memoryview, count: int) -> list[tuple[int, int]]:
    """Where each row group of a file in memory starts, and its length."""
    chunks = coldfile.chunks_of(encoded)
    assert len(chunks) == count
    starts = chunks["offset"].min(axis=1)
    return list(zip(starts.tolist(), chunks["stored_bytes"].sum(axis=1).tolist(), strict=True))


def _blocks(segment: ColdSegment) -> np.ndarray[Any, Any]:
    """What the map says of row groups: none of it changes."""
    header = segment.table["header"]
    blocks = np.zeros(len(header), BLOCK)
    for name in ("partition", "count", "first_position", "last_position", "timestamp_min", "timestamp_max"):
        blocks[name] = header[name]
    blocks["stripe"], blocks["recorded_at_min"] = header["batch"], header["base_recorded_at"]
    blocks["recorded_at_max"] = header["recorded_at_max"]
    return blocks


def _check(before: ColdSegment, after: ColdSegment, rows: Table, changed: Sequence[pa.RecordBatch]) -> None:
    """Raise LogDamagedError unless each row group is what it was, or what it was to become."""
    is_same = (before.chunks["checksum"] == after.chunks["checksum"]).all(axis=1)
    is_same[rows["number"]] = True
    for row, events in zip(rows, changed, strict=True):
        found = after.batch(after.table[int(row["number"])], STORED_COLUMNS)
        wanted = events.take(pa.array(np.argsort(events["position"].to_numpy())))
        is_same[int(row["number"])] = found.equals(wanted)
    if not is_same.all():
        number = int(np.flatnonzero(~is_same)[0])
        raise LogDamagedError(
            f"{before.path}: row group {number} is not what was written", "Run `evtool verify` to see the damage."
        )
