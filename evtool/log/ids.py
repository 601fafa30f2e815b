"""The index of ids, on disk: 56 bits of the hash of (source_id, event_id) -> positions of committed events.

It tells which events of the log may have an id. A match is never proof, as two ids may share these bits: who
asks looks into the log. No match, up to `applied`, is proof that there is no such event.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, section 6.4, algorithm L), in two
columns. `low` is the position in its lower 40 bits, and 24 bits of the hash above them; 0 is an empty slot.
`high` is the upper 32 bits of the hash. The slot that a hash wants is high * capacity / 2^32 (Lemire, Fast
Random Integer Generation in an Interval, 2019). It rises with the hash, so a capacity may be any number and
growing is a pass through the old table in its order. Of the slots 0.46 to 0.7 are in use: that is 17 to 26
bytes on disk an event, a small table aside.

Why a crash does no harm. A slot in use is never changed, and none becomes empty again. So whatever is reached
from the slot that it wants without meeting an empty one stays so; once this is on stable storage (`synced`),
no power cut breaks it, whichever later pages are kept. Of what was stored later any part may be kept. A slot
that lost its `high` is a false match at worst; one that is not reached any more is not found. Their events are
applied again, as all behind `synced` are, which changes nothing where they are found. A pair that is there
twice by this is given once. Only committed events are added, and the caller resets an index that `reaches`
further than the log.

For the same reason another process may read while this one writes. Up to the `applied` that it saw before it
asked everything is found; of later events a match may be missing or false. When the table has grown into
another file, it goes on with the one it has, and with the `applied` of that one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from evtool.errors import LogDamagedError, LogError
from evtool.files import Files, forget_all
from evtool.log.hashing import Hashes
from evtool.log.table import Column, Mapped, MappedTable, Mask, Rows

Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

POSITION_MAX = (1 << 40) - 1
_POSITION_MASK = np.uint64(POSITION_MAX)
_HIGH_SHIFT = np.uint64(32)
_UNKEPT_BITS = np.uint64(0xFF)  # of a hash, the lowest
_WINDOW_MAX = 32
_STEPS = np.arange(_WINDOW_MAX)[:, None]
_GROW_SLOTS = 1 << 14


class EventIds(MappedTable):
    """Hash of an id -> positions of the committed events that may have it."""

    file_name = "ids.table"
    magic = b"EVIDS001"
    column_types = (np.dtype("<u8"), np.dtype("<u4"))
    load_max = 0.7
    growth = 1.5

    def __init__(self, files: Files, folder: Path, log_id: bytes, mapped: Mapped | None = None) -> None:
        self._mutex = threading.Lock()
        super().__init__(files, folder, log_id, mapped)

    def add(self, hashes: Hashes, positions: Positions) -> None:
        """Store committed events; one that is there already changes nothing. `mark_applied` comes after all.

        Raises LogError for a position that has more than 40 bits, StorageError when the disk is full; then
        none or only the first of them were stored, which does no harm.
        """
        if not len(hashes):
            return
        if int(positions.max()) > POSITION_MAX:
            raise _too_far()
        assert int(positions.min()) > 0
        for part in self._parts(hashes):
            with self._mutex:
                self._add(hashes[part], positions[part])
                self._used(len(part))

    def may_hold(self, values: Sequence[int]) -> bool:
        """Whether an event may have an id with one of a few hashes, without columns."""
        with self._mutex:
            low, high = self._mapped.columns
            self._used(len(values))
            return any(_has_match(low, high, _low(value, 0), value >> 32) for value in values)

    def add_few(self, hashes: Sequence[int], first_position: int) -> None:
        """The same as `add` for a few events at consecutive positions, without columns."""
        if first_position + len(hashes) - 1 > POSITION_MAX:
            raise _too_far()
        with self._mutex:
            self._make_room(len(hashes))
            header, (low, high) = self._mapped.header, self._mapped.columns
            header["count"] += len(hashes)
            stored = 0
            for position, value in enumerate(hashes, first_position):
                stored += _insert_one(low, high, _low(value, position), value >> 32)
            header["count"] -= len(hashes) - stored
            self._used(len(hashes))

    def candidates(self, hashes: Hashes) -> tuple[Rows, Positions]:
        """All (row, position) where the event at the position may have the id of the row, in this order."""
        rows, positions = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part in self._parts(hashes):
            with self._mutex:
                found = list(_matches(self._mapped, hashes[part]))
                self._used(len(part))
            rows += [part[at] for at, _ in found]
            positions += [held for _, held in found]
        return _in_order(np.concatenate(rows), np.concatenate(positions))

    def pairs(self) -> Iterator[tuple[Hashes, Positions]]:
        """Everything that is found, in blocks: 56 bits of each hash above 8 zeros, and the position."""
        for low, high in self.kept():
            hashes = (high.astype(np.uint64) << _HIGH_SHIFT) | (low >> _HIGH_SHIFT & ~_UNKEPT_BITS)
            yield hashes, (low & _POSITION_MASK).astype(np.int64)

    def make_room(self, more: int) -> None:
        """Grow once for so many events to come, rather than step by step. Raises StorageError."""
        with self._mutex:
            self._make_room(more)

    def reset(self) -> None:
        """Forget everything, to be built from the log anew."""
        with self._mutex:
            super().reset()

    def close(self) -> None:
        """Sync (what was opened to be written) and unmap."""
        with self._mutex:
            if isinstance(self._mapped.memory, memoryview):
                del self._mapped
            else:
                super().close()

    def _add(self, hashes: Hashes, positions: Positions) -> None:
        self._make_room(len(hashes))
        header = self._mapped.header
        header["count"] += len(hashes)  # before, so that whoever ends this process leaves no count that is too low
        low = (hashes << _HIGH_SHIFT) & ~_POSITION_MASK | positions.astype(np.uint64)
        high = (hashes >> _HIGH_SHIFT).astype(np.uint32)
        header["count"] -= len(hashes) - _insert(self._mapped, low, high)

    @staticmethod
    def _is_used(*columns: Column) -> Mask:
        used: Mask = (columns[0] & _POSITION_MASK) != 0
        return used

    @staticmethod
    def _wanted(capacity: int, *columns: Column) -> Column:
        return _home(columns[1], capacity)

    def _count_used(self, mapped: Mapped) -> int:
        low = mapped.columns[0]
        parts = (low[start : start + _GROW_SLOTS] for start in range(0, len(low), _GROW_SLOTS))
        return sum(int(np.count_nonzero(part & _POSITION_MASK)) for part in parts)

    def _refill(self, old: Mapped, new: Mapped) -> int:
        count = 0
        for block in _blocks(old):
            count += _move(block, old.capacity, new)
            forget_all(old.memory)  # it goes through both in their order, so what lies behind it is done with
            forget_all(new.memory)
        return count


def _home(high: Column, capacity: int) -> Column:
    """The slot that each hash wants first. It rises with `high`, and for any two capacities in proportion."""
    factor, shift = _scale(capacity)
    return (high.astype(np.uint64) * np.uint64(factor) >> np.uint64(shift)).astype(np.int64)


def _scale(capacity: int) -> tuple[int, int]:
    """(factor, shift), so that high * factor >> shift is about high * capacity >> 32, and has 64 bits."""
    spare_bits = max(0, (capacity - 1).bit_length() - 32)  # the lowest bits of a larger capacity are left out
    return capacity >> spare_bits, 32 - spare_bits


def _matches(mapped: Mapped, hashes: Hashes) -> Iterator[tuple[Rows, Positions]]:
    """Rows and positions whose 56 bits agree, round by round: each looks at a window of slots of every row.

    The window of the rows that have not met an empty slot yet doubles, so that few rounds do for the last ones.
    """
    low, high = mapped.columns
    rows, width, seen = np.arange(len(hashes)), 1, 0
    wanted = (hashes << _HIGH_SHIFT) & ~_POSITION_MASK
    at = _home(hashes >> _HIGH_SHIFT, mapped.capacity)
    while len(rows) and seen < mapped.capacity:  # a table without an empty slot is damaged
        window = low.take(at + _STEPS[:width], mode="wrap")
        in_use = (window & _POSITION_MASK) != 0
        step, column = np.nonzero(((window ^ wanted) <= _POSITION_MASK) & in_use)
        if len(step):
            slots, found = (at[column] + step) % mapped.capacity, rows[column]
            good = high[slots] == (hashes[found] >> _HIGH_SHIFT)
            yield found[good], (window[step, column][good] & _POSITION_MASK).astype(np.int64)
        goes_on = np.flatnonzero(in_use.all(axis=0))
        rows, wanted, at = rows[goes_on], wanted[goes_on], at[goes_on] + width
        seen += width
        width = min(2 * width, _WINDOW_MAX)


def _in_order(rows: Rows, positions: Positions) -> tuple[Rows, Positions]:
    """Sorted by row and position, each pair once."""
    order = np.lexsort((positions, rows))
    rows, positions = rows[order], positions[order]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (rows[1:] != rows[:-1]) | (positions[1:] != positions[:-1])
    return rows[is_first], positions[is_first]


def _insert(mapped: Mapped, low_values: Column, high_values: Column) -> int:
    """Store each where its first empty slot is, unless it stands before; how many were stored."""
    low, high = mapped.columns
    capacity = mapped.capacity
    rows, width, count, seen = np.arange(len(low_values)), 1, 0, 0
    at = _home(high_values, capacity)
    while len(rows):
        if seen > capacity:  # without meeting an empty slot
            raise _damaged()
        window = low.take(at + _STEPS[:width], mode="wrap")
        is_before = (window & _POSITION_MASK) != 0
        if width > 1:  # and none before it is empty
            np.logical_and.accumulate(is_before, axis=0, out=is_before)
        steps = is_before.sum(axis=0)
        step, column = np.nonzero((window == low_values[rows]) & is_before)
        same = high[(at[column] + step) % capacity] == high_values[rows[column]]
        goes_on = np.ones(len(rows), bool)
        goes_on[column[same]] = False
        claims = np.flatnonzero(goes_on & (steps < width))
        slots, claimants = (at[claims] + steps[claims]) % capacity, rows[claims]
        # Of several rows that want one slot one gets it. `high` means nothing as long as `low` is 0, so it can
        # say which; and with `low` stored last, no reader meets a slot that is half of two events.
        high[slots] = claimants
        won = np.flatnonzero(high[slots] == claimants)
        slots, winners = slots[won], claimants[won]
        high[slots] = high_values[winners]
        low[slots] = low_values[winners]
        count += len(won)
        goes_on[claims[won]] = False
        left = np.flatnonzero(goes_on)
        rows, at = rows[left], at[left] + steps[left]  # whoever lost a slot looks at it again
        seen = 0 if len(won) else seen + width
        width = min(2 * width, _WINDOW_MAX)
    return count


def _low(value: int, position: int) -> int:
    """What a slot's `low` is for a hash."""
    return (value << 32) & (2**64 - 1 ^ POSITION_MAX) | position


