"""What a log holds, counted from the headers of its frames, and the maps of its Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evtool.log.format import FRAME_HEADER, GONE_KINDS, MIXED_PARTITIONS
from evtool.log.partitions import partitions_of
from evtool.log.snapshot import Snapshot

_NAMES = ["base_recorded_at", "count", "timestamp_min", "timestamp_max"]
_COUNTED = np.dtype([(name, FRAME_HEADER[name]) for name in _NAMES])


@dataclass(frozen=True)
class Stats:
    """Counts and ranges of a snapshot. Times are ns UTC, and None in an empty log.

    `stored_bytes` are the frames or Parquet files of all segments, `partitions` the events of each partition.
    Of `archived_segments`, `archived_bytes` of these are in the archive, and not here.
    `gone` counts events that there were, by how they went: dropped, erased (of which something is left) or lost.
    """

    events: int
    batches: int
    segments: int
    sealed_segments: int
    cold_segments: int
    archived_segments: int
    partitions: tuple[int, ...]
    stored_bytes: int
    archived_bytes: int
    position: int
    recorded_at_min: int | None
    recorded_at_max: int | None
    timestamp_min: int | None
    timestamp_max: int | None
    gone: Mapping[str, int]

    @property
    def bytes_per_event(self) -> float | None:
        """Stored bytes for one event, on average."""
        return round(self.stored_bytes / self.events, 2) if self.events else None


def collect(snapshot: Snapshot, partitions: int) -> Stats:
    """Count a snapshot. Only small batches of mixed partitions are decoded, for their streams."""
    commits = [segment.commits for segment in snapshot.segments]
    filled: Any = np.concatenate([np.zeros(0, _COUNTED), *(c[c["count"] > 0][_NAMES] for c in commits)])
    recorded_at_max = None
    if len(filled):
        recorded_at_max = int(filled["base_recorded_at"][-1] + filled["count"][-1] - 1)
    partition_counts = tuple(_partition_counts(snapshot, partitions).tolist())
    archived = [segment for segment in snapshot.segments if segment.is_archived]
    gone = [segment.gone_counts for segment in snapshot.segments]
    return Stats(
        events=int(sum(partition_counts)),
        batches=sum(map(len, commits)),
        segments=len(snapshot.segments),
        sealed_segments=sum(segment.is_sealed for segment in snapshot.segments),
        cold_segments=sum(segment.is_cold for segment in snapshot.segments),
        archived_segments=len(archived),
        partitions=partition_counts,
        stored_bytes=sum(segment.log_bytes for segment in snapshot.segments),
        archived_bytes=sum(segment.events_bytes for segment in archived),
        position=snapshot.last_position,
        recorded_at_min=int(filled["base_recorded_at"][0]) if len(filled) else None,
        recorded_at_max=recorded_at_max,
        timestamp_min=int(filled["timestamp_min"].min()) if len(filled) else None,
        timestamp_max=int(filled["timestamp_max"].max()) if len(filled) else None,
        gone={name: sum(counts.get(name, 0) for counts in gone) for name in GONE_KINDS},
    )


def _partition_counts(snapshot: Snapshot, partitions: int) -> Any:
    counts: Any = np.zeros(partitions, np.int64)
    for segment in snapshot.segments:
        rows = segment.event_rows()
        is_mixed = rows["header"]["partition"] == MIXED_PARTITIONS
        pure = rows["header"][~is_mixed]
        np.add.at(counts, pure["partition"], pure["count"])
        for row in rows[is_mixed]:
            streams = segment.events(row, ("stream_id",))["stream_id"].value_counts()
            names = [stream.encode() for stream in streams["stream_id"].to_list()]
            np.add.at(counts, partitions_of(names, partitions), streams["count"].to_numpy())
    return counts
