"""A cold segment as readers see it: a Parquet file of its events, and a map of where in it everything is.

The map tells of each row group which events it has, of each column of it where it lies and its checksum, and of
each batch what its commit frame said. A column is read when its bytes match the checksum, the footer when it
matches that of the summary: what Parquet checks itself does not cover the headers of pages.

Arrow and Polars are imported by the methods that read columns: to know which row groups there are takes neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.log import streamindex
from evtool.log.archive import is_archived
from evtool.log.archived import Archive, ArchivedStreams
from evtool.log.coldfooter import DAMAGE_HINT, Footer
from evtool.log.excerpt import Column, excerpt
from evtool.log.format import (
    BATCH,
    BLOCK,
    CHUNK,
    EVENTS_FRAME,
    FRAME_HEADER,
    checksum,
    events_file,
    gone_file,
    map_file,
)
from evtool.log.ranges import MappedFile, Piece, Ranges
from evtool.log.streamindex import Hashes, StreamIndex
from evtool.log.walk import Table

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from evtool.log.gone import Gone

# A row is like one of frames.idx. Over several batches the times of recording are no straight line.
_HEADER_FIELDS = {name: FRAME_HEADER[name] for name in FRAME_HEADER.names or ()}
_HEADER = np.dtype([*_HEADER_FIELDS.items(), ("recorded_at_max", "<i8")])
ROW = np.dtype([("offset", "<u8"), ("number", "<u8"), ("header", _HEADER)])

_UNITS_NS = {"TIMESTAMP_MILLIS": 1_000_000, "TIMESTAMP_MICROS": 1_000}


@dataclass(frozen=True)
class ColdSegment:
    """An immutable view of one cold segment. What it has mapped stays valid when the files are removed.

    `file` has its events, here or in the archive. `table` has a row of ROW for each row group, `chunks` a record
    of CHUNK for each of its `columns`.
    """

    folder: Path
    first_position: int
    last_position: int
    table: Table
    chunks: np.ndarray[Any, Any]
    commits: np.ndarray[Any, Any]
    maps: memoryview
    file: Ranges
    footer: Footer
    summary: Mapping[str, Any]
    stream_index: StreamIndex | ArchivedStreams | None = None
    gone_data: bytes | memoryview = b""

    is_sealed = True
    is_cold = True

    @property
    def materialised(self) -> frozenset[str]:
        """The names of its columns that were made of payloads and metadata."""
        return frozenset(self.summary["materialised"])

    @property
    def is_archived(self) -> bool:
        """Whether its events are in the archive, and not here."""
        return self.file.is_archived

    @property
    def log_bytes(self) -> int:
        """Bytes of the Parquet file, its map, and what it says of events that are gone."""
        return int(self.summary["events_bytes"]) + int(self.summary["map_bytes"]) + len(self.gone_data)

    @property
    def events_bytes(self) -> int:
        """Bytes of the Parquet file."""
        return self.file.size

    @cached_property
    def gone(self) -> Gone:
        """Events at some of its positions that it has not any more. Raises LogDamagedError."""
        from evtool.log import gone

        if not len(self.gone_data):
            return gone.Gone.none()
        if checksum(self.gone_data) != self.summary["gone_checksum"]:
            path = self.folder / gone_file(self.summary["generation"])
            raise LogDamagedError(f"{path}: it does not match its checksum", DAMAGE_HINT)
        events = sum(self.summary["gone"].values())
        return gone.decode(memoryview(self.gone_data), self.summary["gone_runs"], events)

    @property
    def gone_counts(self) -> Mapping[str, int]:
        """How many of these went, by how they did."""
        found: Mapping[str, int] = self.summary.get("gone", {})
        return found

    def producer_maps(self) -> Iterator[tuple[int, bytes]]:
        """What producers handed over with its batches, and the number of the batch; the latest first."""
        ends = np.cumsum(self.commits["map_bytes"], dtype=np.int64)
        starts = ends - self.commits["map_bytes"]
        for number in reversed(np.flatnonzero(self.commits["map_bytes"]).tolist()):
            yield number, bytes(self.maps[starts[number] : ends[number]])

    def check_commits(self) -> None:
        """Nothing: the map is checked when the segment is opened."""

    def chain_at(self, position: int) -> int | None:
        """The checksum that the commit frame had whose batch ends with a position; None if no batch does."""
        ends = self.commits["base_position"] + self.commits["count"] - 1
        found = self.commits["checksum"][ends == position]
        return int(found[0]) if len(found) else None  # the first: empty batches may follow

    def recorded_at(self, position: int) -> int:
        """When the event at one of its positions was recorded, ns UTC."""
        return int(recorded_at(self.commits, np.array([position]))[0])

    def event_rows(self) -> Table:
        """All rows: each has events."""
        return self.table

    def rows_of(self, streams: Hashes) -> tuple[Table, bool]:
        """The rows of row groups that may hold some streams, and whether the index of streams chose them."""
        numbers = self.stream_index.frames_of(streams) if self.stream_index else None
        return (self.table, False) if numbers is None else (self.table[numbers], True)

    def events(self, row: np.void, columns: Collection[str] | None = None) -> pl.DataFrame:
        """The events of a row group, asked columns of STORED_SCHEMA, in the order of the file."""
        import pyarrow as pa

        from evtool.event import STORED_SCHEMA
        from evtool.log.frame import to_frame

        wanted = [name for name in STORED_SCHEMA if columns is None or name in columns]
        stored = {*wanted, "event_uuid"} if "event_id" in wanted else set(wanted)
        return to_frame(pa.Table.from_batches([self.batches(self._row(row), stored)]), wanted)

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The same as columns of PLACED_SCHEMA, in order of position if that is among them."""
        from evtool.log.frame import PLACED_SCHEMA

        return _in_order(self.batches(self._row(row), PLACED_SCHEMA.names if columns is None else columns))

    def together(
        self, rows: Table, columns: Collection[str], among: Mapping[str, pa.Array], is_likely: bool = False
    ) -> pa.Table:
        """The events of several row groups, of which the texts are `among` some, in the order of the file.

        Columns are of PLACED_SCHEMA or materialised; texts are string views. Raises LogDamagedError.
        """
        import polars as pl
        import pyarrow as pa

        wanted = [name for name in self._names if name in columns]
        needed = set(wanted) - {"recorded_at"}
        if not needed or "recorded_at" in columns:
            needed.add("position")
        # Names come from outside and may be any text, so they are numbers to Polars.
        read = {name: str(number) for number, name in enumerate(self._columns) if name in needed or name in among}
        described = [replace(self._columns[name], name=number) for name, number in read.items()]
        _, chunks = self._read(rows, [*read])
        file = excerpt(described, rows["header"]["count"].astype(np.int64), chunks)
        events = pl.scan_parquet(file, parallel="prefiltered" if among else "auto", glob=False, cache=False)
        for name, texts in among.items():
            events = events.filter(_is_among(pl.col(read[name]), texts))
        try:
            found = events.select(read[name] for name in sorted(needed)).collect()
        except pl.exceptions.PolarsError as error:
            raise self._damage(rows[0], f"it, or one of {len(rows)}, does not decode: {error}") from error
        if not among and len(found) != rows["header"]["count"].sum():
            raise self._damage(rows[0], f"it, or one of {len(rows)}, holds another number of events")
        return pa.table({name: self._as_arrow(name, found, read) for name in wanted})

    def _as_arrow(self, name: str, found: pl.DataFrame, read: Mapping[str, str]) -> pa.Array:
        """A stored column as one of PLACED_SCHEMA, or a materialised one."""
        import polars as pl

        from evtool.log.frame import PLACED_SCHEMA, int64s

        if name == "recorded_at":
            return int64s(recorded_at(self.commits, found[read["position"]].to_numpy()))
        column = found[read[name]]
        if name == "timestamp":
            return (column * _UNITS_NS.get(self._columns[name].meaning, 1)).to_arrow()
        if name == "event_uuid":
            return column.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(PLACED_SCHEMA.field(name).type)
        return column.to_arrow(compat_level=pl.CompatLevel.newest())

    @cached_property
    def _names(self) -> list[str]:
        """The columns that its events have for readers, in order."""
        from evtool.log.frame import PLACED_SCHEMA

        return [*PLACED_SCHEMA.names, *sorted(self.materialised)]

    @property
    def _columns(self) -> Mapping[str, Column]:
        return self.footer.columns

    def streams(self, row: np.void) -> list[bytes]:
        """The different streams of a row group, as UTF-8."""
        import pyarrow as pa

        column = self.read(row, ["stream_id"])["stream_id"]
        streams: list[bytes] = column.unique().cast(pa.binary()).to_pylist()
        return streams

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these row groups (neighbours) took."""
        if len(rows):
            end = int(rows["offset"][-1]) + int(rows["header"]["body_bytes"][-1])
            self.file.forget(int(rows["offset"][0]), end)

    def fetched(self, rows: Table, columns: Collection[str]) -> ColdSegment:
        """The same segment, with what it takes to read these columns of these row groups at hand."""
        if not self.is_archived:
            return self
        needed = {*columns} if "recorded_at" not in columns and columns else {*columns, "position"}
        needed |= {"event_uuid"} if "event_id" in needed else set()
        names = [name for name in self._numbers if name in needed]
        file = self.file.fetched([piece for pieces in self._pieces(rows, names) for piece in pieces])
        return replace(self, file=file)

    def read(self, row: np.void, names: Collection[str]) -> pa.Table:
        """Columns of a row group as they are stored. Raises LogDamagedError when any bit of them has changed."""
        return self._decoded(self._row(row), names)

    def _row(self, row: np.void) -> Table:
        number = int(row["number"])
        return self.table[number : number + 1]

    def _decoded(self, rows: Table, names: Collection[str]) -> pa.Table:
        """The same of several row groups, one behind the other."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = [name for name in self._numbers if name in names]
        pieces, chunks = self._read(rows, wanted)
        it = "it" if len(rows) == 1 else f"it, or one of {len(rows)},"
        try:
            source = self.file.file([*chain(*pieces)], [*chain(*chunks)])
            file = pq.ParquetFile(source, metadata=self.metadata, pre_buffer=False)
            indices = [self._numbers[name] for name in wanted]
            numbers = rows["number"].tolist()
            table = file.reader.read_row_groups(numbers, column_indices=indices, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damage(rows[0], f"{it} does not decode: {error}") from error
        if len(table) != rows["header"]["count"].sum():
            raise self._damage(rows[0], f"{it} holds {len(table)} events")
        return table

    def stored(self, row: np.void) -> list[memoryview]:
        """A row group as the bytes that it is, from its offset on. Raises LogDamagedError as `read`."""
        (pieces,), (chunks,) = self._read(self._row(row), list(self._numbers))
        return [data for _, data in sorted(zip(pieces, chunks, strict=True), key=lambda each: each[0])]

    def damaged_columns(self, row: np.void) -> list[str]:
        """The columns of a row group that do not match their checksums."""
        names = list(self._numbers)
        (pieces,) = self._pieces(self._row(row), names)
        chunks = self.file.read(pieces)
        return [name for name, piece, data in zip(names, pieces, chunks, strict=True) if not piece.is_of(data)]

    @property
    def metadata(self) -> pq.FileMetaData:
        """The footer. Raises LogDamagedError."""
        return self.footer.metadata

    @property
    def path(self) -> Path | str:
        """The Parquet file, or the URL of its object."""
        return self.file.place

    def _pieces(self, rows: Table, names: Collection[str]) -> list[list[Piece]]:
        """Where some columns of some row groups are."""
        numbers = [self._numbers[name] for name in names]
        return [list(map(Piece._make, chunks)) for chunks in self.chunks[rows["number"]][:, numbers].tolist()]

    def _read(self, rows: Table, names: Collection[str]) -> tuple[list[list[Piece]], list[list[memoryview]]]:
        """The same, and their bytes. Raises LogDamagedError when any bit of them has changed."""
        pieces = self._pieces(rows, names)
        data = iter(self.file.read([piece for group in pieces for piece in group]))
        found = [[next(data) for _ in group] for group in pieces]
        for number, (group, chunks) in enumerate(zip(pieces, found, strict=True)):
            for name, (_, _, told), chunk in zip(names, group, chunks, strict=True):
                if checksum(chunk) != told:
                    raise self._damage(rows[number], f"column {name} does not match its checksum")
        return pieces, found

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.summary["columns"])}

    def batches(self, rows: Table, columns: Collection[str]) -> pa.RecordBatch:
        """Columns of PLACED_SCHEMA of several row groups, in the order of the file. Raises LogDamagedError."""
        import pyarrow as pa

        from evtool.log.frame import PLACED_SCHEMA, int64s

        fields = [field for field in PLACED_SCHEMA if field.name in columns]
        needed = {field.name for field in fields} - {"recorded_at"}
        if not needed or "recorded_at" in columns:
            needed.add("position")
        table = self._decoded(rows, needed)
        found = []
        for field in fields:
            if field.name == "recorded_at":
                column = int64s(recorded_at(self.commits, np.from_dlpack(_one(table["position"]))))
            elif field.name == "timestamp":
                column = _one(table["timestamp"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()))
            else:
                column = _one(table[field.name])
            found.append(column)
        return pa.RecordBatch.from_arrays(found, schema=pa.schema(fields))

    def _damage(self, row: np.void, what: str) -> LogDamagedError:
        header = row["header"]
        return LogDamagedError(
            f"{self.path}: row group {row['number']} (positions {header['first_position']} to "
            f"{header['last_position']}): {what}",
            DAMAGE_HINT,
            what,
        )


