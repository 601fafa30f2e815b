"""The sorted tables of a state: each is some runs, which are searched together and merged a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl

from evtool.files import Files
from evtool.projections.checkpoint import SORTED_SUFFIX, StateDamagedError
from evtool.projections.sortedrun import Run, RunWriter, Spans
from evtool.projections.tiers import HASH_LAST, Ref, next_merge, without

MERGE_ROWS = 32_768  # about so many rows are merged in a piece, and pieces as long as there were not so many
MERGED_FOR_ONE = 3  # or, where it is more, so many rows for each that is added: a row is merged 2 to 3 times

Orders = Mapping[str, str | None]
Settle = Callable[[str, pl.DataFrame], pl.DataFrame]


class SortedTables:
    """Tables in a folder: `refs` says of what runs they are, and changes with them.

    `next_number` gives the number of the next file; `orders` of what is written are as in `ChangingKind`.
    """

    def __init__(
        self, files: Files, folder: Path, refs: dict[str, tuple[Ref, ...]], next_number: Callable[[], int]
    ) -> None:
        self._refs = refs
        self._files = files
        self._folder = folder
        self._next_number = next_number
        self._runs: dict[int, Run] = {}

    def find(self, table: str, spans: Spans) -> list[pl.DataFrame]:
        """What each run of a table has in some spans. Raises StateDamagedError."""
        found: list[pl.DataFrame] = []
        for ref in self._refs.get(table, ()):
            hashes, lows, highs, with_previous = spans
            asked = (hashes >= np.uint64(ref.first)) & (hashes <= np.uint64(ref.last)) & (highs >= ref.info.low)
            if not with_previous:
                asked &= lows <= ref.info.high
            if asked.any():
                part = Spans(hashes[asked], lows[asked], highs[asked], with_previous)
                found += self._open(ref).find(part)
        return found

    def add(self, orders: Orders, parts: Iterable[Mapping[str, pl.DataFrame]]) -> int:
        """Write one run a table; each part has rows of later hashes than the one before. How many rows there are.

        Raises StorageError.
        """
        rows = 0
        with ExitStack() as stack:
            runs = {table: self._next_number() for table in orders}
            writers = {
                table: RunWriter(self._files, self._path(runs[table]), order) for table, order in orders.items()
            }
            for writer in writers.values():
                stack.callback(writer.close)
            for part in parts:
                for table, frame in part.items():
                    writers[table].append(frame)
                    rows += len(frame)
            for table, writer in writers.items():
                self._put(table, runs[table], writer, 0, HASH_LAST)
        return rows

    def merge(self, orders: Orders, settle: Settle, added: int) -> None:
        """Merge what has to be, as far as the addition of some rows allows.

        Raises StateDamagedError, StorageError.
        """
        for table, order in orders.items():
            rows_max = rest = max(MERGE_ROWS, added * MERGED_FOR_ONE)
            while rest > 0 and (found := next_merge(self._refs.get(table, ()), rows_max)):
                parts = [part for ref in found.refs for part in self._open(ref).between(found.first, found.last)]
                self._refs[table] = tuple(without(self._refs[table], found))
                rest -= sum(map(len, parts)) + 1
                if parts:
                    run = self._next_number()
                    writer = RunWriter(self._files, self._path(run), order)
                    try:
                        writer.append(settle(table, pl.concat(parts)))
                        self._put(table, run, writer, found.first, found.last)
                    finally:
                        writer.close()

    def damage(self) -> Iterator[tuple[Path, str]]:
        """The files that are not as they were written, and what is wrong with each."""
        seen: set[int] = set()
        for table, refs in sorted(self._refs.items()):
            for ref in refs:
                try:
                    if ref.run not in seen:
                        Run(self._files, self._path(ref.run), ref.info).check()
                except StateDamagedError as error:
                    yield error.path, f"a run of the table {table} is damaged or missing"
                seen.add(ref.run)

    def _put(self, table: str, run: int, writer: RunWriter, first: int, last: int) -> None:
        info = writer.finish()
        if info is not None:
            self._refs[table] = (*self._refs.get(table, ()), Ref(run, first, last, first, last, info))

    def _open(self, ref: Ref) -> Run:
        if ref.run not in self._runs:
            self._runs[ref.run] = Run(self._files, self._path(ref.run), ref.info)
        return self._runs[ref.run]

    def _path(self, run: int) -> Path:
        return self._folder / f"{run:012}{SORTED_SUFFIX}"
