"""An event by its id: the index of ids says where it may be, and the log whether it is there.

What the index does not reach, or all of it where there is none, is looked through.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evtool import uuids
from evtool.files import Files
from evtool.log.caches import INDEX_FOLDER
from evtool.log.hashing import hash_id, source_seeds
from evtool.log.ids import EventIds
from evtool.log.lookup import events_at
from evtool.log.manifest import Manifest
from evtool.log.segmentview import one_by_one
from evtool.log.snapshot import Snapshot
from evtool.log.sourcenames import read_source_names

_COLUMNS = ("position", "source_id", "event_uuid", "event_id")


def find(
    files: Files, log_folder: Path, manifest: Manifest, snapshot: Snapshot, event_id: str, source_id: str | None
) -> int | None:
    """The position of the event with this id, of the first one if several sources use it; None without one.

    Raises LogDamagedError.
    """
    try:
        event_id.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no id can hold
        return None
    reached, positions = _candidates(files, log_folder / INDEX_FOLDER, manifest.id_bytes, event_id, source_id)
    if len(positions):
        found = _matching(events_at(snapshot, positions, _COLUMNS), event_id, source_id)
        if found is not None:
            return found
    for segment in snapshot.segments:
        rows = segment.event_rows()
        left = rows[rows["header"]["last_position"] > reached]
        hits = [
            _matching(pa.table(view.batch(row, _COLUMNS)), event_id, source_id)
            for view, row in one_by_one(segment, left, _COLUMNS)
        ]
        segment.forget(left)
        if any(hit is not None for hit in hits):
            return min(hit for hit in hits if hit is not None)
    return None


def _candidates(
    files: Files, folder: Path, log_id: bytes, event_id: str, source_id: str | None
) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Up to which position the index is sure to know, and where the event may be."""
    nowhere = np.zeros(0, np.int64)
    index = EventIds.open_read(files, folder, log_id)
    if index is None:
        return 0, nowhere
    try:
        reached = index.applied
        sources = read_source_names(files, folder, log_id) if source_id is None else [source_id]
        if sources is None:
            return 0, nowhere
        _, positions = index.candidates(hash_id(event_id, source_seeds(log_id, sources)))
        return reached, positions
    finally:
        index.close()


def _matching(events: pa.Table, event_id: str, source_id: str | None) -> int | None:
    """The first position of those that have this id."""
    wanted = uuids.columns(pa.array([event_id]))
    name = "event_uuid" if wanted["event_uuid"].null_count == 0 else "event_id"
    same = pc.equal(events[name], wanted[name][0])
    if source_id is not None:
        same = pc.and_(same, pc.equal(events["source_id"], source_id))
    positions = events["position"].filter(pc.fill_null(same, False))
    return pc.min(positions).as_py() if len(positions) else None
