"""A JSON Schema as a text: is it one, does it stand alone, what breaks it.

Drafts 4, 6, 7, 2019-09 and 2020-12 (the default), told by `$schema`. A reference leads to a place in the same
document, or to a draft's own meta-schema; nothing is ever fetched. `format` is an annotation in every draft,
as 2020-12 has it, so that a schema means the same however it is written; `pattern` is what checks a text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import xxhash

from evtool import jsontext
from evtool.errors import SchemaError
from evtool.event import NESTING_MAX
from evtool.jsontext import JsonError

if TYPE_CHECKING:
    import jsonschema_rs

Node: TypeAlias = dict[str, Any] | bool

TEXT_BYTES_MAX = 1024 * 1024
_MESSAGE_LENGTH_MAX = 300
_BLANK = b" \t\r\n"
_BOOLEANS = (b"true", b"false")  # which are schemas too
_DRAFTS = "Known are the drafts 4, 6, 7, 2019-09 and 2020-12, which is taken when there is no $schema."


@dataclass(frozen=True)
class Document:
    """A JSON Schema that stands alone: its exact text, and its value with fractions as Decimal."""

    text: str
    value: Node

    @property
    def digest(self) -> str:
        """XXH3-64 of the text, as 16 hexadecimal digits."""
        return xxhash.xxh3_64_hexdigest(self.text.encode())


@dataclass(frozen=True)
class Breach:
    """The first rule of a schema that a payload breaks: where in the payload, which one, what is wrong."""

    path: str  # JSON pointer into the payload
    rule: str  # JSON pointer into the schema
    message: str

    def __str__(self) -> str:
        return f"{self.path or 'the payload'}: {self.message} (rule {self.rule or 'none'})"


def parse(data: bytes | str, name: str = "the schema") -> Document:
    """A document from its text; `name` is what messages call it. Raises SchemaError."""
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > TEXT_BYTES_MAX:
            raise SchemaError(f"{name} has {len(raw):,} bytes; {TEXT_BYTES_MAX:,} is the limit")
        if raw.strip(_BLANK) not in _BOOLEANS:
            jsontext.check_object(raw, NESTING_MAX)
        text = raw.decode()
        value = json.loads(text, parse_float=Decimal, object_pairs_hook=_object)
    except JsonError as error:
        raise SchemaError(f"{name} is not JSON: {error}", "A schema is a JSON Schema in UTF-8.") from error
    except (ValueError, ArithmeticError) as error:
        raise SchemaError(f"{name} is no JSON Schema: {error}") from error
    document = Document(text, value)
    try:
        compiled(text)
    except SchemaError as error:
        raise SchemaError(f"{name} {error.message}", error.hint) from error
    return document


@functools.lru_cache(maxsize=1024)
def compiled(text: str) -> jsonschema_rs.Validator:
    """What checks payloads against a schema. Raises SchemaError when it is none, or does not stand alone."""
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(text, offline=True, validate_formats=False)
    except jsonschema_rs.ValidationError as error:
        if error.message.startswith("Unknown meta-schema"):
            raise SchemaError(
                "is of a draft that is not known: its $schema names another document", _DRAFTS
            ) from error
        if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Referencing):
            raise SchemaError(
                f"refers to what is not in it: {_first_line(error.message)}",
                "A schema must stand alone, and nothing is fetched: put it under $defs and write #/$defs/NAME.",
            ) from error
        where = pointer(error.instance_path) or "the root"
        raise SchemaError(f"is no JSON Schema: {where}: {_first_line(error.message)}") from error
    except ValueError as error:
        raise SchemaError(f"is no JSON Schema: {_first_line(str(error))}") from error


def breach(validator: jsonschema_rs.Validator, payload: Any) -> Breach | None:
    """The first rule that a payload breaks; None when it is valid."""
    error = next(iter(validator.iter_errors(payload)), None)
    if error is None:
        return None
    return Breach(pointer(error.instance_path), pointer(error.schema_path), _first_line(error.message))


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901); the empty text for the root."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object")
    return found


def _first_line(message: str) -> str:
    line = message.partition("\n")[0]
    if len(line) <= _MESSAGE_LENGTH_MAX:
        return line
    half = _MESSAGE_LENGTH_MAX // 2
    return f"{line[:half]} … {line[-half:]}"
