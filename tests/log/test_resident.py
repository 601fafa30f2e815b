"""How much memory the tables on disk take: a part of them, however large they are."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evtool.files import Files
from evtool.log import table as table_module
from evtool.log.ids import EventIds
from evtool.log.versions import StreamVersions, stream_keys

LOG_ID = bytes(range(16))
ROWS = 60_000
RESIDENT_BYTES = 1 << 20

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "RESIDENT_BYTES", RESIDENT_BYTES)
    monkeypatch.setattr(table_module, "PART_ROWS", 1 << 10)
    monkeypatch.setattr(EventIds, "capacity_min", 1 << 20)  # 12 MiB
    monkeypatch.setattr(StreamVersions, "capacity_min", 1 << 19)


def resident_bytes(path: Path) -> int:
    """Of all mappings of a file, the bytes that count as memory of this process."""
    maps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(path))}\n(?:.*\n){{0,3}}?Rss: +(\d+) kB", maps)
    assert found
    return sum(map(int, found)) * 1024


def watched(table: object, path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The most that was resident when every eighth part of the rows was done with: to look takes long."""
    seen: list[int] = []
    parts = itertools.count()
    used = table_module.MappedTable._used

    def look(self: table_module.MappedTable, rows: int) -> None:
        if next(parts) % 8 == 0:
            seen.append(resident_bytes(path))
        used(self, rows)

    monkeypatch.setattr(table_module.MappedTable, "_used", look)
    return lambda: max(seen)


def test_ids_take_a_part_of_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = EventIds(Files(), tmp_path, LOG_ID)
    peak = watched(table, tmp_path / "ids.table", monkeypatch)
    hashes = np.random.default_rng(1).integers(0, 1 << 64, ROWS, np.uint64)
    table.add(hashes, np.arange(1, ROWS + 1))
    rows, positions = table.candidates(hashes)
    assert rows.tolist() == list(range(ROWS))
    assert positions.tolist() == list(range(1, ROWS + 1))
    for value in hashes[:200].tolist():
        assert table.may_hold([value])
    assert peak() < 3 * RESIDENT_BYTES


def test_streams_take_a_part_of_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = StreamVersions(Files(), tmp_path, LOG_ID)
    peak = watched(table, tmp_path / "streams.table", monkeypatch)
    names = [b"stream-%d" % number for number in range(ROWS)]
    table.apply(names, np.arange(1, ROWS + 1))
    assert table.lookup(names, stream_keys(names)).tolist() == list(range(1, ROWS + 1))
    assert peak() < 3 * RESIDENT_BYTES


def test_growing_takes_a_part_of_both_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both whole would be 12 and 48 MiB."""
    table = EventIds(Files(), tmp_path, LOG_ID)
    hashes = np.random.default_rng(1).integers(0, 1 << 64, ROWS, np.uint64)
    table.add(hashes, np.arange(1, ROWS + 1))
    table.make_room(1 << 20)
    assert resident_bytes(tmp_path / "ids.table") < 3 * RESIDENT_BYTES
    assert len(table.candidates(hashes)[0]) == ROWS
