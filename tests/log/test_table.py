"""What the tables on disk have in common: which file is believed, growth, boots, full disks."""

from __future__ import annotations

import errno
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from faults import Fault, FaultyFiles, Killed, boot_again, flip

from evtool.errors import NoSpaceError
from evtool.files import Files, translated
from evtool.log import ids as ids_module
from evtool.log import table as table_module
from evtool.log import versions as versions_module
from evtool.log.ids import EventIds
from evtool.log.table import HEADER, HEADER_BYTES, MappedTable
from evtool.log.versions import StreamVersions, stream_keys

LOG_ID = bytes(range(16))


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamVersions, "capacity_min", 16)


def open_table(folder: Path, files: Files | None = None, log_id: bytes = LOG_ID) -> StreamVersions:
    return StreamVersions(files or Files(), folder / "index", log_id)


def names(first: int, last: int) -> list[bytes]:
    return [b"stream-%d" % number for number in range(first, last)]


def apply(table: StreamVersions, first: int, last: int) -> None:
    table.apply(names(first, last), np.arange(first, last, dtype=np.int64))


def versions(table: StreamVersions, first: int, last: int) -> list[int]:
    streams = names(first, last)
    return table.lookup(streams, stream_keys(streams)).tolist()


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The folder of a table that holds streams 1 to 5 up to position 5, synced."""
    table = open_table(tmp_path)
    apply(table, 1, 6)
    table.mark_applied(5)
    table.close()
    return tmp_path


def header(folder: Path) -> np.ndarray:
    return np.frombuffer((folder / "index" / "streams.table").read_bytes(), HEADER, 1).reshape(())


def test_a_closed_table_is_as_it_was_in_any_boot(closed: Path):
    for _ in range(2):
        table = open_table(closed)
        assert (table.applied, table.reaches, len(table)) == (5, 5, 5)
        assert versions(table, 1, 7) == [1, 2, 3, 4, 5, 0]
        table.close()
        boot_again(closed)


@pytest.mark.parametrize(
    ("start", "damage"),
    [
        (0, b"EVIDS001"),  # the magic
        (8, bytes(16)),  # the log
        (24, (32).to_bytes(8, "little")),  # more slots than there are
        (24, (8).to_bytes(8, "little")),  # fewer
        (24, (2**64 - 1).to_bytes(8, "little")),
        (24, bytes(8)),
        (0, bytes(HEADER_BYTES)),  # the header's page never came to the disk
    ],
)
def test_header_that_is_not_of_this_table(closed: Path, start: int, damage: bytes):
    path = closed / "index" / "streams.table"
    data = path.read_bytes()
    path.write_bytes(data[:start] + damage + data[start + len(damage) :])
    table = open_table(closed)
    assert (table.applied, table.reaches, len(table)) == (0, 0, 0)
    assert versions(table, 1, 6) == [0] * 5


@pytest.mark.parametrize("size", [0, 1, 64, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 16 * 24 - 1])
def test_file_cut_short(closed: Path, size: int):
    path = closed / "index" / "streams.table"
    path.write_bytes(path.read_bytes()[:size])
    assert open_table(closed).applied == 0


def test_number_of_slots_that_is_not_a_power_of_two(closed: Path):
    path = closed / "index" / "streams.table"
    data = path.read_bytes()
    path.write_bytes(data[:24] + (15).to_bytes(8, "little") + data[32:-24])
    assert open_table(closed).applied == 0


def test_what_was_not_synced_counts_in_its_own_boot_only(closed: Path):
    table = open_table(closed)
    apply(table, 6, 9)
    table.mark_applied(8)
    again = open_table(closed)
    assert (again.applied, again.reaches) == (8, 8)
    boot_again(closed)
    again = open_table(closed)
    assert (again.applied, again.reaches, len(again)) == (5, 8, 8)


def test_growth_while_events_are_applied_again_promises_nothing_of_what_is_still_to_come(closed: Path):
    """The header tells of position 9, but in a boot that is over: of what it told nothing may be left."""
    table = open_table(closed)
    table.mark_applied(9)
    boot_again(closed)
    table = open_table(closed)
    assert table.applied == 5
    apply(table, 6, 40)  # which grows it, and then the process ends
    assert open_table(closed).applied == 5
    boot_again(closed)
    assert open_table(closed).applied == 5


def test_sync_while_events_are_applied_again_promises_nothing_of_what_is_still_to_come(closed: Path):
    open_table(closed).mark_applied(9)
    boot_again(closed)
    open_table(closed).sync()
    assert int(header(closed)["synced"]) == 5


def test_the_position_is_synced_after_the_slots_that_it_speaks_of(closed: Path):
    """What is on the disk at the first flush does not speak of it yet."""
    files = FaultyFiles()
    table = open_table(closed, files)
    apply(table, 6, 9)
    table.mark_applied(8)
    seen: list[int] = []
    flush = files.flush

    def watched(path: Path, mapping: mmap.mmap) -> None:
        flush(path, mapping)
        seen.append(int(np.frombuffer(files.maps[path].flushed, HEADER, 1)["synced"][0]))

    files.flush = watched  # type: ignore[method-assign]
    table.sync()
    assert seen == [5, 8]


def test_process_that_ends_in_the_middle_of_a_growth(closed: Path):
    files = FaultyFiles(Fault(1, kinds=("replace",)))
    table = open_table(closed, files)
    with pytest.raises(Killed):
        apply(table, 6, 40)
    assert (closed / "index" / "streams.growing").exists()
    table = open_table(closed)
    assert (table.applied, len(table)) == (5, 5)
    apply(table, 6, 40)
    assert versions(table, 1, 40) == list(range(1, 40))
    assert not (closed / "index" / "streams.growing").exists()


def test_disk_that_is_full_when_the_table_grows(closed: Path):
    class FullDisk(Files):
        def map_writable(self, path: Path, size: int) -> mmap.mmap:
            if path.suffix == ".growing":
                with translated("map", path):
                    raise OSError(errno.ENOSPC, "No space left on device")
            return super().map_writable(path, size)

    table = open_table(closed, FullDisk())
    with pytest.raises(NoSpaceError):
        apply(table, 6, 40)
    assert (table.applied, len(table)) == (5, 5)
    assert versions(table, 1, 7) == [1, 2, 3, 4, 5, 0]
    apply(table, 6, 8)
    assert versions(table, 1, 8) == list(range(1, 8))


def test_a_grown_table_is_counted_anew(closed: Path):
    """A process that ends while it stores leaves a count that is too high."""
    table = open_table(closed)
    table._mapped.header["count"] += 3
    apply(table, 6, 40)
    assert len(table) == 39


@pytest.mark.parametrize(
    ("module", "name"), [(versions_module, "_put_few"), (versions_module, "_put"), (ids_module, "_insert")]
)
def test_process_that_ends_while_it_stores_leaves_no_count_that_is_too_low(
    closed: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
):
    store: Callable[..., int] = getattr(module, name)

    def stores_and_ends(*arguments: object) -> int:
        store(*arguments)
        raise Killed

    monkeypatch.setattr(module, name, stores_and_ends)
    if name == "_put":
        monkeypatch.setattr(module, "FEW", 0)
    table: MappedTable
    if module is versions_module:
        table = open_table(closed)
        with pytest.raises(Killed):
            apply(table, 6, 9)
        assert len(open_table(closed)) == 8
    else:
        table = EventIds(Files(), closed, LOG_ID)
        with pytest.raises(Killed):
            table.add(np.arange(3, dtype=np.uint64), np.arange(1, 4))
        assert len(EventIds(Files(), closed, LOG_ID)) == 3


@pytest.mark.parametrize("bit", range(0, 8 * 24 * 16, 37))
def test_a_flipped_bit_of_a_closed_table_is_not_believed(closed: Path, bit: int):
    flip(closed / "index" / "streams.table", HEADER_BYTES + bit // 8, bit % 8)
    assert StreamVersions.open_read(Files(), closed / "index", LOG_ID) is None
    table = open_table(closed)
    assert (table.applied, len(table)) == (0, 0)
    table.close()


def test_a_table_that_a_writer_left_open_is_believed(closed: Path):
    table = open_table(closed)
    apply(table, 6, 9)
    table.mark_applied(8)
    copy = closed / "copy"
    shutil.copytree(closed / "index", copy / "index")  # as a killed writer leaves it
    assert header(copy)["checksum"] == 0
    assert versions(open_table(copy), 1, 10) == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    table.close()
    assert header(closed)["checksum"] != 0


def test_a_large_table_is_opened_without_reading_all_of_it(closed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table_module, "CHECKED_BYTES", HEADER_BYTES)
    open_table(closed).close()
    assert header(closed)["checksum"] == 0
    assert versions(open_table(closed), 1, 6) == [1, 2, 3, 4, 5]
