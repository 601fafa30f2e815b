"""The table of stream versions against a dict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from faults import boot_again, flip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import check_sound, event, make_log, many, rows

import evtool
from evtool.files import Files
from evtool.log import versions as versions_module
from evtool.log.versions import Promise, StreamVersions, stream_keys

LOG_ID = bytes(range(16))
STREAMS = [f"stream-{number}".encode() for number in range(60)]


@pytest.fixture
def tiny_capacity(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of few slots, so that streams collide and it grows often."""
    with monkeypatch.context() as patch:
        patch.setattr(StreamVersions, "capacity_min", 4)
        patch.setattr(versions_module, "_GROW_SLOTS", 3)
        patch.setattr(versions_module, "FEW", 2)  # so that both ways of storing are gone
        for name, value in {"PART_ROWS": 7, "RESIDENT_BYTES": 4200, "_FAULT_BYTES": 1024}.items():
            patch.setattr(f"evtool.log.table.{name}", value)  # in parts, in the order of the slots
        yield


@pytest.fixture
def table(tmp_path: Path) -> StreamVersions:
    return StreamVersions(Files(), tmp_path / "index", LOG_ID)


def promise(changes: dict[bytes, int]) -> Promise:
    streams = list(changes)
    return Promise(streams, stream_keys(streams), np.array(list(changes.values()), np.int64))


def look_up(table: StreamVersions, streams: list[bytes]) -> dict[bytes, int]:
    found = dict(zip(streams, table.lookup(streams, stream_keys(streams)).tolist(), strict=True))
    assert found == {stream: table.lookup_one(stream) for stream in streams}
    return found


