"""Compact: the same events in fewer bytes, whatever it is cut short by, and whoever reads meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from compacting import TARGET_BYTES, bring_to, compacted, estimated
from faults import Fault, FaultyFiles, Killed, flip, full_disk
from samples import (
    MOMENT_NS,
    ODD_IDS,
    ODD_OBJECTS,
    ODD_TEXTS,
    check_sound,
    config,
    event,
    ids,
    make_log,
    make_segments,
    many,
    rows,
    segments,
)

import evtool
from evtool.errors import (
    ConfigError,
    IdConflictError,
    LogDamagedError,
    LogLockedError,
    LogReadOnlyError,
    NoSpaceError,
)
from evtool.ingest import resume
from evtool.lifecycle import logfiles
from evtool.lifecycle.compact import compact
from evtool.lifecycle.verify import verify
from evtool.log.format import FRAME_HEADER_BYTES

RESUME = resume.ResumePoint("load", "a.ndjson", 7, 0, 0, 0).as_map()


def odd_events() -> list[dict[str, Any]]:
    """Every odd text and object, ids with and without canonical UUIDs, times of every unit."""
    return [
        event(
            number,
            ODD_TEXTS[number % len(ODD_TEXTS)],
            event_id=ODD_IDS[number] if number < len(ODD_IDS) else f"event-{number}",
            event_type=ODD_TEXTS[number % 5],
            timestamp=MOMENT_NS + (-1) ** number * 10 ** (number % 18),
            payload=ODD_OBJECTS[number % len(ODD_OBJECTS)],
            metadata=ODD_OBJECTS[number % len(ODD_OBJECTS)] if number % 3 else None,
        )
        for number in range(60)
    ]


@pytest.fixture
def small(folder: Path) -> Path:
    """Three sealed segments and an active one: batches small, empty and with maps; a repeated stream."""
    events = odd_events()
    with evtool.open(folder, create=True, config=config(segment_bytes=6_000)) as log:
        for start in range(0, 60, 4):
            log.append(events[start : start + 4])
            if start == 16:
                log.append([], resume=RESUME)
    assert len(segments(folder)) > 3
    return folder


def everything(folder: Path) -> tuple[Any, ...]:
    """All that must stay."""
    log = evtool.open(folder, read_only=True)
    snapshot = log.snapshot()
    positions = range(1, log.position + 1)
    return (
        b"".join(log.replay()),
        verify(log).digest,
        [(snapshot.chain_at(position), snapshot.recorded_at(position)) for position in positions],
        resume.find(snapshot, "load"),
        [log.find(row["event_id"]) for row in rows(log)],
        verify(log).batches,
    )


def cold_files(folder: Path) -> list[str]:
    return sorted(path.name for path in segments(folder)[0].iterdir())


@pytest.mark.parametrize("state", ["cold", "merged", "mixed"])
def test_nothing_changes_but_the_files(small: Path, state: str):
    before, report = everything(small), check_sound(small)
    bring_to(small, state)
    assert everything(small) == before
    after = check_sound(small)
    assert (after.digest, after.notes) == (report.digest, [])
    assert len(segments(small)) == (2 if state == "merged" else report.segments)
    assert cold_files(small) == (
        ["frames.idx", "frames.log", "segment.msgpack", "streams.idx"]
        if state == "mixed"
        else ["events-1.map", "events-1.parquet", "segment.copy", "segment.msgpack", "streams.idx"]
    )


def test_progress_counts_each_event_once(small: Path):
    told: list[tuple[int, int]] = []
    with evtool.open(small) as log:
        report = compact(log, TARGET_BYTES, on_progress=lambda done, total: told.append((done, total)))
    events = sum(one.events for one in report.compacted)
    assert {total for _, total in told} == {events}
    assert told == sorted(told)
    assert told[-1] == (events, events)


@pytest.mark.parametrize("state", ["cold", "merged", "mixed"])
def test_a_compacted_log_is_gone_on_with(small: Path, state: str):
    bring_to(small, state)
    stored = rows(evtool.open(small))
    with evtool.open(small) as log:
        again = log.append(pl.DataFrame(stored).drop("position", "recorded_at"))
        assert (again.count, again.duplicates) == (0, len(stored))
        with pytest.raises(IdConflictError, match=r"as position 3$"):
            log.append([stored[2] | {"event_type": "Other"}])
        commit = log.append([event(100, ODD_TEXTS[0])])
    last = [row["stream_version"] for row in stored if row["stream_id"] == ODD_TEXTS[0]][-1]
    assert commit.first_position == len(stored) + 1
    assert rows(evtool.open(small), start=commit.first_position)[0]["stream_version"] == last + 1
    check_sound(small)


def test_indexes_are_made_anew_from_cold_segments(small: Path):
    with evtool.open(small) as log:
        before = log.reindex()
    bring_to(small, "merged")
    shutil.rmtree(small / "index")
    (segments(small)[0] / "streams.idx").unlink()
    with evtool.open(small) as log:
        assert log.reindex() == before
        assert log.append([odd_events()[59]]).duplicates == 1
    assert check_sound(small).notes == []


def test_an_index_that_is_behind_takes_up_a_part_of_a_stripe(small: Path):
    shutil.copytree(small / "index", small.with_name("old"))
    with evtool.open(small, config=config(segment_bytes=1)) as log:
        log.append([event(200)])
        log.append([event(201)])
    compacted(small)
    shutil.rmtree(small / "index")
    shutil.move(small.with_name("old"), small / "index")
    with evtool.open(small) as log:
        assert log.append([event(200), event(202)]).duplicates == 1
        assert log.writer().indexed.ids == log.position
    check_sound(small)


def test_large_batches_are_split_into_partitions_and_read_by_them(folder: Path):
    batches = [many(5_000, first=5_000 * number, streams=40) for number in range(3)]
    make_log(folder, batches[:2], config(partitions=2, segment_bytes=1))
    make_log(folder, batches[2:])
    before = rows(evtool.open(folder))
    digest = check_sound(folder).digest
    compacted(folder)
    log = evtool.open(folder, read_only=True)
    cold = log.snapshot().segments[0]
    assert set(cold.table["header"]["partition"]) == {0, 1}
    assert cold.table["header"]["count"].max() <= 700
    assert rows(log) == before
    assert check_sound(folder).digest == digest
    chosen, was_indexed = cold.rows_of(evtool.log.streamindex.stream_hashes(["user-7"]))
    assert was_indexed
    assert len(chosen) < len(cold.table) / 2
    assert log.stream("user-7").to_dicts() == [row for row in before if row["stream_id"] == "user-7"]


def test_small_neighbours_are_merged_and_large_cold_ones_are_left(folder: Path):
    make_segments(folder, *[[many(300, first=300 * number)] for number in range(5)])
    first = compacted(folder, 0)
    assert [(one.segments, one.events) for one in first.compacted] == [(1, 300)] * 4
    assert compacted(folder, 0).compacted == []
    sizes = [segment.log_bytes for segment in evtool.open(folder).snapshot().segments[:-1]]
    second = compacted(folder, sum(sizes[:2]) + 10)
    assert [(one.segments, one.first_position) for one in second.compacted] == [(2, 1), (2, 601)]
    assert check_sound(folder).segments == 3
    assert cold_files(folder)[0] == "events-2.map"


def test_what_is_estimated_is_about_what_comes_out(folder: Path):
    make_segments(folder, [many(6_000)], [many(6_000, first=6_000)], [many(10, first=12_000)])
    before = sorted(path for path in folder.rglob("*"))
    told = estimated(folder)
    assert sorted(path for path in folder.rglob("*")) == before
    done = compacted(folder).compacted
    assert [(one.segments, one.bytes_before) for one in told.compacted] == [(2, done[0].bytes_before)]
    assert told.compacted[0].bytes_after == pytest.approx(done[0].bytes_after, rel=0.3)


def test_payload_fields_become_columns_for_whoever_reads_the_file(folder: Path):
    events = [event(number, payload=text) for number, text in enumerate(ODD_OBJECTS)]
    events += [event(number, payload=json.dumps({"user": {"id": f"é{number}"}})) for number in range(20, 90)]
    make_segments(folder, [events], [many(10, first=1_000)])
    names = ("payload.user.id", "payload.n")
    compacted(folder, TARGET_BYTES, *names)
    compacted(folder, TARGET_BYTES, "payload.n")
    table = pq.read_table(segments(folder)[0] / "events-1.parquet").sort_by("position")
    assert table["payload.user.id"].to_pylist()[-1] == "é89"
    assert table["payload.n"].to_pylist()[3] == "1.0"
    assert evtool.open(folder).snapshot().segments[0].summary["materialised"] == sorted(names)  # type: ignore[attr-defined]
    check_sound(folder)
    compacted(folder, TARGET_BYTES, "payload.z")
    assert set(pq.read_schema(segments(folder)[0] / "events-2.parquet").names) > {*names, "payload.z"}
    check_sound(folder)


@pytest.mark.parametrize("text", ["user_id", "payload", "payload.", "payload[", "payload[0]", "metadata"])
def test_a_path_that_makes_no_sense_changes_nothing(small: Path, text: str):
    with pytest.raises(ConfigError, match="--materialise"):
        compacted(small, TARGET_BYTES, text)
    assert not (small / "compact.lock").exists()


# Whatever cuts it short.


def killed(folder: Path, call: int, done: float) -> bool:
    """Compact until a call of the operating system; whether it came to that."""
    files = FaultyFiles(Fault(call, done))
    with evtool.open(folder, files=files) as log:
        try:
            compact(log, TARGET_BYTES)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("done", [0, 1])
def test_killed_at_any_call_the_next_run_finishes(folder: Path, done: float):
    make_segments(folder, [odd_events()[:3]], [[event(70)], [event(71)]], [[event(72)]])
    replay, digest = b"".join(evtool.open(folder).replay()), check_sound(folder).digest
    call, again = 1, folder.with_name("again")
    while True:
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(folder, again)
        is_killed = killed(again, call, done)
        assert b"".join(evtool.open(again, read_only=True).replay()) == replay
        if not is_killed:
            break
        with evtool.open(again) as log:
            assert log.append([event(1000 + call), event(72)]).duplicates == 1
        compacted(again)
        assert cold_files(again)[1:] == ["events-1.parquet", "segment.copy", "segment.msgpack", "streams.idx"]
        assert check_sound(again).segments == 2
        assert b"".join(evtool.open(again).replay(end=7)) == replay
        call += 1
    assert call > 8
    assert check_sound(again).digest == digest


def test_killed_between_the_switch_and_the_end_of_removing(small: Path, monkeypatch: pytest.MonkeyPatch):
    before = everything(small)

    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("evtool.log.streamframes.write", killed)
        with pytest.raises(Killed):
            compacted(small)
    assert len(segments(small)) > 3
    assert everything(small) == before
    report = verify(evtool.open(small, read_only=True))
    assert (report.findings, len(report.notes)) == ([], len(segments(small)) - 1)  # and streams.idx
    with evtool.open(small) as log:
        log.append([event(300)])
    compacted(small)
    assert len(segments(small)) == 2
    check_sound(small)


def test_a_full_disk_leaves_the_log_as_it_was(small: Path):
    before, names = everything(small), sorted({*small.rglob("*"), small / "writer.lock"})
    for call in range(1, 4):
        with evtool.open(small, files=full_disk(call)) as log, pytest.raises(NoSpaceError):
            compact(log, TARGET_BYTES)
        assert sorted({*small.rglob("*")} - {small / "compact.lock"}) == names
        assert everything(small) == before
        assert check_sound(small).notes == []


def test_one_compaction_at_a_time(small: Path):
    with evtool.open(small) as log:
        lock = log.files.lock(small / "compact.lock")
        with pytest.raises(LogLockedError, match="is being compacted by"):
            compact(log, TARGET_BYTES)
        lock.release()
        assert compact(log, TARGET_BYTES).compacted


def test_a_log_that_is_read_only_is_not_compacted(small: Path):
    with pytest.raises(LogReadOnlyError):
        compact(evtool.open(small, read_only=True), TARGET_BYTES)


# Others at the same time.


def test_a_reader_keeps_what_it_has_seen(small: Path):
    reader = evtool.open(small, read_only=True)
    before = rows(reader)
    scan = reader.scan(columns=["event_id"])
    snapshot = reader.snapshot()
    compacted(small)
    assert [text for events in scan for text in events["event_id"]] == [row["event_id"] for row in before]
    assert not snapshot.segments[0].is_cold
    assert reader.snapshot().segments[0].is_cold
    assert rows(reader) == before
    cold = reader.scan(columns=["event_id"])
    compacted(small, TARGET_BYTES, "payload.n")
    assert [text for events in cold for text in events["event_id"]] == [row["event_id"] for row in before]


def test_segments_that_go_while_they_are_listed_are_looked_at_again(small: Path, monkeypatch: pytest.MonkeyPatch):
    before = rows(evtool.open(small, read_only=True))
    reader = evtool.open(small, read_only=True)
    real, opened = reader._reader._open, []

    def slow(folder: Path, *arguments: Any) -> Any:
        opened.append(folder)
        if len(opened) == 2:
            compacted(small)
        return real(folder, *arguments)

    monkeypatch.setattr(reader._reader, "_open", slow)
    assert rows(reader) == before


def test_a_log_that_is_compacted_while_it_is_verified_is_clean(small: Path, monkeypatch: pytest.MonkeyPatch):
    digest = check_sound(small).digest
    real, opened = logfiles._open, []

    def slow(*arguments: Any) -> Any:
        opened.append(arguments)
        if len(opened) == 2:
            compacted(small)
        return real(*arguments)

    monkeypatch.setattr(logfiles, "_open", slow)
    report = verify(evtool.open(small, read_only=True))
    assert (report.findings, report.notes, report.digest) == ([], [], digest)
    assert report.segments == 2


def test_what_was_superseded_is_not_kept_mapped(small: Path):
    reader = evtool.open(small, read_only=True)
    reader.snapshot()
    compacted(small)
    reader.snapshot()
    assert list(reader._reader._sealed) == [1]


def test_texts_that_do_not_fit_into_one_column_become_several_stripes(
    small: Path, monkeypatch: pytest.MonkeyPatch
):
    before = everything(small)
    monkeypatch.setattr("evtool.log.stripes.TABLE_BYTES", 1)
    compacted(small)
    cold = evtool.open(small).snapshot().segments[0]
    assert len(set(cold.table["header"]["batch"])) > 8
    assert everything(small) == before
    check_sound(small)


def test_a_writer_goes_on_while_it_is_compacted(small: Path):
    with evtool.open(small, config=config(segment_bytes=6_000)) as log:
        for number in range(500, 530):
            log.append([event(number)])
            if number % 7 == 0:
                compacted(small)
            assert log.append([event(500)]).duplicates == 1
    check_sound(small)
    assert ids(evtool.open(small))[-30:] == [f"event-{number}" for number in range(500, 530)]


# Damage.


def test_a_damaged_segment_is_left_and_the_others_are_compacted(folder: Path):
    make_segments(folder, *[[many(300, first=300 * number)] for number in range(4)])
    flip(segments(folder)[1] / "frames.log", 2_000)
    report = compacted(folder)
    assert [Path(one.folder) for one in report.failures] == [segments(folder)[1]]
    assert [one.first_position for one in report.compacted] == [1, 601]
    assert [segment.is_cold for segment in evtool.open(folder).snapshot().segments] == [True, False, True, False]
    flip(segments(folder)[1] / "frames.log", 2_000)
    check_sound(folder)
    assert compacted(folder).failures == []
    check_sound(folder)


@pytest.mark.parametrize("back", [1, 60, FRAME_HEADER_BYTES])
def test_a_flipped_bit_in_a_commit_frame_is_not_compacted_away(small: Path, back: int):
    damaged_one = segments(small)[0]
    path = damaged_one / "frames.log"
    flip(path, path.stat().st_size - back)
    before = path.read_bytes()
    for report in (estimated(small), compacted(small)):
        assert [Path(one.folder) for one in report.failures] == [damaged_one]
    assert path.read_bytes() == before
    assert [one.file for one in verify(evtool.open(small, read_only=True)).findings] == [str(path)]


def damaged(folder: Path, name: str, byte: int) -> list[Any] | None:
    """What is read of a log with a flipped bit in a file; None when that is refused."""
    path = segments(folder)[0] / name
    flip(path, byte, bit=byte % 8)
    try:
        return rows(evtool.open(folder, read_only=True))
    except LogDamagedError:
        return None
    finally:
        findings = verify(evtool.open(folder, read_only=True)).findings
        flip(path, byte, bit=byte % 8)
        assert {Path(one.file).parent.name for one in findings} <= {path.parent.name, "segments"}
        assert findings


@pytest.mark.parametrize("name", ["events-1.parquet", "events-1.map"])
def test_a_flipped_bit_is_never_returned_as_data(folder: Path, name: str):
    make_segments(folder, [odd_events()[:20]], [many(3)])
    compacted(folder)
    before = rows(evtool.open(folder, read_only=True))
    size = (segments(folder)[0] / name).stat().st_size
    found = [damaged(folder, name, byte) for byte in range(0, size, max(size // 60, 1))]
    assert all(result in (None, before) for result in found)
    assert found.count(None) > len(found) / 2


@pytest.mark.parametrize("change", [lambda path: flip(path, 20), Path.unlink], ids=["flipped", "missing"])
def test_a_summary_has_a_copy(small: Path, change: Callable[[Path], Any]):
    compacted(small)
    before = everything(small)
    summary = segments(small)[0] / "segment.msgpack"
    change(summary)
    assert everything(small) == before
    [finding] = verify(evtool.open(small)).findings
    assert (finding.file, finding.severity) == (str(summary), "derived")
    compacted(small)
    assert check_sound(small).notes == []


@pytest.mark.parametrize("name", ["events-1.parquet", "events-1.map"])
def test_a_missing_file_is_named(small: Path, name: str):
    compacted(small)
    (segments(small)[0] / name).unlink()
    with pytest.raises(LogDamagedError, match=name):
        rows(evtool.open(small, read_only=True))
    assert [Path(one.file).name for one in verify(evtool.open(small, read_only=True)).findings][:1] == [name]


def test_a_summary_that_tells_of_other_events_is_found(small: Path):
    compacted(small)
    other = small.with_name("other")
    shutil.copytree(small, other)
    with evtool.open(other) as log:
        log.append([event(900)])
    cold = evtool.open(small).snapshot().segments[0]
    cold.summary["logical_digest"] = "0" * 32  # type: ignore[attr-defined]
    from evtool.log.segment import summary_record

    for name in ("segment.msgpack", "segment.copy"):
        (segments(small)[0] / name).write_bytes(summary_record(cold.summary))  # type: ignore[attr-defined]
    assert ["digest" in one.message for one in verify(evtool.open(small)).findings] == [True]
