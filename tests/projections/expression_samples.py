"""Random expressions of each type, as a text of ours and one of DuckDB that means the same, and rows for them.

They differ where the languages do: DuckDB raises where a sum outgrows its type or a divisor is 0, and ours is null
(`TRY`, `NULLIF`); its small numbers are 32 bits wide (`::BIGINT`); it takes no zone in `date` and `hour`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import duckdb
import polars as pl
from hypothesis import strategies as st

ALPHABET = "aAbB éß😀_%.,-'\\\n(1"
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland")
PATHS = ('payload."text"', 'payload."whole"', 'payload."amount"', 'payload."flag"', 'payload."day"')


class Pair(NamedTuple):
    """One expression: ours and DuckDB's."""

    ours: str
    duck: str


Pairs = st.SearchStrategy[Pair]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def both(ours: str, duck: str | None = None) -> Pairs:
    return st.just(Pair(ours, duck or ours))


def joined(ours: str, *parts: Pairs, duck: str | None = None) -> Pairs:
    """A template, filled with parts, for both; with another one for DuckDB where one is given."""
    return st.tuples(*parts).map(
        lambda found: Pair(
            ours.format(*(part.ours for part in found)), (duck or ours).format(*(part.duck for part in found))
        )
    )


def choices(of: Pairs, depth: int) -> list[Pairs]:
    """What chooses among values of any type."""
    condition = booleans(depth - 1)
    return [
        joined("coalesce({}, {})", of, of),
        joined("nullif({}, {})", of, of),
        joined("greatest({}, {})", of, of),
        joined("least({}, {}, {})", of, of, of),
        joined("case when {} then {} when {} then {} end", condition, of, condition, of),
        joined("case {} when {} then {} else {} end", of, of, of, of),
    ]


def integers(depth: int) -> Pairs:
    literal = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-9, 9)
    leaves = st.one_of(
        both("position"),
        both("schema_version", "schema_version::BIGINT"),
        literal.map(lambda value: Pair(f"({value})", f"({value})::BIGINT")),
        both("cast(payload.whole as bigint)", "TRY_CAST(payload.whole AS BIGINT)"),
    )
    if depth <= 0:
        return leaves
    part = integers(depth - 1)
    field = st.sampled_from(["year", "quarter", "month", "week", "day", "dow", "isodow", "doy", "hour", "minute"])
    return st.one_of(
        leaves,
        *(joined(f"({{}} {sign} {{}})", part, part, duck=f"TRY({{}} {sign} {{}})") for sign in "+-*"),
        joined("({} % {})", part, part, duck="TRY({} % NULLIF({}, 0))"),
        joined("abs({})", part, duck="TRY(abs({}))"),
        joined("-({})", part, duck="TRY(-({}))"),
        joined("length({})", texts(depth - 1)),
        st.tuples(field, moments(0), st.sampled_from(ZONES)).map(
            lambda found: Pair(
                f"{found[0]}({found[1].ours}, '{found[2]}')",
                f"extract({found[0]} from {_local(found[1].duck, found[2])})",
            )
        ),
        *choices(part, depth),
    )


def decimals(depth: int) -> Pairs:
    """Decimals that are not far from decimal(18,2), of which DuckDB can make products."""
    literal = st.decimals(-99, 99, places=2).map(lambda value: Pair(f"({value})", f"({value})"))
    leaves = st.one_of(
        literal, both("cast(payload.amount as decimal(9,2))", "TRY_CAST(payload.amount AS DECIMAL(9,2))")
    )
    if depth <= 0:
        return leaves
    part = decimals(depth - 1)
    return st.one_of(
        leaves,
        joined("({} * {})", leaves, leaves),
        joined("({} + {})", part, part),
        joined("({} - {})", part, leaves),
        joined("({} % {})", part, leaves, duck="({} % NULLIF({}, 0))"),
        joined("round({}, 1)", part),
        joined("round({})", part),
        joined("floor({})", part),
        joined("ceil({})", part),
        joined("-({})", part),
        joined("abs({})", part),
        joined("({} + schema_version)", part),
        *choices(part, depth),
    )


