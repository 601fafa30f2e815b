"""Writing the Parquet file of a cold segment, and the map that goes with it.

Encodings were measured (see CONTRIBUTING.md): numbers as deltas, texts that repeat as dictionaries, zstd-1 for all
but UUIDs, which are random. A file that was begun and not finished is in nobody's way: no summary names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from evtool.files import AppendFile, Files
from evtool.log.digest import LogicalDigest
from evtool.log.format import BLOCK, CHUNK, checksum
from evtool.log.streamindex import PAIR, Pairs
from evtool.log.stripes import STORED_COLUMNS, Arranged

_FOOTER_END_BYTES = 8  # its length, and "PAR1"

UNITS = ("ms", "us", "ns")
ZSTD_LEVEL = 1
PAGE_BYTES = 1 << 20
SINK_BYTES = 4 << 20  # Parquet writes its pages one by one

_NUMBERS = ("position", "timestamp", "stream_version", "schema_version")
_REPEATED = ("source_id", "stream_id", "event_type")
_OPTIONAL = ("event_uuid", "event_id", "metadata")
_DESCRIBED = ("position", "timestamp", *_REPEATED)  # with the least and the greatest value of each page


class _FinerUnitError(ValueError):
    """A stripe has timestamps that do not fit the unit of the file; `unit` is one that they fit."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self.unit = unit


@dataclass(frozen=True)
class Written:
    """A Parquet file that is on stable storage, and what its summary says of it."""

    events_bytes: int
    events_checksum: int
    blocks: np.ndarray[Any, Any]
    pairs: Pairs
    logical_digest: str


def write(
    files: Files, path: Path, stripes: Callable[[], Iterable[Arranged]], derived: Sequence[str] = ()
) -> Written:
    """Write stripes to a new file at `path`, and sync it; `derived` names the columns that they have besides.

    The stripes are asked for again where their timestamps turn out to be finer than those before. Raises
    StorageError, and what the stripes raise.
    """
    unit = UNITS[0]
    while True:
        try:
            return _write(files, path, stripes(), unit, derived)
        except _FinerUnitError as error:
            unit = error.unit


def _write(files: Files, path: Path, stripes: Iterable[Arranged], unit: str, derived: Sequence[str]) -> Written:
    files.remove(path)
    file = files.open_append(path, create=True)
    sink = _Sink(file)
    try:
        blocks, pairs, logical_digest = _write_stripes(sink, stripes, unit, derived)
        sink.drain()
        file.sync()
    finally:
        sink.is_closed = True  # what Arrow still says when it lets go of it counts no more
        file.close()
    return Written(file.size, sink.checksum.intdigest(), blocks, pairs, logical_digest)


def encode(stripe: Arranged, unit: str, derived: Sequence[str] = ()) -> int:
    """How many bytes a stripe takes: it is written to memory."""
    memory = pa.BufferOutputStream()
    _write_stripes(memory, [stripe], unit, derived)
    return int(memory.getvalue().size)


def schema(unit: str, derived: Sequence[str]) -> pa.Schema:
    """The columns of the file, in order."""
    kinds = {
        "position": pa.int64(),
        "event_uuid": pa.binary(16),
        "timestamp": pa.timestamp(unit, "UTC"),
        "stream_version": pa.int64(),
        "schema_version": pa.int32(),
    }
    fields = [pa.field(name, kinds.get(name, pa.string()), nullable=name in _OPTIONAL) for name in STORED_COLUMNS]
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in derived)])


