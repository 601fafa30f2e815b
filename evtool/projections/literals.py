"""What stands for itself in an expression: numbers, spans of time, and the types that a cast can name."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from sqlglot import exp

from evtool.event import INT64_MAX
from evtool.projections import expression as tree
from evtool.projections.expression import ExpressionError, Literal, RefusalError
from evtool.projections.sqltypes import (
    BOOLEAN,
    DATE,
    DIGITS_MAX,
    FLOAT,
    INTEGER,
    INTERVAL,
    TEXT,
    TIMESTAMP,
    Type,
    decimal,
)

_CAST_TYPES: dict[object, Type] = {
    exp.DataType.Type.TEXT: TEXT,
    exp.DataType.Type.VARCHAR: TEXT,
    exp.DataType.Type.INT: INTEGER,
    exp.DataType.Type.BIGINT: INTEGER,
    exp.DataType.Type.FLOAT: FLOAT,
    exp.DataType.Type.DOUBLE: FLOAT,
    exp.DataType.Type.BOOLEAN: BOOLEAN,
    exp.DataType.Type.DATE: DATE,
    exp.DataType.Type.TIMESTAMP: TIMESTAMP,
    exp.DataType.Type.TIMESTAMPTZ: TIMESTAMP,
}


def cast_type(written: exp.Expr) -> Type:
    """The type that a cast names. Raises RefusalError."""
    sizes = [str(size.this.this) for size in written.expressions if isinstance(size, exp.DataTypeParam)]
    if written.this == exp.DataType.Type.DECIMAL and 1 <= len(sizes) <= 2 and all(map(str.isdigit, sizes)):
        precision, scale = int(sizes[0]), int(sizes[1]) if len(sizes) > 1 else 0
        if 1 <= precision <= DIGITS_MAX and scale <= precision:
            return decimal(precision, scale)
    found = _CAST_TYPES.get(written.this)
    if found is None or written.expressions or written.args.get("nested"):
        raise RefusalError(
            f"there is no type {written.sql().lower()[:60]}",
            "There are text, bigint, decimal(18,2), double, boolean, date and timestamp; a decimal has up to "
            f"{DIGITS_MAX} digits.",
        )
    return found


def number(text: str) -> Literal:
    """A number as it is written: an integer, a decimal with a point in it, a float with an exponent.

    Raises RefusalError.
    """
    if "e" in text.lower():
        if math.isinf(float(text)):
            raise RefusalError(f"{text[:60]} is too large for a float")
        return Literal(float(text), FLOAT)
    try:
        if "." not in text:
            return tree.literal(int(text))
        found = Decimal(text)
        return tree.literal(found if found else found.copy_abs())
    except (ExpressionError, ArithmeticError, ValueError) as error:
        raise RefusalError(getattr(error, "message", f"{text[:60]} is no number")) from error


def interval(node: exp.Expr) -> Literal:
    """A span of time, of a whole number of units that have a fixed length. Raises RefusalError."""
    count, unit = node.this, str(getattr(node.args.get("unit"), "this", "") or "").lower()
    factor = tree.INTERVAL_UNITS_NS.get(unit.removesuffix("s"))
    if unit.removesuffix("s") in ("month", "quarter", "year"):
        raise RefusalError(f"a {unit.removesuffix('s')} has no fixed length", "Use days or weeks, or date_trunc.")
    if factor is None or not isinstance(count, exp.Literal) or not re.fullmatch("-?[0-9]{1,19}", count.this):
        raise RefusalError("an interval is a whole number and a unit", "As in interval '30 minutes'.")
    if abs(int(count.this) * factor) > INT64_MAX:
        raise RefusalError("the interval is longer than 292 years")
    return Literal(int(count.this) * factor, INTERVAL)


def negated(found: Literal) -> Literal:
    """A number or span with the other sign."""
    if isinstance(found.value, Decimal):  # minus would round it
        return Literal(found.value.copy_negate() if found.value else found.value, found.type)
    assert isinstance(found.value, int | float)
    return tree.literal(-int(found.value)) if found.type == INTEGER else Literal(-found.value, found.type)
