"""Projections in Python, for what the language of definitions cannot say: an object named `module:object`.

    class Streaks:
        name = "streaks"
        version = 1
        columns = ("stream_id", "timestamp")        # of the log; all, if this is left out
        def partial(self, events: pl.DataFrame) -> pl.DataFrame: ...
        def merge(self, partials: list[pl.DataFrame]) -> pl.DataFrame: ...
        def finalize(self, state: pl.DataFrame) -> pl.DataFrame: ...

The object is the class or an instance. `partial` gets any part of the events, in any order and without any at all;
`merge` must not depend on how the log was cut, and `finalize` gives its rows in an order of its own that is total.
Timestamps and recorded_at are ns UTC. Its definition is the text of its module: whoever changes that raises the
version.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from evtool.errors import ProjectionError
from evtool.event import STORED_SCHEMA
from evtool.projections.definition import NAME, VERSION_MAX, Identity, digest
from evtool.projections.kind import BUCKET, Tables
from evtool.projections.plan import Plan

_STATE = "state"


def plan(reference: str) -> Plan:
    """The plan of a Python object. Raises ProjectionError when it cannot be had or lacks something."""
    found = _load(reference)
    name, version = _attribute(reference, found, "name"), _attribute(reference, found, "version")
    if (
        not isinstance(name, str)
        or not NAME.fullmatch(name)
        or type(version) is not int
        or not 1 <= version <= VERSION_MAX
    ):
        raise ProjectionError(f"{reference} needs a `name` (letters, digits, '-') and a `version` from 1 on")
    for method in ("partial", "merge", "finalize"):
        if not callable(_attribute(reference, found, method)):
            raise ProjectionError(f"{reference} has no method {method!r}", "It needs partial, merge and finalize.")
    columns = _columns(reference, _attribute(reference, found, "columns", tuple(STORED_SCHEMA)))
    return Plan(
        identity=Identity(name, version, digest(_source(found)), {}, reference),
        kind=Custom(reference, found, tuple(column for column in STORED_SCHEMA if column in columns)),
        inputs={column: pl.col(column) for column in STORED_SCHEMA if column in columns},
        columns=columns,
        paths=(),
    )


class Custom:
    """The kind of an object of somebody else's; what it raises is told with its name."""

    needs_order = False

    def __init__(self, reference: str, made: Any, inputs: Sequence[str]) -> None:
        self._reference = reference
        self._made = made
        self.inputs = inputs

    def partial(self, rows: pl.DataFrame) -> Tables:
        """What the object makes of some events."""
        return self._state("partial", rows)

    def merge(self, parts: Sequence[Tables]) -> Tables:
        """What the object makes of several such."""
        return self._state("merge", [part[_STATE].drop(BUCKET) for part in parts])

    def reduce(self, state: Tables) -> pl.DataFrame:
        """The state itself: there is one bucket."""
        return state[_STATE]

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        """The object's read model."""
        return self._call("finalize", reduced.drop(BUCKET))

    def _state(self, method: str, argument: Any) -> Tables:
        frame = self._call(method, argument)
        if BUCKET in frame.columns:
            raise ProjectionError(
                f"{self._reference}: {method} gives a column {BUCKET!r}", "Give it another name."
            )
        return {_STATE: frame.select(pl.lit(0, pl.Int32).alias(BUCKET), pl.all())}

    def _call(self, method: str, argument: Any) -> pl.DataFrame:
        try:
            frame = getattr(self._made, method)(argument)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it is, an exit or a panic of Polars too, it is not ours
            raise ProjectionError(f"{self._reference}: {method} failed: {_told(error)}") from error
        if not isinstance(frame, pl.DataFrame):
            raise ProjectionError(
                f"{self._reference}: {method} gives {type(frame).__name__}, not a Polars DataFrame"
            )
        return frame


def _load(reference: str) -> Any:
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
        return found() if inspect.isclass(found) else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module may do anything
        raise ProjectionError(f"{reference} cannot be had: {_told(error)}") from error


def _attribute(reference: str, found: Any, name: str, default: Any = None) -> Any:
    """An attribute of the object, which may be computed. Raises ProjectionError."""
    try:
        return getattr(found, name, default)
    except Exception as error:
        raise ProjectionError(f"{reference}: its {name} cannot be had: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """The type of an error, and what it says, if it can."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _columns(reference: str, named: Any) -> frozenset[str]:
    """What an object names as its columns. Raises ProjectionError."""
    if not isinstance(named, list | tuple | set | frozenset) or not named:
        raise ProjectionError(
            f"{reference}: its `columns` are {named!r:.60}",
            'Name some, as in columns = ("stream_id", "timestamp").',
        )
    for column in named:
        if not isinstance(column, str) or column not in STORED_SCHEMA:
            raise ProjectionError(
                f"{reference}: there is no column {column!r:.60}", f"There are: {', '.join(STORED_SCHEMA)}."
            )
    return frozenset(named)


def _source(made: Any) -> str:
    module = inspect.getmodule(type(made))
    try:
        return inspect.getsource(module) if module else repr(made)
    except (OSError, TypeError):
        return repr(type(made))
