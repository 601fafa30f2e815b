"""The registry on disk: `schemas/schemas.ndjson` under the log, one line a registered schema.

The file is written whole and put in place of the old one, so a reader sees all of one or of the other. Lines are
only ever added. Who adds holds a lock from reading to writing, so that nobody's schema is lost; readers take none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evtool import envelope, timestamps
from evtool.config import Compatibility
from evtool.envelope import RejectedError
from evtool.errors import LogDamagedError, LogLockedError, LogReadOnlyError, SchemaError
from evtool.event import INT32_MAX
from evtool.files import Files, Lock, translated
from evtool.schemas import compatibility as rules
from evtool.schemas import record
from evtool.schemas.compatibility import Conflict
from evtool.schemas.document import Document
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.steps import Step

FOLDER = "schemas"
FILE = "schemas.ndjson"
LOCK_FILE = "schemas.lock"

_LOCK_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.01
_CONFLICTS_SHOWN_MAX = 5


@dataclass(frozen=True)
class Proposal:
    """A schema that somebody wants to add: what it would become, and what stands against it."""

    schema: Schema
    is_known: bool  # the same text is registered as this version already
    conflicts: tuple[Conflict, ...]


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
        return _propose(self.current(), event_type, document, version, compatibility, tuple(steps), default)

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
        if self._read_only:
            raise LogReadOnlyError(f"{self._folder.parent} was opened to be read only")
        self._files.make_folder(self._folder)
        lock = self._lock()
        try:
            schemas = self._read()
            proposal = _propose(schemas, event_type, document, version, compatibility, tuple(steps), default)
            if proposal.conflicts:
                raise _refusal(proposal)
            if not proposal.is_known:
                lines = b"".join(schema.encode() for schema in (*schemas.registered, proposal.schema))
                self._files.write_whole(self._path, lines)
        finally:
            lock.release()
        return proposal

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
            f"{self._path} is damaged: {what}", "Bring it back from a backup. Events can be read without it."
        )


def _propose(
    schemas: Schemas,
    event_type: str,
    document: Document,
    version: int | None,
    compatibility: Compatibility | None,
    steps: tuple[Step, ...],
    default: Compatibility,
) -> Proposal:
    try:
        envelope.text("event_type", event_type)
    except RejectedError as error:
        raise SchemaError(str(error)) from error
    earlier = schemas.versions(event_type)
    same = _registered_before(schemas, event_type, document, version)
    if same is not None:
        changes = [
            what
            for what, given, has in (
                ("upcaster", steps, same.steps),
                ("compatibility", compatibility, same.compatibility),
            )
            if given and given != has
        ]
        if changes:
            raise SchemaError(
                f"{same.name} is registered with another {changes[0]}",
                "What is registered never changes: add the schema as a new version, with any change of its text.",
            )
        return Proposal(same, True, ())
    number = _number(schemas, event_type, version)
    mode = compatibility or (earlier[-1].compatibility if earlier else default)
    now = timestamps.to_text(time.time_ns())
    schema = Schema(event_type, number, document.text, mode, now, steps)
    return Proposal(schema, False, tuple(rules.check(mode, document, number, steps, earlier)))


def _registered_before(
    schemas: Schemas, event_type: str, document: Document, version: int | None
) -> Schema | None:
    """The registered schema that this one is already: the named version, or without a name the latest one."""
    latest = schemas.latest_version(event_type)
    found = None if latest is None else schemas.get(event_type, latest if version is None else version)
    if found is None or found.text == document.text:
        return found
    if version is None:
        return None
    raise SchemaError(
        f"{found.name} is registered with another schema",
        f"What is registered never changes: add it as version {(latest or 0) + 1}.",
    )


def _number(schemas: Schemas, event_type: str, version: int | None) -> int:
    latest = schemas.latest_version(event_type)
    number = (latest or 0) + 1 if version is None else version
    if not 1 <= number <= INT32_MAX:
        raise SchemaError(f"{number} is no schema_version", f"Versions are 1 to {INT32_MAX}.")
    if latest is not None and number != latest + 1:
        raise SchemaError(
            f"version {number} of {event_type} is not the next one: version {latest} is the last",
            f"Versions come in order: add it as version {latest + 1}.",
        )
    return number


def _refusal(proposal: Proposal) -> SchemaError:
    schema, conflicts = proposal.schema, proposal.conflicts
    shown = [f"  {conflict}" for conflict in conflicts[:_CONFLICTS_SHOWN_MAX]]
    if len(conflicts) > len(shown):
        shown.append(f"  and {len(conflicts) - len(shown)} more")
    return SchemaError(
        "\n".join([f"{schema.name} breaks its compatibility, {schema.compatibility}:", *shown]),
        "Change the schema, give steps with --upcast, or add it with --compatibility none.",
    )
