"""A chunk of lines becomes columns of good events and a list of rejects.

Most lines fit one of the few layouts that their producer writes and are read together; the rest are
read one by one, which also finds out what is wrong with them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from evtool import envelope, jsontext
from evtool.config import IngestConfig
from evtool.envelope import RejectedError
from evtool.errors import ConfigError
from evtool.event import LINE_BYTES_MAX, NESTING_MAX
from evtool.ingest import layout, members
from evtool.ingest.columns import PARSED_SCHEMA, Columns
from evtool.ingest.layout import Layout
from evtool.ingest.lines import Lines, Offsets, split

# A round of the fast way has a fixed cost; so many lines read one by one cost as much.
ROWS_TOGETHER_MIN = 64
LAYOUTS_MAX = 16
SAMPLES = 16  # so many lines, spread over those that are left, are looked at for new layouts
_SPACE = b" \t\r\n"  # JSON's; Python takes more for it


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
    """The events and the rejects of a chunk.

    `events` has PARSED_SCHEMA and groups the lines by the way they were read; `order` takes its rows in the
    order of the lines. `rejects` are in the order of the lines.
    """

    events: pa.Table
    order: Offsets
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

    @classmethod
    def of(cls, config: IngestConfig, default_source: str | None = None) -> Parser:
        """The parser that a configuration asks for; `default_source` goes before that of the configuration."""
        return cls(default_source or config.source, config.unknown_fields == "metadata")

    def __post_init__(self) -> None:
        if self.default_source is not None:
            try:
                envelope.text("source_id", self.default_source)
            except RejectedError as error:
                raise ConfigError(f"--source: {error}") from error

    def parse(self, chunk: bytes) -> Parsed:
        """The events and rejects of whole lines. Blank lines are passed over."""
        lines = split(chunk)
        lengths = lines.ends - lines.starts
        rows = np.flatnonzero((lengths > 0) & (lengths <= LINE_BYTES_MAX))
        slow = np.flatnonzero(lengths > LINE_BYTES_MAX)
        if not lines.is_utf8():
            rows, broken = _by_encoding(lines, rows)
            slow = np.concatenate([slow, broken])
        batches, rest = self._together(lines, rows)
        slow = np.sort(np.concatenate([slow, rest]))
        rejects: tuple[Reject, ...] = ()
        if len(slow):
            batch, rejects = self._one_by_one(lines, slow)
            batches.append(batch)
        return Parsed(*_gathered(batches, len(lines)), rejects, lines)

    def parse_oversized(self, beginning: bytes) -> Parsed:
        """The reject of one line that was too long to be read whole."""
        reject = Reject(
            0,
            "line_too_long",
            f"a line must not be longer than {LINE_BYTES_MAX:,} bytes",
            beginning,
            len(beginning),
        )
        return Parsed(*_gathered([], 0), (reject,), split(b"\n"))

    def _together(self, lines: Lines, rows: Offsets) -> tuple[list[pa.RecordBatch], Offsets]:
        """The events of the rows that fit a layout, and the rows that are left."""
        batches: list[pa.RecordBatch] = []
        left = np.ones(len(lines), bool)
        tried: set[Layout] = set()
        with self._mutex:
            patterns = set(self._layouts)
        while len(tried) < LAYOUTS_MAX:
            # The longest first: to one without the last key, what stands there looks like a part of the value
            # before, until that proves to be no JSON.
            for pattern in sorted(patterns, key=lambda pattern: len(pattern.values), reverse=True):
                if len(rows):
                    batch = self._try(pattern, lines, rows)
                    if batch is None:
                        continue
                    batches.append(batch)
                    left[batch["row"].to_numpy()] = False
                    rows = rows[left[rows]]
                    if len(batch) >= ROWS_TOGETHER_MIN:
                        self._remember(pattern)
            tried |= patterns
            if len(rows) < ROWS_TOGETHER_MIN:
                break
            samples = rows[np.linspace(0, len(rows) - 1, SAMPLES).astype(np.int64)]
            learned = {_learn(lines.raw(row)) for row in samples.tolist()}
            patterns = {pattern for pattern in learned if pattern is not None} - tried
            if not patterns:
                break
        return batches, rows

    def _try(self, pattern: Layout, lines: Lines, rows: Offsets) -> pa.RecordBatch | None:
        """The events of those rows that fit `pattern` and break no rule; None if there are none."""
        found = layout.fit(pattern, lines, rows)
        if not found.fits.any():
            return None
        columns = Columns(pattern, lines, found, self.default_source, self.fold_unknown)
        batch = columns.batch(rows[found.fits])
        return batch if len(batch) else None

    def _remember(self, pattern: Layout) -> None:
        with self._mutex:
            if pattern not in self._layouts and len(self._layouts) < LAYOUTS_MAX:
                self._layouts.append(pattern)

    def _one_by_one(self, lines: Lines, rows: Offsets) -> tuple[pa.RecordBatch, tuple[Reject, ...]]:
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
        return envelope.to_batch(good).append_column("row", pa.array(good_rows, pa.int64())), tuple(rejects)


def _gathered(batches: list[pa.RecordBatch], count: int) -> tuple[pa.Table, Offsets]:
    """Batches of rows below `count`, no row twice, as one table, and the order of its rows."""
    events = pa.Table.from_batches(batches, PARSED_SCHEMA)
    if len(batches) <= 1:
        return events, np.arange(len(events))
    number_of_row = np.full(count, -1)
    number_of_row[events["row"].to_numpy()] = np.arange(len(events))
    return events, number_of_row[number_of_row >= 0]


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
