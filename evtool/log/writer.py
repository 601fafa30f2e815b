"""The one writer of a log: prepare a batch, encode it (anywhere, in parallel), commit it.

    prepared = writer.prepare(events)                      # in order: positions, versions
    frames = [writer.encode(part) for part in prepared.parts]   # no state: any thread, any order
    commit = writer.commit(prepared, frames)               # in order: one write, one fdatasync

A batch is there when its commit frame is on disk, whole. After any failure the writer is dead: what
is on disk is then found out by opening the log again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from evtool.config import LogConfig
from evtool.envelope import Row
from evtool.errors import EventError, LogDamagedError, WriterDeadError
from evtool.files import Buffer, Files
from evtool.log import frame, streamframes
from evtool.log import head as head_file
from evtool.log.archived import Archive
from evtool.log.caches import Caches, Indexed
from evtool.log.clock import RecordedClock
from evtool.log.format import (
    COMMIT_FRAME,
    COMPACT_LOCK_FILE,
    EVENTS_FRAME,
    FORMAT_VERSION,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAMES_FILE,
    INDEX_FILE,
    LOCK_FILE,
    MIXED_PARTITIONS,
    checksum,
    index_row,
    padded,
    seal,
    segment_name,
)
from evtool.log.frame import EncodedFrame, Part
from evtool.log.manifest import Manifest
from evtool.log.preparing import Expected, Prepared, check_expected, place, place_few, refusal
from evtool.log.recovery import Recovered, recover
from evtool.log.sealing import Sealing
from evtool.log.segment import read_index
from evtool.log.sequence import Rows
from evtool.log.snapshot import SnapshotReader
from evtool.log.streamframes import StreamFrames
from evtool.log.table import FEW


@dataclass(frozen=True)
class Commit:
    """A durable batch: its positions (last < first when nothing of it was new) and first recorded_at, in ns.

    `duplicates` events of it were stored before.
    """

    batch: int
    first_position: int
    last_position: int
    first_recorded_at: int
    duplicates: int = 0

    @property
    def count(self) -> int:
        """How many events were stored."""
        return self.last_position - self.first_position + 1


@dataclass(frozen=True)
class Encoded:
    """A prepared batch with its frames, ready to be written; `resume` is a small map for its producer."""

    prepared: Prepared
    frames: Sequence[EncodedFrame]
    resume: Mapping[str, Any] | None = None


class Writer:
    """Holds the writer's lock of a log from its making to `close`.

    With `reindex`, which is told how many events are done and how many there are, the indexes are built anew,
    those of sealed segments too.
    Raises LogLockedError when another process has it, LogDamagedError when recovery finds damage.
    """

    def __init__(
        self,
        files: Files,
        folder: Path,
        manifest: Manifest,
        config: LogConfig,
        now_ns: Callable[[], int] = time.time_ns,
        reindex: Callable[[int, int], None] | None = None,
        archive: Archive | None = None,
    ) -> None:
        self._archive = archive
        self._files = files
        self._folder = folder
        self._manifest = manifest
        self._config = config
        self._sealing = Sealing(files, folder, manifest)
        self._dead: BaseException | None = None
        self._committed = 0
        self._caches: Caches
        self._lock = files.lock(folder / LOCK_FILE)
        try:
            self._recover(now_ns, reindex)
        except BaseException:
            self._lock.release()
            raise

    def prepare(
        self,
        events: pa.RecordBatch,
        rows: Rows | None = None,
        keep_all: bool = False,
        expected: Mapping[str, Expected] | None = None,
        values: Sequence[Row] | None = None,
    ) -> Prepared:
        """Find out what of some events (of BATCH_SCHEMA) is new, and give it its place; the next call follows on.

        `rows` takes the rows of `events` in order (default: as they are). Events that are stored already, or
        whose id or version is in conflict, are left out; with `keep_all` a conflict refuses the batch:
        IdConflictError, VersionConflictError. `expected` are the last versions of streams before it, which must
        hold unless all of it is stored already. `values` are the events once more, where they are at hand as rows.
        """
        self._check_alive()
        prepared = None
        if values is not None and 0 < len(values) <= FEW:
            prepared = place_few(values, events, self._caches, self._next_position, self._clock)
        if prepared is None:
            chosen = np.arange(len(events)) if rows is None else rows
            partitions = self._manifest.partitions
            prepared = place(events, chosen, self._caches, self._next_position, self._clock, partitions)
        if expected and (prepared.count or prepared.conflicts):
            check_expected(expected, self._caches)
        if keep_all and prepared.conflicts:
            raise refusal(prepared.conflicts[0])
        # Last, so that a batch that is refused or interrupted has taken no place.
        if prepared.placed is not None:
            self._caches.reserve(prepared.promise, prepared.placed)
            self._next_position += prepared.count
        return prepared

    def encode(self, part: Part) -> EncodedFrame:
        """Encode one part; safe to call from any thread."""
        return frame.encode(part, self._config.codec)

    def commit(
        self, prepared: Prepared, frames: Sequence[EncodedFrame], resume: Mapping[str, Any] | None = None
    ) -> Commit:
        """Write a batch and return when it is durable. Batches are committed in the order of `prepare`.

        A batch without a new event is written only if it has a `resume`. Raises StorageError; the batch is
        then not acknowledged, and every later call raises WriterDeadError.
        """
        return self.commit_together([Encoded(prepared, frames, resume)])[0]

    def commit_together(self, batches: Sequence[Encoded]) -> list[Commit]:
        """The same for several batches, with one write and one sync."""
        self._check_alive()
        commits: list[Commit] = []
        try:
            buffers, rows = self._compose_all(batches, commits)
            if rows:
                self._log.append(buffers)
                if self._config.fsync == "batch":
                    self._log.sync()
                self._index.append(rows)
                self._rows += len(rows)
                self._store_head()
            for batch, commit in zip(batches, commits, strict=True):
                if batch.prepared.count:
                    self._caches.settle(commit.last_position)
            # A segment is named by its first event, so one without events cannot be followed by another.
            if self._log.size >= self._config.segment_bytes and self._committed >= self._segment:
                self._roll()
        except BaseException as error:
            self._dead = error
            raise
        return commits

    def seal(self) -> None:
        """Seal the active segment now, if it has an event. Raises as `commit` does."""
        self._check_alive()
        if self._committed < self._segment:
            return
        try:
            self._roll()
        except BaseException as error:
            self._dead = error
            raise

    def close(self) -> None:
        """Let the log go. What was committed is durable already; the caches are synced for a quick open."""
        try:
            if self._dead is None:
                self._caches.close(durable=self._config.fsync == "batch")
        finally:
            self._head.close()
            self._log.close()
            self._index.close()
            self._lock.release()

    @property
    def last_position(self) -> int:
        """Of the last committed event; 0 in an empty log."""
        return self._committed

    @property
    def indexed(self) -> Indexed:
        """How much the indexes hold."""
        return self._caches.counts

    @property
    def cut_bytes(self) -> int:
        """How many bytes of an unfinished batch were cut when the log was opened."""
        return self._cut_bytes

    def _check_alive(self) -> None:
        if self._dead is not None:
            raise WriterDeadError(
                f"an earlier write to {self._folder} failed ({self._dead}), so nothing more is written",
                "Reopen the log: it recovers to its last acknowledged batch.",
            ) from self._dead

    def _recover(self, now_ns: Callable[[], int], reindex: Callable[[int, int], None] | None) -> None:
        previous, first_position = self._sealing.leftovers()
        folder = self._folder / segment_name(first_position)
        self._batch = int(previous["last_batch"]) if previous else 0
        self._previous_digest = int(previous["digest"]) if previous else 0
        head = head_file.read(self._files, self._folder)
        # How the log was written counts, and HEAD knows; how it is written from now on says nothing of that.
        may_lose_synced = self._config.fsync == "never" if head is None else not head.is_claim
        if head is not None and head.position >= first_position and not (may_lose_synced or folder.is_dir()):
            raise LogDamagedError(
                f"{self._folder}: position {head.position} was acknowledged, but the segments end at "
                f"{first_position - 1}",
                "Nothing was changed. `evtool repair` brings the missing segment back from a backup.",
            )
        self._files.make_folder(folder)
        log_id = self._manifest.id_bytes
        recovered = recover(self._files, folder, first_position, self._batch + 1, log_id, head, may_lose_synced)
        self._cut_bytes = recovered.cut_bytes
        self._committed = first_position - 1
        self._recorded_at = int(previous["recorded_at_max"]) if previous else 0
        if len(recovered.table):
            last = recovered.table["header"][-1]
            self._batch, self._committed = int(last["batch"]), int(last["last_position"])
            self._recorded_at = int(last["base_recorded_at"]) + max(int(last["count"]), 1) - 1
        self._adopt(recovered)
        self._next_position = self._committed + 1
        self._clock = RecordedClock(self._recorded_at, now_ns)
        self._head = head_file.HeadFile(self._files, self._folder)
        self._store_head()
        if head is None or bool(head.is_synced) != (self._config.fsync == "batch"):
            # After a power cut it tells whether batches can be missing: it must not be that of other times.
            self._head.sync()
            self._files.sync_folder(self._folder)
        # Where the end of the log may have gone, the tables may hold what went with it.
        self._caches = Caches(
            self._files,
            self._folder,
            self._manifest,
            self._committed,
            is_anew=may_lose_synced or reindex is not None,
            on_progress=reindex or (lambda done, total: None),
            archive=self._archive,
        )
        if reindex is not None:
            lock = self._files.lock(self._folder / COMPACT_LOCK_FILE)
            try:
                snapshot = SnapshotReader(self._files, self._folder, self._manifest, self._archive).take()
                streamframes.write_all(self._files, self._manifest, snapshot)
            finally:
                lock.release()

    def _adopt(self, segment: Recovered) -> None:
        self._segment = segment.first_position
        self._segment_folder = segment.folder
        self._chain = segment.last_checksum
        self._rows = len(segment.table)
        self._streams = StreamFrames(first_frame=self._rows)
        self._log = self._files.open_append(segment.folder / FRAMES_FILE)
        self._index = self._files.open_append(segment.folder / INDEX_FILE)

    def _store_head(self) -> None:
        self._head.store(
            self._committed,
            self._segment,
            self._log.size,
            self._rows,
            self._recorded_at,
            self._config.fsync == "batch",
        )

    def _compose_all(self, batches: Sequence[Encoded], commits: list[Commit]) -> tuple[list[Buffer], list[bytes]]:
        """The buffers of some batches and their rows for frames.idx; adds what each is to `commits`."""
        buffers: list[Buffer] = []
        rows: list[bytes] = []
        offset = self._log.size
        for batch in batches:
            prepared = batch.prepared
            # Without a new event too: those that it repeats may be in the batch that was never committed.
            if prepared.base_position != self._committed + 1:
                raise EventError(f"the batch before position {prepared.base_position} was never committed")
            if prepared.count or batch.resume:
                number, frames_of = self._rows + len(rows), [one.partition for one in batch.frames]
                self._streams.note(prepared.promise, frames_of, number, self._manifest.partitions)
                offset = self._compose(batch, offset, buffers, rows)
                self._batch += 1
                self._recorded_at = prepared.base_recorded_at + max(prepared.count, 1) - 1
            self._committed += prepared.count
            commits.append(
                Commit(
                    self._batch,
                    self._committed - prepared.count + 1,
                    self._committed,
                    prepared.base_recorded_at,
                    prepared.duplicates,
                )
            )
        return buffers, rows

    def _compose(self, batch: Encoded, offset: int, buffers: list[Buffer], rows: list[bytes]) -> int:
        """Add the buffers of a batch, in the order of the file, and its rows for frames.idx; where it ends."""
        prepared, frames, resume = batch.prepared, batch.frames, batch.resume
        last_position = prepared.base_position + prepared.count - 1
        resume_body = msgpack.packb(dict(resume)) if resume else b""
        commit = EncodedFrame(
            partition=MIXED_PARTITIONS,
            body=resume_body,
            body_checksum=checksum(resume_body),
            count=prepared.count,
            first_position=prepared.base_position,
            last_position=last_position,
            timestamp_min=min((f.timestamp_min for f in frames), default=0),
            timestamp_max=max((f.timestamp_max for f in frames), default=0),
        )
        for encoded in (*frames, commit):
            kind = COMMIT_FRAME if encoded is commit else EVENTS_FRAME
            header = self._header(prepared, encoded, kind)
            body = memoryview(encoded.body)
            padding = padded(len(body)) - len(body)
            buffers += [header, body, bytes(padding)]
            rows.append(index_row(offset, header))
            offset += FRAME_HEADER_BYTES + len(body) + padding
        return offset

    def _header(self, prepared: Prepared, encoded: EncodedFrame, kind: int) -> bytes:
        record = np.zeros(1, FRAME_HEADER)
        record[0] = (  # in the order of the fields: one by one they would take ten times as long
            *(FRAME_MAGIC, FORMAT_VERSION, kind, encoded.partition, self._batch + 1),
            *(len(memoryview(encoded.body)), prepared.base_position, prepared.base_recorded_at),
            *(encoded.first_position, encoded.last_position, encoded.count, 0),
            *(encoded.timestamp_min, encoded.timestamp_max, encoded.body_checksum, self._chain, 0),
        )
        header = seal(record)
        self._chain = int(record["checksum"][0])
        return header

    def _roll(self) -> None:
        """Seal the active segment and start the next one."""
        table = read_index(self._files, self._segment_folder, self._rows, self._log.size, None)
        assert table is not None, "the writer's own frames.idx"
        if self._config.fsync == "never":
            self._log.sync()  # its summary will say for certain what it holds
        self._index.sync()
        self._sealing.write_streams(self._segment_folder, self._segment, table, self._streams)
        self._sealing.write_summary(
            self._segment_folder, self._segment, table, self._log.size, self._previous_digest
        )
        self._previous_digest = int(table["header"]["checksum"][-1])
        if self._config.fsync == "batch":
            self._caches.sync_when_due()
        self._log.close()
        self._index.close()
        first_position = self._committed + 1
        folder = self._folder / segment_name(first_position)
        self._files.make_folder(folder)
        log_id = self._manifest.id_bytes
        self._adopt(recover(self._files, folder, first_position, self._batch + 1, log_id, None, False))
        self._store_head()