def open_cold(
    files: Files, folder: Path, summary: Mapping[str, Any], log_id: bytes, archive: Archive
) -> ColdSegment:
    """The cold segment of a summary. Raises LogDamagedError; FileNotFoundError when a file has gone."""
    path = folder / map_file(summary["generation"])
    record = memoryview(files.read_whole(path))
    if not is_map_of(record, summary):
        raise LogDamagedError(f"{path}: it does not match its checksum", DAMAGE_HINT)
    file = _events(files, folder, summary, archive)
    gone_data: bytes | memoryview = b""
    if "gone" in summary:
        gone_path, gone_bytes = folder / gone_file(summary["generation"]), summary["gone_bytes"]
        gone_data = files.map(gone_path, gone_bytes)
        if len(gone_data) != gone_bytes:
            raise LogDamagedError(f"{gone_path}: it has {len(gone_data):,} bytes of {gone_bytes:,}", DAMAGE_HINT)
    cold = of_parts(folder, summary, record, file, gone_data)
    index = streamindex.read(files, folder, log_id, cold.first_position, cold.table)
    if index is None and cold.is_archived:
        return replace(cold, stream_index=ArchivedStreams(archive, summary, log_id, cold.table))
    return replace(cold, stream_index=index)


def is_map_of(record: bytes | bytearray | memoryview, summary: Mapping[str, Any]) -> bool:
    """Whether some bytes are the map that a summary tells of."""
    if len(record) != summary["map_bytes"] or checksum(record) != summary["map_checksum"]:
        return False
    return _ends(summary)[2] <= len(record)


