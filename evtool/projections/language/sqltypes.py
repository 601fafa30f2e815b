"""The types that an expression can have, and which of them meet.

Inside, a time is a number of nanoseconds since 1970-01-01 UTC and a span of time a number of nanoseconds, both
Int64; every decimal is a Decimal(38, scale) of Polars, of which the precision says how large it can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

DIGITS_MAX = 38
INTEGER_DIGITS = 19


@dataclass(frozen=True)
class Type:
    """A type; a decimal has `precision` digits, `scale` of them behind the point."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"{self.name}({self.precision},{self.scale})" if self.name == "decimal" else self.name

    @property
    def is_exact(self) -> bool:
        """Whether it is an integer or a decimal."""
        return self.name in ("integer", "decimal")

    @property
    def is_number(self) -> bool:
        """Whether one can calculate with it."""
        return self.is_exact or self.name == "float"

    @property
    def digits(self) -> int:
        """The digits of the largest integer or decimal."""
        return self.precision if self.name == "decimal" else INTEGER_DIGITS

    @property
    def sql(self) -> str:
        """How a cast spells it."""
        return _SQL_NAMES.get(self.name, self.name.upper()) + (
            f"({self.precision}, {self.scale})" if self.name == "decimal" else ""
        )

    @property
    def column_type(self) -> pl.DataType:
        """The type of a column of Polars that holds it."""
        if self.name == "decimal":
            return pl.Decimal(DIGITS_MAX, self.scale)
        return _COLUMN_TYPES[self.name]


TEXT = Type("text")
INTEGER = Type("integer")
FLOAT = Type("float")
BOOLEAN = Type("boolean")
TIMESTAMP = Type("timestamp")
DATE = Type("date")
INTERVAL = Type("interval")
NULL = Type("null")

_SQL_NAMES = {"integer": "BIGINT", "float": "DOUBLE"}
_COLUMN_TYPES: dict[str, pl.DataType] = {
    "text": pl.String(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Int64(),
    "date": pl.Date(),
    "interval": pl.Int64(),
    "null": pl.Null(),
}


def decimal(precision: int, scale: int) -> Type:
    """A decimal of no more than 38 digits."""
    return Type("decimal", min(precision, DIGITS_MAX), scale)


def sum_type(of: Type) -> Type:
    """The type of a sum of integers or decimals: as wide as can be, so that a sum fits."""
    return decimal(DIGITS_MAX, of.scale)


def common(left: Type, right: Type) -> Type | None:
    """The type in which values of both types can be compared and chosen from; None if there is none."""
    if left == right or right == NULL:
        return left
    if left == NULL:
        return right
    if left.is_exact and right.is_exact:
        scale = max(left.scale, right.scale)
        return decimal(max(left.digits - left.scale, right.digits - right.scale) + scale, scale)
    if left.is_number and right.is_number:
        return FLOAT
    return None
