"""Trees -> expressions of Polars, over a frame with the stored columns and a String column for each JSON path."""

from __future__ import annotations

from dataclasses import replace as changed
from functools import reduce

import polars as pl

from evtool.event import STORED_SCHEMA
from evtool.projections.language import casting
from evtool.projections.language.expression import (
    Call,
    Cast,
    Column,
    Expression,
    JsonPath,
    Literal,
    Result,
    children,
)
from evtool.projections.language.functions import ALL


def lower(expression: Expression) -> pl.Expr:
    """The expression that computes a tree without aggregates: of the Polars type `expression.type.column_type`."""
    return _lowered(_settled(expression))


def failures(cast: Cast, value: pl.Expr | None = None) -> pl.Expr:
    """How many values have none of the wanted type, an integer: those that are there and come out as null.

    `value` is what the cast gives, where that is known.
    """
    argument = cast.argument
    if isinstance(argument, Call) and argument.type == cast.type:  # arithmetic that outgrows its type
        is_there = reduce(pl.Expr.and_, (lower(operand).is_not_null() for operand in argument.arguments))
    else:
        is_there = lower(argument).is_not_null()
    is_null = (lower(cast) if value is None else value).is_null()
    return (is_there & is_null).sum().cast(pl.Int64)


def _lowered(expression: Expression) -> pl.Expr:
    match expression:
        case Literal():
            return pl.lit(expression.value, dtype=expression.type.column_type)
        case Column(name):
            column = pl.col(name)
            return column if STORED_SCHEMA[name] == expression.type.column_type else column.cast(pl.Int64)
        case Result(name):
            return pl.col(name)
        case JsonPath():
            return pl.col(expression.column)
        case Cast(argument, wanted):
            return casting.cast(_lowered(argument), argument.type, wanted)
        case Call(function, arguments):
            return ALL[function].lower(expression, [_lowered(argument) for argument in arguments])
    raise TypeError(f"{expression!r} has no value in a single row")


def _settled(expression: Expression) -> Expression:
    """The tree with values for what reads nothing: what Polars makes of literals does not always fit rows."""
    match expression:
        case Call(_, arguments):
            expression = _decided(changed(expression, arguments=tuple(map(_settled, arguments))))
        case Cast(argument):
            expression = changed(expression, argument=_settled(argument))
        case _:
            return expression
    if all(isinstance(child, Literal) for child in children(expression)):
        return Literal(pl.select(_lowered(expression)).to_series()[0], expression.type)
    return expression


def _decided(call: Call) -> Call:
    """A choice without what can never be chosen, so that no column is made of literals alone."""
    if call.function == "coalesce":
        kept = [each for each in call.arguments if not (isinstance(each, Literal) and each.value is None)]
        end = next((at for at, each in enumerate(kept, 1) if isinstance(each, Literal)), len(kept))
        return changed(call, arguments=tuple(kept[:end]) or call.arguments[:1])
    if call.function != "case":
        return call
    *arms, otherwise = call.arguments
    possible: list[Expression] = []
    for condition, value in zip(arms[::2], arms[1::2], strict=True):
        if not isinstance(condition, Literal):
            possible += [condition, value]
        elif condition.value:
            otherwise = value
            break
    if not possible:
        return Call("coalesce", (otherwise,), call.type)
    return changed(call, arguments=(*possible, otherwise))
