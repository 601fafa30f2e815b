"""Functions of texts. A character is a Unicode code point, positions count from 1, case is Unicode's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import polars as pl

from evtool.projections.expression import Call, RefusalError
from evtool.projections.signatures import Arguments, Function, as_types, integer_of, text_of, want
from evtool.projections.sqltypes import BOOLEAN, INTEGER, TEXT, Type

_MANY = 1_000


def _texts(result: Type, arguments: Arguments) -> tuple[Arguments, Type]:
    for at in range(len(arguments)):
        want(arguments, at, TEXT)
    return arguments, result


def _on_texts(change: Callable[..., pl.Expr], call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return change(*as_types(call, columns, TEXT))


def _concatenate(ignore_nulls: bool, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return pl.concat_str(as_types(call, columns, TEXT), ignore_nulls=ignore_nulls)


def _trimmed(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    if len(arguments) > 1:
        text_of(arguments, 1, "the characters to trim")
    return arguments, TEXT


def _trim(change: Callable[[pl.Expr, str], pl.Expr], call: Call, columns: list[pl.Expr]) -> pl.Expr:
    characters = text_of(call.arguments, 1, "the characters to trim") if len(columns) > 1 else " "
    text = columns[0].cast(pl.String)
    return change(text, characters) if characters else text


def _part(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    integer_of(arguments, 1, "the first character, from 1,", 1)
    if len(arguments) > 2:
        integer_of(arguments, 2, "the number of characters", 0)
    return arguments, TEXT


def _slice(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    start = integer_of(call.arguments, 1, "the first character", 1)
    length = integer_of(call.arguments, 2, "the number of characters", 0) if len(columns) > 2 else None
    return columns[0].cast(pl.String).str.slice(start - 1, length)


def _some(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    integer_of(arguments, 1, "the number of characters", 0)
    return arguments, TEXT


def _ends(take: Callable[[pl.Expr, int], pl.Expr], call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return take(columns[0].cast(pl.String), integer_of(call.arguments, 1, "the number of characters", 0))


def _replaced(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    for at, what in ((1, "the text to replace"), (2, "what replaces it")):
        text_of(arguments, at, what)
    if not text_of(arguments, 1, "the text to replace"):
        raise RefusalError("the text to replace is empty", argument=1)
    return arguments, TEXT


def _replace(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    old, new = (text_of(call.arguments, at, "a text") for at in (1, 2))
    return columns[0].cast(pl.String).str.replace_all(old, new, literal=True)


def _split(arguments: Arguments) -> tuple[Arguments, Type]:
    want(arguments, 0, TEXT)
    if not text_of(arguments, 1, "the separator"):
        raise RefusalError("the separator is empty", argument=1)
    integer_of(arguments, 2, "the number of the part, from 1,", 1)
    return arguments, TEXT


def _take_part(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    text, number = columns[0].cast(pl.String), integer_of(call.arguments, 2, "the part", 1)
    parts = text.str.split(text_of(call.arguments, 1, "the separator"))
    found = parts.list.get(number - 1, null_on_oob=True)
    return pl.when(text.is_not_null()).then(found.fill_null(""))  # as SQL has it: "" where there is no such part


def _simple(usage: str, result: Type, change: Callable[..., pl.Expr], count: int = 1) -> Function:
    return Function(usage, partial(_texts, result), partial(_on_texts, change), count, count)


FUNCTIONS: dict[str, Function] = {
    "||": Function("a || b", partial(_texts, TEXT), partial(_concatenate, False), 2, _MANY),
    "concat": Function("concat(a, b, …)", partial(_texts, TEXT), partial(_concatenate, True), 1, _MANY),
    "lower": _simple("lower(text)", TEXT, lambda text: text.str.to_lowercase()),
    "upper": _simple("upper(text)", TEXT, lambda text: text.str.to_uppercase()),
    "length": _simple("length(text)", INTEGER, lambda text: text.str.len_chars().cast(pl.Int64)),
    "starts_with": _simple("starts_with(text, start)", BOOLEAN, lambda a, b: a.str.starts_with(b), 2),
    "ends_with": _simple("ends_with(text, end)", BOOLEAN, lambda a, b: a.str.ends_with(b), 2),
    "contains": _simple("contains(text, part)", BOOLEAN, lambda a, b: a.str.contains(b, literal=True), 2),
    "trim": Function(
        "trim(text[, characters])", _trimmed, partial(_trim, lambda t, c: t.str.strip_chars(c)), 1, 2
    ),
    "ltrim": Function(
        "ltrim(text[, characters])", _trimmed, partial(_trim, lambda t, c: t.str.strip_chars_start(c)), 1, 2
    ),
    "rtrim": Function(
        "rtrim(text[, characters])", _trimmed, partial(_trim, lambda t, c: t.str.strip_chars_end(c)), 1, 2
    ),
    "substring": Function("substring(text, start[, length])", _part, _slice, 2, 3),
    "left": Function("left(text, count)", _some, partial(_ends, lambda t, n: t.str.head(n)), 2, 2),
    "right": Function("right(text, count)", _some, partial(_ends, lambda t, n: t.str.tail(n)), 2, 2),
    "replace": Function("replace(text, old, new)", _replaced, _replace, 3, 3),
    "split_part": Function("split_part(text, separator, number)", _split, _take_part, 3, 3),
}
