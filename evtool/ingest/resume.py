"""Where a load that was interrupted goes on: the last durable batch of a name tells, in its commit frame.

A batch's map is {"name", "input", "line", "offset", "head_bytes", "head"}: of the load with this name all is
durable up to line `line` of `input`, where `offset` bytes of its text end. `head` is XXH3-64 of the first
`head_bytes` of that text (65,536, or `offset` if that is less), by which the input is known again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from evtool import envelope
from evtool.envelope import RejectedError
from evtool.errors import ConfigError
from evtool.ingest.chunks import HEAD_BYTES, Chunk
from evtool.ingest.deadletters import printable
from evtool.log.format import checksum
from evtool.log.segmentview import SegmentView
from evtool.log.snapshot import Snapshot

_MAP_BYTES_MAX = 1 << 16  # none of ours is longer
_TYPES = {"name": str, "input": str, "line": int, "offset": int, "head_bytes": int, "head": int}


@dataclass(frozen=True)
class ResumePoint:
    """A place between two lines of an input, up to which all of a load is durable."""

    name: str
    input: str
    line: int
    offset: int
    head_bytes: int
    head: int

    def as_map(self) -> dict[str, Any]:
        """What is kept in the commit frame."""
        return asdict(self)


def check_name(name: str) -> str:
    """A name of a load. Raises ConfigError unless it is a text that a source_id could be."""
    try:
        return envelope.text("source_id", name)
    except RejectedError as error:
        raise ConfigError(f"--resume: {name!r} is no name: 1 to 1,024 bytes of UTF-8") from error


def point_in(chunk: Chunk, name: str, line: int, start_of_last: int, offset: int) -> ResumePoint:
    """The resume point behind `line`, at `offset` of the text; the line begins at `start_of_last`.

    A last line without its line feed may still grow. So a load goes on before it, and if it has not grown, its
    event is a duplicate.
    """
    if not chunk.is_ended and offset == chunk.end:
        line, offset = line - 1, start_of_last
    head = chunk.head[: min(HEAD_BYTES, offset)]
    return ResumePoint(name, printable(chunk.input), line, offset, len(head), checksum(head))


def find(snapshot: Snapshot, name: str) -> ResumePoint | None:
    """Where the load with a name goes on; None if nothing of it is there. Raises LogDamagedError.

    Only commit frames that carry a map are read, the latest first.
    """
    for segment in reversed(snapshot.segments):
        found = _find_in(segment, name)
        if found is not None:
            return found
    return None


def _find_in(segment: SegmentView, name: str) -> ResumePoint | None:
    packed_name = msgpack.packb(name)
    for _, body in segment.producer_maps():
        if packed_name in body and len(body) <= _MAP_BYTES_MAX:
            found = _read(body)
            if found is not None and found.name == name:
                return found
    return None


def _read(body: bytes) -> ResumePoint | None:
    """The resume point in a map; None for a map that someone else has made."""
    try:
        found = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        return None
    if not isinstance(found, dict) or found.keys() != _TYPES.keys():
        return None
    if not all(type(found[key]) is kind for key, kind in _TYPES.items()):
        return None
    point = ResumePoint(**found)
    is_place = point.line >= 0 and point.offset >= 0 and point.head_bytes == min(HEAD_BYTES, point.offset)
    return point if is_place else None
