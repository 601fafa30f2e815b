"""Verify beside others that write: what it looks at is the log at one moment, and nothing of that is a finding."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compacting import compacted
from projecting import configuration, purchase, write
from samples import check_sound, config, event, frame, frames_log, make_log, make_segments, many, segments

import evtool
from evtool.files import Files
from evtool.lifecycle import logfiles, segmentchecks
from evtool.lifecycle.verify import Report, verify
from evtool.projections import projection, snapshots
from evtool.replay import Bound

APPENDING = Path(__file__).parent.parent / "log" / "appending.py"
COMPACTING = """
import sys, evtool
from evtool.lifecycle.compact import compact
while True:
    with evtool.open(sys.argv[1]) as log:
        compact(log, 60_000)
"""


@contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of Python, which is gone when this is left."""
    with subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("segment_bytes", [1, 20_000], ids=["a segment a batch", "some batches a segment"])
def test_nothing_is_found_beside_an_ingest_and_a_compaction(folder: Path, segment_bytes: int):
    make_log(folder, [many(10)], config(partitions=2))
    last, is_merged, count = 0, False, 0
    with (
        process(APPENDING, folder, "writer", "1", str(segment_bytes)) as writer,
        process("-c", COMPACTING, folder) as compaction,
    ):
        while not is_merged or count < 4:
            report = verify(evtool.open(folder, read_only=True), fast=count % 3 == 2)
            assert report.findings == []
            assert report.position >= last
            last, count = report.position, count + 1
            is_merged = any(segment.is_cold for segment in evtool.open(folder).snapshot().segments)
            assert (writer.poll(), compaction.poll()) == (None, None)
    check_sound(folder)


def test_nothing_is_found_beside_refreshes_and_snapshots(folder: Path):
    own = folder.parent / "own"
    write(own, '[keys]\nproduct = "payload.product_id"\n[measures]\norders = "count(*)"\n')
    make_log(folder, [frame([purchase(number) for number in range(50)])])
    is_over = threading.Event()

    def refresh() -> None:
        with evtool.open(folder, config=config(fsync="never")) as log:
            for number in range(50, 70):
                log.append(frame([purchase(number)]))
                asked = projection.open(log, "mine", configuration(log, own))
                asked.runner.refresh()
                taken = snapshots.take(log, asked, str(number))
                snapshots.drop(log, [each for each in snapshots.every(log) if each.id != taken.id])
        is_over.set()

    thread = threading.Thread(target=refresh)
    thread.start()
    while not is_over.is_set():
        assert verify(evtool.open(folder, read_only=True)).findings == []
    thread.join()
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.read_models, report.states, report.snapshots) == ([], 1, 1, 1)


def test_segments_that_are_merged_while_their_events_are_read_are_read_to_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    make_segments(folder, *([many(50, first=50 * number)] for number in range(4)))
    digest = check_sound(folder).digest
    real, done = segmentchecks.check, []

    def slow(*arguments: object) -> object:
        done.append(arguments)
        if len(done) == 2:
            compacted(folder)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(segmentchecks, "check", slow)
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes, report.digest, report.segments) == ([], [], digest, 4)
    assert len(segments(folder)) == 2


def test_a_segment_that_becomes_another_one_while_it_is_opened_is_opened_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between its summary and its frames, which then are no more."""
    make_segments(folder, *([many(50, first=50 * number)] for number in range(3)))
    digest = check_sound(folder).digest
    real, done = logfiles._map, []

    def slow(files: Files, path: Path) -> memoryview | None:
        done.append(path)
        if len(done) == 1:
            compacted(folder, 0)
        return real(files, path)

    monkeypatch.setattr(logfiles, "_map", slow)
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes, report.digest) == ([], [], digest)


# What is asked for of a part.


@pytest.fixture
def log_folder(folder: Path) -> Path:
    """Four segments of two events each, the last one active."""
    make_segments(folder, *([[event(2 * number), event(2 * number + 1)]] for number in range(4)))
    return folder


def check(folder: Path, since: Bound) -> Report:
    return verify(evtool.open(folder, read_only=True), since=since)


@pytest.mark.parametrize(("position", "skipped"), [(1, 0), (2, 0), (3, 1), (6, 2), (7, 3), (100, 3)])
def test_segments_before_a_position_are_left_out(log_folder: Path, position: int, skipped: int):
    report = check(log_folder, Bound(position=position))
    assert (report.findings, report.skipped, report.segments) == ([], skipped, 4 - skipped)
    assert (report.events, report.position) == (8 - 2 * skipped, 8)
    assert (report.digest is None) == (skipped > 0)


def test_segments_before_a_time_of_recording_are_left_out(log_folder: Path):
    times = next(iter(evtool.open(log_folder).scan(start=4, end=5, columns=["recorded_at"])))["recorded_at"]
    assert check(log_folder, Bound(time=times[0])).skipped == 1
    assert check(log_folder, Bound(time=times[0] + 1)).skipped == 2
    assert check(log_folder, Bound(time=0)).skipped == 0


def test_damage_is_found_from_there_on_and_of_what_is_no_segment(log_folder: Path):
    for number in (0, 2):
        path = frames_log(log_folder, number)
        data = bytearray(path.read_bytes())
        data[400] ^= 1
        path.write_bytes(data)
    (log_folder / "HEAD").write_bytes(bytes(64))
    found = check(log_folder, Bound(position=3)).findings
    assert {one.file for one in found} == {str(frames_log(log_folder, 2)), str(log_folder / "HEAD")}
    # One whose summary does not tell where it ends cannot be left out.
    (segments(log_folder)[0] / "segment.msgpack").unlink()
    assert check(log_folder, Bound(position=3)).skipped == 0
