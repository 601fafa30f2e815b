"""The footer of a Parquet file taken apart, and put together for a file of row groups from several others.

It is FileMetaData of parquet.thrift (https://github.com/apache/parquet-format) in Thrift's compact protocol. Its
fields are gone through as they come, without that definition, so what is not known here is kept as it is. Page
indexes, which are optional, are left out: they would stand at other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer

MAGIC = b"PAR1"
END_BYTES = 8  # the footer's length, and MAGIC

Struct: TypeAlias = "dict[int, tuple[int, Any]]"  # fields by number: type of Thrift and value

# What of the protocol's methods is for a value of a type.
_SIMPLE = {
    TType.BOOL: "Bool",
    TType.BYTE: "Byte",
    TType.I16: "I16",
    TType.I32: "I32",
    TType.I64: "I64",
    TType.DOUBLE: "Double",
    TType.STRING: "Binary",
}

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
    """The footer at the end of a Parquet file, of which that much is enough."""
    size = int.from_bytes(data[-END_BYTES:-4], "little")
    return _struct(TCompactProtocol(TMemoryBuffer(bytes(data[-END_BYTES - size : -END_BYTES]))))


def groups(footer: Struct) -> list[Struct]:
    """The row groups of a file."""
    found: list[Struct] = footer[_ROW_GROUPS][1][1]
    return found


def write(footer: Struct, chosen: Sequence[Group]) -> bytes:
    """The end of a file with these row groups, which is else described as by `footer`."""
    made = [_moved(group, number) for number, group in enumerate(chosen)]
    rows = sum(group[_COUNT][1] for group in made)
    changed = {**footer, _ROWS: (footer[_ROWS][0], rows), _ROW_GROUPS: (TType.LIST, (TType.STRUCT, made))}
    memory = TMemoryBuffer()
    _put_struct(TCompactProtocol(memory), changed)
    made_bytes: bytes = memory.getvalue()
    return made_bytes + len(made_bytes).to_bytes(4, "little") + MAGIC


def _moved(group: Group, number: int) -> Struct:
    described = _shifted(group.described, (_GROUP_OFFSET,), group.moved_bytes)
    chunks = [_moved_chunk(chunk, group.moved_bytes) for chunk in described[_COLUMNS][1][1]]
    changed = {**described, _COLUMNS: (TType.LIST, (TType.STRUCT, chunks))}
    return {**changed, _ORDINAL: (described[_ORDINAL][0], number)} if _ORDINAL in described else changed


def _moved_chunk(chunk: Struct, moved_bytes: int) -> Struct:
    kept = {number: value for number, value in chunk.items() if number not in _PAGE_INDEXES}
    meta = _shifted(kept[_META][1], _PAGE_OFFSETS, moved_bytes)
    return {**_shifted(kept, (_CHUNK_OFFSET,), moved_bytes), _META: (TType.STRUCT, meta)}


def _shifted(struct: Struct, fields: Sequence[int], moved_bytes: int) -> Struct:
    """With other offsets; 0 is none."""
    moved = {
        number: (struct[number][0], struct[number][1] + moved_bytes)
        for number in fields
        if number in struct and struct[number][1]
    }
    return {**struct, **moved}


def _struct(source: TCompactProtocol) -> Struct:
    found: Struct = {}
    source.readStructBegin()
    while True:
        _, kind, number = source.readFieldBegin()
        if kind == TType.STOP:
            break
        found[number] = kind, _value(source, kind)
        source.readFieldEnd()
    source.readStructEnd()
    return found


def _value(source: TCompactProtocol, kind: int) -> Any:
    if kind == TType.STRUCT:
        return _struct(source)
    if kind == TType.LIST:
        each, count = source.readListBegin()
        values = [_value(source, each) for _ in range(count)]
        source.readListEnd()
        return each, values
    return getattr(source, f"read{_SIMPLE[kind]}")()


def _put_struct(target: TCompactProtocol, struct: Struct) -> None:
    target.writeStructBegin("")
    for number, (kind, value) in sorted(struct.items()):
        target.writeFieldBegin("", kind, number)
        _put(target, kind, value)
        target.writeFieldEnd()
    target.writeFieldStop()
    target.writeStructEnd()


def _put(target: TCompactProtocol, kind: int, value: Any) -> None:
    if kind == TType.STRUCT:
        _put_struct(target, value)
    elif kind == TType.LIST:
        each, values = value
        target.writeListBegin(each, len(values))
        for one in values:
            _put(target, each, one)
        target.writeListEnd()
    else:
        getattr(target, f"write{_SIMPLE[kind]}")(value)
