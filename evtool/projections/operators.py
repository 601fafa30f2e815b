"""Comparison, logic and choice: operators that give a boolean, and what picks one of some values.

`and`, `or` and `not` know true, false and null as SQL does. Texts are compared by their bytes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial, reduce

import polars as pl

from evtool.projections import exact
from evtool.projections.expression import Call, Column, JsonPath, Literal, RefusalError, Result
from evtool.projections.signatures import (
    Arguments,
    Function,
    as_type,
    as_types,
    meet,
    shown,
    text_of,
    want,
)
from evtool.projections.sqltypes import (
    BOOLEAN,
    INTEGER,
    NULL,
    TEXT,
    Type,
    common,
)

MANY = 1_000

Binary = Callable[[pl.Expr, pl.Expr], pl.Expr]

_MIRRORED: dict[Binary, Binary] = {
    operator.lt: operator.gt,
    operator.le: operator.ge,
    operator.gt: operator.lt,
    operator.ge: operator.le,
}


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
    # Polars makes two rows of nulls, whatever their number, of some comparisons that begin with a literal.
    if isinstance(call.arguments[0], Literal):
        return _MIRRORED.get(compare, compare)(right, left)
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
    # Polars takes what it knows to be one value for a column of one row there.
    is_plain = isinstance(call.arguments[0], Column | JsonPath | Result)
    if is_plain and (types <= {TEXT} or types <= {INTEGER}):
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


def _case(arguments: Arguments) -> tuple[Arguments, Type]:
    conditions, values = arguments[:-1:2], (*arguments[1:-1:2], arguments[-1])
    for at in range(len(conditions)):
        want(arguments, 2 * at, BOOLEAN)
    try:
        met, found = meet(values)
    except RefusalError as refusal:  # its place is one among the values
        at = min(2 * (refusal.argument or 0) + 1, len(arguments) - 1)
        raise RefusalError(refusal.message, refusal.hint, at) from refusal
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
    """The first that is not null. Polars' own coalesce may make one row of a column of nulls and a literal."""
    found = as_types(call, columns, call.type)
    kinds = Literal | Column | JsonPath | Result
    if all(isinstance(each, kinds) and each.type == call.type for each in call.arguments):
        return _first_there(*found)
    return found[0] if len(found) == 1 else exact.once(found, call.type.column_type, _first_there)


def _first_there(*columns: pl.Expr) -> pl.Expr:
    *before, found = columns
    for column in reversed(before):
        found = pl.when(column.is_not_null()).then(column).otherwise(found)
    return found


def _lower_nullif(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    left, right = _for_comparison(call, columns)
    is_equal = right == left if isinstance(call.arguments[0], Literal) else left == right
    return pl.when(is_equal.fill_null(False)).then(None).otherwise(columns[0])


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
}
