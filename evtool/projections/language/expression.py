"""Expressions as trees of typed nodes: what a definition's SQL texts become before anything is computed.

Every operator and function is a `Call` by the name that `functions` knows it by; casts and aggregates have nodes
of their own, since others ask for them. Nodes are immutable and compare by what they say.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from decimal import Decimal
from typing import TypeAlias

from evtool import timestamps
from evtool.event import INT64_MAX, INT64_MIN
from evtool.projections.language.sqltypes import (
    BOOLEAN,
    DIGITS_MAX,
    FLOAT,
    INTEGER_DIGITS,
    NULL,
    TEXT,
    Type,
    decimal,
)
from evtool.projections.language.sqltypes import INTEGER as INTEGER
from evtool.projections.language.sqltypes import sum_type as sum_type

Value: TypeAlias = str | int | bool | Decimal | float | datetime.date | None

INTERVAL_UNITS_NS = {
    "nanosecond": 1,
    "microsecond": 1_000,
    "millisecond": 1_000_000,
    "second": 1_000_000_000,
    "minute": 60_000_000_000,
    "hour": 3_600_000_000_000,
    "day": 86_400_000_000_000,
    "week": 604_800_000_000_000,
}
_INFIX = {"=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "like", "ilike"}
_OPERATORS = _INFIX | {"and", "or", "not", "is null", "in", "negative"}


class ExpressionError(ValueError):
    """An expression that is refused: why, and where in its text (both from 1)."""

    def __init__(self, message: str, line: int = 1, column: int = 1, hint: str = "") -> None:
        super().__init__(f"{line}:{column}: {message}" + (f". {hint}" if hint else ""))
        self.message = message
        self.line = line
        self.column = column
        self.hint = hint


class RefusalError(ValueError):
    """What is wrong with a call before its place is known; `argument` is the number of the one at fault."""

    def __init__(self, message: str, hint: str = "", argument: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.argument = argument


class Expression:
    """A node of a tree."""

    type: Type

    def __str__(self) -> str:
        return canonical(self)


@dataclass(frozen=True)
class Literal(Expression):
    """A value that is written out: a time or span as nanoseconds, a date as one of Python."""

    value: Value
    type: Type


@dataclass(frozen=True)
class Column(Expression):
    """A stored column, but not payload or metadata as a whole."""

    name: str
    type: Type


@dataclass(frozen=True)
class JsonPath(Expression):
    """The value in `root` (payload or metadata) at keys (str) and indexes (int), as a text."""

    root: str
    steps: tuple[str | int, ...]
    type: Type = TEXT

    @property
    def column(self) -> str:
        """The name of the column that holds its values: different for different paths."""
        return self.root + "".join(
            f"[{step}]" if isinstance(step, int) else "." + quoted(step, '"') for step in self.steps
        )


@dataclass(frozen=True)
class Result(Expression):
    """A column that holds the results of an aggregate; it has no spelling in SQL."""

    name: str
    type: Type


@dataclass(frozen=True)
class Call(Expression):
    """An operator or function over arguments."""

    function: str
    arguments: tuple[Expression, ...]
    type: Type


@dataclass(frozen=True)
class Cast(Expression):
    """A value as another type; null where it is no value of that type."""

    argument: Expression
    type: Type


@dataclass(frozen=True)
class Aggregate(Expression):
    """One value of many rows: of those for which `filter` is true."""

    function: str
    arguments: tuple[Expression, ...]
    type: Type
    filter: Expression | None = None

    @property
    def is_distinct(self) -> bool:
        """Whether equal values count once."""
        return self.function == "count_distinct"

    @property
    def count(self) -> int:
        """How many values a `top_k` keeps; 0 for others."""
        last = self.arguments[-1] if self.function == "top_k" else None
        return last.value if isinstance(last, Literal) and isinstance(last.value, int) else 0


def literal(value: str | int | bool | Decimal) -> Literal:
    """The tree of a parameter's value. Raises ExpressionError for a number of more than 38 digits."""
    if isinstance(value, bool):
        return Literal(value, BOOLEAN)
    if isinstance(value, str):
        return Literal(value, TEXT)
    if isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        return Literal(value, INTEGER)
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or number.adjusted() >= DIGITS_MAX or -exponent > DIGITS_MAX:
        raise ExpressionError(f"{str(value)[:60]} has more than {DIGITS_MAX} digits")
    scale = max(-exponent, 0)
    whole = number if exponent <= 0 else Decimal(int(number))
    digits = max(number.adjusted() + 1, 0) + scale
    if digits > DIGITS_MAX:
        raise ExpressionError(f"{str(value)[:60]} has more than {DIGITS_MAX} digits")
    return Literal(whole, decimal(max(digits, 1), scale))


