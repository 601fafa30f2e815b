"""The footer of a Parquet file taken apart, and put together for a file of row groups from several others.

It is FileMetaData of parquet.thrift (https://github.com/apache/parquet-format) in Thrift's compact protocol: a
field is its distance to the number of the one before and its type, a number is zigzag and of 7 bits a byte, a
struct ends with 0. What is not known here is kept as it is. Page indexes, which are optional, are left out: they
would stand at other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

MAGIC = b"PAR1"
END_BYTES = 8  # the footer's length, and MAGIC

Struct: TypeAlias = "dict[int, tuple[int, Any]]"  # fields by number: type of Thrift and value

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_NUMBERS = (4, 5, 6)

# Fields of parquet.thrift.
_ROWS, _ROW_GROUPS = 3, 4  # FileMetaData
_COLUMNS, _COUNT, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7  # RowGroup
_CHUNK_OFFSET, _META, _PAGE_INDEXES = 2, 3, (4, 5, 6, 7)  # ColumnChunk
_PAGE_OFFSETS = (9, 10, 11)  # ColumnMetaData: of data, index and dictionary


@dataclass(frozen=True)
class Group:
    """A row group as a footer describes it, whose bytes stand so many further back or ahead in the new file."""

    described: Struct
    moved_bytes: int


def read(data: memoryview) -> Struct:
    """The footer at the end of a Parquet file."""
    size = int.from_bytes(data[-END_BYTES:-4], "little")
    return _Reader(bytes(data[-END_BYTES - size : -END_BYTES])).struct()


def groups(footer: Struct) -> list[Struct]:
    """The row groups of a file."""
    found: list[Struct] = footer[_ROW_GROUPS][1][1]
    return found


def write(footer: Struct, chosen: Sequence[Group]) -> bytes:
    """The end of a file with these row groups, which is else described as by `footer`."""
    made = [_moved(group, number) for number, group in enumerate(chosen)]
    rows = sum(group[_COUNT][1] for group in made)
    changed = {**footer, _ROWS: (footer[_ROWS][0], rows), _ROW_GROUPS: (_LIST, (_STRUCT, made))}
    out = bytearray()
    _put_struct(out, changed)
    return bytes(out) + len(out).to_bytes(4, "little") + MAGIC


def _moved(group: Group, number: int) -> Struct:
    described = _shifted(group.described, (_GROUP_OFFSET,), group.moved_bytes)
    chunks = [_moved_chunk(chunk, group.moved_bytes) for chunk in described[_COLUMNS][1][1]]
    changed = {**described, _COLUMNS: (_LIST, (_STRUCT, chunks))}
    return {**changed, _ORDINAL: (described[_ORDINAL][0], number)} if _ORDINAL in described else changed


def _moved_chunk(chunk: Struct, moved_bytes: int) -> Struct:
    kept = {number: value for number, value in chunk.items() if number not in _PAGE_INDEXES}
    meta = _shifted(kept[_META][1], _PAGE_OFFSETS, moved_bytes)
    return {**_shifted(kept, (_CHUNK_OFFSET,), moved_bytes), _META: (_STRUCT, meta)}


def _shifted(struct: Struct, fields: Sequence[int], moved_bytes: int) -> Struct:
    """With other offsets; 0 is none."""
    moved = {
        number: (struct[number][0], struct[number][1] + moved_bytes)
        for number in fields
        if number in struct and struct[number][1]
    }
    return {**struct, **moved}


class _Reader:
    """Goes through bytes of the compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        found: Struct = {}
        number = 0
        while (head := self._byte()) != 0:
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._number()
            found[number] = kind, self._value(kind)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            each = head & 0x0F
            return each, [self._element(each) for _ in range(count)]
        return self._element(kind)

    def _element(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind in (_STRUCT, _LIST, _SET):
            return self._value(kind)
        raise ValueError(f"type {kind} is none of a Parquet footer")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


def _put_struct(out: bytearray, struct: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(struct.items()):
        written = (_TRUE if value else _FALSE) if kind in (_TRUE, _FALSE) else kind
        if 0 < number - before < 16:
            out.append(number - before << 4 | written)
        else:
            out.append(written)
            _put_number(out, number)
        before = number
        if kind not in (_TRUE, _FALSE):
            _put(out, kind, value)
    out.append(0)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if kind == _STRUCT:
        _put_struct(out, value)
    elif kind in (_LIST, _SET):
        each, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | each)
        else:
            out.append(0xF0 | each)
            _put_varint(out, len(values))
        for one in values:
            _put(out, each, one)
    elif kind in _NUMBERS:
        _put_number(out, value)
    elif kind == _BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == _DOUBLE:
        out += value
    else:
        out.append(value)


def _put_number(out: bytearray, value: int) -> None:
    _put_varint(out, value << 1 ^ value >> 63)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
