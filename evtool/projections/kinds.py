"""What each kind of definition is made of: its inputs, its condition, and the numbers that it has.

One function a kind, all of them from a compiler to a plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, get_args

import polars as pl

from evtool.projections.aggregate import Aggregate, Slot
from evtool.projections.compiling import Compiler, Path
from evtool.projections.definition import Definition
from evtool.projections.funnel import Funnel
from evtool.projections.language import expression as tree
from evtool.projections.language.expression import Expression
from evtool.projections.language.lowering import lower
from evtool.projections.language.sqltypes import DIGITS_MAX, FLOAT
from evtool.projections.plan import Plan
from evtool.projections.retention import Retention
from evtool.projections.sessions import Sessions
from evtool.projections.windows import STEPS_MAX, Mode

PERIODS_MAX = 1_000
MODES = get_args(Mode)

# What tables and read models of a kind call their own columns.
_OWN_NAMES: Mapping[str, re.Pattern[str]] = {
    "measures": re.compile(r"bucket|slot_\d+|argument_\d+"),
    "score": re.compile(r"bucket|score|slot_\d+|argument_\d+"),
    "funnel": re.compile(r"bucket|actor|timestamp|position|step|step_\d+|name|actors|conversion|conversion_total"),
    "retention": re.compile(r"bucket|actor|period|start|return|cohort|offset|actors|retention"),
}
_OF_ORDER = ("timestamp", "position")  # of keys alone, and only where an aggregate looks at them
_OF_SETS = ("value", "n", "sketch", "pair")
_SETS = ("distinct", "top", "sketch")
_BY_EQUALITY = ("count_distinct", "top_k", "approx_count_distinct")

_NAMED_STEP = re.compile(r"([A-Za-z0-9_][^:=<>'\"()]*?)\s*:\s+(.+)", re.DOTALL)
_DAY_NS = 86_400_000_000_000
_MONDAY = 3  # 1970-01-01 was a Thursday


def compile(definition: Definition, values: Mapping[str, Any]) -> Plan:
    """The plan of a definition with these values of its parameters. Raises ProjectionError."""
    return _KINDS[definition.kind](Compiler(definition, values))


def measures(compiler: Compiler) -> Plan:
    """[measures]: aggregates by keys."""
    table = compiler.definition.table["measures"]
    found = {name: compiler.expression(("measures", name), text, measure=True) for name, text in table.items()}
    for name, expression in found.items():
        _check_name(compiler, ("measures", name))
        for aggregate in tree.aggregates(expression):
            if aggregate.function in _BY_EQUALITY:
                _check_equality(compiler, ("measures", name), aggregate.arguments[0])
    return _aggregate(compiler, found, compiler.where())


def score(compiler: Compiler) -> Plan:
    """[score]: the sum of the weights of events, by keys; events without a weight do not count."""
    weights = compiler.definition.table["score"]["weights"]
    terms, conditions = [], []
    for text, weight in weights.items():
        path = ("score", "weights", text)
        condition = compiler.expression(path, text, "boolean")
        conditions.append(f"({tree.canonical(condition)})")
        terms.append(f"case when {conditions[-1]} then {_number(compiler, path, weight)} else 0 end")
    if not terms:
        compiler.fail(("score", "weights"), "[score.weights] has no weight", "\"event_type = 'A'\" = 1")
    total = compiler.expression(("score", "weights"), f"sum({' + '.join(terms)})", measure=True)
    return _aggregate(compiler, {"score": total}, compiler.where(compiler.made(" or ".join(conditions))))


def funnel(compiler: Compiler) -> Plan:
    """[funnel]: how many actors get from step to step within a span of time."""
    table = compiler.definition.table["funnel"]
    steps = _steps(compiler, table["steps"])
    names = list(steps)
    keys = _keys(compiler)
    _actor(compiler, ("funnel", "by"), table["by"])
    for number, condition in enumerate(steps.values(), 1):
        compiler.inputs.add(f"step_{number}", condition)
    modes = _modes(compiler, table.get("mode", "default"))
    within = compiler.value(("funnel", "within"), table["within"])
    kind = Funnel(
        keys=tuple(keys),
        names=tuple(names),
        within_ns=compiler.span(("funnel", "within"), within),
        modes=modes,
    )
    any_step = compiler.made(" or ".join(f"({tree.canonical(condition)})" for condition in steps.values()))
    where = compiler.where() if "strict_order" in modes else compiler.where(any_step)
    return compiler.plan(kind, where, keys=tuple(keys), present=_presenter(keys))


def retention(compiler: Compiler) -> Plan:
    """[retention]: of the actors who began in a period, how many came back in each later one."""
    table = compiler.definition.table["retention"]
    grain = compiler.grain()
    time = compiler.time()
    if time is None or grain == "hour":
        compiler.fail(("time", "grain"), f"a retention needs days, weeks or months, not {grain!r}")
    periods = compiler.value(("retention", "periods"), table.get("periods", 12))
    if type(periods) is not int or not 1 <= periods <= PERIODS_MAX:
        compiler.fail(("retention", "periods"), f"{periods!r} is not between 1 and {PERIODS_MAX:,}")
    keys = _own_keys(compiler)
    if grain in keys:
        compiler.fail(("keys", grain), f"{grain!r} is the column of [time]", "Give the key another name.")
    for name, expression in keys.items():
        compiler.inputs.add(name, expression)
    _actor(compiler, ("retention", "by"), table["by"])
    compiler.inputs.add("period", time[1], _NUMBER_OF[grain])
    begins = compiler.expression(("retention", "start"), table["start"], "boolean")
    returns = compiler.expression(("retention", "return"), table["return"], "boolean")
    compiler.inputs.add("start", begins)
    compiler.inputs.add("return", returns)
    either = compiler.made(f"({tree.canonical(begins)}) or ({tree.canonical(returns)})")

    def present(frame: pl.DataFrame) -> pl.DataFrame:
        shown = frame.with_columns(_DATE_OF[grain](pl.col("cohort")).alias("cohort")).rename({"cohort": grain})
        return _presenter(keys)(shown)

    kind = Retention(keys=tuple(keys), periods=periods)
    return compiler.plan(kind, compiler.where(either), keys=(grain, *keys), present=present)


def sessions(compiler: Compiler) -> Plan:
    """[sessions]: each actor's events cut where nothing happened for a while."""
    table = compiler.definition.table["sessions"]
    if "keys" in compiler.definition.table:
        compiler.fail(("keys",), "[sessions] has no keys: an actor's events are cut as a whole")
    gap = compiler.value(("sessions", "gap"), table["gap"])
    gap_ns = compiler.span(("sessions", "gap"), gap)
    _actor(compiler, ("sessions", "by"), table["by"])
    each = bool(table.get("each", False))
    time = None if each else compiler.time()
    period = lower(time[1]) if time else None
    if period is None:
        kind = Sessions(gap_ns=gap_ns, each=each)
    else:

        def period_of(start: pl.Expr) -> pl.Expr:
            return start.map_batches(lambda column: _period(column, period), return_dtype=_period_type(time))

        kind = Sessions(gap_ns=gap_ns, each=each, period_of=period_of, period_name=time[0] if time else None)
    shown = {time[0]: time[1]} if time else {}

    def present(frame: pl.DataFrame) -> pl.DataFrame:
        if each:
            moments = (pl.col(name).cast(pl.Datetime("ns", "UTC")) for name in ("started_at", "ended_at"))
            return frame.with_columns(moments)
        return _presenter(shown)(frame)

    keys = ("actor", "started_at") if each else tuple(shown)
    return compiler.plan(kind, compiler.where(), keys=keys, present=present)


