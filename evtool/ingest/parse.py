"""A chunk of lines becomes columns of good events and a list of rejects.

Most lines fit one of the few layouts that their producer writes and are read together; the rest are
read one by one, which also finds out what is wrong with them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from evtool import envelope, jsontext
from evtool.envelope import RejectedError
from evtool.errors import ConfigError
from evtool.event import EVENT_SCHEMA, LINE_BYTES_MAX, NESTING_MAX
from evtool.ingest import layout, members
from evtool.ingest.columns import Columns
from evtool.ingest.layout import Layout
from evtool.ingest.lines import Lines, Offsets, split

# A round of the fast way has a fixed cost; so many lines read one by one cost as much.
ROWS_TOGETHER_MIN = 64
LAYOUTS_MAX = 16
_SPACE = b" \t\r\n"  # JSON's; Python takes more for it

PARSED_SCHEMA = EVENT_SCHEMA | {"row": pl.Int64()}


@dataclass(frozen=True)
class Reject:
    """A line that is no event: its row in the chunk, why, its first LINE_BYTES_MAX bytes, and how many it had."""

    row: int
    reason: str
    message: str
    raw: bytes
    size_bytes: int


@dataclass(frozen=True)
class Parsed:
    """The events of a chunk, as PARSED_SCHEMA in the order of their rows, and its rejects, likewise."""

    events: pl.DataFrame
    rejects: tuple[Reject, ...]
    lines: Lines


@dataclass
class Parser:
    """Parses chunks, in any thread. It remembers the layouts that it has met.

    Raises ConfigError when `default_source` is no good source_id.
    """

    default_source: str | None = None
    fold_unknown: bool = True
    _layouts: list[Layout] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.default_source is not None:
            try:
                envelope.text("source_id", self.default_source)
            except RejectedError as error:
                raise ConfigError(f"--source: {error}") from error

    def parse(self, chunk: bytes) -> Parsed:
        """The events and rejects of whole lines. Blank lines are passed over."""
        lines = split(chunk)
        rows = np.flatnonzero(lines.ends - lines.starts <= LINE_BYTES_MAX)
        slow = np.flatnonzero(lines.ends - lines.starts > LINE_BYTES_MAX)
        if not lines.is_utf8():
            rows, broken = _by_encoding(lines, rows)
            slow = np.union1d(slow, broken)
        frames, rest = self._together(lines, rows)
        slow = np.union1d(slow, rest)
        rejects: tuple[Reject, ...] = ()
        if len(slow):
            frame, rejects = self._one_by_one(lines, slow)
            frames.append(frame)
        events = pl.concat(frames) if frames else pl.DataFrame(schema=PARSED_SCHEMA)
        return Parsed(events.sort("row") if len(frames) > 1 else events, rejects, lines)

    def parse_oversized(self, beginning: bytes) -> Parsed:
        """The reject of one line that was too long to be read whole."""
        reject = Reject(
            0,
            "line_too_long",
            f"a line must not be longer than {LINE_BYTES_MAX:,} bytes",
            beginning,
            len(beginning),
        )
        return Parsed(pl.DataFrame(schema=PARSED_SCHEMA), (reject,), split(b"\n"))

    def _together(self, lines: Lines, rows: Offsets) -> tuple[list[pl.DataFrame], Offsets]:
        """Frames of the rows that fit a layout, and the rows that are left."""
        frames: list[pl.DataFrame] = []
        with self._mutex:
            layouts = list(self._layouts)
        left = [np.zeros(0, np.int64)]  # rows that fit, and are not sure to be good
        for known in layouts:
            if not len(rows):
                break
            rows = self._try(known, lines, rows, frames, left)
        learned = 0
        while len(rows) >= ROWS_TOGETHER_MIN and learned < LAYOUTS_MAX:
            example, pattern = rows[:1], _learn(lines.raw(int(rows[0])))
            if pattern is None or pattern in layouts:
                left.append(example)
                rows = rows[1:]
                learned += 1
                continue
            before = len(rows)
            rows = self._try(pattern, lines, rows, frames, left)
            learned += 1
            if before - len(rows) >= ROWS_TOGETHER_MIN:
                self._remember(pattern)
        return frames, np.concatenate([*left, rows])

    def _try(
        self, pattern: Layout, lines: Lines, rows: Offsets, frames: list[pl.DataFrame], left: list[Offsets]
    ) -> Offsets:
        """Take the rows that fit `pattern` out of `rows`: the good ones to `frames`, the others to `left`."""
        found = layout.fit(pattern, lines, rows)
        if not found.fits.any():
            return rows
        fitting = rows[found.fits]
        columns = Columns(pattern, lines, found, self.default_source, self.fold_unknown)
        frame = columns.frame(fitting)
        frames.append(frame)
        if len(frame) < len(fitting):
            left.append(np.setdiff1d(fitting, frame["row"].to_numpy(), assume_unique=True))
        return rows[~found.fits]

    def _remember(self, pattern: Layout) -> None:
        with self._mutex:
            if pattern not in self._layouts and len(self._layouts) < LAYOUTS_MAX:
                self._layouts.append(pattern)

    def _one_by_one(self, lines: Lines, rows: Offsets) -> tuple[pl.DataFrame, tuple[Reject, ...]]:
        good, good_rows, rejects = [], [], []
        for row in rows.tolist():
            raw = lines.raw(row)
            if not raw.strip(_SPACE):
                continue
            try:
                good.append(members.row(raw, self.default_source, self.fold_unknown))
                good_rows.append(row)
            except RejectedError as error:
                rejects.append(Reject(row, error.reason, str(error), raw[:LINE_BYTES_MAX], len(raw)))
        frame = envelope.to_frame(good).with_columns(pl.Series("row", good_rows, pl.Int64))
        return frame, tuple(rejects)


def _learn(line: bytes) -> Layout | None:
    try:
        jsontext.check_object(line, NESTING_MAX)
    except jsontext.JsonError:
        return None
    return layout.learn(line)


def _by_encoding(lines: Lines, rows: Offsets) -> tuple[Offsets, Offsets]:
    """The rows that are UTF-8, and those that are not."""
    good = np.ones(len(rows), bool)
    for number, row in enumerate(rows.tolist()):
        try:
            lines.raw(row).decode()
        except UnicodeDecodeError:
            good[number] = False
    return rows[good], rows[~good]
