"""The steps of an upcaster, as they are written: what makes a payload of version n one of version n + 1.

    [[steps]]
    rename = "amount"            # within its object
    to = "total"
    [[steps]]
    move = "address.city"        # anywhere
    to = "city"
    [[steps]]
    default = "currency"         # where it is absent
    value = "EUR"
    [[steps]]
    cast = "quantity"            # to string, integer, number or boolean
    to = "integer"
    [[steps]]
    drop = "coupon.note"

In TOML, or in JSON as {"steps": [...]}. A path names members from the outermost object inwards, with dots between
them; a name that has a dot in it is written in a list: ["a.b", "c"]. Arrays are not entered.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias, cast, get_args

import msgspec

from evtool.errors import SchemaError

Kind: TypeAlias = Literal["rename", "move", "default", "cast", "drop"]
Path: TypeAlias = tuple[str, ...]

KINDS: tuple[Kind, ...] = get_args(Kind)
CASTS = ("string", "integer", "number", "boolean")
_BESIDE = {"rename": "to", "move": "to", "default": "value", "cast": "to", "drop": None}
_STEPS_MAX = 1_000
_JSON = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Step:
    """One step. `to` is where a member goes (rename, move), `value` JSON text (default), `type` a cast's."""

    kind: Kind
    path: Path
    to: Path = ()
    value: str = ""
    type: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As it is written in JSON; the value is kept as its text."""
        written: dict[str, Any] = {self.kind: _written(self.path)}
        if self.to:
            written["to"] = _written(self.to[-1:] if self.kind == "rename" else self.to)
        if self.type:
            written["to"] = self.type
        if self.value:
            written["value"] = msgspec.Raw(self.value.encode())
        return written

    def __str__(self) -> str:
        beside = ".".join(self.to) or self.type or self.value
        return f"{self.kind} {'.'.join(self.path)}" + (f" to {beside}" if beside else "")


def parse(data: bytes, name: str) -> tuple[Step, ...]:
    """The steps of a file in TOML or JSON; `name` is what messages call it. Raises SchemaError."""
    try:
        text = data.decode()
        is_json = text.lstrip().startswith("{")
        table = json.loads(text, parse_float=Decimal) if is_json else tomllib.loads(text, parse_float=Decimal)
    except ValueError as error:  # of UTF-8, of JSON, of TOML
        raise SchemaError(f"{name} is neither TOML nor JSON: {error}") from error
    if not isinstance(table, dict) or set(table) != {"steps"} or not isinstance(table["steps"], list):
        raise SchemaError(f"{name} holds no steps, or more than these", "Write [[steps]] for each of them.")
    return from_list(table["steps"], name)


def from_list(written: list[Any], name: str) -> tuple[Step, ...]:
    """Steps from mappings as they are written. Raises SchemaError, naming the step by its number from 1."""
    if len(written) > _STEPS_MAX:
        raise SchemaError(f"{name} has {len(written):,} steps; {_STEPS_MAX:,} is the limit")
    steps = []
    for number, entry in enumerate(written, 1):
        try:
            steps.append(_step(entry))
        except ValueError as error:
            raise SchemaError(f"{name}: step {number}: {error}") from error
    return tuple(steps)


def encode(value: Any) -> bytes:
    """A value, steps or what they hold, as compact JSON with numbers as they were written."""
    return _JSON.encode(value)


def _step(entry: Any) -> Step:
    if not isinstance(entry, Mapping):
        raise ValueError("it is no table")
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        raise ValueError(f"it needs one of {', '.join(KINDS)}")
    kind = kinds[0]
    beside = _BESIDE[kind]
    if set(entry) != {kind, beside} - {None}:
        raise ValueError(f"{kind} needs {f'{beside!r}' if beside else 'nothing'} beside it, and nothing else")
    path = _path(entry[kind])
    if kind == "cast":
        if entry["to"] not in CASTS:
            raise ValueError(f"{entry['to']!r} is none of {', '.join(CASTS)}")
        return Step(kind, path, type=entry["to"])
    if kind == "default":
        return Step(kind, path, value=_value(entry["value"]))
    if kind == "drop":
        return Step(kind, path)
    to = _path(entry["to"])
    if kind == "rename":
        if len(to) != 1:
            raise ValueError("rename gives a name in the same object; move goes elsewhere")
        to = (*path[:-1], to[0])
    if to[: len(path)] == path or path[: len(to)] == to:
        raise ValueError("it leads to itself, or into itself")
    return Step(kind, path, to=to)


def _path(written: Any) -> Path:
    names = written.split(".") if isinstance(written, str) else written
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{written!r} is no path: write names with dots between them")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a path holds half of a surrogate pair") from error
    return tuple(cast("list[str]", names))


def _value(value: Any) -> str:
    try:
        # Of what TOML has and JSON has not (times, infinity) nothing is made into something else.
        json.dumps(value, allow_nan=False, default=_fraction)
        return encode(value).decode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the value cannot be written as JSON: {error}") from error


def _fraction(value: Any) -> float:
    if isinstance(value, Decimal) and value.is_finite():
        return 0.0
    raise TypeError(f"{value} is a {type(value).__name__}")


def _written(path: Path) -> str | list[str]:
    return list(path) if any("." in name for name in path) else ".".join(path)
