"""The columns of events on their way into the log, which are Arrow batches.

A null `timestamp` means "when it is recorded", and a null `stream_version` "the next one of its stream".
"""

from __future__ import annotations

import pyarrow as pa

BATCH_SCHEMA = pa.schema(
    [
        ("event_uuid", pa.binary(16)),  # an id that is a canonical UUID: as its bytes here, and null there
        ("event_id", pa.string()),
        ("source_id", pa.string()),
        ("stream_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.int64()),
        ("stream_version", pa.int64()),
        ("schema_version", pa.int32()),
        ("payload", pa.string()),
        ("metadata", pa.string()),
    ]
)
