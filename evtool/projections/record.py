"""Small records on disk: XXH3-64 of the rest (8 bytes, little-endian), then a msgpack map.

Where people read them they are JSON, whose member `checksum` tells of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack

from evtool.log.format import checksum

CHECKSUM = "checksum"

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


def checksum_of(values: Mapping[str, Any]) -> str:
    """XXH3-64 of values as JSON in ASCII with sorted keys, as 16 hexadecimal digits."""
    read_back = json.loads(json.dumps(values, default=str))  # where all keys are texts
    return f"{checksum(json.dumps(read_back, sort_keys=True).encode()):016x}"
