"""The footer of a Parquet file taken apart, and put together for a file of row groups from several others.

It is FileMetaData of parquet.thrift (https://github.com/apache/parquet-format) in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). Only structs that have offsets
in them are opened; all other fields are kept as the bytes that they are, whatever they mean. Page indexes, which
are optional, are left out: they would stand at other places.

Thrift's own library takes five times as long, which was a fifth of an erasure: footers have 200,000 fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

MAGIC = b"PAR1"
END_BYTES = 8  # the footer's length, and MAGIC

Struct: TypeAlias = "dict[int, tuple[int, Any]]"  # fields by number: type of Thrift; bytes, a struct, or several

# Types of Thrift. Those up to _FALSE are values themselves, and have no bytes.
_FALSE, _BYTE, _I16, _I64, _DOUBLE, _TEXT, _LIST, _SET, _STRUCT = 2, 3, 4, 6, 7, 8, 9, 10, 12

# Fields of parquet.thrift.
_ROWS, _ROW_GROUPS = 3, 4  # FileMetaData
_COLUMNS, _COUNT, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7  # RowGroup
_CHUNK_OFFSET, _META, _PAGE_INDEXES = 2, 3, (4, 5, 6, 7)  # ColumnChunk
_PAGE_OFFSETS = (9, 10, 11)  # ColumnMetaData: of data, index and dictionary

_OPENED: Mapping[int, Any] = {_ROW_GROUPS: {_COLUMNS: {_META: {}}}}  # by the numbers of their fields


@dataclass(frozen=True)
class Group:
    """A row group as a footer describes it, whose bytes stand so many further back or ahead in the new file."""

    described: Struct
    moved_bytes: int


def read(data: memoryview) -> Struct:
    """The footer at the end of a Parquet file, of which that much is enough."""
    size = int.from_bytes(data[-END_BYTES:-4], "little")
    return _struct(bytes(data[-END_BYTES - size : -END_BYTES]), 0, _OPENED)[0]


def groups(footer: Struct) -> list[Struct]:
    """The row groups of a file."""
    found: list[Struct] = footer[_ROW_GROUPS][1]
    return found


def write(footer: Struct, chosen: Sequence[Group]) -> bytes:
    """The end of a file with these row groups, which is else described as by `footer`."""
    made = [_moved(group, number) for number, group in enumerate(chosen)]
    rows = sum(_number(group[_COUNT][1]) for group in made)
    data = bytearray()
    _put_struct(data, {**footer, _ROWS: (_I64, _signed(rows)), _ROW_GROUPS: (_LIST, made)})
    return bytes(data) + len(data).to_bytes(4, "little") + MAGIC


def _moved(group: Group, number: int) -> Struct:
    described = _shifted(group.described, (_GROUP_OFFSET,), group.moved_bytes)
    chunks = [_moved_chunk(chunk, group.moved_bytes) for chunk in described[_COLUMNS][1]]
    changed = {**described, _COLUMNS: (_LIST, chunks)}
    return {**changed, _ORDINAL: (_I16, _signed(number))} if _ORDINAL in described else changed


def _moved_chunk(chunk: Struct, moved_bytes: int) -> Struct:
    kept = {number: value for number, value in chunk.items() if number not in _PAGE_INDEXES}
    meta = _shifted(kept[_META][1], _PAGE_OFFSETS, moved_bytes)
    return {**_shifted(kept, (_CHUNK_OFFSET,), moved_bytes), _META: (_STRUCT, meta)}


def _shifted(struct: Struct, fields: Sequence[int], moved_bytes: int) -> Struct:
    """With other offsets; 0 is none."""
    moved = {
        number: (_I64, _signed(offset + moved_bytes))
        for number in fields
        if number in struct and (offset := _number(struct[number][1]))
    }
    return {**struct, **moved}


def _struct(data: bytes, at: int, opened: Mapping[int, Any]) -> tuple[Struct, int]:
    """The struct that begins at `at`, and where it ends; fields that are `opened` are structs, or lists of it."""
    found: Struct = {}
    number = 0
    while data[at]:
        kind, number, at = _field(data, at, number)
        if number not in opened:
            end = _end(data, at, kind)
            found[number], at = (kind, data[at:end]), end
        elif kind == _STRUCT:
            inner, at = _struct(data, at, opened[number])
            found[number] = kind, inner
        else:
            _, count, at = _list(data, at)
            several = []
            for _ in range(count):
                inner, at = _struct(data, at, opened[number])
                several.append(inner)
            found[number] = kind, several
    return found, at + 1


def _field(data: bytes, at: int, before: int) -> tuple[int, int, int]:
    """Type and number of the field whose header is at `at`, behind that of another, and where the header ends."""
    head = data[at]
    if head >> 4:
        return head & 15, before + (head >> 4), at + 1
    end = _end(data, at + 1, _I16)
    return head, _number(data[at + 1 : end]), end


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """Type and count of what is in a list, and where that begins."""
    head = data[at]
    if head >> 4 < 15:
        return head & 15, head >> 4, at + 1
    end = _end(data, at + 1, _I16)
    return head & 15, _unsigned(data[at + 1 : end]), end


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value ends."""
    if kind <= _FALSE:
        return at
    if kind == _STRUCT:
        while data[at]:
            kind, _, at = _field(data, at, 0)
            at = _end(data, at, kind)
        return at + 1
    if kind in (_LIST, _SET):
        kind, count, at = _list(data, at)
        for _ in range(count):
            at = _end(data, at, max(kind, _BYTE))  # in a list, a truth takes a byte
        return at
    if kind in (_BYTE, _DOUBLE):
        return at + (1 if kind == _BYTE else 8)
    end = at
    while data[end] & 0x80:
        end += 1
    return end + 1 + (_unsigned(data[at : end + 1]) if kind == _TEXT else 0)


def _unsigned(data: bytes) -> int:
    """A number of which each byte has 7 bits, the lowest first."""
    value = 0
    for byte in reversed(data):
        value = value << 7 | byte & 0x7F
    return value


def _number(data: bytes) -> int:
    """The same with a sign, which is the lowest bit."""
    value = _unsigned(data)
    return value >> 1 ^ -(value & 1)


def _encoded(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _signed(value: int) -> bytes:
    return _encoded(value << 1 if value >= 0 else ~(value << 1))


def _put_struct(data: bytearray, struct: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(struct.items()):
        if number - before < 16:
            data.append((number - before) << 4 | kind)
        else:
            data.append(kind)
            data += _signed(number)
        before = number
        if isinstance(value, bytes):
            data += value
        elif kind == _STRUCT:
            _put_struct(data, value)
        else:
            data += bytes([len(value) << 4 | _STRUCT]) if len(value) < 15 else b"\xfc" + _encoded(len(value))
            for each in value:
                _put_struct(data, each)
    data.append(0)
