"""What `verify` finds: in which file, what of it, how bad that is, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from evtool.errors import DerivedDamagedError, EvtoolError, LogDamagedError, StorageError
from evtool.files import Files

# "log": only a backup brings it back; `evtool repair` does, or keeps the rest. "derived": it can be made again.
# "note": it harms nobody, and is no damage.
Severity = Literal["log", "derived", "note"]
Piece = Literal["frame", "row group", "line", "record"]

OTHER_KIND = "something else stands in its place: a folder, a file, or links in a circle"
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.ELOOP}

LISTED_MAX = 1_000  # of damage, and of notes

RESTORE = "`evtool repair` mends it from a backup, or keeps the rest of it; other segments are not affected."
BEING_COMPACTED = "A compaction is at it, or was cut short: the next `evtool compact` makes it again."
RESTORE_OBJECT = "Bring it back from a copy of the archive, or its segment from a backup; others are not affected."
NOT_THERE = "Is the disk mounted, the bucket the right one? archive.json of the log says where its archive is."
REARCHIVE = "It is a copy of what is here: the next `evtool archive` stores it again."
REINDEX = "It is only a cache: `evtool reindex` makes it again."


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    `piece` and `number` say which part of the file is meant: frames, row groups and records count from 0, lines
    from 1. `offset` is its first byte in the file, the positions are those of its events. What is not known, or
    is all of the file, is None.
    """

    file: str
    severity: Severity
    message: str
    hint: str
    piece: Piece | None = None
    number: int | None = None
    offset: int | None = None
    first_position: int | None = None
    last_position: int | None = None

    @property
    def where(self) -> str:
        """The place in the file, for people; "" if it is all of it."""
        words = []
        if self.piece is not None:
            words.append(f"{self.piece} {self.number:,}")
        if self.offset is not None:
            words.append(f"at byte {self.offset:,}")
        if self.first_position is not None and self.last_position is not None:
            many = f"positions {self.first_position:,} to {self.last_position:,}"
            one = f"position {self.first_position:,}"
            words.append(f"({one if self.first_position == self.last_position else many})")
        return " ".join(words)


def damaged(file: Path | str, message: str, hint: str = RESTORE) -> Finding:
    """Damage of a file as a whole that only a backup heals."""
    return Finding(str(file), "log", message, hint)


def stale(file: Path | str, message: str, hint: str = REINDEX) -> Finding:
    """A file that is not what was written there, or what the log gives, and can be made again."""
    return Finding(str(file), "derived", message, hint)


def note(file: Path, message: str, hint: str) -> Finding:
    """Something that nobody has to act on."""
    return Finding(str(file), "note", message, hint)


def longer(file: Path, written: int) -> list[Finding]:
    """A note where a file has more bytes than were `written` to it; none where it has not."""
    there = Files().size(file)
    message = f"{there - written:,} bytes stand behind what was written"
    return [note(file, message, "Nobody reads them.")] if there > written else []


def in_the_way(error: StorageError | NotADirectoryError) -> Path:
    """Where a folder stands in the place of a file, a file in that of a folder, or links in a circle.

    Raises the error if it is another one: what cannot be read is no damage that anybody could name.
    """
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if not isinstance(cause, OSError) or cause.errno not in _IN_THE_WAY or cause.filename is None:
        raise error
    return Path(cause.filename)


def excused(findings: Iterable[Finding], hint: str) -> list[Finding]:
    """The same, with what can be made again as notes."""
    return [replace(one, severity="note", hint=hint) if one.severity == "derived" else one for one in findings]


@dataclass
class Findings:
    """All findings of a run; of very many the first ones are kept, and the others counted."""

    listed: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    of_log: int = 0
    of_derived: int = 0
    of_notes: int = 0

    def add(self, *findings: Finding) -> None:
        """Take some up."""
        for finding in findings:
            kept = self.notes if finding.severity == "note" else self.listed
            if len(kept) < LISTED_MAX:
                kept.append(finding)
            self.of_log += finding.severity == "log"
            self.of_derived += finding.severity == "derived"
            self.of_notes += finding.severity == "note"

    @property
    def count(self) -> int:
        """How many there are, notes too."""
        return self.of_log + self.of_derived + self.of_notes

    @property
    def in_order(self) -> list[Finding]:
        """Those of damage, file by file."""
        return sorted(self.listed, key=lambda one: (one.file, -1 if one.offset is None else one.offset))

    @property
    def error(self) -> EvtoolError | None:
        """What a command ends with: that of the log before that of what is made from it; None if all is well."""
        if not self.of_log and not self.of_derived:
            return None
        kind, severity = (LogDamagedError, "log") if self.of_log else (DerivedDamagedError, "derived")
        first = next((finding for finding in self.in_order if finding.severity == severity), self.listed[0])
        count = self.of_log + self.of_derived
        found = "1 finding" if count == 1 else f"{count:,} findings, the first"
        return kind(f"{found}: {first.file}: {' '.join(filter(None, (first.where, first.message)))}", first.hint)
