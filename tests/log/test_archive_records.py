"""archive.json and catalogue.msgpack: what was written is read, and nothing that is not as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from compacting import compacted
from faults import flip
from hypothesis import given
from hypothesis import strategies as st
from samples import config, make_log, many, segments

from evtool.errors import EvtoolError, LogDamagedError, LogFormatError
from evtool.files import Files
from evtool.log import archive
from evtool.log.archive import Catalogue, Place
from evtool.log.format import checksum
from evtool.log.segment import read_summary

SMALL = config(segment_bytes=6 * 1024, partitions=2)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Of a log of several segments."""
    folder = tmp_path_factory.mktemp("catalogue") / "segments"
    make_log(folder, [many(100, number * 100) for number in range(4)], SMALL)
    compacted(folder, 0)
    summaries: list[Any] = [read_summary(Files(), path, None) for path in segments(folder)[:-1]]
    assert len(summaries) > 1
    named = [summary | {"object": archive.events_object(summary)} for summary in summaries]
    return Catalogue((folder / "log.json").read_text(), named)


def sealed(table: Any) -> bytes:
    packed: bytes = msgpack.packb(table)
    return packed + checksum(packed).to_bytes(8, "little")


def test_a_catalogue_is_read_as_it_was_written(catalogue: Catalogue):
    found = archive.decode(archive.encode(catalogue), "s3://b/catalogue.msgpack")
    assert found == catalogue
    assert found.last_position == catalogue.segments[-1]["last_position"]
    assert found.manifest.id == catalogue.segments[0]["log_id"]
    assert archive.decode(archive.encode(Catalogue(catalogue.log, [])), "").last_position == 0


def test_objects_are_named_by_the_day_of_their_earliest_event(catalogue: Catalogue):
    first = catalogue.segments[0]
    assert archive.events_object(first) == "events/day=2026-01-01/00000000000000000001-1.parquet"
    assert archive.map_object(first) == "index/00000000000000000001-1.map"
    assert archive.gone_object(first) == "index/00000000000000000001-1.gone"
    assert archive.streams_object(first) == "index/00000000000000000001-1.streams"
    late = {**first, "timestamp_min": -1, "generation": 12}
    assert archive.events_object(late) == "events/day=1969-12-31/00000000000000000001-12.parquet"


@given(st.data())
def test_no_changed_byte_of_a_catalogue_is_believed(catalogue: Catalogue, data: st.DataObject):
    record = bytearray(archive.encode(catalogue))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LogDamagedError, match=r"s3://b/catalogue\.msgpack does not match its checksum"):
        archive.decode(bytes(record), "s3://b/catalogue.msgpack")
    with pytest.raises(LogDamagedError):
        archive.decode(bytes(record)[: data.draw(st.integers(0, len(record) - 1))], "x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("object", "events/day=2026-01-01/../../../00000000000000000001-1.parquet"),
        ("object", "/events/day=2026-01-01/00000000000000000001-1.parquet"),
        ("object", "events/day=2026-01-01/00000000000000000001-2.parquet"),
        ("object", None),
        ("log_id", "0" * 32),
        ("first_position", 2),
        ("last_position", 0),
        ("generation", "1/../.."),
        ("map_bytes", None),
        ("columns", "position"),
    ],
)
def test_a_segment_that_cannot_be_is_refused(catalogue: Catalogue, key: str, value: Any):
    table = msgpack.unpackb(archive.encode(catalogue)[:-8])
    table["segments"][0][key] = value
    with pytest.raises(LogDamagedError, match="catalogue"):
        archive.decode(sealed(table), "the catalogue")


@pytest.mark.parametrize(
    "table", [1, [], {}, {"version": 1}, {"version": 1, "log": "{}", "last_position": 0, "segments": []}, "no"]
)
def test_what_is_whole_and_no_catalogue_is_refused(table: Any):
    with pytest.raises(LogDamagedError):
        archive.decode(sealed(table), "the catalogue")


def test_a_newer_catalogue_is_not_read(catalogue: Catalogue):
    table = msgpack.unpackb(archive.encode(catalogue)[:-8])
    with pytest.raises(LogFormatError, match="version 2"):
        archive.decode(sealed(table | {"version": 2}), "the catalogue")


def test_the_place_of_an_archive_is_read_as_it_was_written(tmp_path: Path):
    place = Place("ab" * 16, "s3://bucket/some/prefix", "ef" * 16)
    assert archive.read_place(Files(), tmp_path, place.log_id) is None
    archive.write_place(Files(), tmp_path, place)
    assert archive.read_place(Files(), tmp_path, place.log_id) == place
    assert json.loads((tmp_path / "archive.json").read_bytes()) == {
        "version": 1,
        "log_id": place.log_id,
        "url": place.url,
        "id": place.id,
        "owner": 0,
    }
    with pytest.raises(LogDamagedError, match="another log"):
        archive.read_place(Files(), tmp_path, "cd" * 16)
    flip(tmp_path / "archive.json", 0)
    with pytest.raises(LogDamagedError, match="is damaged"):
        archive.read_place(Files(), tmp_path, place.log_id)
    for text in ("", "[]", "{}", '{"version": 2}', '{"version": 1, "log_id": "x"}', '{"version": "1"}', "1"):
        (tmp_path / "archive.json").write_text(text)
        with pytest.raises(EvtoolError):
            archive.read_place(Files(), tmp_path, place.log_id)