def _first_slot(high_value: int, capacity: int) -> int:
    """The slot that a hash wants first, as `_home` says."""
    factor, shift = _scale(capacity)
    return high_value * factor >> shift


def _has_match(low: Column, high: Column, low_value: int, high_value: int) -> bool:
    """Whether there is an event whose 56 bits agree with one hash."""
    capacity = len(low)
    at = _first_slot(high_value, capacity)
    for _ in range(capacity):  # a table without an empty slot is damaged
        held = low.item(at)
        if not held & POSITION_MAX:
            return False
        if held ^ low_value <= POSITION_MAX and high.item(at) == high_value:
            return True
        at = at + 1 if at + 1 < capacity else 0
    return False


def _insert_one(low: Column, high: Column, low_value: int, high_value: int) -> bool:
    """Store one event where its first empty slot is; False if it stands before that."""
    capacity = len(low)
    at = _first_slot(high_value, capacity)
    for _ in range(capacity):
        held = low.item(at)
        if not held & POSITION_MAX:
            high[at] = high_value  # `low` last: see `_insert`
            low[at] = low_value
            return True
        if held == low_value and high.item(at) == high_value:
            return False
        at = at + 1 if at + 1 < capacity else 0
    raise _damaged()


def _blocks(mapped: Mapped) -> Iterator[tuple[int, Column, Column]]:
    """All slots, once around, in blocks: where it begins, `low` and `high`.

    A block begins behind an empty slot and ends with one, so it holds whole clusters. The first one begins
    behind the first empty slot; from there slots are counted on beyond the end of the table.
    """
    low, high = mapped.columns
    begin = _first_empty(low) + 1
    start, held_low, held_high = begin, low[:0], high[:0]
    for first, last in ((begin, mapped.capacity), (0, begin)):
        for at in range(first, last, _GROW_SLOTS):
            part = slice(at, min(at + _GROW_SLOTS, last))
            held_low, held_high = np.concatenate([held_low, low[part]]), np.concatenate([held_high, high[part]])
            empty = np.flatnonzero((held_low & _POSITION_MASK) == 0)
            end = int(empty[-1]) + 1 if len(empty) else 0
            yield start, held_low[:end], held_high[:end]
            start, held_low, held_high = start + end, held_low[end:], held_high[end:]


