"""Canonical UUID texts (8-4-4-4-12 lower-case hexadecimal digits) to 16 bytes and back, by the column.

Only texts that come back exactly are packed: upper case, braces or a missing hyphen stay as they are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

TEXT_BYTES = 36
_HYPHENS = (8, 13, 18, 23)
_DIGITS = np.array([i for i in range(TEXT_BYTES) if i not in _HYPHENS])
_NOT_HEX = 255
_HIGH_NIBBLES = np.uint64(0xF0F0F0F0F0F0F0F0)
_VALUE_OF = np.full(256, _NOT_HEX, np.uint8)
_VALUE_OF[list(b"0123456789abcdef")] = np.arange(16, dtype=np.uint8)
_TEXT_OF = np.array([list(b"%02x" % value) for value in range(256)], np.uint8)  # byte -> two digits


def pack(texts: pl.Series) -> tuple[Bytes, Mask]:
    """The 16 bytes of each text that is a canonical UUID (n x 16), and which ones are (n)."""
    count = len(texts)
    candidates = (texts.str.len_bytes() == TEXT_BYTES).to_numpy()
    packed = np.zeros((count, 16), np.uint8)
    if not candidates.any():
        return packed, candidates
    all_candidates = bool(candidates.all())
    chosen = texts if all_candidates else texts.filter(pl.Series(candidates))
    values = chosen.to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset :]
    characters = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] :][: TEXT_BYTES * len(chosen)]
    characters = characters.reshape(-1, TEXT_BYTES)
    digits = np.empty((len(chosen), 32), np.uint8)
    for start, end in pairwise((-1, *_HYPHENS, TEXT_BYTES)):
        # A group of digits moves up by the hyphens before it.
        target = start + 1 - sum(hyphen <= start for hyphen in _HYPHENS)
        digits[:, target : target + end - start - 1] = characters[:, start + 1 : end]
    digits = _VALUE_OF[digits]
    eights = digits.view(np.uint64)
    good = (eights[:, 0] | eights[:, 1] | eights[:, 2] | eights[:, 3]) & _HIGH_NIBBLES == 0
    for column in _HYPHENS:
        good &= characters[:, column] == ord("-")
    pairs = digits.view("<u2")  # low byte: the digit that comes first
    binary = ((pairs << 4) | (pairs >> 8)).astype(np.uint8)
    if all_candidates:
        return binary, good
    packed[candidates] = binary
    candidates = candidates.copy()
    candidates[candidates] = good
    return packed, candidates


def to_arrow(binary: Bytes, missing: Mask | None) -> pa.Array:
    """n x 16 bytes as an Arrow column of 16-byte values, null where `missing`."""
    data = pa.py_buffer(np.ascontiguousarray(binary))
    validity = None
    if missing is not None:
        validity = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(binary), [validity, data])


def unpack(column: pa.Array) -> pl.Series:
    """The texts of an Arrow column of 16-byte values; null where it is null."""
    count = len(column)
    binary = np.frombuffer(column.buffers()[1], np.uint8, count * 16, column.offset * 16).reshape(count, 16)
    characters = np.full((count, TEXT_BYTES), ord("-"), np.uint8)
    characters[:, _DIGITS] = _TEXT_OF[binary].reshape(count, 32)
    offsets = np.arange(0, (count + 1) * TEXT_BYTES, TEXT_BYTES, dtype=np.int64)
    texts = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(characters))
    series = pl.Series("event_id", pl.from_arrow(texts))
    if column.null_count:
        valid = pl.Series(column.is_valid().to_numpy(zero_copy_only=False))
        series = series.to_frame().select(pl.when(pl.lit(valid)).then(pl.col("event_id"))).to_series()
    return series
