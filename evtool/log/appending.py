"""Appends that wait for the disk together: each is a batch of its own, or shares one, and one sync is for all.

A sync takes as long for one event as for a thousand. While one is under way, other threads line up; the
next of them then takes all who wait. Their events become one batch, which is visible whole or not at all,
and so is each of the appends in it. Where one of them is refused, or asks for a version or a resume point,
they are prepared one by one, in the order in which they came.

`Appender` is the writing side of a log: what reads one does without it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from evtool import envelope
from evtool.config import LogConfig
from evtool.envelope import Row
from evtool.errors import EventError
from evtool.files import Files
from evtool.log.archived import Archive
from evtool.log.caches import Indexed
from evtool.log.manifest import Manifest
from evtool.log.preparing import Expected, Prepared
from evtool.log.writer import Commit, Encoded, Writer
from evtool.schemas.validation import Validator

_WAKE_SECONDS = 1.0


class Append:
    """What one caller wants to store, and in the end what became of it."""

    def __init__(
        self,
        events: pa.RecordBatch | list[Row],
        expected: Mapping[str, Expected] | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        self.events = events
        self.expected = expected
        self.resume = resume
        self.commit: Commit | None = None
        self.error: BaseException | None = None
        self._sleep = threading.Lock()
        self._sleep.acquire()

    def wait(self) -> None:
        """Sleep until `wake`; now and then without, should whoever was to do that have been interrupted."""
        self._sleep.acquire(timeout=_WAKE_SECONDS)

    def wake(self) -> None:
        """End a `wait`, or the next one."""
        with contextlib.suppress(RuntimeError):  # it is awake
            self._sleep.release()

    @property
    def is_done(self) -> bool:
        """Whether it is stored, or refused."""
        return self.commit is not None or self.error is not None

    @property
    def is_plain(self) -> bool:
        """Whether it may share a batch."""
        return not self.expected and not self.resume

    @property
    def values(self) -> list[Row] | None:
        """Its events as rows, if they came so."""
        return self.events if isinstance(self.events, list) else None

    @cached_property
    def batch(self) -> pa.RecordBatch:
        """Its events as a batch of BATCH_SCHEMA."""
        return envelope.to_batch(self.events) if isinstance(self.events, list) else self.events

    def result(self) -> Commit:
        """The durable batch. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        assert self.commit is not None
        return self.commit


class AppendQueue:
    """Callers in line: one of them serves all who wait, itself among them, and then the next one.

    Whoever is served sleeps until it is done, so that a group ends without each of them taking a lock in turn.
    The next one lets those come back first: without that every other group would be on its way while the disk is
    waited for, and be half as large (PostgreSQL's commit_siblings is for the same).
    """

    def __init__(self) -> None:
        self._waiting: deque[Append] = deque()
        self._serving = threading.Lock()
        self._expected = 1

    def store(self, append: Append, serve: Callable[[Sequence[Append]], None]) -> None:
        """Return when `serve` has done it, for this caller or another one."""
        self._waiting.append(append)
        try:
            while not append.is_done:
                # Who fails here is in line already, and looked for by whoever serves, after that is over.
                if self._serving.acquire(blocking=False):
                    self._serve(append, serve)
                else:
                    append.wait()
        except BaseException:
            with contextlib.suppress(ValueError):  # it was interrupted, and is not wanted any more
                self._waiting.remove(append)
            self._wake_next()
            raise

    def _serve(self, append: Append, serve: Callable[[Sequence[Append]], None]) -> None:
        group: list[Append] = []
        try:
            if not append.is_done:
                group = self._gather()
                if append not in group:  # whoever had taken it was interrupted before it was served
                    group.append(append)
                serve(group)
        finally:
            self._serving.release()
            for other in group:
                other.wake()
            self._wake_next()

    def _wake_next(self) -> None:
        with contextlib.suppress(IndexError):
            self._waiting[0].wake()

    def _gather(self) -> list[Append]:
        """All who wait, once as many do as in the group before, or had the time to."""
        for _ in range(self._expected):
            if len(self._waiting) >= self._expected:
                break
            time.sleep(0)  # lets another thread run
        group = [self._waiting.popleft() for _ in range(len(self._waiting))]
        self._expected = max(len(group), self._expected - 1)
        return group


