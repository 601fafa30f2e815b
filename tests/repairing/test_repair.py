"""Each kind of damage, repaired: what is kept, what is lost, what a backup brings back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backing import backed_up, place
from compacting import bring_to, compacted
from faults import boot_again, flip
from lost_logs import BATCH, COUNT, make, sent
from mending import check_whole, held, newest, repair

import evtool
from evtool.config import Config, LogConfig
from evtool.errors import AccessDeniedError, BackupError, LogDamagedError
from evtool.files import Files, Lock
from evtool.lifecycle.forgetting import dropping, erasing, new_name
from evtool.lifecycle.repairing import planning
from evtool.lifecycle.repairing.repair import session
from evtool.lifecycle.rewriting import rewrite, rewriting_lock
from evtool.lifecycle.verify import verify

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("hot") / "segments")


@pytest.fixture(scope="module")
def cold(hot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cold") / "segments"
    shutil.copytree(hot, folder)
    bring_to(folder, "cold")
    return folder


def copied(source: Path, target: Path) -> Path:
    folder = target / "segments"
    shutil.copytree(source, folder)
    return folder


def segment(folder: Path, number: int) -> Path:
    return sorted(path for path in folder.iterdir() if path.name.isdigit())[number]


def frames_of(folder: Path, number: int) -> np.ndarray:
    with evtool.open(folder, read_only=True) as log:
        return log.snapshot().segments[number].table


def zero(path: Path, start: int, end: int) -> None:
    """What a bad sector leaves."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


def cut(path: Path, share: float) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"what was never written here")


def span(number: int) -> set[int]:
    """The positions of a sealed segment of the log."""
    return set(range(number * 2 * BATCH + 1, (number + 1) * 2 * BATCH + 1))


def test_a_log_that_is_whole_is_left_as_it_is(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    done = repair(folder)
    assert (done.plan.is_empty, done.repaired) == (True, None)
    assert not (folder / "damaged").exists()


def test_a_bad_sector_over_the_headers_of_frames_costs_these_frames(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    table = frames_of(folder, 1)
    path = segment(folder, 1) / "frames.log"
    zero(path, int(table["offset"][0]) - 8, int(table["offset"][1]) + 50)
    (segment(folder, 1) / "frames.idx").unlink()
    done = repair(folder)
    assert done.lost == set(range(201, 301))  # one batch is two frames: its event frame and its commit
    check_whole(folder, held(hot), done.lost)
    assert list((folder / "damaged").glob("*/*/frames.log.*"))


def test_a_flipped_bit_in_a_commit_frame_costs_no_event(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    table = frames_of(folder, 2)
    commit = table[table["header"]["kind"] == 2][0]
    for byte in (20, 104):  # of its header, and of its body
        flip(segment(folder, 2) / "frames.log", int(commit["offset"]) + byte)
    done = repair(folder)
    assert done.lost == set()
    check_whole(folder, held(hot), set())


def test_damage_in_the_acknowledged_part_of_the_active_segment_costs_a_batch(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    with evtool.open(folder) as log:
        for number in range(3):
            log.append([event | {"event_id": f"more-{number}-{event['event_id']}"} for event in sent()[:5]])
    before = held(folder)
    table = frames_of(folder, 4)
    flip(segment(folder, 4) / "frames.log", int(table["offset"][2]) + 150)
    boot_again(folder)
    with pytest.raises(LogDamagedError), evtool.open(folder) as log:
        log.append([])
    done = repair(folder)
    assert done.lost == set(range(COUNT + 1, COUNT + 6))
    check_whole(folder, before, done.lost)


def test_an_active_segment_in_which_nothing_was_acknowledged_begins_anew(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    with evtool.open(folder, config=Config()) as log:
        log.append(sent()[:1])
    path = segment(folder, -1) / "frames.log"
    before = held(folder)
    flip(path, 3)
    done = repair(folder)
    assert done.lost == set()
    check_whole(folder, before, set())


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda folder: shutil.rmtree(segment(folder, 1)), span(1)),
        (lambda folder: (segment(folder, 1) / "frames.log").unlink(), span(1)),
        (lambda folder: cut(segment(folder, 1) / "frames.log", 0.6), set(range(301, 401))),
        (lambda folder: (segment(folder, 1) / "segment.msgpack").unlink(), set()),
        (lambda folder: (segment(folder, 1) / "frames.idx").unlink(), set()),
        (lambda folder: shutil.rmtree(segment(folder, 4)), set(range(801, 901))),
        (lambda folder: shutil.rmtree(segment(folder, 0)), span(0)),
    ],
    ids=["segment", "frames.log", "cut frames.log", "summary", "frames.idx", "last segment", "first segment"],
)
def test_what_is_missing_of_a_hot_log(hot: Path, tmp_path: Path, damage: Damage, lost: set[int]):
    folder = copied(hot, tmp_path)
    damage(folder)
    done = repair(folder)
    assert done.lost == lost
    check_whole(folder, held(hot), lost)


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda folder: (segment(folder, 1) / "events-1.parquet").unlink(), span(1)),
        (lambda folder: (segment(folder, 1) / "events-1.map").unlink(), span(1)),
        (lambda folder: cut(segment(folder, 1) / "events-1.parquet", 0.95), set()),
        (lambda folder: (segment(folder, 1) / "streams.idx").unlink(), set()),
        (lambda folder: (segment(folder, 1) / "segment.msgpack").unlink(), set()),
        (lambda folder: [path.unlink() for path in segment(folder, 1).glob("segment.*")], span(1)),
        (lambda folder: zero(segment(folder, 1) / "events-1.parquet", 0, 4), set()),
        (lambda folder: append(segment(folder, 1) / "events-1.map"), set()),
    ],
    ids=["parquet", "map", "cut footer", "streams.idx", "summary", "summary and copy", "magic", "longer map"],
)
def test_what_is_missing_of_a_cold_log(cold: Path, tmp_path: Path, damage: Damage, lost: set[int]):
    folder = copied(cold, tmp_path)
    damage(folder)
    done = repair(folder)
    assert done.lost == lost
    check_whole(folder, held(cold), lost)


