"""A column of texts, put together from pieces of other texts: as views, of which short ones are texts themselves.

A view is 16 bytes: the length, then 12 bytes of text, or of a longer text its first 4 bytes, the number of a
buffer and an offset in it (https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-view-layout).
What follows a length of 12 bytes at most is just what stands at the piece, so it is had for one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from evtool.ingest.lines import Mask, Offsets
from evtool.log.frame import int64s, mask
from evtool.projections.flat import Bytes, pieces

Views: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"  # n x 2

BYTES_BEFORE = 4  # that are read of what stands before a piece, and thrown away
BYTES_BEHIND = 12
_VIEW_BYTES = 16
_SHORT_BYTES_MAX = 12
_LENGTHS = np.uint64(0xFFFFFFFF)
_TEXT_MASKS = np.frombuffer(  # length -> which bytes of a view are text
    b"".join((bytes(4) + b"\xff" * size).ljust(_VIEW_BYTES, b"\0") for size in range(_SHORT_BYTES_MAX + 1)),
    np.uint64,
).reshape(-1, 2)


class TextColumn:
    """A column of so many rows, all of them null until something is put there."""

    def __init__(self, count: int) -> None:
        self._views: Views = np.zeros((count, 2), np.uint64)
        self._is_there: Mask = np.zeros(count, bool)
        self._buffers: list[pa.Buffer] = []

    def put(self, rows: Offsets, data: Bytes, starts: Offsets, ends: Offsets) -> None:
        """Copy pieces of UTF-8 into some rows (rising). They are short of 2 GiB together.

        BYTES_BEFORE the start of each and BYTES_BEHIND it are bytes of `data` too.
        """
        lengths = ends - starts
        views = pieces(data, starts - BYTES_BEFORE, _VIEW_BYTES)
        views &= _TEXT_MASKS.take(np.minimum(lengths, _SHORT_BYTES_MAX), axis=0)
        views[:, 0] |= lengths.view(np.uint64)
        long = np.flatnonzero(lengths > _SHORT_BYTES_MAX)
        if len(long):
            views[long, 1] = self._copied(data, starts[long], ends[long])
        where = slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows
        self._views[where] = views
        self._is_there[where] = True

    def put_texts(self, rows: Offsets, texts: Sequence[str | None]) -> None:
        """Put texts, or nothing, into some rows."""
        found = pl.Series(texts, dtype=pl.String).rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
        _, views, *buffers = found.buffers()
        both = np.frombuffer(views, np.uint64).reshape(-1, 2)[found.offset : found.offset + len(found)].copy()
        both[(both[:, 0] & _LENGTHS) > _SHORT_BYTES_MAX, 1] += np.uint64(len(self._buffers))
        self._views[rows], self._is_there[rows] = both, mask(found.is_valid())
        self._buffers += buffers

    def series(self) -> pl.Series:
        """The column as it is now."""
        validity = None
        if not self._is_there.all():
            validity = pa.py_buffer(np.packbits(self._is_there, bitorder="little"))
        buffers = [validity, pa.py_buffer(self._views.reshape(-1)), *self._buffers]
        column = pa.Array.from_buffers(pa.string_view(), len(self._views), buffers)
        return pl.Series(pl.from_arrow(column), dtype=pl.String)

    def _copied(self, data: Bytes, starts: Offsets, ends: Offsets) -> Views:
        """The second halves of the views of long pieces, which are copied into a buffer of their own.

        Starts and ends by turns are the offsets of an Arrow column, of which every second text is taken.
        """
        spans = pa.py_buffer(np.column_stack([starts, ends]).reshape(-1))
        count = 2 * len(starts) - 1
        pieces = pa.Array.from_buffers(pa.large_binary(), count, [None, spans, pa.py_buffer(data)])
        _, offsets, buffer = pieces.take(int64s(np.arange(0, count, 2))).buffers()
        at = np.frombuffer(offsets, np.uint64, len(starts))
        halves: Views = at << np.uint64(32) | np.uint64(len(self._buffers))
        self._buffers.append(buffer)
        return halves
