"""Sorted runs: a search finds what is there and nothing else, and believes no byte that was not checked."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.files import Files
from evtool.projections import sortedrun
from evtool.projections.checkpoint import StateDamagedError
from evtool.projections.sortedrun import HASH, Run, RunWriter, Spans
from evtool.projections.tiers import HASH_LAST, PIECES, TIER_RUNS, Ref, RunInfo, next_merge, without

Row = tuple[int, int, str | None, bool | None]
HASHES = st.sampled_from([0, 1, 2, 7, 2**63, 2**64 - 1])
NUMBERS = st.integers(-5, 5) | st.sampled_from([-(2**63), 2**63 - 1])
ROWS = st.lists(st.tuples(HASHES, NUMBERS, st.none() | st.text(max_size=30), st.none() | st.booleans()), max_size=60)


def framed(rows: list[Row]) -> pl.DataFrame:
    schema = {HASH: pl.UInt64, "number": pl.Int64, "text": pl.String, "truth": pl.Boolean}
    return pl.DataFrame(rows, schema, orient="row").sort(HASH, "number", maintain_order=True)


def written(path: Path, frames: list[pl.DataFrame], order: str | None = "number") -> RunInfo | None:
    writer = RunWriter(Files(), path, order)
    for frame in frames:
        writer.append(frame)
    return writer.finish()


def by_hash(frame: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    """The rows of some hashes each."""
    return [frame.filter(pl.col(HASH) % count == at) for at in range(count)] if False else [frame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sortedrun, "BLOCK_ROWS", 3)
    monkeypatch.setattr(sortedrun, "PAGE_BYTES", 128)
    monkeypatch.setattr(sortedrun, "BATCH_ROWS", 12)
