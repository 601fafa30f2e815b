"""Projections over segments that have columns for paths: the same bytes as over payloads, whatever has which."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from compacting import compacted
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import Event, aggregates, events, make, open_projection, purchase, refreshed, toml_of, write
from samples import check_sound, config, frame, segments

import evtool
from evtool.errors import LogDamagedError
from evtool.log.coldsegment import ColdSegment
from evtool.log.selection import Selection
from evtool.projections import catalogue
from evtool.schemas import document
from evtool.schemas.steps import from_list

BUILT_IN = sorted(catalogue.entries(None))
NAMES = (
    "payload.user_id",
    "payload.product_id",
    "payload.amount",
    "payload.quantity",
    "metadata.experiment_id",
    "metadata.cohort_id",
    "payload.deep.er",
    "payload.items[1].x",
    'payload["a.b"]',
)
# Null, absent, twice, spelled oddly, escaped, nested, in lists.
ODD_PAYLOADS = (
    '{"user_id":null,"deep":null}',
    '{"user_id":"first","user_id":"last"}',
    '{"amount":1.10,"quantity":-0,"deep":{"er":1E+05}}',
    '{"amount":123456789012345678901234567890,"deep":{"er":"\\u00e9\\n\\"\\/"}}',
    '{"items":[0,{"x":[1, 2]},3],"deep":{"er":{ "k" : 1 }}}',
    '{"items":{"1":{"x":9}},"deep":[{"er":1}],"a":{"b":2}}',
    '{ "items" : [ 7 , { "x" : true } ] , "a.b" : "" }',
    '{"\\u0061.b":"escaped","deep":{"er":""}}',
    '{"user_id":"漢字 \\ud83d\\ude00","a.b":false}',
)
ODD_KEYS = """
[keys]
deep = "payload.deep.er"
listed = 'payload."items"[1].x'
dotted = "payload['a.b']"
user = "coalesce(payload.user_id, stream_id)"
[measures]
events = "count(*)"
amounts = "count(distinct payload.amount)"
last = "last(payload.quantity)"
"""

KEYS_OF_TYPES = """
[keys]
t = "event_type"
u = "coalesce(payload.user_id, stream_id)"
[measures]
n = "count(*)"
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("columns")


def in_segments(folder: Path, parts: Sequence[Sequence[Event]]) -> None:
    """A log with a segment for each part; all but the last are sealed."""
    for number, part in enumerate(parts, 1):
        size = 1 << 20 if number == len(parts) else 1
        with evtool.open(folder, create=True, config=config(size, fsync="never")) as log:
            log.append(frame(part))


def with_columns(hot: Path, sets: Sequence[Sequence[str] | None]) -> Path:
    """A copy of a log whose segments are cold with these columns each, or hot (None)."""
    mixed = hot.with_name("mixed")
    shutil.copytree(hot, mixed)
    for names in {tuple(each) for each in sets if each is not None}:
        cold = hot.with_name("cold")
        shutil.copytree(hot, cold)
        compacted(cold, 0, *names)
        for number, each in enumerate(sets):
            if each is not None and tuple(each) == names:
                shutil.rmtree(segments(mixed)[number])
                shutil.copytree(segments(cold)[number], mixed / segments(hot)[number].name)
        shutil.rmtree(cold)
    return mixed


