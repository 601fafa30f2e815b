"""Ids of events that come without one, made of their bytes: the same line has the same id for ever.

XXH3-128 of the line, without its line break and the white space around it, is written as a UUID of version 8
(RFC 9562, section 5.8), of which 122 bits are the hash's. Two equal lines are one event. Ids are kept on
disk, so neither the hash nor what it is taken of may change.
"""

from __future__ import annotations

import uuid

import numpy as np
import xxhash

from evtool.ingest.lines import Offsets
from evtool.uuids import Bytes

_SPACE = b" \t\r\n"  # JSON's
_VERSION_BYTE, _VARIANT_BYTE = 6, 8


def ids(data: bytes, starts: Offsets, ends: Offsets) -> Bytes:
    """The ids (n x 16 bytes) of n texts in `data`, which have no white space around them."""
    digest = xxhash.xxh3_128_digest
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    digests = b"".join([digest(data[start:end]) for start, end in spans])
    binary = np.frombuffer(digests, np.uint8).reshape(-1, 16).copy()
    binary[:, _VERSION_BYTE] = binary[:, _VERSION_BYTE] & 0x0F | 0x80
    binary[:, _VARIANT_BYTE] = binary[:, _VARIANT_BYTE] & 0x3F | 0x80
    return binary


def id_of(line: bytes) -> str:
    """The id of one line."""
    text = line.strip(_SPACE)
    return str(uuid.UUID(bytes=ids(text, np.array([0]), np.array([len(text)])).tobytes()))
