"""The checkpoint of a state: what it was made from, and which parts of which files it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from evtool.projections import record
from evtool.projections.tiers import Ref, RunInfo

FORMAT = 3
RUN_SUFFIX, SORTED_SUFFIX = ".arrow", ".sorted"

ENGINE = f"state {FORMAT}, polars {pl.__version__}"  # what reads and writes the files


class StateDamagedError(ValueError):
    """The bytes of a run are not what was written; `path` is its file. The log can give the state again."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged")
        self.path = path


@dataclass(frozen=True)
class Binding:
    """What a state was made from, and by what: it goes on only where all of it is still so.

    `position` and `chain` are the last event's that went in; `engine` is ENGINE of who wrote it.
    """

    projection: str
    version: int
    definition_hash: str
    parameters_hash: str
    log_id: str
    position: int
    chain: int
    engine: str


class Slice(NamedTuple):
    """Where the tables of one bucket are in a file, and the bytes of each."""

    run: int
    offset: int
    size: int
    checksum: int
    tables: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Checkpoint:
    """What a commit has: slices by bucket, runs of sorted tables by table, the result of all; `runs` is the number
    of the newest file. Without a binding it is none.
    """

    binding: Binding | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[int, tuple[Slice, ...]] = field(default_factory=dict)
    refs: Mapping[str, tuple[Ref, ...]] = field(default_factory=dict)
    reduced: Slice | None = None
    runs: int = 0


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint with its checksum."""
    binding = checkpoint.binding
    values = {
        "format": FORMAT,
        "binding": None if binding is None else asdict(binding),
        "facts": checkpoint.facts,
        "slices": checkpoint.slices,
        "refs": checkpoint.refs,
        "reduced": checkpoint.reduced,
        "runs": checkpoint.runs,
    }
    return record.encode(values)


def decode(data: bytes) -> Checkpoint:
    """The checkpoint of what `encode` gave; an empty one where it is damaged or another format wrote it."""
    values = record.decode(data)
    if values is None or values["format"] != FORMAT:
        return Checkpoint()
    return Checkpoint(
        Binding(**values["binding"]),
        values["facts"],
        {bucket: tuple(map(_slice, slices)) for bucket, slices in values["slices"].items()},
        {table: tuple(map(_ref, refs)) for table, refs in values["refs"].items()},
        None if values["reduced"] is None else _slice(values["reduced"]),
        values["runs"],
    )


def _slice(value: list[Any]) -> Slice:
    run, offset, size, checksum, tables = value
    return Slice(run, offset, size, checksum, tuple((name, length) for name, length in tables))


def _ref(value: list[Any]) -> Ref:
    run, first, last, made_first, made_last, info = value
    return Ref(run, first, last, made_first, made_last, RunInfo(*info))
