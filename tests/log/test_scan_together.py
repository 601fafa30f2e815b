"""Reading a few events out of many groups of frames: they are given together, in order, the first ones soon."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import Row, config, event, make_log, rows

import evtool
from evtool.log import scan as scanning
from evtool.log.scan import Group

BATCHES = 60


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> evtool.Log:
    """Batches of one event of a rare type, but for two of them, of which one has none and one has many."""
    folder = tmp_path_factory.mktemp("together") / "segments"
    batches = []
    for number in range(BATCHES):
        first = 100 * number
        batch = [event(first + place, f"user-{place}") for place in range(5)]
        count = {20: 40, 30: 0}.get(number, 1)
        batches.append(batch + [event(first + 50 + place, event_type="Paid") for place in range(count)])
    make_log(folder, batches, config(segment_bytes=60_000))
    return evtool.open(folder, read_only=True)


@pytest.fixture(autouse=True)
def a_group_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "GROUP_EVENTS", 1)


def paid(log: evtool.Log) -> list[Row]:
    return [row for row in rows(log) if row["event_type"] == "Paid"]


@pytest.mark.parametrize("few_bytes", [0, 1_000, 1 << 20], ids=["none is few", "all but one", "all are few"])
@pytest.mark.parametrize("groups_max", [1, 3, 64])
def test_events_are_in_order_whether_they_were_few_or_many(
    log: evtool.Log, monkeypatch: pytest.MonkeyPatch, few_bytes: int, groups_max: int
):
    monkeypatch.setattr(scanning, "_FEW_BYTES", few_bytes)
    monkeypatch.setattr(scanning, "_GROUPS_TOGETHER_MAX", groups_max)
    assert rows(log, types=["Paid"]) == paid(log)
    middle = paid(log)[BATCHES // 2]["position"]
    wanted = [row for row in paid(log) if row["position"] >= middle]
    assert rows(log, types=["Paid"], start=middle) == wanted


def test_few_events_make_few_frames(log: evtool.Log):
    frames = list(log.scan(types=["Paid"]))
    assert len(frames) <= 7  # 1, 2, 4, 8, 16 and 32 groups, and what is left
    assert all(map(len, frames))


def test_the_first_event_does_not_wait_for_others(log: evtool.Log, monkeypatch: pytest.MonkeyPatch):
    """A replay with a limit ends soon, however many there would be."""
    read: list[Group] = []
    among = scanning._among

    def watched(group: Group, *others: object) -> object:
        read.append(group)
        return among(group, *others)

    monkeypatch.setattr(scanning, "_among", watched)
    first = next(iter(log.scan(types=["Paid"])))
    assert first["event_id"].to_list() == ["event-50"]
    assert len(read) <= 4


def test_nothing_is_found(log: evtool.Log):
    assert list(log.scan(types=["Never"])) == []
    assert list(log.scan(types=["Paid"], start=10**6)) == []


def test_any_number_of_types_is_found_in_frames_that_have_some_none_or_all_of_them(tmp_path: Path):
    """In frames of more than 16 KiB, where types are a dictionary, and may be looked at before other columns."""
    names = [f"type-{number}" for number in range(20)]
    batches = []
    for number, few in enumerate((20, 1, 20, 12)):
        first = 2_000 * number
        batches.append(
            [event(first + at, event_type=names[at % few], payload=f'{{"n":{at}}}') for at in range(1_200)]
        )
    make_log(tmp_path / "segments", batches)
    log = evtool.open(tmp_path / "segments", read_only=True)
    for count in (1, 2, 8, 9, 20):
        wanted = names[-count:]
        assert rows(log, types=wanted) == [row for row in rows(log) if row["event_type"] in wanted]
