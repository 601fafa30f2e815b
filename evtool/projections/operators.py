"""The operators, and the functions that choose among values: comparison, logic, arithmetic, case.

`and`, `or` and `not` know true, false and null as SQL does. Arithmetic on integers and decimals is exact: a sum
has the larger scale, a product the sum of the scales, and what outgrows its type is null. `/` gives a float,
rounded once; a division by 0 is null.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial, reduce

import polars as pl

from evtool.projections import exact
from evtool.projections.expression import Call, Literal, RefusalError, can_overflow, largest_digits
from evtool.projections.signatures import (
    Arguments,
    Function,
    as_type,
    as_types,
    integer_of,
    meet,
    shown,
    text_of,
    want,
    want_number,
)
from evtool.projections.sqltypes import (
    BOOLEAN,
    DIGITS_MAX,
    FLOAT,
    INTEGER,
    INTERVAL,
    NULL,
    TEXT,
    TIMESTAMP,
    Type,
    common,
    decimal,
)

MANY = 1_000

Binary = Callable[[pl.Expr, pl.Expr], pl.Expr]


def _booleans(arguments: Arguments) -> tuple[Arguments, Type]:
    for at in range(len(arguments)):
        want(arguments, at, BOOLEAN)
    return arguments, BOOLEAN


def _lower_logic(combine: Binary, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return _balanced(combine, as_types(call, columns, BOOLEAN))


def _balanced(combine: Binary, columns: list[pl.Expr]) -> pl.Expr:
    """All columns combined, by a tree that is as low as can be: Polars walks through it recursively."""
    while len(columns) > 1:
        pairs = [combine(left, right) for left, right in zip(columns[::2], columns[1::2], strict=False)]
        columns = pairs + columns[len(pairs) * 2 :]
    return columns[0]


def _comparable(arguments: Arguments) -> tuple[Arguments, Type]:
    return meet(arguments)[0], BOOLEAN


def _lower_comparison(compare: Binary, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    left, right = _for_comparison(call, columns)
    return compare(left, right)


def _for_comparison(call: Call, columns: list[pl.Expr]) -> list[pl.Expr]:
    types = [argument.type for argument in call.arguments]
    if all(each.is_exact for each in types):
        return columns  # Polars compares integers and decimals of any scales exactly
    shared = reduce(lambda left, right: common(left, right) or left, types)
    return as_types(call, columns, shared)


def _members(arguments: Arguments) -> tuple[Arguments, Type]:
    for at, member in enumerate(arguments[1:], 1):
        if not isinstance(member, Literal) or member.value is None:
            raise RefusalError(
                f"a list after IN holds values that are written out, not {shown(member)}", argument=at
            )
    return _comparable(arguments)


def _lower_in(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    types = {argument.type for argument in call.arguments}
    if types <= {TEXT} or types <= {INTEGER}:
        values = [member.value for member in call.arguments[1:] if isinstance(member, Literal)]
        return columns[0].is_in(pl.Series(values, dtype=call.arguments[0].type.column_type).implode())
    value, *members = _for_comparison(call, columns)
    return _balanced(operator.or_, [value == member for member in members])


def _pattern(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    text_of(arguments, 1, "a pattern")
    return arguments, BOOLEAN


def _lower_like(flags: str, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    pattern = text_of(call.arguments, 1, "a pattern")
    text = as_type(columns[0], call.arguments[0].type, TEXT)
    inner = pattern.strip("%")
    if not flags and "%" not in inner and "_" not in inner:
        match pattern.startswith("%"), pattern.endswith("%"):
            case False, False:
                return text == pattern
            case False, True:
                return text.str.starts_with(inner)
            case True, False:
                return text.str.ends_with(inner)
            case True, True:
                return text.str.contains(inner, literal=True)
    wild = {"%": ".*", "_": "."}
    parts = "".join(wild.get(part, pl.escape_regex(part)) for part in re.split("([%_])", pattern))
    return text.str.contains(f"^(?s{flags}:{parts})$")


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


def _case(arguments: Arguments) -> tuple[Arguments, Type]:
    conditions, values = arguments[:-1:2], (*arguments[1:-1:2], arguments[-1])
    for at in range(len(conditions)):
        try:
            want(conditions, at, BOOLEAN)
        except RefusalError as refusal:
            raise RefusalError(refusal.message, refusal.hint, 2 * at) from refusal
    met, found = meet(values)
    pairs = zip(conditions, met[:-1], strict=True)
    return (*(each for pair in pairs for each in pair), met[-1]), _settled(found, met)


def _lower_case(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    result = as_type(columns[-1], call.arguments[-1].type, call.type)
    for at in range(len(columns) - 3, -1, -2):
        condition = as_type(columns[at], call.arguments[at].type, BOOLEAN)
        value = as_type(columns[at + 1], call.arguments[at + 1].type, call.type)
        result = pl.when(condition).then(value).otherwise(result)
    return result


def _alike(arguments: Arguments) -> tuple[Arguments, Type]:
    met, found = meet(arguments)
    return met, _settled(found, met)


def _settled(found: Type, values: Arguments) -> Type:
    """The type of a choice: of integers alone an integer, whatever their digits."""
    return INTEGER if all(value.type in (INTEGER, NULL) for value in values) and found != NULL else found


def _lower_coalesce(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    """The first that is not null; of what is written out, nothing behind it counts (Polars loses the rows there)."""
    kept: list[pl.Expr] = []
    for argument, column in zip(call.arguments, as_types(call, columns, call.type), strict=True):
        if isinstance(argument, Literal) and argument.value is None:
            continue
        kept.append(column)
        if isinstance(argument, Literal):
            break
    return pl.coalesce(kept or columns) if len(kept) != 1 else kept[0]


def _lower_nullif(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    left, right = _for_comparison(call, columns)
    return pl.when((left == right).fill_null(False)).then(None).otherwise(columns[0])


def _first_type(arguments: Arguments) -> tuple[Arguments, Type]:
    met, _ = meet(arguments)
    return met, met[0].type


OPERATORS: dict[str, Function] = {
    "and": Function("a AND b", _booleans, partial(_lower_logic, operator.and_), 2, MANY),
    "or": Function("a OR b", _booleans, partial(_lower_logic, operator.or_), 2, MANY),
    "not": Function("NOT a", _booleans, lambda call, columns: ~as_types(call, columns, BOOLEAN)[0]),
    "is null": Function("a IS NULL", lambda a: (a, BOOLEAN), lambda call, columns: columns[0].is_null()),
    "in": Function("a IN (1, 2)", _members, _lower_in, 2, MANY),
    "like": Function("a LIKE 'b%'", _pattern, partial(_lower_like, ""), 2, 2),
    "ilike": Function("a ILIKE 'b%'", _pattern, partial(_lower_like, "i"), 2, 2),
    "+": Function("a + b", partial(_summands, "+"), _lower_sum, 2, 2),
    "-": Function("a - b", partial(_summands, "-"), _lower_sum, 2, 2),
    "*": Function("a * b", _factors, _lower_product, 2, 2),
    "/": Function("a / b", _dividends, _lower_quotient, 2, 2),
    "%": Function("a % b", _remainders, _lower_remainder, 2, 2),
    "negative": Function("-a", _one_number, _lower_negative),
    "case": Function("CASE WHEN a THEN b ELSE c END", _case, _lower_case, 3, MANY),
} | {
    symbol: Function(f"a {symbol} b", _comparable, partial(_lower_comparison, compare), 2, 2)
    for symbol, compare in {
        "=": operator.eq,
        "<>": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }.items()
}

CHOICES: dict[str, Function] = {
    "coalesce": Function("coalesce(a, b, …)", _alike, _lower_coalesce, 1, MANY),
    "nullif": Function("nullif(a, b)", _first_type, _lower_nullif, 2, 2),
    "greatest": Function(
        "greatest(a, b, …)", _alike, lambda c, v: pl.max_horizontal(as_types(c, v, c.type)), 1, MANY
    ),
    "least": Function("least(a, b, …)", _alike, lambda c, v: pl.min_horizontal(as_types(c, v, c.type)), 1, MANY),
    "abs": Function("abs(number)", _one_number, _lower_abs),
    "round": Function("round(number[, digits])", _rounding, _lower_round, 1, 2),
    "floor": Function("floor(number)", _whole, partial(_lower_whole, True)),
    "ceil": Function("ceil(number)", _whole, partial(_lower_whole, False)),
}