class VersionsMachine(RuleBasedStateMachine):
    """`committed` is what the table should hold, `promised` the batches on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(prefix="evtool-versions-")
        self.position = 0
        self.committed: dict[bytes, int] = {}
        self.promised: list[dict[bytes, int]] = []
        self.open()

    def open(self) -> None:
        self.table = StreamVersions(Files(), Path(self.folder.name), LOG_ID)

    def expected(self) -> dict[bytes, int]:
        whole = dict(self.committed)
        for batch in self.promised:
            whole |= batch
        return whole

    @rule(counts=st.dictionaries(st.sampled_from(STREAMS), st.integers(1, 5), max_size=25))
    def reserve(self, counts: dict[bytes, int]) -> None:
        now = self.expected()
        batch = {stream: now.get(stream, 0) + count for stream, count in counts.items()}
        self.table.reserve(promise(batch))
        self.promised.append(batch)

    @precondition(lambda self: self.promised)
    @rule()
    def settle(self) -> None:
        self.position += 1
        self.table.settle(self.position)
        self.committed |= self.promised.pop(0)

    @precondition(lambda self: not self.promised)
    @rule(counts=st.dictionaries(st.sampled_from(STREAMS), st.integers(1, 9), min_size=1, max_size=25))
    def apply(self, counts: dict[bytes, int]) -> None:
        changes = {stream: self.committed.get(stream, 0) + count for stream, count in counts.items()}
        self.table.apply(list(changes), np.array(list(changes.values()), np.int64))
        self.position += 1
        self.table.mark_applied(self.position)
        self.committed |= changes

    @precondition(lambda self: not self.promised)
    @rule()
    def apply_again(self) -> None:
        if self.committed:
            self.table.apply(list(self.committed), np.array(list(self.committed.values()), np.int64))

    @precondition(lambda self: not self.promised)
    @rule()
    def reopen(self) -> None:
        self.table.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """Promises go, what was settled stays in the mapped file."""
        self.promised.clear()
        self.open()

    @precondition(lambda self: not self.promised)
    @rule()
    def reset(self) -> None:
        self.table.reset()
        self.committed.clear()
        self.position = 0

    @invariant()
    def it_is_the_dict(self) -> None:
        expected = self.expected()
        assert look_up(self.table, STREAMS) == {stream: expected.get(stream, 0) for stream in STREAMS}
        assert len(self.table) == len(self.committed)
        assert self.table.applied == self.position

    def teardown(self) -> None:
        self.folder.cleanup()


@pytest.mark.usefixtures("tiny_capacity")
class TestTinyTable(VersionsMachine.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30)


class TestTable(VersionsMachine.TestCase):
    settings = settings(max_examples=10, stateful_step_count=20)


@pytest.mark.usefixtures("tiny_capacity")
@given(names=st.sets(st.binary(min_size=1, max_size=8), max_size=120), other=st.binary(min_size=9, max_size=9))
@settings(max_examples=40)
def test_every_stream_is_found_however_they_collide(names: set[bytes], other: bytes):
    with TemporaryDirectory() as folder:
        table = StreamVersions(Files(), Path(folder), LOG_ID)
        expected = {name: number for number, name in enumerate(sorted(names), 1)}
        table.apply(list(expected), np.array(list(expected.values()), np.int64))
        assert look_up(table, [*expected, other]) == expected | {other: 0}
        assert len(table) == len(expected)


@pytest.mark.usefixtures("tiny_capacity")
def test_streams_of_one_slot_are_told_apart(table: StreamVersions):
    """Keys whose low bits are all the same want the same slot, in one batch and over several."""
    keys = np.array([[0, number] for number in range(1, 40)], np.uint64)
    streams = [b"%d" % number for number in range(1, 40)]
    for part in (slice(0, 5), slice(5, 39), slice(0, 39)):
        numbers = np.arange(1, 40, dtype=np.int64)[part]
        table.reserve(Promise(streams[part], keys[part], numbers))
        table.settle(int(numbers[-1]))
    assert table.lookup(streams, keys).tolist() == list(range(1, 40))
    assert len(table) == 39


def test_growing_keeps_every_stream(table: StreamVersions):
    for first in range(0, 30_000, 2_500):
        streams = [b"stream-%d" % number for number in range(first, first + 2_500)]
        table.apply(streams, np.arange(first + 1, first + 2_501, dtype=np.int64))
    everything = [b"stream-%d" % number for number in range(30_000)]
    assert list(look_up(table, everything).values()) == list(range(1, 30_001))
    assert len(table) == 30_000


def test_a_later_promise_of_a_stream_outlives_an_earlier_one_that_is_settled(table: StreamVersions):
    table.reserve(promise({b"a": 1, b"b": 1}))
    table.reserve(promise({b"a": 4}))
    table.settle(1)
    assert look_up(table, [b"a", b"b"]) == {b"a": 4, b"b": 1}
    table.settle(2)
    assert look_up(table, [b"a", b"b"]) == {b"a": 4, b"b": 1}


def test_an_empty_batch_takes_its_turn(table: StreamVersions):
    table.reserve(promise({b"a": 1}))
    table.reserve(promise({}))
    table.reserve(promise({b"a": 2}))
    for position in (1, 1, 2):
        table.settle(position)
    assert look_up(table, [b"a"]) == {b"a": 2}
    assert table.lookup([], stream_keys([])).tolist() == []


def test_the_table_of_another_log_is_not_taken(tmp_path: Path):
    first = StreamVersions(Files(), tmp_path, LOG_ID)
    first.apply([b"a"], np.array([7], np.int64))
    first.mark_applied(1)
    first.close()
    assert look_up(StreamVersions(Files(), tmp_path, LOG_ID), [b"a"]) == {b"a": 7}
    other = StreamVersions(Files(), tmp_path, bytes(16))
    assert look_up(other, [b"a"]) == {b"a": 0}
    assert (other.applied, len(other)) == (0, 0)


def test_a_bit_too_much_in_the_count_of_a_table_does_not_let_it_grow_over_the_disk(tmp_path: Path):
    table = StreamVersions(Files(), tmp_path, LOG_ID)
    table.apply([b"a"], np.array([7], np.int64))
    table.mark_applied(1)
    table.close()
    flip(tmp_path / "streams.table", 36)  # of the count, which is 2^32 more then
    assert StreamVersions.open_read(Files(), tmp_path, LOG_ID) is None
    assert len(StreamVersions(Files(), tmp_path, LOG_ID)) == 0


@pytest.mark.timeout(20)
def test_streams_counted_too_low_after_a_power_cut_do_not_fill_the_table(folder: Path):
    """Of the table's pages some are newer than others then: here the one with the count is the oldest."""
    table = folder / "index" / "streams.table"
    with evtool.open(folder, create=True) as log:  # nothing is flushed before it is closed
        log.append(many(1, first=10_000))
        early = table.read_bytes()[:4096]
        log.append(many(2_400, streams=2_400))
        late = table.read_bytes()[4096:]
    table.write_bytes(early + late)
    boot_again(folder)
    make_log(folder, [many(1_000, first=2_400, streams=10_000), many(1_000, first=3_400, streams=10_000)])
    make_log(folder, [[event(number, f"new-{number}") for number in range(20_000, 20_050)]])
    assert {row["stream_version"] for row in rows(evtool.open(folder), start=4_402)} == {1}
    check_sound(folder)
