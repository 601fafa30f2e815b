"""Generated aggregates give what DuckDB gives for the same events."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import Event, aggregates, cuts, events, make, open_projection, plain, toml_of, write

import evtool
from evtool.projections.bounds import select

# Ours, and what DuckDB has for it; it reads payloads by itself, with `->>`.
REWRITTEN = (
    (r"\b(payload|metadata)\.(\w+)", r"(json_value_of(\1, '\2'))"),
    (r"cast\((\(json_value_of\([^()]*\)\)) as bigint\)", r"whole(\1)"),
    (r"cast\((\(json_value_of\([^()]*\)\)) as decimal\((\d+),(\d+)\)\)", r"exactly_\3(\1)"),
    (r"\bdate\(timestamp\)", "cast(moment as date)"),
    (r"\bhour\(timestamp\)", "extract(hour from moment)"),
    (r"\bschema_version\b", "schema_version::bigint"),
)
MACROS = """
create macro json_value_of(document, member) as document ->> ('$.' || member);
create macro whole(text) as case when regexp_full_match(text, '-?[0-9]+') then try_cast(text as bigint) end;
create macro exactly_2(text) as case when try_cast(text as decimal(38,10)) = try_cast(text as decimal(18,2))
    and regexp_full_match(text, '-?[0-9]+([.][0-9]*)?') then try_cast(text as decimal(18,2)) end;
create macro exactly_4(text) as case when try_cast(text as decimal(38,10)) = try_cast(text as decimal(9,4))
    and regexp_full_match(text, '-?[0-9]+([.][0-9]*)?') then try_cast(text as decimal(9,4)) end;
create macro local_date(moment, zone) as cast(timezone(zone, timezone('UTC', moment)) as date);
"""


def sql_of(text: str) -> str:
    """One of our expressions as DuckDB's."""
    ordered = re.match(r"(first|last)\((.*?)\)( filter \(where (.*)\))?$", text)
    if ordered:
        value, condition = sql_of(ordered[2]), sql_of(ordered[4]) if ordered[4] else "true"
        direction = "" if ordered[1] == "first" else "desc"
        return (
            f"first({value} order by timestamp {direction}, position {direction}) "
            f"filter (where ({value}) is not null and ({condition}))"
        )
    dividend, slash, divisor = text.partition(" / ")
    if slash:  # ours is null where a divisor is 0
        return f"{sql_of(dividend)} / nullif({sql_of(divisor)}, 0)"
    for pattern, replacement in REWRITTEN:
        text = re.sub(pattern, replacement, text)
    return text


def period(grain: str, zone: str) -> str:
    if grain == "hour":
        local = f"timezone('{zone}', timezone('UTC', moment))"  # an hour may be there twice, so not back from it
        return f"(moment - ({local} - date_trunc('hour', {local})))"
    return f"cast(date_trunc('{grain}', local_date(moment, '{zone}')) as date)"


def question(parts: dict[str, Any]) -> str:
    """The SQL of a definition."""
    keys = {name: sql_of(text) for name, text in parts["keys"].items()}
    if parts["grain"] not in (None, "all"):
        keys = {parts["grain"]: period(parts["grain"], parts["zone"])} | keys
    found = {name: sql_of(text) for name, text in parts["measures"].items()}
    columns = ", ".join(f"{text} as {name}" for name, text in (keys | found).items())
    where = f"where {sql_of(parts['where'])}" if parts["where"] else ""
    groups = f"group by {', '.join(map(str, range(1, len(keys) + 1)))}" if keys else ""
    return f"select {columns} from events {where} {groups}"


def answered(happened: list[Event], parts: dict[str, Any]) -> list[tuple[Any, ...]]:
    """DuckDB's rows, from the events as they were made and not from evtool."""
    table = pl.DataFrame(
        {
            "position": range(1, len(happened) + 1),
            "timestamp": [each["timestamp"] for each in happened],
            "stream_id": [each["stream_id"] for each in happened],
            "event_type": [each["event_type"] for each in happened],
            "schema_version": [1] * len(happened),
            "payload": [each["payload"] for each in happened],
            "metadata": [each["metadata"] for each in happened],
        },
        schema_overrides={"metadata": pl.String},
    )
    with duckdb.connect() as connection:
        connection.execute("set threads = 1; set timezone = 'UTC'; set error_on_division_by_zero = false")
        connection.execute(MACROS)
        connection.register("stored", table.to_arrow())
        connection.execute("create view events as select *, make_timestamp_ns(timestamp) as moment from stored")
        return [tuple(map(normal, row)) for row in connection.execute(question(parts)).fetchall()]


def normal(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-15, nan_ok=True)
    if hasattr(value, "tzinfo"):
        return value.replace(tzinfo=None)
    return value


def in_order(rows: list[tuple[Any, ...]], keys: int) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: [(value is not None, str(value)) for value in row[:keys]])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("duckdb")


@given(data=st.data())
@settings(max_examples=14)
def test_generated_aggregates(data: st.DataObject, scratch: Path):
    folder = Path(tempfile.mkdtemp(dir=scratch))
    # DuckDB counts far times in microseconds and knows no time zones there.
    happened = [each for each in data.draw(events(2)) if 0 < each["timestamp"] < 2**61] or data.draw(events())[:0]
    if not happened:
        return
    several = [data.draw(aggregates(sketches=False)) for _ in range(3)]
    make(folder / "log", data.draw(cuts(happened)))
    with evtool.open(folder / "log", read_only=True) as log:
        for number, parts in enumerate(several):
            name = write(folder, toml_of(parts), f"mine-{number}")
            frame = open_projection(log, name).runner.compute(select(log, None, None, None)).frame
            ours = [tuple(map(normal, row)) for row in frame.rows()]
            keys = len(frame.columns) - len(parts["measures"])
            assert in_order(ours, keys) == in_order(answered(happened, parts), keys), toml_of(parts)
