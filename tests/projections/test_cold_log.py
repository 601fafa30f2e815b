"""Projections of a log that is compacted between two refreshes: the same bytes, and no event twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from compacting import compacted
from projecting import open_projection, refreshed, write
from samples import MOMENT_NS, check_sound, config, event, make_segments

import evtool
from evtool.files import Files
from evtool.projections.lineage import beside

MINUTE_NS = 60_000_000_000


def purchases(first: int) -> list[dict[str, object]]:
    return [
        event(
            number,
            f"user-{number % 7}",
            event_type=("ItemPurchased", "UserViewedPage")[number % 2],
            timestamp=MOMENT_NS + number * MINUTE_NS,
            payload=f'{{"user_id":"u{number % 7}","product_id":"p{number % 3}","amount":"{number}.25"}}',
        )
        for number in range(first, first + 60)
    ]


@pytest.mark.parametrize("name", ["daily-active-users", "revenue-by-product", "sessions"])
def test_a_projection_goes_on_from_its_checkpoint_when_the_log_was_compacted(folder: Path, name: str):
    make_segments(folder, [purchases(0)], [purchases(60)[:30], purchases(60)[30:]])
    with evtool.open(folder) as log:
        assert refreshed(log, name)[0].position == 120
        log.append(purchases(120))
    with evtool.open(folder, config=config(segment_bytes=1)) as log:
        log.append([event(10_000, "other")])  # which seals the segment
    assert len(compacted(folder).compacted) == 1
    with evtool.open(folder) as log:
        log.append(purchases(180)[:5])
        answer, data = refreshed(log, name)
        assert answer.position == log.position == 186
        again, full = refreshed(log, name, full=True)
        assert (full, again.events) == (data, answer.events)
    check_sound(folder)


def input_digest(folder: Path) -> str:
    """What the lineage of a read model of a log says of its input."""
    with evtool.open(folder) as log:
        asked = open_projection(log, "event-counts")
        asked.runner.refresh()
        return str(beside(Files(), asked.places.folder, "event-counts")[0]["input_digest"])


def test_the_input_digest_is_that_of_the_batches_that_went_in(tmp_path: Path):
    one, other, third = purchases(0), purchases(60), purchases(60)
    third[7] = third[7] | {"payload": "{}"}
    digests = {}
    for name, batches in {"as-it-was": [one, other], "another": [one, third], "shorter": [one]}.items():
        make_segments(tmp_path / name, batches)
        digests[name] = input_digest(tmp_path / name)
    assert len(set(digests.values())) == 3
    with evtool.open(tmp_path / "shorter") as log:
        before = log.snapshot()
        log.append(other)
        assert log.snapshot().digest_at(60) == before.digest_at(60) == digests["shorter"]
        assert log.snapshot().digest_at(59) is None  # no batch ends there


def test_a_compaction_keeps_the_input_digest(folder: Path):
    make_segments(folder, [purchases(0)], [purchases(60)[:30], purchases(60)[30:]], [purchases(120)])
    with evtool.open(folder) as log:
        before = {position: log.snapshot().digest_at(position) for position in (0, 60, 90, 120)}
    with evtool.open(folder, config=config(segment_bytes=1)) as log:
        log.append([event(10_000, "other")])
    assert compacted(folder).compacted
    with evtool.open(folder) as log:
        assert {position: log.snapshot().digest_at(position) for position in before} == before
        assert None not in before.values()


FIRST_PRODUCT = """[keys]
user = "coalesce(payload.user_id, stream_id)"
[measures]
first_product = "first(payload.product_id)"
last_product = "last(payload.product_id)"
"""


@pytest.mark.parametrize(
    "name", ["funnel-conversion", "sessions", "cohort-retention", "daily-active-users", "mine"]
)
def test_the_stream_stands_in_for_a_missing_user_beside_its_own_event_after_a_compaction(
    folder: Path, tmp_path: Path, name: str
):
    reference = write(tmp_path, FIRST_PRODUCT) if name == "mine" else name
    steps = {"steps": "UserViewedPage > ItemPurchased"} if name == "funnel-conversion" else {}
    batch = [
        each | {"payload": f'{{"product_id":"p{number % 3}"}}'} if number % 5 else each
        for number, each in enumerate(purchases(0))
    ]
    make_segments(folder, [batch])
    with evtool.open(folder, config=config(segment_bytes=1)) as log:
        log.append([event(10_000, "other")])
        before = open_projection(log, reference, **steps).runner.refresh().frame
    assert compacted(folder).compacted
    with evtool.open(folder) as log:
        for _ in range(2):
            after = open_projection(log, reference, **steps).runner.refresh(full=True).frame
            assert after.equals(before), (before, after)