_KINDS: Mapping[str, Callable[[Compiler], Plan]] = {
    "measures": measures,
    "score": score,
    "funnel": funnel,
    "retention": retention,
    "sessions": sessions,
}

_NUMBER_OF: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "day": lambda date: date.cast(pl.Int32),
    "week": lambda date: (date.cast(pl.Int32) + _MONDAY) // 7,
    "month": lambda date: date.dt.year() * 12 + date.dt.month().cast(pl.Int32) - 1,
}
_DATE_OF: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "day": lambda number: number.cast(pl.Date),
    "week": lambda number: (number * 7 - _MONDAY).cast(pl.Date),
    "month": lambda number: pl.date(number // 12, number % 12 + 1, 1),
}


def _aggregate(compiler: Compiler, found: Mapping[str, Expression], where: Expression | None) -> Plan:
    keys = _keys(compiler)
    slots = _Slots(compiler)
    expressions = {name: slots.outer(expression) for name, expression in found.items()}
    time = compiler.time()
    kind = Aggregate(
        keys=tuple(keys),
        slots=tuple(slots.found.values()),
        measures={name: lower(expression) for name, expression in expressions.items()},
        bucket_of=_bucket_of(keys, time[0] if time else None),
    )
    taken: tuple[str, ...] = _OF_ORDER if kind.needs_order else ()
    taken += _OF_SETS if any(slot.function in _SETS for slot in kind.slots) else ()
    for name in keys:
        if name in taken:
            _refuse_name(compiler, ("keys", name))
    return compiler.plan(
        kind,
        where,
        keys=tuple(keys),
        present=_presenter(keys | dict(expressions.items())),
    )


