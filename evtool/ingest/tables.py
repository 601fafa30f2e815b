"""Rows of CSV and Parquet files as lines of JSON: one object a row, one member a column.

Cells of CSV are texts. Cells of Parquet keep their exact value: numbers are written with all their digits, moments
in RFC 3339 (in UTC, or without an offset where the column has no zone), binary values in base64, durations as
counts of their column's unit. What JSON has no word for, NaN and the infinities, is written as it is: such a line
is no JSON, and becomes a dead letter.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evtool import jsontext
from evtool.errors import EvtoolError, InputError
from evtool.event import LINE_BYTES_MAX

ROWS_TOGETHER = 8192

_ENCODER = msgspec.json.Encoder()


def csv_lines(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The rows of a CSV file (RFC 4180, a header, commas) as blocks of lines.

    An empty line stands for the header, so that without line breaks in cells the numbers of lines agree. A row
    that does not fit the header is an array, one that cannot be taken apart a string: neither is an event.
    Raises InputError for a header that makes no sense, and for a line that does not end.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
    lines = _Lines(blocks, name)
    reader = csv.reader(lines, strict=True)
    header = _header(reader, name)
    if header is None:
        return
    yield b"\n"
    rows: list[Any] = []
    size = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error:
            rows.append("".join(lines.taken))
        else:
            rows.append(dict(zip(header, cells, strict=True)) if len(cells) == len(header) else cells or None)
        size += sum(map(len, lines.taken))
        lines.taken.clear()
        if len(rows) == ROWS_TOGETHER or size >= LINE_BYTES_MAX:
            yield _written(rows)
            rows, size = [], 0
    yield _written(rows)


def parquet_lines(path: str) -> Iterator[bytes]:
    """The rows of a Parquet file as blocks of lines. Raises InputError."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_twice(names, path)
            for batch in file.iter_batches(ROWS_TOGETHER):
                if len(batch):
                    yield _joined(batch, path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet: {error}", "The rows before that place are kept, if there are any."
        ) from error


class _Lines:
    """Blocks of bytes as texts of one line each. `taken` are those that were given since it was last cleared."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self.taken: list[str] = []
        self._lines = self._split(blocks, name)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line

    @staticmethod
    def _split(blocks: Iterator[bytes], name: str) -> Iterator[str]:
        tail: list[bytes] = []
        for block in blocks:
            end = block.rfind(b"\n") + 1
            if not end:
                tail.append(block)
                if sum(map(len, tail)) > 2 * LINE_BYTES_MAX:
                    raise InputError(f"{name}: a line is longer than {2 * LINE_BYTES_MAX:,} bytes: is it CSV?")
                continue
            whole, tail = b"".join([*tail, block[:end]]), [block[end:]]
            # Bytes that are no UTF-8 are carried along, and the row is refused where its line is checked.
            yield from (line.decode(errors="surrogateescape") for line in whole.splitlines(keepends=True))
        if rest := b"".join(tail):
            yield rest.decode(errors="surrogateescape")


def _header(reader: Iterator[list[str]], name: str) -> list[str] | None:
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise InputError(f"the header of {name} cannot be read as CSV: {error}") from error
    if header is not None:
        _refuse_twice(header, name)
        if any("\udc80" <= character <= "\udcff" for column in header for character in column):
            raise InputError(f"the header of {name} is not UTF-8")
    return header


def _refuse_twice(names: Sequence[str], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where} has two columns {twice!r}", "Give each a name of its own.")


def _written(rows: list[Any]) -> bytes:
    """Rows as lines; None as an empty one."""
    if None not in rows:
        try:
            return _ENCODER.encode_lines(rows)
        except UnicodeEncodeError:
            pass
    return b"".join([_one(row) + b"\n" for row in rows])


def _one(row: Any) -> bytes:
    if row is None:
        return b""
    return jsontext.encode(row).encode(errors="surrogateescape")


def _joined(batch: pa.RecordBatch, where: str) -> bytes:
    members: list[Any] = []
    for number, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        members.append(("," if number else "{") + jsontext.quote(name) + ":")
        try:
            members.append(_texts(column))
        except (pa.ArrowException, TypeError) as error:
            if isinstance(error, EvtoolError):
                raise
            raise InputError(
                f"{where}: the column {name!r} of type {column.type} cannot be written as JSON: {error}"
            ) from error
    lines = pc.binary_join_element_wise(*members, "}\n", "")
    return bytes(pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "")[0].as_buffer())


def _texts(column: pa.Array) -> pa.Array:
    """A column as JSON texts, without nulls."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _texts(column.dictionary_decode())
    if pa.types.is_null(kind):
        return pa.repeat(pa.scalar("null"), len(column))
    return pc.fill_null(_values(column, kind), "null")


def _values(column: pa.Array, kind: pa.DataType) -> pa.Array:
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _strings(column.cast(pa.large_string()))
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return column.cast(pa.string())
    if types.is_timestamp(kind):
        # As numbers, so that they stay in UTC.
        written = column.cast(pa.int64()).cast(pa.timestamp(kind.unit)).cast(pa.string())
        return _quoted(pc.replace_substring(written, " ", "T"), "Z" if kind.tz else "")
    if types.is_date(kind) or types.is_time(kind):
        return _quoted(column.cast(pa.string()))
    if types.is_duration(kind):
        return column.cast(pa.int64()).cast(pa.string())
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        encoded = [None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
        return _quoted(pa.array(encoded, pa.string()))
    if types.is_struct(kind):
        return _structs(column, kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind):
        return _lists(column, kind)
    raise TypeError("JSON has no word for it")


def _strings(column: pa.Array) -> pa.Array:
    quoted = jsontext.quoted(pl.Series("text", pl.from_arrow(column)))
    return quoted.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())


def _quoted(texts: pa.Array, ending: str = "") -> pa.Array:
    return pc.binary_join_element_wise('"', texts, ending + '"', "")


def _structs(column: pa.Array, kind: pa.DataType) -> pa.Array:
    members: list[Any] = []
    for number, child in enumerate(column.flatten()):
        members += [("," if number else "{") + jsontext.quote(kind.field(number).name) + ":", _texts(child)]
    texts = pc.binary_join_element_wise(*members, "}", "") if members else pa.array(["{}"] * len(column))
    return pc.if_else(column.is_valid(), texts, pa.scalar(None, pa.string()))


def _lists(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists as arrays; maps as arrays of objects with `key` and `value`, since a key may be of any type."""
    if pa.types.is_map(kind):
        entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        column = column.cast(pa.list_(entry))
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    items = pa.ListArray.from_arrays(offsets, _texts(column.flatten()))
    texts = pc.binary_join_element_wise("[", pc.binary_join(items, ","), "]", "")
    return pc.if_else(column.is_valid(), texts, pa.scalar(None, pa.string()))