class Appender:
    """Appends to a log. It becomes the writer with the first append, and is it until `close`."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        manifest: Manifest,
        config: LogConfig,
        default_source: str | None,
        validator: Validator,
        archive: Archive,
    ) -> None:
        self._place = files, folder, manifest, config
        self._archive = archive
        self._default_source = default_source
        self._validator = validator
        self._writer: Writer | None = None
        self._mutex = threading.Lock()
        self._queue = AppendQueue()

    def append(
        self,
        events: Iterable[Mapping[str, Any]] | pl.DataFrame,
        expected: Mapping[str, Expected] | None,
        resume: Mapping[str, Any] | None,
    ) -> Commit:
        """Store a batch; see `Log.append`."""
        if isinstance(events, pl.DataFrame):
            append = Append(envelope.frame_to_batch(events, self._default_source), expected, resume)
        else:
            append = Append(envelope.rows(events, self._default_source), expected, resume)
        self._queue.store(append, self._append_all)
        return append.result()

    def writer(self) -> Writer:
        """The log's writer."""
        with self._mutex:
            return self._open_writer()

    def seal(self) -> None:
        """Seal the active segment; see `Log.seal`."""
        with self._mutex:
            self._open_writer().seal()

    def reindex(self, on_progress: Callable[[int, int], None]) -> Indexed:
        """Become the writer anew, and build the indexes; see `Log.reindex`."""
        with self._mutex:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._writer = Writer(*self._place, reindex=on_progress, archive=self._archive)
            return self._writer.indexed

    def close(self) -> None:
        """Let the log go, until the next append."""
        with self._mutex:
            writer, self._writer = self._writer, None  # it is gone even if closing it fails
            if writer is not None:
                writer.close()

    def _append_all(self, appends: Sequence[Append]) -> None:
        with self._mutex:
            append_all(appends, self._validate, self._open_writer)

    def _validate(self, appends: Sequence[Append]) -> None:
        for append in appends if self._validator.is_needed else ():
            columns = (pl.Series(append.batch[name]) for name in ("event_type", "schema_version", "payload"))
            for row, reason, message in self._validator.check(*columns)[1][:1]:
                message = f"event {row} of the batch: {message} ({reason})"
                append.error = EventError(message, "Nothing of the batch was stored.")

    def _open_writer(self) -> Writer:
        if self._writer is None:
            self._writer = Writer(*self._place, archive=self._archive)
        return self._writer


def append_all(
    group: Sequence[Append], check: Callable[[Sequence[Append]], None], open_writer: Callable[[], Writer]
) -> None:
    """Store what several callers want, and tell each what became of it; `check` refuses some before."""
    try:
        check(group)
        appends = [append for append in group if not append.is_done]
        if not appends:
            return
        writer = open_writer()
        if len(appends) == 1 or not all(append.is_plain for append in appends):
            _one_by_one(appends, writer)
        else:
            _as_one(appends, writer)
    except BaseException as error:
        for append in group:
            if not append.is_done:
                append.error = error
        if not isinstance(error, Exception):
            raise


def _as_one(appends: Sequence[Append], writer: Writer) -> None:
    events, values = _joined(appends)
    try:
        prepared = writer.prepare(events, keep_all=True, values=values)
    except EventError:
        _one_by_one(appends, writer)
        return
    commit = writer.commit(prepared, [writer.encode(part) for part in prepared.parts])
    ends = np.cumsum([len(append.events) for append in appends])
    kept_ends = np.searchsorted(prepared.kept, ends).tolist()
    for append, start, end in zip(appends, [0, *kept_ends], kept_ends, strict=False):
        append.commit = Commit(
            commit.batch,
            commit.first_position + start,
            commit.first_position + end - 1,
            commit.first_recorded_at + start,
            len(append.events) - (end - start),
        )


def _one_by_one(appends: Sequence[Append], writer: Writer) -> None:
    accepted: list[tuple[Append, Prepared]] = []
    for append in appends:
        try:
            events, values = append.batch, append.values
            prepared = writer.prepare(events, keep_all=True, expected=append.expected, values=values)
            accepted.append((append, prepared))
        except EventError as error:
            append.error = error
    batches = [
        Encoded(prepared, [writer.encode(part) for part in prepared.parts], append.resume)
        for append, prepared in accepted
    ]
    for (append, _), commit in zip(accepted, writer.commit_together(batches), strict=True):
        append.commit = commit


def _joined(appends: Sequence[Append]) -> tuple[pa.RecordBatch, list[Row] | None]:
    values = [append.values for append in appends]
    if all(rows is not None for rows in values):
        together = [row for rows in values for row in rows or ()]
        return envelope.to_batch(together), together
    tables = [pa.Table.from_batches([append.batch]) for append in appends]
    joined = pa.concat_tables(tables).combine_chunks()
    return (joined.to_batches()[0] if len(joined) else envelope.to_batch([])), None