class _Slots:
    """The different aggregates of some measures."""

    _FUNCTIONS: Mapping[str, str] = {
        "count_distinct": "distinct",
        "top_k": "top",
        "approx_count_distinct": "sketch",
    }

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._arguments: dict[str, str] = {}
        self.found: dict[tuple[str, str | None, int], Slot] = {}

    def outer(self, expression: Expression) -> Expression:
        """A measure with the results of slots in the place of its aggregates."""
        places = {aggregate: self._result(aggregate) for aggregate in tree.aggregates(expression)}
        return tree.replace(expression, places)

    def _result(self, aggregate: tree.Aggregate) -> Expression:
        if aggregate.function == "avg":
            total, count = self._slot(aggregate, "sum"), self._slot(aggregate, "count")
            return tree.quotient(
                tree.Result(total.name, tree.sum_type(aggregate.arguments[0].type)),
                tree.Result(count.name, tree.INTEGER),
            )
        slot = self._slot(aggregate, self._FUNCTIONS.get(aggregate.function, aggregate.function))
        return tree.Result(slot.name, aggregate.type)

    def _slot(self, aggregate: tree.Aggregate, function: str) -> Slot:
        argument = self._argument(aggregate, function)
        count = aggregate.count
        key = (function, argument, count)
        if key not in self.found:
            self.found[key] = Slot(f"slot_{len(self.found)}", function, argument, count)  # type: ignore[arg-type]
        return self.found[key]

    def _argument(self, aggregate: tree.Aggregate, function: str) -> str | None:
        """The name of the input of an aggregate's values, null where its filter is not true."""
        text = tree.canonical(aggregate.arguments[0]) if aggregate.arguments else None
        if function == "sum" and aggregate.arguments[0].type.name == "integer":
            text = f"cast({text} as decimal(38, 0))"  # so that nothing overflows
        if function in ("min", "max") and aggregate.arguments[0].type == FLOAT:
            text = (
                f"case when {text} = 0 then 0e0 else {text} end"  # -0.0 is equal to it, and would depend on order
            )
        if aggregate.filter is not None:
            text = f"case when {tree.canonical(aggregate.filter)} then {text or 1} end"
        if text is None:
            return None
        if text not in self._arguments:
            self._arguments[text] = f"argument_{len(self._arguments)}"
            self._compiler.inputs.add(self._arguments[text], self._compiler.made(text))
        return self._arguments[text]


def _keys(compiler: Compiler) -> dict[str, Expression]:
    """The period of [time] first, then [keys]; all are inputs from now on."""
    time = compiler.time()
    keys = _own_keys(compiler)
    if time is not None:
        for section in ("keys", "measures"):
            if time[0] in compiler.definition.table.get(section, {}):
                compiler.fail(
                    (section, time[0]), f"{time[0]!r} is the column of [time]", "Give this one another name."
                )
        keys = {time[0]: time[1], **keys}
    for name, expression in keys.items():
        compiler.inputs.add(name, expression)
    return keys


def _own_keys(compiler: Compiler) -> dict[str, Expression]:
    """What [keys] says, of names and types that keys can have."""
    keys = compiler.keys()
    for name, expression in keys.items():
        _check_name(compiler, ("keys", name))
        _check_equality(compiler, ("keys", name), expression)
    return keys


def _check_name(compiler: Compiler, path: Path) -> None:
    if _OWN_NAMES[compiler.definition.kind].fullmatch(path[-1]):
        _refuse_name(compiler, path)


def _refuse_name(compiler: Compiler, path: Path) -> NoReturn:
    compiler.fail(path, f"the projection has a use of its own for {path[-1]!r}", "Choose another name.")


