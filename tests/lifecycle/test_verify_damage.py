"""Verify names what is damaged, and nothing else: flipped bits, cuts and losses in every kind of file."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from compacting import compacted
from faults import flip
from projecting import configuration, purchase, write
from samples import config, event, frame, segments

import evtool
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile
from evtool.lifecycle.findings import LISTED_MAX, Finding
from evtool.lifecycle.verify import Report, verify
from evtool.log.format import INDEX_ROW
from evtool.log.segmentview import SegmentView
from evtool.log.table import HEADER_BYTES
from evtool.log.versions import StreamVersions, stream_keys
from evtool.projections import places, projection, snapshots
from evtool.schemas import document
from evtool.schemas.registry import Registry

SEED = 20260201
PLACES = 6  # of a file that are tried

SUMS = """
[keys]
product = "payload.product_id"
[measures]
orders = "count(*)"
latest = "last(event_id)"
"""

# Each flip is found in: the log's own files, what is made again, and files whose content is covered only in part.
LOG = (
    "00000000000000000001/events-1.parquet",
    "00000000000000000001/events-1.map",
    "00000000000000000201/frames.log",
    "00000000000000000301/frames.log",
    "schemas/schemas.ndjson",
)
DERIVED = (
    "00000000000000000001/segment.msgpack",
    "00000000000000000001/segment.copy",
    "00000000000000000001/streams.idx",
    "00000000000000000201/segment.msgpack",
    "00000000000000000201/frames.idx",
    "00000000000000000201/streams.idx",
    "00000000000000000301/frames.idx",
    "HEAD",
    "index/sources.msgpack",
    "read-models/mine/v1/mine.parquet",
    "read-models/mine/v1/state/checkpoint",
    "read-models/mine/v1/state/000000000001.arrow",
    "snapshots/SNAPSHOT/record",
    "snapshots/SNAPSHOT/mine.parquet",
    "snapshots/SNAPSHOT/state/checkpoint",
)
IN_PART = (
    "dead-letters/dead-letters.ndjson",
    "index/ids.table",
    "index/streams.table",
    "read-models/mine/promoted.json",
    "read-models/mine/v1/mine.lineage.json",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a cold, a sealed and an active segment, and something of all that stands beside them."""
    folder = tmp_path_factory.mktemp("damage") / "segments"
    own = folder.parent / "own"
    write(own, SUMS)
    events = [purchase(number, user=f"u{number % 17}") for number in range(400)]
    for start, segment_bytes in ((0, 1), (100, 1), (200, 1 << 20), (250, 1), (300, 1 << 20), (350, 1 << 20)):
        with evtool.open(folder, create=True, config=config(segment_bytes, partitions=2)) as log:
            log.append(frame(events[start : start + (50 if start >= 200 else 100)]))
        if start == 100:
            compacted(folder)
    with evtool.open(folder) as log:
        Registry(log.files, folder).add("ItemPurchased", document.parse('{"type":"object"}', "it"))
        letters = [
            DeadLetter("2026-01-01T00:00:00Z", "invalid_json", "no", "stdin", n, 3, b"{1}") for n in (1, 2, 3)
        ]
        DeadLetterFile(log.files, folder, durable=True).append(letters)
        snapshots.take(log, projection.open(log, "mine", configuration(log, own)))
        places.promote(log.files, folder / "read-models", "mine", 1)
    assert [segment.name for segment in segments(folder)] == [f"{first:020}" for first in (1, 201, 301)]
    return folder


@pytest.fixture
def log_folder(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)
    return folder


def check(folder: Path, fast: bool = False) -> Report:
    return verify(evtool.open(folder, read_only=True), fast=fast)


def named(folder: Path, name: str) -> Path:
    """A file by its name here."""
    return folder / name.replace("SNAPSHOT", next(path.name for path in (folder / "snapshots").glob("*/")))


def places_of(path: Path, name: str) -> list[int]:
    print(f"seed {SEED}, {name}")
    choose = random.Random(f"{SEED} {name}")
    size = path.stat().st_size
    return sorted({0, size - 1, *(choose.randrange(size) for _ in range(PLACES))})


def views(folder: Path) -> list[SegmentView]:
    return list(evtool.open(folder, read_only=True).snapshot().segments)


def told(findings: list[Finding]) -> set[str]:
    return {finding.file for finding in findings}