def test_lost_events_that_are_sent_again_are_new_and_their_ids_count_from_then_on(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    shutil.rmtree(segment(folder, 1))
    repair(folder)
    with evtool.open(folder) as log:
        assert log.append(sent()[:200]).duplicates == 200
        again = log.append(sent()[200:400])
        assert (again.count, again.duplicates) == (200, 0)
        assert log.append(sent()[200:400]).duplicates == 200
        assert len(b"".join(log.replay()).splitlines()) == COUNT
        assert verify(log).is_clean
    backed_up(folder)


def test_a_segment_is_made_whole_from_a_backup(hot: Path, cold: Path, tmp_path: Path):
    for number, source in enumerate((hot, cold)):
        folder = copied(source, tmp_path / str(number))
        backed_up(folder)
        for damage in (
            lambda folder: shutil.rmtree(segment(folder, 1)),
            lambda folder: [path.unlink() for path in segment(folder, 1).glob("segment.*")],
            lambda folder: [path.unlink() for path in segment(folder, 1).iterdir() if path.suffix != ".msgpack"],
        ):
            target = tmp_path / f"{number} damaged"
            shutil.copytree(folder, target)
            damage(target)
            done = repair(target, place(folder))
            assert done.lost == set()
            check_whole(target, held(source), set())
            shutil.rmtree(target)


def test_the_beginning_of_a_segment_from_a_backup_and_the_rest_of_our_own(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    backed_up(folder)
    with evtool.open(folder) as log:
        log.append([event | {"event_id": f"more-{event['event_id']}"} for event in sent()[:5]])
    before = held(folder)
    flip(segment(folder, 4) / "frames.log", 1_000)
    done = repair(folder, place(folder))
    assert (done.lost, done.plan.filled) == (set(), BATCH)
    check_whole(folder, before, set())


def test_a_backup_of_another_history_of_the_log_gives_nothing(hot: Path, tmp_path: Path):
    folder, other = copied(hot, tmp_path / "one"), copied(hot, tmp_path / "other")
    for target in (folder, other):
        with evtool.open(target) as log:
            for number in range(2):
                name = f"{target.parent.name:>5}"
                log.append([event | {"event_id": f"{name}-{number}-{event['event_id']}"} for event in sent()[:5]])
    backed_up(other)
    before = held(folder)
    table = frames_of(folder, 4)
    flip(segment(folder, 4) / "frames.log", int(table["offset"][-4]) + 150)
    done = repair(folder, place(other))
    assert done.lost == set(range(COUNT + 1, COUNT + 6))
    check_whole(folder, before, done.lost)


def test_a_last_batch_that_a_crash_has_torn_is_not_lost_but_was_never_there(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    path = segment(folder, 4) / "frames.log"
    before = held(folder)
    boot_again(folder)
    head = (folder / "HEAD").read_bytes()
    with evtool.open(folder) as log:
        log.append([event | {"event_id": f"more-{event['event_id']}"} for event in sent()[:5]])
    flip(path, path.stat().st_size - 400)  # of the batch that HEAD does not tell of
    flip(path, 1_000)
    (folder / "HEAD").write_bytes(head)
    done = repair(folder)
    assert done.lost == set(range(801, 901))
    check_whole(folder, before, done.lost)


def test_a_segment_that_was_compacted_since_the_backup_gets_its_events_back(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    with evtool.open(folder, read_only=True) as log:
        digest = verify(log).digest
    backed_up(folder)
    compacted(folder)
    assert len([path for path in folder.iterdir() if path.name.isdigit()]) == 2
    (parquet,) = segment(folder, 0).glob("*.parquet")
    zero(parquet, 100, parquet.stat().st_size // 2)
    without = tmp_path / "without"
    shutil.copytree(folder, without)
    lost = repair(without).lost
    assert len(lost) > 200
    assert repair(folder, place(folder)).lost == set()
    again = repair(without, place(folder))  # and what an earlier repair has lost
    assert (again.lost, again.plan.filled) == (set(), len(lost))
    for target in (folder, without):
        with evtool.open(target, read_only=True) as log:
            assert verify(log).digest == digest
        check_whole(target, held(hot), set())
    assert repair(without, place(folder)).repaired is None


def test_a_merged_segment_that_is_missing_gets_its_events_and_batches_back(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    backed_up(folder)
    compacted(folder)
    with evtool.open(folder, read_only=True) as log:
        batches = log.snapshot().segments[0].commits
    for path in segment(folder, 0).glob("*.map"):
        path.unlink()
    assert repair(folder, place(folder)).lost == set()
    with evtool.open(folder, read_only=True) as log:
        assert log.snapshot().segments[0].commits.tobytes() == batches.tobytes()
        assert list(log.snapshot().segments[0].producer_maps())
    check_whole(folder, held(hot), set())


def test_what_was_dropped_since_the_backup_does_not_come_back(cold: Path, tmp_path: Path):
    folder = copied(cold, tmp_path)
    backed_up(folder)
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        change = dropping(lambda events: events["position"].to_numpy() % 3 == 0, log.manifest.id_bytes)
        rewrite(log, [log.snapshot().segments[1]], [], change)
        lock.release()
    before = held(folder)
    (parquet,) = segment(folder, 1).glob("*.parquet")
    flip(parquet, 2_000)
    done = repair(folder, place(folder))
    assert (done.lost, done.plan.filled > 0) == (set(), True)
    check_whole(folder, before, set())


def test_a_backup_of_another_log_is_refused(hot: Path, tmp_path: Path):
    other = make(tmp_path / "other")
    backed_up(other)
    folder = copied(hot, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BackupError, match="are of the log"):
        planning.open_damaged(Files(), folder, Config(log_path=folder), newest(place(other)))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_last_segment_of_which_nothing_tells_how_far_it_goes_is_left(cold: Path, tmp_path: Path):
    folder = copied(cold, tmp_path)
    with evtool.open(folder) as log:
        log.seal()
    compacted(folder, 0)
    shutil.rmtree(segment(folder, -1))  # an active one without an event
    (folder / "HEAD").unlink()
    for path in segment(folder, -1).glob("segment.*"):
        path.unlink()
    with pytest.raises(LogDamagedError, match="how far it goes"):
        repair(folder)
    assert not (folder / "damaged").exists()


def test_what_was_gone_before_stays_so(cold: Path, tmp_path: Path):
    folder = copied(cold, tmp_path)
    with evtool.open(folder) as log:
        log_id = log.manifest.id_bytes
        lock = rewriting_lock(log)
        for number, change in (
            (1, dropping(lambda events: events["position"].to_numpy() % 3 == 0, log_id)),
            (
                2,
                erasing(
                    lambda events: events["position"].to_numpy() % 4 == 0,
                    log_id,
                    {f"user-{n}": new_name(f"user-{n}", 2) for n in range(7)},
                ),
            ),
        ):
            rewrite(log, [log.snapshot().segments[number]], [], change)
        lock.release()
    before = held(folder)
    with evtool.open(folder, read_only=True) as log:
        assert verify(log).is_clean
    for number in (1, 2):
        (parquet,) = segment(folder, number).glob("*.parquet")
        flip(parquet, 2_000)
        (gone,) = segment(folder, number).glob("*.gone")
        flip(gone, gone.stat().st_size // 2)
    done = repair(folder)
    assert done.lost <= span(1) | span(2)
    assert done.lost.isdisjoint(position for position in span(1) if position % 3 == 0)
    check_whole(folder, before, set(before) & (span(1) | span(2)))
    with evtool.open(folder) as log:
        assert log.append(sent()[201:203]).count == 2  # lost ones, positions 202 and 203
        assert log.append(sent()[203:204]).duplicates == 1  # dropped before
        assert log.append(sent()[403:404]).duplicates == 1  # erased before


def test_a_lost_map_costs_no_record_of_what_was_gone(cold: Path, tmp_path: Path):
    folder = copied(cold, tmp_path)
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        change = dropping(lambda events: events["position"].to_numpy() % 4 == 0, log.manifest.id_bytes)
        rewrite(log, [log.snapshot().segments[1]], [], change)
        lock.release()
    before = held(folder)
    (path,) = segment(folder, 1).glob("*.map")
    path.unlink()
    done = repair(folder)
    assert done.lost == span(1) & set(before)
    check_whole(folder, before, done.lost)
    with evtool.open(folder) as log:
        assert log.append(sent()[203:204]).duplicates == 1  # dropped before


def test_frames_that_are_cut_off_by_pages_are_lost(tmp_path: Path):
    folder = tmp_path / "segments"
    with evtool.open(folder, create=True, config=Config(log=LogConfig(segment_bytes=40 * 1024))) as log:
        for one in sent()[:60]:
            log.append([one])
    before = held(folder)
    table = frames_of(folder, 0)
    with (segment(folder, 0) / "frames.log").open("r+b") as file:
        file.truncate(int(table["offset"][20]) + 10)  # the first frame of batch 11
    done = repair(folder)
    assert done.lost == set(range(11, segment_end(folder, before) + 1))
    check_whole(folder, before, done.lost)


def segment_end(folder: Path, before: dict[int, object]) -> int:
    """The last position of the first segment of a log of several."""
    return int(segment(folder, 1).name) - 1 if max(before) >= int(segment(folder, 1).name) else max(before)


def test_without_a_record_of_what_was_gone_that_is_lost_and_the_rest_is_kept(cold: Path, tmp_path: Path):
    folder = copied(cold, tmp_path)
    going = {1: dropping, 2: erasing}
    with evtool.open(folder) as log:
        lock = rewriting_lock(log)
        for number, change in going.items():
            chosen = change(lambda events: events["position"].to_numpy() % 4 == 0, log.manifest.id_bytes)
            rewrite(log, [log.snapshot().segments[number]], [], chosen)
        lock.release()
    before = held(folder)
    for number in going:
        (gone,) = segment(folder, number).glob("*.gone")
        zero(gone, 0, gone.stat().st_size)
    done = repair(folder)
    assert done.lost == {position for position in span(1) | span(2) if position % 4 == 0}
    check_whole(folder, before, done.lost & set(before))


def test_a_segment_that_lost_events_can_be_compacted_and_lose_more(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    flip(segment(folder, 1) / "frames.log", 2_000)
    first = repair(folder).lost
    compacted(folder)
    check_whole(folder, held(hot), first)


def test_an_active_segment_behind_a_missing_one_is_left_as_it_is(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    with evtool.open(folder) as log:
        log.seal()
    shutil.rmtree(segment(folder, -2))
    done = repair(folder)
    assert [step.way for step in done.plan.segments] == ["rewrite"]
    check_whole(folder, held(hot), done.lost)


def test_a_plan_is_made_of_a_log_on_a_disk_that_has_become_read_only(hot: Path, tmp_path: Path):
    class ReadOnly(Files):
        def lock(self, path: Path) -> Lock:
            raise AccessDeniedError(f"cannot open {path}: Read-only file system")

    folder = copied(hot, tmp_path)
    flip(segment(folder, 1) / "frames.log", 2_000)
    config = Config(log_path=folder)
    log, _ = planning.open_damaged(ReadOnly(), folder, config, None)
    with session(log, may_be_read_only=True):
        assert planning.plan(log, config).lost_events == BATCH
    with pytest.raises(AccessDeniedError), session(log):
        pass


def test_the_report_names_damage_and_positions(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    flip(segment(folder, 1) / "frames.log", 2_000)
    done = repair(folder)
    assert done.repaired is not None
    report = json.loads((done.repaired.folder / "report.json").read_text())
    assert (report["is_finished"], report["is_whole"]) == (True, True)
    assert report["lost"] == [[201, 300]]
    (one,) = report["segments"]
    (damage,) = one["damages"]
    assert damage["message"] == "its body does not match its checksum"
    aside = done.repaired.folder / segment(folder, 1).name / f"frames.log.{damage['start']}"
    assert aside.stat().st_size == damage["end"] - damage["start"]
