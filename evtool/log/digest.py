"""The logical digest: a number that depends on the events of a log and their order alone.

Neither batches, frames, segments, partitions, codecs nor the times of recording change it, so two logs
with the same events in the same order have the same digest, however they came to be stored.

It is XXH3-128 over, for each column of EVENT_SCHEMA in order, two digests of the same kind: of the
values one behind the other (numbers as 8 little-endian bytes, texts as UTF-8), and of the lengths of the
texts (8 bytes each, -1 for null; nothing for a number).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import xxhash

from evtool.event import EVENT_SCHEMA


class LogicalDigest:
    """Takes events in order of position, in frames cut anywhere."""

    def __init__(self) -> None:
        self._values = {name: xxhash.xxh3_128() for name in EVENT_SCHEMA}
        self._lengths = {name: xxhash.xxh3_128() for name in EVENT_SCHEMA}

    def update(self, events: pl.DataFrame) -> None:
        """Take the next events: a frame with the columns of EVENT_SCHEMA."""
        for name, dtype in EVENT_SCHEMA.items():
            column = events[name]
            if dtype != pl.String:
                self._values[name].update(np.ascontiguousarray(column.to_numpy().astype("<i8")).data)
                continue
            lengths = column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()
            texts = column.to_arrow(compat_level=pl.CompatLevel.oldest())
            offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
            data = texts.buffers()[2]
            if data is not None and len(texts):
                self._values[name].update(memoryview(data)[offsets[0] : offsets[-1]])
            self._lengths[name].update(np.ascontiguousarray(lengths, "<i8").data)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        whole = xxhash.xxh3_128()
        for name in EVENT_SCHEMA:
            whole.update(self._values[name].digest())
            whole.update(self._lengths[name].digest())
        return whole.hexdigest()
