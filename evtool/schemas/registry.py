"""The registry on disk: `schemas/schemas.ndjson` under the log, one line a registered schema.

The file is written whole and put in place of the old one, so a reader sees all of one or of the other. Lines are
only ever added. Who adds holds a lock from reading to writing, so that nobody's schema is lost; readers take none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evtool.config import Compatibility
from evtool.errors import LogDamagedError, LogLockedError, LogReadOnlyError, SchemaError
from evtool.files import Files, Lock, translated
from evtool.schemas import record
from evtool.schemas.record import Schema, Schemas

if TYPE_CHECKING:  # what proves compatibility is loaded by who adds
    from evtool.schemas.document import Document
    from evtool.schemas.proposal import Proposal
    from evtool.schemas.steps import Step

FOLDER = "schemas"
FILE = "schemas.ndjson"
LOCK_FILE = "schemas.lock"

_LOCK_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.01


class Registry:
    """The schemas of one log."""

    def __init__(self, files: Files, log_folder: Path, read_only: bool = False) -> None:
        self._files = files
        self._read_only = read_only
        self._folder = log_folder / FOLDER
        self._path = self._folder / FILE
        self._mutex = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._schemas = Schemas()

    def current(self) -> Schemas:
        """What is registered now. As long as that does not change, it is the same object, and cheap.

        Raises LogDamagedError when the file is not as it was written.
        """
        with self._mutex:
            with translated("look at", self._path):
                try:
                    status = self._path.stat()
                except (FileNotFoundError, NotADirectoryError):
                    self._seen, self._schemas = None, Schemas()
                    return self._schemas
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._seen:
                self._schemas = self._read()
                self._seen = stamp
            return self._schemas

    def propose(
        self,
        event_type: str,
        document: Document,
        version: int | None = None,
        compatibility: Compatibility | None = None,
        steps: Sequence[Step] = (),
        default: Compatibility = "backward",
    ) -> Proposal:
        """What adding a schema would do; nothing is written. Arguments and errors are those of `add`."""
        from evtool.schemas import proposal

        return proposal.propose(
            self.current(), event_type, document, version, compatibility, tuple(steps), default
        )

    def add(
        self,
        event_type: str,
        document: Document,
        version: int | None = None,
        compatibility: Compatibility | None = None,
        steps: Sequence[Step] = (),
        default: Compatibility = "backward",
    ) -> Proposal:
        """Register a schema as the next version of a type; it is durable when this returns.

        Without `compatibility` the mode of the version before goes on, or for a new type `default` holds. The
        first version of a type may have any number. Adding the same text again changes nothing. `steps`
        make a payload of the version before one of this version. Raises SchemaError (it breaks
        compatibility, or the version is not the next one, or has another text), LogReadOnlyError,
        LogLockedError, StorageError.
        """
        from evtool.schemas import proposal

        if self._read_only:
            raise LogReadOnlyError(f"{self._folder.parent} was opened to be read only")
        self._files.make_folder(self._folder)
        lock = self._lock()
        try:
            schemas = self._read()
            found = proposal.propose(schemas, event_type, document, version, compatibility, tuple(steps), default)
            if found.conflicts:
                raise proposal.refusal(found)
            if not found.is_known:
                lines = b"".join(schema.encode() for schema in (*schemas.registered, found.schema))
                self._files.write_whole(self._path, lines)
        finally:
            lock.release()
        return found

    def _lock(self) -> Lock:
        """The lock of those who add; adding is short, so it is waited for."""
        give_up = time.monotonic() + _LOCK_SECONDS_MAX
        while True:
            try:
                return self._files.lock(self._folder / LOCK_FILE)
            except LogLockedError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(_POLL_SECONDS)

    def _read(self) -> Schemas:
        try:
            data = self._files.read_whole(self._path)
        except FileNotFoundError:
            return Schemas()
        found: list[Schema] = []
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                found.append(record.decode(line))
            except (ValueError, KeyError, TypeError, SchemaError) as error:
                raise self._damaged(f"line {number}: {error}") from error
        if data and not data.endswith(b"\n"):
            raise self._damaged("its end is missing")
        schemas = Schemas(tuple(found))
        for event_type in schemas.types:
            versions = [schema.version for schema in schemas.versions(event_type)]
            if versions != list(range(versions[0], versions[0] + len(versions))):
                raise self._damaged(f"the versions of {event_type!r} are not in order")
        return schemas

    def _damaged(self, what: str) -> LogDamagedError:
        return LogDamagedError(
            f"{self._path} is damaged: {what}", "`evtool repair` brings it back. Events can be read without it."
        )
