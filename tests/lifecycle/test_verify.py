"""Verify: every damage is found and located, and the logical digest says whether two logs hold the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from faults import flip
from hypothesis import given
from hypothesis import strategies as st
from samples import (
    MOMENT_NS,
    ODD_IDS,
    ODD_OBJECTS,
    ODD_TEXTS,
    Event,
    check_sound,
    config,
    event,
    frames_log,
    make_log,
    make_segments,
    many,
    segments,
)

import evtool
from evtool.batch import BATCH_SCHEMA
from evtool.config import Codec
from evtool.event import EVENT_SCHEMA
from evtool.lifecycle.verify import Report, verify
from evtool.log.digest import LogicalDigest, columns_of
from evtool.log.format import (
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    checksum,
    seal,
)

Change = Callable[[dict[str, Any], list[bytes]], Any]

# With times of their own, so that the same events are the same in every log.
EVENTS: list[Event] = [
    event(
        number,
        f"user-{number % 5}",
        event_id=ODD_IDS[number] if number < len(ODD_IDS) else f"event-{number}",
        event_type=ODD_TEXTS[number % len(ODD_TEXTS)],
        timestamp=MOMENT_NS + number * 10**9,
        payload=ODD_OBJECTS[number % len(ODD_OBJECTS)],
        metadata=None if number % 3 else f'{{"number":{number}}}',
    )
    for number in range(60)
]


def check(folder: Path) -> Report:
    return verify(evtool.open(folder, read_only=True))


def digest_of(folder: Path, events: list[Event], batch: int = 1_000, **settings: Any) -> str:
    """The digest of a new log of these events, appended so many at a time."""
    shutil.rmtree(folder, ignore_errors=True)
    make_log(folder, (events[i : i + batch] for i in range(0, len(events), batch)), config(**settings))
    digest = check_sound(folder).digest
    assert digest is not None
    assert re.fullmatch("[0-9a-f]{32}", digest)
    return digest


# The logical digest.


def test_the_digest_is_the_same_however_the_events_are_stored(tmp_path: Path):
    digest = digest_of(tmp_path / "1", EVENTS)
    ways: list[dict[str, Any]] = [
        {"batch": 1},
        {"batch": 7, "segment_bytes": 1},
        {"partitions": 1},
        {"partitions": 1024, "batch": 13},
        {"codec": Codec("none")},
        {"codec": Codec("lz4"), "batch": 20},
        {"codec": Codec("zstd", 9), "segment_bytes": 5_000},
        {"fsync": "never"},
    ]
    assert [digest_of(tmp_path / "2", EVENTS, **way) for way in ways] == [digest] * len(ways)


def test_the_digest_is_the_same_for_split_and_mixed_batches(folder: Path):
    digests, frames = set(), set()
    for partitions, cuts in (
        (8, [6_000]),
        (2, [6_000]),
        (1, [6_000]),
        (2, [100, 4_097, 1_803]),
        (2, [3_000, 3_000]),
    ):
        first = 0
        batches = []
        for size in cuts:
            batches.append(many(size, first))
            first += size
        make_log(folder, batches, config(partitions=partitions))
        report = check_sound(folder)
        digests.add(report.digest)
        frames.add(report.frames)
        shutil.rmtree(folder)
    assert len(digests) == 1
    assert frames == {2, 3, 4, 7}


def test_the_digest_does_not_depend_on_the_time_of_recording(tmp_path: Path):
    assert digest_of(tmp_path / "1", EVENTS[:5]) == digest_of(tmp_path / "2", EVENTS[:5])


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": "other"},
        {"source_id": "other"},
        {"stream_id": "other"},
        {"event_type": "Other"},
        {"timestamp": MOMENT_NS + 1},
        {"schema_version": 2},
        {"payload": '{"number": 3}'},
        {"payload": '{"number":3.0}'},
        {"metadata": "{}"},
        {"metadata": '{"a":1}'},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_digest_differs_for_any_changed_field(tmp_path: Path, change: Event, place: int):
    events = [event(number, timestamp=MOMENT_NS) for number in range(6)]
    changed = [item | change if number == place else item for number, item in enumerate(events)]
    assert digest_of(tmp_path / "1", events) != digest_of(tmp_path / "2", changed)


def test_the_digest_differs_for_another_order_and_number(tmp_path: Path):
    events = [event(number, f"user-{number}", timestamp=MOMENT_NS) for number in range(6)]
    variants = [
        events,
        events[::-1],
        [events[1], events[0], *events[2:]],
        events[:-1],
        events[1:],
        [*events, events[0] | {"event_id": "event-6"}],
        [*events, events[0] | {"source_id": "till"}],
    ]
    digests = {digest_of(tmp_path / str(number), variant) for number, variant in enumerate([*variants, []])}
    assert len(digests) == len(variants) + 1


def test_the_digest_differs_when_a_text_moves_to_its_neighbour(tmp_path: Path):
    """Texts are told apart by their lengths, and an absent one from an empty object and from the next one."""
    pairs = [("ab", "c"), ("a", "bc")]
    digests = {
        digest_of(
            tmp_path / str(number), [event(1, event_id=one, timestamp=0), event(2, event_id=two, timestamp=0)]
        )
        for number, (one, two) in enumerate(pairs)
    }
    metadata = [("{}", None), (None, "{}"), (None, None)]
    digests |= {
        digest_of(
            tmp_path / f"m{number}", [event(1, metadata=one, timestamp=0), event(2, metadata=two, timestamp=0)]
        )
        for number, (one, two) in enumerate(metadata)
    }
    assert len(digests) == 5


@given(cuts=st.sets(st.integers(1, 59), max_size=6))
def test_the_digest_does_not_depend_on_how_frames_are_cut(cuts: set[int]):
    columns = {name: [item.get(name) for item in EVENTS] for name in EVENT_SCHEMA}
    columns["stream_version"] = columns["schema_version"] = [1] * len(EVENTS)
    whole = pa.RecordBatch.from_pydict({**columns, "event_uuid": [None] * len(EVENTS)}, schema=BATCH_SCHEMA)
    one, cut = LogicalDigest(), LogicalDigest()
    one.add(columns_of(whole))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        cut.add(columns_of(whole.slice(start, end - start)))
        cut.add(columns_of(whole.slice(0, 0)))
    assert one.hexdigest() == cut.hexdigest()


# What is verified, and what is said of it.


@pytest.fixture
def log_folder(folder: Path) -> Path:
    """Three sealed segments of two batches each, and an active one."""
    batches = [[event(2 * i + j, f"user-{j}", timestamp=MOMENT_NS + i) for j in range(2)] for i in range(8)]
    make_segments(folder, batches[:2], batches[2:4], batches[4:6], batches[6:])
    return folder


def test_a_clean_log_is_counted(log_folder: Path):
    report = check(log_folder)
    assert report.is_clean
    assert (report.events, report.position, report.batches, report.frames, report.segments) == (16, 16, 8, 16, 4)
    assert report.bytes == sum(path.stat().st_size for path in log_folder.glob("*/frames.log"))
    assert report.digest is not None


def test_progress_is_told(log_folder: Path):
    told: list[tuple[int, int]] = []
    verify(evtool.open(log_folder), lambda done, total: told.append((done, total)))
    assert told == [(4, 16), (8, 16), (12, 16), (16, 16)]


def test_verify_changes_nothing(log_folder: Path):
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in log_folder.rglob("*") if path.is_file()}

    before = everything()
    check(log_folder)
    flip(frames_log(log_folder, 1), SEGMENT_HEADER_BYTES + 200)
    damaged = everything()
    check(log_folder)
    assert everything() == damaged
    assert before != damaged


def test_a_log_may_be_verified_while_it_is_written(log_folder: Path):
    with evtool.open(log_folder) as log:
        log.append([event(100)])
        assert verify(log).is_clean
        assert check(log_folder).events == 17


def test_a_finding_names_the_file_the_positions_and_what_to_do(log_folder: Path):
    flip(frames_log(log_folder, 1), SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 300)
    [finding] = check(log_folder).findings
    assert (finding.file, finding.severity) == (str(frames_log(log_folder, 1)), "log")
    assert finding.where == "frame 0 at byte 64 (positions 5 to 6)"
    assert "backup" in finding.hint


@pytest.mark.parametrize("place", ["header", "frame", "body", "missing", "cut"])
@pytest.mark.parametrize("other", [0, 2, 3], ids=["an earlier", "a later", "the active"])
def test_a_damaged_segment_hides_no_damage_of_another(log_folder: Path, place: str, other: int):
    path = frames_log(log_folder, 1)
    if place == "missing":
        path.unlink()
    elif place == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        flip(path, {"header": 20, "frame": SEGMENT_HEADER_BYTES + 30, "body": SEGMENT_HEADER_BYTES + 400}[place])
    flip(frames_log(log_folder, other), SEGMENT_HEADER_BYTES + 400)
    report = check(log_folder)
    files = {finding.file for finding in report.findings}
    assert {str(path), str(frames_log(log_folder, other))} <= files
    assert report.digest is None


def test_what_is_whole_is_still_counted_beside_damage(log_folder: Path):
    flip(frames_log(log_folder, 1), SEGMENT_HEADER_BYTES + 400)
    report = check(log_folder)
    assert report.segments == 4
    assert report.events >= 12
    assert report.position == 16


def test_index_of_frames_that_differs_from_the_frames(log_folder: Path):
    flip(segments(log_folder)[1] / "frames.idx", 90)
    [finding] = check(log_folder).findings
    assert (finding.file, finding.severity) == (str(segments(log_folder)[1] / "frames.idx"), "derived")
    assert finding.where == "record 0 at byte 0"
    make_log(log_folder, [[event(99)]])
    check_sound(log_folder)


def test_summary_that_belongs_to_other_frames(log_folder: Path):
    """Both files are whole, each for itself."""
    longer = log_folder.parent / "longer"
    shutil.copytree(log_folder, longer)
    shutil.copy(segments(longer)[2] / "segment.msgpack", segments(log_folder)[1] / "segment.msgpack")
    findings = check(log_folder).findings
    assert any("segment.msgpack" in finding.file for finding in findings)


# Frames whose checksums all hold, and which break another rule: what a writer with a fault would leave.


def rewrite(folder: Path, change: Change) -> None:
    """Change the frames of a log's only segment (headers and bodies), and make every checksum and chain hold."""
    path = frames_log(folder)
    data = path.read_bytes()
    chain = int.from_bytes(data[SEGMENT_HEADER_BYTES - 8 : SEGMENT_HEADER_BYTES], "little")
    frames, at = [], SEGMENT_HEADER_BYTES
    while at < len(data):
        header = np.frombuffer(data[at : at + FRAME_HEADER_BYTES], FRAME_HEADER).copy()
        end = at + FRAME_HEADER_BYTES + -(-int(header["body_bytes"][0]) // 8) * 8
        frames.append((header, data[at + FRAME_HEADER_BYTES : end]))
        at = end
    change({"headers": [header for header, _ in frames]}, [body for _, body in frames])
    whole = data[:SEGMENT_HEADER_BYTES]
    for header, body in frames:
        header["chain"] = chain
        header["body_checksum"] = checksum(body[: int(header["body_bytes"][0])])
        whole += seal(header) + body
        chain = int(header["checksum"][0])
    path.write_bytes(whole)
    (path.parent / "frames.idx").unlink(missing_ok=True)
    (folder / "HEAD").unlink(missing_ok=True)


def set_in(number: int, **values: int) -> Change:
    def change(frames: dict[str, Any], _: list[bytes]) -> None:
        for name, value in values.items():
            frames["headers"][number][name] += value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in(0, timestamp_min=-1), "times are not those of its header"),
        (set_in(2, timestamp_max=10**9), "times are not those of its header"),
        (set_in(0, last_position=1), "positions are not those of its header"),
        (set_in(2, first_position=-1), "positions are not those of its header"),
        (set_in(1, last_position=1), "positions that do not fit"),
        (set_in(3, base_recorded_at=-(10**18)), "recorded no later"),
        (set_in(0, count=1), "holds"),
    ],
    ids=["time", "later time", "last", "first", "commit", "recorded", "count"],
)
def test_frames_that_contradict_themselves(folder: Path, change: Change, message: str):
    make_log(folder, [[event(1), event(2, "b")], [event(3), event(4)], [event(5)]])
    rewrite(folder, lambda frames, bodies: None)
    assert check(folder).is_clean
    rewrite(folder, change)
    report = check(folder)
    assert any(message in finding.message for finding in report.findings), report.findings


def test_a_frame_in_the_wrong_partition(folder: Path):
    make_log(folder, [many(2048 * 2)], config(partitions=2))
    rewrite(folder, set_in(0, partition=1))
    assert any("other partitions" in finding.message for finding in check(folder).findings)
