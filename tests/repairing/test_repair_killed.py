"""A repair that is killed at any operation: the next one comes to the same end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from backing import backed_up, place
from compacting import bring_to
from faults import Fault, FaultyFiles, Killed, flip
from lost_logs import make
from mending import held, repair

import evtool
from evtool.lifecycle.verify import verify

SAMPLES = 4  # of the operations, evenly spread


def damaged(tmp_path: Path, state: str) -> Path:
    """A log with damage in a hot or cold segment, in the active one, in the index and in a file of lines."""
    folder = make(tmp_path / "segments")
    if state == "cold":
        bring_to(folder, "cold")
    backed_up(folder)
    segments = sorted(path for path in folder.iterdir() if path.name.isdigit())
    for segment in (segments[1], segments[-1]):
        (events,) = [path for path in segment.iterdir() if path.name == "frames.log" or path.suffix == ".parquet"]
        flip(events, 2_500)
    flip(segments[2] / "streams.idx", 90)
    flip(folder / "audit.ndjson", 30)
    flip(folder / "log.json", 30)
    return folder


def end_of(folder: Path) -> tuple[object, ...]:
    with evtool.open(folder, read_only=True) as log:
        report = verify(log)
        counts = [dict(segment.gone_counts) for segment in log.snapshot().segments]
    assert report.findings == []
    return (
        report.digest,
        counts,
        held(folder),
        (folder / "audit.ndjson").read_bytes(),
        (folder / "log.json").read_bytes(),
    )


@pytest.mark.parametrize(("state", "with_backup"), [("hot", False), ("cold", True)])
def test_killed_at_each_operation_and_run_again(tmp_path: Path, state: str, with_backup: bool):
    folder = damaged(tmp_path, state)
    store = place(folder) if with_backup else None
    target = tmp_path / "target"
    shutil.copytree(folder, target)
    counting = FaultyFiles()
    lost = repair(target, store, counting).lost
    assert bool(lost) is not with_backup
    wanted = end_of(target)
    calls = len(counting.calls)
    for number in range(SAMPLES):
        shutil.rmtree(target)
        shutil.copytree(folder, target)
        call = 1 + number * (calls - 1) // (SAMPLES - 1)
        with pytest.raises(Killed):
            repair(target, store, FaultyFiles(Fault(call, done=number % 3 / 2)))
        repair(target, store)
        assert end_of(target) == wanted
        named = set()
        for report in target.glob("damaged/*/report.json"):
            for first, last in json.loads(report.read_text())["lost"]:
                named |= set(range(first, last + 1))
        assert named == lost
