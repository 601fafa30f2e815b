"""Where the fields of the envelope are in foreign events: `[ingest.fields]`, checked, and read from one line.

A path names members from the outside to the inside: `actor.login`, `items[0].id`, `["a key with . in it"].x`.
A field that is not mapped is looked for under its own name. This is the slow way, which takes any line and
says what is wrong with it; `mapped` reads many lines at once by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from evtool import envelope, jsontext
from evtool.envelope import RejectedError, Row
from evtool.errors import ConfigError
from evtool.event import EVENT_SCHEMA, INT32_MAX, INT64_MAX, LINE_BYTES_MAX, NESTING_MAX, TEXT_BYTES_MAX
from evtool.ingest import derived, members
from evtool.jsontext import JsonError

Steps: TypeAlias = tuple[str | int, ...]

WHOLE_LINE = "."
OBJECTS = ("payload", "metadata")
VERSIONS = {"stream_version": INT64_MAX, "schema_version": INT32_MAX}
SPACE = b" \t\r\n"

_STEP = re.compile(r'(?:^|\.)(?P<name>[^.\[\]"]+)|\[(?P<index>\d{1,9})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]')
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_CELL_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Path:
    """A place in an event: as it was written, and the keys and indexes that lead there; none: the whole of it."""

    text: str
    steps: Steps


@dataclass(frozen=True)
class Field:
    """Where one field of the envelope comes from: the first of some paths at which something is, or a constant.

    `is_mapped` tells what the configuration says from what holds without it.
    """

    name: str
    paths: tuple[Path, ...] = ()
    constant: Any = None
    is_mapped: bool = True


@dataclass(frozen=True)
class Shape:
    """How events of a format are laid out.

    `rest` is where members go that no field takes as a whole; None where they are in the payload anyway.
    `version` is the key and the only value of the format's own version, which is not kept. `wraps`: a payload
    that is no object becomes one of one member. Of `exclusive` keys one at most may be there. `cells`: values come
    from cells of a table, where an empty text is nothing, and numbers and objects are texts.
    """

    fields: Mapping[str, Field]
    rest: str | None = "metadata"
    version: tuple[str, str] | None = None
    wraps: bool = False
    exclusive: tuple[str, str] | None = None
    cells: bool = False

    @property
    def taken(self) -> frozenset[str]:
        """The keys that are not part of the rest: those of which a field takes all, whenever they are there."""
        firsts = [field.paths[0].steps for field in self.fields.values() if field.paths]
        others = (*(self.version or ())[:1], *(self.exclusive or ()))
        return frozenset({*others, *(str(steps[0]) for steps in firsts if len(steps) == 1)})


@dataclass(frozen=True)
class Rules:
    """What is done where an event leaves something open."""

    default_source: str | None = None
    fold_unknown: bool = True
    derives_ids: bool = False
    zone: ZoneInfo | None = None


def shape_of(table: Mapping[str, Any], flat: bool = False) -> Shape:
    """The shape that `[ingest.fields]` describes; `flat`: each path is one key. Raises ConfigError."""
    for name in table:
        if name not in EVENT_SCHEMA:
            raise ConfigError(
                f"ingest.fields.{name}: {name!r} is no field of the envelope", f"Known: {', '.join(EVENT_SCHEMA)}."
            )
    fields = {name: field_of(name, table.get(name), flat) for name in EVENT_SCHEMA}
    is_whole = any(not path.steps for path in fields["payload"].paths)
    return Shape(fields, None if is_whole else "metadata")


def field_of(name: str, value: Any, flat: bool = False) -> Field:
    """One entry of `[ingest.fields]`. Raises ConfigError."""
    if value is None:
        return Field(name, (Path(name, (name,)),), is_mapped=False)
    if isinstance(value, dict):
        return Field(name, constant=_constant(name, value))
    texts = value if isinstance(value, list) and value else [value]
    if WHOLE_LINE in texts and len(texts) > 1:
        raise ConfigError(f'ingest.fields.{name}: "." is always there, so it stands alone')
    return Field(name, tuple(_path(name, text, flat) for text in texts))


def row(line: bytes, shape: Shape, rules: Rules) -> Row:
    """The columns of EVENT_SCHEMA of one line. Raises RejectedError."""
    if len(line) > LINE_BYTES_MAX:
        raise RejectedError("line_too_long", f"the line has {len(line):,} bytes; {LINE_BYTES_MAX:,} is the limit")
    try:
        jsontext.check_object(line, NESTING_MAX)
    except JsonError as error:
        raise RejectedError(error.reason, str(error)) from error
    text = line.strip(SPACE)
    whole = members_of(text)
    _check_format(whole, shape)
    values = {name: _value(field, whole, text, shape) for name, field in shape.fields.items()}
    if shape.rest:
        _keep_rest(values, text, shape, rules)
    if rules.derives_ids and values["event_id"] is None:
        values["event_id"] = derived.id_of(text)
    return envelope.row(values, rules.default_source, rules.zone)


def members_of(text: bytes) -> dict[str, bytes]:
    """The members of a valid JSON object with the exact bytes of their values.

    Of a key that stands twice the last counts, as with most readers of JSON.
    """
    return {key: bytes(raw) for key, raw in _OBJECT.decode(text).items()}


def find(whole: Mapping[str, bytes], steps: Steps) -> bytes | None:
    """The exact bytes at a place of an object that is given by its members; None if nothing or null is there."""
    text = whole.get(str(steps[0]), b"null")
    for step in steps[1:]:
        try:
            found = _OBJECT.decode(text)[step] if isinstance(step, str) else _ARRAY.decode(text)[step]
        except (msgspec.ValidationError, LookupError):
            return None
        text = bytes(found)
    return None if text == b"null" else text


def document(name: str, raw: bytes, key: str, shape: Shape) -> bytes:
    """The object of `payload` or `metadata` that is found under a key. Raises RejectedError."""
    if raw[:1] == b"{":
        return raw
    if shape.cells and raw[:1] == b'"':
        return str(envelope.json_object(name, _TEXT.decode(raw))).encode()
    if shape.wraps and name == "payload":
        return b"{%b:%b}" % (jsontext.quote(key).encode(), raw)
    raise RejectedError("wrong_type", f"{name} must be an object, and is {raw.decode()[:40]}")


def _path(name: str, text: Any, flat: bool) -> Path:
    where = f"ingest.fields.{name}"
    if not isinstance(text, str):
        raise ConfigError(
            f"{where} = {text!r} is no path",
            'Write a path such as "actor.login", several of them in brackets, or { constant = "a value" }.',
        )
    if text == WHOLE_LINE:
        if name != "payload":
            raise ConfigError(f'{where}: "." is the whole event, which only payload can take')
        return Path(text, ())
    if flat:
        return Path(text, (text,))
    steps: list[str | int] = []
    at = 0
    while match := _STEP.match(text, at) if at < len(text) else None:
        steps.append(_step(match))
        at = match.end()
    if at < len(text) or not steps or isinstance(steps[0], int):
        raise ConfigError(
            f"{where} = {text!r} is no path", 'Write it as "actor.login", "items[0].id" or \'["a.b"].c\'.'
        )
    return Path(text, tuple(steps))


def _step(match: re.Match[str]) -> str | int:
    if match["index"]:
        return int(match["index"])
    return match["name"] or str(_TEXT.decode(match["quoted"]))


def _constant(name: str, value: Mapping[str, Any]) -> Any:
    """A constant, checked by the field's own rule."""
    if set(value) != {"constant"} or name in ("event_id", "timestamp", "stream_version"):
        raise ConfigError(
            f"ingest.fields.{name} = {value!r} cannot be taken",
            'A constant is written { constant = "a value" }; event_id, timestamp and stream_version have none.',
        )
    constant = value["constant"]
    try:
        if name in TEXT_BYTES_MAX:
            return envelope.text(name, constant)
        if name in VERSIONS:
            return envelope.version(name, constant, VERSIONS[name])
        return envelope.json_object(name, constant if isinstance(constant, dict) else 0)
    except RejectedError as error:
        raise ConfigError(f"ingest.fields.{name}: {error}") from error