def of_parts(
    folder: Path,
    summary: Mapping[str, Any],
    record: memoryview,
    file: Ranges,
    gone_data: bytes | memoryview,
) -> ColdSegment:
    """The cold segment of a summary and its map; of the other files, bytes are checked when they are used."""
    ends = _ends(summary)
    chunks = np.frombuffer(record[ends[0] : ends[1]], CHUNK).reshape(summary["blocks"], len(summary["columns"]))
    table = _table(np.frombuffer(record[: ends[0]], BLOCK), chunks, summary["map_checksum"])
    return ColdSegment(
        folder=folder,
        first_position=summary["first_position"],
        last_position=summary["last_position"],
        table=table,
        chunks=chunks,
        commits=np.frombuffer(record[ends[1] : ends[2]], BATCH),
        maps=record[ends[2] :],
        file=file,
        footer=Footer(file, summary),
        summary=summary,
        gone_data=gone_data,
    )


def _ends(summary: Mapping[str, Any]) -> list[int]:
    """Where in a map the records of row groups end, those of columns, and those of batches."""
    blocks, batches, columns = summary["blocks"], summary["batches"], len(summary["columns"])
    sizes = [blocks * BLOCK.itemsize, blocks * columns * CHUNK.itemsize, batches * BATCH.itemsize]
    return [sum(sizes[:count]) for count in (1, 2, 3)]


