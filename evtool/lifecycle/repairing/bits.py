"""A single bit that has turned over, found by the checksum of what there was before.

Disks, memory and cables turn over single bits. Where a checksum vouches for a small piece, each bit of it is
tried: that a wrong one fits a checksum of 64 bits has a probability of bits / 2^64.
"""

from __future__ import annotations

from collections.abc import Callable

BYTES_MAX = 1 << 19  # four million hashes of so many bytes take twenty seconds


def turned_back(data: bytes | memoryview, is_right: Callable[[bytearray], bool]) -> bytes | None:
    """The piece with the one bit turned back that makes it right; None if there is none, or it is too large."""
    if len(data) > BYTES_MAX:
        return None
    tried = bytearray(data)
    if is_right(tried):
        return bytes(tried)
    for byte in range(len(tried)):
        for bit in (1, 2, 4, 8, 16, 32, 64, 128):
            tried[byte] ^= bit
            if is_right(tried):
                return bytes(tried)
            tried[byte] ^= bit
    return None
