"""Damaged logs, repaired: what tests ask of every repair."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compacting import small_pieces

import evtool
from evtool.config import ArchiveConfig, Config
from evtool.files import Files
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.repairing import planning
from evtool.lifecycle.repairing.filling import Backup
from evtool.lifecycle.repairing.planning import Plan
from evtool.lifecycle.repairing.repair import Repaired, session
from evtool.lifecycle.verify import verify
from evtool.objectstore.store import Store


@dataclass(frozen=True)
class Outcome:
    """What a repair planned and did; `lost` are the positions that it has named."""

    plan: Plan
    repaired: Repaired | None

    @property
    def lost(self) -> set[int]:
        """All positions that it says are lost."""
        return {
            position
            for step in self.plan.segments
            for first, last in step.lost
            for position in range(first, last + 1)
        }


def newest(store: Store) -> Backup:
    """The newest backup of a store."""
    return Backup(store, manifests.find(store, None))


def repair(
    folder: Path,
    store: Store | None = None,
    files: Files | None = None,
    archive: str | None = None,
    reads_archive: bool = False,
) -> Outcome:
    """Repair the log in a folder, as the command does with --yes."""
    config = Config(log_path=folder, archive=ArchiveConfig(to=archive))
    backup = newest(store) if store is not None else None
    with small_pieces(), contextlib.closing(backup) if backup else contextlib.nullcontext():
        log, log_json = planning.open_damaged(files or Files(), folder, config, backup)
        with session(log) as held:
            plan = planning.plan(log, config, backup, log_json, reads_archive=reads_archive)
            return Outcome(plan, None if plan.is_empty else held.apply(plan, config, backup))


def held(folder: Path) -> dict[int, dict[str, Any]]:
    """The events of a log by position."""
    with evtool.open(folder, read_only=True) as log:
        return {row["position"]: row for frame in log.scan() for row in frame.iter_rows(named=True)}


def check_whole(folder: Path, before: dict[int, dict[str, Any]], lost: set[int]) -> None:
    """The log is clean, has all events but the lost ones as they were, and goes on."""
    with evtool.open(folder, read_only=True) as log:
        report = verify(log)
    assert (report.findings, report.error) == ([], None)
    after = held(folder)
    assert set(before) - set(after) == lost
    assert all(after[position] == before[position] for position in after)
    with evtool.open(folder) as log:
        last = log.position
        assert last == max(before)
        commit = log.append(
            [{"event_id": f"after {last}", "source_id": "s", "stream_id": "new", "event_type": "New"}]
        )
        assert (commit.first_position, commit.count) == (last + 1, 1)
    with evtool.open(folder, read_only=True) as log:
        assert verify(log).is_clean
