"""Times as evtool keeps them, int64 nanoseconds since 1970-01-01 UTC, from text and numbers and back.

Text is RFC 3339: a date, "T" (or "t", or a space), a time with up to nine decimals, and an offset
("Z" or +hh:mm), without which no moment is named, unless the caller says in which time zone it is meant.
Numbers count s, ms, us or ns since 1970; which one
is told by their size: up to 1e11 seconds (the year 5138), then each unit up to a thousand times more.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from evtool.event import INT64_MAX, INT64_MIN

SECOND_NS = 1_000_000_000
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPONENT_MAX = 19  # 2^63 has so many digits
_POWER_OF = {10**9: 9, 10**6: 6, 10**3: 3, 1: 0}
UNIT_LIMITS = ((10**11, SECOND_NS), (10**14, 10**6), (10**17, 10**3))  # of numbers, and ns a unit


class TimestampError(ValueError):
    """A time that cannot be taken; `reason` is the code of the dead letter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_text(text: str, zone: ZoneInfo | None = None) -> int:
    """Nanoseconds of one RFC 3339 text; one without an offset is local time in `zone`. Raises TimestampError.

    Where clocks are set, RFC 5545 (3.3.5) decides: of a local time that comes twice the first is meant, and one
    that is left out is counted with the offset from before.
    """
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise TimestampError("timestamp_invalid", f"{text[:60]!r} is no RFC 3339 time")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    fraction, offset = match[7] or "", match[8]
    if offset is None and zone is None:
        raise TimestampError(
            "timestamp_without_offset", f"{text!r} has no offset: end it with Z or with one such as +02:00"
        )
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise TimestampError("timestamp_invalid", f"{text!r}: {error}") from error
    seconds = (moment - EPOCH) // timedelta(seconds=1)
    if offset is None:
        seconds -= offset_seconds(moment, zone)
    elif offset not in "Zz":
        hours, minutes = int(offset[1:3]), int(offset[4:6])
        if hours > 23 or minutes > 59:
            raise TimestampError("timestamp_invalid", f"{text!r}: {offset} is no offset")
        seconds += (-1 if offset[0] == "+" else 1) * (hours * 3600 + minutes * 60)
    return _in_range(seconds * SECOND_NS + int(fraction.ljust(9, "0")), text)


def parse_number(number: int | float | Decimal) -> int:
    """Nanoseconds of a number of s, ms, us or ns since 1970. Raises TimestampError.

    A fraction must come out at whole nanoseconds; a float is taken as the decimal that it prints as.
    """
    if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX:
        raise TimestampError("timestamp_out_of_range", "the number lies outside of 1677-09-21 to 2262-04-11")
    exact = Decimal(str(number)) if isinstance(number, float) else Decimal(number)
    shown = str(number)[:40]
    if not exact.is_finite() or exact.adjusted() > _EXPONENT_MAX:
        raise TimestampError("timestamp_out_of_range", f"{shown} lies outside of 1677-09-21 to 2262-04-11")
    factor = next((factor for limit, factor in UNIT_LIMITS if -limit < exact < limit), 1)
    # Scaled as an integer: Decimal's own arithmetic would round.
    sign, digits, exponent = exact.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    shift = exponent + _POWER_OF[factor]
    kept = "".join(map(str, digits[:shift] if shift < 0 else digits)) if len(digits) > -shift else ""
    if shift < 0 and any(digits[shift:]):
        raise TimestampError("timestamp_invalid", f"{shown} is no whole number of nanoseconds")
    magnitude = int(kept.lstrip("0")[: 2 * _EXPONENT_MAX] or "0") * 10 ** min(max(shift, 0), 2 * _EXPONENT_MAX)
    return _in_range(-magnitude if sign else magnitude, shown)


def to_text(nanoseconds: int) -> str:
    """RFC 3339 in UTC, with nine decimals."""
    seconds, fraction = divmod(nanoseconds, SECOND_NS)
    return f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"


def offset_seconds(local: datetime, zone: ZoneInfo | None) -> int:
    """How far a zone is ahead of UTC at a local time (whose own tzinfo does not count)."""
    offset = local.replace(tzinfo=zone, fold=0).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _in_range(nanoseconds: int, shown: object) -> int:
    if not INT64_MIN <= nanoseconds <= INT64_MAX:
        raise TimestampError("timestamp_out_of_range", f"{shown} lies outside of 1677-09-21 to 2262-04-11")
    return nanoseconds
