"""Casts: a value becomes the same value as another type, or null. Nothing is rounded, trimmed or guessed.

A text is a value of another type only in one of its plain spellings: a number as in JSON, `true` and `false`, a
date as 2026-01-31, a time as in RFC 3339 with an offset. Polars' own casts take more (`+1`, `.5`, `inf`,
2026-1-31) and round decimals, so the spelling is tested first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa

from evtool import timecolumns
from evtool.projections.language import exact
from evtool.projections.language.sqltypes import (
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    INTERVAL,
    NULL,
    TEXT,
    TIMESTAMP,
    Type,
)

_INTEGER = r"^-?(?:0|[1-9][0-9]{0,18})$"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_NUMBER_TEXT = re.compile(_NUMBER.replace("^", "").replace("$", ""))
_EXPONENT_DIGITS_MAX = 6
_FLOAT_INTEGER_LIMIT = 2.0**63
_DAY_NS = 86_400_000_000_000
_US = 1_000

_ALLOWED = {
    TEXT: {"integer", "decimal", "float", "boolean", "date", "timestamp"},
    INTEGER: {"text", "decimal", "float"},
    FLOAT: {"text", "integer", "decimal"},
    BOOLEAN: {"text", "integer"},
    DATE: {"text", "timestamp"},
    TIMESTAMP: {"text", "date", "integer"},
    INTERVAL: {"integer"},
}


def is_allowed(before: Type, after: Type) -> bool:
    """Whether there is such a cast."""
    if before in (NULL, after):
        return True
    if before.name == "decimal":
        return after.name in ("text", "integer", "decimal", "float")
    return after.name in _ALLOWED[before]


def cast(values: pl.Expr, before: Type, after: Type) -> pl.Expr:
    """Values of one type as another; null where they are none of its values."""
    if before == after:
        return values
    if before == NULL:
        return values.cast(after.column_type)
    if before == TEXT:
        return _from_text(values, after)
    if after == TEXT:
        return _to_text(values, before)
    if before.is_exact and after.name == "decimal":
        return _to_decimal(values, before, after)
    if before == FLOAT and after.name == "decimal":
        return _from_text(values.cast(pl.String), after)  # by the shortest number that stands for it
    if before == FLOAT and after == INTEGER:
        is_one = (values == values.floor()) & (values >= -_FLOAT_INTEGER_LIMIT) & (values < _FLOAT_INTEGER_LIMIT)
        return pl.when(is_one).then(values).cast(pl.Int64, strict=False)
    if before.name == "decimal" and after == INTEGER:
        return exact.scaled(_without_digits(exact.unscaled(values, before), before.scale), after)
    if before == TIMESTAMP and after == DATE:
        return (values // _US).cast(pl.Datetime("us")).dt.date()
    if before == DATE and after == TIMESTAMP:
        return (values.to_physical().cast(pl.Int128) * _DAY_NS).cast(pl.Int64, strict=False)
    if before.name == "decimal" and after == FLOAT:
        return exact.divided(exact.unscaled(values, before), exact.power(before.scale), 0)
    return values.cast(after.column_type)


def _without_digits(numbers: pl.Expr, digits: int) -> pl.Expr:
    """Numbers without their last digits, and null where these are not all zero."""
    if not digits:
        return numbers
    ten = exact.power(digits)
    return exact.once([numbers], pl.Int128(), lambda each: pl.when(each % ten == 0).then(each // ten))


def _to_decimal(values: pl.Expr, before: Type, after: Type) -> pl.Expr:
    if after.scale >= before.scale:
        wide = exact.widened(values, before, after)
        if after.digits - after.scale >= before.digits - before.scale:
            return wide
        return exact.scaled(exact.fitting(wide.to_physical(), after.digits), after)
    fewer = before.scale - after.scale
    numbers = _without_digits(exact.unscaled(values, before), fewer)
    return exact.scaled(exact.fitting(numbers, after.digits), after)


def _from_text(values: pl.Expr, after: Type) -> pl.Expr:
    if after.name == "decimal":
        return _by_column(values, lambda column: _decimals(column, after), after)
    if after == TIMESTAMP:
        return _by_column(values, _moments, after)
    if after == INTEGER:
        return pl.when(values.str.contains(_INTEGER)).then(values).cast(pl.Int64, strict=False)
    if after == FLOAT:
        numbers = pl.when(values.str.contains(_NUMBER)).then(values).cast(pl.Float64, strict=False)
        return pl.when(numbers.is_finite()).then(numbers)
    if after == BOOLEAN:
        return pl.when(values == "true").then(True).when(values == "false").then(False)
    return pl.when(values.str.contains(_DATE)).then(values).str.to_date("%Y-%m-%d", strict=False)


def _to_text(values: pl.Expr, before: Type) -> pl.Expr:
    if before == TIMESTAMP:
        return _by_column(values, _moment_texts, TEXT)
    return values.cast(pl.String)


def _by_column(values: pl.Expr, change: Callable[[pl.Series], pl.Series], to: Type) -> pl.Expr:
    return values.map_batches(change, return_dtype=to.column_type, is_elementwise=True)


def _decimals(texts: pl.Series, to: Type) -> pl.Series:
    """Texts as decimals: those without an exponent by Polars, at once, the others one by one."""
    whole = to.precision - to.scale
    integers = rf"(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "0"
    fraction = rf"(?:\.[0-9]{{1,{to.scale}}}0{{0,9}})?" if to.scale else r"(?:\.0{1,9})?"
    is_plain = texts.str.contains(f"^-?{integers}{fraction}$")
    column_type = to.column_type
    if is_plain.all():  # nulls do not count
        return texts.cast(column_type, strict=False)
    found = texts.set(~is_plain, None).cast(column_type, strict=False)
    rest = (texts.str.contains(_NUMBER) & ~is_plain).fill_null(False)
    if not rest.any():
        return found
    rows = rest.arg_true()
    values = [_decimal(text, to) for text in texts.gather(rows)]
    return found.scatter(rows, pl.Series(values, dtype=column_type))


def _decimal(text: str, to: Type) -> Decimal | None:
    """The decimal that a JSON number spells; None if it has more digits than the type."""
    exponent = re.split("[eE]", text)[1:]
    if exponent and len(exponent[0].lstrip("+-0")) > _EXPONENT_DIGITS_MAX:
        return Decimal(0) if Decimal(re.split("[eE]", text)[0]) == 0 else None
    sign, digits, power = Decimal(text).as_tuple()
    assert isinstance(power, int)  # it is finite
    number = "".join(map(str, digits)).lstrip("0")
    shift = power + to.scale
    if number and shift < 0:
        if number.rstrip("0") and len(number) - len(number.rstrip("0")) < -shift:
            return None
        number = number[:shift]
    if len(number) + max(shift, 0) > to.precision and number:
        return None
    unscaled = tuple(map(int, number + "0" * max(shift, 0))) if number else (0,)
    return Decimal((sign, unscaled, -to.scale))  # arithmetic would round to 28 digits


def _moments(texts: pl.Series) -> pl.Series:
    is_there = texts.is_not_null().to_numpy()
    found, good = timecolumns.parse_texts(
        texts.drop_nulls().to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
    )
    nanoseconds = np.zeros(len(texts), np.int64)
    known = np.zeros(len(texts), bool)
    nanoseconds[is_there], known[is_there] = found, good
    return _where(known, pl.Series(texts.name, nanoseconds))


def _moment_texts(moments: pl.Series) -> pl.Series:
    known = moments.is_not_null().to_numpy()
    return _where(known, timecolumns.to_texts(moments.fill_null(0).to_numpy()).alias(moments.name))


def _where(known: np.ndarray[tuple[int], np.dtype[np.bool_]], values: pl.Series) -> pl.Series:
    return (
        values if known.all() else values.to_frame().select(pl.when(pl.Series(known)).then(pl.first())).to_series()
    )
