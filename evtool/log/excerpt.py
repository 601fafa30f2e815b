"""Some column chunks of a Parquet file as a Parquet file of their own, in memory, for Polars to read.

Polars reads texts that repeat twice as fast as Arrow does, and of the rows that a condition leaves out it decodes
one column only. But it reads files, not row groups whose bytes were checked and are mapped. So the chunks are put
behind each other, unchanged, with a footer behind them that names these alone.

The footer is FileMetaData of parquet.thrift (https://github.com/apache/parquet-format) in Thrift's compact
protocol: a field is its distance to the number of the one before and its type, a number is zigzag and of 7 bits a
byte, a struct ends with 0. Numbers that differ by row group are all written with as many bytes, which the
protocol allows. So all row groups take the same number of bytes, and are made at once, by the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

_MAGIC = b"PAR1"
_I32, _I64, _TEXT, _LIST, _STRUCT = 5, 6, 8, 9, 12  # types of Thrift
_END = b"\0"
_MEANINGS = {"UTF8": 0}  # ConvertedType, as far as it is written
_TYPES = {"INT32": 1, "INT64": 2, "BYTE_ARRAY": 6, "FIXED_LEN_BYTE_ARRAY": 7}
_CODECS = {"UNCOMPRESSED": 0, "ZSTD": 6}
_FIXED_BYTES = 6  # numbers below 2^41


@dataclass(frozen=True)
class Column:
    """What a footer says of a column in all row groups, as numbers of parquet.thrift.

    `length` is that of values of a fixed length, or 0; `meaning` the name of its ConvertedType, or "NONE".
    """

    name: str
    type: int
    length: int
    is_optional: bool
    meaning: str
    codec: int


def columns_of(metadata: pq.FileMetaData) -> dict[str, Column]:
    """The columns of a file that has a row group, by name. They are flat, and compressed alike in all of them."""
    first = metadata.row_group(0)
    found = {}
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        found[column.path] = Column(
            name=column.path,
            type=_TYPES[column.physical_type],
            length=column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0,
            is_optional=column.max_definition_level > 0,
            meaning=column.converted_type,
            codec=_CODECS[first.column(number).compression],
        )
    return found


def excerpt(columns: Sequence[Column], counts: Integers, chunks: Sequence[Sequence[memoryview]]) -> bytes:
    """A file of the `chunks` of each column in each row group (of `counts` rows). Numbers are plain ones in it."""
    sizes = np.array([[len(chunk) for chunk in group] for group in chunks], np.int64)
    ends = len(_MAGIC) + np.cumsum(sizes.ravel())
    starts = ends.reshape(sizes.shape) - sizes
    elements = [_field(4, _TEXT) + _text("schema") + _field(1, _I32) + _number(len(columns)) + _END]
    elements += [_element(column) for column in columns]
    footer = b"".join(
        [
            _field(1, _I32) + _number(1),
            _field(1, _LIST) + _list(_STRUCT, len(elements)) + b"".join(elements),
            _field(1, _I64) + _number(int(counts.sum())),
            _field(1, _LIST) + _list(_STRUCT, len(counts)) + _row_groups(columns, counts, starts, sizes),
            _END,
        ]
    )
    data = [chunk for group in chunks for chunk in group]
    return b"".join([_MAGIC, *data, footer, len(footer).to_bytes(4, "little"), _MAGIC])


def _element(column: Column) -> bytes:
    """A SchemaElement: type, type_length, repetition_type, name, converted_type."""
    length = _field(1, _I32) + _number(column.length) + _field(1, _I32) if column.length else _field(2, _I32)
    kind = _field(2, _I32) + _number(_MEANINGS[column.meaning]) if column.meaning in _MEANINGS else b""
    return (
        _field(1, _I32)
        + _number(column.type)
        + length
        + _number(int(column.is_optional))
        + _field(1, _TEXT)
        + _text(column.name)
        + kind
        + _END
    )


def _row_groups(columns: Sequence[Column], counts: Integers, starts: Integers, sizes: Integers) -> bytes:
    """A RowGroup for each: columns, total_byte_size, num_rows."""
    record: list[bytes | Bytes] = [_field(1, _LIST) + _list(_STRUCT, len(columns))]
    for number, column in enumerate(columns):
        record += _chunk(column, _fixed(counts), _fixed(starts[:, number]), _fixed(sizes[:, number]))
    record += [_field(1, _I64), _fixed(sizes.sum(axis=1)), _field(1, _I64), _fixed(counts), _END]
    return np.hstack([_repeated(piece, len(counts)) for piece in record]).tobytes()


def _chunk(column: Column, count: Bytes, start: Bytes, size: Bytes) -> list[bytes | Bytes]:
    """A ColumnChunk: file_offset and meta_data. Of the latter type, encodings (pages say them, and readers look
    there), path_in_schema, codec; num_values, total_uncompressed_size, total_compressed_size, data_page_offset.
    """
    described: list[bytes | Bytes] = [
        _field(1, _I32) + _number(column.type),
        _field(1, _LIST) + _list(_I32, 1) + _number(0),
        _field(1, _LIST) + _list(_TEXT, 1) + _text(column.name),
        _field(1, _I32) + _number(column.codec),
    ]
    numbers: list[bytes | Bytes] = [
        _field(1, _I64),
        count,
        _field(1, _I64),
        size,
        _field(1, _I64),
        size,
        _field(2, _I64),
        start,
    ]
    return [_field(2, _I64), start, _field(1, _STRUCT), *described, *numbers, _END, _END]


def _repeated(piece: bytes | Bytes, count: int) -> Bytes:
    if isinstance(piece, bytes):
        return np.broadcast_to(np.frombuffer(piece, np.uint8), (count, len(piece)))
    return piece


def _fixed(numbers: Integers) -> Bytes:
    """Numbers as rows of _FIXED_BYTES bytes each."""
    shifts = 7 * np.arange(_FIXED_BYTES)
    groups = (2 * numbers.astype(np.int64))[:, None] >> shifts & 0x7F
    groups[:, :-1] |= 0x80  # another byte follows
    return groups.astype(np.uint8)


def _field(distance: int, kind: int) -> bytes:
    return bytes([distance << 4 | kind])


def _list(kind: int, count: int) -> bytes:
    return bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _varint(count)


def _text(text: str) -> bytes:
    data = text.encode()
    return _varint(len(data)) + data


def _number(number: int) -> bytes:
    return _varint(2 * number)


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
