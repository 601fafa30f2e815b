"""Projections in Python: they follow the log as others do, and what they raise is told in a sentence."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from projecting import make, open_projection, purchase, refreshed
from samples import frame

import evtool
from evtool.errors import ConfigError, ProjectionError

MODULE = """
import polars as pl

class Latest:
    name = "latest"
    version = 1
    columns = ("stream_id", "timestamp", "position")

    def partial(self, events):
        return events.group_by("stream_id").agg(pl.col("timestamp").max(), pl.len().alias("events"))

    def merge(self, partials):
        both = pl.concat(partials)
        return both.group_by("stream_id").agg(pl.col("timestamp").max(), pl.col("events").sum())

    def finalize(self, state):
        return state.sort("stream_id").with_columns(pl.col("timestamp").cast(pl.Datetime("ns", "UTC")))

class Exiting(Latest):
    def finalize(self, state):
        raise SystemExit(3)

class Panicking(Latest):
    def finalize(self, state):
        raise pl.exceptions.PanicException("no more")

class MuteError(Exception):
    def __str__(self):
        raise ValueError

class Mute(Latest):
    def finalize(self, state):
        raise MuteError

class Structured(Latest):
    def finalize(self, state):
        return state.select(pl.struct("stream_id"))

class Deep(Latest):
    def finalize(self, state):
        return state.select(pl.concat_list(pl.struct("stream_id")))

class Binary(Latest):
    def finalize(self, state):
        return state.select(pl.col("stream_id").cast(pl.Binary))

class Unreadable(Latest):
    @property
    def name(self):
        raise KeyError("name")

class Unnamed(Latest):
    name = "No Name"

class Unnumbered(Latest):
    version = "1"

class Lacking:
    name = "lacking"
    version = 1

class Columns(Latest):
    columns = ("stream_id", "amount")

class Raising(Latest):
    name = "raising"
    def partial(self, events):
        raise KeyError("what it lacks")

class Interrupting(Latest):
    name = "interrupting"
    def finalize(self, state):
        return state.to_dicts()

class Bucketed(Latest):
    name = "bucketed"
    def partial(self, events):
        return events.select(pl.lit(1).alias("bucket"))

class OfDurations(Latest):
    name = "of-durations"
    def finalize(self, state):
        return state.select(pl.duration(seconds=pl.col("events")).alias("for"))

class Changing(Latest):
    name = "changing"
    def merge(self, partials):
        return partials[0].select("stream_id")

instance = Latest()
number = 3

class Failing:
    def __init__(self):
        raise RuntimeError("not today")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the working folder, forgotten afterwards."""
    path = tmp_path / "own_views.py"
    path.write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield path
    sys.modules.pop("own_views", None)


BATCHES = [
    [purchase(number, f"u{number % 3}", hours=-number) for number in range(at, at + 5)] for at in (0, 5, 10)
]


def test_it_follows_the_log(folder: Path, module: Path):
    make(folder, BATCHES[:1])
    for batch in BATCHES[1:]:
        with evtool.open(folder) as log:
            refreshed(log, "own_views:Latest")
            log.append(frame(batch))
    with evtool.open(folder, read_only=True) as log:
        answer, grown = refreshed(log, "own_views:Latest")
        assert answer.frame["events"].to_list() == [5, 5, 5]
        assert answer.frame["stream_id"].to_list() == ["s-u0", "s-u1", "s-u2"]
        assert answer.events == answer.position == 15
        assert refreshed(log, "own_views:instance", full=True)[1] == grown
        assert open_projection(log, "own_views:Latest").runner.stale().frame.equals(answer.frame)
    make(folder.with_name("whole"), [[event for batch in BATCHES for event in batch]])
    with evtool.open(folder.with_name("whole"), read_only=True) as log:
        assert refreshed(log, "own_views:Latest")[1] == grown


def test_an_empty_log(folder: Path, module: Path):
    with evtool.open(folder, create=True) as log:
        answer, _ = refreshed(log, "own_views:Latest")
    assert answer.frame.columns == ["stream_id", "timestamp", "events"]
    assert len(answer.frame) == 0


def test_a_module_that_changed_needs_a_new_version(folder: Path, module: Path):
    make(folder, BATCHES[:1])
    with evtool.open(folder, read_only=True) as log:
        refreshed(log, "own_views:Latest")
        module.write_text(MODULE + "\n# changed\n")
        sys.modules.pop("own_views")
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        with pytest.raises(ProjectionError, match="latest version 1 has another definition"):
            refreshed(log, "own_views:Latest")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Unnamed", "needs a `name`"),
        ("Unnumbered", "needs a `name`"),
        ("number", "needs a `name`"),
        ("Lacking", "no method 'partial'"),
        ("Columns", "no column 'amount'"),
        ("Missing", "cannot be had: AttributeError"),
        ("Failing", "not today"),
        ("Raising", "partial failed: KeyError: 'what it lacks'"),
        ("Interrupting", "finalize gives list"),
        ("Bucketed", "column 'bucket'"),
        ("OfDurations", "for"),
        ("Exiting", "finalize failed: SystemExit: 3"),
        ("Panicking", "finalize failed: PanicException"),
        ("Mute", "finalize failed: MuteError"),
        ("Structured", "of type Struct"),
        ("Deep", "of type List(Struct"),
        ("Binary", "of type Binary"),
        ("Unreadable", "its name cannot be had: KeyError"),
        ("Changing", "Changing: "),
    ],
)
def test_what_an_object_lacks_or_raises_is_a_sentence(folder: Path, module: Path, name: str, says: str):
    make(folder, BATCHES)
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError) as caught:
        refreshed(log, f"own_views:{name}")
    assert says in caught.value.message


@pytest.mark.parametrize("columns", ['"stream_id"', "3", "(1,)", "()", "None", '[["stream_id"]]'])
def test_columns_that_are_none(folder: Path, module: Path, columns: str):
    own = 'columns = ("stream_id", "timestamp", "position")'
    assert own in MODULE
    module.write_text(MODULE.replace(own, f"columns = {columns}"))
    make(folder, BATCHES[:1])
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError, match="column"):
        refreshed(log, "own_views:Latest")


def test_it_has_no_parameters(folder: Path, module: Path):
    make(folder, BATCHES)
    with evtool.open(folder, read_only=True) as log, pytest.raises(ConfigError, match="no parameters"):
        open_projection(log, "own_views:Latest", grain="day")


@pytest.mark.parametrize(
    "reference", ["nowhere:Thing", "own_views:", ":Latest", ":", "own views:x", "own_views:a.b"]
)
def test_references_that_lead_nowhere(folder: Path, module: Path, reference: str):
    make(folder, BATCHES[:1])
    with evtool.open(folder, read_only=True) as log, pytest.raises(ProjectionError, match="cannot be had"):
        open_projection(log, reference)
