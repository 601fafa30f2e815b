"""Functions of times and dates. A time becomes a date, or loses its minutes, in a time zone: UTC by default.

The zones are those of Polars, which knows changes of clocks until 2099. Weeks begin on Monday (ISO 8601). What is
cut at an hour is a time, what is cut at a day or more a date.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from functools import lru_cache, partial

import polars as pl

from evtool.projections.language import exact
from evtool.projections.language.expression import Call, Expression, RefusalError
from evtool.projections.language.signatures import Arguments, Function, read_time, text_of, want
from evtool.projections.language.sqltypes import DATE, INTEGER, INTERVAL, TEXT, TIMESTAMP, Type, decimal

BUCKET_GRAINS = ("hour", "day", "week", "month")
_TRUNCATIONS = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q", "year": "1y"}
_NS_OF_US = 1_000
_HOUR_NS = 3_600_000_000_000
_SECONDS = decimal(19, 9)

# Fields of a date or time; those of times only come last.
FIELDS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "year": lambda time: time.dt.year(),
    "quarter": lambda time: time.dt.quarter(),
    "month": lambda time: time.dt.month(),
    "week": lambda time: time.dt.week(),
    "day": lambda time: time.dt.day(),
    "dow": lambda time: time.dt.weekday() % 7,
    "isodow": lambda time: time.dt.weekday(),
    "doy": lambda time: time.dt.ordinal_day(),
    "isoyear": lambda time: time.dt.iso_year(),
    "hour": lambda time: time.dt.hour(),
    "minute": lambda time: time.dt.minute(),
    "second": lambda time: time.dt.second(),
}
_TIME_FIELDS = ("hour", "minute", "second")


def is_zone(name: str) -> bool:
    """Whether there is a time zone of this name."""
    return name in _zones()


@lru_cache(1)
def _zones() -> frozenset[str]:
    # Two names of a system's files stand for no zone of the database.
    return frozenset(zoneinfo.available_timezones() - {"Factory", "localtime"})


def _zone(arguments: tuple[Expression, ...], at: int) -> str:
    """The zone that an argument names; UTC without one. Raises RefusalError."""
    if len(arguments) <= at:
        return "UTC"
    name = text_of(arguments, at, "a time zone")
    if not is_zone(name):
        raise RefusalError(f"there is no time zone {name[:60]!r}", "Write it as 'Europe/Berlin'.", at)
    return name


def _local(moments: pl.Expr, zone: str) -> pl.Expr:
    """Times (ns) as the clocks of a zone show them, to the microsecond: near their ends ns would not hold them."""
    utc = (moments.cast(pl.Int64) // _NS_OF_US).cast(pl.Datetime("us", "UTC"))
    return utc if zone == "UTC" else utc.dt.convert_time_zone(zone)


def _moment(arguments: Arguments, at: int, *others: Type) -> Arguments:
    """Arguments in which a text that is written out at a place is read as a time. Raises RefusalError."""
    if arguments[at].type == TEXT and hasattr(arguments[at], "value"):
        found = read_time(text_of(arguments, at, "a time"), TIMESTAMP)
        arguments = (*arguments[:at], found, *arguments[at + 1 :])
    want(arguments, at, TIMESTAMP, *others)
    return arguments


def _grain(arguments: Arguments, at: int, grains: tuple[str, ...]) -> str:
    grain = text_of(arguments, at, "a grain").lower()
    if grain not in grains:
        raise RefusalError(f"{grain[:60]!r} is none of {', '.join(grains)}", argument=at)
    return grain


def _dated(arguments: Arguments) -> tuple[Arguments, Type]:
    _zone(arguments, 1)
    return _moment(arguments, 0), DATE


def _date(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return _local(columns[0], _zone(call.arguments, 1)).dt.date()


def _truncated(arguments: Arguments) -> tuple[Arguments, Type]:
    grain = _grain(arguments, 0, ("hour", *_TRUNCATIONS))
    _zone(arguments, 2)
    return _moment(arguments, 1, *(() if grain == "hour" else (DATE,))), TIMESTAMP if grain == "hour" else DATE


def _truncate(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    grain = _grain(call.arguments, 0, ("hour", *_TRUNCATIONS))
    return _cut(columns[1], call.arguments[1].type, grain, _zone(call.arguments, 2))


def _bucketed(arguments: Arguments) -> tuple[Arguments, Type]:
    grain = _grain(arguments, 1, BUCKET_GRAINS)
    _zone(arguments, 2)
    return _moment(arguments, 0), TIMESTAMP if grain == "hour" else DATE


def _bucket(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    grain = _grain(call.arguments, 1, BUCKET_GRAINS)
    return _cut(columns[0], call.arguments[0].type, grain, _zone(call.arguments, 2))


def _cut(values: pl.Expr, kind: Type, grain: str, zone: str) -> pl.Expr:
    if grain == "hour":
        return _at_hour(values.cast(pl.Int64), zone)
    dates = values if kind == DATE else _local(values, zone).dt.date()
    return dates if grain == "day" else dates.dt.truncate(_TRUNCATIONS[grain])


def _at_hour(moments: pl.Expr, zone: str) -> pl.Expr:
    """Times less the minutes that the clocks of a zone show; null where that is before the first time there is."""
    if zone == "UTC":
        begins = moments - moments % _HOUR_NS
    else:
        local = _local(moments, zone).dt.replace_time_zone(None).cast(pl.Int64)  # us
        begins = moments - (local % (_HOUR_NS // _NS_OF_US) * _NS_OF_US + moments % _NS_OF_US)
    return pl.when(begins <= moments).then(begins)


def _has_field(name: str, arguments: Arguments) -> tuple[Arguments, Type]:
    _zone(arguments, 1)
    return _moment(arguments, 0, *(() if name in _TIME_FIELDS else (DATE,))), INTEGER


def _field(name: str, call: Call, columns: list[pl.Expr]) -> pl.Expr:
    kind = call.arguments[0].type
    time = columns[0] if kind == DATE else _local(columns[0], _zone(call.arguments, 1))
    return FIELDS[name](time).cast(pl.Int64)


def _timed(arguments: Arguments) -> tuple[Arguments, Type]:
    return _moment(arguments, 0, INTERVAL), _SECONDS


def _epoch(call: Call, columns: list[pl.Expr]) -> pl.Expr:
    return exact.scaled(exact.unscaled(columns[0], call.arguments[0].type), call.type)


FUNCTIONS: dict[str, Function] = {
    "date": Function("date(timestamp[, zone])", _dated, _date, 1, 2),
    "date_trunc": Function("date_trunc('day', timestamp[, zone])", _truncated, _truncate, 2, 3),
    "bucket": Function("bucket(timestamp, 'day', zone)", _bucketed, _bucket, 2, 3),
    "epoch": Function("epoch(timestamp)", _timed, _epoch),
} | {
    name: Function(f"{name}(timestamp[, zone])", partial(_has_field, name), partial(_field, name), 1, 2)
    for name in FIELDS
}
