"""A segment as readers see it: its committed frames, mapped, each checked before it is believed.

The table of frames comes from frames.idx when that agrees with what is committed, and from walking
frames.log when it does not: the index is a cache. So is streams.idx, which tells the frames of a stream.

What decodes a frame is imported by the methods that do: to know which frames there are takes no Arrow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeGuard

import msgpack
import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import Files, forget
from evtool.log.format import (
    COMMIT_FRAME,
    COPY_FILE,
    EVENTS_FRAME,
    FORMAT_VERSION,
    FRAME_HEADER_BYTES,
    FRAMES_FILE,
    INDEX_FILE,
    INDEX_ROW,
    SEGMENT_HEADER_BYTES,
    SUMMARY_FILE,
    checksum,
    is_whole,
    parse_segment_name,
    segment_name,
)
from evtool.log.streamindex import Hashes, StreamIndex

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from evtool.log.gone import Gone

_HEADER_AT = INDEX_ROW.itemsize - FRAME_HEADER_BYTES

Table: TypeAlias = "np.ndarray[Any, Any]"  # of INDEX_ROW


@dataclass(frozen=True)
class Segment:
    """An immutable view of the committed frames of one segment.

    `table` has a row of INDEX_ROW for each frame, in the order of the file. The views that `body`
    gives hold the mapping, and stay valid even when the file is removed.
    """

    folder: Path
    first_position: int
    table: Table
    data: memoryview
    is_sealed: bool
    stream_index: StreamIndex | None = None

    is_cold = False
    is_archived = False
    materialised: ClassVar[frozenset[str]] = frozenset()

    @property
    def gone(self) -> Gone:
        """Nothing."""
        from evtool.log.gone import Gone

        return Gone.none()

    @property
    def gone_counts(self) -> Mapping[str, int]:
        """None."""
        return {}

    @property
    def last_position(self) -> int:
        """Of the last committed event; first_position - 1 when there is none."""
        return int(self.table["header"]["last_position"][-1]) if len(self.table) else self.first_position - 1

    @property
    def path(self) -> Path:
        """Its frames.log."""
        return self.folder / FRAMES_FILE

    @property
    def log_bytes(self) -> int:
        """Committed bytes of frames.log."""
        return len(self.data)

    @property
    def events_bytes(self) -> int:
        """The same."""
        return len(self.data)

    @property
    def commits(self) -> Any:
        """The headers of its commit frames."""
        header = self.table["header"]
        return header[header["kind"] == COMMIT_FRAME]

    def producer_maps(self) -> Iterator[tuple[int, bytes]]:
        """What producers handed over with its batches, and the number of the batch; the latest first."""
        rows = self.table[self.table["header"]["kind"] == COMMIT_FRAME]
        for number in reversed(np.flatnonzero(rows["header"]["body_bytes"]).tolist()):
            yield number, bytes(self.body(rows[number]))

    def check_commits(self) -> None:
        """Raise LogDamagedError if any bit of a commit frame has changed."""
        for row in self.table[self.table["header"]["kind"] == COMMIT_FRAME]:
            self.body(row)

    def chain_at(self, position: int) -> int | None:
        """The checksum of the commit frame whose batch ends with a position; None if no batch does."""
        header = self.table["header"]
        found = header[(header["kind"] == COMMIT_FRAME) & (header["last_position"] == position)]
        return int(found["checksum"][0]) if len(found) else None  # the first: empty batches may follow

    def recorded_at(self, position: int) -> int:
        """When the event at one of its positions was recorded, ns UTC."""
        header = self.table["header"]
        batch = header[np.searchsorted(header["base_position"], position, side="right") - 1]
        return int(batch["base_recorded_at"] + position - batch["base_position"])

    def event_rows(self) -> Table:
        """The rows of frames that hold events (the others are commit frames)."""
        rows: Table = self.table[self.table["header"]["kind"] == EVENTS_FRAME]
        return rows

    def rows_of(self, streams: Hashes) -> tuple[Table, bool]:
        """The rows of frames that may hold some streams, and whether they were chosen by the index of streams."""
        numbers = self.stream_index.frames_of(streams) if self.stream_index else None
        if numbers is None:
            return self.event_rows(), False
        return self.table[numbers], True

    def body(self, row: np.void) -> memoryview:
        """The bytes of a frame's body. Raises LogDamagedError when any bit of the frame has changed."""
        offset = int(row["offset"])
        start = offset + FRAME_HEADER_BYTES
        header = row["header"]
        if self.data[offset:start] != header.tobytes() or not is_whole(self.data[offset:start]):
            raise self._damage(row, "its header is not what was written")
        body = self.data[start : start + int(header["body_bytes"])]
        if checksum(body) != header["body_checksum"]:
            raise self._damage(row, "its body does not match its checksum")
        return body

    def events(self, row: np.void, columns: Collection[str] | None = None) -> pl.DataFrame:
        """The events of one frame, asked columns only. Raises LogDamagedError."""
        from evtool.log import frame

        body = self.body(row)
        try:
            return frame.decode(body, row["header"], columns)
        except LogDamagedError as error:
            raise self._damage(row, error.message) from error

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The same as Arrow columns of PLACED_SCHEMA."""
        from evtool.log import frame

        body = self.body(row)
        try:
            return frame.decode_batch(body, row["header"], columns)
        except LogDamagedError as error:
            raise self._damage(row, error.message) from error

    def together(
        self, rows: Table, columns: Collection[str], among: Mapping[str, pa.Array], is_likely: bool = False
    ) -> pa.Table:
        """The events of several frames, of those whose texts are `among` some by column, frame by frame.

        Unless one is likely, no other column of a frame is read before it is known that it has one.
        """
        import pyarrow as pa

        from evtool.log.frame import PLACED_SCHEMA

        found: list[pa.RecordBatch] = []
        for row in rows:
            batch = self._matching(row, columns, among, is_likely) if among else self.batch(row, columns)
            if batch is not None:
                found.append(batch)
                is_likely |= "stream_id" not in among  # a type or source of one frame is likely in the next one
        schema = pa.schema(PLACED_SCHEMA.field(name) for name in PLACED_SCHEMA.names if name in columns)
        return pa.Table.from_batches(found, schema)

    def _matching(
        self, row: np.void, columns: Collection[str], among: Mapping[str, pa.Array], is_likely: bool
    ) -> pa.RecordBatch | None:
        from evtool.log import frame

        body = self.body(row)
        try:
            return frame.decode_matching(body, row["header"], columns, among, is_likely)
        except LogDamagedError as error:
            raise self._damage(row, error.message) from error

    def streams(self, row: np.void) -> list[bytes]:
        """The different streams of a frame, as UTF-8."""
        from evtool.log import frame

        body = self.body(row)
        try:
            return frame.decode_streams(body, row["header"])
        except LogDamagedError as error:
            raise self._damage(row, error.message) from error

    def fetched(self, rows: Table, columns: Collection[str]) -> Segment:
        """Itself."""
        return self

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these frames (neighbours) took."""
        if len(rows):
            last = rows[-1]
            end = int(last["offset"]) + FRAME_HEADER_BYTES + int(last["header"]["body_bytes"])
            forget(self.data, int(rows["offset"][0]), end)

    def _damage(self, row: np.void, what: str) -> LogDamagedError:
        header = row["header"]
        return LogDamagedError(
            f"{self.folder / FRAMES_FILE}: frame at byte {row['offset']} "
            f"(positions {header['first_position']} to {header['last_position']}): {what}",
            "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can.",
            what,
        )


