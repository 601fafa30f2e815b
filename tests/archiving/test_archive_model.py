"""Whatever is ingested, compacted, archived, dropped and brought back, in any order and killed anywhere: the log
has what a list of its lines has.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from archives import SMALL, archived, brought_back, check_archive, dropped, planned
from backing import replay
from compacting import compacted
from faults import Fault, FaultyFiles, Killed
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import config, make_log, many

import evtool

KILLED_AT = st.none() | st.integers(1, 60)


class Archives(RuleBasedStateMachine):
    """A log with an archive, and the lines that it must have."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "segments"
        self.sent = 0
        self.lines: list[bytes] = []
        self.ingest(100)

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(count=st.sampled_from([3, 100]))
    def ingest(self, count: int) -> None:
        events = many(count, self.sent).with_columns(event_type=pl.lit("Viewed" if self.sent % 3 else "Clicked"))
        make_log(self.folder, [events], SMALL if count > 50 else config())
        self.sent += count
        self.lines = replay(self.folder).splitlines(keepends=True)

    @rule(target_bytes=st.sampled_from([0, 1 << 30]))
    def compact(self, target_bytes: int) -> None:
        compacted(self.folder, target_bytes)

    @rule(killed_at=KILLED_AT, share=st.sampled_from([None, 0.3, 0.8]))
    def archive(self, killed_at: int | None, share: float | None) -> None:
        keep = None if share is None else int(planned(self.folder).local_bytes * share)
        self._do(lambda files: archived(self.folder, files, keep_local=keep), killed_at)
        if (self.folder / "archive.json").exists():
            check_archive(self.folder)

    @precondition(lambda self: (self.folder / "archive.json").exists())
    @rule(killed_at=KILLED_AT, share=st.floats(0, 1))
    def bring_back(self, killed_at: int | None, share: float) -> None:
        since = 1 + int(self.sent * share)

        def work(files: FaultyFiles | None) -> None:
            if (self.folder / "archive.json").exists():
                brought_back(self.folder, since, files)

        self._do(work, killed_at)

    @rule(killed_at=KILLED_AT, name=st.sampled_from(["Viewed", "Clicked"]))
    def retain(self, killed_at: int | None, name: str) -> None:
        with evtool.open(self.folder, read_only=True) as log:
            sealed = max((one.last_position for one in log.snapshot().segments if one.is_sealed), default=0)
        before = self.lines
        left = [
            line
            for line in before
            if f'"event_type":"{name}"'.encode() not in line or int(line.split(b",")[0][12:]) > sealed
        ]

        def work(files: FaultyFiles | None) -> None:
            dropped(self.folder, files, types={name: 1}, by="timestamp")

        if killed_at is not None:
            with contextlib.suppress(Killed):
                work(FaultyFiles(Fault(killed_at, 1.0)))
            assert set(left) <= set(replay(self.folder).splitlines(keepends=True)) <= set(before)
        work(None)
        self.lines = left
        if (self.folder / "archive.json").exists():
            archived(self.folder)
            check_archive(self.folder)

    @invariant()
    def it_has_these_lines(self) -> None:
        assert replay(self.folder) == b"".join(self.lines)

    def _do(self, work: Callable[[FaultyFiles | None], Any], killed_at: int | None) -> None:
        """Do some work; if it is killed, look at what is there, and do it again."""
        if killed_at is not None:
            with contextlib.suppress(Killed):
                work(FaultyFiles(Fault(killed_at, 0.5)))
            self.it_has_these_lines()
        work(None)


Archives.TestCase.settings = examples(max_examples=12, stateful_step_count=12, deadline=None)
TestArchives = Archives.TestCase
