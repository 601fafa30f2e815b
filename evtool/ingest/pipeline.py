"""From inputs to acknowledged batches: read, parse, encode and write at the same time, in bounded memory.

    reader thread -> chunks -> parse (workers) -> batches (caller's thread) -> encode (workers)
    -> write and sync (writer thread) -> acknowledgement

Every queue between two stages is bounded, so a slow disk holds back the pipe at the other end. A batch
is cut at `batch_events`, `batch_bytes` or `max_latency_ms` after its first byte, whichever comes first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from evtool import envelope, timestamps
from evtool.batch import BATCH_SCHEMA
from evtool.config import IngestConfig
from evtool.errors import WriterDeadError
from evtool.ingest import formats
from evtool.ingest import resume as resuming
from evtool.ingest.chunks import Chunk
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile, explained, printable
from evtool.ingest.letterqueue import LetterQueue
from evtool.ingest.lines import Lines, Offsets
from evtool.ingest.parse import Parsed
from evtool.ingest.resume import ResumePoint
from evtool.ingest.sources import Progress, Reader
from evtool.ingest.summary import Acknowledgement, Summary
from evtool.ingest.validate import validated
from evtool.log.frame import EncodedFrame
from evtool.log.log import Log
from evtool.log.preparing import Prepared
from evtool.log.writer import Commit, Writer
from evtool.parallel import WORKERS

_CHUNKS_AHEAD = WORKERS + 1
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Place:
    """A place between two lines: behind `line` of `input`, where `offset` bytes of its text end."""

    input: str
    line: int
    offset: int


@dataclass(frozen=True)
class Piece:
    """Where some events of a batch that is being gathered come from: the `rows` of these lines."""

    rows: Offsets
    lines: Lines
    input: str
    lines_before: int


@dataclass
class Gathered:
    """A batch that is being gathered: rows of tables, in that order, and for each of these where they come from.

    `reaches` is how far it goes, `resume` where its load would go on.
    """

    tables: list[tuple[pa.Table, Offsets]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    events: int = 0
    size_bytes: int = 0
    started: float = 0.0
    reaches: Place | None = None
    resume: ResumePoint | None = None


@dataclass(frozen=True)
class Job:
    """A prepared batch on its way to the disk; `prepared` is None where every line was rejected."""

    prepared: Prepared | None
    frames: list[Future[EncodedFrame]]
    dead_letters: list[DeadLetter]
    reaches: Place
    resume: ResumePoint | None


class Ingest:
    """One ingest of some inputs into a log. With a name, `resume`, it goes on where the last one of it ended.

    `source` is the default source of this ingest alone, which its dead letters keep for a retry.
    Raises InputError if what was to be resumed is in none of the inputs.
    """

    def __init__(
        self,
        log: Log,
        paths: Sequence[str],
        config: IngestConfig,
        on_commit: Callable[[Summary], None] = lambda summary: None,
        on_ack: Callable[[Acknowledgement], None] = lambda acknowledgement: None,
        resume: str | None = None,
        source: str | None = None,
    ) -> None:
        self.summary = Summary()
        self._config = config
        self._on_commit = on_commit
        self._on_ack = on_ack
        self._name = resume
        self._source = source
        # Recover the log and take its lock before anything is read.
        self._writer: Writer = log.writer()
        self._dead_letters = DeadLetterFile(log.files, log.folder, durable=log.is_synced)
        self._validator = log.validator
        self._parser = formats.parser(replace(config, source=source or config.source))
        latency_seconds = config.max_latency_ms / 1000
        self.resumed = None if resume is None else resuming.find(log.snapshot(), resume)
        converter = formats.converter(config)
        self._reader = Reader(paths, config.batch_bytes, latency_seconds / 4, converter, self.resumed)
        self._buried = set() if resume is None else self._buried_before(LetterQueue(log.files, log.folder))
        self._latency_seconds = latency_seconds
        self._stop = threading.Event()
        self._failure: BaseException | None = None  # of a write
        self._bad_end: BaseException | None = None  # of an input
        self._chunks: queue.Queue[tuple[Chunk, Future[Parsed]] | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
        self._jobs: queue.Queue[Job | None] = queue.Queue(1)
        self._line_of_input: dict[str, int] = {self._reader.names[0]: self.resumed.line} if self.resumed else {}
        self._reached: tuple[str, int] | None = None
        self._is_interrupted = False

    @property
    def progress(self) -> Progress:
        """What has been read so far."""
        return self._reader.progress

    @property
    def cut_bytes(self) -> int:
        """How many bytes of an unfinished batch were cut when the log was opened to write."""
        return self._writer.cut_bytes

    def stop(self) -> None:
        """Finish the batch in hand, commit it, and end. Safe to call from a signal handler."""
        self._stop.set()
        self._reader.stop()

    def run(self) -> Summary:
        """Ingest until the inputs end or `stop` is called.

        Raises InputError (an input ended badly) or StorageError (a write failed), after committing what
        could be; the summary then tells what was.
        """
        started = time.monotonic()
        writing = threading.Thread(target=self._write, name="evtool-write")
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="evtool-work") as workers:
            feeding = threading.Thread(target=self._feed, args=(workers,), name="evtool-feed", daemon=True)
            writing.start()
            feeding.start()
            dead: WriterDeadError | None = None
            try:
                self._gather(workers)
            except WriterDeadError as error:  # the writing thread knows why
                dead = error
            finally:
                self.stop()
                self._jobs.put(None)
                writing.join()
                self._drain()
                feeding.join()
                self.summary.seconds = time.monotonic() - started
                self.summary.bytes_in = self._reader.progress.text_bytes
                self.summary.is_interrupted = self._is_interrupted
                self.summary.reached = self._reached
        failure = self._failure or dead or self._bad_end
        if failure is not None:
            raise failure
        return self.summary

    def _feed(self, workers: ThreadPoolExecutor) -> None:
        """Hand chunks to the workers, in order, no more at once than the queue holds."""
        try:
            for chunk in self._reader.chunks():
                self._parser.check(chunk.data)
                parse = self._parser.parse_oversized if chunk.oversized else self._parse
                parsing = workers.submit(parse, chunk.data)
                # Its lines come back with what was parsed; nobody else needs to hold them meanwhile.
                self._chunks.put((replace(chunk, data=b""), parsing))
            self._chunks.put(None)
        except BaseException as error:  # raised again where the batches are gathered
            self._chunks.put(error)

    def _parse(self, data: bytes) -> Parsed:
        return validated(self._parser.parse(data), self._validator)

    def _drain(self) -> None:
        """Let the feeding thread go on to its end: it may be waiting for a place in the queue."""
        while True:
            try:
                item = self._chunks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                return
            if item is None or isinstance(item, BaseException):
                return

    def _gather(self, workers: ThreadPoolExecutor) -> None:
        batch = Gathered()
        self._is_interrupted = True
        while not self._stop.is_set() and self._failure is None:
            timeout = _POLL_SECONDS
            if batch.reaches:
                timeout = min(timeout, max(batch.started + self._latency_seconds - time.monotonic(), 0.0))
            try:
                item = self._chunks.get(timeout=timeout)
            except queue.Empty:
                if batch.reaches and time.monotonic() - batch.started >= self._latency_seconds:
                    batch = self._hand_over(batch, workers)
                continue
            if item is None or isinstance(item, BaseException):
                self._bad_end = item
                # A stop ends the chunks too, as an input's end does.
                self._is_interrupted = self._stop.is_set()
                break
            chunk, parsed = item
            batch = self._add(batch, chunk, parsed.result(), workers)
            if batch.reaches and time.monotonic() - batch.started >= self._latency_seconds and not self._is_busy():
                batch = self._hand_over(batch, workers)
        if self._failure is None:
            self._hand_over(batch, workers)

    def _is_busy(self) -> bool:
        """Whether a batch waits for the disk already: then a larger one costs no latency."""
        return self._jobs.full()

    def _add(self, batch: Gathered, chunk: Chunk, parsed: Parsed, workers: ThreadPoolExecutor) -> Gathered:
        """Add a chunk's events and rejects; hands over each batch that is full, and returns the one in hand."""
        before = self._line_of_input.get(chunk.input, 0)
        self._line_of_input[chunk.input] = before + len(parsed.lines)
        now = timestamps.to_text(time.time_ns())
        events, order = parsed.events, parsed.order
        rows = events["row"].to_numpy()
        mean_bytes = (chunk.end - chunk.start) / max(len(order), 1)
        rejects = deque(parsed.rejects)
        while True:
            batch.started = batch.started if batch.reaches else chunk.arrived
            room = min(
                self._config.batch_events - batch.events,
                max(int((self._config.batch_bytes - batch.size_bytes) / mean_bytes), 0 if batch.events else 1),
            )
            part, order = order[:room], order[room:]
            last_row = len(parsed.lines) - 1  # up to which this batch reaches
            if len(order):
                last_row = int(rows[part[-1]]) if len(part) else -1
            if last_row >= 0:
                self._reach(batch, chunk, parsed.lines, before, last_row)
            if len(part):
                batch.tables.append((events, part))
                batch.pieces.append(Piece(rows[part], parsed.lines, chunk.input, before))
                batch.events += len(part)
                batch.size_bytes += int(len(part) * mean_bytes)
            while rejects and rejects[0].row <= last_row:
                reject = rejects.popleft()
                size = chunk.oversized or reject.size_bytes
                line = before + reject.row + 1
                batch.dead_letters.append(
                    self._letter(now, reject.reason, reject.message, chunk.input, line, size, reject.raw)
                )
            if not len(order):
                return batch
            batch = self._hand_over(batch, workers)

    def _reach(self, batch: Gathered, chunk: Chunk, lines: Lines, before: int, row: int) -> None:
        """Note that a batch goes up to a row of a chunk."""
        is_last = row + 1 == len(lines)
        offset = chunk.end if is_last else chunk.start + int(lines.starts[row + 1])
        line = before + row + 1
        batch.reaches = Place(chunk.input, line, offset)
        if self._name is not None:
            start = chunk.start + int(lines.starts[row])
            batch.resume = resuming.point_in(chunk, self._name, line, start, offset)

    def _hand_over(self, batch: Gathered, workers: ThreadPoolExecutor) -> Gathered:
        """Prepare a batch and pass it on to the disk; returns a new one to gather."""
        if batch.reaches is None:
            return Gathered()
        prepared, frames = None, []
        if batch.pieces or batch.resume:
            prepared = self._writer.prepare(*_joined(batch.tables))
            self._bury_conflicts(batch, prepared)
            batch.pieces.clear()  # so that their lines do not wait for the disk, too
            frames = [workers.submit(self._writer.encode, part) for part in prepared.parts]
        self._jobs.put(Job(prepared, frames, batch.dead_letters, batch.reaches, batch.resume))
        return Gathered()

    def _bury_conflicts(self, batch: Gathered, prepared: Prepared) -> None:
        """Make dead letters of the events whose id or version is in conflict with what is stored."""
        now = timestamps.to_text(time.time_ns())
        starts = [0]
        for piece in batch.pieces:
            starts.append(starts[-1] + len(piece.rows))
        number = 0
        for conflict in prepared.conflicts:
            while conflict.place >= starts[number + 1]:
                number += 1
            piece = batch.pieces[number]
            row = int(piece.rows[conflict.place - starts[number]])
            raw = piece.lines.raw(row)
            reason, message = explained(conflict)
            line = piece.lines_before + row + 1
            batch.dead_letters.append(self._letter(now, reason, message, piece.input, line, len(raw), raw))

    def _letter(
        self, time: str, reason: str, message: str, name: str, line: int, size_bytes: int, raw: bytes
    ) -> DeadLetter:
        return DeadLetter(time, reason, message, name, line, size_bytes, raw, self._source, self._name)

    def _buried_before(self, queue: LetterQueue) -> set[int]:
        """The marks of letters behind the resume point: of batches never committed, they come again."""
        names = {printable(name) for name in self._reader.names}
        point = self.resumed

        def comes_again(letter: DeadLetter) -> bool:
            is_before = point is not None and letter.input == point.input and letter.line <= point.line
            return letter.resume == self._name and letter.input in names and not is_before

        return {letter.mark for letter in queue.letters(comes_again)}

    def _write(self) -> None:
        """Bring prepared batches to the disk, in order; the rest is only taken off the queue after a failure."""
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._commit(job)
            except BaseException as error:  # raised again by `run`
                self._failure = error
                self._reader.stop()

    def _commit(self, job: Job) -> None:
        # Of letters that an interrupted load has left, none is kept a second time.
        self._dead_letters.append([letter for letter in job.dead_letters if not self._is_buried(letter)])
        commit = None
        if job.prepared is not None:
            frames = [frame.result() for frame in job.frames]
            commit = self._writer.commit(job.prepared, frames, job.resume.as_map() if job.resume else None)
        done = _acknowledgement(job, commit)
        self._count(done)
        self._on_commit(self.summary)
        self._on_ack(done)

    def _is_buried(self, letter: DeadLetter) -> bool:
        return bool(self._buried) and letter.mark in self._buried

    def _count(self, done: Acknowledgement) -> None:
        summary = self.summary
        summary.accepted += done.accepted
        summary.duplicates += done.duplicates
        summary.dead_letters += done.dead_letters
        if done.accepted:
            summary.batches += 1
            summary.first_position = summary.first_position or done.first_position
            summary.last_position = done.last_position
        self._reached = (done.input, done.line)
        summary.bytes_in = self._reader.progress.text_bytes


def _acknowledgement(job: Job, commit: Commit | None) -> Acknowledgement:
    is_new = commit is not None and commit.count > 0
    is_written = is_new or (commit is not None and job.resume is not None)
    return Acknowledgement(
        commit.batch if commit and is_written else None,
        commit.first_position if commit and is_new else None,
        commit.last_position if commit and is_new else None,
        commit.count if commit else 0,
        commit.duplicates if commit else 0,
        len(job.dead_letters),
        printable(job.reaches.input),
        job.reaches.line,
        job.reaches.offset,
    )


def _joined(tables: list[tuple[pa.Table, Offsets]]) -> tuple[pa.RecordBatch, Offsets]:
    """Some rows of tables as one batch of BATCH_SCHEMA and the order of its rows; lets go of the tables."""
    if not tables:
        return envelope.to_batch([]), np.zeros(0, np.int64)
    starts = np.cumsum([0, *(len(events) for events, _ in tables)])
    order = np.concatenate([rows + start for (_, rows), start in zip(tables, starts, strict=False)])
    whole = pa.concat_tables(events for events, _ in tables).select(BATCH_SCHEMA.names).combine_chunks()
    tables.clear()
    return whole.to_batches()[0], order
