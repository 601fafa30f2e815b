"""Everything that evtool raises on purpose.

    EvtoolError                    1
     ├─ ConfigError                3   evtool.toml, an environment variable or a flag makes no sense
     ├─ InputError                 4   an input file cannot be read
     ├─ EventError                 5   an event handed to `append` breaks the rules of the envelope
     │   ├─ IdConflictError        6   another event has its id
     │   └─ VersionConflictError   7   its stream is at another version than was expected
     ├─ SchemaError                8   a schema or an upcaster makes no sense, or breaks compatibility
     ├─ ProjectionError           19   a definition makes no sense, or its state is of another one
     ├─ RejectedLinesError         9   `ingest --strict` has met lines that are no events
     │   └─ RejectedShareError    18   more lines were rejected than `dead_letter_alert` allows
     ├─ InternalError            25   something went wrong that evtool does not expect
     ├─ StoreError                26   an object store does not answer, or fails
     │   └─ StoreRefusedError     27   it refuses the key, or what is asked of it
     ├─ BackupError               28   a backup is not there, or of another log than this one
     │   └─ BackupDamagedError    29   an object of a backup is missing, or not what was written
     ├─ ArchiveError              30   an archive is of another log or copy, or at another place
     ├─ LogError
     │   ├─ LogNotFoundError      10   there is no log in this folder
     │   ├─ LogExistsError        11   there is one already, or something else is in the way
     │   ├─ LogFormatError        12   the log was written by a newer evtool
     │   ├─ LogLockedError        13   another process writes to it
     │   ├─ LogDamagedError       14   a checksum, a length or the order of positions is wrong
     │   ├─ DerivedDamagedError   24   the same of something that can be made again
     │   ├─ LogReadOnlyError      15   the log was opened to be read only
     │   ├─ PositionError         16   a position or an event id is not in the log
     │   ├─ LetterNotFoundError   17   no dead letter has this id
     │   └─ NothingToEraseError   32   nothing in the log is what shall be erased
     └─ StorageError              20   the operating system refused
         ├─ NoSpaceError          21   the disk is full, or a quota or size limit was reached
         ├─ AccessDeniedError     22   no permission, or a read-only file system
         └─ WriterDeadError       23   an earlier write failed, so nothing more is written

Each class carries its exit code; `exit_codes()` is what the README's table is checked against.
A message says what happened and where, the hint what to do; neither ends in a full stop's
worth of apology. 0 is success, 2 is the command line's usage error, 130 and 143 are Ctrl-C and SIGTERM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_EXPECTATIONS: dict[int | str, str] = {"no_stream": "no event of it", "exists": "an event of it"}


class EvtoolError(Exception):
    """The base of all of them: a message, a hint (may be empty) and an exit code."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[EvtoolError], tuple[Any, ...]]:
        return type(self), (self.message, self.hint)


class ConfigError(EvtoolError):
    """evtool.toml, an environment variable or a flag makes no sense."""

    exit_code = 3


class InputError(EvtoolError):
    """An input file cannot be read."""

    exit_code = 4


class EventError(EvtoolError):
    """An event handed to `append` breaks the rules of the envelope; nothing of its batch was stored."""

    exit_code = 5


class IdConflictError(EventError):
    """Another event has this id; nothing of the batch was stored.

    `place` is the event's in the batch, from 0.
    """

    exit_code = 6

    def __init__(self, source_id: str, event_id: str, first_position: int, place: int) -> None:
        super().__init__(
            f"event {place} of the batch: id_conflict: source {source_id!r} has sent {event_id!r} with another "
            f"content, as position {first_position}",
            "Nothing of the batch was stored. Give a new event an id of its own.",
        )
        self.source_id = source_id
        self.event_id = event_id
        self.first_position = first_position
        self.place = place

    def __reduce__(self) -> tuple[type[EvtoolError], tuple[Any, ...]]:
        return type(self), (self.source_id, self.event_id, self.first_position, self.place)


