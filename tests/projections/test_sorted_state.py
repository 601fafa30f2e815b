"""Projections by actor over a log that grows: they go on from their sorted tables, or make them anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults import Fault, FaultyFiles, Killed, flip
from projecting import Event, make, open_projection, refreshed, write
from samples import MOMENT_NS, config, frame
from test_equal_bytes import KINDS

import evtool
from evtool.files import Files
from evtool.log.log import open as open_log
from evtool.log.selection import Selection
from evtool.projections import checkpoint, record, sortedtables, tiers, work
from evtool.projections.store import CHECKPOINT_FILE, StateStore

BY_DAY = {
    "strict by day": """
[time]
grain = "day"
[funnel]
by = "stream_id"
steps = ["ItemViewed", "ItemPurchased"]
within = "1d"
mode = ["strict_order", "strict_deduplication"]
""",
    "sessions by day": """
[time]
grain = "day"
timezone = "America/St_Johns"
[sessions]
by = "stream_id"
gap = "3h"
""",
}
ALL = {**KINDS, **BY_DAY}


def events(first: int, count: int) -> list[Event]:
    """Visits of 17 actors, some of them late."""
    return [
        {
            "event_id": f"e-{at}",
            "source_id": "shop",
            "stream_id": f"s-{at * at % 17}",
            "event_type": ("ItemViewed", "ItemPurchased", "ButtonClicked")[at * 7 % 5 % 3],
            "timestamp": MOMENT_NS + (at - (at % 9 == 0) * 40) * 1_800_000_000_000,
            "payload": f'{{"user_id":"u{at % 13}","product_id":"p{at % 3}"}}',
        }
        for at in range(first, first + count)
    ]


BATCHES = [events(0, 60), *(events(60 + 8 * at, 8) for at in range(7))]


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "own", text, f"mine-{at}") for at, text in enumerate(ALL.values())]


def append(folder: Path, batch: list[Event]) -> None:
    with evtool.open(folder, create=True, config=config(fsync="never")) as log:
        log.append(frame(batch))


def run(folder: Path, name: str, full: bool = False) -> bytes:
    with evtool.open(folder, read_only=True) as log:
        return refreshed(log, name, full)[1]


def state(folder: Path, name: str) -> Path:
    return folder / "read-models" / Path(name).stem / "v1" / "state"


@pytest.mark.parametrize("few_rows", [0, work.FEW_ROWS])
def test_a_log_that_grows_is_gone_on_from_at_each_step(
    folder: Path, names: list[str], few_rows: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(work, "FEW_ROWS", few_rows)
    names = names if few_rows else names[::3]  # by way of buckets, one of each kind
    monkeypatch.setattr(tiers, "TIER_RUNS", 3)
    monkeypatch.setattr(tiers, "TIER_ROWS", 4)
    monkeypatch.setattr(sortedtables, "MERGE_ROWS", 20)
    cleared: list[Path] = []
    clear = StateStore.clear
    monkeypatch.setattr(StateStore, "clear", lambda self: (cleared.append(self._folder), clear(self))[1])
    found: dict[str, bytes] = {}
    for batch in BATCHES:
        append(folder, batch)
        found = {name: run(folder, name) for name in names}
    assert len(cleared) == len(names)  # the first time each
    whole = make(tmp_path / "whole", [[event for batch in BATCHES for event in batch]])
    assert found == {name: run(whole, name, full=True) for name in names}
    for name in names:
        assert list(StateStore(Files(), state(folder, name)).damage()) == []
        assert 2 <= len(list(state(folder, name).glob("*.sorted"))) < 30


@pytest.mark.parametrize("damage", ["flip", "flip index", "cut", "gone"])
def test_a_sorted_run_that_is_damaged_is_made_anew(
    folder: Path, names: list[str], damage: str, tmp_path: Path
) -> None:
    for batch in BATCHES[:3]:
        append(folder, batch)
        for name in names:
            run(folder, name)
    for name in names:
        for path in state(folder, name).glob("*.sorted"):
            size = path.stat().st_size
            match damage:
                case "flip":
                    for byte in range(300, size, 97):
                        flip(path, byte)
                case "flip index":
                    flip(path, size - 20)
                case "cut":
                    path.write_bytes(path.read_bytes()[: size // 2])
                case _:
                    path.unlink()
        found = list(StateStore(Files(), state(folder, name)).damage())
        assert {path for path, _ in found} >= set(state(folder, name).glob("*.sorted"))
        assert all("of the table" in message for _, message in found)
    append(folder, BATCHES[3])
    whole = make(tmp_path / "whole", [[event for batch in BATCHES[:4] for event in batch]])
    for name in names:
        assert run(folder, name) == run(whole, name)
        assert list(StateStore(Files(), state(folder, name)).damage()) == []


def test_a_kill_at_any_call_leaves_what_can_be_gone_on_from(
    folder: Path, names: list[str], tmp_path: Path
) -> None:
    append(folder, BATCHES[0])
    run(folder, names[0])
    append(folder, BATCHES[1])
    counting = FaultyFiles()
    shutil.copytree(folder, tmp_path / "counted")
    with open_log(tmp_path / "counted", read_only=True, files=counting) as log:
        whole = refreshed(log, names[0])[1]
    for call in range(1, 1 + sum(kind in Fault(1).kinds for kind, _ in counting.calls)):
        copy = tmp_path / f"killed-{call}"
        shutil.copytree(folder, copy)
        with open_log(copy, read_only=True, files=FaultyFiles(Fault(call, 0.5))) as log, pytest.raises(Killed):
            open_projection(log, names[0]).runner.refresh()
        assert list(StateStore(Files(), state(copy, names[0])).damage()) == []
        assert run(copy, names[0]) == whole


def test_a_state_of_the_format_before_is_made_anew(folder: Path, names: list[str]) -> None:
    append(folder, BATCHES[0])
    before = run(folder, names[0])
    path = state(folder, names[0]) / CHECKPOINT_FILE
    values = record.decode(path.read_bytes())
    assert values is not None
    assert values["format"] == checkpoint.FORMAT
    path.write_bytes(record.encode({**values, "format": checkpoint.FORMAT - 1, "refs": "of another form"}))
    assert StateStore(Files(), state(folder, names[0])).binding() is None
    assert run(folder, names[0]) == before
    assert StateStore(Files(), state(folder, names[0])).binding() is not None


def test_an_answer_from_a_snapshot_leaves_it_as_it_is(folder: Path, names: list[str]) -> None:
    from evtool.projections import snapshots

    append(folder, BATCHES[0])
    for name in names:
        with evtool.open(folder, read_only=False) as log:
            snapshots.take(log, open_projection(log, name))
    append(folder, BATCHES[1])
    files = {path: path.read_bytes() for path in (folder / "snapshots").rglob("*.sorted")}
    assert len(files) >= len(names)
    for name in names:
        with evtool.open(folder, read_only=True) as log:
            runner = open_projection(log, name).runner
            went_on = runner.compute(Selection())
            assert went_on.frame.equals(runner.compute(Selection(), from_nothing=True).frame)
    assert files == {path: path.read_bytes() for path in files}
