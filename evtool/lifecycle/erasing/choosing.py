"""Which events are to be erased: those of some streams, or those that a condition is true for.

A condition is one in the SQL of definitions, over events as projections see them: as of the latest version of
their type. What was erased before is not chosen again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from evtool.errors import ConfigError
from evtool.log.gone import ERASED
from evtool.log.log import Log
from evtool.log.scan import scan
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.log.versions import stream_keys
from evtool.projections.definition import Identity
from evtool.projections.kind import BUCKET, Tables
from evtool.projections.language import expression as tree
from evtool.projections.language.expression import Expression, ExpressionError
from evtool.projections.language.lowering import failures, lower
from evtool.projections.language.parsing import parse
from evtool.projections.plan import Plan
from evtool.projections.source import Source

Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Progress: TypeAlias = Callable[[int, int], None]

_COLUMNS = ("position", "stream_id")
_ROWS = "rows"


@dataclass(frozen=True)
class Wanted:
    """What is to be erased: all of some `streams`, or what a condition (`where`) is true for."""

    streams: tuple[str, ...] = ()
    where: str | None = None

    @property
    def by(self) -> str:
        """How it is chosen, without a word of what."""
        return "condition" if self.where is not None else "stream"

    @cached_property
    def plan(self) -> Plan:
        """The compiled condition. Raises ConfigError."""
        assert self.where is not None
        return _compiled(self.where)


@dataclass(frozen=True)
class Chosen:
    """What was found of it: `events` at `positions`, in order, of so many `streams`.

    `whole` are the names of streams of which nothing else is there: they are renamed, also in what was erased of
    them before, whose positions are in `renamed`. `failed_casts` counts values of the condition that could not be
    cast. `first_dropped` is the first position of an event that retention dropped and that may have been
    one of them.
    """

    positions: Positions
    streams: int
    whole: tuple[str, ...]
    renamed: Positions
    failed_casts: Mapping[str, int] = field(default_factory=dict)
    first_dropped: int | None = None

    @property
    def all_positions(self) -> Positions:
        """Of all events that are written anew."""
        return np.union1d(self.positions, self.renamed)


class _Events:
    """The kind whose rows are the events that a condition is true for."""

    inputs = _COLUMNS
    needs_order = False

    def partial(self, rows: pl.DataFrame) -> Tables:
        return {_ROWS: rows.with_columns(pl.lit(0, pl.Int32).alias(BUCKET))}

    def merge(self, parts: Sequence[Tables]) -> Tables:
        return {_ROWS: pl.concat([part[_ROWS] for part in parts])}

    def reduce(self, state: Tables) -> pl.DataFrame:
        return state[_ROWS]

    def finalize(self, reduced: pl.DataFrame) -> pl.DataFrame:
        return reduced.drop(BUCKET).sort("position")


def choose(log: Log, snapshot: Snapshot, wanted: Wanted, on_progress: Progress) -> Chosen:
    """Find it in a snapshot. Raises ConfigError (a condition that is none), LogDamagedError, SchemaError."""
    if wanted.where is None:
        return _of_streams(log, snapshot, wanted.streams)
    source = Source(snapshot, log.partitions, log.schemas.current())
    erased, failed, found = erased_positions(snapshot), Counter[str](), []
    for part in source.parts(wanted.plan, Selection()):
        rows = part.tables[_ROWS]
        found.append(rows.filter(~np.isin(rows["position"].to_numpy(), erased)).drop(BUCKET))
        failed += part.failed_casts
        on_progress(part.last_position, snapshot.last_position)
    chosen = pl.concat(found) if found else pl.DataFrame(schema={"position": pl.Int64, "stream_id": pl.String})
    positions = np.sort(chosen["position"].to_numpy())
    names = chosen["stream_id"].unique()
    whole, renamed = _whole(log, snapshot, positions, names, erased)
    first_dropped = min((int(each.min()) for each, _ in _dropped(snapshot)), default=None)
    return Chosen(positions, len(names), whole, renamed, dict(failed), first_dropped)


def erased_positions(snapshot: Snapshot) -> Positions:
    """Of all events that were erased, in order."""
    found = [
        segment.gone.positions[segment.gone.kinds == ERASED]
        for segment in snapshot.segments
        if segment.gone_counts.get("erased")
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _of_streams(log: Log, snapshot: Snapshot, streams: Sequence[str]) -> Chosen:
    selection = Selection(streams=frozenset(streams))
    frames = list(scan(snapshot, selection, log.partitions, _COLUMNS))
    positions = np.concatenate([np.zeros(0, np.int64), *(frame["position"].to_numpy() for frame in frames)])
    names = tuple(sorted({name for frame in frames for name in frame["stream_id"].unique()}))
    was_erased = np.isin(positions, erased_positions(snapshot))
    wanted = {key.tobytes() for key in stream_keys([name.encode() for name in streams])}
    first_dropped = None
    for dropped, keys in _dropped(snapshot):
        is_theirs = np.array([key.tobytes() in wanted for key in keys], bool)
        if is_theirs.any():
            first_dropped = int(dropped[is_theirs].min())
            break
    return Chosen(positions[~was_erased], len(names), names, positions[was_erased], first_dropped=first_dropped)


def _whole(
    log: Log, snapshot: Snapshot, positions: Positions, names: pl.Series, erased: Positions
) -> tuple[tuple[str, ...], Positions]:
    """The streams of which nothing stays but what was erased before, and the positions of that."""
    if not len(names):
        return (), np.zeros(0, np.int64)
    left: set[str] = set()
    before = []
    for frame in scan(snapshot, Selection(streams=frozenset(names)), log.partitions, _COLUMNS):
        held = frame["position"].to_numpy()
        was_erased = np.isin(held, erased)
        left.update(frame.filter(~(np.isin(held, positions) | was_erased))["stream_id"].unique())
        before.append(frame.filter(was_erased))
    whole = tuple(sorted(set(names) - left))
    renamed = pl.concat(before).filter(pl.col("stream_id").is_in(whole))["position"].to_numpy()
    return whole, renamed


def _dropped(snapshot: Snapshot) -> list[tuple[Positions, Any]]:
    """Of segments from which events were dropped: their positions, and the keys of their streams."""
    found = []
    for segment in snapshot.segments:
        if segment.gone_counts.get("dropped"):
            is_dropped = segment.gone.kinds != ERASED
            found.append((segment.gone.positions[is_dropped], segment.gone.streams[0][is_dropped]))
    return found


def _compiled(text: str) -> Plan:
    condition = _parsed(text)
    paths = tree.json_paths(condition)
    is_all = tree.canonical(condition) == "TRUE"
    return Plan(
        identity=Identity("erase", 1, "", {}),
        kind=_Events(),
        inputs={name: pl.col(name) for name in _COLUMNS},
        columns=frozenset(tree.columns(condition) - {path.root for path in paths} | set(_COLUMNS)),
        paths=tuple(sorted(paths, key=str)),
        where=None if is_all else lower(condition),
        types=tree.types_needed(condition),
        casts_where={cast: failures(cast) for cast in tree.casts(condition)},
    )


def _parsed(text: str) -> Expression:
    try:
        found = parse(text)
    except ExpressionError as error:
        message = f"--where, line {error.line}, column {error.column}: {error.message}"
        raise ConfigError(message, error.hint) from error
    if found.type.name != "boolean":
        raise ConfigError(
            f"--where: {text!r} is {found.type}, and a condition is wanted",
            "As in --where \"payload.user_id = 'u-17'\", in the SQL of definitions.",
        )
    return found
