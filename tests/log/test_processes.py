"""Real processes: one is killed while it writes, one reads while another writes, two want to write."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from samples import check_sound, config, event, ids

import evtool
from evtool.errors import LogLockedError
from evtool.lifecycle.verify import verify

APPENDING = Path(__file__).with_name("appending.py")
ROUNDS = 9
SEED = 20260101

# (batch, first position, last position) of a process with a name
Acknowledged = tuple[str, int, int]


@contextmanager
def appending(
    folder: Path, name: str, seed: int, segment_bytes: int, batches: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Another process that appends; it is gone when this is left."""
    command = [sys.executable, APPENDING, folder, name, seed, segment_bytes, *([batches] if batches else [])]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def acknowledgements(process: subprocess.Popen[str], name: str) -> Iterator[Acknowledged]:
    """What the process says that it has stored, as it says so; a line that the kill cut short is not said."""
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if line.endswith("\n") and words[0] != "open":
            yield f"{name}-{words[0]}", int(words[1]), int(words[2])


def batches_of(events: pl.DataFrame) -> pl.DataFrame:
    """The batches that the events of a log belong to, with their positions and the size that they should have."""
    fields = pl.col("payload").str.json_decode(pl.Struct({"batch": pl.String, "size": pl.Int64}))
    named = events.select("position", fields.alias("fields")).unnest("fields")
    return named.group_by("batch", maintain_order=True).agg(
        pl.col("position").min().alias("first"),
        pl.col("position").max().alias("last"),
        pl.len().alias("count"),
        pl.col("size").first(),
    )


def check_whole(batches: pl.DataFrame) -> None:
    """Every batch is there with all of its events, one behind the other."""
    assert (batches["count"] == batches["size"]).all()
    assert (batches["last"] - batches["first"] + 1 == batches["size"]).all()


def read(log: evtool.Log, start: int | None = None) -> pl.DataFrame:
    frames = list(log.scan(columns=["position", "payload"], start=start))
    return pl.concat(frames) if frames else pl.DataFrame(schema={"position": pl.Int64, "payload": pl.String})


def test_a_process_killed_again_and_again_keeps_what_it_acknowledged(folder: Path):
    choose = random.Random(SEED)
    evtool.open(folder, create=True, config=config(partitions=2))
    acknowledged: list[Acknowledged] = []
    for number in range(ROUNDS):
        name = f"round{number}"
        print(f"seed {SEED}, {name}")
        segment_bytes = choose.choice([4_000, 100_000])
        with appending(folder, name, choose.randrange(10**9), segment_bytes) as process:
            said = acknowledgements(process, name)
            # Some are killed while they open the log, the others in the middle of what follows some batch.
            acknowledged += islice(said, choose.choice([0, 0, 1, 5, 20, 40]))
            time.sleep(choose.random() * choose.choice([0.001, 0.01, 0.6]))
            process.kill()
            acknowledged += said
        log = evtool.open(folder, read_only=True)
        events = read(log)
        batches = batches_of(events)
        check_whole(batches)
        stored = set(zip(batches["batch"], batches["first"], batches["last"], strict=True))
        assert set(acknowledged) <= stored
        # At most one batch of each round was stored and not acknowledged.
        assert len(stored) <= len(acknowledged) + number + 1
        check_sound(folder)
    assert len(acknowledged) > 50
    with evtool.open(folder) as log:
        assert log.append([event(1, payload='{"batch":"last","size":1}')]).first_position == log.position
    check_sound(folder)


@pytest.mark.parametrize("segment_bytes", [1, 20_000], ids=["a segment a batch", "some batches a segment"])
def test_a_reader_sees_whole_batches_and_a_rising_position_while_another_process_writes(
    folder: Path, segment_bytes: int
):
    evtool.open(folder, create=True, config=config(partitions=2))
    reader = evtool.open(folder, read_only=True)
    seen: list[tuple[int, pl.DataFrame]] = []
    last = 0
    with appending(folder, "writer", SEED, segment_bytes, batches=60) as process:
        while process.poll() is None or reader.position > last:
            position = reader.position
            assert position >= last
            if position > last:
                events = read(reader, start=last + 1)
                assert events["position"][0] == last + 1
                assert events["position"][-1] >= position
                check_whole(batches_of(events))
                last = events["position"][-1]
                seen.append((last, events))
            if len(seen) % 5 == 0:  # one that knows nothing of earlier segments sees the same
                report = verify(evtool.open(folder, read_only=True))
                assert report.findings == []
                assert report.position >= last
        said = list(acknowledgements(process, "writer"))
        assert process.returncode == 0
    assert len(said) == 60
    assert last == said[-1][2]
    assert len(seen) > 1  # it was read while it was written
    everything = batches_of(pl.concat([events for _, events in seen]))
    assert list(zip(everything["batch"], everything["first"], everything["last"], strict=True)) == said
    check_sound(folder)


def test_a_second_writer_is_refused_and_told_who_writes(folder: Path):
    evtool.open(folder, create=True, config=config(partitions=2))
    with appending(folder, "writer", SEED, 20_000) as process, evtool.open(folder) as log:
        said = acknowledgements(process, "writer")
        next(said)
        for _ in range(2):
            with pytest.raises(LogLockedError, match=f"process {process.pid} on ") as caught:
                log.append([event(1)])
        assert str(folder) in str(caught.value)
        # Reading goes on, and the other process goes on writing.
        before = log.position
        assert len(ids(log)) >= before > 0
        while log.position == before:
            next(said)
        process.kill()
        process.wait()
        position = log.append([event(2)]).first_position  # the lock went with the process
        assert position == log.position > before
    check_sound(folder)


def test_a_second_log_object_is_refused_too(folder: Path):
    with evtool.open(folder, create=True) as first, evtool.open(folder) as second:
        first.append([event(1)])
        with pytest.raises(LogLockedError):
            second.append([event(2)])
        assert ids(second) == ["event-1"]
        first.close()
        second.append([event(2)])
        with pytest.raises(LogLockedError):
            first.append([event(3)])
    assert ids(evtool.open(folder)) == ["event-1", "event-2"]
    check_sound(folder)


def test_a_log_that_was_only_read_is_not_locked(folder: Path):
    with evtool.open(folder, create=True) as writer:
        writer.append([event(1)])
        with evtool.open(folder) as reader:
            assert ids(reader) == ["event-1"]
            writer.append([event(2)])
            assert ids(reader) == ["event-1", "event-2"]
