"""Replay: any part of a log as NDJSON, from and to a time, an event id or a position."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import polars as pl

from evtool import ndjson, timestamps
from evtool.errors import ConfigError
from evtool.event import INT64_MAX, INT64_MIN
from evtool.files import translated
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.schemas.upcast import upcast
from evtool.timestamps import SECOND_NS, TimestampError

_AGO = re.compile(r"-([0-9]+(?:\.[0-9]+)?)(s|m|h|d|w)")
_AGO_SECONDS_MAX = 1e10  # longer ago than any time that an event can have
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
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
        seconds = min(float(ago[1]) * _UNIT_SECONDS[ago[2]], _AGO_SECONDS_MAX)
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
    frames = log.scan(selection)
    chosen = frames if limit is None else _first(frames, limit)
    schemas = log.schemas.current() if as_latest else None
    return ndjson.blocks((upcast(events, schemas) for events in chosen) if schemas else chosen)


@contextlib.contextmanager
def output(path: str | None, log_folder: Path | None = None) -> Iterator[BinaryIO]:
    """Where to write: standard output (None or "-") or a file, compressed if it ends in .zst or .gz.

    A file appears under its name when it is whole; if it cannot be finished, nothing is left of it.
    Raises StorageError, or ConfigError for a file that cannot be, or lies in the folder of the log.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with translated("write", path):
        target = _behind_links(Path(path))
        if target.is_dir():
            raise ConfigError(f"{target} is a folder", "Name a file.")
        if not target.parent.is_dir():
            raise ConfigError(f"there is no folder {target.parent}", "Make it first.")
        if log_folder is not None and target.resolve().is_relative_to(log_folder.resolve()):
            raise ConfigError(f"{path} lies in the folder of the log", "Name a file in another folder.")
    beginning = os.fsdecode(os.fsencode(target.name)[:200])
    temporary = target.with_name(f".{beginning}.{os.getpid()}.tmp")
    try:
        with translated("write", target):
            if target.exists() and not target.is_file():  # a pipe or a device is written to as it is
                with target.open("wb") as file:
                    yield file
                return
            with temporary.open("wb") as file, _compressed(file, Path(path).suffix) as stream:
                yield stream
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    """What a path leads to, which need not be there. Raises ConfigError when it leads nowhere."""
    try:
        target = path.resolve() if path.is_symlink() else path
    except RuntimeError:  # of Python before 3.13
        target = path
    if target.is_symlink():
        raise ConfigError(f"the links of {path} lead in a circle", "Name a file.")
    return target


def _first(frames: Iterator[pl.DataFrame], limit: int) -> Iterator[pl.DataFrame]:
    for events in frames:
        if limit <= 0:
            return
        yield events.head(limit)
        limit -= len(events)


@contextlib.contextmanager
def _compressed(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=3, threads=-1).stream_writer(file, closefd=False) as stream:
            yield stream
    elif suffix == ".gz":
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as stream:
            yield stream  # type: ignore[misc]  # it has what a BinaryIO needs here: write
    else:
        yield file
