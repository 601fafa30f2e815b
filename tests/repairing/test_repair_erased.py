"""What was erased does not come back with a repair from a backup of before, whatever is lost of the log since."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
from backing import backed_up, place
from compacting import compacted
from erasures import erased, resumed
from faults import Fault, FaultyFiles, Killed, flip
from lost_logs import make
from mending import check_whole, held, repair
from samples import segments

from evtool.files import Files
from evtool.lifecycle import audit
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.repairing.erased import since

GONE = "user-3"
WHERE = f"stream_id = '{GONE}' and position <= 400"  # in the first two segments


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cold log with a backup of before an erasure, by the audit that the command leaves."""
    folder = make(tmp_path_factory.mktemp("erased") / "segments")
    compacted(folder, 0)
    backed_up(folder)
    record = functools.partial(audit.record, Files(), folder, "erase")
    record({}, {}, "began")
    erased(folder, Wanted(where=WHERE), record=record)
    return folder


@pytest.fixture
def copy(logs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "segments"
    shutil.copytree(logs, folder)
    return folder


def lose_summaries(segment: Path) -> None:
    for path in segment.glob("segment.*"):
        path.unlink()


def spoil(path: Path) -> None:
    for byte in range(40):
        flip(path, byte)


def lose_gone(segment: Path) -> None:
    spoil(*segment.glob("*.gone"))


def lose_gone_and_events(segment: Path) -> None:
    lose_gone(segment)
    spoil(*segment.glob("*.parquet"))


LOSSES: dict[str, Callable[[Path], None]] = {
    "segment": shutil.rmtree,
    "summaries": lose_summaries,
    "gone": lose_gone,
    "gone and events": lose_gone_and_events,
    "map": lambda segment: spoil(*segment.glob("*.map")),
    "events": lambda segment: spoil(*segment.glob("*.parquet")),
}


def of_gone(folder: Path) -> list[int]:
    """The positions of events that are as they were before they were erased."""
    return [
        at
        for at, row in held(folder).items()
        if at <= 400 and row["stream_id"] == GONE and not row["event_id"].startswith("erased-")
    ]


@pytest.mark.parametrize("kind", LOSSES)
def test_what_was_erased_does_not_come_back_with_a_repair(logs: Path, copy: Path, kind: str):
    LOSSES[kind](segments(copy)[0])
    done = repair(copy, place(logs))
    assert of_gone(copy) == []
    assert kind != "segment" or "erased since" in done.plan.segments[0].refusal
    assert kind != "events" or done.lost == set()


@pytest.mark.parametrize("kind", ["segment", "gone"])
def test_what_was_erased_does_not_come_back_with_a_second_repair(logs: Path, copy: Path, kind: str):
    LOSSES[kind](segments(copy)[0])
    lost = repair(copy).lost
    assert lost
    repair(copy, place(logs))  # it asks for what the one before has lost
    assert of_gone(copy) == []
    check_whole(copy, held(logs), lost & set(held(logs)))


def test_a_lost_segment_without_erased_events_comes_back_from_a_backup_of_before(logs: Path, copy: Path):
    for segment in segments(copy)[1:3]:  # the one behind it had none
        shutil.rmtree(segment)
    done = repair(copy, place(logs))
    assert done.lost == set(range(201, 601))  # together they are one stretch that holds one
    shutil.rmtree(copy)
    shutil.copytree(logs, copy)
    shutil.rmtree(segments(copy)[2])
    assert repair(copy, place(logs)).lost == set()
    check_whole(copy, held(logs), set())


def test_with_an_audit_that_was_begun_anew_a_lost_segment_is_not_filled(logs: Path, copy: Path):
    shutil.rmtree(segments(copy)[2])
    (copy / "audit.ndjson").unlink()
    done = repair(copy, place(logs))
    assert "audit" in done.plan.segments[0].refusal
    assert done.lost == set(range(401, 601))


def test_an_erasure_without_an_end_may_have_erased_anything(tmp_path: Path):
    record = functools.partial(audit.record, Files(), tmp_path)
    record("ingest", {}, {})
    before = (tmp_path / "audit.ndjson").read_bytes()
    record("erase", {}, {}, "began")
    assert since(before, (tmp_path / "audit.ndjson").read_bytes()).why_not(1, 2)
    record("erase", {}, {"segments": "00000000000000000201, 00000000000000000401"})
    found = since(before, (tmp_path / "audit.ndjson").read_bytes())
    assert [bool(found.why_not(*span)) for span in ((1, 200), (1, 201), (201, 400), (402, 600))] == [
        *(False, True, True, False)
    ]
    record("erase", {}, {"segments": ", ".join(["00000000000000000201"] * 60)})
    assert since(before, (tmp_path / "audit.ndjson").read_bytes()).why_not(1, 2)
    now = (tmp_path / "audit.ndjson").read_bytes()
    assert since(now, now).why_not(1, 900) == ""
    assert since(now, before).why_not(1, 2)


def test_an_erasure_that_was_cut_short_goes_on_in_segments_that_came_back_from_the_archive(tmp_path: Path):
    folder = tmp_path / "segments"
    archives.make(folder, cold=3)
    archives.archived(folder)
    wanted = Wanted(where="position <= 250 and position % 2 = 0")
    kept = tmp_path / "kept"
    for each in (folder, archives.store_folder(folder)):
        shutil.copytree(each, kept / each.name)
    counting = FaultyFiles()
    erased(folder, wanted, counting)
    calls = len(counting.calls)
    for share in (0.3, 0.5, 0.7, 0.9):
        for each in (folder, archives.store_folder(folder)):
            shutil.rmtree(each)
            shutil.copytree(kept / each.name, each)
        archives.taken_over(folder)
        with pytest.raises(Killed):
            erased(folder, wanted, FaultyFiles(Fault(int(share * calls))))
        assert (folder / "erasing.msgpack").exists()
        for segment in segments(folder)[:2]:
            shutil.rmtree(segment)
        assert repair(folder).lost == set()
        resumed(folder)
        rows = held(folder)
        assert len(rows) == 407
        assert all(
            row["event_id"].startswith("erased-") == (at <= 250 and at % 2 == 0) for at, row in rows.items()
        )
        archives.archived(folder)
        archives.check_archive(folder)
