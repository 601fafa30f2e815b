"""What is left of a cold segment: its row groups, as the map tells where they are and what their bytes must be.

Row groups are whole where their chunks match the map. A footer that is damaged or cut off is not needed for that:
what it says of columns is the same for all files of these columns, but for the unit of timestamps, which the map
tells apart by the earliest and latest one of each row group. Without its map nothing of a segment can be proved.
Of the map, and of what is known of events that are gone, a single bit that turned over is turned back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.lifecycle.repairing.bits import turned_back
from evtool.lifecycle.repairing.remains import Damage, Known, one_batch
from evtool.log import coldfile
from evtool.log import gone as gone_records
from evtool.log.coldfooter import Footer
from evtool.log.coldsegment import ROW, ColdSegment, is_map_of, of_parts
from evtool.log.format import checksum, events_file, gone_file, map_file
from evtool.log.frame import PLACED_SCHEMA
from evtool.log.gone import Gone
from evtool.log.ranges import MappedFile
from evtool.log.walk import Table

_KEPT = (
    *("version", "log_id", "first_position", "last_position", "last_batch", "recorded_at_min", "recorded_at_max"),
    *("digest", "previous_digest", "logical_digest", "replaced_digest"),
)
_BIT = "a bit of it had turned over, and was turned back"


@dataclass(frozen=True)
class _Unfooted(ColdSegment):
    """A cold segment that is read with a footer which was made for it."""

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The events of a row group. Raises LogDamagedError."""
        wanted = [name for name in PLACED_SCHEMA.names if columns is None or name in columns]
        table = self.together(np.array([row]), wanted, {})
        schema = pa.schema([PLACED_SCHEMA.field(name) for name in table.schema.names])
        return table.cast(schema).combine_chunks().to_batches()[0]


def known(files: Files, folder: Path, summary: Mapping[str, Any]) -> Known:
    """What is known of a cold segment. Raises StorageError."""
    first, last = int(summary["first_position"]), int(summary["last_position"])
    damages: list[Damage] = []
    record = _proved(files, folder / map_file(summary["generation"]), summary, damages)
    if record is None:
        earlier = _earlier(files, folder, summary, damages)
        batches = one_batch(first, last, int(summary["recorded_at_min"]), int(summary["digest"]))
        return _Told(folder, summary, damages).known(NothingLeft(folder), np.zeros(0, ROW), batches, earlier)
    path = folder / events_file(summary["generation"])
    data = _mapped(files, path)
    if len(data) < int(summary["events_bytes"]):
        left = f"{len(data):,} bytes are left of {summary['events_bytes']:,}"
        damages.append(Damage(str(path), left if path.exists() else "it is missing"))
    data = data[: int(summary["events_bytes"])]
    cold = _readable(of_parts(folder, summary, memoryview(record), MappedFile(path, data), b""), damages)
    earlier = _earlier(files, folder, summary, damages)
    damages += _between(cold) if len(data) else ()
    maps = dict(cold.producer_maps())
    told = _Told(folder, summary, damages, [maps.get(number, b"") for number in range(len(cold.commits))])
    return told.known(cold, cold.table, cold.commits, earlier)


@dataclass(frozen=True)
class NothingLeft:
    """The pieces of a segment of which nothing can be read."""

    path: Path

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """None is asked for, as there is no row."""
        raise LogDamagedError(f"{self.path}: nothing of it can be read")

    def forget(self, rows: Table) -> None:
        """Nothing was read."""


@dataclass(frozen=True)
class _Told:
    """What the summary says, on its way into what is known."""

    folder: Path
    summary: Mapping[str, Any]
    damages: list[Damage]
    maps: list[bytes] | None = None

    def known(self, pieces: Any, rows: Table, batches: np.ndarray[Any, Any], earlier: Gone) -> Known:
        """All of it."""
        told = {name: self.summary[name] for name in _KEPT if name in self.summary}
        return Known(
            folder=self.folder,
            first_position=int(self.summary["first_position"]),
            last_position=int(self.summary["last_position"]),
            pieces=pieces,
            rows=rows,
            batches=batches,
            maps=self.maps or [b""] * len(batches),
            earlier=earlier,
            summary=told | {"generation": int(self.summary["generation"]) + 1},
            names=list(self.summary["materialised"]),
            damages=tuple(self.damages),
            is_gone_known="gone" not in self.summary or len(earlier) > 0,
        )