def read_models(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    with evtool.open(folder, read_only=True) as log:
        return {name: refreshed(log, name, full=True)[1] for name in names}


@st.composite
def parts(draw: st.DrawFn) -> list[list[Event]]:
    """Events of three sealed segments and an active one, with payloads of all sorts."""
    happened = draw(events(4, 60))
    for each in happened:
        each["payload"] = draw(st.sampled_from([each["payload"], *ODD_PAYLOADS]))
    cut = len(happened) // 4
    return [happened[at * cut : (at + 1) * cut if at < 3 else None] for at in range(4)]


some_names = st.lists(st.sampled_from(NAMES), unique=True).map(sorted)


@given(data=st.data())
@settings(max_examples=6)
def test_read_models_are_the_same_bytes_whatever_has_which_columns(data: st.DataObject, scratch: Path):
    folder = Path(tempfile.mkdtemp(dir=scratch))
    in_segments(folder / "hot", data.draw(parts()))
    mixed = with_columns(folder / "hot", data.draw(st.lists(st.none() | some_names, min_size=3, max_size=3)))
    texts = [ODD_KEYS, *(toml_of(data.draw(aggregates())) for _ in range(2))]
    names = [*BUILT_IN, *(write(folder, text, f"mine-{at}") for at, text in enumerate(texts))]
    assert read_models(mixed, names) == read_models(folder / "hot", names)
    check_sound(mixed)


def register(log: evtool.Log, event_type: str, *steps: dict[str, Any]) -> None:
    """Two versions of a type; the steps make a payload of the first one of the second."""
    log.schemas.add(event_type, document.parse("{}"), compatibility="none")
    log.schemas.add(event_type, document.parse('{"title":"2"}'), steps=from_list([*steps], "upcast"))


@pytest.mark.parametrize("where", ["", "event_type = 'Changed'", "event_type in ('Changed', 'Free')"])
def test_what_upcasters_change_is_not_read_from_columns_of_what_was_stored(folder: Path, where: str):
    happened = [
        purchase(
            at,
            event_type=("Changed", "Kept", "Free")[at % 3],
            schema_version=1 + at % 2,
            payload=json.dumps({"user_id": f"old{at % 5}", "id": f"new{at % 7}"}),
        )
        for at in range(90)
    ]
    in_segments(folder, [happened[:40], happened[40:80], happened[80:]])
    with evtool.open(folder) as log:
        register(log, "Changed", {"drop": "user_id"}, {"rename": "id", "to": "user_id"})
        register(log, "Kept")
    text = (f'where = "{where}"' if where else "") + KEYS_OF_TYPES
    with_version = text.replace("[measures]", 'v = "schema_version"\n[measures]')
    names = [write(folder.parent, text, "plain"), write(folder.parent, with_version, "versions")]
    hot = read_models(folder, names)
    assert read_models(with_columns(folder, [["payload.user_id"], ["payload.user_id"]]), names) == hot
    with evtool.open(folder, read_only=True) as log:
        users = {row["u"] for row in refreshed(log, names[0])[0].frame.to_dicts() if row["t"] == "Changed"}
        versions = {(row["t"], row["v"]) for row in refreshed(log, names[1])[0].frame.to_dicts()}
    assert users == {f"new{at}" for at in range(7)} | {f"old{at}" for at in range(5)}  # of version 1, and of 2
    assert versions - {("Free", 1), ("Free", 2)} == {("Changed", 2)} | (set() if where else {("Kept", 2)})


def cold_shop(folder: Path) -> ColdSegment:
    """A log with one cold segment that has columns for users and amounts, and that segment."""
    in_segments(folder, [[purchase(at, user=f"u{at % 7}") for at in range(3_000)], [purchase(9_000)]])
    compacted(folder, 0, "payload.user_id", "payload.amount")
    cold = evtool.open(folder, read_only=True).snapshot().segments[0]
    assert isinstance(cold, ColdSegment)
    return cold


def damage(cold: ColdSegment, column: str) -> None:
    chunk = cold.chunks[1, cold.summary["columns"].index(column)]
    flip(cold.path, int(chunk["offset"]) + int(chunk["stored_bytes"]) // 2)


def test_payloads_are_not_looked_at_where_columns_have_it_all(folder: Path):
    cold = cold_shop(folder)
    expected = read_models(folder, ["daily-active-users", "revenue-per-user"])
    damage(cold, "payload")
    assert read_models(folder, [*expected]) == expected
    with pytest.raises(LogDamagedError, match="column payload does not match its checksum"):
        read_models(folder, ["revenue-by-product"])


def test_a_bit_that_flips_in_a_column_is_found(folder: Path):
    damage(cold_shop(folder), "payload.user_id")
    with pytest.raises(LogDamagedError, match=r"row group 1 .*: column payload.user_id does not match"):
        read_models(folder, ["daily-active-users"])


def test_a_refresh_that_begins_and_ends_within_a_stripe(folder: Path):
    cold_shop(folder)
    text = '[keys]\nu = "payload.user_id"\n[measures]\nn = "count(*)"\nlast = "last(payload.amount)"'
    name = write(folder.parent, text)
    hot = make(folder.with_name("hot"), [[purchase(at, user=f"u{at % 7}") for at in range(3_000)]])
    found = []
    for place in (folder, hot):
        with evtool.open(place, read_only=True) as log:
            asked = open_projection(log, name).runner
            found.append(asked.compute(Selection(start=123, end=2_345)).frame)
    assert found[0].equals(found[1])
    assert found[0]["n"].sum() == 2_222