def _first_empty(low: Column) -> int:
    for start in range(0, len(low), _GROW_SLOTS):
        empty = np.flatnonzero((low[start : start + _GROW_SLOTS] & _POSITION_MASK) == 0)
        if len(empty):
            return start + int(empty[0])
    raise _damaged()


def _move(block: tuple[int, Column, Column], old_capacity: int, new: Mapped) -> int:
    """Store what can be reached in a block of another table in a larger one; how much that is.

    In the order of the slots that they want, each gets that one or the one behind the last that was given.
    So no slot is given twice, and blocks need not know of each other. For let e be an empty slot of the old
    table: of the hashes that want a slot from a to e, whatever a is, there are at most e - a. In the new table
    a and e are further apart, so what stood before e stays below what those behind e want.
    """
    start, low, high = block
    in_use = (low & _POSITION_MASK) != 0
    at = np.flatnonzero(in_use)
    numbers = np.arange(len(at))
    behind_empty = np.append(0, np.flatnonzero(~in_use) + 1)
    cluster = behind_empty[at - numbers]  # where the cluster of each begins
    home = _home(high[at], old_capacity) - start
    laps = home < 0  # it wanted a slot beyond the end, from where slots are counted on
    home[laps] += old_capacity
    reached = np.flatnonzero((home >= cluster) & (home <= at))
    at, numbers = at[reached], numbers[: len(reached)]
    if not len(at):
        return 0
    wish = _home(high[at], new.capacity) + laps[reached] * new.capacity
    order = np.argsort((wish - wish.min()).astype(np.uint32), kind="stable")
    slots = np.maximum.accumulate(wish[order] - numbers) + numbers
    slots[slots >= new.capacity] -= new.capacity
    at = at[order]
    new_low, new_high = new.columns
    new_high[slots], new_low[slots] = high[at], low[at]
    return len(at)


def _too_far() -> LogError:
    return LogError(f"the index of ids ends at position {POSITION_MAX:,}", "Begin another log for what follows.")


def _damaged() -> LogDamagedError:
    return LogDamagedError("index/ids.table has no empty slot", "Delete this file: it is made anew from the log.")
