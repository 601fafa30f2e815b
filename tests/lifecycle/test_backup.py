"""Backups: the log at one position, each file once, refused where it would mix or lose histories."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from backing import FaultyStore, backed_up, digest, place, replay, restored
from compacting import bring_to, compacted, small_pieces
from faults import boot_again, flip
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import config, event, make_log, many, segments

import evtool
from evtool.errors import BackupDamagedError, BackupError, LogDamagedError, LogExistsError, LogLockedError
from evtool.lifecycle.backups import checking, pruning
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.backups.making import back_up
from evtool.lifecycle.verify import verify

SMALL = config(segment_bytes=6 * 1024, partitions=2)


def made(folder: Path, count: int = 12, size: int = 100, state: str = "hot") -> Path:
    """A log of several segments in a state."""
    make_log(folder, [many(size, number * size) for number in range(count)], SMALL)
    assert len(segments(folder)) > 2
    with small_pieces():
        bring_to(folder, state)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("state", ["hot", "cold", "mixed", "merged"])
def test_a_restored_log_is_the_log(folder: Path, tmp_path: Path, state: str):
    made(folder, state=state)
    before = digest(folder)
    done = backed_up(folder)
    assert (done.is_new, done.manifest.position, done.manifest.events) == (True, 1_200, 1_200)
    target = tmp_path / "again"
    assert restored(place(folder), target).position == 1_200
    assert digest(target) == before
    assert replay(target) == replay(folder)
    with evtool.open(target) as log:
        assert log.manifest.id == evtool.open(folder).manifest.id
        assert log.append(many(400, 800)).duplicates == 400  # what was sent last is sent again
        assert log.append(many(100, 1_200)).first_position == 1_201
    assert verify(evtool.open(target, read_only=True)).is_clean


batches = st.lists(st.integers(1, 150), min_size=1, max_size=10)
states = st.sampled_from(["hot", "cold", "mixed", "merged"])


@settings(max_examples=8)
@given(batches, states, batches, st.booleans())
def test_each_backup_of_a_growing_log_restores_what_it_was(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], state: str, later: list[int], is_booted: bool
):
    folder = tmp_path_factory.mktemp("growing") / "segments"

    def append(sizes: list[int], start: int) -> None:
        make_log(folder, [many(size, start + sum(sizes[:at])) for at, size in enumerate(sizes)], SMALL)

    append(first, 0)
    with small_pieces():
        if len(segments(folder)) > 1:
            bring_to(folder, state)
    if is_booted:
        boot_again(folder)
    one = backed_up(folder).manifest
    append(later, sum(first))
    compacted(folder, 0)
    other = backed_up(folder).manifest
    for manifest, count in ((one, sum(first)), (other, sum(first) + sum(later))):
        target = folder.with_name(manifest.id)
        restored(place(folder), target, backup=manifest.id)
        assert manifest.position == count
        assert replay(target) == replay(folder, end=count + 1)
        digest(target)
    assert checking.check(place(folder)).damaged == ()


def test_what_a_backup_has_is_not_stored_again(folder: Path):
    made(folder)
    first = FaultyStore(place(folder))
    assert backed_up(folder, first).stored > 6
    make_log(folder, [many(20, 1_200)], SMALL)
    second = FaultyStore(place(folder))
    done = backed_up(folder, second)
    assert done.stored == 1  # the active segment
    assert len(second.puts) == 2  # and the manifest
    third = backed_up(folder)
    assert (third.is_new, third.stored, third.manifest) == (False, 0, done.manifest)


def test_an_empty_log_can_be_backed_up(folder: Path, tmp_path: Path):
    evtool.open(folder, create=True).close()
    assert backed_up(folder).manifest.position == 0
    restored(place(folder), tmp_path / "again")
    assert replay(tmp_path / "again") == b""
    make_log(tmp_path / "again", [many(5)])


def test_a_backup_while_others_append_and_compact_is_of_one_position(folder: Path, tmp_path: Path):
    made(folder, 4)
    ended = threading.Event()

    def append() -> None:
        with evtool.open(folder, config=SMALL) as log:
            for number in range(60):
                log.append(many(50, 400 + number * 50))
        ended.set()

    def compact() -> None:
        while not ended.is_set():
            compacted(folder, 0)

    threads = [threading.Thread(target=append), threading.Thread(target=compact)]
    for thread in threads:
        thread.start()
    made_now = []
    while not ended.is_set() or not made_now:
        made_now.append(backed_up(folder).manifest)
    for thread in threads:
        thread.join()
    for number, manifest in enumerate({each.id: each for each in made_now[:3] + made_now[-1:]}.values()):
        assert manifest.position % 50 == 0  # whole batches
        restored(place(folder), tmp_path / str(number), backup=manifest.id)
        assert replay(tmp_path / str(number)) == replay(folder, end=manifest.position + 1)


def test_everything_but_caches_comes_back(folder: Path, tmp_path: Path):
    made(folder, 4)
    others = {
        "dead-letters/dead-letters.ndjson": b'{"a":1}\n{"b":2}\n{"half',
        "schemas/schemas.ndjson": b"",
        "index/more": b"x",
        "read-models/mine/v1/mine.parquet": b"x",
        "nightly/20260131T031700.000000Z.json": b"{}",
    }
    for name, data in others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    backed_up(folder)
    restored(place(folder), tmp_path / "again")
    found = files_of(tmp_path / "again")
    assert found["dead-letters/dead-letters.ndjson"] == b'{"a":1}\n{"b":2}\n'  # and not the half line
    assert found["log.json"] == (folder / "log.json").read_bytes()
    assert not [name for name in found if name.startswith(("read-models", "nightly")) or name == "index/more"]


def test_a_backup_of_another_log_is_refused(folder: Path, tmp_path: Path):
    made(folder, 4)
    backed_up(folder)
    make_log(tmp_path / "other", [many(5)])
    with pytest.raises(BackupError, match="are of the log"):
        backed_up(tmp_path / "other", place(folder))
    assert len(manifests.ids_of(place(folder))) == 1


def test_a_log_that_was_cut_back_does_not_take_the_place_of_what_it_had(folder: Path, tmp_path: Path):
    made(folder, 4)
    backed_up(folder)
    restored(place(folder), tmp_path / "earlier", until="@351")
    with pytest.raises(BackupError, match="cut back"):
        backed_up(tmp_path / "earlier", place(folder))
    make_log(tmp_path / "earlier", [many(100, 5_000)])  # now it is longer, and another history
    with pytest.raises(BackupError, match="other batches"):
        backed_up(tmp_path / "earlier", place(folder))
    assert len(manifests.ids_of(place(folder))) == 1


def test_a_damaged_segment_is_not_backed_up(folder: Path):
    made(folder, 6)
    flip(segments(folder)[0] / "frames.log", 300)
    with pytest.raises(LogDamagedError, match="at byte"):
        backed_up(folder)
    assert manifests.ids_of(place(folder)) == []


def test_a_damaged_cold_segment_is_not_backed_up(folder: Path):
    made(folder, 6, state="cold")
    flip(next(folder.rglob("*.parquet")), 300)
    with pytest.raises(LogDamagedError):
        backed_up(folder)
    assert manifests.ids_of(place(folder)) == []


def test_two_of_one_log_do_not_run_at_once(folder: Path):
    made(folder, 4)
    with evtool.open(folder) as log:
        lock = log.files.lock(folder / "backup.lock")
        with pytest.raises(LogLockedError, match="is being backed up by"):
            back_up(log, place(folder))
        lock.release()


def test_any_flipped_object_is_found_by_a_check_and_by_a_restore(folder: Path, tmp_path: Path):
    made(folder, 5, state="mixed")
    backed_up(folder)
    store = place(folder)
    objects = sorted(path for path in folder.with_name("backups").rglob("*") if path.is_file())
    for number, path in enumerate(objects):
        for damage in ("flipped", "shorter", "missing"):
            data = path.read_bytes()
            if damage == "flipped":
                flip(path, len(data) // 2)
            elif damage == "shorter":
                path.write_bytes(data[:-1])
            else:
                path.unlink()
            if damage == "missing" and path.suffix == ".json":
                with pytest.raises(BackupError, match="no backup"):
                    checking.check(store)
            else:
                report = checking.check(store)
                assert len(report.damaged) == 1
                assert report.damaged[0].object.endswith(path.name)
                assert checking.error_of(report, store.url) is not None
            target = tmp_path / f"{number}-{damage}"
            with pytest.raises(BackupError) as caught:
                restored(store, target)
            assert isinstance(caught.value, BackupDamagedError) or path.suffix == ".json"
            assert not (target / "log.json").exists()
            path.write_bytes(data)
    assert checking.check(store).damaged == ()


def test_an_object_that_was_lost_is_stored_again_by_the_next_backup(folder: Path, tmp_path: Path):
    made(folder, 5)
    backed_up(folder)
    for path in folder.with_name("backups").glob("objects/*/*"):
        path.unlink()
    make_log(folder, [many(1, 9_000)], SMALL)
    backed_up(folder)
    restored(place(folder), tmp_path / "again")
    assert digest(tmp_path / "again") == digest(folder)


def test_only_the_newest_are_kept_and_what_they_need(folder: Path, tmp_path: Path):
    make_log(folder, [many(50)], SMALL)
    ids = []
    for number in range(1, 6):
        make_log(folder, [many(100, number * 100)], SMALL)
        if number == 3:
            compacted(folder, 0)
        ids.append(backed_up(folder).manifest.id)
    store = place(folder)
    before = sum(1 for _ in store.list("objects/"))
    done = pruning.prune(store, 2)
    assert (done.backups, done.objects) == (tuple(ids[:3]), 0)  # of today: another backup may rely on them
    assert sum(1 for _ in store.list("objects/")) == before
    done = pruning.prune(store, 2, age_seconds=-60)
    assert done.objects > 0
    assert manifests.ids_of(store) == ids[3:]
    named = {name for each in checking.every(store) if each.manifest for name in each.manifest.objects()}
    assert {each.name for each in store.list("objects/")} == named
    for backup_id in ids[3:]:
        restored(store, tmp_path / backup_id, backup=backup_id)


def test_nothing_is_removed_while_a_kept_manifest_cannot_be_read(folder: Path):
    for number in range(3):
        make_log(folder, [many(10, number * 10)], SMALL)
        last = backed_up(folder).manifest.id
    store = place(folder)
    flip(folder.with_name("backups") / manifests.manifest_name(last), 30)
    before = files_of(folder.with_name("backups"))
    with pytest.raises(BackupDamagedError, match="checksum"):
        pruning.prune(store, 1, age_seconds=-60)
    assert files_of(folder.with_name("backups")) == before


@pytest.mark.parametrize("name", ["frames.log", "evtool.toml"])
def test_a_restore_writes_over_nothing(folder: Path, tmp_path: Path, name: str):
    made(folder, 3)
    backed_up(folder)
    target = tmp_path / "there"
    target.mkdir()
    (target / name).write_text("mine")
    with pytest.raises(LogExistsError, match="not empty"):
        restored(place(folder), target)
    assert files_of(target) == {name: b"mine"}
    with pytest.raises(LogExistsError):
        restored(place(folder), folder)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    made(folder, 3)
    manifest = backed_up(folder).manifest
    name = manifests.manifest_name(manifest.id)
    data: Any = manifests.encode(manifest).decode().partition("\n")[0].replace('"log.json"', '"../../log.json"')
    import hashlib

    signed = f"{data}\n{hashlib.sha256(data.encode()).hexdigest()}\n"
    (folder.with_name("backups") / name).write_text(signed)
    with pytest.raises(BackupDamagedError, match="no log has"):
        restored(place(folder), tmp_path / "again")


def test_events_of_a_source_that_sends_again_after_a_restore_are_known(folder: Path, tmp_path: Path):
    make_log(folder, [[event(number, metadata='{"a":1}') for number in range(40)]], SMALL)
    backed_up(folder)
    shutil.rmtree(folder)
    restored(place(folder), folder)
    with evtool.open(folder) as log:
        commit = log.append([event(number, metadata='{"a":1}') for number in range(20, 60)])
    assert (commit.duplicates, commit.count) == (20, 20)