def read_index(
    files: Files, folder: Path, frames: int, log_bytes: int, index_checksum: int | None, checked: int = 0
) -> Table | None:
    """The first `frames` rows of frames.idx; None if they are not what was written.

    They must fill `log_bytes` of frames.log without a gap. A sealed segment's summary has the checksum of
    all of them; without one the header in each row is checked, but for the first `checked`.
    """
    try:
        data = files.map(folder / INDEX_FILE, frames * INDEX_ROW.itemsize)
    except FileNotFoundError:
        return None
    return index_of(data, frames, log_bytes, index_checksum, checked)


def index_of(
    data: memoryview, frames: int, log_bytes: int, index_checksum: int | None, checked: int = 0
) -> Table | None:
    """The same of bytes that were read already."""
    if len(data) != frames * INDEX_ROW.itemsize:
        return None
    table = np.frombuffer(data, INDEX_ROW)
    body_bytes = table["header"]["body_bytes"].astype(np.int64)
    lengths = FRAME_HEADER_BYTES + -(-body_bytes // 8) * 8
    ends = SEGMENT_HEADER_BYTES + np.cumsum(lengths)
    starts = ends - lengths
    if not (table["offset"] == starts).all() or (ends[-1] if frames else SEGMENT_HEADER_BYTES) != log_bytes:
        return None
    if index_checksum is not None:
        return table if checksum(data) == index_checksum else None
    size = INDEX_ROW.itemsize
    rows = range(checked * size, frames * size, size)
    return table if all(is_whole(data[at + _HEADER_AT : at + size]) for at in rows) else None


def read_summary(files: Files, folder: Path, log_id: str | None) -> dict[str, Any] | None:
    """segment.msgpack of a sealed segment; None when there is none or it is damaged (it can be remade).

    One of another segment is as good as none, and so is one of another log than `log_id` (None: any). That of a
    cold one has a copy, which counts where there is no frames.log that it could be remade from.
    """
    summary = _read_summary(files, folder / SUMMARY_FILE, log_id)
    if summary is None and not (folder / FRAMES_FILE).exists():
        return _read_summary(files, folder / COPY_FILE, log_id)
    return summary


def is_readable(files: Files, folder: Path, log_id: str) -> bool:
    """Whether there is a segment.msgpack that is whole, and of this segment."""
    return _read_summary(files, folder / SUMMARY_FILE, log_id) is not None


def _read_summary(files: Files, path: Path, log_id: str | None) -> dict[str, Any] | None:
    try:
        record = files.read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(record) < 8 or not is_whole(record):
        return None
    try:
        summary = msgpack.unpackb(record[:-8])
    except ValueError:  # another file of the log, with a checksum of the same form
        return None
    if not isinstance(summary, dict) or summary.get("version") != FORMAT_VERSION:
        return None
    is_own = summary["first_position"] == parse_segment_name(path.parent.name)
    return summary if is_own and log_id in (None, summary["log_id"]) else None


def summary_record(summary: Mapping[str, Any]) -> bytes:
    """The bytes of a segment.msgpack."""
    packed = bytes(msgpack.packb(dict(summary)))
    return packed + checksum(packed).to_bytes(8, "little")


def write_summary(files: Files, folder: Path, summary: Mapping[str, Any]) -> None:
    """Let a cold segment be as a summary says: the copy first, as segment.msgpack is what readers go by."""
    record = summary_record(summary)
    files.write_whole(folder / COPY_FILE, record)
    files.write_whole(folder / SUMMARY_FILE, record)


def is_cold(summary: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether a summary is that of a segment in Parquet."""
    return summary is not None and "generation" in summary


def segment_folders(folder: Path) -> Iterator[tuple[int, Path]]:
    """(first position, folder) of each segment of a log, in order."""
    for entry in sorted(folder.iterdir()):
        first_position = parse_segment_name(entry.name)
        if first_position is not None and entry.is_dir():
            yield first_position, folder / segment_name(first_position)
