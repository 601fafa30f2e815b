"""Small records of projections on disk: XXH3-64 of the rest (8 bytes, little-endian), then a msgpack map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from evtool.log.format import checksum

_CHECKSUM_BYTES = 8


def encode(values: Mapping[str, Any]) -> bytes:
    """A record of some values."""
    body: bytes = msgpack.packb(values)
    return checksum(body).to_bytes(_CHECKSUM_BYTES, "little") + body


def decode(data: bytes) -> dict[str, Any] | None:
    """The values of a record; None when it is not as it was written."""
    body = data[_CHECKSUM_BYTES:]
    if data[:_CHECKSUM_BYTES] != checksum(body).to_bytes(_CHECKSUM_BYTES, "little"):
        return None
    values: dict[str, Any] = msgpack.unpackb(body, strict_map_key=False)
    return values
