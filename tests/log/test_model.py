"""A log against a plain list: any sequence of appends, restarts and lost caches, then any reading.

Events come again, as they were or changed: the list has each (source_id, event_id) once.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from samples import (
    MOMENT_NS,
    ODD_IDS,
    ODD_OBJECTS,
    ODD_TEXTS,
    Event,
    Row,
    check_sound,
    config,
    frame,
    line,
    many,
    rows,
    segments,
)

import evtool
from evtool.config import Codec
from evtool.errors import EventError, IdConflictError, PositionError, VersionConflictError
from evtool.event import EVENT_SCHEMA
from evtool.log.partitions import partition_of

PARTITIONS = 2
STREAMS = ("user-1", "user-2", "cart/7", "é", "x" * 1024)
SPLIT_EVENTS = 2048 * PARTITIONS

streams = st.sampled_from(STREAMS)
objects = st.sampled_from([text for text in ODD_OBJECTS if len(text) < 1_000])
texts = st.sampled_from(ODD_TEXTS) | st.text(min_size=1, max_size=20)
moments = st.integers(MOMENT_NS - 50, MOMENT_NS + 50) | st.integers(-(2**63), 2**63 - 1)
events = st.fixed_dictionaries(
    {
        "event_id": st.uuids().map(str) | st.sampled_from(ODD_IDS) | texts,
        "source_id": st.sampled_from(["web", "till", "é"]),
        "stream_id": streams,
        "event_type": st.sampled_from(["Viewed", "Paid"]) | texts,
    },
    optional={
        "timestamp": moments,
        "schema_version": st.integers(1, 2**31 - 1),
        "payload": objects,
        "metadata": objects,
    },
)
batches = st.lists(events, min_size=1, max_size=6)
encodings = st.sampled_from([Codec(), Codec("lz4"), Codec("none"), Codec("zstd", 5)])
CHANGES: list[tuple[str, Any]] = [
    ("payload", '{"changed": 1}'),
    ("metadata", "{ }"),
    ("event_type", "Changed"),
    ("stream_id", "changed"),
    ("schema_version", 77),
    ("timestamp", MOMENT_NS + 1_000),
]
segment_sizes = st.sampled_from([1, 2_000, 65_536])


class LogMachine(RuleBasedStateMachine):
    """The list is `stored`: rows as a scan gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="evtool-model-"))
        self.folder = self.root / "segments"
        self.stored: list[Row] = []
        self.known: dict[tuple[str, str], Row] = {}
        self.moves = 0
        self.log = evtool.open(self.folder, create=True, config=config(2_000, PARTITIONS))

    # Writing.

    @rule(batch=batches, as_frame=st.booleans(), versions=st.lists(st.booleans(), min_size=6, max_size=6))
    def append(self, batch: list[Event], as_frame: bool, versions: list[bool]) -> None:
        batch = batch if as_frame else batch_for_mappings(batch)
        last, known = self.last_versions(), {*self.known}
        for item, is_given in zip(batch, versions, strict=False):
            if key_of(item) not in known:
                known.add(key_of(item))
                last[item["stream_id"]] = last.get(item["stream_id"], 0) + 1
                if is_given:
                    item["stream_version"] = last[item["stream_id"]]
        self.send(frame(batch) if as_frame else batch, batch)

    @rule(data=st.data(), changed=st.none() | st.sampled_from(CHANGES), as_frame=st.booleans())
    def append_again(self, data: st.DataObject, changed: tuple[str, Any] | None, as_frame: bool) -> None:
        """Some that are stored and some that are new, in any order, and perhaps one of them changed."""
        if not self.stored:
            return
        again = data.draw(st.lists(st.integers(0, len(self.stored) - 1), min_size=1, max_size=4), "again")
        batch: list[Event] = []
        for number in again:
            row = {name: value for name, value in self.stored[number].items() if value is not None}
            left_open = {"stream_version", *(["timestamp"] if row["timestamp"] == row["recorded_at"] else [])}
            without = data.draw(st.sets(st.sampled_from(sorted(left_open))), "left open")
            batch.append({name: value for name, value in row.items() if name not in without})
        batch = data.draw(st.permutations(batch + data.draw(batches, "new")), "order")
        if changed is not None:
            item = batch[data.draw(st.integers(0, len(batch) - 1), "changed")]
            item |= {changed[0]: changed[1]}
        batch = batch if as_frame else batch_for_mappings(batch)
        self.send(frame(batch) if as_frame else batch, batch)

    @rule(count=st.sampled_from([300, SPLIT_EVENTS, SPLIT_EVENTS + 1]), first=st.integers(0, 600))
    def append_many(self, count: int, first: int) -> None:
        if len(self.stored) > 10_000:
            return
        given = many(count, first=first, streams=5)
        self.send(given, given.to_dicts())

    @rule(batch=batches, place=st.integers(0, 5), wrong=st.sampled_from([-1, 1, 5]))
    def append_with_a_wrong_version(self, batch: list[Event], place: int, wrong: int) -> None:
        place %= len(batch)
        for number, item in enumerate(batch):  # so that none of them is known
            item["event_id"] = f"wrong-{number}"
        item = batch[place]
        before = [other["stream_id"] for other in batch[:place]].count(item["stream_id"])
        item["stream_version"] = self.last_versions().get(item["stream_id"], 0) + before + 1 + wrong
        with pytest.raises(EventError, match=f"event {place} of the batch"):
            self.log.append(frame(batch))

    @rule(batch=batches, place=st.integers(0, 5), field=st.sampled_from(["event_id", "stream_id", "event_type"]))
    def append_with_a_broken_rule(self, batch: list[Event], place: int, field: str) -> None:
        batch[place % len(batch)][field] = ""
        with pytest.raises(EventError):
            self.log.append(batch_for_mappings(batch))

    @rule(resume=st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 2**60), min_size=1, max_size=3))
    def append_nothing(self, resume: dict[str, int] | None) -> None:
        commit = self.log.append([], resume=resume)
        assert (commit.count, commit.last_position) == (0, len(self.stored))

    # Restarting.

    @rule(segment_bytes=segment_sizes, codec=encodings)
    def reopen(self, segment_bytes: int, codec: Codec) -> None:
        self.log.close()
        check_sound(self.folder)
        self.log = evtool.open(self.folder, config=config(segment_bytes, codec=codec))

    @rule(
        names=st.sets(
            st.sampled_from(["HEAD", "*/*.idx", "*/segment.msgpack", *(f"index/{name}*" for name in "is")]),
            min_size=1,
        )
    )
    def lose_caches(self, names: set[str]) -> None:
        self.log.close()
        for name in names:
            for path in self.folder.glob(name):
                path.unlink()
        self.log = evtool.open(self.folder, config=config(2_000))

    @rule()
    def move(self) -> None:
        self.log.close()
        self.moves += 1
        self.folder = self.folder.rename(self.root / f"moved-{self.moves}")
        self.log = evtool.open(self.folder, config=config(65_536))

    # Reading.

    @rule(data=st.data())
    def read_a_selection(self, data: st.DataObject) -> None:
        bounds = st.integers(0, len(self.stored) + 2)
        asked: dict[str, Any] = data.draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "start": bounds,
                    "end": bounds,
                    "streams": st.lists(streams, max_size=2),
                    "types": st.lists(st.sampled_from(["Viewed", "Paid", "ItemViewed"]), max_size=2),
                    "sources": st.lists(st.sampled_from(["web", "till", "shop"]), max_size=2),
                    "partitions": st.lists(st.integers(0, PARTITIONS - 1), max_size=2),
                },
            )
        )
        clock = data.draw(st.sampled_from(["event", "recorded"]))
        column = "timestamp" if clock == "event" else "recorded_at"
        if self.stored and data.draw(st.booleans()):
            times = st.sampled_from(self.stored).map(lambda row: row[column]) | moments
            asked |= data.draw(st.fixed_dictionaries({}, optional={"since": times, "until": times}))
            asked["clock"] = clock
        wanted = [row for row in self.stored if is_selected(row, asked, column)]
        reader = data.draw(st.sampled_from([self.log, evtool.open(self.folder, read_only=True)]))
        assert rows(reader, **asked) == wanted
        assert b"".join(reader.replay(**asked)) == b"".join(map(line, wanted))

    @rule(stream=streams)
    def read_a_stream(self, stream: str) -> None:
        assert self.log.stream(stream).to_dicts() == [row for row in self.stored if row["stream_id"] == stream]

    @rule(event_id=st.sampled_from(ODD_IDS))
    def find(self, event_id: str) -> None:
        position = next((row["position"] for row in self.stored if row["event_id"] == event_id), None)
        if position is not None:
            assert self.log.find(event_id) == position
            return
        with pytest.raises(PositionError):
            self.log.find(event_id)

    @invariant()
    def the_position_is_the_number_of_events(self) -> None:
        assert self.log.position == len(self.stored)

    def teardown(self) -> None:
        try:
            self.log.close()
            assert check_sound(self.folder).segments == len(segments(self.folder))
            assert rows(evtool.open(self.folder)) == self.stored
        finally:
            shutil.rmtree(self.root)

    def last_versions(self) -> dict[str, int]:
        return {row["stream_id"]: row["stream_version"] for row in self.stored}

    def send(self, given: Any, batch: list[Event]) -> None:
        """Append a batch, and do to the list what the log should have done."""
        new: list[Row] = []
        known = self.known.copy()
        last = self.last_versions()
        for place, item in enumerate(batch):
            there = known.get(key_of(item))
            following = last.get(item["stream_id"], 0) + 1
            wrong: tuple[type[EventError], str] | None = None
            if there is not None:
                if not is_same(item, there):
                    wrong = (IdConflictError, f"as position {there['position']}")
            elif item.get("stream_version", following) != following:
                wrong = (
                    VersionConflictError,
                    f"expects version {following}, and {item['stream_version']} was given",
                )
            else:
                last[item["stream_id"]] = following
                position = len(self.stored) + len(new) + 1
                row = {"timestamp": None, "schema_version": 1, "payload": "{}", "metadata": None} | item
                row |= {"position": position, "recorded_at": None, "stream_version": following}
                known[key_of(item)] = row
                new.append(row)
            if wrong:
                with pytest.raises(wrong[0], match=f"^event {place} of the batch: .*{re.escape(wrong[1])}$"):
                    self.log.append(given)
                return
        self.keep(self.log.append(given), new, len(batch) - len(new))

    def keep(self, commit: evtool.Commit, new: list[Row], duplicates: int) -> None:
        """Put the new events of a batch into the list, as the log should have stored them."""
        assert (commit.count, commit.duplicates) == (len(new), duplicates)
        assert commit.first_position == len(self.stored) + 1
        assert commit.last_position == len(self.stored) + len(new)
        assert not (self.stored and new) or commit.first_recorded_at > self.stored[-1]["recorded_at"]
        for number, row in enumerate(new):
            row["recorded_at"] = commit.first_recorded_at + number
            row["timestamp"] = row["recorded_at"] if row["timestamp"] is None else row["timestamp"]
            self.known[key_of(row)] = row
            self.stored.append(row)


