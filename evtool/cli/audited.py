"""The line that a command leaves in the audit of a log, however it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from evtool.cli import render
from evtool.errors import AccessDeniedError, EvtoolError
from evtool.files import Files
from evtool.lifecycle import audit
from evtool.lifecycle.audit import Outcome

MEANWHILE_SECONDS = 24 * 3600  # after which work that goes on leaves a line of where it is


class Entry:
    """What the line of a command will say: `counts` and `details` are filled while it works.

    Where all counts are 0 and it never began, nothing has changed, and there is no line.
    """

    def __init__(self, folder: Path, command: str, is_optional: bool) -> None:
        self.counts: dict[str, int] = {}
        self.details: dict[str, str] = {}
        self.outcome: Outcome = "done"
        self._folder = folder
        self._command = command
        self._is_optional = is_optional
        self._has_begun = False
        self._told_at = time.monotonic()

    def begin(self) -> None:
        """Say, durably, that what cannot be undone comes now: the line is there whatever ends the process."""
        self._has_begun = True
        self.write("began")

    def meanwhile(self, counts: dict[str, int]) -> None:
        """Hear where work is that may go on for weeks; once a day a line tells it. Raises StorageError."""
        now = time.monotonic()
        if now - self._told_at >= MEANWHILE_SECONDS:
            self._told_at, self.counts = now, counts
            self.write("running")

    def write(self, outcome: Outcome) -> None:
        """Add a line. Raises StorageError."""
        try:
            audit.record(Files(), self._folder, self._command, self.counts, self.details, outcome)
        except AccessDeniedError as error:
            if not self._is_optional:
                raise
            render.say(f"this leaves no line in the audit: {error.message}")

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to tell."""
        return self._has_begun or any(self.counts.values())


@contextlib.contextmanager
def audited(folder: Path, command: str, is_optional: bool = False) -> Iterator[Entry]:
    """Let a command leave a line in the audit of the log in `folder`, at its end or where it fails.

    With `is_optional` it goes on where the folder cannot be written to, and says so.
    """
    entry = Entry(folder, command, is_optional)
    try:
        yield entry
    except BaseException as error:
        if entry.is_wanted:
            _write_failed(entry, error)
        raise
    if entry.is_wanted:
        entry.write(entry.outcome)


def _write_failed(entry: Entry, error: BaseException) -> None:
    """The line of a command that failed. Its message stays out: it may name streams, or what is in events."""
    entry.details["error"] = type(error).__name__
    try:
        entry.write("failed" if isinstance(error, Exception) else "interrupted")
    except EvtoolError as refusal:  # what went wrong before is what is to be told
        render.say(f"this leaves no line in the audit: {refusal.message}")
