"""The partition of a stream: XXH3-64 of its UTF-8 bytes, modulo the number of partitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash


def partition_of(stream_id: str, partitions: int) -> int:
    """The partition that holds a stream's events."""
    return xxhash.xxh3_64_intdigest(stream_id.encode()) % partitions


def partitions_of(stream_ids: Sequence[bytes], partitions: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The same for many (different) streams, given as UTF-8."""
    digest = xxhash.xxh3_64_intdigest
    hashes = np.fromiter((digest(stream) for stream in stream_ids), np.uint64, len(stream_ids))
    return (hashes % np.uint64(partitions)).astype(np.uint16)
