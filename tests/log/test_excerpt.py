"""Excerpts of Parquet files: Polars reads from them what Arrow reads from the file itself."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.log.excerpt import columns_of, excerpt

texts = st.text(max_size=8) | st.sampled_from(["", "é 漢字 😀", "\x00", "same", "same"])
names = st.sampled_from(["a", "é 漢字", "[1]", ""])
KINDS = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.string(): texts,
    pa.binary(16): st.binary(min_size=16, max_size=16),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A table of up to 20 columns, as footers have two ways to write how many there are."""
    kinds = draw(st.lists(st.tuples(st.sampled_from([*KINDS]), st.booleans()), min_size=1, max_size=20))
    count = draw(st.integers(1, 40))
    arrays, fields = [], []
    for number, (kind, optional) in enumerate(kinds):
        value = st.none() | KINDS[kind] if optional else KINDS[kind]
        arrays.append(pa.array(draw(st.lists(value, min_size=count, max_size=count)), kind))
        fields.append(pa.field(f"payload.{draw(names)}.{number}", kind, nullable=optional))
    return pa.table(arrays, schema=pa.schema(fields))


@given(data=st.data())
@settings(max_examples=30)
def test_any_columns_of_any_row_groups(data: st.DataObject):
    table = data.draw(tables())
    sink = pa.BufferOutputStream()
    size, dictionaries = data.draw(st.integers(1, len(table))), data.draw(st.booleans())
    pq.write_table(table, sink, row_group_size=size, compression="zstd", use_dictionary=dictionaries)
    file = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    metadata, whole = file.metadata, memoryview(sink.getvalue())
    groups = data.draw(st.lists(st.integers(0, metadata.num_row_groups - 1), min_size=1, max_size=20))
    numbers = sorted(data.draw(st.sets(st.integers(0, table.num_columns - 1), min_size=1)))

    def chunk(group: int, column: int) -> memoryview:
        found = metadata.row_group(group).column(column)
        start = found.dictionary_page_offset or found.data_page_offset
        return whole[start : start + found.total_compressed_size]

    known = columns_of(metadata)
    made = excerpt(
        [known[table.column_names[number]] for number in numbers],
        np.array([metadata.row_group(group).num_rows for group in groups]),
        [[chunk(group, number) for number in numbers] for group in groups],
    )
    expected = pl.DataFrame(pl.from_arrow(file.read_row_groups(groups).select(numbers)))
    assert pl.read_parquet(made).equals(expected)
