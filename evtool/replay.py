"""Replay: any part of a log as NDJSON, from and to a time, an event id or a position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from evtool import ndjson, timestamps
from evtool.errors import ConfigError
from evtool.event import INT64_MAX, INT64_MIN
from evtool.log import scan as scanning
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.quantities import SPAN_UNITS_SECONDS
from evtool.schemas.upcast import upcast
from evtool.timestamps import SECOND_NS, TimestampError

_AGO = re.compile(r"-([0-9]+(?:\.[0-9]+)?)(s|m|h|d|w)")
_AGO_SECONDS_MAX = 1e10  # longer ago than any time that an event can have
_POSITION = re.compile(r"@[0-9]{1,19}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_LOOKS_LIKE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d.*")


@dataclass(frozen=True)
class Bound:
    """Where a replay begins or ends: a position or a time (ns UTC); one of the two is set."""

    position: int | None = None
    time: int | None = None


def parse_bound(text: str, log: Log, now_ns: int) -> Bound:
    """A bound from `@123`, a date, an RFC 3339 time, `-24h` (s, m, h, d, w before now) or an event id.

    What looks like a time is one; `id:TEXT` is an event id whatever it looks like.
    Raises ConfigError (it cannot be understood) or PositionError (no such event).
    """
    if not text:
        raise ConfigError("a bound is empty", "Leave it away to begin or end with the log.")
    if text.startswith("@"):
        if not _POSITION.fullmatch(text) or int(text[1:]) > INT64_MAX:
            raise ConfigError(f"{text!r} is no position", "Write @ and a number, as in @123.")
        return Bound(position=int(text[1:]))
    if text.startswith("id:"):
        return Bound(position=log.find(text[3:]))
    moment = parse_moment(text, now_ns)
    return Bound(position=log.find(text)) if moment is None else Bound(time=moment)


def parse_moment(text: str, now_ns: int) -> int | None:
    """ns UTC from a date, an RFC 3339 time or `-24h`; None for what does not look like any. Raises ConfigError."""
    ago = _AGO.fullmatch(text)
    if ago:
        seconds = min(float(ago[1]) * SPAN_UNITS_SECONDS[ago[2]], _AGO_SECONDS_MAX)
        return max(now_ns - round(seconds * SECOND_NS), INT64_MIN)
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    if not _LOOKS_LIKE_TIME.fullmatch(text):
        return None
    try:
        return timestamps.parse_text(text)
    except TimestampError as error:
        hint = "Write 2026-01-31, 2026-01-31T12:00:00Z or -24h; id:TEXT for an event id of that look."
        raise ConfigError(str(error), hint) from error


def select(
    log: Log,
    start: str | None = None,
    end: str | None = None,
    clock: str = "event",
    streams: Iterable[str] | None = None,
    types: Iterable[str] | None = None,
    sources: Iterable[str] | None = None,
    partition: int | None = None,
) -> Selection:
    """A selection from what the command line says; empty lists mean all. Raises as `parse_bound` does."""
    for name in (*(streams or ()), *(types or ()), *(sources or ())):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{name!r} is no text in UTF-8, so no event has it") from error
    now_ns = int(datetime.now(UTC).timestamp() * SECOND_NS)
    first = parse_bound(start, log, now_ns) if start is not None else Bound()
    last = parse_bound(end, log, now_ns) if end is not None else Bound()
    if partition is not None and not 0 <= partition < log.partitions:
        raise ConfigError(
            f"there is no partition {partition}", f"This log has the partitions 0 to {log.partitions - 1}."
        )
    return Selection.of(
        start=first.position,
        end=last.position,
        since=first.time,
        until=last.time,
        clock="recorded" if clock == "recorded" else "event",
        streams=list(streams or []) or None,
        types=list(types or []) or None,
        sources=list(sources or []) or None,
        partitions=None if partition is None else [partition],
    )


def blocks(log: Log, selection: Selection, limit: int | None = None, as_latest: bool = False) -> Iterator[bytes]:
    """The selected events as blocks of NDJSON lines, at most `limit` events.

    With `as_latest` each is given as of the latest version of its type; where a step of an upcaster fails, as it
    is stored, with a last key `upcast_error`. Raises LogDamagedError (of the schemas, too).
    """
    chosen = log.scan(selection) if limit is None else _first(log, _shortened(selection, limit), limit)
    schemas = log.schemas.current() if as_latest else None
    return ndjson.blocks((upcast(events, schemas) for events in chosen) if schemas else chosen)


def _shortened(selection: Selection, limit: int) -> Selection:
    """A selection by positions alone, up to the last of `limit` events: what is behind need not be read."""
    if selection != Selection(start=selection.start, end=selection.end):
        return selection
    last = max(selection.start or 1, 1) + limit
    return replace(selection, end=last if selection.end is None else min(selection.end, last))


def _first(log: Log, selection: Selection, limit: int) -> Iterator[pl.DataFrame]:
    """The first events of a selection; what is behind them is not read, nor fetched, as far as that can be."""
    if limit <= 0:
        return
    for events in scanning.scan(log.snapshot(), selection, log.partitions, slow_start=True):
        yield events.head(limit)
        limit -= len(events)
        if limit <= 0:
            return
