"""One flipped bit anywhere in a log: a repair loses at most one frame's or row group's events, and names them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from backing import backed_up, place
from compacting import bring_to
from faults import flip
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_logs import make
from mending import check_whole, held, repair

import evtool
from evtool.lifecycle.verify import verify

STATES = ("hot", "cold", "mixed")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A log in each state, each with a backup beside it."""
    found = {}
    for state in STATES:
        folder = make(tmp_path_factory.mktemp(state) / "segments")
        if state != "hot":
            bring_to(folder, state)
        backed_up(folder)
        found[state] = folder
    return found


def files_of(folder: Path) -> list[Path]:
    """The files of a log in which a bit can turn over."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def pieces(folder: Path) -> list[set[int]]:
    """The positions of each frame or row group."""
    with evtool.open(folder, read_only=True) as log:
        return [
            set(segment.batch(row, ["position"])["position"].to_pylist())
            for segment in log.snapshot().segments
            for row in segment.event_rows()
        ]


@settings(max_examples=12)
@given(data=st.data())
def test_a_repair_loses_no_more_than_the_piece_and_names_it(
    logs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    state = data.draw(st.sampled_from(STATES))
    folder = tmp_path_factory.mktemp("flipped") / "segments"
    shutil.copytree(logs[state], folder)
    path = data.draw(st.sampled_from(files_of(folder)).map(lambda path: path.relative_to(folder).as_posix()))
    byte = data.draw(st.integers(0, (folder / path).stat().st_size - 1))
    flip(folder / path, byte, data.draw(st.integers(0, 7)))
    with_backup = data.draw(st.booleans())
    done = repair(folder, place(logs[state]) if with_backup else None)
    assert done.lost == set() or (done.lost in pieces(logs[state]) and not with_backup)
    check_whole(folder, held(logs[state]), done.lost)
    assert repair(folder).repaired is None


def test_what_a_backup_fills_is_the_same_byte_for_byte(logs: dict[str, Path], tmp_path: Path):
    for state, whole in logs.items():
        with evtool.open(whole, read_only=True) as log:
            wanted = verify(log).digest
        for number, path in enumerate(
            sorted(whole.glob("*/frames.log"))[-1:] + sorted(whole.glob("*/*.parquet"))[:1]
        ):
            folder = tmp_path / state / str(number)
            shutil.copytree(whole, folder)
            name = path.relative_to(whole)
            flip(folder / name, path.stat().st_size // 2)
            done = repair(folder, place(whole))
            assert (len(done.plan.segments), done.lost) == (1, set())
            assert (folder / name).read_bytes() == path.read_bytes()
            with evtool.open(folder, read_only=True) as log:
                assert verify(log).digest == wanted
            (report,) = (folder / "damaged").glob("*/report.json")
            assert len(list(report.parent.rglob("*"))) >= 3
