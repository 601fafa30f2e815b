"""Sorted runs: rows of a table in order of a hash and a number, in a file of which a search reads a few blocks.

    batches         Arrow record batches, not compressed, as Arrow's IPC writes one message each
    index           a msgpack map: where the batches lie, the hash and the number of every
                    BLOCK_ROWS-th row, and an XXH3-64 of each PAGE_BYTES of the batches

This is the sorted string table of LevelDB and Bigtable, but by the column. Rows of one hash lie in one batch. The
index is read and checked whole: it has 0.6 to 1 byte a row, in a few milliseconds for 50 million rows. Of the
batches only those pages are read in which there is something to find, each checked once before it is believed.
A file is written once and never changed.

Rows lie in mapped memory until they are taken out of it; what `Run` gives are copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgpack
import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from evtool.files import AppendFile, Files
from evtool.log.frame import int64s
from evtool.projections.checkpoint import StateDamagedError
from evtool.projections.tiers import RunInfo

HASH = "actor.hash"  # UInt64; no key has a dot in its name
BLOCK_ROWS = 64  # rows that one entry of the index stands for
PAGE_BYTES = 4096  # bytes that one checksum stands for
BATCH_ROWS = 1 << 20  # a batch is written when there are so many rows for it

_MESSAGE_HEAD_BYTES = 8  # of a message of Arrow's: four bytes of ones, and how long its metadata is

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"


class Spans(NamedTuple):
    """What is asked for, n times: rows of `hashes[i]` with a number from `lows[i]` to `highs[i]`.

    `with_previous`: and of each the row before these, if it is of this hash.
    """

    hashes: Hashes
    lows: Numbers
    highs: Numbers
    with_previous: bool = False


@dataclass(frozen=True)
class _Batch:
    """Where a batch is: bytes of its message, of them its metadata at the front, and its rows."""

    offset: int
    size: int
    metadata_size: int
    rows: int


class RunWriter:
    """Writes a run. `order` is the column of the number (Int64); None: all rows have the number 0."""

    def __init__(self, files: Files, path: Path, order: str | None) -> None:
        files.remove(path)  # what was left by a process that ended before its commit
        self._file: AppendFile = files.open_append(path, create=True, durable=False)
        self._order = order
        self._waiting: list[pl.DataFrame] = []
        self._schema: pa.Schema | None = None
        self._batches: list[_Batch] = []
        self._hashes: list[Hashes] = []
        self._numbers: list[Numbers] = []
        self._pages: list[int] = []
        self._low, self._high, self._rows = (1 << 63) - 1, -(1 << 63), 0

    def append(self, rows: pl.DataFrame) -> None:
        """Rows that are in order, behind all that were given before, and of other hashes. Raises StorageError."""
        if len(rows):
            self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= BATCH_ROWS:
            self._write_batch()

    def finish(self) -> RunInfo | None:
        """Write the index and close the file; None if there are no rows. Raises StorageError."""
        self._write_batch()
        try:
            if self._schema is None:
                return None
            index = self._index()
            offset = self._file.size
            self._file.append([index])
            checksum = xxhash.xxh3_64_intdigest(index)
            return RunInfo(self._rows, offset, len(index), checksum, self._low, self._high)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _write_batch(self) -> None:
        if not self._waiting:
            return
        rows = pl.concat(self._waiting, rechunk=True)
        self._waiting = []
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        [batch] = table.combine_chunks().to_batches()
        message = batch.serialize()
        metadata_size = _MESSAGE_HEAD_BYTES + int.from_bytes(message[4:8].to_pybytes(), "little")
        self._schema = table.schema
        self._batches.append(_Batch(self._file.size, message.size, metadata_size, len(rows)))
        data = memoryview(message)
        whole = len(data) // PAGE_BYTES * PAGE_BYTES
        last_page = bytes(data[whole:]).ljust(PAGE_BYTES, b"\0")
        self._pages += [_page_checksum(data, at) for at in range(0, whole, PAGE_BYTES)]
        self._pages.append(_page_checksum(memoryview(last_page), 0))
        self._file.append([data[:whole], last_page])
        self._note(rows)

    def _note(self, rows: pl.DataFrame) -> None:
        self._rows += len(rows)
        numbers = np.zeros(1, np.int64) if self._order is None else rows[self._order].to_numpy()
        self._low, self._high = min(self._low, int(numbers.min())), max(self._high, int(numbers.max()))
        self._hashes.append(rows[HASH].to_numpy()[::BLOCK_ROWS])
        if self._order is None:
            self._numbers.append(np.zeros(len(self._hashes[-1]), np.int64))
        else:
            self._numbers.append(numbers[::BLOCK_ROWS])

    def _index(self) -> bytes:
        assert self._schema is not None
        values = {
            "order": self._order,
            "schema": self._schema.serialize().to_pybytes(),
            "batches": [list(asdict(batch).values()) for batch in self._batches],
            "hashes": np.concatenate(self._hashes).astype("<u8").tobytes(),
            "numbers": np.concatenate(self._numbers).astype("<i8").tobytes(),
            "pages": np.array(self._pages, "<u8").tobytes(),
        }
        packed: bytes = msgpack.packb(values)
        return packed


class Run:
    """A run that is open to be read. Raises StateDamagedError wherever it is not what was written."""

    def __init__(self, files: Files, path: Path, info: RunInfo) -> None:
        self._path = path
        self._info = info
        try:
            data = files.map(path, info.index_offset + info.index_size)
        except FileNotFoundError as error:
            raise StateDamagedError(path) from error
        index = data[info.index_offset :]
        if len(index) != info.index_size or xxhash.xxh3_64_intdigest(index) != info.index_checksum:
            raise StateDamagedError(path)
        values = msgpack.unpackb(index)
        self._order: str | None = values["order"]
        self._schema = pa.ipc.read_schema(pa.py_buffer(values["schema"]))
        self._batches = [_Batch(*batch) for batch in values["batches"]]
        self._hashes: Hashes = np.frombuffer(values["hashes"], "<u8")
        self._numbers: Numbers = np.frombuffer(values["numbers"], "<i8")
        self._data = data
        self._address = pa.py_buffer(data).address
        self._pages: Hashes = np.frombuffer(values["pages"], "<u8")
        self._is_checked = np.zeros(len(self._pages), np.bool_)
        counts = [-(-batch.rows // BLOCK_ROWS) for batch in self._batches]
        self._block_bounds = np.cumsum([0, *counts])  # of each batch its first block

    def find(self, spans: Spans) -> Iterator[pl.DataFrame]:
        """The rows of some spans, each once, in order."""
        hashes, lows, highs, with_previous = spans
        first = _bound(self._hashes, self._numbers, hashes, lows, before_equal=True)
        last = _bound(self._hashes, self._numbers, hashes, highs, before_equal=False)
        # What is found begins in the block before the first entry that is not less, and so does what is before it.
        batch_of = np.searchsorted(self._block_bounds, np.maximum(last - 1, 0), side="right") - 1
        order = np.argsort(batch_of, kind="stable")
        bounds = np.searchsorted(batch_of[order], np.arange(len(self._batches) + 1))
        for at, block in enumerate(self._block_bounds[:-1]):
            chosen = order[bounds[at] : bounds[at + 1]]
            if len(chosen):
                part = Spans(hashes[chosen], lows[chosen], highs[chosen], with_previous)
                rows = self._rows_of(at, part, np.maximum(first[chosen] - block, 0), last[chosen] - block)
                if len(rows):
                    yield self._taken(at, rows)

    def between(self, low: int, high: int) -> Iterator[pl.DataFrame]:
        """All rows with hashes from `low` to `high`, in order."""
        for at, batch in enumerate(self._batches):
            start, end = self._block_bounds[at : at + 2]
            hashes = self._hashes[start:end]
            first = max(int(np.searchsorted(hashes, np.uint64(low), side="left")) - 1, 0)
            last = int(np.searchsorted(hashes, np.uint64(high), side="right"))
            rows = slice(first * BLOCK_ROWS, min(last * BLOCK_ROWS, batch.rows))
            if rows.start < rows.stop:
                found = self._sliced(at, rows)
                yield found.filter(pl.col(HASH).is_between(pl.lit(low, pl.UInt64), pl.lit(high, pl.UInt64)))

    def check(self) -> None:
        """Read all of it."""
        self._check_pages(np.arange(len(self._pages)))

    def _rows_of(self, at: int, spans: Spans, first: Numbers, last: Numbers) -> Numbers:
        """The rows of a batch in some spans, which begin and end behind these blocks of it less one; ascending."""
        batch = self._open(at)
        rows = self._batches[at].rows
        begins, ends = np.maximum(first - 1, 0) * BLOCK_ROWS, np.maximum(last - 1, 0) * BLOCK_ROWS
        blocks = np.unique(np.concatenate([begins, ends]))
        names = [HASH] if self._order is None else [HASH, self._order]
        for name in names:
            self._check(batch.column(name), blocks, np.minimum(blocks + BLOCK_ROWS, rows))
        hashes = _values(batch.column(HASH), np.dtype("<u8"))
        numbers = np.broadcast_to(np.int64(0), rows)
        if self._order is not None:
            numbers = _values(batch.column(self._order), np.dtype("<i8"))
        found = _Sorted(hashes, numbers)
        low = found.bound(spans.hashes, spans.lows, begins, np.minimum(begins + BLOCK_ROWS, rows), True)
        high = found.bound(spans.hashes, spans.highs, ends, np.minimum(ends + BLOCK_ROWS, rows), False)
        if spans.with_previous:
            before = np.maximum(low - 1, 0)
            low = np.where((low > 0) & (hashes[before] == spans.hashes), before, low)
        return np.unique(_expanded(low, high))

    def _taken(self, at: int, rows: Numbers) -> pl.DataFrame:
        batch = self._open(at)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) > 1)
        ends = np.append(starts[1:], len(rows)) - 1
        for column in batch.columns:
            self._check(column, rows[starts], rows[ends] + 1)
        return _framed(batch.take(int64s(rows)))

    def _sliced(self, at: int, rows: slice) -> pl.DataFrame:
        batch = self._open(at)
        for column in batch.columns:
            self._check(column, np.array([rows.start]), np.array([rows.stop]))
        return _framed(batch.slice(rows.start, rows.stop - rows.start))

    def _open(self, at: int) -> pa.RecordBatch:
        batch = self._batches[at]
        self._check_bytes(np.array([batch.offset]), np.array([batch.offset + batch.metadata_size]))
        message = pa.py_buffer(self._data[batch.offset : batch.offset + batch.size])
        return pa.ipc.read_record_batch(message, self._schema)

    def _check(self, column: pa.Array, starts: Numbers, ends: Numbers) -> None:
        """Check the bytes of a column's rows, from each start to its end."""
        buffers = column.buffers()
        if buffers[0] is not None:
            self._check_buffer(buffers[0], starts // 8, -(-ends // 8))
        if len(buffers) == 3:  # texts: offsets and bytes
            self._check_buffer(buffers[1], starts * 8, ends * 8 + 8)
            offsets = np.frombuffer(buffers[1], "<i8")
            self._check_buffer(buffers[2], offsets[starts], offsets[ends])
        elif len(buffers) == 2:
            bits = column.type.bit_width
            self._check_buffer(buffers[1], starts * bits // 8, -(-ends * bits // 8))

    def _check_buffer(self, buffer: pa.Buffer, starts: Numbers, ends: Numbers) -> None:
        if buffer.size:  # else it lies somewhere else
            offset = buffer.address - self._address
            self._check_bytes(offset + starts, offset + ends)

    def _check_bytes(self, starts: Numbers, ends: Numbers) -> None:
        pages = _expanded(starts // PAGE_BYTES, -(-ends // PAGE_BYTES))
        self._check_pages(np.unique(pages[~self._is_checked[pages]]))

    def _check_pages(self, pages: Numbers) -> None:
        data = self._data[: self._info.index_offset]
        for page, checksum in zip(pages.tolist(), self._pages[pages].tolist(), strict=True):
            if _page_checksum(data, page * PAGE_BYTES) != checksum:
                raise StateDamagedError(self._path)
        self._is_checked[pages] = True


class _Sorted(NamedTuple):
    """Rows in order of hash and number."""

    hashes: Hashes
    numbers: Numbers

    def bound(self, hashes: Hashes, numbers: Numbers, low: Numbers, high: Numbers, before_equal: bool) -> Numbers:
        """For each (hash, number) the first row, from `low` to `high`, that is not less, or else is greater.

        A search by halves, of all at once.
        """
        low, high = low.copy(), high.copy()
        while (open_ones := low < high).any():
            middle = np.where(open_ones, (low + high) // 2, np.maximum(low - 1, 0))
            found_hashes, found = self.hashes[middle], self.numbers[middle]
            is_less = found < numbers if before_equal else found <= numbers
            goes_up = (found_hashes < hashes) | ((found_hashes == hashes) & is_less)
            low = np.where(open_ones & goes_up, middle + 1, low)
            high = np.where(open_ones & ~goes_up, middle, high)
        return low


def _bound(index: Hashes, numbers: Numbers, hashes: Hashes, asked: Numbers, before_equal: bool) -> Numbers:
    """The same among all entries of an index."""
    low = np.searchsorted(index, hashes, side="left")
    high = np.searchsorted(index, hashes, side="right")
    return _Sorted(index, numbers).bound(hashes, asked, low, high, before_equal)


def _expanded(starts: Numbers, ends: Numbers) -> Numbers:
    """All numbers from each start to before its end, one after the other."""
    counts = np.maximum(ends - starts, 0)
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def _values(column: pa.Array, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(column.buffers()[1], dtype, len(column))


def _framed(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _page_checksum(data: memoryview, start: int) -> int:
    return xxhash.xxh3_64_intdigest(data[start : start + PAGE_BYTES])
