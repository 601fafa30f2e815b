"""Values at some paths of many JSON objects, as columns of texts.

A value becomes a text as DuckDB's `->>` makes it one: a string without its escapes, a number as it was spelled,
`true` and `false`, the raw text of an object or an array. Nothing (a null of Polars) comes of null, of what is
absent, and of a step that does not fit, as a key into a list. Of a key that stands twice the last counts.

Most values are found in the bytes, many at once, without reading the JSON (`flat`), at a tenth of the cost. What
cannot be proved that way is read with msgspec, row by row if need be: integer steps, objects and arrays as values,
escapes, a key that stands more than once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from evtool.ingest.extract import Extractor, Slot
from evtool.ingest.lines import Mask, Offsets
from evtool.ingest.mapping import Steps as Steps
from evtool.log.frame import int64s, mask, strings
from evtool.projections import flat
from evtool.projections.flat import PADDING, Block, Bytes, Values

_BLOCK_BYTES = 1 << 21  # smaller ones let two threads wait for the interpreter, larger ones for memory
_TOGETHER_BYTES_MAX = 1 << 30
_ROWS_MIN = 48  # fewer are sooner read one by one
_ROWS_TOGETHER = 64  # of which one that does not fit the types costs the others a second look
_ROWS_BETWEEN = 500  # so many for each that is put in, or more: rather in pieces
_SPACE = b" \t\r\n"
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)


def extract(texts: pl.Series | pa.Array | pa.ChunkedArray, paths: Sequence[Steps]) -> list[pl.Series]:
    """The values at each of the paths, as a String column of as many rows as there are texts.

    The texts are strict JSON objects in UTF-8 (RFC 8259), or null, nested 128 deep at most. A caller that holds an
    Arrow column of strings does best to give that: it is read where it is, and a column of Polars is copied
    before. Several paths at once share work. No result keeps the memory of the texts.
    """
    distinct = list(dict.fromkeys(paths))
    parts = [_of_chunk(chunk, distinct) for chunk in _chunks(texts)]
    columns = parts[0] if len(parts) == 1 else [pl.concat(each) for each in zip(*parts, strict=True)]
    return [columns[distinct.index(path)] for path in paths]


def read(texts: Sequence[bytes], paths: Sequence[Steps]) -> list[list[str | None]]:
    """The same, for texts that are all there, by reading all of their JSON."""
    extractor = _extractor(tuple(paths)) if len(texts) >= _ROWS_MIN else None
    found: list[list[str | None]] = [[] for _ in paths]
    for at in range(0, len(texts), _ROWS_TOGETHER):
        some = texts[at : at + _ROWS_TOGETHER]
        objects = extractor.decode(b"\n".join(some), len(some)) if extractor else None
        for column, path in zip(found, paths, strict=True):
            if extractor is not None and objects is not None:
                column += map(_as_text, extractor.column(Slot(path, raw=True), objects))
            else:
                column += [_as_text(_step_by_step(text, path)) for text in some]
    return found


def _chunks(texts: pl.Series | pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """The texts as Arrow arrays of strings with offsets, of which there is one at least."""
    if isinstance(texts, pl.Series):
        texts = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    chunks = [chunk.cast(pa.large_string()) if pa.types.is_string_view(chunk.type) else chunk for chunk in chunks]
    if sum(chunk.nbytes for chunk in chunks) < min(len(chunks) * _BLOCK_BYTES, _TOGETHER_BYTES_MAX):
        return [pa.concat_arrays(chunks)]  # a block each would be much ado about a few rows
    return chunks or [pa.array([], pa.string())]


def _of_chunk(texts: pa.Array, paths: Sequence[Steps]) -> list[pl.Series]:
    if not texts.null_count:
        return [pl.Series(pl.from_arrow(column), dtype=pl.String) for column in _columns(texts, paths)]
    is_there = mask(pc.is_valid(texts))
    indexes = int64s(np.cumsum(is_there) - 1, ~is_there)
    columns = _columns(texts.drop_null(), paths)
    return [pl.Series(pl.from_arrow(column.take(indexes)), dtype=pl.String) for column in columns]


def _columns(texts: pa.Array, paths: Sequence[Steps]) -> list[pa.Array]:
    """A column for each path, of texts without nulls."""
    if not len(texts):
        return [pa.array([], pa.large_string()) for _ in paths]
    plain = [path for path in paths if flat.is_plain(path)] if len(texts) >= _ROWS_MIN else []
    columns = dict(zip(plain, _fast(texts, plain), strict=True))
    everywhere = np.ones(len(texts), bool)
    is_left = {path: columns[path][1] if path in columns else everywhere for path in paths}
    slow = [path for path in paths if is_left[path].any()]
    if slow:
        rows = np.flatnonzero(np.logical_or.reduce([is_left[path] for path in slow]))
        some = texts if len(rows) == len(texts) else texts.take(int64s(rows))
        lists = read(some.cast(pa.large_binary()).to_pylist(), slow)
        for path, values in zip(slow, lists, strict=True):
            found = strings(values)
            columns[path] = (_placed(found, rows, columns[path][0] if path in columns else None), everywhere)
    return [columns[path][0] for path in paths]


def _placed(found: pa.Array, rows: Offsets, column: pa.Array | None) -> pa.Array:
    """A column with what was found put into some rows, which are all if there is no column."""
    if column is None or len(rows) == len(column):
        return found
    if len(rows) * _ROWS_BETWEEN < len(column):  # pieces are copied faster than single texts
        befores = [0, *(rows + 1).tolist()]
        pieces = [column.slice(before, row - before) for before, row in zip(befores, rows.tolist(), strict=False)]
        singles = [found.slice(number, 1) for number in range(len(found))]
        parts = [part for both in zip(pieces, singles, strict=True) for part in both]
        return pa.concat_arrays([*parts, column.slice(befores[-1])])
    indexes = np.arange(len(column))
    indexes[rows] = np.arange(len(column), len(column) + len(rows))
    return pa.concat_arrays([column, found]).take(int64s(indexes))


def _fast(texts: pa.Array, paths: Sequence[Steps]) -> Iterator[tuple[pa.Array, Mask]]:
    """For each path: a column, with nothing in rows that are not known, and which those are."""
    if not paths:
        return
    _, offsets, buffer = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(buffer, np.uint8)
    found: list[list[Values]] = [[] for _ in paths]
    firsts: list[int] = []
    for first, block in _blocks(data, bounds):
        firsts.append(first)
        for values, path in zip(found, paths, strict=True):
            values.append(block.values([str(step) for step in path]))
    for values in found:
        yield _gathered(values, firsts, bounds, buffer)


def _blocks(data: Bytes, bounds: Offsets) -> Iterator[tuple[int, Block]]:
    """The texts in blocks, each with the number of its first one."""
    cuts = np.searchsorted(bounds, np.arange(bounds[0], bounds[-1], _BLOCK_BYTES)[1:]).tolist()
    for first, last in itertools.pairwise(dict.fromkeys([0, *cuts, len(bounds) - 1])):
        part = bounds[first : last + 1]
        base, end = int(part[0]), int(part[-1])
        view = data[base : end + PADDING]
        if len(view) < end - base + PADDING:
            view = np.concatenate([data[base:end], np.zeros(PADDING, np.uint8)])
        yield first, Block(view, part - base)


def _gathered(
    blocks: Sequence[Values], firsts: Sequence[int], bounds: Offsets, buffer: pa.Buffer
) -> tuple[pa.Array, Mask]:
    """The values of all blocks as one column, copied out of the texts, and which rows are not known.

    Starts and ends by turns are the offsets of an Arrow column that needs no copy, of which every second is taken.
    """
    count = len(bounds) - 1
    rows = np.concatenate([values.rows + first for values, first in zip(blocks, firsts, strict=True)])
    spans = np.empty((len(rows), 2), np.int64)
    done = 0
    for values, first in zip(blocks, firsts, strict=True):
        behind = done + len(values.rows)
        np.add(values.starts, bounds[first], out=spans[done:behind, 0])
        np.add(values.ends, bounds[first], out=spans[done:behind, 1])
        done = behind
    pieces = pa.Array.from_buffers(
        pa.large_binary(), max(2 * len(rows) - 1, 0), [None, pa.py_buffer(spans.reshape(-1)), buffer]
    )
    indexes = np.arange(0, 2 * len(rows), 2)
    if len(rows) < count:
        is_absent = np.ones(count, bool)
        is_absent[rows] = False
        of_rows = np.zeros(count, np.int64)
        of_rows[rows] = indexes
        taken = pieces.take(int64s(of_rows, is_absent))
    else:
        taken = pieces.take(int64s(indexes))
    unknown = np.concatenate([values.unknown for values in blocks])
    return pa.Array.from_buffers(pa.large_string(), count, taken.buffers()), unknown


@lru_cache(maxsize=64)
def _extractor(paths: tuple[Steps, ...]) -> Extractor | None:
    """Reads many objects at once; None where no types can name the paths, as an index into an object."""
    is_ordinary = all(
        path and isinstance(path[0], str) and all(isinstance(step, str) or step >= 0 for step in path)
        for path in paths
    )
    try:
        return Extractor([Slot(path, raw=True) for path in paths]) if is_ordinary else None
    except ValueError:
        return None


def _step_by_step(text: bytes, path: Steps) -> bytes:
    """The bytes of the value at a path of one text; none where nothing is."""
    found = text.strip(_SPACE)
    for step in path:
        if not isinstance(step, str) and step < 0:
            return b""
        try:
            found = bytes(_OBJECT.decode(found)[step] if isinstance(step, str) else _ARRAY.decode(found)[step])
        except (msgspec.ValidationError, LookupError):  # another kind of value, or none
            return b""
    return found


def _as_text(raw: bytes | msgspec.Raw) -> str | None:
    value = bytes(raw)
    if value[:1] == b'"':
        return str(_STRING.decode(value)) if b"\\" in value else value[1:-1].decode()
    return value.decode() if value and value != b"null" else None
