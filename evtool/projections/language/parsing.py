"""SQL texts -> trees: names are looked up, types checked, and everything that is not on the whitelist refused."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

from sqlglot import exp

from evtool.event import STORED_SCHEMA
from evtool.projections.language import casting, functions, grammar, literals
from evtool.projections.language import expression as tree
from evtool.projections.language.expression import (
    Aggregate,
    Call,
    Cast,
    Column,
    Expression,
    ExpressionError,
    JsonPath,
    Literal,
    RefusalError,
)
from evtool.projections.language.signatures import read_time, shown, want
from evtool.projections.language.sqltypes import (
    BOOLEAN,
    DATE,
    INTEGER,
    INTERVAL,
    NULL,
    TEXT,
    TIMESTAMP,
    Type,
)

DEPTH_MAX = 200
NODES_MAX = 20_000

_Made = TypeVar("_Made")

_JSON = ("payload", "metadata")
_COLUMNS: dict[str, Type] = {
    name: TIMESTAMP if name in ("timestamp", "recorded_at") else INTEGER if kind.is_integer() else TEXT
    for name, kind in STORED_SCHEMA.items()
    if name not in _JSON
}
_BINARY: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
    exp.DPipe: "||",
    exp.Like: "like",
    exp.ILike: "ilike",
}
# What a node may say beside its operands without meaning anything else.
_IGNORED = {"typed", "safe", "is_string", "quoted", "nested", "_type"}


def parse(text: str, parameters: Mapping[str, Expression] | None = None, *, measure: bool = False) -> Expression:
    """The tree of a text, in which `:name` stands for a parameter's. Only a measure has aggregates.

    Raises ExpressionError with the place in the text.
    """
    try:
        found = _Reader(text, parameters or {}, measure).read()
        if len(list(itertools.islice(tree.walk(found), NODES_MAX + 1))) > NODES_MAX:
            raise ExpressionError(f"the expression has more than {NODES_MAX:,} parts")
        if tree.depth(found) > DEPTH_MAX:
            raise ExpressionError(f"the expression is nested deeper than {DEPTH_MAX}")
    except RecursionError as error:
        raise ExpressionError("the expression is nested too deep") from error
    return found


def compares(text: str) -> bool:
    """Whether a text is SQL that compares two sides, whatever they are."""
    try:
        return isinstance(grammar.syntax(text), exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE)
    except ExpressionError:
        return False


class _Reader:
    """Turns sqlglot's nodes of one text into ours."""

    def __init__(self, text: str, parameters: Mapping[str, Expression], measure: bool) -> None:
        self._text = text
        self._parameters = parameters
        self._is_measure = measure
        self._is_inside = False  # of an aggregate

    def read(self) -> Expression:
        node = grammar.syntax(self._text)
        found = self._read(node)
        if self._is_measure and not tree.aggregates(found):
            self._fail(node, "a measure needs an aggregate", f"As in max({shown(found)}) or count(*).")
        return found

    def _read(self, node: exp.Expr) -> Expression:
        kind = type(node)
        if kind in _BINARY:
            return self._binary(node)
        read = _READERS.get(kind)
        if read is None:
            self._fail(node, f"{_name(node)} is not part of the language")
        return read(self, node)

    def _parts(self, node: exp.Expr, *names: str) -> None:
        """Refuse a node that says more than what is read of it."""
        for name, value in node.args.items():
            if value and name not in names and name not in _IGNORED:
                self._fail(node, f"{_name(node)} with {name.replace('_', ' ')} is not part of the language")

    def _call(
        self, node: exp.Expr, name: str, nodes: Sequence[exp.Expr], arguments: Sequence[Expression]
    ) -> Expression:
        """An operator or function over arguments that come of some nodes."""
        function = functions.ALL[name]
        if not function.least <= len(arguments) <= function.most:
            self._fail(node, f"{len(arguments)} arguments are not what {name} takes", f"Write {function.usage}.")
        try:
            checked, result = function.check(tuple(arguments))
        except RefusalError as refusal:
            at = node if refusal.argument is None else nodes[refusal.argument]
            self._fail(at, refusal.message, refusal.hint)
        return Call(name, checked, result)

    def _binary(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expression", "negate")
        nodes = [node.this, node.expression]
        found = self._call(node, _BINARY[type(node)], nodes, [self._read(operand) for operand in nodes])
        return Call("not", (found,), BOOLEAN) if node.args.get("negate") else found

    def _logic(self, node: exp.Expr) -> Expression:
        """AND or OR, of as many operands as there are in a row."""
        name, nodes, rest = type(node).__name__.lower(), list[exp.Expr](), [node]
        while rest:
            operand = rest.pop()
            if type(operand.unnest()) is type(node):
                self._parts(operand.unnest(), "this", "expression")
                rest += [operand.unnest().expression, operand.unnest().this]
            else:
                nodes.append(operand)
        operands: list[Expression] = []
        places: list[exp.Expr] = []
        for operand in nodes:  # a parameter may be an AND or OR itself
            found = self._read(operand)
            more = found.arguments if isinstance(found, Call) and found.function == name else (found,)
            operands += more
            places += [operand] * len(more)
        return self._call(node, name, places, operands)

    def _not(self, node: exp.Expr) -> Expression:
        return self._call(node, "not", [node.this], [self._read(node.this)])

    def _paren(self, node: exp.Expr) -> Expression:
        return self._read(node.this)

    def _negative(self, node: exp.Expr) -> Expression:
        inner = node.this.unnest()
        if isinstance(inner, exp.Literal) and not inner.is_string:
            return self._number(inner, f"-{inner.this}")
        found = self._read(node.this)
        if (
            isinstance(found, Literal)
            and (found.type.is_number or found.type == INTERVAL)
            and found.value is not None
        ):
            return literals.negated(found)
        return self._call(node, "negative", [node.this], [found])

    def _is(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expression")
        value, what = self._read(node.this), node.expression
        if isinstance(what, exp.Null):
            return self._call(node, "is null", [node.this], [value])
        if not isinstance(what, exp.Boolean):
            self._fail(node, "IS goes with NULL, TRUE and FALSE", "Write = to compare.")
        self._refusing(node.this, lambda: want((value,), 0, BOOLEAN))
        if not what.this:
            value = self._call(node, "not", [node.this], [value])
        return self._call(node, "coalesce", [node.this, what], [value, Literal(False, BOOLEAN)])

    def _in(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expressions")
        nodes = [node.this, *node.expressions]
        return self._call(node, "in", nodes, [self._read(each) for each in nodes])

    def _between(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "low", "high")
        value = self._read(node.this)
        bounds = [
            self._call(node, symbol, [node.this, bound], [value, self._read(bound)])
            for symbol, bound in ((">=", node.args["low"]), ("<=", node.args["high"]))
        ]
        return self._call(node, "and", [node, node], bounds)

    def _case(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "ifs", "default")
        value = self._read(node.this) if node.this else None
        nodes: list[exp.Expr] = []
        arguments: list[Expression] = []
        for arm in node.args["ifs"]:
            condition = self._read(arm.this)
            if value is not None:
                condition = self._call(node, "=", [node.this, arm.this], [value, condition])
            nodes += [arm.this, arm.args["true"]]
            arguments += [condition, self._read(arm.args["true"])]
        default = node.args.get("default")
        otherwise = self._read(default) if default is not None else Literal(None, NULL)
        return self._call(node, "case", [*nodes, default or node], [*arguments, otherwise])

    def _cast(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "to")
        value, wanted = self._read(node.this), self._refusing(node, lambda: literals.cast_type(node.args["to"]))
        if isinstance(value, Literal) and value.value is None:
            return Literal(None, wanted)
        if isinstance(value, Literal) and isinstance(value.value, str) and wanted in (TIMESTAMP, DATE):
            return self._refusing(node.this, lambda: read_time(str(value.value), wanted))
        if not casting.is_allowed(value.type, wanted):
            self._fail(node, f"{shown(value)} is {value.type}, which cannot be cast to {wanted}")
        return value if value.type == wanted else Cast(value, wanted)

    def _literal(self, node: exp.Expr) -> Expression:
        return Literal(str(node.this), TEXT) if node.is_string else self._number(node, str(node.this))

    def _number(self, node: exp.Expr, text: str) -> Expression:
        return self._refusing(node, lambda: literals.number(text))

    def _interval(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "unit")
        return self._refusing(node, lambda: literals.interval(node))

    def _boolean(self, node: exp.Expr) -> Expression:
        return Literal(bool(node.this), BOOLEAN)

    def _null(self, node: exp.Expr) -> Expression:
        return Literal(None, NULL)

    def _parameter(self, node: exp.Expr) -> Expression:
        name = node.this
        if name not in self._parameters:
            known = ", ".join(f":{each}" for each in self._parameters) or "none"
            self._fail(
                node,
                f"there is no parameter :{name}" if name else "a parameter has a name, as in :name",
                f"There are: {known}.",
            )
        found = self._parameters[name]
        if tree.columns(found):
            self._check_place(node, f":{name}")
        return found

    def _column(self, node: exp.Expr) -> Expression:
        root, *steps = self._steps(node)
        name = str(root)
        known = name.lower()
        if known in _JSON:
            if not steps:
                self._fail(node, f"{known} as a whole is no value", f"Name a key, as in {known}.user_id.")
            found: Expression = JsonPath(known, tuple(steps))
        elif known not in _COLUMNS:
            self._no_column(node, name, steps)
        elif steps:
            self._fail(node, f"{known} has no members", "Only payload and metadata have.")
        else:
            found = Column(known, _COLUMNS[known])
        self._check_place(node, shown(found))
        return found

    def _steps(self, node: exp.Expr) -> list[str | int]:
        """What stands between the points and brackets of a name."""
        if isinstance(node, exp.Identifier):
            return [str(node.this)]
        if isinstance(node, exp.Column):
            self._parts(node, "this", "table", "db", "catalog")
            return [step for part in node.parts for step in self._steps(part)]
        if isinstance(node, exp.Dot):
            return self._steps(node.this) + self._steps(node.expression)
        if isinstance(node, exp.Bracket):
            self._parts(node, "this", "expressions")
            index = node.expressions[0] if len(node.expressions) == 1 else None
            if isinstance(index, exp.Literal) and (index.is_string or re.fullmatch("[0-9]{1,9}", index.this)):
                return [*self._steps(node.this), index.this if index.is_string else int(index.this)]
            self._fail(node, "an index is a whole number from 0 on, or a key in single quotes")
        return self._fail(node, f"{_name(node)} is no step of a path", "As in payload.items[0].name.")

    def _no_column(self, node: exp.Expr, name: str, steps: Sequence[str | int]) -> NoReturn:
        if name not in ("", *_COLUMNS) and _is_quoted(node):
            text = name.replace("'", "''")
            self._fail(node, f"there is no column {name[:60]!r}", f"Texts stand in single quotes: '{text[:60]}'.")
        near = difflib.get_close_matches(name.lower(), [*_COLUMNS, *_JSON], n=2)
        plain = re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        member = shown(JsonPath("payload", (name, *steps))) if plain else ""
        meant = [*near, *([member] if member else [])]
        self._fail(
            node, f"there is no column {name[:60]!r}", f"Did you mean {' or '.join(meant)}?" if meant else ""
        )

    def _check_place(self, node: exp.Expr, what: str) -> None:
        if self._is_measure and not self._is_inside:
            self._fail(node, f"{what} stands outside of an aggregate", f"As in max({what}); or make it a key.")

    def _extract(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expression")
        name = functions.OTHER_NAMES.get(str(node.this.this).lower(), str(node.this.this).lower())
        if name not in functions.FIELDS:
            self._fail(node, f"{name!r} is no field of a time", f"There are: {', '.join(functions.FIELDS)}.")
        return self._call(node, name, [node.expression], [self._read(node.expression)])

    def _zone(self, node: exp.Expr) -> NoReturn:
        self._fail(node, "AT TIME ZONE is not part of the language", "Write date(timestamp, 'Europe/Berlin').")

    def _function(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expressions")
        written = str(node.this).lower()
        name = functions.OTHER_NAMES.get(written, written)
        if name in functions.AGGREGATES:
            return self._aggregate(node, name, None)
        if name not in functions.BY_NAME:
            known = [*functions.BY_NAME, *functions.AGGREGATES, *functions.OTHER_NAMES]
            near = difflib.get_close_matches(written, known, n=1, cutoff=0.7)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            self._fail(node, f"there is no function {written[:60]!r}", hint)
        return self._call(node, name, node.expressions, [self._read(each) for each in node.expressions])

    def _filter(self, node: exp.Expr) -> Expression:
        self._parts(node, "this", "expression")
        aggregate, where = node.this, node.expression
        name = str(aggregate.this).lower() if isinstance(aggregate, exp.Anonymous) else ""
        if name not in functions.AGGREGATES or not isinstance(where, exp.Where):
            self._fail(node, "FILTER goes with an aggregate", "As in count(*) filter (where …).")
        self._parts(aggregate, "this", "expressions")
        return self._aggregate(aggregate, name, where.this)

    def _aggregate(self, node: exp.Expr, name: str, where: exp.Expr | None) -> Expression:
        if not self._is_measure:
            self._fail(node, f"{name} is an aggregate", "Aggregates stand in measures only.")
        if self._is_inside:
            self._fail(node, f"{name} stands within another aggregate", "Aggregates do not nest.")
        nodes: list[exp.Expr] = node.expressions
        usage, count, typed = functions.AGGREGATES[name]
        if name == "count" and len(nodes) == 1 and isinstance(nodes[0], exp.Star):
            self._parts(nodes[0])
            nodes, count = [], 0
        if name == "count" and len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
            self._parts(nodes[0], "expressions")
            name, nodes = "count_distinct", nodes[0].expressions
        if len(nodes) != count:
            self._fail(node, f"{len(nodes)} arguments are not what {name} takes", f"Write {usage}.")
        self._is_inside = True
        arguments = tuple(self._read(each) for each in nodes)
        condition = self._condition(where) if where is not None else None
        self._is_inside = False
        at = nodes[0] if nodes else node
        return Aggregate(name, arguments, self._refusing(at, lambda: typed(arguments)), condition)

    def _condition(self, node: exp.Expr) -> Expression:
        found = self._read(node)
        self._refusing(node, lambda: want((found,), 0, BOOLEAN))
        return found

    def _refusing(self, node: exp.Expr, make: Callable[[], _Made]) -> _Made:
        try:
            return make()
        except RefusalError as refusal:
            self._fail(node, refusal.message, refusal.hint)

    def _fail(self, node: exp.Expr, message: str, hint: str = "") -> NoReturn:
        offset = grammar.start(node)
        if isinstance(node, exp.Placeholder):
            offset = self._text.find(f":{node.this}")
        raise ExpressionError(message, *grammar.place(self._text, offset or 0), hint)


def _is_quoted(node: exp.Expr) -> bool:
    """Whether a node is one name in double quotes, without members."""
    return (
        isinstance(node, exp.Column)
        and len(node.parts) == 1
        and isinstance(node.this, exp.Identifier)
        and bool(node.this.args.get("quoted"))
    )


def _name(node: exp.Expr) -> str:
    """What to call a node that has no place in the language."""
    if isinstance(node, exp.Alias):
        return "a name behind an expression"
    return node.key.upper()


_READERS: dict[type[exp.Expr], Callable[[_Reader, exp.Expr], Expression]] = {
    exp.And: _Reader._logic,
    exp.Or: _Reader._logic,
    exp.Not: _Reader._not,
    exp.Paren: _Reader._paren,
    exp.Neg: _Reader._negative,
    exp.Is: _Reader._is,
    exp.In: _Reader._in,
    exp.Between: _Reader._between,
    exp.Case: _Reader._case,
    exp.Cast: _Reader._cast,
    exp.Literal: _Reader._literal,
    exp.Boolean: _Reader._boolean,
    exp.Null: _Reader._null,
    exp.Interval: _Reader._interval,
    exp.Placeholder: _Reader._parameter,
    exp.Column: _Reader._column,
    exp.Dot: _Reader._column,
    exp.Bracket: _Reader._column,
    exp.Extract: _Reader._extract,
    exp.AtTimeZone: _Reader._zone,
    exp.Anonymous: _Reader._function,
    exp.Filter: _Reader._filter,
}
