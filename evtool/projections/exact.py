"""Exact arithmetic on columns: integers and decimals as the 128-bit numbers that they are inside.

Polars rounds the product of decimals to the larger of their scales, raises where one overflows, and lets an
integer wrap around. Here a result is exact, or, where it does not fit its type, null. A decimal of scale s is an
Int128 of 10^-s each, its `unscaled` value.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evtool.projections.sqltypes import DIGITS_MAX, Type

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

_FLOAT_EXACT_MAX = 2**53
_LARGEST = 10**DIGITS_MAX - 1
_SAFE_AS_FLOAT = 1.5e38  # what is below it by a float's account is below 2^127


def unscaled(values: pl.Expr, of: Type) -> pl.Expr:
    """The numbers behind a column of integers or decimals."""
    return values.to_physical() if of.name == "decimal" else values.cast(pl.Int128)


def scaled(numbers: pl.Expr, to: Type) -> pl.Expr:
    """A column of an exact type from its numbers; null for what is too large for an integer."""
    if to.name == "decimal":
        return numbers.reinterpret(dtype=pl.Decimal(DIGITS_MAX, to.scale))
    return numbers.cast(pl.Int64, strict=False)


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
        numbers = pl.when(numbers.abs() <= _LARGEST // 10**more).then(numbers)
    return scaled(numbers * power(more) if more else numbers, to)


def fitting(numbers: pl.Expr, digits: int) -> pl.Expr:
    """Numbers of no more than so many digits, and null for others."""
    return pl.when(numbers.abs() < power(digits)).then(numbers) if digits < DIGITS_MAX else _below_largest(numbers)


def added(left: pl.Expr, right: pl.Expr, to: Type, checked: bool) -> pl.Expr:
    """The sum of numbers of one scale."""
    # Each has 38 digits at most, so that their sum is below 2 * 10^38, and 2^127 is 1.7 * 10^38.
    if checked and to.name == "decimal":
        return scaled(_if_safe(left.cast(pl.Float64) + right.cast(pl.Float64), left + right), to)
    return scaled(left + right, to)


def multiplied(left: pl.Expr, right: pl.Expr, to: Type, checked: bool) -> pl.Expr:
    """The product of numbers."""
    if checked and to.name == "decimal":
        return scaled(_if_safe(left.cast(pl.Float64) * right.cast(pl.Float64), left * right), to)
    return scaled(left * right, to)


def remainder(left: pl.Expr, right: pl.Expr, to: Type) -> pl.Expr:
    """What a division of numbers of one scale leaves, with the sign of the dividend; null for a divisor of 0."""
    return scaled((left.abs() % right.abs()) * left.sign(), to)


def rounded(numbers: pl.Expr, digits: int, to: Type) -> pl.Expr:
    """Numbers without their last digits, rounded half away from zero."""
    half = pl.lit(10**digits // 2, dtype=pl.Int128)
    return scaled((numbers.abs() + half) // power(digits) * numbers.sign(), to)


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


def _if_safe(estimate: pl.Expr, numbers: pl.Expr) -> pl.Expr:
    return _below_largest(pl.when(estimate.abs() < _SAFE_AS_FLOAT).then(numbers))


def _below_largest(numbers: pl.Expr) -> pl.Expr:
    return pl.when(numbers.abs() <= pl.lit(_LARGEST, dtype=pl.Int128)).then(numbers)


def _quotients(left: pl.Series, right: pl.Series, scale: int) -> pl.Series:
    """Quotients of floats where both are exact, of Python's integers (it divides them correctly) elsewhere."""
    length = max(len(left), len(right))
    left, right = (column.new_from_index(0, length) if len(column) == 1 else column for column in (left, right))
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
