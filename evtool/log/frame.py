"""A frame's body: events as an Arrow IPC stream of one record batch, each column buffer compressed.

The stream carries its own schema, so a body says itself which columns it has and how they are encoded:
texts that repeat are dictionaries, a column without a value is left out, event times are kept in the
coarsest unit that loses nothing, and ids that are canonical UUIDs are 16 bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from evtool import uuids
from evtool.batch import BATCH_SCHEMA
from evtool.config import Codec
from evtool.errors import LogDamagedError
from evtool.event import EVENT_SCHEMA, STORED_SCHEMA
from evtool.log.format import EVENTS_FRAME, checksum

# Below this many bytes of text, the time to set up a compressor outweighs what it saves.
COMPRESS_BYTES_MIN = 16 * 1024
# A dictionary pays when texts repeat, on average, at least this often.
DICTIONARY_REPEATS_MIN = 2
DICTIONARY_ROWS_MIN = 256
_CODES_COMPARED_MAX = 8

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

PLACED_SCHEMA = pa.schema([("position", pa.int64()), ("recorded_at", pa.int64()), *BATCH_SCHEMA])  # as stored

_TEXTS = ("source_id", "stream_id", "event_type")
_TIMES = {unit: pa.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")}
_UNITS = (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000))
_READ = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True)
class EncodedFrame:
    """A body, and what its header will say of it."""

    partition: int
    body: pa.Buffer
    body_checksum: int
    count: int
    first_position: int
    last_position: int
    timestamp_min: int
    timestamp_max: int


@dataclass(frozen=True)
class Part:
    """The events of one frame, to be encoded.

    `rows` are their rows in `events` (of BATCH_SCHEMA), or None for all of them; `positions` rise, and
    `timestamps` and `stream_versions` are those of the events, all given.
    """

    partition: int
    base_position: int
    events: pa.RecordBatch
    rows: Integers | None
    positions: Integers
    timestamps: Integers
    stream_versions: Integers


def encode(part: Part, codec: Codec) -> EncodedFrame:
    """Encode the events of a part, one at least."""
    deltas = np.empty(len(part.positions), np.uint32)
    deltas[0] = part.positions[0] - part.base_position
    np.subtract(part.positions[1:], part.positions[:-1], out=deltas[1:], casting="unsafe")
    columns: dict[str, pa.Array] = {
        "position_delta": pa.array(deltas),
        "timestamp": _coarsest_unit(part.timestamps),
    }
    rows = None if part.rows is None else pa.array(part.rows)
    for name, column in zip(BATCH_SCHEMA.names, part.events.columns, strict=True):
        if name == "stream_version":
            columns[name] = pa.array(part.stream_versions)
        elif name != "timestamp" and not _is_empty(column):
            chosen = column if rows is None else column.take(rows)
            if rows is None or not _is_empty(chosen):  # a column without values is left out
                columns[name] = _dictionary_if_it_pays(chosen) if name in _TEXTS else chosen
    body = _write(pa.RecordBatch.from_arrays(list(columns.values()), list(columns)), codec)
    return EncodedFrame(
        partition=part.partition,
        body=body,
        body_checksum=checksum(memoryview(body)),
        count=len(part.positions),
        first_position=int(part.positions[0]),
        last_position=int(part.positions[-1]),
        timestamp_min=int(part.timestamps.min()),
        timestamp_max=int(part.timestamps.max()),
    )


def decode(body: memoryview, header: np.void, columns: Collection[str] | None = None) -> pl.DataFrame:
    """The events of a frame, as the asked columns of STORED_SCHEMA (default: all) in that order.

    `header` is the frame's FRAME_HEADER record; the body's checksum must have been checked.
    Raises LogDamagedError when the body is not what the format says.
    """
    wanted = [name for name in STORED_SCHEMA if columns is None or name in columns]
    batch = _read_checked(body, header, wanted)
    count = len(batch)
    names = set(batch.schema.names)
    result: dict[str, pl.Series] = {}
    for name in wanted:
        if name in ("position", "recorded_at"):
            continue
        if name == "event_id":
            result[name] = _event_ids(batch)
        elif name == "timestamp":
            column = batch.column("timestamp").cast(pa.timestamp("ns", "UTC"))
            result[name] = pl.Series(name, pl.from_arrow(column.cast(pa.int64())))
        elif name in names:
            result[name] = _series(name, batch.column(name))
        else:
            result[name] = pl.Series(name, [None], dtype=EVENT_SCHEMA[name]).new_from_index(0, count)
    if "position" in wanted or "recorded_at" in wanted:
        offsets = np.cumsum(np.from_dlpack(batch.column("position_delta")), dtype=np.int64)
        for name, base in (("position", "base_position"), ("recorded_at", "base_recorded_at")):
            if name in wanted:
                result[name] = pl.Series(name, offsets + header[base])
    return pl.DataFrame([result[name] for name in wanted])


def decode_batch(body: memoryview, header: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
    """The same as the asked columns of PLACED_SCHEMA: for those who compare or hash, and do not show."""
    names = [name for name in PLACED_SCHEMA.names if columns is None or name in columns]
    return _placed(_read_checked(body, header, names), header, names)


def decode_matching(
    body: memoryview, header: np.void, columns: Collection[str], among: Mapping[str, pa.Array], is_likely: bool
) -> pa.RecordBatch | None:
    """The same of those events whose texts are `among` some, by column; None when there is none.

    Unless one is likely, those columns are read alone first.
    """
    names = [name for name in PLACED_SCHEMA.names if name in columns]
    looks_first = not is_likely and len(body) >= COMPRESS_BYTES_MIN
    batch = _read_checked(body, header, [*among] if looks_first else [*names, *among])
    rows = _rows_among(batch, among)
    if not rows.any():
        return None
    return _placed(_read_checked(body, header, names) if looks_first else batch, header, names, rows)


def decode_streams(body: memoryview, header: np.void) -> list[bytes]:
    """The different streams of a frame, as UTF-8."""
    column = _read_checked(body, header, ["stream_id"]).column("stream_id")
    different = column.dictionary if isinstance(column, pa.DictionaryArray) else column.unique()
    streams: list[bytes] = different.cast(pa.binary()).to_pylist()
    return streams


def to_frame(events: pa.Table, columns: Collection[str]) -> pl.DataFrame:
    """Columns of PLACED_SCHEMA as the asked ones of STORED_SCHEMA, in that order."""
    result = []
    for name in (name for name in STORED_SCHEMA if name in columns):
        if name == "event_id":
            ids = events.select(["event_uuid", "event_id"])
            columns_of_ids = [column.combine_chunks() for column in ids.columns]  # there may be no chunk at all
            result.append(_event_ids(pa.RecordBatch.from_arrays(columns_of_ids, schema=ids.schema)))
        else:
            result.append(pl.Series(name, pl.from_arrow(events[name])))
    return pl.DataFrame(result)


def event_ids(events: pa.RecordBatch) -> pa.Array:
    """The ids of events with the columns event_uuid and event_id, as one column of texts."""
    if events["event_uuid"].null_count == len(events):
        return events["event_id"]
    return _event_ids(events).to_arrow(compat_level=pl.CompatLevel.oldest())


def int64s(numbers: Integers, is_null: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> pa.Array:
    """Numbers as an Arrow array that shares their memory. `pa.array` would import pandas first, where it is."""
    validity = None if is_null is None else pa.py_buffer(np.packbits(~is_null, bitorder="little"))
    buffer = pa.py_buffer(np.ascontiguousarray(numbers, np.int64))
    return pa.Array.from_buffers(pa.int64(), len(numbers), [validity, buffer])


def mask(truths: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Truth values, none of them null. `to_numpy` would import pandas, as `pa.array` does."""
    return np.from_dlpack(truths.cast(pa.uint8())).view(np.bool_)


