"""Arithmetic: exact on integers and decimals, and IEEE 754 on floats.

A sum has the larger scale, a product the sum of the scales, and what outgrows its type is null. `/` gives a float
that was rounded once; a division by 0 is null. Nothing is rounded but by `round`, `floor` and `ceil`, and by those
exactly: half away from zero, down, up.
"""

from __future__ import annotations

from functools import partial, reduce

import polars as pl

from evtool.projections import exact
from evtool.projections.expression import Call, RefusalError, can_overflow, largest_digits
from evtool.projections.signatures import Arguments, Function, as_type, as_types, integer_of, shown, want_number
from evtool.projections.sqltypes import (
    DIGITS_MAX,
    FLOAT,
    INTEGER,
    INTERVAL,
    NULL,
    TIMESTAMP,
    Type,
    common,
    decimal,
)


def _summands(sign: str, arguments: Arguments) -> tuple[Arguments, Type]:
    left, right = arguments[0].type, arguments[1].type
    if left == TIMESTAMP or right in (TIMESTAMP, INTERVAL):
        if (left, right) == (TIMESTAMP, INTERVAL) or (left, right, sign) == (INTERVAL, TIMESTAMP, "+"):
            return arguments, TIMESTAMP
        if (left, right) == (INTERVAL, INTERVAL) or (left, right, sign) == (TIMESTAMP, TIMESTAMP, "-"):
            return arguments, INTERVAL
        raise RefusalError(
            f"{left} {sign} {right} is nothing that can be computed", "Add an interval to a timestamp."
        )
    found = _numbers(arguments)
    if found.name != "decimal":
        return arguments, found
    whole = max(largest_digits(argument) - argument.type.scale for argument in arguments)
    return arguments, decimal(whole + 1 + found.scale, found.scale)


def _factors(arguments: Arguments) -> tuple[Arguments, Type]:
    found = _numbers(arguments)
    left, right = arguments[0].type, arguments[1].type
    if found.name != "decimal":
        return arguments, found
    scale = left.scale + right.scale
    if scale > DIGITS_MAX:
        raise RefusalError(
            f"{shown(arguments[0])} * {shown(arguments[1])} has {scale} digits behind the point",
            f"The most are {DIGITS_MAX}: round one of them.",
        )
    return arguments, decimal(sum(map(largest_digits, arguments)), scale)


def _dividends(arguments: Arguments) -> tuple[Arguments, Type]:
    _numbers(arguments)
    return arguments, FLOAT


def _remainders(arguments: Arguments) -> tuple[Arguments, Type]:
    found = _numbers(arguments)
    if found == FLOAT:
        raise RefusalError("% is for integers and decimals, not for floats")
    return arguments, found


def _numbers(arguments: Arguments) -> Type:
    for at in range(len(arguments)):
        want_number(arguments, at)
    found = reduce(lambda left, right: common(left, right) or left, (argument.type for argument in arguments))
    return INTEGER if found == NULL else found


