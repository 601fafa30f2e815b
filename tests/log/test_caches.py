"""Derived files: a log without them, with old ones or with garbage in them is the same log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from faults import boot_again, flip
from samples import (
    MOMENT_NS,
    Event,
    check_sound,
    config,
    event,
    frame,
    frames_log,
    ids,
    make_log,
    make_segments,
    many,
    rows,
    segments,
)

import evtool
from evtool.errors import IdConflictError, LogDamagedError
from evtool.files import Files
from evtool.log.format import HEAD_RECORD, INDEX_ROW, seal
from evtool.log.sourcenames import read_source_names

SEGMENT_BYTES = 5_000  # of what is written behind a change
GARBAGE = bytes(i * 151 % 256 for i in range(10_000))

Change = Callable[[Path], Any]


SMALL = [
    [event(i, f"user-{i % 3}"), event(i + 100, "other", metadata='{"a":1}', source_id=f"till-{i}")]
    for i in range(10)
]
NEW = 10_000  # from here on no log of these tests has an id
TABLES = ("streams.table", "ids.table", "sources.msgpack")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several sealed segments and an active one with two batches."""
    folder = tmp_path_factory.mktemp("caches") / "segments"
    make_segments(folder, SMALL[:3], [*SMALL[3:5], many(300, first=1_000)], SMALL[5:8], SMALL[8:])
    return folder