def texts(depth: int) -> Pairs:
    literal = st.text(ALPHABET, max_size=4).map(quoted)
    leaves = st.one_of(
        both("event_type"),
        both("stream_id"),
        both("payload.text"),
        literal.map(lambda text: Pair(text, text)),
    )
    if depth <= 0:
        return leaves
    part = texts(depth - 1)
    some = st.text(ALPHABET, min_size=1, max_size=2).map(quoted).map(lambda text: Pair(text, text))
    count = st.integers(0, 4).map(lambda number: Pair(str(number), str(number)))
    return st.one_of(
        leaves,
        joined("({} || {})", part, part),
        joined("concat({}, {})", part, part),
        joined("lower({})", part),
        joined("trim({})", part),
        joined("ltrim({}, {})", part, some),
        joined("rtrim({}, {})", part, some),
        joined("substring({}, 1 + 1, {})".replace("1 + 1", "2"), part, count),
        joined("left({}, {})", part, count),
        joined("right({}, {})", part, count),
        joined("replace({}, {}, {})", part, some, some),
        joined("split_part({}, {}, 2)", part, some),
        joined("cast({} as text)", integers(0)),
        joined("cast({} as text)", decimals(0)),
        *choices(part, depth),
    )


def moments(depth: int) -> Pairs:
    leaves = both("timestamp") | both("recorded_at")
    if depth <= 0:
        return leaves
    span = st.sampled_from(["30 minutes", "36 hours", "2 days", "1 week", "5 milliseconds"])
    return st.one_of(
        leaves,
        span.flatmap(lambda text: joined(f"({{}} + interval '{text}')", leaves)),
        span.flatmap(lambda text: joined(f"({{}} - interval '{text}')", leaves)),
        joined("date_trunc('hour', {})", leaves),
        st.sampled_from(ZONES).flatmap(
            lambda zone: joined(f"date_trunc('hour', {{}}, '{zone}')", leaves, duck=_hour(zone))
        ),
        joined("bucket({}, 'hour', 'Asia/Kolkata')", leaves, duck=_hour("Asia/Kolkata")),
        *choices(leaves, depth),
    )


def dates(depth: int) -> Pairs:
    leaves = st.one_of(
        both("date(timestamp)", "CAST(timestamp AS DATE)"),
        both("cast(payload.day as date)", "TRY_CAST(payload.day AS DATE)"),
        both("date '2024-02-29'"),
    )
    if depth <= 0:
        return leaves
    zone = st.sampled_from(ZONES)
    grain = st.sampled_from(["day", "week", "month", "quarter", "year"])
    cut = st.tuples(grain, moments(0), zone)
    return st.one_of(
        leaves,
        cut.map(
            lambda found: Pair(
                f"date_trunc('{found[0]}', {found[1].ours}, '{found[2]}')",
                f"CAST(date_trunc('{found[0]}', {_local(found[1].duck, found[2])}) AS DATE)",
            )
        ),
        cut.filter(lambda found: found[0] in ("day", "week", "month")).map(
            lambda found: Pair(
                f"bucket({found[1].ours}, '{found[0]}', '{found[2]}')",
                f"CAST(date_trunc('{found[0]}', {_local(found[1].duck, found[2])}) AS DATE)",
            )
        ),
        grain.flatmap(
            lambda name: joined(
                f"date_trunc('{name}', {{}})", leaves, duck=f"CAST(date_trunc('{name}', {{}}) AS DATE)"
            )
        ),
        *choices(leaves, depth),
    )


def booleans(depth: int) -> Pairs:
    leaves = st.one_of(
        both("true"),
        both("position > 0"),
        both(
            "cast(payload.flag as boolean)", "CASE payload.flag WHEN 'true' THEN true WHEN 'false' THEN false END"
        ),
    )
    if depth <= 0:
        return leaves
    part, text = booleans(depth - 1), texts(depth - 1)
    pattern = st.text(ALPHABET, max_size=4).map(quoted).map(lambda found: Pair(found, found))
    sign = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
    values = st.sampled_from([text, integers(depth - 1), decimals(depth - 1), moments(0), dates(0)])
    listed = st.lists(st.text(ALPHABET, max_size=2).map(quoted), min_size=1, max_size=3).map(", ".join)
    numbers = st.one_of(integers(depth - 1), decimals(0))
    return st.one_of(
        leaves,
        joined("({} and {})", part, part),
        joined("({} or {} or {})", part, part, part),
        joined("not {}", part.map(lambda found: Pair(f"({found.ours})", f"({found.duck})"))),
        st.tuples(sign, values).flatmap(lambda found: joined(f"({{}} {found[0]} {{}})", found[1], found[1])),
        sign.flatmap(lambda found: joined(f"({{}} {found} {{}})", integers(0).filter(_is_small), decimals(0))),
        values.flatmap(lambda of: joined("({} between {} and {})", of, of, of)),
        values.flatmap(lambda of: joined("({} is null)", of)),
        values.flatmap(lambda of: joined("({} is not null)", of)),
        joined("({} is not true)", part.map(lambda found: Pair(f"({found.ours})", f"({found.duck})"))),
        joined("({} like {})", text, pattern),
        joined("({} not like {})", text, pattern),
        listed.flatmap(lambda found: joined(f"({{}} in ({found}))", text)),
        joined("({} not in (1, 2, -3))", numbers),
        joined("starts_with({}, {})", text, text),
        joined("ends_with({}, {})", text, text),
        joined("contains({}, {})", text, text),
        sign.flatmap(
            lambda found: both(
                f"timestamp {found} '2024-03-31T01:00:00Z'", f"timestamp {found} '2024-03-31 01:00:00'"
            )
        ),
    )