def _lower_sum(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    is_minus = call.function == "-"
    if call.type == FLOAT:
        left, right = as_types(call, columns, FLOAT)
        return left - right if is_minus else left + right
    if call.type.name != "decimal" and not can_overflow(call):
        left, right = (as_type(column, a.type, INTEGER) for column, a in zip(columns, call.arguments, strict=True))
        return left - right if is_minus else left + right
    left, right = _at_scale(call, columns, call.type.scale)
    return exact.added(left, exact.negated(right) if is_minus else right, call.type, can_overflow(call))


def _at_scale(call: Call, columns: list[pl.Expr], scale: int) -> list[pl.Expr]:
    """The numbers behind the arguments, all of one scale; null where they have too many digits for it."""
    wide = decimal(DIGITS_MAX, scale)
    pairs = [(column, argument.type) for column, argument in zip(columns, call.arguments, strict=True)]
    return [
        exact.unscaled(as_type(column, kind, wide), wide)
        if kind.is_exact and kind.scale != scale
        # Times and spans are numbers of nanoseconds.
        else exact.unscaled(column, kind)
        for column, kind in pairs
    ]


def _lower_product(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    if call.type == FLOAT or not (call.type.name == "decimal" or can_overflow(call)):
        left, right = as_types(call, columns, call.type)
        return left * right
    left, right = (exact.unscaled(c, a.type) for c, a in zip(columns, call.arguments, strict=True))
    return exact.multiplied(left, right, call.type, can_overflow(call))


def _lower_quotient(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    types = [argument.type for argument in call.arguments]
    if NULL in types:
        return pl.lit(None, dtype=pl.Float64)
    if FLOAT in types:
        left, right = as_types(call, columns, FLOAT)
        return pl.when(right != 0).then(left / right)
    left, right = (exact.unscaled(column, kind) for column, kind in zip(columns, types, strict=True))
    return exact.divided(left, right, types[1].scale - types[0].scale)


def _lower_remainder(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    left, right = _at_scale(call, columns, call.type.scale)
    return exact.remainder(left, right, call.type)


def _one_number(arguments: Arguments) -> tuple[Arguments, Type]:
    if arguments[0].type == INTERVAL:
        return arguments, INTERVAL
    return arguments, _numbers(arguments)


def _lower_negative(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    if call.type == FLOAT:
        return -columns[0]
    return exact.scaled(exact.negated(exact.unscaled(columns[0], call.arguments[0].type)), call.type)


def _lower_abs(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    if call.type == FLOAT:
        return columns[0].abs()
    return exact.scaled(exact.unscaled(columns[0], call.arguments[0].type).abs(), call.type)


def _rounding(arguments: Arguments) -> tuple[Arguments, Type]:
    found = _numbers(arguments[:1])
    digits = integer_of(arguments, 1, "the digits to keep", 0, DIGITS_MAX) if len(arguments) > 1 else 0
    if found.name != "decimal" or digits >= found.scale:
        return arguments, found
    return arguments, decimal(max(found.precision - found.scale + 1 + digits, 1), digits)


def _lower_round(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    before, after = call.arguments[0].type, call.type
    if after == FLOAT:
        digits = integer_of(call.arguments, 1, "the digits to keep", 0) if len(columns) > 1 else 0
        return columns[0].round(digits, mode="half_away_from_zero")
    if after.scale >= before.scale:
        return columns[0]
    return exact.rounded(exact.unscaled(columns[0], before), before.scale - after.scale, after)


def _whole(arguments: Arguments) -> tuple[Arguments, Type]:
    return _rounding(arguments[:1])


def _lower_whole(is_floor: bool, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    before, after = call.arguments[0].type, call.type
    if after == FLOAT:
        return columns[0].floor() if is_floor else columns[0].ceil()
    if before.scale == 0:
        return columns[0]
    numbers = exact.unscaled(columns[0], before)
    floored = exact.floored(numbers if is_floor else exact.negated(numbers), before.scale, after)
    return floored if is_floor else exact.scaled(exact.negated(floored.to_physical()), after)


OPERATORS: dict[str, Function] = {
    "+": Function("a + b", partial(_summands, "+"), _lower_sum, 2, 2),
    "-": Function("a - b", partial(_summands, "-"), _lower_sum, 2, 2),
    "*": Function("a * b", _factors, _lower_product, 2, 2),
    "/": Function("a / b", _dividends, _lower_quotient, 2, 2),
    "%": Function("a % b", _remainders, _lower_remainder, 2, 2),
    "negative": Function("-a", _one_number, _lower_negative),
}

FUNCTIONS: dict[str, Function] = {
    "abs": Function("abs(number)", _one_number, _lower_abs),
    "round": Function("round(number[, digits])", _rounding, _lower_round, 1, 2),
    "floor": Function("floor(number)", _whole, partial(_lower_whole, True)),
    "ceil": Function("ceil(number)", _whole, partial(_lower_whole, False)),
}
