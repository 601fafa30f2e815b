"""Times from text and numbers and back, as `timestamps` has them, by the column."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa

from evtool.event import INT64_MAX
from evtool.timestamps import EPOCH, SECOND_NS, UNIT_LIMITS, TimestampError, offset_seconds, parse_text

Nanoseconds: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

_TEXT = np.dtype(
    {  # field -> width and offset
        "names": ["year", "month", "day", "hour", "minute", "second", "ms", "us", "ns"],
        "formats": ["V4", "V2", "V2", "V2", "V2", "V2", "V3", "V3", "V3"],
        "offsets": [0, 5, 8, 11, 14, 17, 20, 23, 26],
        "itemsize": len("2026-01-01T00:00:00.000000000Z"),
    }
)
# width -> number -> its decimal digits
_DIGITS = {
    width: np.frombuffer(b"".join(b"%0*d" % (width, i) for i in range(10**width)), f"V{width}")
    for width in (2, 3, 4)
}
_TEXT_BYTES_MIN = len("2026-01-01T00:00:00Z")
_HOUR_NS = 3600 * SECOND_NS


def parse_texts(texts: pa.Array, zone: ZoneInfo | None = None) -> tuple[Nanoseconds, Mask]:
    """Nanoseconds of a column of strings without nulls, and which rows are good (bad ones hold 0).

    Texts without an offset are local times in `zone`.
    """
    if not len(texts):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    if _all_have_full_form(texts):
        try:
            moments = texts.cast(pa.timestamp("ns", "UTC"))
            return moments.cast(pa.int64()).to_numpy(), np.ones(len(texts), bool)
        except pa.ArrowInvalid:
            pass  # some row is bad, or good but for Arrow's narrower grammar: row by row
    elif zone is not None and _are_local(texts):
        try:
            return _from_local(texts.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy(), zone)
        except pa.ArrowInvalid:
            pass
    nanoseconds = np.zeros(len(texts), np.int64)
    good = np.ones(len(texts), bool)
    for row, text in enumerate(texts.to_pylist()):
        try:
            nanoseconds[row] = parse_text(text, zone)
        except TimestampError:
            good[row] = False
    return nanoseconds, good


def parse_numbers(numbers: Nanoseconds) -> tuple[Nanoseconds, Mask]:
    """Nanoseconds of a column of whole numbers of s, ms, us or ns since 1970, and which rows are in range."""
    # The smallest int64 has no absolute value; as ns it stands as it is.
    size = np.abs(np.maximum(numbers, -INT64_MAX))
    factors = np.select([size < limit for limit, _ in UNIT_LIMITS], [factor for _, factor in UNIT_LIMITS], 1)
    good = size <= INT64_MAX // factors
    return np.where(good, numbers, 0) * factors, good


def to_texts(nanoseconds: Nanoseconds) -> pl.Series:
    """RFC 3339 in UTC, with nine decimals, of a column."""
    count = len(nanoseconds)
    seconds, fraction = np.divmod(nanoseconds, SECOND_NS)
    days, of_day = np.divmod(seconds, 86_400)
    minutes, second = np.divmod(of_day.astype(np.int32), np.int32(60))
    hour, minute = np.divmod(minutes, np.int32(60))
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    years = months.astype("datetime64[Y]")
    millionths, billionth = np.divmod(fraction.astype(np.int32), np.int32(1000))
    thousandth, millionth = np.divmod(millionths, np.int32(1000))
    characters = np.empty((count, _TEXT.itemsize), np.uint8)
    characters[:] = np.frombuffer(b"0000-00-00T00:00:00.000000000Z", np.uint8)
    out = characters.view(_TEXT)[:, 0]
    out["year"] = _DIGITS[4][years.astype(np.int64) + 1970]
    out["month"] = _DIGITS[2][(months - years).astype(np.int64) + 1]
    out["day"] = _DIGITS[2][(dates - months).astype(np.int64) + 1]
    for name, values in (("hour", hour), ("minute", minute), ("second", second)):
        out[name] = _DIGITS[2][values]
    for name, values in (("ms", thousandth), ("us", millionth), ("ns", billionth)):
        out[name] = _DIGITS[3][values]
    offsets = np.arange(0, (count + 1) * _TEXT.itemsize, _TEXT.itemsize, dtype=np.int64)
    texts = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(characters))
    return pl.Series("text", pl.from_arrow(texts))


def _all_have_full_form(texts: pa.Array) -> bool:
    """Whether all rows have seconds and an offset in full, which Arrow's parser does not ask for."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if int((offsets[1:] - offsets[:-1]).min()) < _TEXT_BYTES_MIN:
        return False
    data = np.frombuffer(texts.buffers()[2], np.uint8)
    ends = offsets[1:]
    offset_in_full = (data[ends - 1] == ord("Z")) | (data[ends - 3] == ord(":"))
    return bool(offset_in_full.all() and (data[offsets[:-1] + 16] == ord(":")).all())


def _are_local(texts: pa.Array) -> bool:
    """Whether all rows have seconds in full and end in a digit, so without an offset."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = offsets[1:] - offsets[:-1]
    if int(lengths.min()) < _TEXT_BYTES_MIN - 1:
        return False
    data = np.frombuffer(texts.buffers()[2], np.uint8)
    # Behind the date a sign could only be that of an offset.
    ends_in_digit = (data[offsets[1:] - 1] >= ord("0")) & (data[offsets[1:] - 1] <= ord("9"))
    behind = data[np.minimum(offsets[:-1] + _TEXT_BYTES_MIN - 1, len(data) - 1)]
    is_plain = ends_in_digit & ((lengths == _TEXT_BYTES_MIN - 1) | (behind == ord(".")))
    return bool(is_plain.all() and (data[offsets[:-1] + 16] == ord(":")).all())


def _from_local(local: Nanoseconds, zone: ZoneInfo) -> tuple[Nanoseconds, Mask]:
    """UTC of local times, both in ns, and which rows are good.

    The offset is asked for once for each hour that occurs; in an hour in which it changes, row by row.
    """
    hours, hour_of_row = np.unique(local // _HOUR_NS, return_inverse=True)
    first = np.array([_offset_at(hour * 3600, zone) for hour in hours.tolist()], np.int64)
    last = np.array([_offset_at(hour * 3600 + 3599, zone) for hour in hours.tolist()], np.int64)
    seconds = first[hour_of_row]
    for row in np.flatnonzero((first != last)[hour_of_row]).tolist():
        seconds[row] = _offset_at(int(local[row]) // SECOND_NS, zone)
    shift = seconds * SECOND_NS
    moments = local - shift
    # At the ends of the range the difference may have run over.
    good = (moments < local) == (shift > 0)
    return np.where(good, moments, 0), good


def _offset_at(local_seconds: int, zone: ZoneInfo) -> int:
    return offset_seconds(EPOCH + timedelta(seconds=local_seconds), zone)