def _check_equality(compiler: Compiler, path: Path, expression: Expression) -> None:
    """Refuse what has equal values of different spelling: which of -0.0 and 0.0 is kept depends on the order."""
    if expression.type == FLOAT:
        text = tree.canonical(expression)
        compiler.fail(
            path,
            f"{text} is a float, and floats that look different can be equal (-0.0 and 0.0)",
            f"Make it exact: {_exactly(expression)}.",
        )


def _exactly(expression: Expression) -> str:
    """The cast to write instead of a float."""
    inner = expression.argument if isinstance(expression, tree.Cast) else expression
    return f"cast({tree.canonical(inner)} as decimal(18,2))"


def _bucket_of(keys: Mapping[str, Expression], time_column: str | None) -> pl.Expr:
    """The day in which a period begins; of the first key that is a date, where there is no [time]."""
    for name, expression in keys.items():
        if expression.type.name == "date":
            return pl.col(name).cast(pl.Int32).fill_null(0)
        if name == time_column:
            return (pl.col(name) // _DAY_NS).cast(pl.Int32).fill_null(0)
    return pl.lit(0, pl.Int32)


def _presenter(columns: Mapping[str, Expression]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Times as times: the columns of type timestamp are numbers until here."""
    moments = [name for name, expression in columns.items() if expression.type.name == "timestamp"]

    def present(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col(name).cast(pl.Datetime("ns", "UTC")) for name in moments)

    return present


def _actor(compiler: Compiler, path: Path, text: str) -> None:
    compiler.inputs.add("actor", compiler.expression(path, text, "text"))


def _steps(compiler: Compiler, written: Any) -> dict[str, Expression]:
    """The conditions of a funnel's steps, by their names."""
    path = ("funnel", "steps")
    found: dict[str, Expression] = {}
    steps = compiler.value(path, written)
    if not isinstance(steps, list) or not all(isinstance(step, str) and step.strip() for step in steps):
        compiler.fail(path, "steps are a list of texts", 'steps = ["ItemViewed", "bought: event_type = …"]')
    for step in steps:
        named = _NAMED_STEP.fullmatch(step)
        name = named[1] if named else step
        if name in found:
            compiler.fail(path, f"two steps are called {name!r}", "Write `name: condition` to tell them apart.")
        if not named and compiler.is_condition(step):
            compiler.fail(
                path,
                f"the step {step!r} is a condition without a name, and would be taken for an event type",
                f'Write a name and a colon before it: "step {len(found) + 1}: {step}".',
            )
        text = named[2] if named else f"event_type = {tree.canonical(tree.literal(step))}"
        found[name] = compiler.expression(path, text, "boolean")
    if not 2 <= len(found) <= STEPS_MAX:
        compiler.fail(path, f"a funnel has 2 to {STEPS_MAX} steps, not {len(found)}")
    return found


def _modes(compiler: Compiler, written: Any) -> frozenset[Mode]:
    path = ("funnel", "mode")
    value = compiler.value(path, written)
    modes = frozenset([value] if isinstance(value, str) else value) - {"default"}
    for mode in sorted(modes - set(MODES)):
        compiler.fail(path, f"{mode!r} is none of default, {', '.join(MODES)}")
    return modes


def _number(compiler: Compiler, path: Path, written: Any) -> str:
    definition, weight = compiler.definition, compiler.value(path, written)
    if isinstance(weight, float):
        definition.fail(
            path, f"{weight} is a float, which does not add up exactly", f'Write it as a text: "{weight}"'
        )
    try:
        number = Decimal(str(weight))
    except InvalidOperation:
        definition.fail(path, f"{weight!r} is no number")
    if isinstance(weight, bool) or not number.is_finite():
        definition.fail(path, f"{weight!r} is no number")
    if (
        number.adjusted() >= DIGITS_MAX or -int(number.as_tuple().exponent) > DIGITS_MAX
    ):  # before it is written out
        definition.fail(path, f"{weight!r:.60} has more than {DIGITS_MAX} digits")
    return f"({number:f})"


def _period(column: pl.Series, period: pl.Expr) -> pl.Series:
    return column.alias("timestamp").to_frame().select(period).to_series()


def _period_type(time: tuple[str, Expression] | None) -> pl.DataType:
    return pl.Date() if time and time[1].type.name == "date" else pl.Int64()
