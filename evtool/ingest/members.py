"""One line at a time: the members of a JSON object with the exact bytes of their values.

The slow way: it takes any line, says what is wrong with it, and shows the fast way what lines look like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and quick
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from evtool import envelope, jsontext
from evtool.envelope import RejectedError, Row
from evtool.event import EVENT_SCHEMA, LINE_BYTES_MAX, NESTING_MAX, POSITION_SCHEMA
from evtool.ingest import derived
from evtool.jsontext import JsonError

_SPACE = " \t\r\n"
# Only where a value ends is asked of it, so numbers of any size are left as they are.
_VALUES = json.JSONDecoder(parse_int=str, parse_float=str)
_OBJECTS = ("payload", "metadata")
_OTHERS: dict[str, Any] = {"t": True, "f": False, "n": None, "[": [], "{": {}}  # of which only the kind is asked
_DIGITS_MAX = 40
_EXPONENT_DIGITS_MAX = 6


@dataclass(frozen=True)
class Member:
    """A member of an object: its key as written and as meant, where its value starts and ends (characters)."""

    key: str
    key_start: int
    start: int
    end: int


def members(text: str) -> list[Member]:
    """The members of a JSON object that is known to be valid, in order."""
    found = []
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key_start = at
        key, at = scanstring(text, at + 1)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _VALUES.raw_decode(text, start)
        found.append(Member(key, key_start, start, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def row(
    line: bytes,
    default_source: str | None,
    fold_unknown: bool,
    derives_ids: bool = False,
    zone: ZoneInfo | None = None,
) -> Row:
    """The columns of EVENT_SCHEMA of one line. Raises RejectedError.

    With `derives_ids` the line's bytes give an id where there is none. A time without an offset is meant in
    `zone`.
    """
    if len(line) > LINE_BYTES_MAX:
        raise RejectedError("line_too_long", f"the line has {len(line):,} bytes; {LINE_BYTES_MAX:,} is the limit")
    try:
        jsontext.check_object(line, NESTING_MAX)
    except JsonError as error:
        raise RejectedError(error.reason, str(error)) from error
    text = line.decode()
    known: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for member in members(text):
        raw = text[member.start : member.end]
        if member.key in known or member.key in unknown:
            raise RejectedError("duplicate_key", f"the key {member.key!r} stands twice")
        if member.key in EVENT_SCHEMA:
            known[member.key] = _object(member.key, raw) if member.key in _OBJECTS else _scalar(raw)
        elif member.key not in POSITION_SCHEMA:
            unknown[member.key] = raw
        else:
            known[member.key] = None
    if unknown and not fold_unknown:
        raise RejectedError("unknown_field", f"{next(iter(unknown))!r} is no field of the envelope")
    if unknown:
        known["metadata"] = fold(known.get("metadata"), unknown)
    if derives_ids and known.get("event_id") is None:
        known["event_id"] = derived.id_of(line)
    return envelope.row(known, default_source, zone)


def _object(name: str, raw: str) -> str | None:
    if raw == "null":
        return None
    if not raw.startswith("{"):
        raise RejectedError("wrong_type", f"{name} must be an object, and is {raw[:40]}")
    return raw


def _scalar(raw: str) -> Any:
    if raw[0] == '"':
        return scanstring(raw, 1)[0]
    if raw[0] in "-0123456789":
        return number(raw)
    return _OTHERS[raw[0]]


def number(raw: str) -> int | Decimal:
    """A number; of one that is far out of every range only that it is so, since computing it could take long."""
    _, _, exponent = raw.lower().partition("e")
    if not exponent and "." not in raw:
        return int(raw[:_DIGITS_MAX])
    if len(exponent) <= _EXPONENT_DIGITS_MAX:
        return Decimal(raw)
    return Decimal("1e-999") if exponent.startswith("-") else Decimal("1e999")


def fold(metadata: str | None, unknown: Mapping[str, str]) -> str:
    """Metadata with the unknown members behind its own."""
    inner = (metadata or "{}").strip(_SPACE)[1:-1].strip(_SPACE)
    own = msgspec.json.decode(metadata or "{}", type=dict[str, msgspec.Raw])
    for key in unknown:
        if key in own:
            raise RejectedError("duplicate_key", f"the key {key!r} stands in the envelope and in metadata")
    added = ",".join(f"{jsontext.quote(key)}:{raw}" for key, raw in unknown.items())
    return "{" + ",".join(part for part in (inner, added) if part) + "}"


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
