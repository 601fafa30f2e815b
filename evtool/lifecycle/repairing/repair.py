"""A repair: everything that can be proved whole is kept, what cannot is put aside, and what was lost is named.

    with session(log) as held:
        found = plan(log, config, backup)
        repaired = held.apply(found, ...)

Damaged segments are written anew as cold ones without what is lost (`rewriting.rewrite_as`), or get their files
back from a backup. Positions are never given again. Whatever ends the process, a segment is as it was or repaired,
and the next repair goes on with the rest. Who holds a session keeps writers and compactions away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evtool.config import Config
from evtool.errors import AccessDeniedError
from evtool.files import Files, Lock
from evtool.lifecycle import audit
from evtool.lifecycle import verify as verifying
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.repairing import filling as fillings
from evtool.lifecycle.repairing import smallfiles, stubs
from evtool.lifecycle.repairing.aside import Aside
from evtool.lifecycle.repairing.filling import Backup
from evtool.lifecycle.repairing.planning import Plan, Progress, SegmentStep
from evtool.lifecycle.repairing.remains import Damage
from evtool.lifecycle.repairing.stubs import Source
from evtool.lifecycle.rewriting import rewrite_as
from evtool.lifecycle.verify import Report
from evtool.log.archive import write_place
from evtool.log.format import ARCHIVE_FILE, COMPACT_LOCK_FILE, FRAMES_FILE, LOCK_FILE
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.log.walk import segment_header
from evtool.log.writer import Writer


@dataclass(frozen=True)
class Repaired:
    """What was done: where the damaged bytes and the report are, and what a verify found behind it."""

    folder: Path
    report: Report


class Session:
    """Holds the locks of a log's writer and of who writes segments anew, until they are let go."""

    def __init__(self, log: Log, locks: list[Lock]) -> None:
        self._log = log
        self._locks = locks

    def release(self) -> None:
        """Let go; a second time does nothing."""
        while self._locks:
            self._locks.pop().release()

    def apply(
        self,
        plan: Plan,
        config: Config,
        backup: Backup | None = None,
        on_begin: Callable[[], None] = lambda: None,
        on_progress: Progress = lambda done, total: None,
    ) -> Repaired:
        """Do what a plan says. `on_begin` is called when the audit is whole, and before any event is touched.

        Raises LogDamagedError, StoreError, BackupError, StorageError; the next repair then does the rest.
        """
        log = self._log
        aside = Aside(log.files, log.folder)
        facts: dict[str, Any] = {
            "log": str(log.folder),
            "log_id": log.manifest.id,
            "backup": backup.manifest.id if backup is not None else None,
            "from": audit.without_credentials(backup.url) if backup is not None else None,
            "is_finished": False,
            **plan.facts(),
        }
        aside.report(facts)
        if plan.place is not None:
            aside.keep(Damage(str(log.folder / ARCHIVE_FILE), ""))
            write_place(log.files, log.folder, plan.place)
        _mend_files(log.files, log.folder, plan, backup, aside)
        on_begin()
        source = Source(log, config)
        for stub in plan.stubs:
            stubs.restore(log, source, stub, aside)
        for step in plan.segments:
            _mend_segment(log, step, backup, aside)
        clear(log)
        self.release()
        if not plan.left:  # nothing can be made of events that cannot be found
            _make_derived(log, config, plan, on_progress)
        report = verifying.verify(
            log, on_progress, reads_archive=False, read_models=config.read_models_path, config=config
        )
        is_whole = report.is_clean and not plan.left
        facts |= {"is_finished": True, "is_whole": is_whole, "digest": report.digest}
        aside.report(facts)
        return Repaired(aside.folder, report)


@contextlib.contextmanager
def session(log: Log, may_be_read_only: bool = False) -> Iterator[Session]:
    """Keep writers and compactions away from a log. Raises LogLockedError, StorageError.

    What nobody can write to, as a disk that the kernel has made read-only, needs no lock, if it may be so.
    """
    locks: list[Lock] = []
    held = Session(log, locks)
    try:
        try:
            for name in (LOCK_FILE, COMPACT_LOCK_FILE):
                locks.append(log.files.lock(log.folder / name))
        except AccessDeniedError:
            if not may_be_read_only:
                raise
        yield held
    finally:
        held.release()


def _mend_files(files: Files, folder: Path, plan: Plan, backup: Backup | None, aside: Aside) -> None:
    for step in (plan.log_json, plan.schemas):
        if step is not None:
            aside.keep_data(step.path, step.aside)
            files.write_whole(step.path, step.data)
    if plan.letters:
        lines = b"".join(text for text, _ in plan.letters)
        aside.keep_data(folder / "dead-letters" / "dead-letters.ndjson", lines)
        smallfiles.mend_letters(files, folder)
    if plan.has_broken_audit:
        step = smallfiles.audit_lines(files, folder, backup)
        aside.keep_data(step.path, step.aside)
        files.write_whole(step.path, step.data)


def _mend_segment(log: Log, step: SegmentStep, backup: Backup | None, aside: Aside) -> None:
    damaged = step.damaged
    remains = step.remains
    for damage in remains.damages if remains is not None else ():
        aside.keep(damage)
    if step.filling is not None:
        assert backup is not None
        fillings.put(log.files, backup, step.filling, damaged.folder)
    elif remains is None:
        path = damaged.folder / FRAMES_FILE
        if path.is_file():
            aside.keep_data(path, log.files.read_whole(path))
        log.files.write_whole(path, segment_header(damaged.place.log_id, damaged.first_position))
    else:
        log.files.make_folder(damaged.folder)
        source = cast(SegmentView, remains)  # it has all that is asked of a segment that is written anew
        rewrite_as(log, source, dict(remains.summary), remains.names, lambda events: None)


def _make_derived(log: Log, config: Config, plan: Plan, on_progress: Progress) -> None:
    """Have the next writer make what it makes, and the index where that is asked for."""
    reindex = on_progress if plan.needs_index else None
    Writer(log.files, log.folder, log.manifest, config.log, reindex=reindex).close()
