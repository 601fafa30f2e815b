"""`evtool inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.log.segmentview import SegmentView
    from evtool.log.snapshot import Snapshot

_DIGITS_MAX = 20  # as many as a segment's name has
_COLUMNS = ("kind", "byte", "batch", "partition", "first", "last", "events", "bytes", "event time from", "to")


def inspect(
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="The segment that holds this position.")],
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the frames of a segment, or its row groups. SEGMENT is its folder's name or any position in it."""
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        found = _find(opened.snapshot(), segment)
        frames = [_frame(found, row) for row in found.table]
    if as_json:
        facts = {"first_position": found.first_position, "last_position": found.last_position}
        facts |= {"sealed": found.is_sealed, "cold": found.is_cold}
        render.print_json({"folder": str(found.folder), **facts, "frames": frames})
        return
    state = "cold" if found.is_cold else "sealed" if found.is_sealed else "active"
    pieces = render.count(len(frames), "row group") if found.is_cold else f"{len(frames):,} frames"
    render.say(f"{found.folder}: {state}, {pieces}, {render.size(found.log_bytes)}")
    render.print_table(_COLUMNS, (_cells(frame) for frame in frames))


def _find(snapshot: Snapshot, name: str) -> SegmentView:
    from pathlib import Path

    from evtool.errors import PositionError

    text = Path(name).name.removeprefix("@")
    hint = "SEGMENT is the name of a segment's folder, or a position: 1, for example."
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise PositionError(f"{name!r} names no segment", hint)
    for segment in reversed(snapshot.segments):
        if segment.first_position <= int(text) and (
            int(text) <= segment.last_position or int(text) == segment.first_position
        ):
            return segment
    raise PositionError(f"no segment holds position {int(text)}; the last one is {snapshot.last_position}", hint)


def _frame(segment: SegmentView, row: Any) -> dict[str, Any]:
    import msgpack

    from evtool.log.format import COMMIT_FRAME, FRAME_HEADER_BYTES, MIXED_PARTITIONS, padded
    from evtool.log.segment import Segment

    header = row["header"]
    is_commit = bool(header["kind"] == COMMIT_FRAME)
    partition = int(header["partition"])
    has_events = bool(header["count"])
    resume = None
    if is_commit and header["body_bytes"] and isinstance(segment, Segment):
        resume = msgpack.unpackb(segment.body(row))
    stored_bytes = int(header["body_bytes"])
    return {
        "offset": int(row["offset"]),
        "kind": "commit" if is_commit else "events",
        "batch": int(header["batch"]),
        "partition": None if partition == MIXED_PARTITIONS else partition,
        "first_position": int(header["first_position"]),
        "last_position": int(header["last_position"]),
        "count": int(header["count"]),
        "bytes": stored_bytes if segment.is_cold else FRAME_HEADER_BYTES + padded(stored_bytes),
        "timestamp_min": int(header["timestamp_min"]) if has_events else None,
        "timestamp_max": int(header["timestamp_max"]) if has_events else None,
        "resume": resume,
        "checksum": f"{int(header['checksum']):016x}",
    }


def _cells(frame: dict[str, Any]) -> list[str]:
    is_commit = frame["kind"] == "commit"
    return [
        frame["kind"],
        f"{frame['offset']:,}",
        str(frame["batch"]),
        "" if is_commit else "mixed" if frame["partition"] is None else str(frame["partition"]),
        f"{frame['first_position']:,}",
        f"{frame['last_position']:,}",
        f"{frame['count']:,}",
        f"{frame['bytes']:,}",
        render.moment(frame["timestamp_min"]),
        render.moment(frame["timestamp_max"]),
    ]