def canonical(expression: Expression) -> str:
    """The one SQL text of a tree, whatever spaces, case and parentheses it was written with."""
    match expression:
        case Literal():
            return _literal_text(expression)
        case Column() | Result():
            return expression.name
        case JsonPath():
            return expression.column
        case Cast():
            return f"CAST({canonical(expression.argument)} AS {expression.type.sql})"
        case Aggregate():
            return _aggregate_text(expression)
        case Call():
            return _call_text(expression)
    raise TypeError(f"{expression!r} is no expression")


def children(expression: Expression) -> tuple[Expression, ...]:
    """The nodes right below one."""
    match expression:
        case Call():
            return expression.arguments
        case Cast():
            return (expression.argument,)
        case Aggregate():
            return expression.arguments + ((expression.filter,) if expression.filter is not None else ())
    return ()


def walk(expression: Expression) -> Iterator[Expression]:
    """A node and all below it, in the order in which they are written."""
    yield expression
    for child in children(expression):
        yield from walk(child)


def depth(expression: Expression) -> int:
    """How many nodes lie below each other."""
    return 1 + max(map(depth, children(expression)), default=0)


def json_paths(expression: Expression) -> frozenset[JsonPath]:
    """The paths into payload and metadata."""
    return frozenset(node for node in walk(expression) if isinstance(node, JsonPath))


def columns(expression: Expression) -> frozenset[str]:
    """The stored columns that are read; payload or metadata where a path goes into them."""
    stored = {node.name for node in walk(expression) if isinstance(node, Column)}
    return frozenset(stored | {path.root for path in json_paths(expression)})


def aggregates(expression: Expression) -> tuple[Aggregate, ...]:
    """The aggregates, in order of appearance."""
    return tuple(node for node in walk(expression) if isinstance(node, Aggregate))


def casts(expression: Expression) -> tuple[Cast, ...]:
    """What may have no value of its type: casts, and sums and products that can outgrow their type.

    The latter are given as casts of themselves.
    """
    found: dict[Cast, None] = {}
    for node in walk(expression):
        if isinstance(node, Cast) and can_fail(node):
            found[node] = None
        elif isinstance(node, Call) and can_overflow(node):
            found[Cast(node, node.type)] = None
    return tuple(found)


def can_fail(cast: Cast) -> bool:
    """Whether there are values that have none of the other type."""
    before, after = cast.argument.type, cast.type
    if before.is_exact and after.name == "decimal":
        return after.scale < before.scale or after.digits - after.scale < before.digits - before.scale
    return (
        after.name not in ("text", "float")
        and (before.name, after.name) not in (("boolean", "integer"), ("timestamp", "date"))
    ) or (before == TEXT and after != TEXT)


def can_overflow(call: Call) -> bool:
    """Whether a result of exact arithmetic may lie outside of its type."""
    if call.function not in ("+", "-", "*", "negative", "abs") or call.type == FLOAT:
        return False
    if call.type.name != "decimal":
        return largest_digits(call) >= INTEGER_DIGITS
    if call.function == "*":
        return sum(map(largest_digits, call.arguments)) > DIGITS_MAX
    whole = max(largest_digits(argument) - argument.type.scale for argument in call.arguments)
    return call.function in "+-" and whole + 1 + call.type.scale > DIGITS_MAX


def largest_digits(expression: Expression) -> int:
    """How many digits the values of an expression can have; of integers a little is known beside their type."""
    if not isinstance(expression, Literal | Call) or expression.type != INTEGER:
        return expression.type.digits
    if isinstance(expression, Literal):
        return len(str(expression.value).lstrip("-"))
    match expression.function:
        case "case":
            values = (*expression.arguments[1:-1:2], expression.arguments[-1])
            return max(map(largest_digits, values))
        case "coalesce" | "greatest" | "least" | "negative" | "abs" | "nullif":
            return max(map(largest_digits, expression.arguments))
        case "+" | "-":
            return max(map(largest_digits, expression.arguments)) + 1
        case "*":
            return sum(map(largest_digits, expression.arguments))
    return INTEGER_DIGITS