@pytest.fixture
def log_folder(original: Path, folder: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(original, folder)
    return folder


def remove(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            paths = list(folder.glob(name))
            assert paths
            for path in paths:
                path.unlink()

    return change


def put(name: str, data: bytes, segment: int | None = None) -> Change:
    def change(folder: Path) -> None:
        path = (folder if segment is None else segments(folder)[segment]) / name
        assert path.exists()
        path.write_bytes(data)

    return change


def cut(name: str, size: int, segment: int) -> Change:
    def change(folder: Path) -> None:
        path = segments(folder)[segment] / name
        path.write_bytes(path.read_bytes()[:size])

    return change


def lengthen(name: str, data: bytes, segment: int) -> Change:
    def change(folder: Path) -> None:
        with (segments(folder)[segment] / name).open("ab") as file:
            file.write(data)

    return change


def index_of_another_segment(folder: Path) -> None:
    shutil.copy(segments(folder)[1] / "frames.idx", segments(folder)[0] / "frames.idx")


def summary_that_is_a_head(folder: Path) -> None:
    """Its checksum has the same form, and matches."""
    shutil.copy(folder / "HEAD", segments(folder)[0] / "segment.msgpack")


def summary_of_another_segment(number: int, place: int) -> Change:
    def change(folder: Path) -> None:
        shutil.copy(segments(folder)[number] / "segment.msgpack", segments(folder)[place] / "segment.msgpack")

    return change


def summary_of_another_log(folder: Path) -> None:
    other = folder.with_name("another")
    make_segments(other, SMALL[:2], SMALL[2:4])
    shutil.copy(segments(other)[0] / "segment.msgpack", segments(folder)[0] / "segment.msgpack")


def of_another_log(*names: str) -> Change:
    """Files of a log with as many events, streams and ids, which are partly the same ones."""

    def change(folder: Path) -> None:
        other = folder.with_name("another")
        make_log(other, [*SMALL[:5], many(320, first=1_000)])
        for name in names:
            assert (folder / "index" / name).exists()
            shutil.copy(other / "index" / name, folder / "index" / name)

    return change


def store_again(folder: Path) -> None:
    """Send everything that a log holds once more, to a writer of its own, and again: nothing is stored."""
    stored = rows(evtool.open(folder, read_only=True))
    with evtool.open(folder, config=config(SEGMENT_BYTES)) as log:
        for batch in (stored, stored[::-7], frame(stored)):
            given = [row | {"stream_version": None} for row in batch] if isinstance(batch, list) else batch
            commit = log.append(given)
            assert (commit.count, commit.duplicates, commit.last_position) == (0, len(batch), len(stored))
            for row in stored[::50]:
                assert log.find(row["event_id"], row["source_id"]) == row["position"]
    assert rows(evtool.open(folder, read_only=True)) == stored


def older_head(folder: Path) -> None:
    """HEAD as it was when the active segment was begun."""
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["position"], record["log_bytes"], record["frames"] = record["segment"] - 1, 64, 0
    (folder / "HEAD").write_bytes(seal(record))


def much_older_head(folder: Path) -> None:
    """HEAD as a power cut may leave it: of the first segment, which has been sealed since."""
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["position"], record["segment"], record["log_bytes"], record["frames"] = 0, 1, 64, 0
    (folder / "HEAD").write_bytes(seal(record))
    boot_again(folder)


def newer_head(folder: Path) -> None:
    record = np.frombuffer((folder / "HEAD").read_bytes(), HEAD_RECORD).copy()
    record["version"] = 2
    (folder / "HEAD").write_bytes(seal(record))


def everything_derived(folder: Path) -> None:
    tables = (f"index/{name}" for name in TABLES)
    remove("HEAD", "*/*.idx", "*/segment.msgpack", "writer.lock", *tables)(folder)


def derived_folder(folder: Path) -> None:
    shutil.rmtree(folder / "index")


CHANGES = {
    "HEAD missing": remove("HEAD"),
    "HEAD empty": put("HEAD", b""),
    "HEAD all zeros": put("HEAD", bytes(64)),
    "HEAD garbage": put("HEAD", GARBAGE[:64]),
    "HEAD too long": put("HEAD", GARBAGE[:100]),
    "HEAD of another boot": boot_again,
    "HEAD of another segment and boot": much_older_head,
    "HEAD of a newer version": newer_head,
    "frames.idx missing": remove("*/frames.idx"),
    "frames.idx empty in a sealed segment": put("frames.idx", b"", 0),
    "frames.idx empty in the active segment": put("frames.idx", b"", -1),
    "frames.idx zeros in a sealed segment": put("frames.idx", bytes(5 * INDEX_ROW.itemsize), 0),
    "frames.idx zeros in the active segment": put("frames.idx", bytes(4 * INDEX_ROW.itemsize), -1),
    "frames.idx garbage in a sealed segment": put("frames.idx", GARBAGE, 0),
    "frames.idx garbage in the active segment": put("frames.idx", GARBAGE, -1),
    "frames.idx too short in a sealed segment": cut("frames.idx", 150, 0),
    "frames.idx too short in the active segment": cut("frames.idx", INDEX_ROW.itemsize, -1),
    "frames.idx too long in a sealed segment": lengthen("frames.idx", GARBAGE[:300], 0),
    "frames.idx too long in the active segment": lengthen("frames.idx", GARBAGE[:300], -1),
    "frames.idx of another segment": index_of_another_segment,
    "segment.msgpack missing": remove("*/segment.msgpack"),
    "segment.msgpack empty": put("segment.msgpack", b"", 0),
    "segment.msgpack garbage": put("segment.msgpack", GARBAGE[:200], 1),
    "segment.msgpack that is HEAD": summary_that_is_a_head,
    "segment.msgpack of a later segment": summary_of_another_segment(2, 1),
    "segment.msgpack of an earlier segment": summary_of_another_segment(1, 2),
    "segment.msgpack of another log": summary_of_another_log,
    "segment.msgpack torn": cut("segment.msgpack", 100, -2),
    **{
        f"{name} {what}": change
        for name in TABLES
        for what, change in {
            "missing": remove(f"index/{name}"),
            "empty": put(f"index/{name}", b""),
            "garbage": put(f"index/{name}", GARBAGE),
            "of a strange length": put(f"index/{name}", GARBAGE[:4096] + bytes(23)),
            "all zeros": put(f"index/{name}", bytes(1 << 16)),
            "of another log": of_another_log(name),
        }.items()
    },
    "index folder missing": derived_folder,
    "index folder of another log": of_another_log(*TABLES),
    "writer.lock missing": remove("writer.lock"),
    "everything derived missing": everything_derived,
}
on_changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@on_changes
def test_readers_see_the_same_log(log_folder: Path, change: Change):
    before = rows(evtool.open(log_folder))
    change(log_folder)
    assert rows(evtool.open(log_folder, read_only=True)) == before
    check_sound(log_folder, with_caches=False)


@on_changes
def test_the_writer_goes_on(log_folder: Path, change: Change):
    before = rows(evtool.open(log_folder))
    frames = {path: path.read_bytes() for path in log_folder.glob("*/frames.log")}
    change(log_folder)
    with evtool.open(log_folder, config=config(SEGMENT_BYTES)) as log:
        assert log.writer().cut_bytes == 0
        for number in range(NEW, NEW + 8, 2):
            log.append([event(number, "other"), event(number + 1, f"new-{number}")])
    after = rows(evtool.open(log_folder))
    assert after[: len(before)] == before
    assert len(after) == len(before) + 8
    assert all(path.read_bytes().startswith(data) for path, data in frames.items())
    check_sound(log_folder)


@on_changes
def test_what_is_sent_again_is_known(log_folder: Path, change: Change):
    change(log_folder)
    store_again(log_folder)
    make_log(log_folder, [[event(NEW), event(NEW + 1, source_id="new")], [event(NEW + 2)]], config(SEGMENT_BYTES))
    store_again(log_folder)
    with evtool.open(log_folder) as log:
        with pytest.raises(IdConflictError, match="as position"):
            log.append([event(1, payload="{}")])
        for row in rows(log, start=log.position - 40):
            assert log.find(row["event_id"]) == row["position"]
    check_sound(log_folder)


@on_changes
def test_what_was_derived_is_made_again(log_folder: Path, change: Change):
    change(log_folder)
    with evtool.open(log_folder) as log:
        assert log.append([event(NEW)]).count == 1
    for segment in segments(log_folder)[:-1]:
        assert (segment / "segment.msgpack").exists()
    frames = [(s / "frames.idx").stat().st_size // INDEX_ROW.itemsize for s in segments(log_folder)]
    assert sum(frames[:-1]) + frames[-1] >= check_sound(log_folder).frames
    assert len((log_folder / "HEAD").read_bytes()) == 64
    assert {*TABLES} <= {path.name for path in (log_folder / "index").iterdir()}
    log_id = evtool.open(log_folder).manifest.id_bytes
    names = read_source_names(Files(), log_folder / "index", log_id)
    assert names == sorted(["shop", *(f"till-{i}" for i in range(10))])


def test_head_older_than_the_frames_hides_nothing_from_the_writer(log_folder: Path):
    """As when the process was killed between the sync of a batch and the store of HEAD."""
    before = rows(evtool.open(log_folder))
    older_head(log_folder)
    first = int(segments(log_folder)[-1].name)
    assert rows(evtool.open(log_folder, read_only=True)) == before[: first - 1]
    with evtool.open(log_folder) as log:
        assert log.append([event(NEW, "other")]).first_position == len(before) + 1
    assert rows(evtool.open(log_folder))[:-1] == before
    check_sound(log_folder)


# The index of frames says which frames are read. A wrong one may stop a reader; it may never hide an event.


@pytest.mark.parametrize("segment", [0, -1], ids=["sealed", "active"])
@pytest.mark.parametrize("name", INDEX_ROW["header"].names)
def test_flipped_bit_in_frames_idx_hides_no_event(folder: Path, segment: int, name: str):
    numbers = iter(range(10))

    def small(*streams: str) -> list[Event]:
        return [event(next(numbers), stream, timestamp=MOMENT_NS) for stream in streams]

    both = ("user-1", "user-2")
    make_segments(folder, [small(stream) for stream in both] + [small(*both)], [small("user-1"), small(*both)])
    before = rows(evtool.open(folder))
    header, start = INDEX_ROW.fields["header"][:2]
    kind, offset = header.fields[name][:2]
    path = segments(folder)[segment] / "frames.idx"
    everything: list[dict[str, Any]] = [
        {},
        {"start": 1, "end": 10**6},
        {"since": MOMENT_NS - 10**15, "until": MOMENT_NS + 10**15},
        {"since": 0, "clock": "recorded"},
        {"partitions": range(8)},
    ]
    for bit in sorted({0, 1, 6, 20, 50, 8 * kind.itemsize - 1} & set(range(8 * kind.itemsize))):
        place = start + offset + bit // 8
        flip(path, place, bit % 8)
        for selected in everything:
            try:
                found = rows(evtool.open(folder, read_only=True), **selected)
            except LogDamagedError:
                continue
            assert found == before, f"bit {bit} of {name}, {selected}"
        flip(path, place, bit % 8)


# The tables of streams, ids and sources say which version comes next, and what is there already.


def next_versions(folder: Path, *streams: str) -> list[int]:
    """The versions that the next events of some streams get."""
    with evtool.open(folder, config=config(SEGMENT_BYTES)) as log:
        log.append([event(number, stream) for number, stream in enumerate(streams, NEW)])
        return [row["stream_version"] for row in rows(log, start=log.position - len(streams) + 1)]


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "index" / name).read_bytes() for name in TABLES}


EARLY = [[event(1), event(2, "user-2")], [event(3)]]
LATE = [[event(4, "user-3", source_id="till"), event(5)], [event(6, "user-2", source_id="web")]]
on_tables = pytest.mark.parametrize(
    "names", [*[(name,) for name in TABLES], TABLES[:2], TABLES[1:], TABLES], ids=str
)
on_boots = pytest.mark.parametrize("boot", [lambda folder: None, boot_again], ids=["same boot", "another boot"])


@on_boots
@on_tables
def test_tables_behind_the_log(folder: Path, names: tuple[str, ...], boot: Change):
    make_log(folder, EARLY)
    early = tables(folder)
    make_log(folder, LATE)
    for name in names:
        (folder / "index" / name).write_bytes(early[name])
    boot(folder)
    store_again(folder)
    assert next_versions(folder, "user-1", "user-2", "user-3", "user-4") == [4, 3, 2, 1]
    store_again(folder)
    # Names are synced before ids: such a file of sources alone comes from no crash, and is not made anew.
    check_sound(folder, with_caches=names != ("sources.msgpack",))


@on_boots
@on_tables
def test_tables_ahead_of_the_log(folder: Path, names: tuple[str, ...], boot: Change):
    """As in a copy of a log that was written to meanwhile: its frames were copied before its tables."""
    make_log(folder, EARLY)
    kept = {path: path.read_bytes() for path in (frames_log(folder), folder / "HEAD")}
    kept |= {folder / "index" / name: data for name, data in tables(folder).items() if name not in names}
    make_log(folder, LATE)
    for path, data in kept.items():
        path.write_bytes(data)
    boot(folder)
    store_again(folder)
    # What the tables were ahead with is not there, so it is stored when it comes, and only then.
    make_log(folder, [LATE[1]])
    store_again(folder)
    with evtool.open(folder) as log:
        assert log.append(LATE[0] + LATE[1]).duplicates == 1
    assert next_versions(folder, "user-1", "user-2", "user-3", "user-4") == [4, 3, 2, 1]
    store_again(folder)
    # Names are synced before ids: such a file of sources alone comes from no crash, and is not made anew.
    check_sound(folder, with_caches=names != ("sources.msgpack",))


@pytest.mark.parametrize("kept_bytes", [4096, 8192, 4096 + 4096 * 8])
def test_ids_of_which_only_the_first_pages_are_of_earlier_times(folder: Path, kept_bytes: int):
    """As in a copy of a log that was written to while this file was copied: what its header says is too little."""
    make_log(folder, [many(20), [event(NEW + 1)]])
    table, early = folder / "index" / "ids.table", {}
    for path in (frames_log(folder), folder / "HEAD", table):
        early[path] = path.read_bytes()
    make_log(folder, [many(1_000, first=20)])
    late = table.read_bytes()
    for path, data in early.items():
        path.write_bytes(data)
    table.write_bytes(early[table][:kept_bytes] + late[kept_bytes:])
    store_again(folder)
    with evtool.open(folder) as log:
        # In another order, so that positions in the table are those of other events now.
        assert log.append(many(1_000, first=20)[::-1]).count == 1_000
        assert log.append(many(1_020)).duplicates == 1_020
    store_again(folder)
    check_sound(folder)


def test_tables_left_growing(folder: Path):
    make_log(folder, [[event(1)]])
    for name in ("streams.growing", "ids.growing"):
        (folder / "index" / name).write_bytes(GARBAGE)
    make_log(folder, [many(6_000, first=5_000, streams=5_000).with_columns(pl.lit("till").alias("source_id"))])
    assert not list((folder / "index").glob("*.growing"))
    store_again(folder)
    assert next_versions(folder, "user-1", "user-4999", "user-5000") == [4, 2, 1]
    check_sound(folder)


def test_a_log_whose_events_lie_in_sealed_segments_only(folder: Path):
    make_log(folder, [[event(1)], [event(2, "user-2")]], config(segment_bytes=1_000))
    everything_derived(folder)
    store_again(folder)
    everything_derived(folder)
    assert next_versions(folder, "user-1", "user-2", "user-3") == [2, 2, 1]
    assert len(ids(evtool.open(folder))) == 5
    check_sound(folder)
