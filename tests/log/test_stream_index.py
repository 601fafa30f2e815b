"""streams.idx: one stream is read from the frames that hold it, and no damage to the file hides an event."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Row, check_sound, config, event, frames_log, ids, make_log, make_segments, many, rows, segments

import evtool
from evtool import envelope
from evtool.errors import LogDamagedError
from evtool.lifecycle.verify import verify
from evtool.log.format import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from evtool.log.writer import Encoded

Change = Callable[[Path], None]

HEADER_BYTES, PAGE_BYTES, ENTRY_BYTES = 72, 16, 4
EVERY = 97  # of two thousand streams, so many are enough where each takes a reading of its partition
NAMES = ("user-0", "user-1", "user-2", "user-3", "é 漢字", "x" * 1024)


def index_of(folder: Path, number: int = 0) -> Path:
    return segments(folder)[number] / "streams.idx"


def streams_of(folder: Path) -> dict[str, list[Row]]:
    """The events of each stream, told apart here."""
    found: dict[str, list[Row]] = {}
    for row in rows(evtool.open(folder, read_only=True)):
        found.setdefault(row["stream_id"], []).append(row)
    return found


def check_streams(folder: Path) -> None:
    """Some streams alone, and all together, are what a reading of everything gives; so is one without events."""
    log = evtool.open(folder, read_only=True)
    found = streams_of(folder)
    for name in [*found][::EVERY]:
        assert log.stream(name).to_dicts() == found[name]
    together = sorted((row for part in found.values() for row in part), key=lambda row: row["position"])
    assert rows(log, streams=found) == together
    assert len(log.stream("nobody")) == 0


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sealed segments and an active one: a frame a partition, small batches, hundreds of streams, a few."""
    folder = tmp_path_factory.mktemp("streams") / "segments"
    make_segments(
        folder,
        [many(16_400, first=50_000, streams=40), [event(40_000, "rare")], many(300, first=6_000, streams=290)],
        [[event(number, f"user-{number % 5}")] for number in range(7_000, 7_020)],
        [many(2_000, first=8_000, streams=1_900)],
        [[event(30_000, "rare"), event(30_001)]],
    )
    assert [index_of(folder, number).exists() for number in range(4)] == [True, True, True, False]
    return folder


@pytest.fixture
def log_folder(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)
    return folder


batches = st.lists(
    st.one_of(
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("ab"), st.sampled_from("st")), max_size=12),
        st.just("large"),
        st.just("reopen"),
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(
    parts=batches,
    asked=st.sets(st.sampled_from([*NAMES, "nobody"])),
    more=st.fixed_dictionaries(
        {},
        optional={
            "types": st.sets(st.sampled_from(["a", "b", "ItemViewed"])),
            "sources": st.sets(st.sampled_from(["s", "t", "shop"])),
            "start": st.integers(0, 60),
            "partitions": st.sets(st.integers(0, 1)),
        },
    ),
    segment_bytes=st.sampled_from([1, 6_000, 60_000]),
)
def test_streams_are_what_a_filter_over_everything_gives(
    parts: list[list[tuple[str, str, str]] | str], asked: set[str], more: dict[str, set[str]], segment_bytes: int
):
    with tempfile.TemporaryDirectory() as root:
        folder, number, chosen = Path(root) / "segments", 0, config(segment_bytes, partitions=2)
        log = evtool.open(folder, create=True, config=chosen)
        for part in parts:
            if part == "reopen":
                log.close()
                log = evtool.open(folder, config=chosen)
            elif part == "large":
                log.append(many(4_096, first=number + 100_000, streams=5))
            else:
                log.append(
                    [
                        event(number + place, stream, event_type=kind, source_id=source)
                        for place, (stream, kind, source) in enumerate(part)
                    ]
                )
            number += 5_000
        expected = [
            row
            for row in rows(
                log, **{name: value for name, value in more.items() if name in ("start", "partitions")}
            )
            if row["stream_id"] in asked
            and row["event_type"] in more.get("types", {row["event_type"]})
            and row["source_id"] in more.get("sources", {row["source_id"]})
        ]
        assert rows(log, streams=asked, **more) == expected
        log.reindex()
        assert rows(log, streams=asked, **more) == expected
        log.close()


def test_every_stream_is_found(original: Path):
    log, found = evtool.open(original, read_only=True), streams_of(original)
    assert len(found) > 1_000
    for name, expected in found.items():
        assert log.stream(name, columns=["position"])["position"].to_list() == [
            row["position"] for row in expected
        ]


def test_frames_without_the_stream_are_not_read(log_folder: Path):
    expected = streams_of(log_folder)["rare"]
    flip(frames_log(log_folder, 1), SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 40)
    log = evtool.open(log_folder, read_only=True)
    assert log.stream("rare").to_dicts() == expected
    with pytest.raises(LogDamagedError):
        log.stream("user-0")
    index_of(log_folder, 1).unlink()
    with pytest.raises(LogDamagedError):
        evtool.open(log_folder, read_only=True).stream("rare")


def put(data: bytes) -> Change:
    return lambda folder: index_of(folder).write_bytes(data) and None


def cut(size: int) -> Change:
    return lambda folder: os.truncate(index_of(folder), size)


def lengthen(folder: Path) -> None:
    with index_of(folder).open("ab") as file:
        file.write(bytes(4))


def of_another_segment(folder: Path) -> None:
    shutil.copy(index_of(folder, 1), index_of(folder))


def of_another_log(folder: Path) -> None:
    """It has the same frames, positions and streams, and another id."""
    other = folder.parent / "other"
    make_segments(other, [many(16_400, first=50_000, streams=40)], [[event(1)]])
    shutil.copy(index_of(other), index_of(folder))


