"""Projections in a test: logs of events that mean something, definitions for them, and how both are run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st
from samples import MOMENT_NS, config, frame

import evtool
from evtool.config import Config, ProjectionsConfig
from evtool.projections import projection as projections
from evtool.projections.projection import Projection
from evtool.projections.runner import Answer

HOUR_NS = 3_600_000_000_000
TYPES = ("UserViewedPage", "ItemViewed", "ButtonClicked", "ItemPurchased")
PRODUCTS = (None, "p1", "p2", 'p 3,\n"q"', "")
AMOUNTS = ("1.10", "19.99", "-3.5", "0.07", 12, 0.25, "n/a", "1.005", None, [1], "123456789012.34", "-0.0", True)
ODD_PAYLOADS = (
    "{}",
    '{"amount":{"a":1},"user_id":7}',
    '{"\\u0061mount":"2.50","user_id":"u\\u0031"}',
    '{"a":[1,{}]}',
)

Event = dict[str, Any]


def configuration(log: evtool.Log, own: Path | None = None, **parameters: Any) -> Config:
    """A configuration for the log, with a folder of own definitions and values of parameters."""
    return Config(
        log_path=log.folder, projections=ProjectionsConfig(folder=str(own or "none"), parameters=parameters)
    )


def open_projection(log: evtool.Log, reference: str, own: Path | None = None, **settings: str) -> Projection:
    """A projection as `evtool project` opens it."""
    return projections.open(log, reference, configuration(log, own), settings)


def project(log: evtool.Log, reference: str, own: Path | None = None, **settings: str) -> pl.DataFrame:
    """The read model of a projection, refreshed."""
    return open_projection(log, reference, own, **settings).runner.refresh().frame


def refreshed(log: evtool.Log, reference: str, full: bool = False, **settings: str) -> tuple[Answer, bytes]:
    """The answer of a refresh, and the bytes of the read model that it leaves."""
    asked = open_projection(log, reference, **settings)
    answer = asked.runner.refresh(full)
    return answer, asked.places.read_model.read_bytes()


def write(folder: Path, text: str, name: str = "mine") -> str:
    """A file with the definition `name`, of which `text` is all but name and version; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    heading = "" if text.lstrip().startswith("name") else f'name = "{name}"\nversion = 1\n'
    path.write_text(heading + text, encoding="utf-8")
    return str(path)


def make(folder: Path, batches: Iterable[Sequence[Event]]) -> Path:
    """A log of such batches, which costs no time for syncs."""
    with evtool.open(folder, create=True, config=config(fsync="never")) as log:
        for batch in batches:
            log.append(frame(batch))
    return folder


def append(folder: Path, batch: Sequence[Event]) -> None:
    """One more batch of a log."""
    with evtool.open(folder) as log:
        log.append(frame(batch))


def purchase(number: int, user: str | None = "u1", amount: Any = "1.50", hours: float = 0, **fields: Any) -> Event:
    """One event of a shop: a purchase unless `event_type` says otherwise."""
    payload = {"user_id": user, "amount": amount, "product_id": f"p{number % 3}"}
    return {
        "event_id": f"e-{number}",
        "source_id": "shop",
        "stream_id": f"s-{user}",
        "event_type": "ItemPurchased",
        "timestamp": MOMENT_NS + int(hours * HOUR_NS),
        "payload": json.dumps(payload, ensure_ascii=False),
    } | fields


# What a definition can sum, count and rank, by a grain that is a parameter; and purchases over some days.
SUMS = """
[time]
grain = ":grain"
[keys]
product = "payload.product_id"
[measures]
revenue = "sum(cast(payload.amount as decimal(18,2)))"
buyers = "count(distinct payload.user_id)"
best = "top_k(payload.user_id, 2)"
[parameters]
grain = { value = "day" }
"""
FIRST = [purchase(number, f"u{number % 4}", f"{number}.25", hours=number * 7) for number in range(20)]


