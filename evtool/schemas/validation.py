"""Payloads held against the schemas of their types, by the column.

A payload is decoded once, with integers of any size as they are and fractions as Decimal, so that no bound is
compared with a rounded number. jsonschema-rs holds the interpreter's lock; two threads are no faster than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from evtool.schemas import document
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.registry import Registry

if TYPE_CHECKING:
    import jsonschema_rs

Bad: TypeAlias = tuple[int, str, str]  # row, reason of a dead letter, message
Mask: TypeAlias = npt.NDArray[np.bool_]

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Validator:
    """Holds events against a registry, as it is at the moment of each call. Safe to share between threads."""

    def __init__(self, registry: Registry, unknown_types: Literal["allow", "reject"] = "allow") -> None:
        self._registry = registry
        self._rejects_unknown = unknown_types == "reject"

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
            bad += failures(schema, payloads, here)
        elif rejects_unknown or name in schemas.types:
            message = _missing(schemas, name, number)
            bad += [(int(row), "schema_missing", message) for row in here]
    bad.sort()
    good[[row for row, _, _ in bad]] = False
    return good, bad


def failures(schema: Schema, payloads: pl.Series, rows: npt.NDArray[Any]) -> list[Bad]:
    """Which of some rows are not valid under a schema, and why."""
    validator = document.compiled(schema.text)
    texts = (payloads if len(rows) == len(payloads) else payloads.gather(rows)).to_list()
    return [
        (int(rows[at]), "schema_invalid", f"{explain(validator, texts[at])} of {schema.name}")
        for at in _invalid(validator.is_valid, texts)
    ]


def explain(validator: jsonschema_rs.Validator, text: str) -> str:
    """The first rule that a payload breaks, with its place."""
    try:
        found = document.breach(validator, _decode(text))
    except (ValueError, ArithmeticError, RecursionError) as error:
        return f"the payload: it cannot be checked: {error} (rule /)"
    return str(found)


def _invalid(is_valid: Callable[[Any], bool], texts: Sequence[str]) -> list[int]:
    try:
        verdicts = [is_valid(_decode(text)) for text in texts]
    except (ValueError, ArithmeticError, RecursionError):  # a number beyond all bounds in one of them
        verdicts = [_is_valid(is_valid, text) for text in texts]
    return [at for at, verdict in enumerate(verdicts) if not verdict]


def _is_valid(is_valid: Callable[[Any], bool], text: str) -> bool:
    try:
        return is_valid(_decode(text))
    except (ValueError, ArithmeticError, RecursionError):
        return False


def _missing(schemas: Schemas, event_type: str, version: int) -> str:
    versions = [schema.version for schema in schemas.versions(event_type)]
    if not versions:
        return f"there is no schema for {event_type}, and schemas.unknown_types is 'reject'"
    known = f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
    return f"there is no schema for version {version} of {event_type}, which has {known}"
