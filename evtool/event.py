"""The envelope: the fields of an event, their limits, and their columns.

To a reader events are Polars frames of `STORED_SCHEMA`: one row an event, the payload and metadata as the
exact text that was sent. On their way into the log they are Arrow batches, of `batch.BATCH_SCHEMA`.
"""

from __future__ import annotations

import polars as pl

EVENT_ID_BYTES_MAX = 256
STREAM_ID_BYTES_MAX = 1024
SOURCE_ID_BYTES_MAX = 1024
EVENT_TYPE_BYTES_MAX = 1024
LINE_BYTES_MAX = 16 * 1024 * 1024
NESTING_MAX = 128

INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

EVENT_SCHEMA: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "source_id": pl.String(),
    "stream_id": pl.String(),
    "event_type": pl.String(),
    "timestamp": pl.Int64(),  # ns since 1970-01-01 UTC
    "stream_version": pl.Int64(),
    "schema_version": pl.Int32(),
    "payload": pl.String(),  # the bytes of a JSON object
    "metadata": pl.String(),  # likewise; null when the event has none
}

# What the log adds; `replay` writes these two first.
POSITION_SCHEMA: dict[str, pl.DataType] = {"position": pl.Int64(), "recorded_at": pl.Int64()}

STORED_SCHEMA: dict[str, pl.DataType] = POSITION_SCHEMA | EVENT_SCHEMA

TEXT_BYTES_MAX = {
    "event_id": EVENT_ID_BYTES_MAX,
    "source_id": SOURCE_ID_BYTES_MAX,
    "stream_id": STREAM_ID_BYTES_MAX,
    "event_type": EVENT_TYPE_BYTES_MAX,
}


def empty_frame() -> pl.DataFrame:
    """Zero stored events."""
    return pl.DataFrame(schema=STORED_SCHEMA)
