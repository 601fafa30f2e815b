"""Canonical UUID texts (8-4-4-4-12 lower-case hexadecimal digits) to 16 bytes and back, by the column.

Only texts that come back exactly are packed: upper case, braces or a missing hyphen stay as they are.
"""

from __future__ import annotations

import functools
import re
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

TEXT_BYTES = 36
_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HYPHENS = (8, 13, 18, 23)
_NOT_HEX = 255
_HIGH_NIBBLES = np.uint64(0xF0F0F0F0F0F0F0F0)
_VALUE_OF = np.full(256, _NOT_HEX, np.uint8)
_VALUE_OF[list(b"0123456789abcdef")] = np.arange(16, dtype=np.uint8)
_TEXT = np.dtype("<u8, u1, <u4, u1, <u4, u1, <u4, u1, <u8, <u4")  # digits in fours or eights, and hyphens
_TEXT_ROWS = 1 << 14  # what is worked on at once stays in the processor's cache


def pack(texts: pa.Array) -> tuple[Bytes, Mask]:
    """The 16 bytes of each text that is a canonical UUID (n x 16), and which ones are (n).

    `texts` is a column of strings without nulls.
    """
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    candidates = np.diff(offsets) == TEXT_BYTES
    data = texts.buffers()[2]
    if data is None or not candidates.any():
        return np.zeros((len(texts), 16), np.uint8), np.zeros(len(texts), bool)
    characters = np.frombuffer(data, np.uint8)
    if candidates.all():
        return _pack(characters[offsets[0] : offsets[-1]].reshape(-1, TEXT_BYTES))
    chosen = np.flatnonzero(candidates)
    packed = np.zeros((len(texts), 16), np.uint8)
    packed[chosen], candidates[chosen] = _pack(characters[offsets[chosen, None] + np.arange(TEXT_BYTES)])
    return packed, candidates


def pack_one(text: str) -> bytes | None:
    """The 16 bytes of one text if it is a canonical UUID, without columns."""
    return bytes.fromhex(text.replace("-", "")) if _CANONICAL.fullmatch(text) else None


def columns(texts: pa.Array) -> dict[str, pa.Array]:
    """`texts` as the two columns of ids, event_uuid and event_id: each id is in one of them, null in the other."""
    binary, is_uuid = pack(texts)
    if is_uuid.all():
        return {"event_uuid": to_arrow(binary, None), "event_id": pa.nulls(len(texts), pa.string())}
    if not is_uuid.any():
        return {"event_uuid": pa.nulls(len(texts), pa.binary(16)), "event_id": texts}
    others = pc.if_else(pa.array(is_uuid), pa.scalar(None, pa.string()), texts)
    return {"event_uuid": to_arrow(binary, ~is_uuid), "event_id": others}


def to_arrow(binary: Bytes, missing: Mask | None) -> pa.Array:
    """n x 16 bytes as an Arrow column of 16-byte values, null where `missing`."""
    data = pa.py_buffer(np.ascontiguousarray(binary))
    validity = None
    if missing is not None:
        validity = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(binary), [validity, data])


def _pack(characters: Bytes) -> tuple[Bytes, Mask]:
    """The 16 bytes of texts of 36 characters (n x 36), and which of them are canonical."""
    digits = np.empty((len(characters), 32), np.uint8)
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
    return ((pairs << 4) | (pairs >> 8)).astype(np.uint8), good


@functools.cache
def _digits() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The four digits of each two bytes, both as they lie in memory."""
    digits = np.array([list(b"%02x" % value) for value in range(256)], np.uint8)
    pairs = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    return digits[pairs].reshape(-1, 4).view("<u4")[:, 0]


def _write_texts(binary: Bytes, texts: np.ndarray[Any, Any]) -> None:
    """Write the texts of some values into records of _TEXT."""
    fours = _digits()[np.ascontiguousarray(binary).view("<u2")]
    eights = fours.view("<u8")
    for field in ("f1", "f3", "f5", "f7"):
        texts[field] = ord("-")
    texts["f0"], texts["f8"] = eights[:, 0], fours[:, 5:7].copy().view("<u8")[:, 0]
    for number, field in ((2, "f2"), (3, "f4"), (4, "f6"), (7, "f9")):
        texts[field] = fours[:, number]


def unpack(column: pa.Array) -> pl.Series:
    """The texts of an Arrow column of 16-byte values; null where it is null."""
    count = len(column)
    binary = np.frombuffer(column.buffers()[1], np.uint8, count * 16, column.offset * 16).reshape(count, 16)
    characters = np.empty(count, _TEXT)
    for start in range(0, count, _TEXT_ROWS):
        part = slice(start, start + _TEXT_ROWS)
        _write_texts(binary[part], characters[part])
    offsets = np.arange(0, (count + 1) * TEXT_BYTES, TEXT_BYTES, dtype=np.int64)
    texts = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(characters))
    series = pl.Series("event_id", pl.from_arrow(texts))
    if column.null_count:
        valid = pl.Series(column.is_valid().to_numpy(zero_copy_only=False))
        series = series.to_frame().select(pl.when(pl.lit(valid)).then(pl.col("event_id"))).to_series()
    return series
