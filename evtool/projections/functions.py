"""The whitelist: every function and operator of the language, other names for them, and the aggregates.

What is not here does not exist: no function reads a file, the environment, the clock or another table.
"""

from __future__ import annotations

from collections.abc import Callable

from evtool.projections import arithmetic, textfunctions, timefunctions
from evtool.projections.expression import Cast, Expression, RefusalError
from evtool.projections.operators import CHOICES, OPERATORS
from evtool.projections.signatures import Arguments, Function, cast_to_write, integer_of, shown
from evtool.projections.sqltypes import FLOAT, INTEGER, NULL, TEXT, Type, decimal, sum_type

TOP_MAX = 1_000

BY_NAME: dict[str, Function] = (
    CHOICES
    | arithmetic.FUNCTIONS
    | {name: function for name, function in textfunctions.FUNCTIONS.items() if name != "||"}
    | timefunctions.FUNCTIONS
)
BY_SYMBOL: dict[str, Function] = OPERATORS | arithmetic.OPERATORS | {"||": textfunctions.FUNCTIONS["||"]}
ALL: dict[str, Function] = BY_NAME | BY_SYMBOL

FIELDS = ("epoch", *timefunctions.FIELDS)  # what EXTRACT takes

OTHER_NAMES = {
    "substr": "substring",
    "len": "length",
    "char_length": "length",
    "ceiling": "ceil",
    "datetrunc": "date_trunc",
    "dayofweek": "dow",
    "dayofmonth": "day",
    "dayofyear": "doy",
    "weekofyear": "week",
    "prefix": "starts_with",
    "suffix": "ends_with",
    "lcase": "lower",
    "ucase": "upper",
}


def _counted(arguments: Arguments) -> Type:
    return INTEGER


def _summed(arguments: Arguments) -> Type:
    found = arguments[0].type
    if found == NULL:
        return sum_type(INTEGER)
    if not found.is_exact:
        raise RefusalError(
            f"{shown(arguments[0])} is {found}, "
            + ("which does not add up exactly" if found == FLOAT else "and a number is wanted")
            + _as_decimal("sum", arguments[0]),
            argument=0,
        )
    return sum_type(found)


def _averaged(arguments: Arguments) -> Type:
    try:
        _summed(arguments)
    except RefusalError as refusal:
        raise RefusalError(refusal.message.replace(": write sum(", ": write avg("), argument=0) from refusal
    return FLOAT


def _as_decimal(aggregate: str, argument: Expression) -> str:
    if isinstance(argument, Cast) and argument.argument.type == TEXT:
        argument = argument.argument
    fix = cast_to_write(argument, decimal(18, 2))
    return fix.replace("cast(", f"{aggregate}(cast(", 1) + ")" if fix else ""


def _same(arguments: Arguments) -> Type:
    return arguments[0].type


def _top(arguments: Arguments) -> Type:
    integer_of(arguments, 1, "how many values to keep", 1, TOP_MAX)
    return TEXT


# name -> how it is used, how many arguments it takes, the type of its result
AGGREGATES: dict[str, tuple[str, int, Callable[[Arguments], Type]]] = {
    "count": ("count(*) or count(value)", 1, _counted),
    "count_distinct": ("count(distinct value)", 1, _counted),
    "approx_count_distinct": ("approx_count_distinct(value)", 1, _counted),
    "sum": ("sum(number)", 1, _summed),
    "avg": ("avg(number)", 1, _averaged),
    "min": ("min(value)", 1, _same),
    "max": ("max(value)", 1, _same),
    "first": ("first(value)", 1, _same),
    "last": ("last(value)", 1, _same),
    "top_k": ("top_k(value, count)", 2, _top),
}
