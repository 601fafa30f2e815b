"""The logical digest: a number that depends on the events of a log and their order alone.

Neither batches, frames, segments, partitions, codecs nor the times of recording change it, so two logs
with the same events in the same order have the same digest, however they came to be stored.

It is XXH3-128 over, for each column of EVENT_SCHEMA in order, two digests of the same kind: of the
values one behind the other (numbers as 8 little-endian bytes, texts as UTF-8), and of the lengths of the
texts (8 bytes each, -1 for null; nothing for a number).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from evtool.event import EVENT_SCHEMA
from evtool.log.frame import event_ids

Columns: TypeAlias = "dict[str, tuple[memoryview, memoryview | None]]"


class LogicalDigest:
    """Takes events in order of position, in frames cut anywhere."""

    def __init__(self) -> None:
        self._values = {name: xxhash.xxh3_128() for name in EVENT_SCHEMA}
        self._lengths = {name: xxhash.xxh3_128() for name in EVENT_SCHEMA}

    def add(self, columns: Columns) -> None:
        """Take the next events, as `columns_of` gives them."""
        for name, (values, lengths) in columns.items():
            self._values[name].update(values)
            if lengths is not None:
                self._lengths[name].update(lengths)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        whole = xxhash.xxh3_128()
        for name in EVENT_SCHEMA:
            whole.update(self._values[name].digest())
            whole.update(self._lengths[name].digest())
        return whole.hexdigest()


def columns_of(events: pa.RecordBatch) -> Columns:
    """What is hashed of some events, given in order of position: values, and lengths of texts.

    The events have columns of PLACED_SCHEMA. The views hold the memory of the events.
    """
    found: dict[str, tuple[memoryview, memoryview | None]] = {}
    for name, dtype in EVENT_SCHEMA.items():
        if dtype != pl.String:
            numbers = events[name].to_numpy().astype("<i8", copy=False)
            found[name] = (np.ascontiguousarray(numbers).data, None)
            continue
        texts = event_ids(events) if name == "event_id" else events[name]
        kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
        offsets = np.frombuffer(texts.buffers()[1], kind)[texts.offset : texts.offset + len(texts) + 1]
        lengths: np.ndarray[Any, Any] = np.diff(offsets).astype("<i8")
        if texts.null_count:  # a null has no bytes
            lengths[~texts.is_valid().to_numpy(zero_copy_only=False)] = -1
        data = texts.buffers()[2]
        values = memoryview(b"") if data is None else memoryview(data)[int(offsets[0]) : int(offsets[-1])]
        found[name] = (values, lengths.data)
    return found
