"""A definition and the values of its parameters -> a plan. Every expression is parsed and typed here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import polars as pl

from evtool.errors import ProjectionError
from evtool.projections.definition import Definition
from evtool.projections.language import expression as tree
from evtool.projections.language.expression import Call, Cast, Column, Expression, ExpressionError, JsonPath
from evtool.projections.language.lowering import failures, lower
from evtool.projections.language.parsing import compares, parse
from evtool.projections.plan import Plan, input_column

GRAINS = ("hour", "day", "week", "month", "all")

_SECOND_NS = 1_000_000_000
_UNIT_NS = {
    "ms": 1_000_000,
    "s": _SECOND_NS,
    "m": 60 * _SECOND_NS,
    "h": 3600 * _SECOND_NS,
    "d": 86_400 * _SECOND_NS,
    "w": 604_800 * _SECOND_NS,
}
_EVENT_TYPE = re.compile(r"(?!payload\b|metadata\b)[A-Za-z][\w.-]*")  # as one stands without quotes
_SPAN = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d|w)(?:in|our|ay|eek)?s?\s*")

Path = tuple[str, ...]


@dataclass
class Inputs:
    """The columns of a kind's rows, and what is needed to make them."""

    columns: dict[str, pl.Expr] = field(default_factory=dict)
    expressions: list[Expression] = field(default_factory=list)
    values: dict[Expression, pl.Expr] = field(default_factory=dict)  # of expressions that are inputs as they are

    def add(self, name: str, expression: Expression, change: Callable[[pl.Expr], pl.Expr] | None = None) -> None:
        """One more column: an expression, or what `change` makes of its values."""
        lowered = lower(expression)
        self.columns[name] = change(lowered) if change else lowered
        self.expressions.append(expression)
        if not change:
            self.values[expression] = pl.col(input_column(name))