def _proved(files: Files, path: Path, summary: Mapping[str, Any], damages: list[Damage]) -> bytes | None:
    """The bytes of the map."""
    try:
        record = files.read_whole(path)
    except FileNotFoundError:
        damages.append(Damage(str(path), "it is missing, and without it no event can be proved", is_lost=True))
        return None
    behind = len(record) - int(summary["map_bytes"])
    record = record[: int(summary["map_bytes"])]
    if is_map_of(record, summary):
        if behind > 0:
            damages.append(Damage(str(path), f"{behind:,} bytes stand behind what was written"))
        return record
    found = turned_back(record, lambda tried: is_map_of(tried, summary))
    what = _BIT if found is not None else "it is not as it was written, and without it no event can be proved"
    damages.append(Damage(str(path), what, is_lost=found is None))
    return found


def _earlier(files: Files, folder: Path, summary: Mapping[str, Any], damages: list[Damage]) -> Gone:
    """Those that were gone before; none where that is not known any more."""
    if "gone" not in summary:
        return Gone.none()
    path = folder / gone_file(summary["generation"])
    wanted = int(summary["gone_checksum"])
    data = bytes(_mapped(files, path)[: int(summary["gone_bytes"])])
    if checksum(data) != wanted or len(data) != int(summary["gone_bytes"]):
        found = turned_back(data, lambda tried: checksum(tried) == wanted)
        what = "it is not as it was written: ids and stream versions of events that are gone may be given again"
        damages.append(Damage(str(path), _BIT if found is not None else what))
        if found is None:
            return Gone.none()
        data = found
    return gone_records.decode(memoryview(data), int(summary["gone_runs"]), sum(summary["gone"].values()))


def _readable(cold: ColdSegment, damages: list[Damage]) -> ColdSegment:
    """The same, with a footer that was made for it where its own is damaged."""
    if not len(cold.table):
        return cold
    footer_start = int(cold.summary["events_bytes"]) - int(cold.summary["footer_bytes"])
    try:
        _ = cold.metadata
        return cold
    except LogDamagedError:
        if cold.file.size == int(cold.summary["events_bytes"]):
            what = "its footer is not as it was written"
            damages.append(Damage(str(cold.path), what, footer_start, cold.file.size))
    fields = {name: getattr(cold, name) for name in ("folder", "first_position", "last_position", "table")}
    fields |= {name: getattr(cold, name) for name in ("chunks", "commits", "maps", "file", "summary")}
    for unit in coldfile.UNITS:
        made = coldfile.footer(unit, list(cold.summary["materialised"]))
        found = _Unfooted(**fields, footer=Footer(cold.file, cold.summary, made))
        if all(_has_times(found, row) for row in found.table):
            return found
    return found


def _has_times(cold: ColdSegment, row: np.void) -> bool:
    """Whether the timestamps of a row group are those that the map tells, unless they cannot be read."""
    try:
        times = cold.batch(row, ("position", "timestamp"))["timestamp"].to_numpy()
    except LogDamagedError:
        return True
    header = row["header"]
    return bool(times.min() == header["timestamp_min"] and times.max() == header["timestamp_max"])


def _between(cold: ColdSegment) -> Iterator[Damage]:
    """What is damaged of the file that is no column which is stored, and costs no event."""
    assert isinstance(cold.file, MappedFile)
    data = cold.file.data
    if checksum(data) == cold.summary["events_checksum"]:
        return
    stored = set(PLACED_SCHEMA.names)
    is_explained = False
    for row in cold.table:
        for name, chunk in zip(cold.summary["columns"], cold.chunks[int(row["number"])], strict=True):
            start, end = int(chunk["offset"]), int(chunk["offset"]) + int(chunk["stored_bytes"])
            if checksum(data[start:end]) != chunk["checksum"]:
                is_explained = True
                if name not in stored:
                    yield Damage(str(cold.path), f"column {name} is not as it was written", start, end)
    if not is_explained and not isinstance(cold, _Unfooted):
        yield Damage(str(cold.path), "what stands between its row groups is not as it was written")


def _mapped(files: Files, path: Path) -> memoryview:
    try:
        return files.map(path)
    except FileNotFoundError:
        return memoryview(b"")
