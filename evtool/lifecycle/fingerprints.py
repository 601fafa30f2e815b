"""What the tables of the index must hold by the events of a log, as sums: bounded memory, and no look-up.

Of ids.table it is a sum over the pairs of hash and position, for each range of RANGE_EVENTS positions. Of
streams.table there are two, for each of 4,096 parts of the streams by their keys: an event adds the key of its
stream to one, and the key times its version to the other. As versions are 1, 2, 3 …, a slot with the version v
must have added key * v and key * v * (v + 1) / 2. All of it is modulo 2^64, and keys and hashes are made odd: so
no change of a single slot leaves a sum as it is, and several changes do by a chance of 2^-64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from evtool.log.hashing import Hashes
from evtool.log.ids import Positions
from evtool.log.versions import Keys, Versions

RANGE_EVENTS = 4_096
PARTS = 4_096

_PART_SHIFT = np.uint64(64 - 12)
_ODD = np.uint64(1)
_KEPT_BITS = np.uint64(0xFFFF_FFFF_FFFF_FF00)  # of a hash
_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 / golden ratio

Sums: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def id_prints(hashes: Hashes, positions: Positions) -> Sums:
    """What each pair adds."""
    prints: Sums = positions.astype(np.uint64)
    prints *= _FACTOR
    prints |= _ODD
    prints *= hashes & _KEPT_BITS | _ODD
    return prints


def ranges_of(positions: Positions) -> Numbers:
    """The range that each position is in, counted from 0."""
    return (positions - 1) // RANGE_EVENTS


@dataclass(frozen=True)
class IdSums:
    """The sums of consecutive ranges from `first` on, of which the outer ones may be of a part only."""

    first: int
    sums: Sums

    @staticmethod
    def of(hashes: Hashes, positions: Positions) -> IdSums:
        """Of some events, whose positions rise."""
        if not len(positions):
            return IdSums(0, np.zeros(0, np.uint64))
        ranges = ranges_of(positions)
        starts = np.flatnonzero(np.diff(ranges, prepend=-1))
        sums: Sums = np.zeros(int(ranges[-1] - ranges[0]) + 1, np.uint64)
        sums[ranges[starts] - ranges[0]] = np.add.reduceat(id_prints(hashes, positions), starts)
        return IdSums(int(ranges[0]), sums)


def stream_prints(keys: Keys) -> Sums:
    """The key of each stream, in 64 bits, odd."""
    return keys[:, 0] * _FACTOR + keys[:, 1] | _ODD


def parts_of(keys: Keys) -> Numbers:
    """The part that each stream is in."""
    return (keys[:, 0] >> _PART_SHIFT).astype(np.int64)


class StreamSums:
    """Both sums of each part."""

    def __init__(self) -> None:
        self.sums: Sums = np.zeros((2, PARTS), np.uint64)

    def add_events(self, keys: Keys, counts: Numbers, versions: Numbers) -> None:
        """Add events of some different streams: how many there are of each, and the sum of their versions."""
        self._add(keys, counts.astype(np.uint64), versions.astype(np.uint64))

    def add_slots(self, keys: Keys, versions: Versions) -> None:
        """Add what the table holds."""
        last = versions.astype(np.uint64)
        # Of the last version and the one behind it one is even, and is halved before they are multiplied.
        even, odd = np.where(last & _ODD, last + _ODD, last), np.where(last & _ODD, last, last + _ODD)
        self._add(keys, last, (even >> _ODD) * odd)

    def add(self, other: StreamSums) -> None:
        """Add what others have added up."""
        self.sums += other.sums

    def differing(self, other: StreamSums) -> Numbers:
        """The parts that are not the same."""
        return np.flatnonzero((self.sums != other.sums).any(axis=0))

    def _add(self, keys: Keys, once: Sums, by_version: Sums) -> None:
        parts, prints = parts_of(keys), stream_prints(keys)
        np.add.at(self.sums[0], parts, prints * once)
        np.add.at(self.sums[1], parts, prints * by_version)
