"""The state of a projection on disk: what was committed last is there, whatever happens in between."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pytest
from faults import Fault, FaultyFiles, Killed, flip, full_disk
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from evtool.errors import NoSpaceError
from evtool.files import Files
from evtool.projections.checkpoint import ENGINE, Binding, StateDamagedError
from evtool.projections.store import StateStore

Row: TypeAlias = tuple[int, str, int]
Runs: TypeAlias = dict[int, list[list[Row]]]

ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "ü" * 20]), st.integers(-9, 9)), max_size=8
)


def tables(rows: list[Row]) -> dict[str, pl.DataFrame]:
    schema = {"bucket": pl.Int32, "key": pl.String, "n": pl.Int64}
    counts = pl.DataFrame(rows, schema, orient="row")
    return {"counts": counts, "keys": counts.filter(pl.col("n") > 0).select("bucket", "key")}


def binding(position: int) -> Binding:
    return Binding("orders", 1, "d" * 32, "p" * 32, "log", position, 2**64 - 1, ENGINE)


def runs_of(store: StateStore) -> Runs:
    found: Runs = {}
    for bucket in store.buckets():
        loaded = store.load(bucket)
        found[bucket] = [run["counts"].rows() for run in loaded]
        for run in loaded:
            assert run["keys"].equals(tables(run["counts"].rows())["keys"])
    return found


def run_files(folder: Path) -> set[Path]:
    return set(folder.glob("*.arrow"))


class StoreMachine(RuleBasedStateMachine):
    """A store, and a dict of lists that says what is in it."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.committed: Runs = {}
        self.position: int | None = None
        self.reopen()

    @rule()
    def reopen(self) -> None:
        self.store = StateStore(Files(), self.folder / "state")
        self.staged = {bucket: list(runs) for bucket, runs in self.committed.items()}
        self.touched: set[int] = set()
        self.anew = False

    @rule(rows=ROWS)
    def add(self, rows: list[Row]) -> None:
        self.store.add(tables(rows))
        for bucket in {row[0] for row in rows}:
            self.staged.setdefault(bucket, []).append([row for row in rows if row[0] == bucket])
            self.touched.add(bucket)

    @rule(bucket=st.integers(-3, 3))
    def merge(self, bucket: int) -> None:
        rows = [row for run in self.store.load(bucket) for row in run["counts"].rows()]
        self.store.put(bucket, tables(rows))
        self.staged[bucket] = [rows]

    @rule(with_results=st.booleans())
    def commit(self, with_results: bool) -> None:
        self.position = (self.position or 0) + 1
        results = tables([(1, "result", self.position)])["counts"] if with_results else None
        self.store.commit(binding(self.position), {"events": self.position}, results)
        self.results = results
        self.committed = {bucket: list(runs) for bucket, runs in self.staged.items()}
        self.touched, self.anew = set(), False
        assert len(run_files(self.folder / "state")) <= sum(map(len, self.committed.values())) + with_results

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.staged, self.touched, self.anew = {}, set(), True

    @invariant()
    def it_is_what_it_should_be(self) -> None:
        assert runs_of(self.store) == self.staged
        assert self.store.touched() == self.touched
        reduced = self.store.reduced()
        if self.position is None or self.anew:
            assert self.store.binding() is None
            assert self.store.facts() == {}
            assert reduced is None
        else:
            assert self.store.binding() == binding(self.position)
            assert self.store.facts() == {"events": self.position}
            assert (reduced is None) == (self.results is None)
            assert reduced is None or reduced.equals(self.results)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with one commit, of position 1."""
    folder = tmp_path / "state"
    store = StateStore(Files(), folder)
    store.add(tables([(1, "a", 1), (2, "b", 2)]))
    store.add(tables([(2, "c", 3), (3, "d", 4)]))
    store.commit(binding(1), {"events": 4}, tables([(1, "result", 1)])["counts"])
    return folder


BEFORE = {1: [[(1, "a", 1)]], 2: [[(2, "b", 2)], [(2, "c", 3)]], 3: [[(3, "d", 4)]]}
AFTER = {1: BEFORE[1], 2: [[(2, "b", 2), (2, "c", 3), (2, "e", 5)]], 3: BEFORE[3], 4: [[(4, "f", 6)]]}


def go_on(store: StateStore) -> None:
    """One more commit, of position 2."""
    store.add(tables([(2, "e", 5), (4, "f", 6)]))
    store.put(2, tables([row for run in store.load(2) for row in run["counts"].rows()]))
    store.commit(binding(2), {"events": 6}, tables([(1, "result", 2)])["counts"])


def start_anew(store: StateStore) -> None:
    store.clear()
    store.add(tables([row for runs in AFTER.values() for run in runs for row in run]))
    store.commit(binding(2), {"events": 6}, tables([(1, "result", 2)])["counts"])


@pytest.mark.parametrize("work", [go_on, start_anew])
@pytest.mark.parametrize("done", [0, 0.5, 1])
def test_an_end_at_any_call_leaves_the_last_commit(
    state: Path, tmp_path: Path, work: Callable[[StateStore], None], done: float
) -> None:
    counting = FaultyFiles()
    shutil.copytree(state, tmp_path / "counted")
    work(StateStore(counting, tmp_path / "counted"))
    at_replace = [kind for kind, _ in counting.calls].index("replace") + 1
    assert at_replace == len(counting.calls)
    for call in range(1, len(counting.calls) + 1):
        folder = tmp_path / f"killed-{call}"
        shutil.copytree(state, folder)
        with pytest.raises(Killed):
            work(StateStore(FaultyFiles(Fault(call, done)), folder))
        store = StateStore(Files(), folder)
        found = store.binding()
        assert found == binding(2 if call == at_replace and done == 1 else 1)
        reduced = store.reduced()
        assert reduced is not None
        assert reduced["n"].to_list() == [found.position]
        assert runs_of(store) == (BEFORE if found.position == 1 else AFTER)
        if found.position == 1:
            go_on(store)
            assert runs_of(StateStore(Files(), folder)) == AFTER
            assert len(run_files(folder)) == 5  # two of the first commit, an add, a put, the results


def test_a_full_disk_leaves_the_last_commit_and_the_same_store_can_go_on(state: Path) -> None:
    disk = full_disk(2)
    store = StateStore(disk, state)
    with pytest.raises(NoSpaceError) as caught:
        go_on(store)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert runs_of(StateStore(Files(), state)) == BEFORE
    disk.fault = None
    with store.lock():
        go_on(store)
    assert runs_of(StateStore(Files(), state)) == AFTER


def read_all(store: StateStore) -> None:
    runs_of(store)
    store.reduced()


def test_a_flipped_bit_of_a_run_is_found(state: Path) -> None:
    for path in run_files(state):
        for byte in range(0, path.stat().st_size, 97):
            flip(path, byte, bit=byte % 8)
            store = StateStore(Files(), state)
            with pytest.raises(StateDamagedError) as caught:
                read_all(store)
            assert caught.value.path == path
            flip(path, byte, bit=byte % 8)
    assert runs_of(StateStore(Files(), state)) == BEFORE


def test_damage_is_told_file_by_file(state: Path) -> None:
    assert list(StateStore(Files(), state).damage()) == []
    assert list(StateStore(Files(), state / "none").damage()) == []
    for path in [*run_files(state), state / "checkpoint"]:
        flip(path, path.stat().st_size // 2)
        found = list(StateStore(Files(), state).damage())
        assert {where for where, _ in found} == {path}
        flip(path, path.stat().st_size // 2)
    path = max(run_files(state))
    path.unlink()
    assert list(StateStore(Files(), state).damage()) == [(path, "the results are damaged or missing")]


@pytest.mark.parametrize("kept", [None, 0, 1, -1])
def test_a_run_that_a_power_cut_took_is_found(state: Path, kept: int | None) -> None:
    path = max(run_files(state))
    data = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(data[:kept])
    with pytest.raises(StateDamagedError):
        StateStore(Files(), state).reduced()


def test_a_damaged_checkpoint_is_none(state: Path) -> None:
    path = state / "checkpoint"
    whole = path.read_bytes()
    for byte in range(len(whole)):
        flip(path, byte, bit=byte % 8)
        assert StateStore(Files(), state).binding() is None
        flip(path, byte, bit=byte % 8)
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert StateStore(Files(), state).buckets() == frozenset()
    store = StateStore(Files(), state)
    start_anew(store)
    assert len(runs_of(StateStore(Files(), state))) == 4
    assert len(run_files(state)) == 2


def test_a_store_waits_for_another_and_goes_on_from_its_commit(state: Path) -> None:
    first, second = StateStore(Files(), state), StateStore(Files(), state)
    seen: list[Binding | None] = []

    def wait() -> None:
        with second.lock():
            seen.append(second.binding())

    with first.lock():
        waiting = threading.Thread(target=wait)
        waiting.start()
        go_on(first)
        assert seen == []
    waiting.join()
    assert seen == [binding(2)]
    assert runs_of(second) == AFTER


def test_rows_of_another_bucket_are_no_state_of_this_one(state: Path) -> None:
    with pytest.raises(ValueError, match="other buckets than 1"):
        StateStore(Files(), state).put(1, tables([(1, "a", 1), (2, "a", 1)]))
