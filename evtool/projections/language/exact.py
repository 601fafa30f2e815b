"""Exact arithmetic on columns: integers and decimals as the 128-bit numbers that they are inside.

Polars rounds the product of decimals to the larger of their scales, raises where one overflows, and lets an
integer wrap around. Here a result is exact, or, where it does not fit its type, null. A decimal of scale s is an
Int128 of 10^-s each, its `unscaled` value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evtool.projections.language.sqltypes import DIGITS_MAX, Type

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

_FLOAT_EXACT_MAX = 2**53
_HALF = 2**64
_SAFE_AS_FLOAT = 1.5e38  # what is below it by a float's account is below 2^127


def unscaled(values: pl.Expr, of: Type) -> pl.Expr:
    """The numbers behind a column of integers or decimals."""
    return values.to_physical() if of.name == "decimal" else values.cast(pl.Int128)


def scaled(numbers: pl.Expr, to: Type) -> pl.Expr:
    """A column of an exact type from its numbers; null for what is too large for an integer."""
    if to.name == "decimal":
        return numbers.reinterpret(dtype=pl.Decimal(DIGITS_MAX, to.scale))
    return numbers.cast(pl.Int64, strict=False)


def once(columns: list[pl.Expr], kind: pl.DataType, build: Callable[..., pl.Expr]) -> pl.Expr:
    """What `build` makes of columns, each of which is computed once however often it stands in there.

    Polars' expressions are trees: without this, one that names its operands twice doubles with each level.
    """

    def compute(found: Sequence[pl.Series]) -> pl.Series:
        length = _length(found)
        named = [_of_length(column, length).alias(str(at)) for at, column in enumerate(found)]
        return pl.DataFrame(named).select(build(*(pl.col(column.name) for column in named))).to_series()

    return pl.map_batches(columns, compute, return_dtype=kind, is_elementwise=True)


def negated(numbers: pl.Expr) -> pl.Expr:
    """Numbers with the other sign, for which Polars has no operator at 128 bits."""
    return pl.lit(0, dtype=pl.Int128) - numbers


def power(exponent: int) -> pl.Expr:
    """10^exponent."""
    return pl.lit(10**exponent, dtype=pl.Int128)


def widened(values: pl.Expr, before: Type, to: Type) -> pl.Expr:
    """Integers or decimals as decimals of no smaller scale; null for what then has more than 38 digits."""
    more = to.scale - before.scale
    if before.name == to.name and not more:
        return values
    numbers = unscaled(values, before)
    if more and before.digits + more > DIGITS_MAX:
        numbers = fitting(numbers, DIGITS_MAX - more)
    return scaled(numbers * power(more) if more else numbers, to)


def fitting(numbers: pl.Expr, digits: int) -> pl.Expr:
    """Numbers of no more than so many digits, and null for others."""
    return once([numbers], pl.Int128(), lambda each: pl.when(each.abs() < power(digits)).then(each))


def added(left: pl.Expr, right: pl.Expr, to: Type, checked: bool) -> pl.Expr:
    """The sum of numbers of one scale."""
    # Each has 38 digits at most, so that their sum is below 2 * 10^38, and 2^127 is 1.7 * 10^38.
    if checked and to.name == "decimal":
        return scaled(_if_safe(left, right, operator.add), to)
    return scaled(left + right, to)


def multiplied(left: pl.Expr, right: pl.Expr, to: Type, checked: bool) -> pl.Expr:
    """The product of numbers."""
    if checked and to.name == "decimal":
        return scaled(_if_safe(left, right, operator.mul), to)
    return scaled(left * right, to)


def remainder(left: pl.Expr, right: pl.Expr, to: Type) -> pl.Expr:
    """What a division of numbers of one scale leaves, with the sign of the dividend; null for a divisor of 0."""
    return scaled(once([left, right], pl.Int128(), lambda a, b: (a.abs() % b.abs()) * a.sign()), to)


def rounded(numbers: pl.Expr, digits: int, to: Type) -> pl.Expr:
    """Numbers without their last digits, rounded half away from zero."""
    half = pl.lit(10**digits // 2, dtype=pl.Int128)
    found = once([numbers], pl.Int128(), lambda each: (each.abs() + half) // power(digits) * each.sign())
    return scaled(found, to)


def floored(numbers: pl.Expr, digits: int, to: Type) -> pl.Expr:
    """Numbers without their last digits, rounded down."""
    return scaled(numbers // power(digits), to)


def divided(left: pl.Expr, right: pl.Expr, scale: int) -> pl.Expr:
    """The quotient of numbers, times 10^scale, as a float that was rounded once; null for a divisor of 0."""
    return pl.map_batches(
        [left, right],
        lambda columns: _quotients(columns[0], columns[1], scale),
        return_dtype=pl.Float64,
        is_elementwise=True,
    )


def sums_fit(groups: pl.DataFrame, values: pl.Series) -> bool:
    """Whether the sums of decimals in groups, whose keys are the columns of `groups`, have 38 digits at most.

    What is no decimal always fits.
    """
    if not values.dtype.is_decimal():
        return True
    numbers = values.to_physical().alias("number")
    ends: list[Any] = [numbers.min(), numbers.max()]
    if max(abs(end or 0) for end in ends) * len(numbers) < 10**DIGITS_MAX:
        return True
    # Sums of the halves of numbers do not outgrow 128 bits.
    half = pl.lit(_HALF, pl.Int128)
    halves = [(pl.col("number") // half).alias("upper"), (pl.col("number") % half).alias("lower")]
    keys = [pl.Series(f"key_{at}", column) for at, column in enumerate(groups)]
    table = pl.DataFrame([*keys, numbers]).with_columns(halves)
    both = pl.col("upper", "lower").sum()
    sums = table.group_by([key.name for key in keys]).agg(both) if keys else table.select(both)
    pairs = zip(sums["upper"].to_list(), sums["lower"].to_list(), strict=True)
    return all(abs(upper * _HALF + lower) < 10**DIGITS_MAX for upper, lower in pairs)


def _if_safe(left: pl.Expr, right: pl.Expr, compute: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> pl.Expr:
    """A sum or product of no more than 38 digits. Too large for 128 bits is what is too large as a float."""

    def build(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        is_safe = compute(a.cast(pl.Float64), b.cast(pl.Float64)).abs() < _SAFE_AS_FLOAT
        return pl.when(is_safe & (compute(a, b).abs() < power(DIGITS_MAX))).then(compute(a, b))

    return once([left, right], pl.Int128(), build)


def _length(columns: Sequence[pl.Series]) -> int:
    """The rows that columns have in common: a literal has one, whatever there is beside it."""
    return 0 if any(not len(column) for column in columns) else max(map(len, columns))


def _of_length(column: pl.Series, length: int) -> pl.Series:
    return column.new_from_index(0, length) if len(column) == 1 else column


def _quotients(left: pl.Series, right: pl.Series, scale: int) -> pl.Series:
    """Quotients of floats where both are exact, of Python's integers (it divides them correctly) elsewhere."""
    length = _length([left, right])
    left, right = _of_length(left, length), _of_length(right, length)
    # Each side is multiplied, so that a single division remains.
    upper, lower = 10 ** max(scale, 0), 10 ** max(-scale, 0)
    is_known = left.is_not_null() & right.is_not_null() & (right != 0)
    numerators, numerators_exact = _as_floats(left, upper)
    denominators, denominators_exact = _as_floats(right, lower)
    known = is_known.fill_null(False).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = numerators / denominators
    rest = np.flatnonzero(known & ~(numerators_exact & denominators_exact))
    if len(rest):
        pairs = zip(left.gather(rest).to_list(), right.gather(rest).to_list(), strict=True)
        quotients[rest] = [numerator * upper / (denominator * lower) for numerator, denominator in pairs]
    found = pl.Series(left.name, quotients)
    return found.to_frame().select(pl.when(pl.Series(known)).then(pl.first())).to_series()


def _as_floats(numbers: pl.Series, factor: int) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Numbers times a factor as floats, and which of them are exact."""
    floats = numbers.cast(pl.Float64).fill_null(0.0).to_numpy() * float(factor)
    return floats, (np.abs(floats) < _FLOAT_EXACT_MAX) & (factor < _FLOAT_EXACT_MAX)
