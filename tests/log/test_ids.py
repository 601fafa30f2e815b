"""The index of ids against a dict of lists, over growth, crashes and readers."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from faults import FaultyFiles, boot_again
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evtool.errors import LogDamagedError, LogError
from evtool.files import Files
from evtool.log import ids as ids_module
from evtool.log.ids import POSITION_MAX, EventIds
from evtool.log.table import HEADER_BYTES

LOG_ID = bytes(range(16))
BLOCK_BYTES = 64  # what a power cut keeps or loses as a whole: less than any disk does

Pairs = list[tuple[int, int]]


def hash_of(high: int, tag: int, rest: int = 0) -> int:
    """A hash by the 32 bits that say where it belongs, the 24 others that are kept, and the 8 that are not."""
    return high << 32 | tag << 8 | rest


# Few, so that they collide; some have all upper bits in common, some differ in what is not kept, some are small.
HIGHS = (0, 1, 2, 3, 0x5555_5555, 0xAAAA_AAAA, 0xFFFF_FF00, 0xFFFF_FFFF)
POOL = [hash_of(high, tag) for high in HIGHS for tag in (0, 1, 0xFF_FFFF)]
POOL += [hash_of(0xFFFF_FFFF, 1, 255), hash_of(0, 0, 7)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # few slots, that grow in small pieces
    with monkeypatch.context() as patch:
        patch.setattr(EventIds, "capacity_min", 16)
        patch.setattr(ids_module, "_GROW_SLOTS", 5)
        for name, value in {"PART_ROWS": 7, "RESIDENT_BYTES": HEADER_BYTES, "_FAULT_BYTES": 1024}.items():
            patch.setattr(f"evtool.log.table.{name}", value)  # in parts, in the order of the slots
        yield


def open_ids(folder: Path, files: Files | None = None, log_id: bytes = LOG_ID) -> EventIds:
    return EventIds(files or Files(), folder / "index", log_id)


def open_reader(folder: Path, log_id: bytes = LOG_ID) -> EventIds | None:
    return EventIds.open_read(Files(), folder / "index", log_id)


def table_file(folder: Path) -> Path:
    return folder / "index" / "ids.table"


def add(table: EventIds, pairs: Sequence[tuple[int, int]]) -> None:
    hashes, positions = zip(*pairs, strict=True) if pairs else ((), ())
    if pairs and positions[0] % 2 and all(behind - before == 1 for before, behind in pairwise(positions)):
        table.add_few(hashes, positions[0])  # one by one; what is stored is the same
    else:
        table.add(np.array(hashes, np.uint64), np.array(positions, np.int64))


def found(table: EventIds, hashes: list[int]) -> Pairs:
    rows, positions = table.candidates(np.array(hashes, np.uint64))
    assert {row for row, value in enumerate(hashes) if table.may_hold([value])} <= set(rows.tolist())
    return list(zip(rows.tolist(), positions.tolist(), strict=True))


def expected(pairs: Sequence[tuple[int, int]], hashes: list[int], last: int = POSITION_MAX) -> Pairs:
    """What the index should find, from a dict of lists."""
    lists = defaultdict(set)
    for value, position in pairs:
        if position <= last:
            lists[value >> 8].add(position)
    return [(row, position) for row, value in enumerate(hashes) for position in sorted(lists[value >> 8])]


def numbered(hashes: list[int], first: int = 1) -> Pairs:
    return [(value, position) for position, value in enumerate(hashes, first)]


def many(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1 << 64, count, np.uint64).tolist()


def slots(folder: Path) -> tuple[np.ndarray, np.ndarray]:  # both columns, to be written to
    path = table_file(folder)
    capacity = (path.stat().st_size - HEADER_BYTES) // 12
    low = np.memmap(path, "<u8", "r+", HEADER_BYTES, (capacity,))
    return low, np.memmap(path, "<u4", "r+", HEADER_BYTES + 8 * capacity, (capacity,))


class IdsMachine(RuleBasedStateMachine):
    """`log` are the committed events; `stable` is what the file is on the disk, not just in the page cache."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory(prefix="evtool-ids-")
        self.folder = Path(self.temporary.name)
        self.log: Pairs = []
        self.torn: set[int] = set()  # positions that may have left half a slot
        self.readers: list[EventIds] = []
        self.stable = b""
        self.open()

    def open(self) -> None:
        self.files = FaultyFiles()
        self.table = open_ids(self.folder, self.files)
        self.files.maps[table_file(self.folder)].flushed = self.stable

    def leave(self) -> None:  # the process ends
        self.stable = self.files.maps[table_file(self.folder)].flushed
        del self.table

    def recover(self) -> None:  # as the writer of the log does it
        self.open()
        assert self.table.reaches <= len(self.log)
        add(self.table, [pair for pair in self.log if pair[1] > self.table.applied])
        self.table.mark_applied(len(self.log))

    @rule(hashes=st.lists(st.sampled_from(POOL), max_size=40), again=st.integers(0, 30), mark=st.booleans())
    def add(self, hashes: list[int], again: int, mark: bool) -> None:
        pairs = numbered(hashes, len(self.log) + 1)
        before = self.log[len(self.log) - again :] if again else []
        self.log += pairs
        add(self.table, before + pairs)
        if mark:
            self.table.mark_applied(len(self.log))

    @rule()
    def sync(self) -> None:
        self.table.mark_applied(len(self.log))
        self.table.sync()

    @rule()
    def close_and_open(self) -> None:
        self.table.mark_applied(len(self.log))
        path = table_file(self.folder)
        flushed = self.files.maps[path]
        self.table.close()
        self.stable = flushed.flushed
        self.open()
        assert self.table.applied == len(self.log)

    @rule()
    def kill(self) -> None:
        self.leave()
        self.recover()

    @rule(data=st.data())
    def cut_power(self, data: st.DataObject) -> None:
        applied = self.table.applied
        self.leave()
        path = table_file(self.folder)
        now, old = path.read_bytes(), self.stable.ljust(path.stat().st_size, b"\0")
        self.torn |= {position for _, position in self.log if position > int.from_bytes(old[48:56], "little")}
        for start in range(0, len(now), BLOCK_BYTES):
            block = slice(start, start + BLOCK_BYTES)
            if now[block] != old[block] and data.draw(st.booleans(), "block written"):
                old = old[: block.start] + now[block] + old[block.stop :]
        path.unlink()
        path.write_bytes(old)
        boot_again(self.folder)
        self.stable = old
        self.recover()
        assert self.table.applied >= applied
        assert len(self.table) >= len(self.log)

    @rule()
    def reset(self) -> None:
        self.table.reset()
        self.stable = b""
        self.files.maps[table_file(self.folder)].flushed = b""
        assert found(self.table, POOL) == []
        assert (len(self.table), self.table.applied) == (0, 0)
        add(self.table, self.log)
        self.table.mark_applied(len(self.log))

    @precondition(lambda self: len(self.readers) < 4)
    @rule()
    def open_reader(self) -> None:
        reader = open_reader(self.folder)
        assert reader is not None
        self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule()
    def close_reader(self) -> None:
        self.readers.pop().close()

    @invariant()
    def it_is_the_dict(self) -> None:
        seen = found(self.table, POOL)
        wanted = expected(self.log, POOL)
        assert seen == sorted(set(seen))
        assert set(wanted) <= set(seen)
        assert all(self.table.may_hold([POOL[row]]) for row, _ in wanted)
        assert {position for _, position in set(seen) - set(wanted)} <= self.torn
        assert len(self.table) == len(self.log) or self.torn
        assert len(self.table) <= 0.7 * self.table._mapped.capacity

    @invariant()
    def readers_find_all_that_was_applied(self) -> None:
        for reader in self.readers:
            seen = {pair for pair in found(reader, POOL) if pair[1] <= reader.applied}
            wanted = set(expected(self.log, POOL, reader.applied))
            assert wanted <= seen
            assert {position for _, position in seen - wanted} <= self.torn

    def teardown(self) -> None:
        self.temporary.cleanup()


