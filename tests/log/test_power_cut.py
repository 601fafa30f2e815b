"""Power cuts: of what was not synced, any part may be on the disk; what was acknowledged is.

Whoever sends all of it again finds each event there once.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from faults import Fault, FaultyFiles, Killed, boot_again
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import Event, check_sound, config, event, frames_log, ids, make_log, rows

import evtool
from evtool.errors import LogDamagedError
from evtool.log.format import SEGMENT_HEADER_BYTES

BATCHES: list[list[Event]] = [
    [event(3 * i + j, f"user-{(i * j) % 5}", source_id=f"till-{i // 2}") for j in range(1 + i % 3)]
    for i in range(9)
]
IDS = [[item["event_id"] for item in batch] for batch in BATCHES]
SETTINGS = config(segment_bytes=4_500)
PAGE_BYTES = 4096
BLOCK_BYTES = 512


def flat(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


def unsynced_batch(folder: Path) -> tuple[int, int]:
    """Make a log whose last batch was written and not synced; the synced and the whole length of frames.log."""
    evtool.open(folder, create=True)
    files = FaultyFiles()
    log = evtool.open(folder, files=files)
    for batch in BATCHES[:4]:
        log.append(batch)
    syncs = sum(kind == "fdatasync" for kind, _ in files.calls)
    files.fault = Fault(syncs + 1, kinds=("fdatasync",))
    with pytest.raises(Killed):
        log.append(BATCHES[4])
    log.close()
    path = frames_log(folder)
    assert files.synced[path] < path.stat().st_size
    return files.synced[path], path.stat().st_size


def check_goes_on(folder: Path, acknowledged: int) -> None:
    """The acknowledged batches are there and at most one more, whole; the next writer goes on behind them."""
    expected = [flat(IDS[:acknowledged]), flat(IDS[: acknowledged + 1])]
    seen = ids(evtool.open(folder, read_only=True))
    assert seen in expected
    with evtool.open(folder, config=SETTINGS) as log:
        log.append([event(1_000 + number, f"user-{number}") for number in range(6)])
        found = ids(log)[:-6]
        assert found in expected
        assert found[: len(seen)] == seen
        check_sent_again(log, found)
    check_sound(folder)


def check_sent_again(log: evtool.Log, found: list[str]) -> None:
    """All batches, sent to a log that has `found` of them and 6 other events, are there once, and are found."""
    for batch, names in zip(BATCHES, IDS, strict=True):
        is_there = names[0] in found
        commit = log.append(batch)
        assert (commit.count, commit.duplicates) == ((0, len(batch)) if is_there else (len(batch), 0))
    assert log.append([item for batch in BATCHES for item in batch]).duplicates == len(flat(IDS))
    stored = ids(log)
    assert stored == [*found, *(f"event-{1_000 + number}" for number in range(6)), *flat(IDS)[len(found) :]]
    assert [log.find(name) for name in stored] == list(range(1, len(stored) + 1))


def test_frames_log_cut_at_any_byte_that_was_not_synced(tmp_path: Path):
    original = tmp_path / "original"
    synced, size = unsynced_batch(original)
    boot_again(original)
    for length in sorted({*range(synced, size + 1, 41), *range(synced, synced + 9), *range(size - 8, size + 1)}):
        folder = tmp_path / "cut"
        shutil.copytree(original, folder)
        frames_log(folder).write_bytes(frames_log(folder).read_bytes()[:length])
        assert ids(evtool.open(folder, read_only=True)) == flat(IDS[: 5 if length == size else 4])
        with evtool.open(folder) as log:
            assert log.writer().cut_bytes == (0 if length == size else length - synced)
        check_goes_on(folder, 4)
        shutil.rmtree(folder)


def test_frames_log_as_long_as_it_was_but_with_zeros_from_any_byte(tmp_path: Path):
    original = tmp_path / "original"
    synced, size = unsynced_batch(original)
    boot_again(original)
    for length in range(synced, size - 16, 97):
        folder = tmp_path / "zeros"
        shutil.copytree(original, folder)
        data = frames_log(folder).read_bytes()
        frames_log(folder).write_bytes(data[:length] + bytes(size - length))
        assert ids(evtool.open(folder, read_only=True)) == flat(IDS[:4])
        check_goes_on(folder, 4)
        shutil.rmtree(folder)


@settings(max_examples=70)
@given(data=st.data())
def test_power_cut_at_any_call_with_any_part_of_the_rest_on_the_disk(data: st.DataObject):
    with TemporaryDirectory(prefix="evtool-power-") as root:
        folder = Path(root) / "segments"
        evtool.open(folder, create=True, config=SETTINGS)
        files = FaultyFiles(Fault(data.draw(st.integers(1, 90), "call"), data.draw(st.sampled_from([0, 0.5, 1]))))
        heads: list[bytes | None] = [None]
        acknowledged = 0
        log = evtool.open(folder, config=SETTINGS, files=files)
        try:
            for batch in BATCHES:
                log.append(batch)
                acknowledged += 1
                heads.append((folder / "HEAD").read_bytes())
            files.fault = Fault(1)
            log.append([event(10_000)])
        except Killed:
            pass
        lose(folder, files, data, heads)
        log.close()
        check_goes_on(folder, acknowledged)


def lose(folder: Path, files: FaultyFiles, data: st.DataObject, heads: list[bytes | None]) -> None:
    """Leave of what was not synced what the disk happened to have."""
    for path in folder.glob("*/frames.log"):
        whole = path.read_bytes()
        synced = min(files.synced[path], len(whole))
        tail = bytearray(whole[synced : data.draw(st.integers(synced, len(whole)), "length")])
        for start in range(0, len(tail), BLOCK_BYTES):
            if data.draw(st.integers(0, 3), "block lost") == 0:
                tail[start : start + BLOCK_BYTES] = bytes(len(tail[start : start + BLOCK_BYTES]))
        path.write_bytes(whole[:synced] + tail)
    for path in folder.glob("*/frames.idx"):
        whole = path.read_bytes()
        synced = min(files.synced.get(path, 0), len(whole))
        path.write_bytes(whole[: data.draw(st.integers(synced, len(whole)), "index length")])
    sources = folder / "index" / "sources.msgpack"
    if sources.exists():
        whole = sources.read_bytes()
        kept = data.draw(st.integers(min(files.synced.get(sources, 0), len(whole)), len(whole)), "sources length")
        sources.write_bytes(whole[:kept] + bytes(data.draw(st.sampled_from([0, len(whole) - kept]), "zeros")))
    for table in sorted(folder.glob("index/*.table")):
        now, flushed = table.read_bytes(), files.maps[table].flushed
        written = data.draw(st.integers(0, 2**16 - 1), f"pages of {table.name}")
        pages = []
        for number, start in enumerate(range(0, len(now), PAGE_BYTES)):
            old = flushed[start : start + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
            new = now[start : start + PAGE_BYTES]
            pages.append(new if written >> number % 16 & 1 else old[: len(new)])
        table.write_bytes(b"".join(pages))
    head = data.draw(st.sampled_from(heads), "head")
    (folder / "HEAD").unlink(missing_ok=True)
    if head is not None:
        (folder / "HEAD").write_bytes(head)
    boot_again(folder)


@pytest.mark.parametrize("is_header_old", [False, True], ids=["tables as they were", "of which pages were lost"])
@pytest.mark.parametrize("lost", [0.2, 0.5, 0.8, 1])
def test_log_that_is_never_synced_keeps_a_whole_beginning(folder: Path, lost: float, is_header_old: bool):
    """With fsync = "never" a power cut may take acknowledged batches, and never half of one."""
    unsynced = config(fsync="never")
    evtool.open(folder, create=True, config=unsynced)
    with evtool.open(folder, config=unsynced) as log:
        log.writer()
        headers = {path: path.read_bytes()[:PAGE_BYTES] for path in folder.glob("index/*.table")}
    make_log(folder, BATCHES, unsynced)
    assert len(headers) == 2
    for path, header in headers.items() if is_header_old else ():
        path.write_bytes(header + path.read_bytes()[PAGE_BYTES:])
    path = frames_log(folder)
    data = path.read_bytes()
    kept = max(int(len(data) * (1 - lost)), SEGMENT_HEADER_BYTES)  # a header is synced even so
    path.write_bytes(data[:kept] + bytes(int((len(data) - kept) / 2)))
    boot_again(folder)
    seen = ids(evtool.open(folder, read_only=True))
    assert seen in [flat(IDS[:number]) for number in range(len(BATCHES))]
    with evtool.open(folder, config=unsynced) as log:
        log.append([event(1_000 + number, f"user-{number}") for number in range(6)])
        assert ids(log)[:-6] == seen
        assert len(rows(log)) == len(seen) + 6
        check_sent_again(log, seen)
    check_sound(folder)


def cut_the_power(folder: Path, files: FaultyFiles, head: bytes, hole: int) -> bytes:
    """Leave of HEAD what was synced, or else `head`, and a hole in frames.log; what that then is."""
    path = frames_log(folder)
    data = path.read_bytes()
    path.write_bytes(data[:hole] + bytes(200) + data[hole + 200 :])
    (folder / "HEAD").write_bytes(files.maps[folder / "HEAD"].flushed or head)
    boot_again(folder)
    return path.read_bytes()


@pytest.mark.parametrize("next_one", ["batch", "never"])
def test_batches_behind_synced_ones_that_were_not_synced_may_go(folder: Path, next_one: Literal["batch", "never"]):
    make_log(folder, BATCHES[:2])
    head, size = (folder / "HEAD").read_bytes(), frames_log(folder).stat().st_size
    files = FaultyFiles()
    with evtool.open(folder, config=config(fsync="never"), files=files) as log:
        for batch in BATCHES[2:5]:
            log.append(batch)
    cut_the_power(folder, files, head, size)
    with evtool.open(folder, config=config(fsync=next_one)) as log:
        log.append([event(1_000 + number) for number in range(6)])
        assert ids(log)[:-6] == flat(IDS[:2])
        check_sent_again(log, flat(IDS[:2]))


@pytest.mark.parametrize("next_one", ["batch", "never"])
def test_synced_batches_behind_others_are_not_taken_for_those(folder: Path, next_one: Literal["batch", "never"]):
    make_log(folder, BATCHES[:2], config(fsync="never"))
    head, size = (folder / "HEAD").read_bytes(), frames_log(folder).stat().st_size
    files = FaultyFiles()
    with evtool.open(folder, files=files) as log:
        for batch in BATCHES[2:5]:
            log.append(batch)
    before = cut_the_power(folder, files, head, size)  # this is damage: all of it was synced
    with evtool.open(folder, config=config(fsync=next_one)) as log, pytest.raises(LogDamagedError):
        log.append([event(1_000)])
    assert frames_log(folder).read_bytes() == before
