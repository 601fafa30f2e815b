"""Exactly once: an event is known by its source and its id, and what it says is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import flip
from samples import MOMENT_NS, ODD_IDS, Event, check_sound, config, event, frame, ids, make_log, many, rows

import evtool
from evtool import envelope
from evtool.config import IngestConfig
from evtool.errors import EvtoolError, IdConflictError, VersionConflictError
from evtool.ingest.pipeline import Ingest, Summary
from evtool.lifecycle import indexchecks, segmentchecks
from evtool.log import caches, identity
from evtool.log.identity import IdConflict
from evtool.log.ids import EventIds
from evtool.log.sequence import VersionConflict
from evtool.log.table import HEADER_BYTES
from evtool.log.writer import Encoded, Writer

UUIDS = [f"7cbadfce-ad60-4a3e-8799-{number:012x}" for number in range(4)]


def line(item: Event) -> bytes:
    """An event as a line, its payload spelled as it is."""
    rest = json.dumps({name: value for name, value in item.items() if name != "payload"})
    return f'{rest[:-1]},"payload":{item["payload"]}}}\n'.encode()


def ingested(log: evtool.Log, events: list[Event] | bytes, **options: Any) -> Summary:
    """What becomes of events (or NDJSON) that are read from a file."""
    path = log.folder.with_name("events.ndjson")
    if not isinstance(events, bytes):
        events = b"".join(map(line, events))
    path.write_bytes(events)
    return Ingest(log, [str(path)], IngestConfig(**options)).run()


def buried(log: evtool.Log) -> list[tuple[int, str, str]]:
    """Line, reason and message of the dead letters."""
    path = log.folder / "dead-letters" / "dead-letters.ndjson"
    letters = map(json.loads, path.read_bytes().splitlines() if path.exists() else ())
    return [(letter["line"], letter["reason"], letter["message"]) for letter in letters]


def outcome(commit: evtool.Commit) -> tuple[int, int]:
    return commit.count, commit.duplicates


# What comes again.


def test_an_event_that_comes_again_is_counted_and_not_stored(folder: Path):
    with evtool.open(folder, create=True) as log:
        assert outcome(log.append([event(1), event(1), event(2), event(1)])) == (2, 2)
        commit = log.append([event(2), event(3), event(1)])
        assert (outcome(commit), commit.first_position, commit.last_position) == ((1, 2), 3, 3)
        commit = log.append([event(3), event(2)])
        assert (outcome(commit), commit.first_position, commit.last_position) == ((0, 2), 4, 3)
        assert ids(log) == ["event-1", "event-2", "event-3"]
    assert check_sound(folder).batches == 2


@pytest.mark.parametrize("segment_bytes", [1, 3_000, 1 << 20])
def test_it_is_known_over_batches_restarts_and_segments(folder: Path, segment_bytes: int):
    sent: list[Event] = []
    for number in range(8):
        with evtool.open(folder, create=True, config=config(segment_bytes)) as log:
            assert outcome(log.append([*sent, event(number), *sent, event(number)])) == (1, 2 * len(sent) + 1)
            sent.append(event(number))
            assert outcome(log.append(sent[::-1])) == (0, len(sent))
            assert outcome(log.append(frame(sent))) == (0, len(sent))
    assert ids(evtool.open(folder)) == [item["event_id"] for item in sent]
    check_sound(folder)


@pytest.mark.parametrize("batch_events", [1, 7, 1_000])
def test_an_ingest_of_what_is_there_stores_nothing(folder: Path, batch_events: int):
    given = [event(number, f"user-{number % 3}") for number in range(50)]
    with evtool.open(folder, create=True) as log:
        first = ingested(log, given[:30] + given[10:], batch_events=batch_events)
        assert (first.accepted, first.duplicates, first.dead_letters) == (50, 20, 0)
        again = ingested(log, given * 2, batch_events=batch_events)
        assert (again.accepted, again.duplicates, again.dead_letters, again.batches) == (0, 100, 0, 0)
        assert again.last_position is None
        assert ids(log) == [item["event_id"] for item in given]
    assert outcome(evtool.open(folder).append(given)) == (0, 50)


@pytest.mark.parametrize("names", [ODD_IDS, UUIDS, [*UUIDS, "1", UUIDS[0].upper(), UUIDS[0].replace("-", "")]])
def test_every_source_has_its_own_ids_whatever_they_look_like(folder: Path, names: list[str]):
    given = [
        event(0, event_id=name, source_id=source)
        for source in ("shop", "till", names[0])
        for name in dict.fromkeys(names)
    ]
    with evtool.open(folder, create=True) as log:
        assert outcome(log.append(given)) == (len(given), 0)
        assert outcome(log.append(given[::-1])) == (0, len(given))
    with evtool.open(folder) as log:
        assert outcome(log.append(frame(given))) == (0, len(given))
        for item in given:
            with pytest.raises(IdConflictError):
                log.append([item | {"payload": "{ }"}])
    assert [(row["source_id"], row["event_id"]) for row in rows(evtool.open(folder))] == [
        (item["source_id"], item["event_id"]) for item in given
    ]


def test_a_replay_read_into_its_own_log_changes_nothing(folder: Path):
    given = [event(number, f"user-{number % 3}", timestamp=MOMENT_NS + number) for number in range(20)]
    given += [
        event(number, metadata='{"a": 1.0}', payload='{"n": 1e5}', schema_version=3) for number in range(20, 40)
    ]
    given += [event(number, event_id=name, source_id=f"till-{number % 2}") for number, name in enumerate(UUIDS)]
    with evtool.open(folder, create=True, config=config(3_000)) as log:
        log.append(given[:5])
        log.append(given[5:])
        replay = b"".join(log.replay())
        summary = ingested(log, replay * 2, batch_events=25)
        assert (summary.accepted, summary.duplicates, summary.dead_letters) == (0, 2 * len(given), 0)
        assert outcome(log.append(rows(log))) == (0, len(given))
        assert b"".join(log.replay()) == replay
    # And into another log: all of it is new there, and then it is not.
    with evtool.open(folder.with_name("other"), create=True) as log:
        assert ingested(log, replay + replay).duplicates == len(given)
        assert ids(log) == [item["event_id"] for item in given]


# What is the same, and what is not.

STORED = event(1, timestamp=MOMENT_NS, metadata='{"a":1}')


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({}, True),
        ({"timestamp": "2026-01-01T01:00:00+01:00"}, True),
        ({"stream_version": 1}, True),
        ({"schema_version": 1}, True),
        ({"position": 9, "recorded_at": 9}, True),
        ({"stream_version": 2}, False),
        ({"timestamp": None}, False),
        ({"timestamp": MOMENT_NS + 1}, False),
        ({"payload": '{"number": 1}'}, False),
        ({"payload": None}, False),
        ({"metadata": None}, False),
        ({"metadata": "{}"}, False),
        ({"schema_version": 2}, False),
        ({"stream_id": "user-2"}, False),
        ({"event_type": "itemViewed"}, False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["stored", "pending", "in the batch"])
def test_what_is_the_same(folder: Path, changed: Event, is_same: bool, where: str):
    again = STORED | changed
    with evtool.open(folder, create=True) as log:
        log.append([event(0, "other")])
        if where == "pending":
            writer = log.writer()
            first, second = (writer.prepare(envelope.batch([item])) for item in (STORED, again))
            assert (second.count, second.duplicates) == (0, int(is_same))
            assert second.conflicts == (() if is_same else (IdConflict(0, "shop", "event-1", 2),))
            commit(writer, first, second)
        elif is_same:
            assert outcome(log.append([STORED, again])) == (1, 1)
            assert outcome(log.append([again])) == (0, 1)
        else:
            if where == "stored":
                log.append([STORED])
            position = 2 if where == "stored" else 3
            with pytest.raises(IdConflictError, match=rf"'event-1' .* as position {position}$") as caught:
                log.append([event(7, "user-7"), STORED, again])
            error = caught.value
            assert (error.source_id, error.event_id, error.place) == ("shop", "event-1", 2)
            assert error.first_position == position
        assert "event-7" not in ids(log)
    check_sound(folder)


@pytest.mark.parametrize("where", ["stored", "in the batch"])
def test_a_time_that_was_left_open_agrees_with_none_and_with_recorded_at(folder: Path, where: str):
    with evtool.open(folder, create=True) as log:
        if where == "in the batch":
            assert outcome(log.append([event(1), event(1)])) == (1, 1)
            with pytest.raises(IdConflictError):
                log.append([event(2), event(2, timestamp=MOMENT_NS)])
        else:
            log.append([event(1)])
        assert outcome(log.append([event(1)])) == (0, 1)
        recorded_at = rows(log)[0]["recorded_at"]
        assert outcome(log.append([event(1, timestamp=recorded_at)])) == (0, 1)
        for other in (recorded_at + 1, MOMENT_NS):
            with pytest.raises(IdConflictError):
                log.append([event(1, timestamp=other)])


def test_a_version_that_is_given_again_must_be_the_stored_one(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1), event(2), event(3, stream_version=3)])
        assert outcome(log.append([event(2, stream_version=2), event(3), event(1, stream_version=1)])) == (0, 3)
        for version in (1, 3, 4):
            with pytest.raises(IdConflictError):
                log.append([event(2, stream_version=version)])
        # What is known takes no version: the next one is the fourth.
        assert outcome(
            log.append([event(2), event(4, stream_version=4), event(3), event(5, stream_version=5)])
        ) == (2, 2)


# Conflicts of an ingest, which stores the rest.


def test_a_conflict_within_a_batch_names_the_position_of_the_first(folder: Path):
    given = [event(0), event(1), event(2), event(1, payload="{}"), event(1), event(2, "other"), event(3)]
    with evtool.open(folder, create=True) as log:
        log.append([event(9)])
        summary = ingested(log, given)
        assert (summary.accepted, summary.duplicates, summary.dead_letters) == (4, 1, 2)
        assert [(line, reason) for line, reason, _ in buried(log)] == [(4, "id_conflict"), (6, "id_conflict")]
        assert [message.split()[-1] for _, _, message in buried(log)] == ["3", "4"]
        assert ids(log, start=3, end=5) == ["event-1", "event-2"]
        assert ids(log) == [f"event-{number}" for number in (9, 0, 1, 2, 3)]


Conflicts = list[tuple[int, str]]


@pytest.mark.parametrize(
    ("given", "stored", "duplicates", "conflicts"),
    [
        ([event(1, stream_version=5), event(1)], ["event-1"], 0, [(1, "version")]),
        ([event(1, stream_version=5), event(1), event(1)], ["event-1"], 1, [(1, "version")]),
        # The second takes the version that the third expects.
        (
            [event(1, stream_version=5), event(1), event(2, stream_version=2)],
            ["event-1", "event-2"],
            0,
            [(1, "version")],
        ),
        (
            [event(1, stream_version=5), event(2), event(1, stream_version=2)],
            ["event-2", "event-1"],
            0,
            [(1, "version")],
        ),
        (
            [event(1, stream_version=5), event(1, payload="{}"), event(1)],
            ["event-1"],
            0,
            [(1, "version"), (3, "id")],
        ),
        ([event(1, stream_version=5)] * 3, [], 0, [(1, "version"), (2, "version"), (3, "version")]),
        (
            [
                event(1, stream_version=2),
                event(2, "b", stream_version=2),
                event(2, "b"),
                event(1),
                event(1, stream_version=2),
            ],
            ["event-2", "event-1"],
            0,
            [(1, "version"), (2, "version"), (5, "id")],
        ),
    ],
)
def test_what_follows_a_refused_version_is_not_what_follows_a_stored_event(
    folder: Path, given: list[Event], stored: list[str], duplicates: int, conflicts: Conflicts
):
    with evtool.open(folder, create=True) as log:
        summary = ingested(log, given)
        assert ids(log) == stored
        assert [(line, reason.removesuffix("_conflict")) for line, reason, _ in buried(log)] == conflicts
        assert (summary.accepted, summary.duplicates) == (len(stored), duplicates)
    check_sound(folder)


@pytest.mark.timeout(60)
def test_a_refused_event_that_comes_very_often_takes_no_longer_than_others(folder: Path):
    with evtool.open(folder, create=True) as log:
        summary = ingested(log, [event(1, stream_version=5)] * 30_000, batch_events=65_536)
        assert (summary.accepted, summary.dead_letters) == (0, 30_000)


# Batches that are on their way to the disk.


def commit(writer: Writer, *batches: Any) -> None:
    encoded = [Encoded(batch, [writer.encode(part) for part in batch.parts]) for batch in batches]
    for batch, done in zip(batches, writer.commit_together(encoded), strict=True):
        assert outcome(done) == (batch.count, batch.duplicates)


def test_batches_that_are_not_committed_yet_are_known(folder: Path):
    with evtool.open(folder, create=True) as log:
        writer = log.writer()
        sent = (
            [event(1), event(2)],
            [event(2), event(3)],
            [event(1), event(3), event(2)],
            [event(4), event(3, "other")],
        )
        batches = [writer.prepare(envelope.batch(events)) for events in sent]
        assert [(batch.count, batch.duplicates) for batch in batches] == [(2, 0), (1, 1), (0, 3), (1, 0)]
        assert batches[3].conflicts == (IdConflict(1, "shop", "event-3", 3),)
        with pytest.raises(IdConflictError, match=r"as position 1$"):
            writer.prepare(envelope.batch([event(1, payload="{}")]), keep_all=True)
        commit(writer, *batches[:2])
        late = writer.prepare(envelope.batch([event(2), event(4), event(5)]))  # of the disk, on its way, and new
        assert (late.count, late.duplicates) == (1, 2)
        commit(writer, batches[2])
        commit(writer, batches[3], late)
        assert ids(log) == [f"event-{number}" for number in range(1, 6)]
        assert outcome(log.append([event(number) for number in range(1, 6)])) == (0, 5)
    assert outcome(evtool.open(folder).append([event(number) for number in range(1, 6)])) == (0, 5)
    check_sound(folder)


@pytest.mark.parametrize("moment", ["before", "behind"])
def test_a_batch_that_is_committed_while_the_index_is_asked_is_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    with evtool.open(folder, create=True) as log:
        writer = log.writer()
        first = writer.prepare(envelope.batch([event(1)]))
        real = EventIds.candidates

        def candidates(index: EventIds, hashes: Any) -> Any:
            monkeypatch.undo()
            found = None if moment == "before" else real(index, hashes)
            commit(writer, first)
            return real(index, hashes) if found is None else found

        monkeypatch.setattr(EventIds, "candidates", candidates)
        second = writer.prepare(envelope.batch([event(1), event(2)]))
        assert (second.count, second.duplicates) == (1, 1)
        commit(writer, second)
        assert ids(log) == ["event-1", "event-2"]


def test_a_duplicate_of_what_was_never_committed_is_not_acknowledged(folder: Path):
    log = evtool.open(folder, create=True)
    writer = log.writer()
    writer.prepare(envelope.batch([event(1)]))
    second = writer.prepare(envelope.batch([event(1)]))
    with pytest.raises(EvtoolError):
        commit(writer, second)
    log.close()
    assert outcome(log.append([event(1)])) == (1, 0)
    log.close()
    assert ids(log) == ["event-1"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_append_that_was_interrupted_is_not_told_as_stored_when_it_comes_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
):
    def interrupted(*_: Any) -> None:
        raise interruption

    with evtool.open(folder, create=True) as log:
        log.append([event(1)])
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "encode", interrupted)
            with pytest.raises(interruption):
                log.append([event(2), event(3)])
        try:
            stored = outcome(log.append([event(2), event(3)])) == (2, 0)
        except EvtoolError:
            stored = False  # to refuse is fine, to say that it is stored is not
        assert (ids(evtool.open(folder, read_only=True)) == ["event-1", "event-2", "event-3"]) == stored
    with evtool.open(folder) as log:
        assert sum(outcome(log.append([event(2), event(3)]))) == 2
        assert ids(log) == ["event-1", "event-2", "event-3"]
    check_sound(folder)


# Ids that share their hash.


@pytest.fixture(params=[0, 1, 3], ids=["all ids have one hash", "two hashes", "four hashes"])
def few_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    mask = np.uint64(request.param)
    real, real_one = identity.hash_events, identity.hash_one

    def hash_one(*arguments: Any) -> int:
        return (real_one(*arguments) & request.param) * 0x9E37_79B9_7F4A_7C15 % 2**64

    def hash_events(*arguments: Any) -> Any:
        return (real(*arguments) & mask) * np.uint64(0x9E37_79B9_7F4A_7C15)

    monkeypatch.setattr(identity, "hash_one", hash_one)
    monkeypatch.setattr(identity, "hash_events", hash_events)
    for module in (caches, indexchecks, segmentchecks):
        monkeypatch.setattr(module, "hash_events", hash_events)
    return int(mask) + 1


@pytest.mark.usefixtures("few_hashes")
def test_ids_that_share_a_hash_are_told_apart(folder: Path):
    names = [*UUIDS, *(f"id-{number}" for number in range(20))]
    given = [event(0, event_id=name, source_id=source) for name in names for source in ("shop", "till")]
    for start in range(0, len(given), 8):
        with evtool.open(folder, create=True, config=config(4_000)) as log:
            part = given[start : start + 8]
            assert outcome(log.append(part[:3] + part[:3])) == (3, 3)
            assert outcome(log.append(part + given[:start])) == (5, 3 + start)
            with pytest.raises(IdConflictError, match=f"as position {start + 6}$"):
                log.append([event(0, event_id="new"), part[5] | {"payload": "{ }"}])
            writer = log.writer()
            pending = event(0, event_id=f"pending-{start}")
            batches = [
                writer.prepare(envelope.batch([*given[: start + 8], pending])),
                writer.prepare(envelope.batch([pending, *given[: start + 8]])),
            ]
            assert [(batch.count, batch.duplicates) for batch in batches] == [(1, start + 8), (0, start + 9)]
            log.close()  # neither is committed
    with evtool.open(folder) as log:
        assert outcome(log.append(given[::-1])) == (0, len(given))
        assert [(row["event_id"], row["source_id"]) for row in rows(log)] == [
            (item["event_id"], item["source_id"]) for item in given
        ]
    check_sound(folder)


@pytest.mark.usefixtures("few_hashes")
def test_many_ids_that_share_a_hash_are_found_again_by_an_index_that_is_made_anew(folder: Path):
    make_log(folder, [many(150), many(150, first=150)], config(segment_bytes=2_000))
    for path in (folder / "index").iterdir():
        path.unlink()
    with evtool.open(folder) as log:
        assert outcome(log.append(many(320))) == (20, 300)
        assert outcome(log.append(many(320)[::-1])) == (0, 320)


def test_conflicts_are_told_in_the_order_of_the_batch(folder: Path):
    with evtool.open(folder, create=True) as log:
        log.append([event(1)])
        writer = log.writer()
        batch = writer.prepare(
            envelope.batch(
                [event(2, stream_version=9), event(1, "x"), event(3), event(3, "y"), event(4, stream_version=1)]
            )
        )
        assert batch.conflicts == (
            VersionConflict(0, "user-1", 2, 9),
            IdConflict(1, "shop", "event-1", 1),
            IdConflict(3, "shop", "event-3", 2),
            VersionConflict(4, "user-1", 3, 1),
        )
        assert batch.kept.tolist() == [2]
        with pytest.raises(VersionConflictError, match=r"^event 0 of the batch"):
            log.append([event(2, stream_version=9), event(1, "x")])
        with pytest.raises(IdConflictError, match=r"^event 0 of the batch"):
            log.append([event(1, "x"), event(2, stream_version=9)])


@pytest.mark.parametrize("name", ["ids.table", "streams.table"])
def test_a_flipped_bit_of_the_index_lets_no_event_in_twice_and_no_version_in_wrong(folder: Path, name: str):
    sent = [event(number, f"user-{number % 7}") for number in range(200)]
    make_log(folder, [sent])
    path = folder / "index" / name
    for start in range(HEADER_BYTES, path.stat().st_size, 4_099):
        flip(path, start, start % 8)
        with evtool.open(folder) as log:
            assert outcome(log.append(sent)) == (0, len(sent))
            number = log.position
            log.append([event(number, "user-0")])
            sent.append(event(number, "user-0"))
    versions = evtool.open(folder, read_only=True).stream("user-0")["stream_version"].to_list()
    assert versions == list(range(1, len(versions) + 1))
    check_sound(folder)
