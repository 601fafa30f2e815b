"""A chunk of bytes as lines: where each starts and ends, and where its quotes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

Offsets: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Span: TypeAlias = tuple[Offsets, Offsets]  # starts and ends of one value in many rows

_PADDING = bytes(1024)  # stands behind the text, so that a window of bytes may be read from anywhere in it
_WINDOWS = (16, 32, 48, 64, 128, 1000)
_DIGITS_MAX = 18  # of any such number is an int64
_INLINE_BYTES = 12  # a view holds a text of so many bytes itself
_INLINE_MASKS = np.frombuffer(  # length -> which of those bytes belong to the view; the last one: any longer text
    b"".join(
        (b"\xff" * (length if length <= _INLINE_BYTES else 4)).ljust(_INLINE_BYTES, b"\0") for length in range(14)
    ),
    np.uint32,
).reshape(-1, 3)
_LINE_FEED, _RETURN, _SPACE, _QUOTE, _BACKSLASH = 10, 13, 32, 34, 92


@dataclass(frozen=True)
class Lines:
    """The lines of a chunk.

    `data` is the chunk (whole lines) and its padding. `starts` and `ends` are byte offsets in it, the end
    behind the last byte of the line's text: a line break (LF or CR LF) is not part of it.
    `special` are the offsets of control characters and backslashes.
    """

    data: bytes
    starts: Offsets
    ends: Offsets
    special: Offsets

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes."""
        return np.frombuffer(self.data, np.uint8)

    @cached_property
    def buffer(self) -> pa.Buffer:
        """The bytes, for Arrow."""
        return pa.py_buffer(self.data)

    def is_utf8(self) -> bool:
        """Whether all lines are UTF-8, in one quick look."""
        offsets = pa.py_buffer(np.array([0, len(self.data) - len(_PADDING)], np.int64))
        whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, self.buffer])
        try:
            whole.cast(pa.large_string())
        except pa.ArrowInvalid:
            return False
        return True

    def raw(self, row: int) -> bytes:
        """The bytes of one line."""
        return self.data[self.starts[row] : self.ends[row]]

    def texts(self, spans: Sequence[Span]) -> list[pa.Array]:
        """A column of texts for each of the spans, which must be UTF-8.

        The spans of a row stand one behind the other, and before those of the next row: so together with what
        is between them they are one Arrow column that needs no copy, of which every so many are taken.
        """
        count, width = len(spans[0][0]) if spans else 0, 2 * len(spans)
        if not count:
            return [pa.array([], pa.string()) for _ in spans]
        offsets = np.empty((count, width), np.int32)
        for number, (starts, ends) in enumerate(spans):
            offsets[:, 2 * number], offsets[:, 2 * number + 1] = starts, ends
        pieces = pa.Array.from_buffers(
            pa.binary(), count * width - 1, [None, pa.py_buffer(offsets.reshape(-1)), self.buffer]
        )
        firsts = np.arange(0, count * width, width, dtype=np.int32)
        columns = [pieces.take(pa.array(firsts + np.int32(2 * number))) for number in range(len(spans))]
        return [pa.Array.from_buffers(pa.string(), count, column.buffers()) for column in columns]

    def find(self, starts: Offsets, ends: Offsets, literal: bytes) -> Offsets:
        """Where `literal` first stands in each of the spans, which must be UTF-8; -1 where it does not."""
        views = _views(self.data, starts, ends)
        column = pa.Array.from_buffers(pa.string_view(), len(starts), [None, pa.py_buffer(views), self.buffer])
        at = pl.Series("text", pl.from_arrow(column)).str.find(literal.decode(), literal=True).fill_null(-1)
        found = at.cast(pl.Int64).to_numpy()
        return np.where(found < 0, -1, starts + found)

    def next_quotes(self, offsets: Offsets, hint_bytes: int) -> Offsets:
        """The first quotation mark at or behind each of the offsets, if it is at most 1000 bytes away.

        Where it is further the offset itself is given. Most are looked for within `hint_bytes`.
        """
        found = offsets.copy()
        rows: Any = slice(None)
        widths = [width for width in _WINDOWS if width > hint_bytes] or [_WINDOWS[-1]]
        for width in widths:
            windows = _words(self.data, width)[offsets[rows]].view(np.uint8).reshape(-1, width)
            is_quote = windows == _QUOTE
            at = is_quote.argmax(axis=1)
            found[rows] += at
            nothing = (at == 0) & ~is_quote[:, 0]
            if not nothing.any():
                break
            rows = np.flatnonzero(nothing) if isinstance(rows, slice) else rows[nothing]
        return found

    def begin_with(self, offsets: Offsets, literal: bytes) -> Mask:
        """Whether `literal` stands at each of the offsets."""
        if not literal:
            return np.ones(len(offsets), bool)
        count = -(-len(literal) // 8)
        wanted = np.frombuffer(literal.ljust(8 * count, b"\0"), "<u8")
        mask = np.frombuffer((b"\xff" * len(literal)).ljust(8 * count, b"\0"), "<u8")
        words = _words(self.data, 8 * count)[offsets].view("<u8").reshape(-1, count)
        same: Mask = (words[:, 0] & mask[0]) == wanted[0]
        for number in range(1, count):
            same &= (words[:, number] & mask[number]) == wanted[number]
        return same

    def ends_fit(self, starts: Offsets, ends: Offsets, first: bytes, last: bytes) -> Mask:
        """Whether each span begins with one of the bytes `first` and ends with one of `last`."""
        array = self.array
        return (ends > starts) & _one_of(first)[array[starts]] & _one_of(last)[array[ends - 1]]

    def whole_numbers(self, starts: Offsets, ends: Offsets) -> tuple[Offsets, Mask]:
        """The spans as int64, and which are whole numbers in plain decimal digits (of 18 at most)."""
        lengths = ends - starts
        array = self.array
        good = (lengths >= 1) & (lengths <= _DIGITS_MAX) & ((array[starts] != ord("0")) | (lengths == 1))
        values = np.zeros(len(starts), np.int64)
        for at in range(int(lengths[good].max(initial=0))):
            digits = array[starts + at] - np.uint8(ord("0"))
            inside = at < lengths
            good &= (digits <= 9) | ~inside
            values = np.where(inside, values * 10 + digits, values)
        return values, good


@cache
def _one_of(characters: bytes) -> Mask:
    """byte -> whether it is one of these."""
    table = np.zeros(256, bool)
    table[list(characters)] = True
    return table


def split(chunk: bytes) -> Lines:
    """The lines of a chunk of whole lines (its last byte is a line feed)."""
    data = chunk + _PADDING
    array = np.frombuffer(data, np.uint8, len(chunk))
    control = np.flatnonzero(array < _SPACE)
    breaks, special = control, np.zeros(0, np.int64)
    is_break = array[control] == _LINE_FEED
    if not is_break.all():
        breaks, special = control[is_break], control[~is_break]
    starts = np.zeros_like(breaks)
    starts[1:] = breaks[:-1] + 1
    ends = breaks
    if len(special):
        ends = breaks - ((array[breaks - 1] == _RETURN) & (breaks > starts))
        special = special[~np.isin(special, ends, assume_unique=True, kind="sort")]
    if b"\\" in chunk:
        special = np.sort(np.concatenate([special, np.flatnonzero(array == _BACKSLASH)]))
    return Lines(data, starts, ends, special)


def _words(data: bytes, width: int) -> np.ndarray[Any, Any]:
    """Every `width` bytes of `data`, from every offset, without copying."""
    return np.ndarray(shape=(len(data) - width + 1,), dtype=f"V{width}", buffer=data, strides=(1,))


def _views(data: bytes, starts: Offsets, ends: Offsets) -> np.ndarray[Any, Any]:
    """Arrow's string views: n x 16 bytes. Length, then 12 bytes of text, or of a longer text its first
    4 bytes, a buffer number and an offset.
    (https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-view-layout).
    """
    lengths = ends - starts
    views = np.empty((len(starts), 4), np.uint32)
    views[:, 0] = lengths
    words = _words(data, _INLINE_BYTES)[starts].view(np.uint32).reshape(-1, 3)
    np.bitwise_and(words, _INLINE_MASKS[np.minimum(lengths, _INLINE_BYTES + 1)], out=views[:, 1:])
    np.copyto(views[:, 3], starts, where=lengths > _INLINE_BYTES, casting="unsafe")
    return views