def strings(texts: Sequence[str | None]) -> pa.Array:
    """Texts as an Arrow array of large strings, for the same reason by way of Polars."""
    return pl.Series(texts, dtype=pl.String).to_arrow(compat_level=pl.CompatLevel.oldest())


def _rows_among(batch: pa.RecordBatch, among: Mapping[str, pa.Array]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    chosen = np.ones(len(batch), bool)
    for name, texts in among.items():
        column = batch.column(name)
        if isinstance(column, pa.DictionaryArray):
            chosen &= _rows_of_codes(column, mask(pc.is_in(column.dictionary, texts)))
        else:
            chosen &= mask(pc.is_in(column, texts))
    return chosen


def _rows_of_codes(
    column: pa.DictionaryArray, is_wanted: np.ndarray[Any, np.dtype[np.bool_]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The rows with a code that is wanted. A few are sooner compared with all rows than looked up for each."""
    codes, wanted = np.from_dlpack(column.indices), np.flatnonzero(is_wanted).tolist()
    if len(wanted) > _CODES_COMPARED_MAX:
        return np.asarray(is_wanted[codes])
    found = np.zeros(len(codes), bool)
    for code in wanted:
        found |= codes == code
    return found


def _placed(
    batch: pa.RecordBatch,
    header: np.void,
    columns: Sequence[str],
    chosen: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
) -> pa.RecordBatch:
    """Columns of PLACED_SCHEMA, of the chosen rows (default: all)."""
    names = set(batch.schema.names)
    offsets = np.zeros(0, np.int64)
    if "position_delta" in names:
        offsets = np.cumsum(np.from_dlpack(batch.column("position_delta")), dtype=np.int64)
    if chosen is not None and not chosen.all():
        rows = np.flatnonzero(chosen)
        batch, offsets = batch.take(int64s(rows)), offsets[rows] if len(offsets) else offsets
    fields = [PLACED_SCHEMA.field(name) for name in columns]
    result = []
    for field in fields:
        if field.name in ("position", "recorded_at"):
            column = int64s(offsets + header["base_" + field.name])
        elif field.name == "timestamp":
            column = batch.column("timestamp").cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
        elif field.name in names:
            column = batch.column(field.name)
            column = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
        else:
            column = pa.nulls(len(batch), field.type)
        result.append(column)
    return pa.RecordBatch.from_arrays(result, schema=pa.schema(fields))


def _write(batch: pa.RecordBatch, codec: Codec) -> pa.Buffer:
    small = batch.get_total_buffer_size() < COMPRESS_BYTES_MIN
    compression = None
    if codec.name != "none" and not small:
        compression = pa.Codec(codec.name, codec.level if codec.name == "zstd" else None)
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _read_checked(body: memoryview, header: np.void, wanted: list[str]) -> pa.RecordBatch:
    try:
        batch = _read(body, wanted)
    except (pa.ArrowException, OSError) as error:
        raise LogDamagedError(f"a frame's body does not decode: {error}") from error
    if header["kind"] != EVENTS_FRAME or batch.num_rows != int(header["count"]):
        raise LogDamagedError(f"a frame says {int(header['count'])} events and holds {batch.num_rows}")
    return batch


def _read(body: memoryview, wanted: list[str]) -> pa.RecordBatch:
    buffer = pa.py_buffer(body)
    if (
        len(body) < COMPRESS_BYTES_MIN
    ):  # nearly always uncompressed: then columns that are not asked for cost nothing
        return pa.ipc.open_stream(buffer, options=_READ).read_next_batch()
    stored = set(wanted)
    if "position" in stored or "recorded_at" in stored:
        stored.add("position_delta")
    if "event_id" in stored:
        stored.add("event_uuid")
    names = pa.ipc.open_stream(buffer, options=_READ).schema.names
    # One column at least: Arrow reads "no field" as "all of them".
    included = [i for i, name in enumerate(names) if name in stored] or [names.index("schema_version")]
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=included)
    return pa.ipc.open_stream(buffer, options=options).read_next_batch()


def _series(name: str, column: pa.Array) -> pl.Series:
    if isinstance(column, pa.DictionaryArray):
        values = pl.Series(name, pl.from_arrow(column.dictionary), dtype=pl.String)
        return values.gather(column.indices.to_numpy())
    return pl.Series(name, pl.from_arrow(column))


def _is_empty(column: pa.Array) -> bool:
    empty: bool = column.null_count == len(column)
    return empty


def _dictionary_if_it_pays(column: pa.Array) -> pa.Array:
    if len(column) < DICTIONARY_ROWS_MIN:
        return column
    encoded = column.dictionary_encode()
    if len(encoded.dictionary) * DICTIONARY_REPEATS_MIN > len(column):
        return column
    narrow = pa.uint8() if len(encoded.dictionary) <= 256 else pa.uint32()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(narrow), encoded.dictionary)


def _coarsest_unit(timestamps: np.ndarray[Any, Any]) -> pa.Array:
    first = int(timestamps[0])
    for unit, nanoseconds in _UNITS:
        if first % nanoseconds == 0:
            quotients = timestamps // nanoseconds
            if (quotients * nanoseconds == timestamps).all():
                return _times(quotients, unit)
    return _times(timestamps, "ns")


def _times(numbers: Integers, unit: str) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(_TIMES[unit], len(numbers), [None, buffer])


def _event_ids(batch: pa.RecordBatch) -> pl.Series:
    names = batch.schema.names
    if "event_uuid" not in names:
        return _series("event_id", batch.column("event_id"))
    column = batch.column("event_uuid")
    texts = uuids.unpack(column)
    if "event_id" not in names:
        return texts
    others = _series("event_id", batch.column("event_id"))
    return others.to_frame().select(pl.coalesce("event_id", pl.lit(texts).alias("uuid"))).to_series()
