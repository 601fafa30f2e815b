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
from evtool.ingest.lines import Offsets
from evtool.ingest.mapping import Steps as Steps
from evtool.log.frame import int64s, mask
from evtool.projections import flat
from evtool.projections.flat import ALIGNED_BYTES, PADDING, Block, Bytes
from evtool.projections.textcolumn import TextColumn

_BLOCK_BYTES = 1 << 21  # smaller ones let two threads wait for the interpreter, larger ones for memory
_CHUNK_BYTES_MIN = 1 << 18  # a block of fewer would be much ado about a few rows
_ROWS_MIN = 48  # fewer are sooner read one by one
_ROWS_TOGETHER = 64  # of which one that does not fit the types costs the others a second look
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
    column = _with_offsets(texts)
    distinct = list(dict.fromkeys(paths))
    if not column.null_count:
        found = _columns(column, distinct)
    else:
        is_there = mask(pc.is_valid(column).combine_chunks())
        rows = pl.Series(pl.from_arrow(int64s(np.cumsum(is_there) - 1, ~is_there)))
        found = [values.gather(rows) for values in _columns(column.drop_null(), distinct)]
    return [found[distinct.index(path)] for path in paths]


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


def _with_offsets(texts: pl.Series | pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """The texts as Arrow has strings with offsets."""
    if isinstance(texts, pl.Series):
        texts = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    column = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _columns(texts: pa.ChunkedArray, paths: Sequence[Steps]) -> list[pl.Series]:
    """A column for each path, of texts without nulls."""
    columns = {path: TextColumn(len(texts)) for path in paths}
    plain = [path for path in paths if flat.is_plain(path)] if len(texts) >= _ROWS_MIN else []
    left: dict[Steps, list[Offsets]] = {path: [] if path in plain else [np.arange(len(texts))] for path in paths}
    for rows, block in _blocks(texts.chunks) if plain else ():
        for path in plain:
            values = block.values([str(step) for step in path])
            is_everywhere = len(values.rows) == len(rows)
            columns[path].put(rows if is_everywhere else rows[values.rows], block.data, values.starts, values.ends)
            left[path].append(rows[values.unknown])
    slow = [path for path in paths if any(map(len, left[path]))]
    if slow:
        rows = np.unique(np.concatenate([rows for path in slow for rows in left[path]]))
        some = texts if len(rows) == len(texts) else texts.take(int64s(rows))
        for path, found in zip(slow, read(some.cast(pa.large_binary()).to_pylist(), slow), strict=True):
            columns[path].put_texts(rows, found)
    return [columns[path].series() for path in paths]


def _blocks(chunks: Sequence[pa.Array]) -> Iterator[tuple[Offsets, Block]]:
    """The texts in blocks, each with its rows.

    Most of them are looked at where they are. Only small chunks, and texts behind which the bytes to be read are
    not, are copied together.
    """
    row = 0
    copied, rows_copied = [], []
    for chunk in chunks:
        bounds, data = _buffers(chunk)
        behind = 0
        if bounds[-1] - bounds[0] >= _CHUNK_BYTES_MIN:
            behind = int(np.searchsorted(bounds, len(data) - PADDING, side="right")) - 1
            yield from _cut(data, bounds[: behind + 1], np.arange(row, row + behind))
        copied.append(chunk.slice(behind).cast(pa.large_string()))
        rows_copied.append(np.arange(row + behind, row + len(chunk)))
        row += len(chunk)
    bounds, data = _buffers(pa.concat_arrays(copied))
    yield from _cut(np.concatenate([data, np.zeros(PADDING, np.uint8)]), bounds, np.concatenate(rows_copied))


def _buffers(texts: pa.Array) -> tuple[Offsets, Bytes]:
    """Where the texts start, and the last one ends, in their bytes, and these."""
    _, offsets, data = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return bounds, np.frombuffer(data, np.uint8)


def _cut(data: Bytes, bounds: Offsets, rows: Offsets) -> Iterator[tuple[Offsets, Block]]:
    """Neighbouring texts in blocks of about the same size."""
    count = max(round(int(bounds[-1] - bounds[0]) / _BLOCK_BYTES), 1)
    cuts = np.searchsorted(bounds, np.linspace(bounds[0], bounds[-1], count + 1)[1:-1]).tolist()
    for first, last in itertools.pairwise(dict.fromkeys([0, *cuts, len(rows)])):
        part = bounds[first : last + 1]
        base = int(part[0]) // ALIGNED_BYTES * ALIGNED_BYTES
        yield rows[first:last], Block(data[base : part[-1] + PADDING], part - base)


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
