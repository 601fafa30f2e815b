"""The grammar of expressions: sqlglot's, with no function of its own, and what it says of texts that are no SQL.

sqlglot knows hundreds of functions and gives each a node of its own, often without its place. Here every function
but CAST and EXTRACT stays a name with arguments, so that one whitelist decides.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.parser import Parser as _Parser

from evtool.projections.language.expression import ExpressionError

TEXT_CHARACTERS_MAX = 100_000


class _Grammar(sqlglot.Dialect):
    class Parser(_Parser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parse for name, parse in _Parser.FUNCTION_PARSERS.items() if name in ("CAST", "EXTRACT")
        }
        ARRAY_CONSTRUCTORS: ClassVar[dict[str, Any]] = {}  # a member may be called `list`, and have elements
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parse for name, parse in _Parser.NO_PAREN_FUNCTION_PARSERS.items() if name == "CASE"
        }


def syntax(text: str) -> exp.Expr:
    """sqlglot's tree of one expression. Raises ExpressionError."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise ExpressionError(f"an expression has {TEXT_CHARACTERS_MAX:,} characters at most")
    if not text.strip():
        raise ExpressionError("an expression is missing")
    try:
        tokens = _Grammar().tokenize(text)
        for colon, name in itertools.pairwise(tokens):
            if colon.token_type == sqlglot.TokenType.COLON and name.text.isidentifier():
                name.token_type = sqlglot.TokenType.VAR  # a parameter may be called as a word of SQL: `:where`
        parser = _Grammar().parser(error_level=ErrorLevel.IMMEDIATE)
        found = parser.parse_into(exp.Condition, tokens, text)
    except ParseError as error:
        raise _explained(error) from error
    except TokenError as error:
        raise ExpressionError("a text or a quoted name is not closed", *place(text, len(text) - 1)) from error
    except RecursionError as error:
        raise ExpressionError("the expression is nested too deep") from error
    nodes = [node for node in found if node is not None]
    if len(nodes) != 1 or len(found) != 1:
        raise ExpressionError("more than one expression", hint="One is wanted, without a semicolon.")
    return nodes[0]


def start(node: exp.Expr) -> int | None:
    """Where a node begins in its text; None if nothing in it says so."""
    return min((part.meta["start"] for part in node.walk() if "start" in part.meta), default=None)


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of an offset in a text."""
    before = text[: max(offset, 0)]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _explained(error: ParseError) -> ExpressionError:
    details = error.errors[0] if error.errors else {}
    near = str(details.get("highlight") or "")
    line, end = details.get("line") or 1, details.get("col") or 1
    column = max(end - len(near) + 1, 1) if "\n" not in near else 1
    description = str(details.get("description") or error)
    if "missing for" in description:
        message = f"something is missing at {near!r}"
    elif description.startswith("Expecting"):
        message = f"{description[0].lower()}{description[1:]} at {near!r}"
    else:
        message = f"{near!r} is not expected here"
    hint = ""
    if str(details.get("start_context") or "").endswith("."):
        hint = f'A key that is a word of SQL stands in quotes: "{near}".'
    return ExpressionError(message, line, column, hint)