def test_what_is_whole_is_clean(original: Path):
    for fast in (False, True):
        report = check(original, fast)
        assert (report.findings, report.notes, report.error) == ([], [], None)
        counts = (report.ids, report.schemas, report.dead_letters, report.read_models, report.states)
        assert counts == (400, 1, 3, 1, 1)
        assert (report.events, report.segments, report.snapshots) == (400, 3, 1)
        assert (report.digest is None) == fast


@pytest.mark.parametrize("name", [*LOG, *DERIVED, *IN_PART])
def test_a_flipped_bit_is_found_in_its_file_and_nowhere_else(log_folder: Path, name: str):
    path = named(log_folder, name)
    pieces = {view.path: view for view in views(log_folder)}
    severity = "log" if name in LOG or name.startswith("dead-letters") else "derived"
    for byte in places_of(path, name):
        flip(path, byte, byte % 8)
        report = check(log_folder)
        assert told(report.findings) == {str(path)} or (name in IN_PART and not report.findings), (byte, report)
        assert {finding.severity for finding in report.findings} <= {severity}, byte
        assert told(report.notes) <= {str(path)}, byte
        if path in pieces:
            check_place(pieces[path], byte, report.findings)
        fast = check(log_folder, fast=True)
        assert told(fast.findings) <= told(report.findings), byte
        flip(path, byte, byte % 8)
    assert check(log_folder).is_clean


def check_place(view: SegmentView, byte: int, findings: list[Finding]) -> None:
    """The finding is of the piece that has this byte."""
    ends = [*view.table["offset"].tolist()[1:], view.log_bytes]
    number = next((n for n, end in enumerate(ends) if byte < end), -1)
    is_inside = byte >= int(view.table["offset"][0])
    if is_inside and all(finding.number is not None for finding in findings):
        header = view.table["header"][number]
        [finding] = findings
        assert finding.number == number
        assert (finding.first_position, finding.last_position) == (
            header["first_position"],
            header["last_position"],
        )
    else:
        assert not is_inside or view.is_cold or byte < 64