@st.composite
def events(draw: st.DrawFn, least: int = 1, most: int = 40) -> list[Event]:
    """Events in no order of time, at few moments and around changes of clocks, with payloads of all sorts."""
    moments = st.integers(0, 60 * 24).map(lambda hour: MOMENT_NS + hour * HOUR_NS)
    near = st.integers(-3, 3).map(lambda step: 1_774_746_000 * 10**9 + step * HOUR_NS // 3)  # in Berlin
    far = st.sampled_from([-(2**62), 2**62, -1, 0])
    whole = st.none() | st.integers(-9, 9) | st.sampled_from([2**63 - 1, -(2**63), 2**70, "7", "x", 1.5])
    payload = st.fixed_dictionaries(
        {},
        optional={
            "user_id": st.sampled_from([None, "u1", "u2", "u3", "é"]),
            "product_id": st.sampled_from(PRODUCTS),
            "amount": st.sampled_from(AMOUNTS),
            "quantity": whole,
        },
    ).map(lambda value: json.dumps(value, ensure_ascii=False))
    metadata = st.sampled_from([None, '{"experiment_id":"x"}', '{"experiment_id":"x","cohort_id":"a"}'])
    one = st.fixed_dictionaries(
        {
            "stream_id": st.sampled_from(["s1", "s2", "s3", "s4"]),
            "event_type": st.sampled_from(TYPES),
            "timestamp": st.one_of(moments, moments, near, far),
            "payload": st.one_of(payload, payload, payload, st.sampled_from(ODD_PAYLOADS)),
            "metadata": metadata,
        }
    )
    found = draw(st.lists(one, min_size=least, max_size=most))
    return [each | {"event_id": f"e-{number}", "source_id": "shop"} for number, each in enumerate(found)]


@st.composite
def cuts(draw: st.DrawFn, given: Sequence[Event]) -> list[list[Event]]:
    """The same events in batches."""
    places = sorted(draw(st.sets(st.integers(1, max(len(given) - 1, 1)), max_size=4)))
    bounds = [0, *places, len(given)]
    return [list(given[a:b]) for a, b in itertools.pairwise(bounds) if a < b]


VALUES = {
    "integer": ("cast(payload.quantity as bigint)", "schema_version", "hour(timestamp)", "length(stream_id)"),
    "decimal": ("cast(payload.amount as decimal(18,2))", "cast(payload.amount as decimal(9,4)) * 2"),
    "text": ("payload.product_id", "coalesce(payload.user_id, stream_id)", "upper(payload.user_id)", "event_type"),
    "date": ("date(timestamp)",),
    "boolean": ("payload.user_id is not null", "cast(payload.quantity as bigint) > 1"),
}
CONDITIONS = (
    "event_type = 'ItemPurchased'",
    "event_type in ('ItemViewed', 'ItemPurchased')",
    "payload.user_id is not null",
    "cast(payload.amount as decimal(18,2)) > 1",
    "payload.product_id like 'p%' or event_type = 'ButtonClicked'",
    "metadata.experiment_id = 'x'",
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
GRAINS = ("hour", "day", "week", "month", "all")


def _of(*kinds: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text for kind in kinds for text in VALUES[kind]])


@st.composite
def measures(draw: st.DrawFn, ordered: bool = True, sketches: bool = True) -> str:
    """The text of one measure; `ordered`: perhaps of the order of events, `sketches`: perhaps an estimate."""
    numbers, any_value = _of("integer", "decimal"), _of(*VALUES)
    simple = [
        st.just("count(*)"),
        any_value.map("count({})".format),
        any_value.map("count(distinct {})".format),
        numbers.map("sum({})".format),
        numbers.map("avg({})".format),
        _of("integer", "decimal", "text", "date").map("min({})".format),
        _of("integer", "decimal", "text", "date").map("max({})".format),
    ]
    if ordered:
        simple += [any_value.map("first({})".format), any_value.map("last({})".format)]
    if sketches:
        simple += [any_value.map("approx_count_distinct({})".format), any_value.map("top_k({}, 2)".format)]
    condition = st.none() | st.sampled_from(CONDITIONS)

    def filtered(of: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(of, condition)
        return pair.map(lambda found: found[0] + (f" filter (where {found[1]})" if found[1] else ""))

    counted = filtered(st.one_of(simple[:3]))
    combined = st.one_of(
        st.tuples(counted, counted).map(lambda pair: "{} / {}".format(*pair)),
        st.tuples(counted, counted).map(lambda pair: "{} - {} * 2".format(*pair)),
        st.tuples(filtered(numbers.map("sum({})".format)), counted).map(lambda pair: "{} / {}".format(*pair)),
        counted.map("coalesce(nullif({}, 1), -1)".format),
        counted.map("case when {} > 2 then 'many' else 'few' end".format),
    )
    return draw(st.one_of(filtered(st.one_of(simple)), combined))


@st.composite
def aggregates(draw: st.DrawFn, ordered: bool = True, sketches: bool = True) -> dict[str, Any]:
    """The parts of a definition of the kind [measures]."""
    keys = draw(st.lists(_of("text", "integer", "decimal", "date", "boolean"), max_size=2, unique=True))
    found = draw(st.lists(measures(ordered, sketches), min_size=1, max_size=3))
    return {
        "where": draw(st.none() | st.sampled_from(CONDITIONS)),
        "grain": draw(st.none() | st.sampled_from(GRAINS)),
        "zone": draw(st.sampled_from(ZONES)),
        "keys": {f"key_{number}": text for number, text in enumerate(keys)},
        "measures": {f"m_{number}": text for number, text in enumerate(found)},
    }


def toml_of(parts: dict[str, Any]) -> str:
    """A definition's text from its parts."""
    quoted = json.dumps
    where = [f"where = {quoted(parts['where'])}"] if parts["where"] else []
    time = ["[time]", f'grain = "{parts["grain"]}"', f'timezone = "{parts["zone"]}"'] if parts["grain"] else []
    tables = [
        line
        for table in ("keys", "measures")
        for line in (f"[{table}]", *(f"{name} = {quoted(text)}" for name, text in parts[table].items()))
    ]
    return "\n".join([*where, *time, *tables, ""])


def plain(value: Any) -> Any:
    """A value as Python and DuckDB have it: a decimal of a scale of its own, zero without a sign."""
    return value.normalize() + 0 if isinstance(value, Decimal) else value
