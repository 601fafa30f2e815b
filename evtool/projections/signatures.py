"""What a function is: its name, what it takes, what comes out, and how columns go through it.

The checks here say what is wrong with an argument in terms of what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

import polars as pl

from evtool import timestamps
from evtool.projections import exact
from evtool.projections.casting import cast, is_allowed
from evtool.projections.expression import Call, Expression, Literal, RefusalError, canonical, largest_digits
from evtool.projections.sqltypes import BOOLEAN, DATE, FLOAT, INTEGER, NULL, TEXT, TIMESTAMP, Type, common, decimal

Arguments: TypeAlias = tuple[Expression, ...]
Check: TypeAlias = Callable[[Arguments], tuple[Arguments, Type]]
Lower: TypeAlias = Callable[[Call, list[pl.Expr]], pl.Expr]

_USUAL_DIGITS = 18


@dataclass(frozen=True)
class Function:
    """One function or operator of the language.

    `check` takes arguments (no fewer than `least`, no more than `most`) and gives them, with texts read as times
    where times are wanted, and the type of the result; it raises RefusalError. `lower` makes a column of columns.
    """

    usage: str
    check: Check
    lower: Lower
    least: int = 1
    most: int = 1


def shown(expression: Expression) -> str:
    """An expression for a message: without the quotes that plain names need not have."""
    text = re.sub(r'"([A-Za-z_][A-Za-z0-9_]*)"', r"\1", canonical(expression))
    return text if len(text) <= 80 else text[:77] + "..."


def cast_to_write(expression: Expression, wanted: Type) -> str:
    """The end of a message: the cast that makes a value one of another type; "" if there is none."""
    if not is_allowed(expression.type, wanted):
        return ""
    if wanted.is_exact and wanted.name == "decimal":
        wanted = decimal(max(wanted.precision, _USUAL_DIGITS), wanted.scale)
    name = {"integer": "bigint", "float": "double"}.get(wanted.name, str(wanted))
    return f": write cast({shown(expression)} as {name})"


def want(arguments: Arguments, at: int, *types: Type) -> None:
    """Refuse an argument that is of none of some types (or null)."""
    found = arguments[at].type
    if found == NULL or found in types or (found.name == "decimal" and INTEGER in types):
        return
    fix = cast_to_write(arguments[at], types[0])
    wanted = " or ".join(dict.fromkeys(_noun(each) for each in types))
    raise RefusalError(f"{shown(arguments[at])} is {found}, and {wanted} is wanted{fix}", argument=at)


def want_number(arguments: Arguments, at: int) -> None:
    """Refuse an argument that is no number (nor null)."""
    found = arguments[at].type
    if not found.is_number and found != NULL:
        others = [other.type for other in arguments if other.type.is_number]
        fix = cast_to_write(arguments[at], others[0] if others else INTEGER)
        raise RefusalError(f"{shown(arguments[at])} is {found}, and a number is wanted{fix}", argument=at)


def text_of(arguments: Sequence[Expression], at: int, what: str) -> str:
    """The text of an argument that must be written out. Raises RefusalError."""
    argument = arguments[at]
    if isinstance(argument, Literal) and isinstance(argument.value, str):
        return argument.value
    raise RefusalError(f"{what} must be written as a text, not as {shown(argument)}", argument=at)


def integer_of(arguments: Sequence[Expression], at: int, what: str, least: int, most: int = 2**31 - 1) -> int:
    """The number of an argument that must be written out. Raises RefusalError."""
    argument = arguments[at]
    if isinstance(argument, Literal) and argument.type == INTEGER and isinstance(argument.value, int):
        if least <= argument.value <= most:
            return argument.value
        raise RefusalError(f"{what} must be between {least} and {most}, not {argument.value}", argument=at)
    raise RefusalError(f"{what} must be written as a whole number, not as {shown(argument)}", argument=at)


def meet(arguments: Arguments) -> tuple[Arguments, Type]:
    """Arguments that are to be of one type (texts written out are read as times), and it. Raises RefusalError."""
    times = [argument.type for argument in arguments if argument.type in (TIMESTAMP, DATE)]
    if times:
        arguments = tuple(_as_time(arguments, at, times[0]) for at in range(len(arguments)))
    found = _tight(arguments[0])
    for at, argument in enumerate(arguments):
        shared = common(_tight(argument), found)
        if shared is None:
            raise _do_not_meet(arguments, at)
        found = shared
    return arguments, found


def as_type(values: pl.Expr, before: Type, to: Type) -> pl.Expr:
    """Values as a type that holds them all."""
    if before.is_exact and to.name == "decimal":
        return exact.widened(values, before, to)
    return cast(values, before, to)


def as_types(call: Call, columns: list[pl.Expr], to: Type) -> list[pl.Expr]:
    """All arguments as one type."""
    pairs = zip(columns, call.arguments, strict=True)
    return [as_type(column, argument.type, to) for column, argument in pairs]


def read_time(text: str, wanted: Type) -> Literal:
    """A time or date that is written as a text. Raises RefusalError."""
    try:
        if wanted == DATE:
            if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise ValueError(text)
            return Literal(date.fromisoformat(text), DATE)
        whole = f"{text}T00:00:00Z" if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else text
        return Literal(timestamps.parse_text(whole), TIMESTAMP)
    except ValueError as error:
        if wanted == DATE:
            raise RefusalError(f"{text[:60]!r} is no date", "Write it as '2026-01-31'.") from error
        raise RefusalError(str(error), "Write it as '2026-01-31T12:00:00Z', or a date.") from error


def _as_time(arguments: Arguments, at: int, wanted: Type) -> Expression:
    argument = arguments[at]
    if isinstance(argument, Literal) and isinstance(argument.value, str):
        try:
            return read_time(argument.value, wanted)
        except RefusalError as refusal:
            raise RefusalError(refusal.message, refusal.hint, at) from refusal
    return argument


def _tight(argument: Expression) -> Type:
    """The type of a number; of an integer that is written out, one with as few digits as it has."""
    if isinstance(argument, Literal) and argument.type == INTEGER:
        return decimal(largest_digits(argument), 0)
    return argument.type


def _do_not_meet(arguments: Arguments, at: int) -> RefusalError:
    """What to say of an argument whose type does not fit those before it."""
    before = next((other for other in reversed(arguments[:at]) if other.type != NULL), arguments[0])
    fault, other, place = arguments[at], before, at
    if before.type == TEXT:
        fault, other, place = before, fault, arguments.index(before)
    said = f"{shown(fault)} is {fault.type}, and {shown(other)} is {_noun(other.type)}"
    if fault.type == TEXT and isinstance(fault, Literal) and other.type.is_number:
        return RefusalError(f"{said}: write {fault.value!s:.60} without quotes", argument=place)
    if fault.type == TEXT:
        return RefusalError(f"{said}{cast_to_write(fault, other.type)}", argument=place)
    if {fault.type, other.type} == {DATE, TIMESTAMP}:
        moment = fault if fault.type == TIMESTAMP else other
        return RefusalError(f"{said}: write date({shown(moment)})", argument=place)
    return RefusalError(f"{said}: they cannot be compared", argument=place)


def _noun(of: Type) -> str:
    if of.is_number:
        return {"integer": "an integer", "float": "a float"}.get(of.name, f"a {of}")
    return {BOOLEAN: "a boolean", INTEGER: "an integer", TEXT: "text", FLOAT: "a float"}.get(of, f"a {of}")