def footer(unit: str, derived: Sequence[str]) -> pq.FileMetaData:
    """What a footer says of the columns of such a file, whatever its row groups are."""
    kinds = schema(unit, derived)
    values = {"event_uuid": bytes(16)}
    columns = [
        pa.array([values.get(field.name, "" if pa.types.is_string(field.type) else 0)], field.type)
        for field in kinds
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(columns, schema=kinds)
    pq.write_table(table, sink, version="2.6", compression=_compression(kinds.names), store_schema=False)
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


def _compression(names: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(names, "zstd") | {"event_uuid": "none"}


def describe(
    files: Files, path: Path, written: Written, commits: np.ndarray[Any, Any], maps: bytes
) -> tuple[bytes, dict[str, Any]]:
    """The map of a file that was written, and what the summary says of both. Raises StorageError."""
    data = files.map(path)
    metadata = pq.read_metadata(pa.BufferReader(pa.py_buffer(data)))
    footer_bytes = metadata.serialized_size + _FOOTER_END_BYTES
    record = written.blocks.tobytes() + _chunks(metadata, data).tobytes() + commits.tobytes() + maps
    return record, {
        "blocks": len(written.blocks),
        "columns": [metadata.schema.column(index).path for index in range(metadata.num_columns)],
        "events_bytes": written.events_bytes,
        "events_checksum": written.events_checksum,
        "footer_bytes": footer_bytes,
        "footer_checksum": checksum(data[len(data) - footer_bytes :]),
        "map_bytes": len(record),
        "map_checksum": checksum(record),
        "logical_digest": written.logical_digest,
    }


def chunks_of(data: memoryview) -> np.ndarray[Any, Any]:
    """Records of CHUNK for each column (2nd axis) of each row group of a file."""
    return _chunks(pq.read_metadata(pa.BufferReader(pa.py_buffer(data))), data)


def _chunks(metadata: pq.FileMetaData, data: memoryview) -> np.ndarray[Any, Any]:
    chunks = np.zeros((metadata.num_row_groups, metadata.num_columns), CHUNK)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(metadata.num_columns):
            column = group.column(index)
            start = column.dictionary_page_offset or column.data_page_offset
            size = column.total_compressed_size
            chunks[number, index] = (start, size, checksum(data[start : start + size]))
    return chunks


def _write_stripes(
    sink: Any, stripes: Iterable[Arranged], unit: str, derived: Sequence[str]
) -> tuple[np.ndarray[Any, Any], Pairs, str]:
    kinds = schema(unit, derived)
    writer = _writer(sink, kinds, derived)
    blocks, pairs, digest = [np.zeros(0, BLOCK)], [np.zeros(0, PAIR)], LogicalDigest()
    done = 0
    for number, stripe in enumerate(stripes):
        if UNITS.index(stripe.unit) > UNITS.index(unit):
            raise _FinerUnitError(stripe.unit)
        digest.add(stripe.columns)
        if not len(stripe.events):  # nothing of it is left
            continue
        table = _stored(stripe.events, kinds)
        starts = np.cumsum(stripe.blocks["count"]) - stripe.blocks["count"]
        for start, count in zip(starts.tolist(), stripe.blocks["count"].tolist(), strict=True):
            writer.write_table(table.slice(start, count), row_group_size=count)
        stripe.blocks["stripe"] = number
        stripe.pairs["frame"] += np.uint32(done)
        blocks.append(stripe.blocks)
        pairs.append(stripe.pairs)
        done += len(stripe.blocks)
    writer.close()
    return np.concatenate(blocks), np.concatenate(pairs), digest.hexdigest()


def encode_groups(groups: Iterable[pa.RecordBatch], unit: str, derived: Sequence[str]) -> memoryview:
    """A file in memory, each of whose row groups has the events of one batch, as an `Arranged` has them."""
    memory, kinds = pa.BufferOutputStream(), schema(unit, derived)
    writer = _writer(memory, kinds, derived)
    for events in groups:
        writer.write_table(_stored(events, kinds), row_group_size=len(events))
    writer.close()
    return memoryview(memory.getvalue())


def _writer(sink: Any, kinds: pa.Schema, derived: Sequence[str]) -> pq.ParquetWriter:
    compression = _compression(kinds.names)
    return pq.ParquetWriter(
        sink,
        kinds,
        version="2.6",
        compression=compression,
        compression_level={name: ZSTD_LEVEL for name, codec in compression.items() if codec == "zstd"},
        use_dictionary=[*_REPEATED, *derived],
        column_encoding=dict.fromkeys(_NUMBERS, "DELTA_BINARY_PACKED"),
        write_statistics=[*_DESCRIBED, *derived],
        write_page_index=True,
        write_page_checksum=True,
        data_page_size=PAGE_BYTES,
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(
            kinds, [("stream_id", "ascending"), ("position", "ascending")]
        ),
    )


def _stored(events: pa.RecordBatch, kinds: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(
        [_cast(column, field.type) for column, field in zip(events.columns, kinds, strict=True)], schema=kinds
    )


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_timestamp(kind):
        return column
    return column.cast(pa.timestamp("ns", "UTC")).cast(kind)


class _Sink:
    """A file as Arrow writes to one: larger pieces, and a checksum of all of them."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._position = 0
        self.checksum = xxhash.xxh3_64()
        self.is_closed = False
        self.closed = False  # what Arrow asks for

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._position += len(piece)
        if not self.is_closed:
            self.checksum.update(piece)
            self._pending.append(piece)
            self._pending_bytes += len(piece)
            if self._pending_bytes >= SINK_BYTES:
                self.drain()
        return len(piece)

    def drain(self) -> None:
        """Hand on what is held back. Raises StorageError."""
        pieces, self._pending, self._pending_bytes = self._pending, [], 0
        self._file.append(pieces)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is promised before the sync."""

    def close(self) -> None:
        """Whoever opened the file closes it."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
