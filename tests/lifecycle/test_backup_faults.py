"""Backups, restores and removals that are cut short anywhere: run again, they come to the promised end."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from backing import FaultyStore, backed_up, digest, place, replay, restored
from compacting import compacted
from faults import Fault, FaultyFiles, Killed
from samples import config, make_log, many

from evtool.errors import EvtoolError, StorageError, StoreError
from evtool.lifecycle.backups import checking, pruning
from evtool.lifecycle.backups import manifest as manifests
from evtool.objectstore.folder import FolderStore

SMALL = config(segment_bytes=6 * 1024, partitions=2)


@pytest.fixture
def log(folder: Path) -> Path:
    """A log that was backed up once, then compacted in part, and appended to."""
    make_log(folder, [many(100, number * 100) for number in range(4)], SMALL)
    compacted(folder, 0)
    backed_up(folder)
    make_log(folder, [many(100, 400 + number * 100) for number in range(2)], SMALL)
    return folder


def check_what_is_there(folder: Path, count: int) -> None:
    """Every backup that has a manifest is whole, and there are so many."""
    store = place(folder)
    ids = manifests.ids_of(store)
    assert len(ids) == count
    assert checking.check(store).damaged == ()
    for backup_id in ids:
        target = folder.with_name("looked at")
        done = restored(store, target, backup=backup_id)
        assert replay(target) == replay(folder, end=done.position + 1)
        shutil.rmtree(target)


def names(folder: Path) -> list[str]:
    """All objects of the backups."""
    return [each.name for prefix in ("objects/", "backups/") for each in place(folder).list(prefix)]


@pytest.mark.parametrize("error", [Killed(), StoreError("it does not answer")], ids=["killed", "failed"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_backup_that_ends_at_any_call_of_the_store_is_none_and_the_next_goes_on(
    log: Path, tmp_path: Path, error: BaseException, is_done: bool
):
    first, kept = log.with_name("backups"), tmp_path / "kept"
    shutil.copytree(first, kept)
    whole = FaultyStore(place(log))
    backed_up(log, whole)
    last_put = f"backups/{manifests.ids_of(place(log))[-1]}.json"
    assert whole.puts[-1] == last_put  # the manifest comes last
    for call in range(1, whole.calls + 1):
        shutil.rmtree(first)
        shutil.copytree(kept, first)
        faulty = FaultyStore(place(log), call, error, is_done)
        with pytest.raises(type(error)):
            backed_up(log, faulty)
        has_manifest = len(manifests.ids_of(place(log))) == 2
        assert has_manifest <= any(name.startswith("backups/") for name in faulty.puts)
        assert checking.check(place(log)).damaged == ()
        again = FaultyStore(place(log))
        assert backed_up(log, again).is_new is not has_manifest
        stored_before = set(faulty.puts if is_done else faulty.puts[:-1])
        assert not stored_before & set(again.puts)  # nothing is copied twice
        assert set(whole.puts) >= {name for name in again.puts if name.startswith("objects/")}
    check_what_is_there(log, 2)


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_a_backup_to_a_folder_that_is_killed_at_any_call_of_the_system_leaves_no_half_object(
    log: Path, tmp_path: Path, done: float
):
    first, kept = log.with_name("backups"), tmp_path / "kept"
    shutil.copytree(first, kept)
    counting = FaultyFiles()
    backed_up(log, FolderStore(counting, first))
    assert len(counting.calls) > 10
    for call in range(1, len(counting.calls) + 1, 2 if done else 1):
        shutil.rmtree(first)
        shutil.copytree(kept, first)
        with pytest.raises(Killed):
            backed_up(log, FolderStore(FaultyFiles(Fault(call, done)), first))
        assert checking.check(place(log)).damaged == ()
        backed_up(log)
    check_what_is_there(log, 2)


def test_a_store_whose_disk_is_full_says_so(log: Path):
    full = FolderStore(FaultyFiles(Fault(1, 0.5, errno.ENOSPC, ("write",))), log.with_name("backups"))
    with pytest.raises(StorageError, match="cannot write"):
        backed_up(log, full)
    backed_up(log)
    check_what_is_there(log, 2)


@pytest.mark.parametrize("until", [None, "@351", "@555"], ids=["whole", "cut cold", "cut hot"])
def test_a_restore_that_is_killed_anywhere_is_no_log_or_a_whole_one(log: Path, tmp_path: Path, until: str | None):
    backed_up(log)
    target = tmp_path / "again"
    counting = FaultyFiles()
    last = restored(place(log), target, until, files=counting, config=SMALL).position
    wanted, sound = replay(log, end=last + 1), digest(target)
    calls = len(counting.calls)
    for call in {*range(1, calls + 1, 3), *range(calls - 4, calls + 1)}:
        shutil.rmtree(target)
        with pytest.raises(Killed):
            restored(place(log), target, until, files=FaultyFiles(Fault(call, 0.5)), config=SMALL)
        if not (target / "log.json").exists():
            restored(place(log), target, until, config=SMALL)
        assert replay(target) == wanted
        assert digest(target) == sound


def test_a_restore_from_a_store_that_fails_anywhere_leaves_no_log(log: Path, tmp_path: Path):
    whole = FaultyStore(place(log))
    restored(whole, tmp_path / "whole")
    for call in range(1, whole.calls + 1):
        target = tmp_path / "again"
        with pytest.raises(StoreError):
            restored(FaultyStore(place(log), call), target)
        assert not (target / "log.json").exists()
    restored(place(log), target)
    assert replay(target) == replay(tmp_path / "whole")


@pytest.mark.parametrize("is_done", [False, True])
def test_a_removal_that_ends_anywhere_leaves_whole_backups_and_is_taken_up(
    log: Path, tmp_path: Path, is_done: bool
):
    first, kept = log.with_name("backups"), tmp_path / "kept"
    compacted(log, 1 << 30)
    backed_up(log)
    shutil.copytree(first, kept)
    whole = FaultyStore(place(log))
    assert pruning.prune(whole, 1, age_seconds=-60).objects > 0
    wanted = names(log)
    for call in range(1, whole.calls + 1):
        shutil.rmtree(first)
        shutil.copytree(kept, first)
        with pytest.raises(EvtoolError):
            pruning.prune(FaultyStore(place(log), call, is_done=is_done), 1, age_seconds=-60)
        assert checking.check(place(log)).damaged == ()
        pruning.prune(place(log), 1, age_seconds=-60)
        assert names(log) == wanted
    check_what_is_there(log, 1)


def test_objects_that_go_while_a_backup_is_made_are_noticed(log: Path):
    class Tidied(FaultyStore):
        def put(self, name: str, data: object) -> None:
            super().put(name, data)  # type: ignore[arg-type]
            if name.startswith("objects/"):
                self.first = getattr(self, "first", name)
                if name != self.first:
                    self.delete(self.first)

    with pytest.raises(EvtoolError, match="has gone while the backup was made"):
        backed_up(log, Tidied(place(log)))
    assert len(manifests.ids_of(place(log))) == 1


def test_a_store_that_does_not_give_back_what_was_stored_gets_no_manifest(log: Path):
    class Forgetful(FaultyStore):
        def put(self, name: str, data: object) -> None:
            super().put(name, bytes(len(memoryview(data))))  # type: ignore[arg-type]

    with pytest.raises(EvtoolError, match="not what is read back"):
        backed_up(log, Forgetful(place(log)))
    assert len(manifests.ids_of(place(log))) == 1
