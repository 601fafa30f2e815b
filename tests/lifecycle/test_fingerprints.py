"""The sums that the tables of the index are compared by: equal where the tables are right, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evtool.files import Files
from evtool.lifecycle.fingerprints import RANGE_EVENTS, IdSums, StreamSums, id_prints
from evtool.log.ids import EventIds
from evtool.log.versions import StreamVersions, stream_keys

SEED = 20260202
LOG_ID = bytes(range(16))


def hashes_of(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.random.default_rng(SEED).integers(0, 1 << 64, count, np.uint64)


@pytest.fixture
def _full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables, in which many slots are not where they were wanted."""
    monkeypatch.setattr(EventIds, "capacity_min", 64)
    monkeypatch.setattr(StreamVersions, "capacity_min", 64)


@pytest.mark.usefixtures("_full")
def test_ids_that_a_lost_slot_hides_are_not_among_the_pairs(tmp_path: Path):
    hashes, positions = hashes_of(44), np.arange(1, 45)
    table = EventIds(Files(), tmp_path, LOG_ID)
    table.add(hashes, positions)
    low = table._mapped.columns[0]
    hidden = 0
    for slot in np.flatnonzero(low).tolist():
        kept, low[slot] = low[slot], 0
        pairs = zip(hashes.tolist(), positions.tolist(), strict=True)
        wanted = {(value & ~0xFF, position) for value, position in pairs if table.may_hold([value])}
        assert {
            pair for block in table.pairs() for pair in zip(*(c.tolist() for c in block), strict=True)
        } == wanted
        hidden += len(wanted) < 43
        low[slot] = kept
    assert hidden > 3


@pytest.mark.usefixtures("_full")
def test_streams_that_a_lost_slot_hides_are_not_among_the_pairs(tmp_path: Path):
    names = [f"stream-{number}".encode() for number in range(38)]
    keys = stream_keys(names)
    table = StreamVersions(Files(), tmp_path, LOG_ID)
    table.apply(names, np.arange(1, 39))
    (slots,) = table._mapped.columns
    hidden = 0
    for slot in np.flatnonzero(slots["version"]).tolist():
        kept, slots["version"][slot] = slots["version"][slot], 0
        versions = table.lookup(names, keys).tolist()
        wanted = {(*key, version) for key, version in zip(keys.tolist(), versions, strict=True) if version}
        found = {
            (*key, version) for k, v in table.pairs() for key, version in zip(k.tolist(), v.tolist(), strict=True)
        }
        assert found == {(key[0], key[1], version) for *key, version in wanted}
        hidden += len(wanted) < 37
        slots["version"][slot] = kept
    assert hidden > 3


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.data())
def test_events_of_streams_add_up_to_their_slots(versions: list[int], data: st.DataObject):
    """However they are cut into groups; and one version that is another one is seen."""
    keys = stream_keys([str(number).encode() for number in range(len(versions))])
    last = np.array(versions)
    cut = np.array([data.draw(st.integers(0, version)) for version in versions])
    events = StreamSums()
    for first, end in ((0, cut), (cut, last)):
        counts = end - first
        events.add_events(keys, counts, (end * (end + 1) - first * (np.asarray(first) + 1)) // 2)
    slots = StreamSums()
    slots.add_slots(keys, last)
    assert not len(events.differing(slots))
    changed = last.copy()
    place = data.draw(st.integers(0, len(versions) - 1))
    changed[place] ^= 1 << data.draw(st.integers(0, 40))
    other = StreamSums()
    other.add_slots(keys, changed)
    assert len(events.differing(other)) == 1


@given(st.integers(1, 3 * RANGE_EVENTS), st.integers(1, 2 * RANGE_EVENTS), st.integers(8, 63))
def test_ids_add_up_by_ranges_and_a_changed_bit_is_seen(first: int, count: int, bit: int):
    positions = np.arange(first, first + count)
    hashes = hashes_of(count)
    found = IdSums.of(hashes, positions)
    for number, total in enumerate(found.sums.tolist(), found.first):
        chosen = (positions > number * RANGE_EVENTS) & (positions <= (number + 1) * RANGE_EVENTS)
        assert total == int(id_prints(hashes[chosen], positions[chosen]).sum())
    assert len(found.sums) == (first + count - 2) // RANGE_EVENTS - (first - 1) // RANGE_EVENTS + 1
    hashes[-1] ^= np.uint64(1 << bit)
    assert (IdSums.of(hashes, positions).sums != found.sums).tolist() == [False] * (len(found.sums) - 1) + [True]
