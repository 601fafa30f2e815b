"""An operating system that fails at every single call: nothing acknowledged is lost, nothing is half there.

Whoever does not know what arrived sends all of it again, and then each event is there once.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, FaultyFiles, Killed, boot_again, full_disk
from samples import check_sound, config, event, frames_log, ids, make_log, many, rows, segments

import evtool
from evtool.config import Config
from evtool.errors import AccessDeniedError, LogLockedError, NoSpaceError, StorageError, WriterDeadError

# Batches of several sizes, one of them a frame a partition, some of streams and sources that others have too.
SCENARIO: tuple[Any, ...] = (
    [event(1), event(2, "user-2")],
    [event(3, metadata='{"a":1}')],
    many(2048 * 2 + 1, first=100),
    [event(4), event(5, "user-3", source_id="till"), event(6)],
    [event(7, "user-2", event_id="7cbadfce-ad60-4a3e-8799-65df6ad78e3d")],
    [event(8), event(9, "user-9", source_id="web")],
)
SETTINGS = config(segment_bytes=3_000, partitions=2)


def batch_ids(number: int) -> list[str]:
    batch = SCENARIO[number]
    return list(batch["event_id"]) if hasattr(batch, "columns") else [item["event_id"] for item in batch]


EVERYTHING = [name for number in range(len(SCENARIO)) for name in batch_ids(number)]


def run(folder: Path, files: FaultyFiles, settings: Config = SETTINGS) -> int:
    """Append the scenario until something fails; the number of acknowledged batches."""
    acknowledged = 0
    log = evtool.open(folder, config=settings, files=files)
    try:
        for batch in SCENARIO:
            log.append(batch, resume={"batch": acknowledged})
            acknowledged += 1
        log.close()
    except (Killed, StorageError):
        calls = list(files.calls)
        with pytest.raises((WriterDeadError, Killed, StorageError)):
            log.append([event(10_000)])
        log.close()
        # Whatever is tried after a failure, a writer that was writing touches nothing any more.
        assert acknowledged in (0, len(SCENARIO)) or files.calls == calls
    return acknowledged


@cache
def calls_of_the_scenario() -> int:
    """How many low-level calls the scenario makes when nothing fails."""
    with tempfile.TemporaryDirectory() as root:
        folder, files = Path(root) / "segments", FaultyFiles()
        evtool.open(folder, create=True, config=SETTINGS)
        assert run(folder, files) == len(SCENARIO)
        assert len(segments(folder)) > 2
    return len(files.calls)


def check_survives(folder: Path, acknowledged: int) -> None:
    """What readers see and what the next writer goes on with: whole batches, the acknowledged ones first.

    All that was sent, sent again, is then there once.
    """
    expected = [name for number in range(acknowledged) for name in batch_ids(number)]
    more = expected + (batch_ids(acknowledged) if acknowledged < len(SCENARIO) else [])
    seen = ids(evtool.open(folder, read_only=True))
    assert seen in (expected, more)
    with evtool.open(folder, config=SETTINGS) as log:
        log.writer()
        found = ids(log)
        assert found in (expected, more)
        assert found[: len(seen)] == seen
        send_again(log, found)
        commit = log.append([event(10_001), event(10_002, "user-2"), event(10_003, "fresh")])
        assert (commit.first_position, commit.count) == (len(EVERYTHING) + 1, 3)
    assert ids(evtool.open(folder))[:-3] == EVERYTHING
    check_sound(folder)


def send_again(log: evtool.Log, found: list[str]) -> None:
    """Send the scenario to a log that has `found` of it: each event is stored once, and none a second time."""
    for number, batch in enumerate(SCENARIO):
        commit = log.append(batch)
        is_there = batch_ids(number)[0] in found
        assert (commit.count, commit.duplicates) == ((0, len(batch)) if is_there else (len(batch), 0))
    assert ids(log) == EVERYTHING
    assert [log.append(batch).count for batch in reversed(SCENARIO)] == [0] * len(SCENARIO)
    assert ids(log) == EVERYTHING


@pytest.mark.parametrize(
    ("done", "head"),
    [
        (0, "same boot"),
        (0.4, "same boot"),
        (1, "same boot"),
        (0.4, "another boot"),
        (1, "another boot"),
        (0.99, "no head"),
    ],
    ids=lambda value: {0: "before", 0.4: "torn", 0.99: "almost", 1: "after"}.get(value, value),
)
def test_a_process_killed_at_every_call_loses_nothing(tmp_path: Path, done: float, head: str):
    for call in range(1, calls_of_the_scenario() + 1):
        folder = tmp_path / str(call)
        evtool.open(folder, create=True, config=SETTINGS)
        acknowledged = run(folder, FaultyFiles(Fault(call, done)))
        if head != "same boot" and (folder / "HEAD").exists():
            boot_again(folder) if head == "another boot" else (folder / "HEAD").unlink()
        check_survives(folder, acknowledged)
        shutil.rmtree(folder)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_an_error_at_every_call_loses_nothing(tmp_path: Path, error: int):
    for call in range(1, calls_of_the_scenario() + 1):
        folder = tmp_path / str(call)
        evtool.open(folder, create=True, config=SETTINGS)
        check_survives(folder, run(folder, FaultyFiles(Fault(call, 0.5, error))))
        shutil.rmtree(folder)


@pytest.mark.parametrize("has_tables", [True, False], ids=["with its tables", "without"])
def test_recovery_that_is_killed_at_every_call_can_be_done_again(tmp_path: Path, has_tables: bool):
    """A torn batch, a lost summary and lost indexes, and then a recovery that is cut short."""
    original = tmp_path / "original"
    make_log(original, SCENARIO, SETTINGS)
    if not has_tables:
        shutil.rmtree(original / "index")
    for path in [*original.glob("*/segment.msgpack"), *original.glob("*/frames.idx"), original / "HEAD"]:
        path.unlink()
    with frames_log(original).open("ab") as file:
        file.write(b"EVF1" + bytes(300))
    files = FaultyFiles()
    shutil.copytree(original, tmp_path / "counted")
    with evtool.open(tmp_path / "counted", config=SETTINGS, files=files) as log:
        log.writer()
    assert len(files.calls) > 10
    calls = len(files.calls)
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        shutil.copytree(original, folder)
        files = FaultyFiles(Fault(call, 0.5))
        with pytest.raises(Killed), evtool.open(folder, config=SETTINGS, files=files) as log:
            log.writer()
        check_survives(folder, len(SCENARIO))


@pytest.mark.parametrize("done", [0, 0.4, 1], ids=["before", "torn", "after"])
def test_what_is_sent_from_the_start_after_every_kill_is_there_once(folder: Path, done: float):
    """One log, whose writer is killed at its first call, at its second one of the next time, and so on."""
    evtool.open(folder, create=True, config=SETTINGS)
    stored: list[str] = []
    for call in range(1, 1_000):
        acknowledged = run(folder, FaultyFiles(Fault(call, done)))
        found = ids(evtool.open(folder, read_only=True))
        assert found[: len(stored)] == stored
        assert found == EVERYTHING[: len(found)]
        assert len(found) >= sum(len(batch) for batch in SCENARIO[:acknowledged])
        if acknowledged == len(SCENARIO):
            break
        stored = found
        if call % 3 == 0:
            boot_again(folder)
    assert found == EVERYTHING
    check_survives(folder, len(SCENARIO))


def test_making_a_log_that_is_killed_at_every_call_can_be_done_again(tmp_path: Path):
    files = FaultyFiles()
    evtool.open(tmp_path / "counted", create=True, files=files)
    for call in range(1, len(files.calls) + 1):
        for done in (0, 0.5, 1):
            folder = tmp_path / f"{call}-{done}"
            with pytest.raises(Killed):
                evtool.open(folder, create=True, files=FaultyFiles(Fault(call, done)))
            with evtool.open(folder, create=True) as log:
                log.append([event(1)])
            check_sound(folder)


# What the operating system says is said on, and nothing is tried again.


def failing(folder: Path, kind: str, error: int) -> evtool.Log:
    """A log with one batch whose next call of a kind fails."""
    make_log(folder, [[event(1)]])
    files = FaultyFiles()
    log = evtool.open(folder, files=files)
    log.append([event(2)])
    calls = sum(1 for made, _ in files.calls if made == kind)
    files.fault = Fault(calls + 1, error=error, kinds=(kind,))
    return log


ERRORS = {
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.EFBIG: NoSpaceError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.EROFS: AccessDeniedError,
    errno.EIO: StorageError,
}


@pytest.mark.parametrize("kind", ["write", "fdatasync"])
@pytest.mark.parametrize(("error", "expected"), ERRORS.items(), ids=map(errno.errorcode.get, ERRORS))
def test_an_error_is_translated_and_names_the_file(
    folder: Path, kind: str, error: int, expected: type[StorageError]
):
    log = failing(folder, kind, error)
    with pytest.raises(StorageError, match=r"frames\.log") as caught:
        log.append([event(3)])
    assert type(caught.value) is expected
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)
    log.close()
    assert ids(evtool.open(folder))[:2] == ["event-1", "event-2"]


@pytest.mark.parametrize("kind", ["write", "fdatasync"])
def test_after_a_failure_the_writer_is_dead_until_the_log_is_reopened(folder: Path, kind: str):
    log = failing(folder, kind, errno.EIO)
    files = log.files
    assert isinstance(files, FaultyFiles)
    with pytest.raises(StorageError):
        log.append([event(3)])
    files.fault = None  # it would work again, but nobody knows what is on the disk now
    calls = list(files.calls)
    for _ in range(3):
        with pytest.raises(WriterDeadError, match="Input/output error"):
            log.append([event(4)])
    assert files.calls == calls
    assert ids(log) == ["event-1", "event-2"]
    log.close()
    log.append([event(5)])
    assert [name for name in ids(log) if name != "event-3"] == ["event-1", "event-2", "event-5"]
    is_there = "event-3" in ids(log)
    commit = log.append([event(number) for number in (1, 2, 3, 5)])
    assert (commit.count, commit.duplicates) == (1 - is_there, 3 + is_there)
    log.close()
    assert sorted(ids(log)) == ["event-1", "event-2", "event-3", "event-5"]
    check_sound(folder)


def test_a_failed_sync_is_never_tried_again(folder: Path):
    log = failing(folder, "fdatasync", errno.EIO)
    files = log.files
    assert isinstance(files, FaultyFiles)
    with pytest.raises(StorageError):
        log.append([event(3)])
    syncs = [call for call in files.calls if call[0] == "fdatasync"]
    log.close()
    assert [call for call in files.calls if call[0] == "fdatasync"] == syncs


def test_a_log_whose_close_fails_has_let_go(folder: Path):
    log = failing(folder, "fdatasync", errno.EIO)
    files = log.files
    assert isinstance(files, FaultyFiles)
    with pytest.raises(StorageError):
        log.close()
    files.fault = None
    with evtool.open(folder) as other:
        other.append([event(3)])
        with pytest.raises(LogLockedError):
            log.append([event(4)])
        other.close()
        assert log.append([event(3), event(4)]).count == 1
        log.close()
    assert ids(log) == [f"event-{number}" for number in (1, 2, 3, 4)]
    check_sound(folder)


def test_a_disk_that_is_full_takes_nothing_but_keeps_everything(folder: Path):
    numbers = count(2)

    def fill(log: evtool.Log) -> None:
        while True:
            log.append([event(next(numbers))])

    make_log(folder, [[event(1)]])
    for call in range(1, 5):
        with evtool.open(folder, files=full_disk(call)) as log, pytest.raises(NoSpaceError):
            fill(log)
        assert ids(evtool.open(folder))[0] == "event-1"
    sent = [event(number) for number in range(1, next(numbers))]
    make_log(folder, [sent])
    assert sorted(ids(evtool.open(folder))) == sorted(item["event_id"] for item in sent)
    check_sound(folder)


def test_a_write_may_take_less_than_was_given(folder: Path):
    class ShortWrites(FaultyFiles):
        def write(self, descriptor: int, buffers: Any) -> int:
            return super().write(descriptor, [memoryview(b"".join(buffers)[:97])])

    with evtool.open(folder, create=True, config=SETTINGS, files=ShortWrites()) as log:
        for batch in SCENARIO[:2]:
            log.append(batch)
        log.append(many(300, first=1_000))
    assert len(rows(evtool.open(folder))) == 303
    check_sound(folder)


# The order of calls is what makes a batch durable.


def test_a_batch_is_one_write_and_one_sync(folder: Path):
    make_log(folder, [[event(1)]])
    files = FaultyFiles()
    with evtool.open(folder, files=files) as log:
        log.writer()
        for number in range(2, 5):
            files.calls.clear()
            log.append([event(number)])
            assert files.calls[:2] == [("write", "frames.log"), ("fdatasync", "frames.log")]
            assert [call for call in files.calls if call[0] == "fdatasync"] == [("fdatasync", "frames.log")]
            assert files.synced[frames_log(folder)] == frames_log(folder).stat().st_size


def test_without_fsync_nothing_is_synced_at_a_batch(folder: Path):
    make_log(folder, [[event(1)]])
    files = FaultyFiles()
    with evtool.open(folder, files=files, config=config(fsync="never")) as log:
        log.writer()
        files.calls.clear()
        log.append([event(2)])
        assert "fdatasync" not in dict(files.calls)
        assert not log.is_synced
    assert ids(evtool.open(folder)) == ["event-1", "event-2"]
    check_sound(folder)


def test_readers_are_not_told_before_the_sync(folder: Path):
    """HEAD is stored after the sync: a batch that readers saw is never taken back."""

    class LookingFiles(FaultyFiles):
        def fdatasync(self, descriptor: int) -> None:
            seen.append(evtool.open(folder, read_only=True).position)
            super().fdatasync(descriptor)

    seen: list[int] = []
    make_log(folder, [[event(1)]])
    with evtool.open(folder, files=LookingFiles()) as log:
        log.writer()
        seen.clear()
        for number in range(2, 5):
            log.append([event(number)])
            assert log.position == number
    assert seen[:3] == [1, 2, 3]
