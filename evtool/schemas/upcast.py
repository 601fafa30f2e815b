"""Upcasting: stored payloads as ones of a later version of their type, step by step, when they are read.

Only what a step touches is written anew: values that it does not name come back byte for byte, with their number
spelling, escapes and big integers, in the order in which they stood; members that are new come last. The
objects around a change are written without white space, and their names with no more escapes than needed. A
payload that no step changes stays as it is, and so does one on which a step fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

import msgspec
import polars as pl

from evtool.errors import SchemaError
from evtool.schemas.record import Schemas
from evtool.schemas.steps import Path, Step

ERROR_COLUMN = "upcast_error"

_EMPTY = msgspec.Raw(b"{}")
_encode = msgspec.json.Encoder().encode
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER_DIGITS_MAX = 1_000


class StepError(ValueError):
    """A step cannot be taken on this payload."""


class _Members:
    """The members of one object; objects in it are opened when a step goes into them."""

    def __init__(self, raw: msgspec.Raw | bytes) -> None:
        self._raw = raw
        self._is_changed = False
        self.values: dict[str, msgspec.Raw | _Members] = {**_MEMBERS.decode(raw)}
        # Nothing that is written without white space gets longer or shorter, unless a name stood in it twice.
        if len(_encode(self.values)) != len(memoryview(raw)):
            _refuse_twins(bytes(raw))

    def open(self, name: str, create: bool) -> _Members | None:
        """The object that a member is; None when it is absent or null, and shall not be made."""
        value = self.values.get(name)
        if isinstance(value, _Members):
            return value
        if value is None:
            if not create:
                return None
            value = _EMPTY
            self._is_changed = True
        start = bytes(memoryview(value)[:1])
        if start == b"n" and not create:
            return None
        if start != b"{":
            raise StepError(f"{name!r} is no object")
        opened = self.values[name] = _Members(value)
        return opened

    def take(self, name: str) -> msgspec.Raw:
        """Remove a member that is there; its value."""
        self._is_changed = True
        value = self.values.pop(name)
        return value.encode() if isinstance(value, _Members) else value

    def put(self, name: str, value: msgspec.Raw) -> None:
        """Give a member a value."""
        self._is_changed = True
        self.values[name] = value

    def encode(self) -> msgspec.Raw:
        """The object as JSON; as it was, if nothing in it has changed."""
        if self.is_same:
            return msgspec.Raw(self._raw)
        written = {
            name: value.encode() if isinstance(value, _Members) else value for name, value in self.values.items()
        }
        return msgspec.Raw(_encode(written))

    @property
    def is_same(self) -> bool:
        """Whether nothing in it has changed."""
        return not self._is_changed and all(
            value.is_same for value in self.values.values() if isinstance(value, _Members)
        )


def payload(steps: Sequence[Step], text: str) -> str:
    """The text of a payload after some steps. Raises StepError, naming the step."""
    root = _Members(text.encode())
    for step in steps:
        try:
            _take(root, step)
        except StepError as error:
            raise StepError(f"{step}: {error}") from error
    return bytes(root.encode()).decode()


def upcast(events: pl.DataFrame, schemas: Schemas, targets: Mapping[str, int] | None = None) -> pl.DataFrame:
    """Events (columns event_type, schema_version, payload and any others) as of the latest version of their type.

    `targets` may name another version for some types. A column `upcast_error` is added: null, or which step
    failed and why; such an event is given as it was. Events of later versions stay as they are.
    """
    kinds = events.select("event_type", "schema_version").unique()
    errors: dict[int, str] = {}
    payloads: list[str] | None = None
    versions = events["schema_version"].to_list() if len(kinds) else []
    changed = False
    for event_type, version in kinds.rows():
        target = (targets or {}).get(event_type) or schemas.latest_version(event_type)
        if target is None or target <= version:
            continue
        rows = _rows_of(events, event_type, version)
        steps = schemas.steps_between(event_type, version, target)
        changed = True
        if steps and payloads is None:
            payloads = events["payload"].to_list()
        for row in rows:
            try:
                if steps and payloads is not None:
                    payloads[row] = payload(steps, payloads[row])
                versions[row] = target
            except StepError as error:
                errors[row] = str(error)
    columns = [pl.Series(ERROR_COLUMN, [errors.get(row) for row in range(len(events))], dtype=pl.String)]
    if not errors:
        columns = [pl.Series(ERROR_COLUMN, [None], dtype=pl.String).new_from_index(0, len(events))]
    if changed:
        columns.append(pl.Series("schema_version", versions, dtype=events["schema_version"].dtype))
    if payloads is not None:
        columns.append(pl.Series("payload", payloads, dtype=pl.String))
    return events.with_columns(columns)


def upcast_all(events: pl.DataFrame, schemas: Schemas, targets: Mapping[str, int] | None = None) -> pl.DataFrame:
    """The same, for who needs every event (with its position): without `upcast_error`.

    Raises SchemaError with the position of the first event on which a step failed.
    """
    done = upcast(events, schemas, targets)
    failed = done.filter(pl.col(ERROR_COLUMN).is_not_null())
    if len(failed):
        first = failed.row(0, named=True)
        raise SchemaError(
            f"the event at position {first['position']} cannot be read as a later version of "
            f"{first['event_type']}: {first[ERROR_COLUMN]}",
            "See it with `evtool replay --upcast`; a later version's steps may take such payloads too.",
        )
    return done.drop(ERROR_COLUMN)


def _rows_of(events: pl.DataFrame, event_type: str, version: int) -> list[int]:
    is_meant = (pl.col("event_type") == event_type) & (pl.col("schema_version") == version)
    return events.select(is_meant.arg_true()).to_series().to_list()


def _take(root: _Members, step: Step) -> None:
    """Take one step. What is absent is neither renamed, moved, cast nor dropped."""
    *parents, name = step.path
    holder = _walk(root, tuple(parents), create=step.kind == "default")
    if holder is None:
        return
    if step.kind == "default":
        if name not in holder.values:
            holder.put(name, msgspec.Raw(step.value.encode()))
        return
    if name not in holder.values:
        return
    if step.kind == "drop":
        holder.take(name)
    elif step.kind == "cast":
        value = holder.values[name]
        if isinstance(value, _Members):
            raise StepError(f"{name!r} is an object")
        before = bytes(value)
        after = _cast(before, step.type)
        if after != before:
            holder.put(name, msgspec.Raw(after))
    else:
        _put_new(root, step.to, holder.take(name))


def _put_new(root: _Members, path: Path, value: msgspec.Raw) -> None:
    *parents, name = path
    holder = _walk(root, tuple(parents), create=True)
    assert holder is not None
    if name in holder.values:
        raise StepError(f"there is {name!r} already")
    holder.put(name, value)


def _walk(root: _Members, parents: Path, create: bool) -> _Members | None:
    here: _Members | None = root
    for name in parents:
        if here is None:
            return None
        here = here.open(name, create)
    return here


def _cast(value: bytes, to: str) -> bytes:
    """A value in another type, in the spelling that it has. null stays null. Raises StepError."""
    text = value.decode()
    if text == "null":
        return value
    kind = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean"}.get(text[0], "number")
    if kind in ("object", "array"):
        raise StepError(f"an {kind} is not cast")
    if to == "string":
        return value if kind == "string" else f'"{text}"'.encode()
    if to == "boolean" and kind == "boolean":
        return value
    inner = _TEXT.decode(value) if kind == "string" else text
    if to == "boolean":
        if kind == "string" and inner in ("true", "false"):
            return inner.encode()
    elif kind != "boolean" and _NUMBER.fullmatch(inner):
        found = inner if to == "number" else _whole(inner)
        if found is not None:
            return found.encode()
    raise StepError(f"{text[:100]} is no {to}")


def _whole(text: str) -> str | None:
    """A number without a fraction, written as an integer; None when it has one."""
    if _INTEGER.fullmatch(text):
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:  # its exponent is beyond all bounds
        return None
    # Decimal computes with few digits, but takes and gives all: nothing here rounds.
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if not any(digits):
        return "0"
    if exponent + len(digits) > _INTEGER_DIGITS_MAX or -exponent >= len(digits):
        return None
    written = "".join(map(str, digits)) + "0" * exponent
    if exponent < 0:
        written, cut = written[:exponent], written[exponent:]
        if cut.strip("0"):
            return None
    return ("-" if sign else "") + written


def _refuse_twins(raw: bytes) -> None:
    """Raise StepError when a name stands twice in an object (not in those inside of it)."""
    repeats: list[bool] = []  # the outermost object comes last

    def look(pairs: list[tuple[str, object]]) -> None:
        repeats.append(len(dict(pairs)) < len(pairs))

    json.loads(raw, object_pairs_hook=look, parse_int=str, parse_float=str)
    if repeats[-1]:
        raise StepError("a name stands twice in an object")