class Compiler:
    """Reads the expressions of one definition, with its parameters put in; errors tell their place."""

    def __init__(self, definition: Definition, values: Mapping[str, Any]) -> None:
        self.definition = definition
        self.values = values
        self.inputs = Inputs()
        self._trees: dict[str, Expression] = {}
        for name, parameter in definition.parameters.items():
            path = ("parameters", name, "expression" if parameter.is_expression else "value")
            if parameter.is_expression:
                self._trees[name] = self.expression(path, str(values[name]))
            elif not isinstance(values[name], list):
                self._trees[name] = tree.literal(values[name])

    def fail(self, path: Path, message: str, hint: str = "", line: int = 1, column: int = 1) -> NoReturn:
        """Raise ProjectionError at the value of `path`, or at a place (from 1) within the text that it is.

        What a parameter was set to stands in no file of the definition: it is told by the parameter's name.
        """
        name = self._parameter_at(path)
        if name is None or self.values[name] == self.definition.parameters[name].default:
            self.definition.fail(path, message, hint, line, column)
        within = f", line {line}, column {column}" if path[0] == "parameters" else ""
        place = f"{name} = {self.values[name]!r}{within}"
        raise ProjectionError(f"{self.definition.name}: {place}: {message}", hint)

    def _parameter_at(self, path: Path) -> str | None:
        """The parameter whose value is meant by what stands at a path of the definition."""
        if path[0] == "parameters":
            return path[1]
        written: Any = self.definition.table
        for step in path:
            written = written.get(step) if isinstance(written, Mapping) else None
        name = written[1:] if isinstance(written, str) and written.startswith(":") else None
        return name if name in self.values else None

    def expression(self, path: Path, text: str, wanted: str | None = None, measure: bool = False) -> Expression:
        """The tree of a text that stands at `path`. Raises ProjectionError."""
        try:
            found = parse(text, self._trees, measure=measure)
        except ExpressionError as error:
            is_type = wanted == "boolean" and _EVENT_TYPE.fullmatch(text)
            hint = f"A condition is wanted: event_type = '{text}'." if is_type else error.hint
            self.fail(path, error.message, hint, error.line, error.column)
        if wanted and found.type.name != wanted:
            self.fail(path, f"{text!r} is {found.type}, and {wanted} is wanted")
        return found

    def is_condition(self, text: str) -> bool:
        """Whether a text says by an operator or a function what is true or false, or compares without being right.

        A plain name says nothing of the kind, nor does an event type of several words: `signed in`.
        """
        try:
            found = parse(text, self._trees)
        except ExpressionError:
            return compares(text)
        return found.type.name == "boolean" and isinstance(found, Call)

    def made(self, text: str) -> Expression:
        """The tree of a text that is made of others' canonical texts."""
        return parse(text, self._trees)

    def value(self, path: Path, written: Any) -> Any:
        """A value, or that of the parameter that it names: ":grain"."""
        if not isinstance(written, str) or not written.startswith(":"):
            return written
        name = written[1:]
        if name not in self.values or self.definition.parameters[name].is_expression:
            known = [f":{n}" for n, parameter in self.definition.parameters.items() if not parameter.is_expression]
            self.definition.fail(path, f"there is no value {written}", f"There are: {', '.join(known) or 'none'}.")
        return self.values[name]

    def span(self, path: Path, value: Any) -> int:
        """Nanoseconds of a span as `30m`, `1 day` or `7d`. Raises ProjectionError."""
        match = _SPAN.fullmatch(str(value))
        nanoseconds = int(float(match[1]) * _UNIT_NS[match[2]]) if match else 0
        if not 0 < nanoseconds < 2**62:
            self.fail(path, f"{value!r} is no span of time", "As in 30m, 12h, 1d, 1w: s, m, h, d or w.")
        return nanoseconds

    def keys(self) -> dict[str, Expression]:
        """The keys of [keys], by name."""
        table = self.definition.table.get("keys", {})
        return {name: self.expression(("keys", name), text) for name, text in table.items()}

    def time(self) -> tuple[str, Expression] | None:
        """The name and expression of [time]'s period; None without one, or for the grain "all"."""
        table = self.definition.table.get("time")
        if table is None:
            return None
        grain = self.grain()
        if grain == "all":
            return None
        column = self.expression(("time", "column"), table.get("column", "timestamp"), "timestamp")
        return grain, self.bucket(tree.canonical(column), grain)

    def grain(self) -> str:
        """The grain of [time]."""
        grain = self.value(("time", "grain"), self.definition.table["time"]["grain"])
        if grain not in GRAINS:
            self.fail(("time", "grain"), f"{grain!r} is none of {', '.join(GRAINS)}")
        return str(grain)

    def bucket(self, column: str, grain: str) -> Expression:
        """The period in which a time lies, in the time zone of [time]."""
        zone = self.value(("time", "timezone"), self.definition.table["time"].get("timezone", "UTC"))
        text = f"bucket({column}, '{grain}', '{str(zone).replace(chr(39), chr(39) * 2)}')"
        try:
            return self.made(text)
        except ExpressionError as error:  # whose place is one in the text that was made
            self.fail(("time", "timezone"), error.message, error.hint)

    def where(self, *more: Expression) -> Expression | None:
        """The condition of the definition, and others that must hold as well."""
        text = self.definition.table.get("where")
        conditions = [self.expression(("where",), text, "boolean")] if text else []
        texts = [f"({tree.canonical(condition)})" for condition in (*conditions, *more)]
        return self.made(" and ".join(texts)) if texts else None

    def plan(self, kind: Any, condition: Expression | None, **more: Any) -> Plan:
        """The plan of a kind over the inputs that were added."""
        condition = None if condition is not None and tree.canonical(condition) == "TRUE" else condition
        read = [*self.inputs.expressions, *([condition] if condition else [])]
        paths: dict[JsonPath, None] = {
            path: None for expression in read for path in sorted(tree.json_paths(expression), key=str)
        }
        columns = {name for expression in read for name in tree.columns(expression)} - {
            path.root for path in paths
        }
        casts: dict[Cast, pl.Expr] = {
            cast: failures(cast, self.inputs.values.get(cast))
            for expression in self.inputs.expressions
            for cast in tree.casts(expression)
        }
        return Plan(
            identity=self.definition.identity(self.values),
            kind=kind,
            inputs=self.inputs.columns,
            columns=frozenset(columns),
            spare=_spare(read),
            paths=tuple(paths),
            where=lower(condition) if condition else None,
            types=tree.types_needed(condition) if condition else None,
            named_types=frozenset().union(*map(tree.types_named, read)),
            casts_where={cast: failures(cast) for cast in tree.casts(condition)} if condition else {},
            casts=casts,
            stops_at_casts=self._stops_at_casts(),
            **more,
        )

    def _stops_at_casts(self) -> bool:
        policy = self.value(("on_cast_error",), self.definition.table.get("on_cast_error", "null"))
        if policy not in ("null", "stop"):
            self.fail(("on_cast_error",), f'on_cast_error must be "null" or "stop", not {policy!r}')
        return bool(policy == "stop")


def _spare(expressions: Sequence[Expression]) -> Mapping[str, frozenset[JsonPath]]:
    """The columns that stand nowhere but behind a path in coalesce(), with these paths."""
    nodes = [node for expression in expressions for node in tree.walk(expression)]
    firsts = [
        (argument.name, node.arguments[0])
        for node in nodes
        if isinstance(node, Call) and node.function == "coalesce"
        for argument in node.arguments[1:]
        if isinstance(argument, Column)
    ]
    paths: dict[str, list[JsonPath]] = {}
    for name, first in firsts:
        if isinstance(first, JsonPath):
            paths.setdefault(name, []).append(first)
    times = Counter(node.name for node in nodes if isinstance(node, Column))
    return {name: frozenset(found) for name, found in paths.items() if len(found) == times[name]}
