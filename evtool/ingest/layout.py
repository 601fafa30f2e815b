"""The fast way: lines of one layout, all at once.

Producers write every event with the same keys in the same order and spacing. A `Layout` is the text
between the values of such a line. If, in another line, the same texts stand between values each of which
is valid JSON by itself, then the grammar allows only one reading of that line: it is an object of exactly
these members. So a line that fits is proved, and one that does not is left to the slow way; nothing is
guessed. String values must be free of escapes to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from evtool.event import EVENT_SCHEMA
from evtool.ingest.lines import Lines, Mask, Offsets
from evtool.ingest.members import members

Kind = Literal["string", "number", "other"]

_TEXT_FIELDS = ("event_id", "source_id", "stream_id", "event_type")
_MEMBERS_MAX = 64


@dataclass(frozen=True)
class Value:
    """A value of a layout: the key it belongs to, its kind, and the text before it.

    The text reaches from the end of the value before, with the closing quote of a string, to the start
    of this one, with the opening quote if it is a string.
    """

    key: str
    kind: Kind
    before: bytes


@dataclass(frozen=True)
class Layout:
    """The values of a line, in order, and the text behind the last one."""

    values: tuple[Value, ...]
    behind: bytes


@dataclass(frozen=True)
class Fit:
    """Which of some rows fit a layout, and where their values are: key -> (starts, ends), for all rows."""

    fits: Mask
    spans: dict[str, tuple[Offsets, Offsets]]


def learn(line: bytes) -> Layout | None:
    """The layout of a valid line; None if it is one that cannot be a pattern for others."""
    text = line.decode()
    found = members(text)
    keys = [member.key for member in found]
    if not found or len(found) > _MEMBERS_MAX or len(set(keys)) < len(keys):
        return None
    values = []
    at = 0  # where the text before the next value starts
    for member in found:
        raw = text[member.start : member.end]
        if "\\" in text[member.key_start : member.start]:
            return None
        kind: Kind = "other"
        if raw[0] == '"':
            kind = "string"
        elif raw[0] in "-0123456789":
            kind = "number"
        if not _may_be(member.key, kind, raw):
            return None
        if raw == "null":
            continue  # a part of the text between values
        is_string = kind == "string"
        values.append(Value(member.key, kind, text[at : member.start + is_string].encode()))
        at = member.end - is_string
    return Layout(tuple(values), text[at:].encode())


def fit(layout: Layout, lines: Lines, rows: Offsets, texts: pl.Series) -> Fit:
    """Try a layout on some rows; `texts` are their lines."""
    cursor, ends = lines.starts[rows], lines.ends[rows]
    quotes = lines.quotes
    next_quote = lines.first_quotes[rows]
    fits = np.ones(len(rows), bool)
    spans = {}
    needs_quote = _needs_quote(layout)
    following = [value.before for value in layout.values[1:]] + [layout.behind]
    for number, (value, after) in enumerate(zip(layout.values, following, strict=True)):
        is_last = number == len(layout.values) - 1
        fits &= lines.begin_with(cursor, value.before)
        start = cursor + len(value.before)
        next_quote = next_quote + value.before.count(b'"')
        if value.kind == "string":
            end = quotes[np.minimum(next_quote, len(quotes) - 1)]
        elif is_last:
            end = ends - len(after)
        elif value.kind == "number":
            end = quotes[np.minimum(next_quote, len(quotes) - 1)] - after.index(b'"')
        else:
            # Where the text after it first stands; if that is inside of the value, it proves invalid.
            at = texts.str.find(after.decode(), literal=True)
            end = lines.starts[rows] + at.fill_null(0).cast(pl.Int64).to_numpy()
            fits &= at.is_not_null().to_numpy()
            if needs_quote[number + 1]:
                next_quote = np.searchsorted(quotes, end)
        fits &= (start <= end) & (end <= ends)
        if value.kind != "string":
            fits &= start < end
        # A row that does not fit is carried along, without a step out of its line.
        end = np.clip(end, start, ends.clip(min=start))
        spans[value.key] = (start, end)
        cursor = np.minimum(end, ends)
    fits &= lines.begin_with(cursor, layout.behind) & (cursor + len(layout.behind) == ends)
    _refuse_escapes(layout, lines, rows, fits, spans)
    return Fit(fits, spans)


def _needs_quote(layout: Layout) -> list[bool]:
    """For each value whether it, or one after it up to the next of kind "other", is found by its quotes."""
    needs = [False]
    for value in reversed(layout.values):
        needs.insert(0, value.kind != "other" and (value.kind == "string" or len(needs) > 1 or needs[0]))
    return needs


def _refuse_escapes(
    layout: Layout, lines: Lines, rows: Offsets, fits: Mask, spans: dict[str, tuple[Offsets, Offsets]]
) -> None:
    """Clear `fits` where a string value holds a backslash or a control character."""
    special = lines.special
    if not len(special):
        return
    first, last = np.searchsorted(special, lines.starts[rows]), np.searchsorted(special, lines.ends[rows])
    suspects = np.flatnonzero((first != last) & fits)
    for value in layout.values:
        if value.kind == "string" and len(suspects):
            start, end = (side[suspects] for side in spans[value.key])
            fits[suspects[np.searchsorted(special, start) != np.searchsorted(special, end)]] = False


def _may_be(key: str, kind: Kind, raw: str) -> bool:
    """Whether the fast way knows what to do with such a value of such a field."""
    if key in _TEXT_FIELDS:
        return kind == "string"
    if raw == "null" or key not in EVENT_SCHEMA:
        return True
    if key == "timestamp":
        return kind in ("string", "number")
    return raw[0] == "{" if key in ("payload", "metadata") else kind == "number"
