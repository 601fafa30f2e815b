"""A cold segment of which some row groups are written anew: the others are the same bytes, and all is sound."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch as replaced

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compacting import compacted
from erasures import erased, found, resumed, settings
from faults import Fault, FaultyFiles, Killed, flip
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from samples import event

import evtool
from evtool.lifecycle.erasing import doing
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.verify import verify
from evtool.log import footer
from evtool.log.coldsegment import ColdSegment
from evtool.log.stripes import STORED_COLUMNS

COUNT = 6_000
STREAMS = 400
PATH = "payload.name"


def sent() -> list[dict[str, object]]:
    return [
        event(
            number,
            f"user-{number % STREAMS}",
            timestamp=number * 1_000_000,
            payload=f'{{"name":"person-{number % STREAMS}."}}',
            **({"metadata": "{}"} if number % 3 else {}),
        )
        for number in range(COUNT)
    ]


@pytest.fixture(scope="module")
def cold_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of one cold segment with a column for a path, in many row groups, and an active one."""
    folder = tmp_path_factory.mktemp("patching") / "segments"
    with evtool.open(folder, create=True, config=settings(folder)) as log:
        for start in range(0, COUNT, 500):
            log.append(sent()[start : start + 500])
        log.seal()
        log.append([event(COUNT)])
    compacted(folder, 1 << 30, PATH)
    return folder


def cold(folder: Path) -> ColdSegment:
    with evtool.open(folder, read_only=True) as log:
        segment = log.snapshot().segments[0]
    assert isinstance(segment, ColdSegment)
    return segment


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "segments"))


def test_row_groups_without_it_stay_the_same_bytes(cold_log: Path, tmp_path: Path):
    folder = copied(cold_log, tmp_path)
    before = cold(folder)
    with replaced.object(doing, "patch", side_effect=doing.patch) as patch:
        erased(folder, Wanted(("user-17",)))
    assert patch.call_count == 1
    after = cold(folder)
    is_same = (before.chunks["checksum"] == after.chunks["checksum"]).all(axis=1)
    assert len(is_same) - 12 <= is_same.sum() < len(is_same)
    assert found(folder, "person-17.") == []
    assert after.summary["replaced_digest"] == before.summary["logical_digest"] != after.summary["logical_digest"]
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes) == ([], [])
    with evtool.open(folder) as log:
        assert log.append(sent()).duplicates == COUNT
        assert len(log.stream("user-18")) == COUNT // STREAMS
    compacted(folder, 1 << 30)
    assert not verify(evtool.open(folder, read_only=True)).findings


def test_other_readers_of_parquet_read_it(cold_log: Path, tmp_path: Path):
    folder = copied(cold_log, tmp_path)
    erased(folder, Wanted(("user-17", "user-200")))
    path = cold(folder).path
    erased_names = {f"person-{number}." for number in (17, 200)}
    rows = duckdb.sql(f"select count(*), count(distinct stream_id), max(position) from '{path}'").fetchall()
    assert rows == [(COUNT, STREAMS, COUNT)]
    texts = duckdb.sql(f'select distinct "{PATH}" from \'{path}\' where "{PATH}" is not null').fetchall()
    assert {text for (text,) in texts} == {f"person-{number}." for number in range(STREAMS)} - erased_names
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == sum(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
    for name in ("position", "stream_id"):
        column = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == name)
        low = min(metadata.row_group(n).column(column).statistics.min for n in range(metadata.num_row_groups))
        assert low == (1 if name == "position" else min(text for (text,) in _streams(path)))


def _streams(path: Path) -> list[tuple[str]]:
    return duckdb.sql(f"select distinct stream_id from '{path}'").fetchall()


def test_killed_at_each_operation_it_is_what_it_was_or_what_it_is_to_be(cold_log: Path, tmp_path: Path):
    wanted, kinds = Wanted(("user-17",)), ("write", "fdatasync", "replace", "link")
    counted = FaultyFiles()
    erased(copied(cold_log, tmp_path / "0"), wanted, counted)
    calls = [name for kind, name in counted.calls if kind in kinds]
    first, last = calls.index("events-2.parquet"), len(calls) - calls[::-1].index("segment.msgpack")
    for number in range(first + 1, last + 4, 4):
        folder = copied(cold_log, tmp_path / str(number))
        with pytest.raises(Killed):
            erased(folder, wanted, FaultyFiles(Fault(number, done=number // 4 % 2)))
        assert verify(evtool.open(folder, read_only=True)).is_clean
        assert resumed(folder) is not None
        assert found(folder, "person-17.") == []
        assert verify(evtool.open(folder, read_only=True)).findings == []
        shutil.rmtree(folder)


def test_damage_of_what_would_be_copied_is_found(cold_log: Path, tmp_path: Path):
    folder = copied(cold_log, tmp_path)
    segment = cold(folder)
    with evtool.open(folder, read_only=True) as log:
        positions = set(log.stream("user-17")["position"])
    row = next(row for row in segment.table if not _has(segment, row, positions))
    flip(segment.path, int(row["offset"]) + 50)
    report = erased(folder, Wanted(("user-17",)))
    assert [failure.folder for failure in report.failures] == [str(segment.folder)]
    assert cold(folder).summary == segment.summary


def _has(segment: ColdSegment, row: object, positions: set[int]) -> bool:
    events = segment.batch(row, STORED_COLUMNS)  # type: ignore[arg-type]
    return bool(positions & set(events["position"].to_pylist()))


@examples(max_examples=20)
@given(st.data())
def test_a_footer_is_put_together_as_it_was(cold_log: Path, data: st.DataObject):
    whole = cold(cold_log).footer.read()
    described = footer.read(whole)
    groups = footer.groups(described)
    chosen = data.draw(st.lists(st.integers(0, len(groups) - 1), min_size=1, max_size=5))
    moved = data.draw(st.integers(0, 1 << 40))
    end = footer.write(described, [footer.Group(groups[number], moved) for number in chosen])
    told, before = pq.read_metadata(pa.BufferReader(end)), pq.read_metadata(pa.BufferReader(whole))
    assert told.num_row_groups == len(chosen)
    for place, number in enumerate(chosen):
        group, other = told.row_group(place), before.row_group(number)
        assert group.num_rows == other.num_rows
        for index in (0, group.num_columns - 1):
            column, same = group.column(index), other.column(index)
            assert column.data_page_offset == same.data_page_offset + moved
            assert column.statistics == same.statistics
            assert (column.total_compressed_size, column.encodings) == (same.total_compressed_size, same.encodings)
    again = footer.groups(footer.read(memoryview(end)))
    back = footer.write(described, [footer.Group(group, -moved) for group in again])
    assert back == footer.write(described, [footer.Group(groups[number], 0) for number in chosen])
    assert len(again) == len(chosen)
