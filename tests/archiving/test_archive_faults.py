"""Moves, returns and drops that are cut short anywhere: nothing is lost, and the next run ends as promised."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import (
    COUNT,
    archived,
    brought_back,
    check_archive,
    check_catalogue,
    check_sound,
    dropped,
    make,
    objects,
    store_folder,
    stubs,
    taken_over,
)
from backing import FaultyStore, replay
from faults import Fault, FaultyFiles, Killed, flip

import evtool
from evtool.errors import DerivedDamagedError, EvtoolError, NoSpaceError, StoreError
from evtool.lifecycle.archiving import place
from evtool.lifecycle.verify import verify
from evtool.objectstore import opening
from evtool.objectstore.store import Store

KINDS = ("write", "fdatasync", "replace", "link", "remove")


class FaultyRemovals(FaultyFiles):
    """Files of which removals are counted, and fail, too."""

    def remove(self, path: Path) -> None:
        def part(share: float) -> None:
            if share == 1:
                super(FaultyRemovals, self).remove(path)

        self._call("remove", path, part)


@pytest.fixture
def kept(folder: Path) -> Callable[[], None]:
    """A log of two cold segments, and what puts it and its archive back to how they were."""
    make(folder, cold=2, hot=0)
    return remembered(folder)


def remembered(folder: Path) -> Callable[[], None]:
    """What brings a log and its archive back to how they are now."""
    places = (folder, store_folder(folder))
    for path in places:
        shutil.rmtree(path.with_name(f"{path.name}-kept"), ignore_errors=True)
        if path.exists():
            shutil.copytree(path, path.with_name(f"{path.name}-kept"))

    def back() -> None:
        for path in places:
            shutil.rmtree(path, ignore_errors=True)
            if path.with_name(f"{path.name}-kept").exists():
                shutil.copytree(path.with_name(f"{path.name}-kept"), path)
        taken_over(folder)

    return back


def lines(folder: Path) -> list[bytes]:
    return replay(folder).splitlines(keepends=True)


def each_call(
    folder: Path, work: Callable[[FaultyFiles], Any], back: Callable[[], None], times: int, done: float
) -> Any:
    """Do some work so many `times`, killed at another call each time; behind each, who asked may look."""
    counting = FaultyRemovals(Fault(0, kinds=KINDS))
    counting.fault = None
    work(counting)
    total = sum(kind in KINDS for kind, _ in counting.calls)
    assert total > 10
    for call in range(1, total + 1, -(-total // times)):
        back()
        with pytest.raises(Killed):
            work(FaultyRemovals(Fault(call, done, kinds=KINDS)))
        check_catalogue(folder)
        yield call


@pytest.mark.parametrize("done", [0.0, 1.0])
def test_a_move_that_is_killed_anywhere_loses_nothing_and_is_taken_up(
    folder: Path, kept: Callable[[], None], done: float
):
    wanted = replay(folder)
    for call in each_call(folder, lambda files: archived(folder, files), kept, 12, done):
        assert replay(folder) == wanted, call
        archived(folder)
        assert len(stubs(folder)) == 2, call
        assert check_archive(folder).position == 2 * COUNT
    check_sound(folder, wanted)


def test_a_return_that_is_killed_anywhere_loses_nothing_and_is_taken_up(folder: Path, kept: Callable[[], None]):
    wanted = replay(folder)
    archived(folder)
    back = remembered(folder)
    for call in each_call(folder, lambda files: brought_back(folder, COUNT + 1, files), back, 8, 0.5):
        assert replay(folder) == wanted, call
        brought_back(folder, COUNT + 1)
        assert len(stubs(folder)) == 1, call
        assert check_archive(folder).position == COUNT
    for call in each_call(folder, lambda files: brought_back(folder, 1, files), back, 8, 1.0):
        assert replay(folder) == wanted, call
        if (folder / "archive.json").exists():
            brought_back(folder)
        assert (stubs(folder), objects(folder)) == ([], []), call
    check_sound(folder, wanted)


def test_a_drop_that_is_killed_anywhere_loses_no_other_event_and_leaves_no_object(
    folder: Path, kept: Callable[[], None]
):
    before = lines(folder)
    archived(folder)
    back = remembered(folder)

    def drop(files: FaultyFiles | None = None) -> None:
        dropped(folder, files, size=sum(path.stat().st_size for path in folder.glob("*/events-*")) + 1)

    old = set(objects(folder))
    for call in each_call(folder, drop, back, 9, 1.0):
        there = set(lines(folder))
        assert set(before[2 * COUNT :]) <= there <= set(before), call
        archived(folder)  # which is what nightly does
        check_archive(folder)
        drop()
        check_archive(folder)
        assert not {name for name in old if name.startswith("events/")} & set(objects(folder)), call
        assert lines(folder) == before[2 * COUNT :], call
    check_sound(folder, b"".join(before[2 * COUNT :]))


def failing(patch: pytest.MonkeyPatch, error: BaseException, is_done: bool) -> Callable[[int], list[FaultyStore]]:
    """What has every store fail that is opened from then on, at a call; it gives those that were."""
    opened = opening.open_store

    def put_between(call: int) -> list[FaultyStore]:
        stores: list[FaultyStore] = []

        def open_faulty(*arguments: Any, **named: Any) -> Store:
            stores.append(FaultyStore(opened(*arguments, **named), call, error, is_done))
            return stores[-1]

        for module in (opening, place):
            patch.setattr(module, "open_store", open_faulty)
        return stores

    return put_between


@pytest.mark.parametrize("error", [Killed(), StoreError("it does not answer")], ids=["killed", "failed"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_move_that_ends_at_any_call_of_the_store_loses_nothing_and_is_taken_up(
    folder: Path,
    kept: Callable[[], None],
    error: BaseException,
    is_done: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    wanted = replay(folder)
    put_between = failing(monkeypatch, error, is_done)
    stores = put_between(0)
    archived(folder)
    calls = max(store.calls for store in stores)
    assert calls > 20
    for call in range(1, calls + 1, -(-calls // 8)):
        kept()
        put_between(call)
        with pytest.raises((Killed, EvtoolError)):
            archived(folder)
        put_between(0)
        assert replay(folder) == wanted, call
        archived(folder)
        assert check_archive(folder).position == 2 * COUNT, call


def test_a_drop_whose_store_fails_anywhere_is_ended_by_the_next_archive(
    folder: Path, kept: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    before = lines(folder)
    size = sum(path.stat().st_size for path in folder.glob("*/events-*")) + 1
    archived(folder)
    back, old = remembered(folder), {name for name in objects(folder) if name.startswith("events/")}
    put_between = failing(monkeypatch, StoreError("it does not answer"), False)
    stores = put_between(0)
    dropped(folder, size=size)
    calls = max(store.calls for store in stores)
    for call in range(1, calls + 1, -(-calls // 6)):
        back()
        put_between(call)
        with pytest.raises(StoreError):
            dropped(folder, size=size)
        put_between(0)
        archived(folder)
        dropped(folder, size=size)
        check_archive(folder)
        assert not old & set(objects(folder)), call
        assert lines(folder) == before[2 * COUNT :], call


def test_a_disk_that_is_full_says_so_and_leaves_the_log_as_it_was(folder: Path, kept: Callable[[], None]):
    wanted = replay(folder)
    for call in (1, 4, 8):
        kept()
        with pytest.raises(NoSpaceError):
            archived(folder, FaultyFiles(Fault(call, 0.5, errno.ENOSPC, ("write",))))
        assert replay(folder) == wanted
        archived(folder)
        check_archive(folder)
    with pytest.raises(NoSpaceError):
        brought_back(folder, 1, FaultyFiles(Fault(1, 0.5, errno.ENOSPC, ("write",))))
    check_sound(folder, wanted)


def test_a_store_that_does_not_give_back_what_was_stored_gets_no_segment(
    folder: Path, kept: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    wanted, opened = replay(folder), opening.open_store

    class Forgetful(FaultyStore):
        def put(self, name: str, data: object) -> None:
            data = data if name == "catalogue.msgpack" else bytes(len(memoryview(data)))  # type: ignore[arg-type]
            super().put(name, data)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        for module in (opening, place):
            patch.setattr(module, "open_store", lambda *given, **named: Forgetful(opened(*given, **named)))
        with pytest.raises(EvtoolError, match="not what is read back"):
            archived(folder)
    assert stubs(folder) == []
    archived(folder)
    check_archive(folder)
    check_sound(folder, wanted)


def test_a_store_that_does_not_answer_at_night_keeps_nothing_else_back(
    folder: Path, kept: Callable[[], None], monkeypatch: pytest.MonkeyPatch
):
    archived(folder)
    failing(monkeypatch, StoreError("it does not answer"), False)(1)
    with evtool.open(folder, read_only=True) as log:
        report = verify(log, reads_archive=False)
        assert (type(report.error), report.events, report.findings) == (StoreError, 7, [])
    flip(folder / "index" / "ids.table", -1)
    with evtool.open(folder, read_only=True) as log:
        assert isinstance(verify(log, reads_archive=False).error, DerivedDamagedError)