CUT = {
    **dict.fromkeys((*LOG[:4], "schemas/schemas.ndjson"), "log"),
    **dict.fromkeys((*DERIVED, "index/ids.table", "index/streams.table", *IN_PART[3:]), "derived"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_was_cut_short_is_named(log_folder: Path, name: str):
    path = named(log_folder, name)
    data = path.read_bytes()
    for size in (len(data) // 2, len(data) - 1 - name.endswith(".json")):  # a line feed is of no use
        path.unlink()  # what is the same file by another name stays as it is
        path.write_bytes(data[:size])
        for fast in (False, True):
            report = check(log_folder, fast)
            if not fast or report.findings or name.endswith((".copy", ".arrow")):
                found = [one for one in report.findings if one.file == str(path)]
                assert fast or [one.severity for one in found] == [CUT[name]]
                assert told([*report.findings, *report.notes]) <= {str(path)}


@pytest.mark.parametrize("name", [*LOG, *DERIVED, *IN_PART])
def test_a_file_that_is_missing_is_named(log_folder: Path, name: str):
    """Whoever may be deleted, and comes back, is no damage."""
    named(log_folder, name).unlink()
    report = check(log_folder)
    comes_back = ("HEAD", "index/", "frames.idx", "streams.idx", "00000000000000000201/segment.msgpack")
    if name.startswith(("dead-letters", "schemas", "read-models/mine/promoted")) or "0301/frames.idx" in name:
        assert (report.findings, report.notes) == ([], [])  # nothing tells that there was one
    elif name.endswith("state/checkpoint"):
        assert (report.findings, report.states) == ([], 1 - name.startswith("read-models"))
    else:
        found = [*report.findings, *report.notes]
        assert told(found) == {str(named_before(log_folder, name))}
        assert report.is_clean == any(word in name for word in comes_back)


def named_before(folder: Path, name: str) -> Path:
    return folder / name.replace("SNAPSHOT", next(path.name for path in (folder / "snapshots").glob("*/")))


def test_log_json_with_another_id_is_named_and_not_everything_else(log_folder: Path):
    path = log_folder / "log.json"
    told_id = json.loads(path.read_text())["id"]
    path.write_text(path.read_text().replace(told_id, f"{int(told_id, 16) ^ 1:032x}"))
    assert told(check(log_folder).findings) == {str(path)}
    assert told(check(log_folder, fast=True).findings) == {str(path)}


def test_damage_of_the_active_segment_is_found_without_head_too(log_folder: Path):
    active = views(log_folder)[2]
    assert len(active.commits) == 2
    (log_folder / "HEAD").unlink()
    flip(active.path, 200)
    [finding] = check(log_folder).findings
    assert (finding.file, finding.severity, finding.offset) == (str(active.path), "log", 64)


def test_every_finding_is_listed(log_folder: Path):
    """Bits of three frames of one segment, of the row group of another, and of an index."""
    hot, cold = views(log_folder)[1], views(log_folder)[0]
    for row in hot.table[:3]:
        flip(hot.path, int(row["offset"]) + 90)
    flip(cold.path, int(cold.table["offset"][0]) + 10)
    flip(hot.folder / "streams.idx", 70)
    report = check(log_folder)
    assert [(Path(one.file).name, one.number) for one in report.findings if one.severity == "log"] == [
        ("events-1.parquet", 0),
        *[("frames.log", number) for number in range(3)],
    ]
    assert report.error is not None
    assert report.error.exit_code == 14
    assert report.events == 400 - 200 - 2 * 50


def test_a_lineage_that_tells_of_another_position_is_named(log_folder: Path):
    path = log_folder / "read-models/mine/v1/mine.lineage.json"
    before = path.read_text()
    path.write_text(before.replace('"position": 400', '"position": 401'))
    assert path.read_text() != before
    for fast in (False, True):
        report = check(log_folder, fast)
        assert [(one.file, one.severity) for one in report.findings] == [(str(path), "derived")]


@pytest.mark.parametrize("name", [LOG[0], LOG[2]])
def test_bytes_behind_what_was_written_are_noted(log_folder: Path, name: str):
    path = log_folder / name
    path.write_bytes(path.read_bytes() + b"more")
    report = check(log_folder)
    assert (report.findings, told(report.notes)) == ([], {str(path)})


def test_a_record_of_another_snapshot_is_named_and_is_no_second_one(log_folder: Path):
    (first,) = (log_folder / "snapshots").glob("*/")
    shutil.copytree(first, first.with_name("0123456789abcdef"))
    path = first.with_name("0123456789abcdef") / "record"
    assert [(one.file, one.severity) for one in check(log_folder).findings] == [(str(path), "derived")]
    with evtool.open(log_folder, read_only=True) as log:
        assert [each.id for each in snapshots.every(log)] == [first.name]


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("read-models/mine/v1/mine.lineage.json", "derived"),
        ("dead-letters/dead-letters.ndjson", "log"),
        ("schemas/schemas.ndjson", "log"),
    ],
)
@pytest.mark.parametrize("is_loop", [False, True], ids=["folder", "loop"])
def test_a_folder_or_a_loop_of_links_in_the_place_of_a_file_is_one_finding(
    log_folder: Path, name: str, severity: str, is_loop: bool
):
    path = log_folder / name
    path.unlink()
    if is_loop:
        path.symlink_to(path.name)
    else:
        path.mkdir()
    assert [(one.file, one.severity) for one in check(log_folder).findings] == [(str(path), severity)]


@pytest.mark.parametrize("name", ["read-models", "snapshots", "dead-letters"])
def test_a_file_in_the_place_of_a_folder_is_one_finding(log_folder: Path, name: str):
    shutil.rmtree(log_folder / name)
    (log_folder / name).touch()
    (finding,) = check(log_folder).findings
    assert finding.file.startswith(str(log_folder / name))


def test_very_many_findings_are_counted(log_folder: Path):
    path = log_folder / "dead-letters" / "dead-letters.ndjson"
    path.write_bytes(b"{}\n" * (LISTED_MAX + 7))
    report = check(log_folder)
    assert (len(report.findings), report.unlisted) == (LISTED_MAX, 7)
    assert report.findings[4].where == "line 5 at byte 12"
    assert report.error is not None
    assert "1,007 findings" in report.error.message


# The tables of the index, slot by slot.


def slots(path: Path, width: int, is_used: Callable[[bytes], bool]) -> list[int]:
    """Where the slots in use of a table's first column are."""
    data = path.read_bytes()
    capacity = int.from_bytes(data[24:32], "little")
    starts = range(HEADER_BYTES, HEADER_BYTES + capacity * width, width)
    return [start for start in starts if is_used(data[start : start + width])]


def leave_open(path: Path) -> None:
    """Let a table be as a writer leaves it that was killed: no checksum tells of its slots."""
    data = bytearray(path.read_bytes())
    data[64:72] = bytes(8)
    path.write_bytes(data)


def test_an_id_that_is_not_found_any_more_is_named_by_its_position(log_folder: Path):
    path = log_folder / "index" / "ids.table"
    leave_open(path)
    choose = random.Random(SEED)
    print(f"seed {SEED}")
    for start in choose.sample(slots(path, 8, lambda low: any(low[:5])), 12):
        position = int.from_bytes(path.read_bytes()[start : start + 5], "little")
        bit = choose.randrange(64)
        flip(path, start + bit // 8, bit % 8)
        [finding, *others] = check(log_folder).findings
        assert (finding.file, finding.severity, finding.hint.count("reindex")) == (str(path), "derived", 1)
        # A slot that is empty now may hide those behind it.
        assert position in {
            p for f in (finding, *others) for p in range(f.first_position or 0, f.last_position + 1)
        }  # type: ignore[operator]
        flip(path, start + bit // 8, bit % 8)


def test_a_stream_whose_version_is_wrong_is_named(log_folder: Path):
    path = log_folder / "index" / "streams.table"
    leave_open(path)
    choose = random.Random(SEED)
    print(f"seed {SEED}")
    for start in choose.sample(slots(path, 24, lambda slot: any(slot[16:])), 8):
        bit = choose.randrange(24 * 8)
        flip(path, start + bit // 8, bit % 8)
        findings = check(log_folder).findings
        assert {(one.file, one.severity) for one in findings} == {(str(path), "derived")}, bit
        assert all("stream '" in one.message for one in findings)
        flip(path, start + bit // 8, bit % 8)


def test_a_version_that_was_given_by_a_damaged_table_is_damage_of_the_log(log_folder: Path):
    path = log_folder / "index" / "streams.table"
    leave_open(path)
    start = slots(path, 24, lambda slot: any(slot[16:]))[0]
    flip(path, start + 16 + 5)
    with evtool.open(log_folder) as log:
        table = StreamVersions.open_read(log.files, path.parent, log.manifest.id_bytes)
        assert table is not None
        streams = log.scan(columns=["stream_id"])
        names = sorted({name for frame in streams for name in frame["stream_id"]})
        keys = stream_keys([name.encode() for name in names])
        wrong = next(name for name, last in zip(names, table.lookup([], keys), strict=True) if last > 1 << 40)
        log.append([event(100_000, wrong)])
    report = check(log_folder)
    assert [one.severity for one in report.findings] == ["log"]
    assert f"stream {wrong!r} has had" in report.findings[0].message


def test_what_a_power_cut_leaves_in_a_table_is_no_damage(log_folder: Path):
    path = log_folder / "index" / "ids.table"
    leave_open(path)
    data = bytearray(path.read_bytes())
    empty = next(at for at in range(HEADER_BYTES, len(data), 8) if not any(data[at : at + 8]))
    data[empty : empty + 8] = (7 << 40 | 333).to_bytes(8, "little")
    path.write_bytes(data)
    report = check(log_folder)
    assert (report.findings, told(report.notes)) == ([], {str(path)})
    with evtool.open(log_folder) as log:
        log.reindex()
    assert check(log_folder).notes == []


def test_an_index_that_is_behind_is_compared_as_far_as_it_reaches(log_folder: Path):
    """As a writer leaves it that was killed: the next one brings it up to date."""
    for name in ("ids.table", "streams.table"):
        path = log_folder / "index" / name
        data = bytearray(path.read_bytes())
        data[40:48] = data[48:56] = (350).to_bytes(8, "little")
        path.write_bytes(data)
    assert check(log_folder).is_clean


def test_frames_behind_a_damaged_header_are_looked_at_too(log_folder: Path):
    hot = views(log_folder)[1]
    offsets = hot.table["offset"].tolist()
    flip(hot.path, offsets[0] + 20)
    flip(hot.path, offsets[-2] + 120)
    assert [one.offset for one in check(log_folder).findings] == [offsets[0], offsets[-2]]
    flip(hot.folder / "frames.idx", INDEX_ROW.itemsize + 3)  # now nothing tells where they are
    report = check(log_folder)
    assert [one.offset for one in report.findings if one.severity == "log"] == [offsets[0]]
    assert {Path(one.file).name for one in report.findings} == {"frames.log", "frames.idx"}