@pytest.mark.usefixtures("tiny")
class TestTinyTable(IdsMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30)


class TestTable(IdsMachine.TestCase):
    settings = settings(max_examples=8, stateful_step_count=20)


@pytest.fixture
def table(tmp_path: Path) -> EventIds:
    return open_ids(tmp_path)


@pytest.fixture
def grows_as_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table grows by its own factor from the first slot on."""
    monkeypatch.setattr("evtool.log.table.SMALL_SLOTS", 0)


@pytest.mark.usefixtures("grows_as_a_large_one")
def test_growing_keeps_every_id_and_stays_small(tmp_path: Path, table: EventIds):
    hashes = many(60_000)
    for first in range(0, len(hashes), 2_500):
        add(table, numbered(hashes[first : first + 2_500], first + 1))
        if len(table) >= 10_000:
            assert table_file(tmp_path).stat().st_size <= 32 * len(table)
    assert found(table, hashes) == expected(numbered(hashes), hashes)
    assert found(table, many(10_000, seed=1)) == []
    assert len(table) == len(hashes)


def test_room_is_made_at_once(tmp_path: Path, table: EventIds):
    hashes = many(60_000)
    table.make_room(len(hashes))
    inode = table_file(tmp_path).stat().st_ino
    add(table, numbered(hashes))
    assert table_file(tmp_path).stat().st_ino == inode
    assert found(table, hashes) == expected(numbered(hashes), hashes)


@pytest.mark.usefixtures("tiny")
@given(
    highs=st.lists(st.one_of(st.sampled_from(HIGHS), st.integers(0, 2**32 - 1)), min_size=1, max_size=70),
    grow_slots=st.integers(1, 40),
)
@settings(max_examples=60)
def test_every_id_is_found_however_they_collide_and_wherever_blocks_end(highs: list[int], grow_slots: int):
    hashes = [hash_of(high, number % 5) for number, high in enumerate(highs)]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids_module, "_GROW_SLOTS", grow_slots)
        table = open_ids(Path(name))
        for first in range(0, len(hashes), 6):
            add(table, numbered(hashes[first : first + 6], first + 1))
        assert found(table, hashes) == expected(numbered(hashes), hashes)
        assert len(table) == len(hashes)


@pytest.mark.usefixtures("tiny", "grows_as_a_large_one")
def test_ids_that_belong_at_the_end_go_on_at_the_beginning_and_back_when_it_grows(tmp_path: Path):
    table = open_ids(tmp_path)
    last = [hash_of(0xFFFF_FFFF, number) for number in range(5)]
    add(table, numbered(last))
    low, _ = slots(tmp_path)
    assert np.flatnonzero(low).tolist() == [0, 1, 2, 3, 15]
    add(table, numbered([hash_of(0, 0)], 6))
    assert found(table, last) == expected(numbered(last), last)
    table.make_room(11)
    low, _ = slots(tmp_path)
    assert (len(low), np.flatnonzero(low).tolist()) == (24 + 12, [0, 1, 2, 3, 4, 35])
    assert found(table, [*last, 0]) == [*expected(numbered(last), last), (5, 6)]


def test_ids_that_share_all_56_bits_are_all_given(table: EventIds):
    same = [hash_of(7, 7, rest) for rest in range(200)]
    add(table, [*numbered(same), *numbered(same)[::-1]])  # each pair once, though it comes twice in one call
    add(table, numbered(same))
    assert found(table, [hash_of(7, 7), hash_of(7, 8), hash_of(8, 7)]) == [
        (0, position) for position in range(1, 201)
    ]
    assert len(table) == 200


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_anything(table: EventIds, count: int):
    add(table, numbered(many(count)))
    assert found(table, many(count)) == numbered([0] * count, 1)[:count]
    assert found(table, []) == []


def test_positions_have_40_bits(table: EventIds):
    add(table, [(1, POSITION_MAX)])
    with pytest.raises(LogError, match=r"ends at position 1,099,511,627,775"):
        add(table, [(2, 1), (3, POSITION_MAX + 1)])
    assert found(table, [1, 2, 3]) == [(0, POSITION_MAX), (1, POSITION_MAX), (2, POSITION_MAX)]
    assert len(table) == 1


@given(st.integers(1, 2**40), st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=20))
def test_slots_that_are_wanted_rise_with_the_hash_for_any_capacity(capacity: int, highs: list[int]):
    home = ids_module._home(np.array(sorted(highs), np.uint32), capacity).tolist()
    assert home == sorted(home)
    assert 0 <= home[0] <= home[-1] < capacity
    if capacity <= 2**32:
        assert home == [high * capacity >> 32 for high in sorted(highs)]
    for high, at in zip(sorted(highs), home, strict=True):
        assert abs(at - high * capacity / 2**32) <= 1 + capacity / 2**31


# What power cuts leave.


def test_id_that_was_stored_before_the_one_that_stands_before_it_was_lost(tmp_path: Path):
    """It is stored again where an empty slot is met now, so it is there twice, and given once."""
    first, second = hash_of(0x8000_0000, 1), hash_of(0x8000_0000, 2)
    for order in (1, -1):
        folder = tmp_path / str(order)
        table = open_ids(folder)
        add(table, [(first, 1), (second, 2)])
        low, high = slots(folder)
        lost = np.flatnonzero(low)[0]
        low[lost], high[lost] = 0, 0
        assert len(found(table, [first, second])) <= 1
        add(table, [(first, 1), (second, 2)][::order])
        add(table, [(first, 1), (second, 2)])
        assert found(table, [first, second]) == [(0, 1), (1, 2)]
        assert 2 <= np.count_nonzero(low) <= 3


@pytest.mark.parametrize("left", [3, 1 << 31, (1 << 32) - 1])
def test_slots_that_lost_a_half_are_false_matches_at_worst_and_go_with_the_next_growth(tmp_path: Path, left: int):
    hashes = many(2_000)
    table = open_ids(tmp_path)
    add(table, numbered(hashes[:1_000]))
    table.mark_applied(1_000)
    table.sync()
    low, high = slots(tmp_path)
    settled = low != 0
    add(table, numbered(hashes[1_000:], 1_001))
    high[~settled] = left
    boot_again(tmp_path)
    table = open_ids(tmp_path)
    assert (table.applied, len(table)) == (1_000, 2_000)
    assert found(table, hashes[:1_000]) == expected(numbered(hashes[:1_000]), hashes[:1_000])
    add(table, numbered(hashes[1_000:], 1_001))
    assert found(table, hashes) == expected(numbered(hashes), hashes)
    for first in range(2_001, 10_000, 500):
        add(table, numbered(many(500, seed=first), first))
    assert found(table, hashes) == expected(numbered(hashes), hashes)
    assert 10_000 <= len(table) <= 10_010  # some few happen to be where they may be found


@pytest.mark.timeout(20)
def test_table_without_an_empty_slot(tmp_path: Path):
    table = open_ids(tmp_path)
    low, _ = slots(tmp_path)
    low[:] = 1
    assert found(table, [hash_of(9, 9)]) == []
    with pytest.raises(LogDamagedError, match="no empty slot") as error:
        add(table, [(hash_of(9, 9), 1)])
    assert "Delete" in error.value.hint
    with pytest.raises(LogDamagedError, match="no empty slot"):
        table.make_room(100_000)


# Readers of other processes.


def damaged_files(folder: Path) -> Iterator[Path]:
    path = table_file(folder)
    data = path.read_bytes()
    for name, content in {
        "empty": b"",
        "cut": data[:-1],
        "header only": data[:HEADER_BYTES],
        "longer": data + b"\0",
        "garbage": bytes(range(256)) * 300,
        "zeros": bytes(len(data)),
        "streams": b"EVSTRM01" + data[8:],
    }.items():
        copy = folder / name
        shutil.copytree(folder / "index", copy / "index")
        table_file(copy).write_bytes(content)
        yield copy


def test_reader_of_a_file_that_cannot_be_believed(tmp_path: Path):
    assert open_reader(tmp_path) is None
    table = open_ids(tmp_path)
    add(table, numbered(many(10)))
    table.mark_applied(10)
    table.close()
    reader = open_reader(tmp_path)
    assert reader is not None
    assert reader.applied == 10
    assert open_reader(tmp_path, log_id=bytes(16)) is None
    for copy in damaged_files(tmp_path):
        assert open_reader(copy) is None, copy.name
        table = open_ids(copy)
        assert (table.applied, len(table)) == (0, 0), copy.name
        add(table, numbered(many(10)))
        assert len(found(table, many(10))) == 10


def test_reader_sees_what_is_added_until_the_file_is_another_one(tmp_path: Path):
    table = open_ids(tmp_path)
    hashes = many(20_000)
    reader = open_reader(tmp_path)
    assert reader is not None
    assert (reader.applied, found(reader, hashes)) == (0, [])
    add(table, numbered(hashes[:2_000]))
    table.mark_applied(2_000)
    assert reader.applied == 2_000
    assert found(reader, hashes) == expected(numbered(hashes[:2_000]), hashes)
    add(table, numbered(hashes[2_000:], 2_001))
    table.mark_applied(20_000)
    last = reader.applied
    assert 2_000 <= last < 20_000
    seen = [pair for pair in found(reader, hashes) if pair[1] <= last]
    assert seen == expected(numbered(hashes), hashes, last)
    again = open_reader(tmp_path)
    assert again is not None
    table.reset()
    assert again.applied == 20_000
    assert found(again, hashes) == expected(numbered(hashes), hashes)
    with pytest.raises(ValueError, match="read-only"):
        add(again, numbered([1]))
    again.close()
    reader.close()


def test_reader_in_a_boot_after_the_last_writer(tmp_path: Path):
    table = open_ids(tmp_path)
    add(table, numbered(many(10)))
    table.mark_applied(10)
    table.sync()
    add(table, numbered(many(10, seed=1), 11))
    table.mark_applied(20)
    boot_again(tmp_path)
    reader = open_reader(tmp_path)
    assert reader is not None
    assert (reader.applied, reader.reaches) == (10, 20)


@pytest.mark.parametrize("own_mapping", [True, False], ids=["another process", "the same"])
def test_asking_while_events_are_added(tmp_path: Path, own_mapping: bool):
    """Everything up to the `applied` that was seen first is found at any moment, over growth too."""
    values = np.array(many(40_000), np.uint64)
    table = open_ids(tmp_path)
    problems: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            reader = open_reader(tmp_path) if own_mapping else table
            if reader is None:
                continue
            for _ in range(20):
                applied = reader.applied
                rows, positions = reader.candidates(values[:applied])
                known = positions <= applied
                wanted = np.arange(1, applied + 1)
                if not (np.array_equal(positions[known], wanted) and np.array_equal(rows[known] + 1, wanted)):
                    problems.append(f"of {applied} events {np.count_nonzero(known)}")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for first in range(0, len(values), 500):
            table.add(values[first : first + 500], np.arange(first + 1, first + 501))
            table.mark_applied(first + 500)
            if first % 10_000 == 0:
                table.sync()
    finally:
        done.set()
        asking.join()
    assert not problems