def of_other_frames(folder: Path) -> None:
    """The log once went on in another way: same id and first position, other events."""
    branch = folder.parent / "branch"
    shutil.copytree(folder, branch)
    for place, name in ((folder, "here"), (branch, "there")):
        with evtool.open(place, config=config(segment_bytes=1)) as log:
            log.append([event(41_000, name)])
    shutil.copy(index_of(branch, 3), index_of(folder, 3))


def a_folder(folder: Path) -> None:
    index_of(folder).unlink()
    index_of(folder).mkdir()


CHANGES: dict[str, Change] = {
    "missing": lambda folder: index_of(folder).unlink(),
    "all missing": lambda folder: [path.unlink() for path in folder.glob("*/streams.idx")] and None,
    "empty": put(b""),
    "garbage": put(bytes(range(256)) * 20),
    "zeros": put(bytes(5_000)),
    "torn in the header": cut(40),
    "torn behind the header": cut(HEADER_BYTES),
    "torn in the directory": cut(HEADER_BYTES + 5),
    "torn in the entries": cut(HEADER_BYTES + 3 * PAGE_BYTES),
    "too long": lengthen,
    "of another segment": of_another_segment,
    "of another log": of_another_log,
    "of other frames": of_other_frames,
    "a folder in its place": a_folder,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_is_not_its_own_changes_no_answer(log_folder: Path, change: Change):
    change(log_folder)
    check_streams(log_folder)


def test_a_flipped_bit_anywhere_hides_no_event(folder: Path):
    make_segments(folder, [[event(number, f"user-{number % 3}") for number in range(9)]], [[event(10, "user-0")]])
    path, expected = index_of(folder), streams_of(folder)
    for byte in range(path.stat().st_size):
        flip(path, byte, byte % 8)
        log = evtool.open(folder, read_only=True)
        assert {name: log.stream(name).to_dicts() for name in expected} == expected, byte
        flip(path, byte, byte % 8)


def test_what_was_noted_is_what_is_read_back(log_folder: Path):
    """A writer that has seen all batches, one that came later, and a reindex write the same bytes."""
    written = {path: path.read_bytes() for path in log_folder.glob("*/streams.idx")}
    assert len(written) == 3
    index_of(log_folder, 1).write_bytes(b"lies")
    for number in (0, 2):
        index_of(log_folder, number).unlink()
    with evtool.open(log_folder) as log:
        assert ids(log, streams=["rare"]) == ["event-40000", "event-30000"]
        log.reindex()
        assert {path: path.read_bytes() for path in log_folder.glob("*/streams.idx")} == written
        flip(frames_log(log_folder, 1), SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 40)
        assert ids(log, streams=["rare"]) == ["event-40000", "event-30000"]  # it uses what it has made
    in_one_go = log_folder.parent / "one"
    with evtool.open(in_one_go, create=True, config=config(segment_bytes=30_000)) as log:
        while len(segments(in_one_go)) < 2:
            log.append([event(log.position, f"user-{log.position % 9}"), event(log.position + 1_000, "second")])
        before = index_of(in_one_go).read_bytes()
        log.reindex()
    assert index_of(in_one_go).read_bytes() == before


def test_batches_that_are_committed_together_have_their_own_frames(folder: Path):
    with evtool.open(folder, create=True, config=config(segment_bytes=1)) as log:
        writer = log.writer()
        prepared = [writer.prepare(envelope.batch([event(number, f"user-{number}")])) for number in range(3)]
        writer.commit_together(
            [Encoded(batch, [writer.encode(part) for part in batch.parts]) for batch in prepared]
        )
    before = index_of(folder).read_bytes()
    with evtool.open(folder) as log:
        assert [ids(log, streams=[f"user-{number}"]) for number in range(3)] == [[f"event-{n}"] for n in range(3)]
        log.reindex()
    assert index_of(folder).read_bytes() == before


def test_a_segment_that_is_sealed_again_has_its_index_again(log_folder: Path):
    written = index_of(log_folder, 1).read_bytes()
    for name in ("streams.idx", "segment.msgpack"):
        (segments(log_folder)[1] / name).unlink()
    with evtool.open(log_folder) as log:
        log.writer()
    assert index_of(log_folder, 1).read_bytes() == written
    check_sound(log_folder)


def test_damage_in_earlier_frames_does_not_stop_the_writer(folder: Path):
    make_log(folder, [[event(1)], [event(2, "user-2")]])
    flip(frames_log(folder), SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 40)
    with evtool.open(folder, config=config(segment_bytes=1)) as log:
        assert log.append([event(3, "user-3")]).first_position == 3
    assert not index_of(folder).exists()
    with pytest.raises(LogDamagedError):
        evtool.open(folder, read_only=True).stream("user-1")


@pytest.mark.parametrize("streams", [1, 255, 4_000])
def test_its_size_is_bounded_by_its_entries(folder: Path, streams: int):
    make_segments(folder, [many(4_096, streams=streams)], [[event(9_999)]])
    entries = streams  # one partition would be one frame, and eight are too many for these few: a mixed one
    size = index_of(folder).stat().st_size
    assert size == HEADER_BYTES + max(1, entries // 256) * PAGE_BYTES + entries * ENTRY_BYTES


@pytest.mark.parametrize("fast", [False, True])
def test_verify_finds_one_that_differs(log_folder: Path, fast: bool):
    assert verify(evtool.open(log_folder, read_only=True), fast=fast).findings == []
    flip(index_of(log_folder, 2), -1)
    [found] = verify(evtool.open(log_folder, read_only=True), fast=fast).findings
    assert (found.file, found.severity, "reindex" in found.hint) == (str(index_of(log_folder, 2)), "derived", True)