def key_of(item: Event) -> tuple[str, str]:
    return item["source_id"], item["event_id"]


def is_same(item: Event, known: Row) -> bool:
    """Whether an event says the same as a known one. What it leaves open agrees with what that one was given."""
    given = {
        "schema_version": 1,
        "payload": "{}",
        "metadata": None,
        "stream_version": known["stream_version"],
    } | item
    if "timestamp" not in item:
        given["timestamp"] = known["recorded_at"]
    return all(given[name] == known[name] for name in EVENT_SCHEMA)


def batch_for_mappings(batch: list[Event]) -> list[Event]:
    """In a mapping a small number of a time counts seconds; the times meant here are all nanoseconds."""
    for item in batch:
        if not 10**17 <= abs(item.get("timestamp", MOMENT_NS)) < 2**63:
            item["timestamp"] = MOMENT_NS
    return batch


def is_selected(row: Row, asked: dict[str, Any], time_column: str) -> bool:
    return all(
        (
            "start" not in asked or row["position"] >= asked["start"],
            "end" not in asked or row["position"] < asked["end"],
            "since" not in asked or row[time_column] >= asked["since"],
            "until" not in asked or row[time_column] < asked["until"],
            "streams" not in asked or row["stream_id"] in asked["streams"],
            "types" not in asked or row["event_type"] in asked["types"],
            "sources" not in asked or row["source_id"] in asked["sources"],
            "partitions" not in asked or partition_of(row["stream_id"], PARTITIONS) in asked["partitions"],
        )
    )


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestLogMachine = LogMachine.TestCase
