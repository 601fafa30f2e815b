"""The fast way: lines of one layout, all at once.

Producers write every event with the same keys in the same order and spacing. A `Layout` is the text
between the values of such a line. If, in another line, the same texts stand between values each of which
is valid JSON by itself, then the grammar allows only one reading of that line: it is an object of exactly
these members. So a line that fits is proved, and one that does not is left to the slow way; nothing is
guessed. String values must be free of escapes to fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from evtool.event import EVENT_SCHEMA, POSITION_SCHEMA
from evtool.ingest.lines import Lines, Mask, Offsets
from evtool.ingest.members import members

Kind = Literal["string", "number", "other"]

_TEXT_FIELDS = ("event_id", "source_id", "stream_id", "event_type")
_MEMBERS_MAX = 64
_LITERAL_BYTES_MAX = 1000  # less than the padding behind the lines


@dataclass(frozen=True)
class Value:
    """A value of a layout: the key it belongs to, its kind, and the text before it.

    The text reaches from the end of the value before, with the closing quote of a string, to the start
    of this one, with the opening quote if it is a string. `size_hint` is how many bytes the value had in the
    line that the layout was learned from; it only saves time.
    """

    key: str
    kind: Kind
    before: bytes
    size_hint: int = field(compare=False)


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
        if raw == "null" and (member.key in EVENT_SCHEMA or member.key in POSITION_SCHEMA):
            continue  # as if it were absent: a part of the text between values
        is_string = kind == "string"
        values.append(Value(member.key, kind, text[at : member.start + is_string].encode(), len(raw)))
        at = member.end - is_string
    pattern = Layout(tuple(values), text[at:].encode())
    is_short = all(len(literal) <= _LITERAL_BYTES_MAX for literal in (*[v.before for v in values], pattern.behind))
    return pattern if values and is_short else None


def fit(layout: Layout, lines: Lines, rows: Offsets) -> Fit:
    """Try a layout on some rows."""
    cursor, line_ends = lines.starts[rows], lines.ends[rows]
    fits = np.ones(len(rows), bool)
    spans = {}
    following = [value.before for value in layout.values[1:]] + [layout.behind]
    for number, (value, after) in enumerate(zip(layout.values, following, strict=True)):
        fits &= lines.begin_with(cursor, value.before)
        # Never behind the line: there the text before the value cannot have matched.
        start = np.minimum(cursor + len(value.before), line_ends)
        if value.kind == "string":
            end = lines.next_quotes(start, value.size_hint)
        elif number == len(layout.values) - 1:
            end = line_ends - len(after)
        elif value.kind == "number":
            end = lines.next_quotes(start, value.size_hint + len(after)) - after.index(b'"')
        else:
            # Where the text after it first stands; if that is inside of the value, it proves invalid.
            # A row that does not fit may be amid a character here, so it is looked at from its beginning.
            end = lines.find(np.where(fits, start, lines.starts[rows]), line_ends, after)
        fits &= (start <= end) & (end <= line_ends)
        if value.kind != "string":
            fits &= start < end
        # A row that does not fit is carried along, without a step out of its line.
        end = np.clip(end, start, line_ends)
        spans[value.key] = (start, end)
        cursor = end
    fits &= lines.begin_with(cursor, layout.behind) & (cursor + len(layout.behind) == line_ends)
    _refuse_escapes(layout, lines, rows, fits, spans)
    return Fit(fits, spans)


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