OF_ANY_TYPE = (integers, decimals, texts, moments, dates, booleans)


def _is_small(pair: Pair) -> bool:
    return not any(character.isdigit() for character in pair.ours)


def _local(moment: str, zone: str) -> str:
    return f"timezone('{zone}', timezone('UTC', {moment}))"


def _hour(zone: str) -> str:
    local = _local("{0}", zone)
    return f"{{0}} - ({local} - date_trunc('hour', {local}))"


_AROUND_CHANGES = [1_711_846_800, 1_729_990_800, 1_710_054_000, 1_730_613_600, 1_712_412_000, 1_727_532_000]


@st.composite
def rows(draw: st.DrawFn) -> pl.DataFrame:
    """A few stored events, with the values at `PATHS` as columns."""
    moment = st.sampled_from(_AROUND_CHANGES).flatmap(lambda s: st.integers(s - 7200, s + 7200)) | st.integers(
        -5_000_000_000,
        4_100_000_000,  # until 2099: Polars knows no later changes of clocks
    )
    columns: dict[str, st.SearchStrategy[object]] = {
        "position": st.integers(-9, 9) | st.integers(-(2**63), 2**63 - 1),
        "schema_version": st.integers(-9, 9),
        "event_type": st.text(ALPHABET, max_size=5),
        "stream_id": st.sampled_from(["a", "a,b", "aB", "b_%"]),
        "timestamp": st.tuples(moment, st.integers(0, 999_999)).map(lambda t: t[0] * 10**9 + t[1] * 1000),
        "recorded_at": moment.map(lambda seconds: seconds * 10**9),
        PATHS[0]: st.none() | st.text(ALPHABET, max_size=4),
        PATHS[1]: st.none() | st.sampled_from(["", "x", "é"]) | st.integers(-(10**19), 10**19).map(str),
        PATHS[2]: st.none() | st.sampled_from(["", "abc"]) | st.decimals(-(10**7), 10**7, places=2).map(str),
        PATHS[3]: st.sampled_from([None, "true", "false", "?"]),
        PATHS[4]: st.none() | st.dates(datetime(1900, 1, 1).date()).map(str) | st.just("2023-02-29"),
    }
    table = {name: draw(st.lists(values, min_size=6, max_size=6)) for name, values in columns.items()}
    kinds = dict.fromkeys(("position", "timestamp", "recorded_at"), pl.Int64) | {"schema_version": pl.Int32}
    return pl.DataFrame(table, schema={name: kinds.get(name, pl.String) for name in columns})


def duckdb_values(events: pl.DataFrame, texts: Sequence[str]) -> list[list[object]]:
    """What DuckDB makes of expressions, a list for each."""
    members = ", ".join(f'{path.split(chr(34))[1]!r}: "{path.replace(chr(34), chr(34) * 2)}"' for path in PATHS)
    stored = "position, schema_version, event_type, stream_id, make_timestamp(timestamp // 1000) AS timestamp"
    stored += ", make_timestamp(recorded_at // 1000) AS recorded_at"
    source = f"SELECT {stored}, {{{members}}} AS payload FROM events"
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; SET error_on_division_by_zero = false")
        connection.register("events", events.to_arrow())
        found = connection.execute(f"SELECT {', '.join(texts)} FROM ({source})").fetchall()
    return [[plain(value) for value in column] for column in zip(*found, strict=True)]


def plain(value: object) -> object:
    """A value as both engines can have it: times as nanoseconds, all exact numbers as decimals."""
    if isinstance(value, datetime):
        since = value.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return Decimal((since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value