def _events(files: Files, folder: Path, summary: Mapping[str, Any], archive: Archive) -> Ranges:
    """The events file: the one here counts, if there is one."""
    path = folder / events_file(summary["generation"])
    try:
        data = files.map(path, summary["events_bytes"])
    except FileNotFoundError:
        if not is_archived(summary):
            raise
        return archive.events(summary)
    if len(data) != summary["events_bytes"]:
        message = f"it has {len(data):,} bytes where {summary['events_bytes']:,} were written"
        raise LogDamagedError(f"{path}: {message}", DAMAGE_HINT)
    return MappedFile(path, data)


def recorded_at(commits: np.ndarray[Any, Any], positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """When the events at some positions were recorded, by their batches."""
    # Of an empty batch and the one behind it, which begin at the same position, the latter is found.
    batch = np.searchsorted(commits["base_position"], positions, side="right") - 1
    times: np.ndarray[Any, Any] = (commits["base_recorded_at"] - commits["base_position"])[batch] + positions
    return times


def _table(blocks: np.ndarray[Any, Any], chunks: np.ndarray[Any, Any], identity: int) -> Table:
    table = np.zeros(len(blocks), ROW)
    table["number"] = np.arange(len(blocks))
    table["offset"] = chunks["offset"].min(axis=1)
    header = table["header"]
    for name in ("partition", "count", "first_position", "last_position", "timestamp_min", "timestamp_max"):
        header[name] = blocks[name]
    header["kind"], header["batch"] = EVENTS_FRAME, blocks["stripe"]
    header["body_bytes"] = chunks["stored_bytes"].sum(axis=1)
    header["base_position"], header["base_recorded_at"] = blocks["first_position"], blocks["recorded_at_min"]
    header["recorded_at_max"] = blocks["recorded_at_max"]
    header["checksum"] = identity  # what an index of streams is bound to
    return table


def _is_among(column: pl.Expr, texts: pa.Array) -> pl.Expr:
    """Whether a text is one of some; of a single one it is known sooner."""
    import polars as pl

    return column == texts[0].as_py() if len(texts) == 1 else column.is_in(pl.Series(texts).implode())


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _in_order(batch: pa.RecordBatch) -> pa.RecordBatch:
    from evtool.log.frame import int64s

    if "position" not in batch.schema.names:
        return batch
    positions = np.from_dlpack(batch["position"])
    if (positions[1:] > positions[:-1]).all():
        return batch
    return batch.take(int64s(np.argsort(positions)))
