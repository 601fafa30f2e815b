"""JSON as text: is it strictly RFC 8259, how deep does it nest, how is a text written in it.

msgspec checks the grammar, the numbers, the escapes and lone surrogates; it checks neither that the
bytes are UTF-8 nor a nesting limit of ours, so both are checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from evtool.event import NESTING_MAX


class _AnyObject(msgspec.Struct):
    """Decodes any JSON object, checking all of it and keeping nothing."""


_OBJECT = msgspec.json.Decoder(_AnyObject)
_ANY = msgspec.json.Decoder(msgspec.Raw)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
VALUE_STARTS = b'{["-0123456789tfn'
VALUE_ENDS = b'}]"0123456789el'
# A payload stands one level deep in its line.
OBJECT_NESTING_MAX = NESTING_MAX - 1
_ESCAPES = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'


class JsonError(ValueError):
    """A text is not what it should be; `reason` is the code of the dead letter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_object(data: bytes, nesting_max: int = OBJECT_NESTING_MAX) -> None:
    """Raise JsonError unless `data` is one JSON object, strictly, in UTF-8, nested `nesting_max` deep at most."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise JsonError("bad_utf8", f"byte {error.start} is not UTF-8") from error
    # A shorter text cannot hold that many opening brackets with their closing ones.
    if len(data) > 2 * nesting_max and nesting(data) > nesting_max:
        raise JsonError("nesting_too_deep", f"it nests deeper than {nesting_max} levels")
    try:
        _OBJECT.decode(data)
    except msgspec.ValidationError:
        _check_value(data)
        raise JsonError("not_an_object", "it is JSON, but no object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(data, error) from error


def are_documents(texts: pa.Array, lengths: np.ndarray[Any, Any], objects: bool) -> bool:
    """Whether each text of a column is one JSON value (with `objects`: one object) of bearable depth.

    The caller has checked that no text holds a line break, begins with anything but VALUE_STARTS or ends
    with anything but VALUE_ENDS (for objects: { and }). `lengths` are the bytes of each.

    All are checked at once, as lines of one text. Between the end of a value and the start of another JSON
    allows white space at the top level only. So no document reaches over a line's end, each text holds one
    at least, and as there are as many documents as texts, none holds more.
    """
    if not len(texts):
        return True
    suspects = np.flatnonzero(lengths >= 2 * OBJECT_NESTING_MAX)
    if len(suspects) and not _not_too_deep(texts if len(suspects) == len(texts) else texts.take(suspects)):
        return False
    lines = pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), "\n")[0].as_buffer()
    try:
        return len((_OBJECT if objects else _ANY).decode_lines(lines)) == len(texts)
    except (msgspec.MsgspecError, RecursionError):
        return False


def are_objects(texts: pl.Series) -> bool:
    """Whether every text (no nulls, 2 GiB at most) is one JSON object of bearable depth, without line breaks."""
    shape = texts.str.starts_with("{") & texts.str.ends_with("}") & ~texts.str.contains("\n", literal=True)
    if not shape.all():
        return False
    strings = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    return are_documents(strings, texts.str.len_bytes().to_numpy(), objects=True)


def nesting(data: bytes) -> int:
    """The deepest level of brackets outside of strings."""
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(plain.split(b'"')[::2])
    deepest = level = 0
    for bracket in outside.translate(None, _NO_BRACKETS):
        if bracket in b"[{":
            level += 1
            deepest = max(deepest, level)
        else:
            level -= 1
    return deepest


def quote(text: str) -> str:
    """A text as a JSON string."""
    return msgspec.json.encode(text).decode()


def quoted(texts: pl.Series) -> pl.Series:
    """A column of texts as JSON strings."""
    if not texts.str.contains(_NEEDS_ESCAPE).any():
        return texts.to_frame("text").select(pl.format('"{}"', "text")).to_series()
    return pl.Series([None if text is None else quote(text) for text in texts.to_list()], dtype=pl.String)


def encode(value: Any) -> str:
    """A Python value as compact JSON. Raises TypeError or ValueError for what JSON has no word for."""
    return _ENCODER.encode(value)


def _as_dict(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON has no word for a {type(value).__name__}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_dict)


def _check_value(data: bytes) -> None:
    try:
        _ANY.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(data, error) from error


def _malformed(data: bytes, error: Exception) -> JsonError:
    if _has_lone_surrogate(data):
        return JsonError("lone_surrogate", "an escape names half of a surrogate pair")
    return JsonError("invalid_json", _plain(error))


def _not_too_deep(texts: pa.Array) -> bool:
    opening = pc.add(pc.count_substring(texts, "{"), pc.count_substring(texts, "["))
    suspects = texts.filter(pc.greater(opening, OBJECT_NESTING_MAX))
    return all(nesting(text.encode()) <= OBJECT_NESTING_MAX for text in suspects.to_pylist())


def _has_lone_surrogate(data: bytes) -> bool:
    """Whether an escape names half of a surrogate pair without the other half right behind it."""
    high_ends_at = None
    for escape in _ESCAPES.finditer(data):
        unit = int(escape[1], 16) if escape[1] else 0
        if 0xDC00 <= unit <= 0xDFFF and high_ends_at == escape.start():
            high_ends_at = None
            continue
        if high_ends_at is not None or 0xDC00 <= unit <= 0xDFFF:
            return True
        high_ends_at = escape.end() if 0xD800 <= unit <= 0xDBFF else None
    return high_ends_at is not None


def _plain(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ") or type(error).__name__
