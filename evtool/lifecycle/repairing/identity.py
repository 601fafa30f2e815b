"""log.json, by what the segments say of it: the id, the version of the format, and the number of partitions.

It has no checksum, so it is held against the segments. One that is not theirs comes back from a backup; or a bit
of it is turned back, if that gives the very text that is written for such a log; or the catalogue of its archive
has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np

from evtool.errors import EvtoolError, LogDamagedError, LogFormatError
from evtool.lifecycle.logfiles import LogFiles, SegmentFiles
from evtool.lifecycle.repairing.bits import turned_back
from evtool.lifecycle.repairing.filling import Backup
from evtool.lifecycle.repairing.smallfiles import FileStep
from evtool.lifecycle.repairing.stubs import Source
from evtool.log import manifest as manifests
from evtool.log.format import (
    FORMAT_VERSION,
    LOG_FILE,
    MIXED_PARTITIONS,
    SEGMENT_HEADER,
    SEGMENT_HEADER_BYTES,
    is_whole,
)
from evtool.log.manifest import Manifest
from evtool.log.partitions import partitions_of
from evtool.log.segment import Segment
from evtool.log.segmentview import SegmentView
from evtool.log.walk import walk_all

_PIECES = 3  # so many are asked for their partition


def log_json(
    path: Path, data: bytes, files: LogFiles, backup: Backup | None, source: Source | None = None
) -> FileStep | None:
    """What becomes of log.json; None where it is as it should be. `source` is the archive, which may have it.

    Raises LogFormatError (a newer evtool wrote it), LogDamagedError where nothing tells what it was.
    """
    told = _Told(files)
    if told.is_right(data):
        return None
    _refuse_newer(path, data, files)
    whole = backup.file(LOG_FILE) if backup is not None else None
    if whole is None or not told.is_right(whole):
        whole = turned_back(data, lambda tried: _is_canonical(tried) and told.is_right(bytes(tried)))
    if whole is None and source is not None:
        whole = source.log_json()
        whole = whole if whole is not None and told.is_right(whole) else None
    if whole is None:
        raise LogDamagedError(
            f"{path} is damaged, and nothing tells what it was",
            "Say where a backup of this log is: `evtool repair --from URL`.",
        )
    return FileStep(path, "brought back, nothing of it is lost", whole, data)


class _Told:
    """What the segments of a log say of its log.json."""

    def __init__(self, files: LogFiles) -> None:
        self._log_id = files.log_id
        self._pieces = [found for _, found in zip(range(_PIECES), _of_one_partition(files), strict=False)]

    def is_right(self, data: bytes) -> bool:
        """Whether it can be the log.json of these segments."""
        try:
            found = manifests.parse(data, Path(LOG_FILE))
        except EvtoolError:
            return False
        return self._log_id in (None, found.id) and all(
            bool((partitions_of(streams, found.partitions) == partition).all())
            for streams, partition in self._pieces
        )


def _of_one_partition(files: LogFiles) -> Iterator[tuple[list[bytes], int]]:
    """The streams of pieces that are of one partition, and which one that is."""
    for segment in files.segments:
        view = _view(segment)
        for row in view.event_rows() if view is not None else ():
            if view is not None and row["header"]["partition"] != MIXED_PARTITIONS:
                try:
                    yield view.streams(row), int(row["header"]["partition"])
                except LogDamagedError:
                    continue


def _view(segment: SegmentFiles) -> SegmentView | None:
    if segment.cold is not None:
        return None if segment.cold.is_archived else segment.cold  # no store is asked for this
    if segment.frames is None or len(segment.frames) < SEGMENT_HEADER_BYTES:
        return None
    table = walk_all(segment.frames, segment.first_position, check_bodies=False).table
    return Segment(segment.folder, segment.first_position, table, segment.frames, True)


def _refuse_newer(path: Path, data: bytes, files: LogFiles) -> None:
    """Raise LogFormatError if a newer evtool wrote it; where segments are of this version, a bit turned over."""
    if any(_is_of_this_version(segment) for segment in files.segments):
        return
    try:
        manifests.parse(data, path)
    except LogFormatError:
        raise
    except EvtoolError:
        return


def _is_of_this_version(segment: SegmentFiles) -> bool:
    if segment.summary is not None:
        return True
    raw = segment.frames[:SEGMENT_HEADER_BYTES] if segment.frames is not None else memoryview(b"")
    if len(raw) < SEGMENT_HEADER_BYTES or not is_whole(raw):
        return False
    return bool(np.frombuffer(raw, SEGMENT_HEADER)[0]["version"] == FORMAT_VERSION)


def _is_canonical(data: bytes | bytearray) -> bool:
    """Whether it is what `manifest.create` writes."""
    try:
        found = Manifest(**json.loads(data))
        datetime.fromisoformat(found.created_at)
    except (ValueError, TypeError):
        return False
    return json.dumps(asdict(found), indent=2).encode() + b"\n" == data