class VersionConflictError(EventError):
    """A stream is at another version than was expected; nothing of the batch was stored.

    `expected` is what the caller said (of an event: the version it brought), `version` the stream's last one.
    """

    exit_code = 7

    def __init__(self, stream_id: str, expected: int | str, version: int, place: int | None = None) -> None:
        found = f"stream {stream_id!r} is at version {version}"
        message = f"{found}, and {_EXPECTATIONS.get(expected, f'version {expected}')} was expected"
        if place is not None:
            message = (
                f"event {place} of the batch: version_conflict: stream {stream_id!r} expects version "
                f"{version + 1}, and {expected} was given"
            )
        super().__init__(message, "Nothing of the batch was stored. Read the stream again, then decide again.")
        self.stream_id = stream_id
        self.expected = expected
        self.version = version
        self.place = place

    def __reduce__(self) -> tuple[type[EvtoolError], tuple[Any, ...]]:
        return type(self), (self.stream_id, self.expected, self.version, self.place)


class SchemaError(EvtoolError):
    """A schema or an upcaster makes no sense, breaks compatibility, or fails on an event."""

    exit_code = 8


class ProjectionError(EvtoolError):
    """A projection's definition makes no sense, or what is kept of it is wrong, or of another one or log."""

    exit_code = 19


class RejectedLinesError(EvtoolError):
    """`ingest --strict` has met lines that are no events; the others were stored."""

    exit_code = 9


class RejectedShareError(RejectedLinesError):
    """More lines were rejected than `dead_letter_alert` allows; the others were stored."""

    exit_code = 18


class LogError(EvtoolError):
    """The log cannot be used as asked."""


class LogNotFoundError(LogError):
    """There is no log in this folder."""

    exit_code = 10


class LogExistsError(LogError):
    """There is a log already, or something else is in the way of a new one."""

    exit_code = 11


class LogFormatError(LogError):
    """The log was written by a newer evtool."""

    exit_code = 12


class LogLockedError(LogError):
    """Another process writes to the log."""

    exit_code = 13


class LogDamagedError(LogError):
    """A checksum, a length or the order of positions is wrong: the bytes are not what was written.

    `what` is the message without where it is, if that is known.
    """

    exit_code = 14

    def __init__(self, message: str, hint: str = "", what: str = "") -> None:
        super().__init__(message, hint)
        self.what = what or message

    def __reduce__(self) -> tuple[type[EvtoolError], tuple[Any, ...]]:
        return type(self), (self.message, self.hint, self.what)


class DerivedDamagedError(LogError):
    """What is made from the log is damaged, and can be made again; the log itself is whole."""

    exit_code = 24


class LogReadOnlyError(LogError):
    """The log was opened to be read only."""

    exit_code = 15


class PositionError(LogError):
    """A position or an event id is not in the log."""

    exit_code = 16


class LetterNotFoundError(LogError):
    """No dead letter has this id, or several begin like it."""

    exit_code = 17


class NothingToEraseError(LogError):
    """Nothing in the log is what shall be erased."""

    exit_code = 32


class StorageError(EvtoolError):
    """The operating system refused."""

    exit_code = 20


class NoSpaceError(StorageError):
    """The disk is full, or a quota or a size limit was reached."""

    exit_code = 21


class AccessDeniedError(StorageError):
    """No permission, or a read-only file system."""

    exit_code = 22


class WriterDeadError(StorageError):
    """An earlier write or sync failed, so this writer writes nothing more: reopen the log to recover."""

    exit_code = 23


class InternalError(EvtoolError):
    """Something went wrong that evtool does not expect: a mistake of its own."""

    exit_code = 25


class StoreError(EvtoolError):
    """An object store does not answer, or fails."""

    exit_code = 26


class StoreRefusedError(StoreError):
    """An object store refuses the key, or what is asked of it."""

    exit_code = 27


class BackupError(EvtoolError):
    """A backup is not there, or is of another log, or of more than this one has."""

    exit_code = 28


class BackupDamagedError(BackupError):
    """An object of a backup is missing, or is not what was written."""

    exit_code = 29


class ArchiveError(EvtoolError):
    """An archive is of another log, or of another copy of it, or at another place."""

    exit_code = 30


def exit_codes() -> dict[int, str]:
    """Exit code -> the first line of the docstring of the class that carries it."""
    return {cls.exit_code: (cls.__doc__ or "").splitlines()[0] for cls in _family(EvtoolError)}


def _family(cls: type[EvtoolError]) -> Iterator[type[EvtoolError]]:
    if "exit_code" in vars(cls):
        yield cls
    for child in cls.__subclasses__():
        yield from _family(child)
