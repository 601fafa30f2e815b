"""(source_id, event_id) -> 64 bits, by the column: what the index of ids knows an event by.

The hashes are kept on disk, so they are the same for ever; nothing of Arrow or Polars decides them. A state
of 64 bits begins with the hash of the source and takes in the id 8 bytes at a time, little-endian,
zeros behind its end: state = mix(state ^ word). For an id that is a canonical UUID these are its 16 bytes;
for any other text its UTF-8, whose length is added to the first state. `mix` is the finaliser of
SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014, section 3, with
the constants of Stafford's variant 13): it permutes the 64-bit numbers, and each bit of its result
depends on each bit of its argument.

A source is hashed with a seed from the log's id, which is random. So who sends events cannot choose ids that
all have one hash, as he could with a known function (Crosby and Wallach, Denial of Service via Algorithmic
Complexity Attacks, 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash

from evtool import uuids

Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
Codes: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"

_U64 = np.uint64
_MULTIPLIERS = _U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB)
_SHIFTS = _U64(30), _U64(27), _U64(31)
_LENGTH_FACTOR = _U64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_WORD_BYTES, _WORD_MAX = 8, (1 << 64) - 1
_WORD_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(_WORD_BYTES + 1)], np.uint64)
_PART_ROWS = 1 << 14  # what is worked on at once stays in the processor's cache
_OFFSET_TYPES = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}


def source_seeds(log_id: bytes, names: Sequence[str]) -> Hashes:
    """The state that the ids of each source begin with, in a log with this id (16 bytes)."""
    return np.array([source_seed(log_id, name) for name in names], np.uint64)


def source_seed(log_id: bytes, name: str) -> int:
    """The same for one source."""
    return xxhash.xxh3_64_intdigest(name.encode(), int.from_bytes(log_id[:8], "little"))


def hash_ids(
    codes: Codes,
    seeds: Hashes,
    uuid_bytes: uuids.Bytes | None = None,
    texts: pa.Array | None = None,
    is_uuid: uuids.Mask | None = None,
) -> Hashes:
    """The hash of each row's id.

    `codes` (n) are the sources as rows of `seeds`. The ids are `uuid_bytes` (n x 16), or `texts` (n strings or
    binaries, small or large), or with both given the one that `is_uuid` says. A text that is a canonical
    UUID must come as its bytes (`uuids.pack` tells which are).
    """
    states = seeds[codes]
    if texts is None:
        assert uuid_bytes is not None
        return _hash_uuids(states, uuid_bytes)
    if uuid_bytes is None or is_uuid is None or not is_uuid.any():
        return _hash_texts(states, texts)
    hashes = np.empty_like(states)
    hashes[is_uuid] = _hash_uuids(states[is_uuid], uuid_bytes[is_uuid])
    hashes[~is_uuid] = _hash_texts(states[~is_uuid], texts.filter(pa.array(~is_uuid)))
    return hashes


def hash_id(event_id: str, seeds: Hashes) -> Hashes:
    """The hashes that an id has in each of some sources."""
    packed, is_uuid = uuids.pack(pa.array([event_id]))
    sources = np.arange(len(seeds))
    if is_uuid[0]:
        return hash_ids(sources, seeds, np.broadcast_to(packed, (len(seeds), 16)))
    return hash_ids(sources, seeds, texts=pa.array([event_id] * len(seeds), pa.large_string()))


def hash_one(event_id: str, seed: int) -> int:
    """The same for one id, without columns."""
    data, state = uuids.pack_one(event_id), seed
    if data is None:
        data = event_id.encode()
        state = (seed + len(data) * int(_LENGTH_FACTOR)) & _WORD_MAX
    for at in range(0, max(len(data), 1), _WORD_BYTES):
        state = _mix_one(state ^ int.from_bytes(data[at : at + _WORD_BYTES], "little"))
    return state


def _mix_one(state: int) -> int:
    state ^= state >> 30
    state = state * 0xBF58476D1CE4E5B9 & _WORD_MAX
    state ^= state >> 27
    state = state * 0x94D049BB133111EB & _WORD_MAX
    return state ^ state >> 31


def _hash_uuids(states: Hashes, uuid_bytes: uuids.Bytes) -> Hashes:
    words = np.ascontiguousarray(uuid_bytes).view("<u8")
    hashes = np.empty_like(states)
    for start in range(0, len(states), _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        state = states[part] ^ words[part, 0]
        _mix(state)
        state ^= words[part, 1]
        _mix(state)
        hashes[part] = state
    return hashes


def _hash_texts(states: Hashes, texts: pa.Array) -> Hashes:
    hashes = np.empty_like(states)
    if not len(texts):
        return hashes
    kind = np.dtype(_OFFSET_TYPES[texts.type])
    offsets = np.frombuffer(texts.buffers()[1], kind, len(texts) + 1, texts.offset * kind.itemsize)
    first, end = int(offsets[0]), int(offsets[-1])
    data = np.zeros(end - first + _WORD_BYTES, np.uint8)  # a word may be read from anywhere, the end too
    if end > first:
        data[:-_WORD_BYTES] = np.frombuffer(texts.buffers()[2], np.uint8, end - first, first)
    words = np.ndarray(
        (len(data) - _WORD_BYTES + 1,), "V8", data, strides=(1,)
    )  # every 8 bytes, from every offset
    for start in range(0, len(texts), _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        at = offsets[start : start + _PART_ROWS + 1].astype(np.int64) - first
        hashes[part] = _hash_spans(states[part], words, at[:-1], at[1:] - at[:-1])
    return hashes


def _hash_spans(states: Hashes, words: np.ndarray[Any, Any], at: Codes, left: Codes) -> Hashes:
    """Each round takes in a word of every text that is not yet at its end; `left` are the bytes to come."""
    hashes = np.empty_like(states)
    rows = np.arange(len(states))
    state = states + left.astype(np.uint64) * _LENGTH_FACTOR
    while True:
        word = words[at].view("<u8")
        word &= _WORD_MASKS[np.minimum(left, _WORD_BYTES)]
        state ^= word
        _mix(state)
        goes_on = left > _WORD_BYTES
        if not goes_on.all():
            hashes[rows[~goes_on]] = state[~goes_on]
            rows, state, at, left = rows[goes_on], state[goes_on], at[goes_on], left[goes_on]
            if not len(rows):
                return hashes
        at, left = at + _WORD_BYTES, left - _WORD_BYTES


def _mix(state: Hashes) -> None:
    state ^= state >> _SHIFTS[0]
    state *= _MULTIPLIERS[0]
    state ^= state >> _SHIFTS[1]
    state *= _MULTIPLIERS[1]
    state ^= state >> _SHIFTS[2]
