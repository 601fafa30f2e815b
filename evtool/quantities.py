"""Sizes, durations and ages, as people write them."""

from __future__ import annotations

import re
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
_SIZE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": KIB, "mib": MIB, "gib": GIB, "": 1}
_DURATION_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
SPAN_UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE_SECONDS_MAX = 10**10  # longer ago than any time that an event can have


def parse_size(text: str | int) -> int:
    """Bytes from 268435456, "256MiB" or "64 kb". Raises ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", str(text).lower())
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is no size: write bytes or a number with kB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def parse_duration_ms(text: str | int) -> int:
    """Milliseconds from 500, "500ms", "2s" or "1.5m". Raises ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h)?\s*", str(text).lower())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write milliseconds or a number with ms, s, m or h")
    return int(float(match[1]) * _DURATION_UNITS_MS[match[2] or "ms"])


def parse_age_seconds(text: Any) -> int:
    """Seconds from "90d", "12h" or "1.5w". Raises ValueError, for a number without a unit too."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([smhdw])\s*", str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is no age: write a number with its unit, s, m, h, d or w, as in 90d")
    seconds = int(min(float(match[1]) * SPAN_UNITS_SECONDS[match[2]], _AGE_SECONDS_MAX))
    if seconds < 1:
        raise ValueError(f"{text!r} is too short for an age: everything would be older")
    return seconds


def age_text(seconds: int) -> str:
    """An age as it may have been written: 90d."""
    units = reversed(SPAN_UNITS_SECONDS.items())
    return next(f"{seconds // size}{unit}" for unit, size in units if seconds % size == 0)
