"""What a writer knows of the whole log without reading it: stream versions and ids, kept on disk.

All of it is derived from committed events. What is missing, stale or of another log is built anew when
the log is opened to be written; what a crash left behind the log is brought up to date.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from evtool.files import Files
from evtool.log.archived import Archive
from evtool.log.gone import Gone
from evtool.log.hashing import Hashes
from evtool.log.identity import Identity, Placed, hash_events
from evtool.log.ids import EventIds, Positions
from evtool.log.manifest import Manifest
from evtool.log.segmentview import SegmentView, one_by_one
from evtool.log.snapshot import SnapshotReader
from evtool.log.sourcenames import SourceNames
from evtool.log.versions import Promise, StreamVersions
from evtool.log.walk import Table

INDEX_FOLDER = "index"

_SYNC_SHARE = 8
_IDS_TOGETHER = 1 << 18
_IDENTITY = ("position", "source_id", "event_uuid", "event_id")


@dataclass(frozen=True)
class Indexed:
    """How many ids, streams and sources (None: too many to be listed) are known."""

    ids: int
    streams: int
    sources: int | None


class Caches:
    """The derived tables of a log, for its writer. `committed` is the log's last position.

    `on_progress` is told how many events are done, and how many there are, while they are built from the log.
    Raises LogDamagedError when what they are built from cannot be read, StorageError.
    """

    def __init__(
        self,
        files: Files,
        log_folder: Path,
        manifest: Manifest,
        committed: int,
        is_anew: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        archive: Archive | None = None,
    ) -> None:
        folder, log_id = log_folder / INDEX_FOLDER, manifest.id_bytes
        self._reader = SnapshotReader(files, log_folder, manifest, archive)
        self._log_id = log_id
        self.versions = StreamVersions(files, folder, log_id)
        self._ids = EventIds(files, folder, log_id)
        self._sources = SourceNames(files, folder, log_id)
        self.identity = Identity(self._ids, self._sources, log_id, self._reader.take)
        # A table that reaches further is of a longer log: of a copy, or of this one before it was cut back.
        if is_anew or self.versions.reaches > committed:
            self.versions.reset()
        if is_anew or self._ids.reaches > committed or self._sources.is_new:
            self._ids.reset()
            self._sources.reset()
        if min(self.versions.applied, self._ids.applied) < committed:
            self._ids.make_room(committed - self._ids.applied)
            for segment in self._reader.take().segments:
                self._apply(segment, lambda done: on_progress(done, committed))

        self._synced = self._ids.applied

    @property
    def counts(self) -> Indexed:
        """How much they hold."""
        sources = None if self._sources.is_full else len(self._sources)
        return Indexed(len(self._ids), len(self.versions), sources)

    def reserve(self, promise: Promise, placed: Placed) -> None:
        """Keep in mind what a batch will change; batches are committed in this order."""
        self.versions.reserve(promise)
        self.identity.reserve(placed)

    def settle(self, applied: int) -> None:
        """Store what the oldest of these changes: it is durable, up to position `applied`."""
        self.versions.settle(applied)
        self.identity.settle(applied)

    def sync(self) -> None:
        """Bring all to stable storage, so that a power cut costs no more than what follows."""
        self._sources.sync()
        self._ids.sync()
        self.versions.sync()
        self._synced = self._ids.applied

    def sync_when_due(self) -> None:
        """The same, when the ids have grown by so much that writing their table again is worth it.

        Its pages are in no order of time: a sync after a few more events writes nearly all of it.
        """
        if (self._ids.applied - self._synced) * _SYNC_SHARE >= len(self._ids):
            self.sync()

    def close(self, durable: bool) -> None:
        """Sync, where that is wanted, and let go."""
        if durable:
            self.sync()
        self._sources.close()
        self._ids.close()
        self.versions.close()

    def _apply(self, segment: SegmentView, on_done: Callable[[int], None]) -> None:
        """Bring all up to the end of a segment; `on_done` is told how many events of the log are in."""
        after_versions, after_ids = self.versions.applied, self._ids.applied
        if min(after_versions, after_ids) >= segment.last_position:
            return
        rows = segment.event_rows()
        ends = rows["header"]["last_position"]
        columns = ("stream_id", "stream_version", *(("position",) if len(segment.gone) else ()))
        for view, row in one_by_one(segment, rows[ends > after_versions], columns):
            events = view.events(row, columns)
            if len(segment.gone):  # what is left of an erased event has the name of no stream
                events = events.filter(segment.gone.find(events["position"].to_numpy()) < 0)
            last = events.group_by("stream_id").agg(pl.col("stream_version").max())
            self.versions.apply(last["stream_id"].cast(pl.Binary).to_list(), last["stream_version"].to_numpy())
        self._apply_ids(segment, rows[ends > after_ids], after_ids, on_done)
        if len(segment.gone):
            self._apply_gone(segment.gone, after_versions, after_ids)
        segment.forget(rows)
        self.versions.mark_applied(max(after_versions, segment.last_position))
        self._ids.mark_applied(max(after_ids, segment.last_position))

    def _apply_ids(self, segment: SegmentView, rows: Table, after: int, on_done: Callable[[int], None]) -> None:
        """Store the ids of some frames, behind a position, many at once: of a large table few would need as many
        pages.
        """
        gathered: list[tuple[Hashes, Positions]] = []
        count, done = 0, max(after, segment.first_position - 1)
        for number, (view, row) in enumerate(one_by_one(segment, rows, _IDENTITY), 1):
            batch = view.batch(row, _IDENTITY)
            if row["header"]["first_position"] <= after:  # of several batches, of which some are known
                batch = batch.filter(pc.greater(batch["position"], after))
            if len(segment.gone):  # what is left of an erased event has another id
                batch = batch.filter(pa.array(segment.gone.find(batch["position"].to_numpy()) < 0))
            self._sources.add_new(batch["source_id"].unique().to_pylist())
            gathered.append((hash_events(batch, self._log_id), batch["position"].to_numpy()))
            count += len(batch)
            if count >= _IDS_TOGETHER or number == len(rows):
                hashes, positions = (np.concatenate(columns) for columns in zip(*gathered, strict=True))
                self._ids.add(hashes, positions)
                done += count
                on_done(done)
                gathered, count = [], 0

    def _apply_gone(self, gone: Gone, after_versions: int, after_ids: int) -> None:
        """Store what is known of events that are gone, behind a position."""
        positions, ids, keys, versions = gone.known()
        self._ids.add(ids["hash"][positions > after_ids], positions[positions > after_ids])
        is_new = positions > after_versions
        self.versions.raise_to(keys[is_new], versions[is_new])