def replace(expression: Expression, mapping: Mapping[Aggregate, Expression]) -> Expression:
    """The tree with other nodes in the place of aggregates."""
    match expression:
        case Aggregate() if expression in mapping:
            return mapping[expression]
        case Call():
            return changed(expression, arguments=tuple(replace(a, mapping) for a in expression.arguments))
        case Cast():
            return changed(expression, argument=replace(expression.argument, mapping))
    return expression


def quotient(numerator: Expression, denominator: Expression) -> Expression:
    """One integer or decimal by another: a float that is rounded once, null where nothing can be divided."""
    return Call("/", (numerator, denominator), FLOAT)


def types_needed(condition: Expression) -> frozenset[str] | None:
    """Event types of which one is needed for a condition to be true; None if it may be true for any type."""
    match condition:
        case Call("=", (Column("event_type"), Literal(str() as name))) | Call(
            "=", (Literal(str() as name), Column("event_type"))
        ):
            return frozenset({name})
        case Call("in", (Column("event_type"), *names)):
            return frozenset(str(name.value) for name in names if isinstance(name, Literal))
        case Call("and", parts):
            needed = [types for types in map(types_needed, parts) if types is not None]
            return frozenset.intersection(*needed) if needed else None
        case Call("or", parts):
            chosen: set[str] = set()
            for types in map(types_needed, parts):
                if types is None:
                    return None
                chosen |= types
            return frozenset(chosen)
        case Literal(False | None):
            return frozenset()
    return None


def types_named(expression: Expression) -> frozenset[str]:
    """The event types that an expression asks for by name anywhere; not those that it excludes."""
    match expression:
        case Call("not"):
            return frozenset()
        case Call("=" | "in"):
            own = types_needed(expression) or frozenset()
        case _:
            own = frozenset()
    return own.union(*map(types_named, children(expression)))


def quoted(text: str, quote: str = "'") -> str:
    """A text in quotes, in which the quote stands twice."""
    return quote + text.replace(quote, quote * 2) + quote


def _literal_text(node: Literal) -> str:
    value = node.value
    if value is None:
        return "NULL" if node.type == NULL else f"CAST(NULL AS {node.type.sql})"
    match node.type.name:
        case "text":
            return quoted(str(value))
        case "float":
            text = repr(value)
            return text if "e" in text else f"{text}e0"
        case "decimal":
            return f"{value:f}" if node.type.scale else f"{value:f}."  # so that it is no integer
        case "timestamp":
            assert isinstance(value, int)
            return f"TIMESTAMP '{timestamps.to_text(value)}'"
        case "date":
            return f"DATE '{value}'"
        case "interval":
            assert isinstance(value, int)
            unit = next(u for u in reversed(INTERVAL_UNITS_NS) if value % INTERVAL_UNITS_NS[u] == 0)
            return f"INTERVAL '{value // INTERVAL_UNITS_NS[unit]} {unit}s'"
    return str(value).upper()


def _aggregate_text(node: Aggregate) -> str:
    name = "count" if node.is_distinct else node.function
    arguments = ", ".join(map(canonical, node.arguments)) or "*"
    text = f"{name}({'DISTINCT ' if node.is_distinct else ''}{arguments})"
    return text if node.filter is None else f"{text} FILTER (WHERE {canonical(node.filter)})"


def _call_text(node: Call) -> str:
    if node.function in _OPERATORS:
        return _operator_text(node.function, [_operand(argument) for argument in node.arguments])
    arguments = [canonical(argument) for argument in node.arguments]
    if node.function != "case":
        return f"{node.function}({', '.join(arguments)})"
    *arms, otherwise = arguments
    pairs = zip(arms[::2], arms[1::2], strict=True)
    whens = " ".join(f"WHEN {condition} THEN {value}" for condition, value in pairs)
    return f"CASE {whens} ELSE {otherwise} END"


def _operator_text(function: str, operands: list[str]) -> str:
    if function in _INFIX or function in ("and", "or"):
        return f" {function.upper()} ".join(operands)
    match function:
        case "not":
            return f"NOT {operands[0]}"
        case "negative":
            return f"-{operands[0]}"
        case "is null":
            return f"{operands[0]} IS NULL"
    return f"{operands[0]} IN ({', '.join(operands[1:])})"


def _operand(expression: Expression) -> str:
    text = canonical(expression)
    is_operator = isinstance(expression, Call) and expression.function in _OPERATORS
    # A number below zero is read as one with a minus before it.
    is_negative = isinstance(expression, Literal) and text.startswith("-")
    return f"({text})" if is_operator or is_negative else text
