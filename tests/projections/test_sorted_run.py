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
from evtool.projections.tiers import RunInfo

Row = tuple[int, int, str | None, bool | None]
HASHES = st.sampled_from([0, 1, 2, 7, 2**63, 2**64 - 1])
NUMBERS = st.integers(-5, 5) | st.sampled_from([-(2**63), 2**63 - 1])
ROWS = st.lists(
    st.tuples(HASHES, NUMBERS, st.none() | st.text(max_size=30), st.none() | st.booleans()), max_size=60
)


def framed(rows: list[Row]) -> pl.DataFrame:
    schema = {HASH: pl.UInt64, "number": pl.Int64, "text": pl.String, "truth": pl.Boolean}
    return pl.DataFrame(rows, schema, orient="row").sort(HASH, "number", maintain_order=True)


def written(path: Path, frames: list[pl.DataFrame], order: str | None = "number") -> RunInfo | None:
    writer = RunWriter(Files(), path, order)
    for frame in frames:
        writer.append(frame)
    return writer.finish()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sortedrun, "BLOCK_ROWS", 3)
    monkeypatch.setattr(sortedrun, "PAGE_BYTES", 128)
    monkeypatch.setattr(sortedrun, "BATCH_ROWS", 12)


def in_parts(frame: pl.DataFrame, rng: random.Random) -> list[pl.DataFrame]:
    """The same rows cut between hashes."""
    hashes = sorted(frame[HASH].unique())
    edges = sorted(rng.sample(range(len(hashes) + 1), rng.randrange(len(hashes) + 1)))
    pairs = itertools.pairwise([0, *edges, len(hashes)])
    return [frame.filter(pl.col(HASH).is_in(hashes[start:end])) for start, end in pairs]


def expected(frame: pl.DataFrame, spans: list[tuple[int, int, int]], with_previous: bool) -> list[Row]:
    rows = frame.rows()
    found = set()
    for hash_, low, high in spans:
        inside = [at for at, row in enumerate(rows) if row[0] == hash_ and low <= row[1] <= high]
        before = [at for at, row in enumerate(rows) if row[0] == hash_ and row[1] < low]
        found.update(inside, before[-1:] if with_previous else [])
    return [rows[at] for at in sorted(found)]


def asked(spans: list[tuple[int, int, int]], with_previous: bool = False) -> Spans:
    hashes, lows, highs = zip(*spans, strict=True)
    return Spans(np.array(hashes, np.uint64), np.array(lows, np.int64), np.array(highs, np.int64), with_previous)


@given(
    rows=ROWS,
    spans=st.lists(st.tuples(HASHES, NUMBERS, NUMBERS), min_size=1, max_size=8),
    with_previous=st.booleans(),
    rng=st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_a_search_finds_what_is_there(folder: Path, rows, spans, with_previous, rng) -> None:
    frame = framed(rows)
    info = written(folder / "run", in_parts(frame, rng))
    if info is None:
        assert not rows
        return
    spans = [(hash_, min(a, b), max(a, b)) for hash_, a, b in spans]
    found = [
        row for part in Run(Files(), folder / "run", info).find(asked(spans, with_previous)) for row in part.rows()
    ]
    assert found == expected(frame, spans, with_previous)
    first, last = sorted(hash_ for hash_, _, _ in (spans * 2)[:2])
    between = [row for part in Run(Files(), folder / "run", info).between(first, last) for row in part.rows()]
    assert between == frame.filter(pl.col(HASH).is_between(first, last)).rows()


def test_columns_without_a_byte_are_read(folder: Path) -> None:
    """Texts that are all empty, and values that are all null."""
    frame = framed([(at, at, "", None) for at in range(5)]).with_columns(nothing=pl.lit(None))
    info = written(folder / "run", [frame])
    assert info is not None
    [found] = Run(Files(), folder / "run", info).find(asked([(3, 0, 9)]))
    assert found.equals(frame[3:4])
    assert found.schema == frame.schema


def test_rows_without_a_number_are_found_by_their_hash(folder: Path) -> None:
    frame = framed([(at // 2, 0, str(at), None) for at in range(50)]).drop("number")
    info = written(folder / "run", [frame], order=None)
    assert info is not None
    run = Run(Files(), folder / "run", info)
    [found] = run.find(asked([(at, -(2**63), 2**63 - 1) for at in (0, 9, 24, 99)]))
    assert found["text"].to_list() == ["0", "1", "18", "19", "48", "49"]


def read(path: Path, info: RunInfo, low: int, high: int) -> list[Row]:
    found = Run(Files(), path, info).find(asked([(low, low, high), (2**63, 0, 0)]))
    return [row for part in found for row in part.rows()]


def test_a_flipped_bit_is_noticed_or_lies_where_nothing_is_read(folder: Path) -> None:
    path = folder / "run"
    info = written(path, [framed([(at // 9, at, str(at) * 3, at % 2 == 0) for at in range(90)])])
    assert info is not None
    right = read(path, info, 1, 12)
    noticed = 0
    for byte in range(0, path.stat().st_size, 7):
        flip(path, byte, bit=byte % 8)
        try:
            assert read(path, info, 1, 12) == right
        except StateDamagedError:
            noticed += 1
        with pytest.raises(StateDamagedError):
            Run(Files(), path, info).check()
        flip(path, byte, bit=byte % 8)
    assert noticed > 20
    for byte in range(info.index_offset, path.stat().st_size, 5):
        flip(path, byte, bit=byte % 8)
        with pytest.raises(StateDamagedError):
            Run(Files(), path, info)
        flip(path, byte, bit=byte % 8)


@pytest.mark.parametrize("kept", [None, 0, 1, 0.5, 0.999])
def test_a_run_that_was_cut_off_is_noticed(folder: Path, kept: float | None) -> None:
    path = folder / "run"
    info = written(path, [framed([(at, at, "x", None) for at in range(90)])])
    assert info is not None
    data = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(data[: 1 if kept == 1 else int(len(data) * kept)])
    with pytest.raises(StateDamagedError):
        Run(Files(), path, info)