def _check_format(whole: Mapping[str, bytes], shape: Shape) -> None:
    if shape.version is not None:
        key, wanted = shape.version
        raw = whole.get(key, b"null")
        if raw[:1] != b'"' or _TEXT.decode(raw) != wanted:
            shown = raw.decode()[:40] if key in whole else "missing"
            raise RejectedError(
                "specversion_unknown", f"{key} is {shown}, and {wanted!r} is the one that is known"
            )
    if shape.exclusive and all(whole.get(key, b"null") != b"null" for key in shape.exclusive):
        raise RejectedError(
            "wrong_type", f"{' and '.join(shape.exclusive)} are both there, and exclude one another"
        )


def _value(field: Field, whole: Mapping[str, bytes], text: bytes, shape: Shape) -> Any:
    """What `envelope.row` takes for a field."""
    for path in field.paths:
        raw = find(whole, path.steps) if path.steps else text
        if raw is None or (shape.cells and raw == b'""'):
            continue
        if field.name in OBJECTS:
            return document(field.name, raw, str(path.steps[-1]) if path.steps else "", shape)
        return _scalar(field.name, raw, shape.cells)
    return field.constant


def _scalar(name: str, raw: bytes, cells: bool) -> Any:
    """A text, a number or a mark of another kind; ids and names take numbers and truths as they are written."""
    first, is_name = raw[:1], name in TEXT_BYTES_MAX
    if first == b'"':
        text = _TEXT.decode(raw)
        is_number = cells and not is_name and _CELL_NUMBER.fullmatch(text)
        return members.number(text) if is_number else text
    if first in b"tf":
        return raw.decode() if is_name else raw == b"true"
    if first in b"{[":
        return {} if first == b"{" else []
    if not is_name:
        return members.number(raw.decode())
    return "0" if raw == b"-0" else raw.decode()


def _keep_rest(values: dict[str, Any], text: bytes, shape: Shape, rules: Rules) -> None:
    """Put the members that no field has taken where they belong."""
    line = text.decode()
    rest: dict[str, str] = {}
    seen: set[str] = set()
    for member in members.members(line):
        if member.key in seen:
            raise RejectedError("duplicate_key", f"the key {member.key!r} stands twice")
        seen.add(member.key)
        if member.key not in shape.taken:
            rest[member.key] = line[member.start : member.end]
    if not rest:
        return
    if shape.rest == "metadata" and not rules.fold_unknown:
        raise RejectedError("unknown_field", f"{next(iter(rest))!r} is taken by no field")
    own = values[str(shape.rest)]
    values[str(shape.rest)] = members.fold(own.decode() if isinstance(own, bytes) else own, rest)
