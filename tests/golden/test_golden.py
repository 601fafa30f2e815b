"""Logs that older releases wrote: read byte for byte, verified, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zstandard
from compacting import compacted
from samples import check_sound, event, frame, ids, rows, segments

import evtool
from evtool.errors import IdConflictError
from evtool.lifecycle.verify import verify
from evtool.log.format import FORMAT_VERSION, MIXED_PARTITIONS

VERSIONS = sorted(path for path in Path(__file__).parent.glob("v*") if path.is_dir())
BYTES_MAX = 300_000

golden = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)


def expected(version: Path) -> tuple[bytes, dict[str, Any]]:
    replay = zstandard.decompress((version / "expected.ndjson.zst").read_bytes())
    return replay, json.loads((version / "expected.json").read_text())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_format_version_has_a_golden_log():
    assert [path.name for path in VERSIONS] == [f"v{number}" for number in range(1, FORMAT_VERSION + 1)]


@golden
def test_it_is_small_and_has_every_kind_of_frame(version: Path):
    assert sum(map(len, contents(version).values())) < BYTES_MAX
    found = evtool.open(version / "log", read_only=True).snapshot().segments
    assert {segment.is_sealed for segment in found} == {True, False}
    partitions = {int(row["header"]["partition"]) for segment in found for row in segment.event_rows()}
    assert partitions == {0, 1, MIXED_PARTITIONS}


@golden
def test_it_is_replayed_byte_for_byte_and_left_as_it_is(version: Path):
    before = contents(version)
    replay, counts = expected(version)
    log = evtool.open(version / "log", read_only=True)
    assert b"".join(log.replay()) == replay
    assert log.position == counts["position"]
    report = verify(log)
    assert report.findings == []
    assert {name: getattr(report, name) for name in counts} == counts
    assert contents(version) == before


@golden
def test_any_part_of_it_can_be_read(version: Path):
    replay, _ = expected(version)
    lines = replay.splitlines(keepends=True)
    log = evtool.open(version / "log", read_only=True)
    for start in range(1, len(lines), 611):
        assert b"".join(log.replay(start=start, end=start + 50)) == b"".join(lines[start - 1 : start + 49])
    by_partition = [row for number in range(log.partitions) for row in rows(log, partitions=[number])]
    assert sorted(row["position"] for row in by_partition) == list(range(1, len(lines) + 1))


@golden
def test_a_copy_without_derived_files_is_the_same_log(version: Path, folder: Path):
    shutil.copytree(version / "log", folder)
    for pattern in ("HEAD", "*/frames.idx", "*/segment.msgpack"):
        for path in folder.glob(pattern):
            path.unlink()
    replay, counts = expected(version)
    assert b"".join(evtool.open(folder).replay()) == replay
    with evtool.open(folder) as log:
        log.writer()
    assert check_sound(folder).digest == counts["digest"]


@golden
def test_a_copy_can_be_compacted(version: Path, folder: Path):
    shutil.copytree(version / "log", folder)
    replay, counts = expected(version)
    report = compacted(folder)
    assert (len(report.compacted), report.failures) == (1, [])
    assert b"".join(evtool.open(folder).replay()) == replay
    found = check_sound(folder)
    assert (found.digest, found.batches, found.segments) == (counts["digest"], counts["batches"], 2)


@golden
def test_a_copy_can_be_gone_on_with(version: Path, folder: Path):
    shutil.copytree(version / "log", folder)
    replay, counts = expected(version)
    last = {row["stream_id"]: row["stream_version"] for row in rows(evtool.open(folder))}
    with evtool.open(folder) as log:
        stored = rows(log)
        again = log.append(frame(stored))  # what an older evtool stored is known to be there, too
        assert (again.count, again.duplicates) == (0, counts["events"])
        # Back then an id could be stored more than once: any of its events is known, the first one is named.
        first = next(row["position"] for row in stored if row["event_id"] == stored[-1]["event_id"])
        with pytest.raises(IdConflictError, match=f"as position {first}$"):
            log.append([stored[-1] | {"event_type": "Other"}])
        commit = log.append([event(91, "user-1"), event(92, "never seen"), event(93, "last", stream_version=2)])
        assert commit.batch == counts["batches"] + 1
        assert commit.first_position == counts["position"] + 1
        added = rows(log, start=commit.first_position)
        assert [row["stream_version"] for row in added] == [last["user-1"] + 1, 1, last["last"] + 1]
    assert b"".join(evtool.open(folder).replay(end=commit.first_position)) == replay
    assert ids(evtool.open(folder), start=commit.first_position) == ["event-91", "event-92", "event-93"]
    report = check_sound(folder)
    assert report.segments == counts["segments"] == len(segments(folder))
    assert report.digest != counts["digest"]
