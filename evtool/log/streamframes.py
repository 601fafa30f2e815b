"""Which frames of a segment hold which streams: noted while it is written, or read from its frames.

What streams.idx is made of. The writer of a batch knows its streams already, so that sealing a segment reads
nothing back but what an earlier writer has left in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evtool.files import Files
from evtool.log import streamindex
from evtool.log.format import EVENTS_FRAME, MIXED_PARTITIONS, STREAMS_FILE
from evtool.log.manifest import Manifest
from evtool.log.partitions import partitions_of
from evtool.log.segmentview import SegmentView, one_by_one
from evtool.log.snapshot import Snapshot
from evtool.log.streamindex import PAIR, Hashes, Numbers, Pairs
from evtool.log.versions import Promise, stream_keys


class StreamFrames:
    """The pairs of stream and frame of a segment from its frame `first_frame` (a row of frames.idx) on."""

    def __init__(self, first_frame: int) -> None:
        self.first_frame = first_frame
        self._pairs = bytearray()  # 12 bytes a pair, in one piece: batches may be many and small

    def note(self, promise: Promise, frames_of: Sequence[int], number: int, partitions: int) -> None:
        """Note the streams of a batch whose frames are of these partitions, the first of them number `number`."""
        if not len(promise.keys):
            return
        frames = np.full(len(promise.keys), number, np.int64)
        if frames_of[0] != MIXED_PARTITIONS:
            frame_of = np.zeros(partitions, np.int64)
            frame_of[list(frames_of)] = np.arange(len(frames_of))
            frames += frame_of[partitions_of(promise.stream_ids, partitions)]
        self._pairs += _pairs(promise.keys[:, 0], frames).tobytes()

    def of(self, segment: SegmentView) -> Pairs:
        """All pairs of the segment. Raises LogDamagedError when what has to be read of it is damaged."""
        noted = np.frombuffer(bytes(self._pairs), PAIR)
        return np.concatenate([read_pairs(segment, self.first_frame), noted])


def read_pairs(segment: SegmentView, end: int | None = None) -> Pairs:
    """The pairs of a segment's frames before the frame `end` (default: all), read. Raises LogDamagedError."""
    found = [np.zeros(0, PAIR)]
    numbers = np.flatnonzero(segment.table["header"]["kind"][:end] == EVENTS_FRAME)
    views = one_by_one(segment, segment.table[numbers], ("stream_id",))
    for number, (view, row) in zip(numbers, views, strict=True):
        streams = view.streams(row)
        found.append(_pairs(stream_keys(streams)[:, 0], np.full(len(streams), number)))
        if not len(found) % 1024:  # as many small arrays would take more memory than what is in them
            found = [np.concatenate(found)]
    segment.forget(segment.table[:end])
    return np.concatenate(found)


def write(files: Files, manifest: Manifest, segment: SegmentView, pairs: Pairs) -> None:
    """Write streams.idx of a segment that is sealed, or about to be. Raises StorageError."""
    data = streamindex.encode(pairs, manifest.id_bytes, segment.first_position, segment.table)
    files.write_whole(segment.folder / STREAMS_FILE, data)


def write_all(files: Files, manifest: Manifest, snapshot: Snapshot) -> None:
    """Write that of every sealed segment anew. Raises LogDamagedError, StorageError."""
    for segment in snapshot.segments:
        if segment.is_sealed:
            write(files, manifest, segment, read_pairs(segment))


def _pairs(hashes: Hashes, frames: Numbers) -> Pairs:
    pairs = np.zeros(len(hashes), PAIR)
    pairs["hash"], pairs["frame"] = hashes, frames
    return pairs
