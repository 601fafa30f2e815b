"""Appends that wait for the disk together: each is a batch of its own, or shares one, and one sync is for all.

A sync takes as long for one event as for a thousand. While one is under way, other threads line up; the
next of them then takes all who wait. Their events become one batch, which is visible whole or not at all,
and so is each of the appends in it. Where one of them is refused, or asks for a version or a resume point,
they are prepared one by one, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from evtool import envelope
from evtool.envelope import Row
from evtool.errors import EventError
from evtool.log.preparing import Expected, Prepared
from evtool.log.writer import Commit, Encoded, Writer


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

    @property
    def is_done(self) -> bool:
        """Whether it is stored, or refused."""
        return self.commit is not None or self.error is not None

    @property
    def is_plain(self) -> bool:
        """Whether it may share a batch."""
        return not self.expected and not self.resume

    def batch(self) -> pa.RecordBatch:
        """Its events as a batch of BATCH_SCHEMA."""
        return envelope.to_batch(self.events) if isinstance(self.events, list) else self.events

    def result(self) -> Commit:
        """The durable batch. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        assert self.commit is not None
        return self.commit


def append_all(appends: Sequence[Append], open_writer: Callable[[], Writer]) -> None:
    """Store what several callers want, and tell each what became of it."""
    try:
        writer = open_writer()
        if len(appends) == 1 or not all(append.is_plain for append in appends):
            _one_by_one(appends, writer)
        else:
            _as_one(appends, writer)
    except BaseException as error:
        for append in appends:
            if not append.is_done:
                append.error = error
        if not isinstance(error, Exception):
            raise


def _as_one(appends: Sequence[Append], writer: Writer) -> None:
    events = _joined(appends)
    try:
        prepared = writer.prepare(events, keep_all=True)
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
            prepared = writer.prepare(append.batch(), keep_all=True, expected=append.expected)
            accepted.append((append, prepared))
        except EventError as error:
            append.error = error
    batches = [
        Encoded(prepared, [writer.encode(part) for part in prepared.parts], append.resume)
        for append, prepared in accepted
    ]
    for (append, _), commit in zip(accepted, writer.commit_together(batches), strict=True):
        append.commit = commit


def _joined(appends: Sequence[Append]) -> pa.RecordBatch:
    if all(isinstance(append.events, list) for append in appends):
        return envelope.to_batch([row for append in appends for row in append.events])
    tables = [pa.Table.from_batches([append.batch()]) for append in appends]
    joined = pa.concat_tables(tables).combine_chunks()
    return joined.to_batches()[0] if len(joined) else envelope.to_batch([])
