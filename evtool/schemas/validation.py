"""Payloads held against the schemas of their types, by the column.

Numbers count as they are written. Integers are decoded whole. A fraction of up to 15 digits becomes a double, as
different ones become different doubles in the same order, and jsonschema-rs takes a double for the shortest
number that it stands for; payloads with longer ones are found first and decoded with Decimals. What stays inexact
is in jsonschema-rs: a fraction beyond 2^53 is compared with an integer bound as a double.

Decoding and jsonschema-rs hold the interpreter's lock: more threads are not faster.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from evtool.schemas import document
from evtool.schemas.document import Breach
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.registry import Registry

Bad: TypeAlias = tuple[int, str, str]  # row, reason of a dead letter, message
Mask: TypeAlias = npt.NDArray[np.bool_]

_UNCHECKABLE = (ValueError, ArithmeticError, RecursionError)
_WHOLE_DIGITS_MAX = 400


def _number(text: str) -> int | Decimal:
    """A number with a point or an exponent, exactly; as an integer where it is one."""
    number = Decimal(text)
    if not 0 <= number.adjusted() < _WHOLE_DIGITS_MAX:
        return number
    whole = int(number)
    return whole if whole == number else number


# What may be a number that a double does not hold exactly enough; in a text it only costs time.
_LONG_NUMBER = r"[0-9.]{16}|[0-9][eE][-+]?[0-9]"
_decode = msgspec.json.Decoder().decode
_decode_exactly = msgspec.json.Decoder(float_hook=_number).decode


class Validator:
    """Holds events against a registry, as it is at the moment of each call. Safe to share between threads."""

    def __init__(self, registry: Registry, unknown_types: Literal["allow", "reject"] = "allow") -> None:
        self._registry = registry
        self._rejects_unknown = unknown_types == "reject"

    @property
    def is_needed(self) -> bool:
        """Whether an event can break any rule. Raises LogDamagedError when the registry cannot be read."""
        return self._rejects_unknown or bool(self._registry.current())

    def check(
        self, event_types: pl.Series, schema_versions: pl.Series, payloads: pl.Series
    ) -> tuple[Mask, list[Bad]]:
        """Which rows are good, and why the others are not, in order of rows.

        Payloads are texts that are JSON objects, for certain. An event of a type that has schemas must have
        one of their versions (else `schema_missing`) and be valid under it (else `schema_invalid`).
        Raises LogDamagedError when the registry cannot be read.
        """
        return check(self._registry.current(), event_types, schema_versions, payloads, self._rejects_unknown)


def check(
    schemas: Schemas,
    event_types: pl.Series,
    schema_versions: pl.Series,
    payloads: pl.Series,
    rejects_unknown: bool = False,
) -> tuple[Mask, list[Bad]]:
    """The same against schemas that were read already."""
    good = np.ones(len(event_types), np.bool_)
    if not (schemas or rejects_unknown) or not len(good):
        return good, []
    events = pl.DataFrame({"type": event_types, "version": schema_versions})
    if not rejects_unknown:
        known = events["type"].unique().to_list()
        if not any(name in schemas.types for name in known):
            return good, []
    bad: list[Bad] = []
    for (event_type, version), rows in events.with_row_index("row").group_by("type", "version"):
        name, number = str(event_type), int(str(version))
        schema = schemas.get(name, number)
        here = rows["row"].to_numpy()
        if schema is not None:
            texts = payloads if len(here) == len(payloads) else payloads.gather(here)
            bad += [
                (int(here[at]), "schema_invalid", f"{breach(schema, texts[at])} of {name} version {number}")
                for at in invalid(schema, texts)
            ]
        elif rejects_unknown or name in schemas.types:
            message = _missing(schemas, name, number)
            bad += [(int(row), "schema_missing", message) for row in here]
    bad.sort()
    good[[row for row, _, _ in bad]] = False
    return good, bad


def breach(schema: Schema, text: str) -> Breach:
    """The first rule that a payload breaks, of which is known that it breaks one."""
    try:
        found = document.breach(document.compiled(schema.text), _decode_exactly(text))
    except _UNCHECKABLE as error:
        return Breach("", "", f"it cannot be checked: {error}")
    assert found is not None
    return found


def invalid(schema: Schema, payloads: pl.Series) -> list[int]:
    """Which of some payloads are not valid under a schema, as indices."""
    is_valid = document.compiled(schema.text).is_valid
    texts = payloads.to_list()
    has_long = payloads.str.contains(_LONG_NUMBER)
    try:
        if has_long.any():
            both = zip(texts, has_long.to_list(), strict=True)
            verdicts = [is_valid(_decode_exactly(text) if long else _decode(text)) for text, long in both]
        else:
            verdicts = [is_valid(_decode(text)) for text in texts]
    except _UNCHECKABLE:  # a number beyond all bounds in one of them
        verdicts = [_is_valid(is_valid, text) for text in texts]
    return [at for at, verdict in enumerate(verdicts) if not verdict]


def _is_valid(is_valid: Callable[[Any], bool], text: str) -> bool:
    try:
        return is_valid(_decode_exactly(text))
    except _UNCHECKABLE:
        return False


def _missing(schemas: Schemas, event_type: str, version: int) -> str:
    versions = [schema.version for schema in schemas.versions(event_type)]
    if not versions:
        return f"there is no schema for {event_type}, and schemas.unknown_types is 'reject'"
    known = f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
    return f"there is no schema for version {version} of {event_type}, which has {known}"
