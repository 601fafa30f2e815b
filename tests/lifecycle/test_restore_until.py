"""`restore --until`: the log up to any event, hot or cold, whole batches or not, with events gone or not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from backing import backed_up, digest, place, replay, restored
from compacting import bring_to, compacted, small_pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from projecting import open_projection, purchase, write
from samples import config, event, frame, make_log, segments, time_text

import evtool
from evtool.errors import ConfigError, PositionError
from evtool.lifecycle.forgetting import dropping, erasing, new_name
from evtool.lifecycle.rewriting import rewrite, rewriting_lock
from evtool.lifecycle.verify import verify
from evtool.log.digest import LogicalDigest, columns_of
from evtool.log.lookup import events_at
from evtool.projections import snapshots

COUNT, STREAMS = 900, ("user-1", "user-2", "é ß")
SMALL = config(segment_bytes=5 * 1024, partitions=2)


def sent() -> list[dict[str, Any]]:
    odd = {3: {"metadata": '{"z":1.10}'}, 5: {"event_id": "3f2504e0-4f89-41d3-9a0c-0305e82c3301"}}
    return [
        event(number, STREAMS[number % 3], timestamp=number * 1_000 + number % 2, **odd.get(number % 100, {}))
        if number < 100
        else event(number, STREAMS[number % 3], timestamp=number * 1_000)
        for number in range(COUNT)
    ]


@dataclass(frozen=True)
class Logs:
    """Logs of the same events by state, each backed up."""

    folders: dict[str, Path]


def go(folder: Path) -> None:
    """Let some events of cold segments go, dropped and erased."""
    for way, positions in (("drop", {*range(40, 90), 200, 201, 333}), ("erase", {5, 6, 7, 250, 400, 401})):
        with small_pieces(), evtool.open(folder) as log:
            for number in range(len(log.snapshot().segments)):
                one = log.snapshot().segments[number]
                mine = {at for at in positions if one.first_position <= at <= one.last_position}
                if not one.is_sealed or not mine:
                    continue
                names = ({name: new_name(name, log.partitions) for name in STREAMS},) if way == "erase" else ()
                make = dropping if way == "drop" else erasing

                def chosen(events: Any, mine: set[int] = mine) -> Any:
                    return np.isin(events["position"].to_numpy(), sorted(mine))

                lock = rewriting_lock(log)
                try:
                    rewrite(log, [one], ["payload.number"], make(chosen, log.manifest.id_bytes, *names))
                finally:
                    lock.release()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    root = tmp_path_factory.mktemp("until")
    first = root / "hot" / "segments"
    first.parent.mkdir()
    events = sent()
    with evtool.open(first, create=True, config=SMALL) as log:
        for start in range(0, COUNT, 60):
            log.append(events[start : start + 60], resume={"line": start + 60})
            log.append(events[start : start + 60], resume={"line": start + 60, "again": True})  # an empty batch
    assert len(segments(first)) > 4
    folders = {"hot": first}
    for state in ("cold", "mixed", "merged", "gone"):
        folder = root / state / "segments"
        shutil.copytree(first, folder)
        with small_pieces():
            if state == "gone":
                compacted(folder, 0)
                go(folder)
            else:
                bring_to(folder, state)
        folders[state] = folder
    for folder in folders.values():
        backed_up(folder)
    return Logs(folders)


def digest_up_to(folder: Path, last: int) -> str:
    """The logical digest of the events up to a position."""
    found = LogicalDigest()
    with evtool.open(folder, read_only=True) as log:
        table = events_at(log.snapshot(), np.arange(1, last + 1))
    for batch in table.combine_chunks().to_batches():
        found.add(columns_of(batch))
    return found.hexdigest()


def maps(folder: Path) -> list[bytes]:
    with evtool.open(folder, read_only=True) as log:
        return [body for one in log.snapshot().segments for _, body in [*one.producer_maps()][::-1]]


@settings(max_examples=25)
@given(
    st.sampled_from(["hot", "cold", "mixed", "merged", "gone"]),
    st.one_of(st.integers(0, COUNT + 2), st.integers(0, COUNT // 60).map(lambda batch: batch * 60)),
    st.sampled_from(["position", "id", "time"]),
)
def test_it_is_the_log_up_to_there(
    logs: Logs, tmp_path_factory: pytest.TempPathFactory, state: str, last: int, way: str
):
    folder = logs.folders[state]
    target = tmp_path_factory.mktemp("target") / "segments"
    until = f"@{last + 1}"
    held = pl.concat(evtool.open(folder, read_only=True).scan(columns=["position", "recorded_at", "event_id"]))
    row = held.filter(pl.col("position") == last + 1)
    if way != "position" and len(row):
        until = row["event_id"][0] if way == "id" else time_text(row["recorded_at"][0])
        if way == "id":
            until = f"id:{until}"
            last = held.filter(pl.col("event_id") == row["event_id"][0])["position"].min() - 1  # of the first
    last = min(last, COUNT)
    assert restored(place(folder), target, until=until, config=SMALL).position == last
    assert replay(target) == replay(folder, end=last + 1)
    assert digest(target) == digest_up_to(folder, last)
    # What a producer is told to go on behind is there.
    assert all(line_of(body) <= last for body in maps(target))
    with evtool.open(target, config=SMALL) as log:
        assert log.position == last
        again = log.append(sent()[max(last - 100, 0) :])
        assert (again.duplicates, again.count) == (min(last, 100), COUNT - last)
    report = verify(evtool.open(target, read_only=True))
    assert (report.findings, report.notes) == ([], [])


def line_of(body: bytes) -> int:
    import msgpack

    return int(msgpack.unpackb(body)["line"])


def test_a_time_of_recording_between_batches_takes_whole_ones(logs: Logs, tmp_path: Path):
    folder = logs.folders["mixed"]
    with evtool.open(folder, read_only=True) as log:
        last = log.snapshot().recorded_at(420)
    assert last is not None
    done = restored(place(folder), tmp_path / "a", until=time_text(last + 1))
    assert done.position == 420
    assert restored(place(folder), tmp_path / "b", until="1999-01-01").position == 0
    assert restored(place(folder), tmp_path / "c", until="2199-01-01").position == COUNT


@pytest.mark.parametrize("state", ["hot", "mixed"])
def test_a_segment_of_which_one_event_stays_is_needed_and_one_of_which_none_does_is_not(
    logs: Logs, tmp_path: Path, state: str
):
    folder = logs.folders[state]
    for first in [one.first_position for one in evtool.open(folder).snapshot().segments][1:3]:
        for last in (first - 1, first):
            target = tmp_path / f"{last}"
            assert restored(place(folder), target, until=f"@{last + 1}", config=SMALL).position == last
            assert replay(target) == replay(folder, end=last + 1)


@pytest.mark.parametrize("state", ["hot", "cold", "merged"])
@pytest.mark.parametrize("last", [300, 330])
def test_of_a_batch_that_stays_whole_nothing_changes(logs: Logs, tmp_path: Path, state: str, last: int):
    folder, target = logs.folders[state], tmp_path / "segments"
    restored(place(folder), target, until=f"@{last + 1}", config=SMALL)
    before, after = (evtool.open(each, read_only=True).snapshot() for each in (folder, target))
    assert after.digest_at(300) == before.digest_at(300)
    names = ("base_position", "base_recorded_at", "count", "checksum")
    found = [
        [commit for one in snapshot.segments for commit in one.commits[list(names)].tolist()]
        for snapshot in (before, after)
    ]
    whole = [commit for commit in found[0] if commit[2] and commit[0] + commit[2] - 1 <= 300]
    assert [commit for commit in found[1] if commit in whole] == whole
    new = [(commit[0], commit[2]) for commit in found[1] if commit not in found[0]]
    assert new == ([] if last == 300 else [(301, 30)])


@pytest.mark.parametrize(("until", "error"), [("@x", ConfigError), ("", ConfigError), ("nobody", PositionError)])
def test_a_bound_that_makes_no_sense_leaves_no_log(logs: Logs, tmp_path: Path, until: str, error: type[Exception]):
    with pytest.raises(error):
        restored(place(logs.folders["hot"]), tmp_path / "a", until=until)
    assert not (tmp_path / "a" / "log.json").exists()
    assert restored(place(logs.folders["hot"]), tmp_path / "a").position == COUNT  # and is in nobody's way


SUMS = """
[keys]
product = "payload.product_id"
[measures]
orders = "count(*)"
latest = "last(event_id)"
"""


def test_projections_and_snapshots_of_a_restored_log_are_those_of_the_log(folder: Path, tmp_path: Path):
    write(tmp_path / "own", SUMS)
    events = [purchase(number, hours=number) for number in range(60)]
    make_log(folder, [frame(events[start : start + 10]) for start in range(0, 30, 10)], SMALL)

    def bytes_of(log_folder: Path) -> bytes:
        with evtool.open(log_folder) as log:
            asked = open_projection(log, "mine", tmp_path / "own")
            asked.runner.refresh()
            return asked.places.read_model.read_bytes()

    def snapshot_of(log_folder: Path) -> None:
        with evtool.open(log_folder) as log:
            snapshots.take(log, open_projection(log, "mine", tmp_path / "own"))

    early = bytes_of(folder)
    snapshot_of(folder)
    make_log(folder, [frame(events[start : start + 10]) for start in range(30, 60, 10)], SMALL)
    snapshot_of(folder)
    done = backed_up(folder)
    assert [each.position for each in done.manifest.snapshots] == [30, 60]
    restored(place(folder), tmp_path / "all")
    restored(place(folder), tmp_path / "earlier", until="@31")
    for target, wanted, positions in (("all", bytes_of(folder), [30, 60]), ("earlier", early, [30])):
        with evtool.open(tmp_path / target, read_only=True) as log:
            assert [each.position for each in snapshots.every(log)] == positions
        digest(tmp_path / target)
        assert bytes_of(tmp_path / target) == wanted
