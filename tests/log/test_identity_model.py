"""Exactly once against a dict: any sequence of appends, ingests and restarts, of few events that come often.

Once with the hashes that evtool uses, and once with so few of them that they say next to nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from samples import MOMENT_NS, Event, check_sound, config, frame, rows, segments

import evtool
from evtool import envelope
from evtool.config import IngestConfig
from evtool.errors import IdConflictError, VersionConflictError
from evtool.event import EVENT_SCHEMA
from evtool.ingest.pipeline import Ingest
from evtool.lifecycle import indexchecks, segmentchecks
from evtool.log import caches, identity
from evtool.log.identity import IdConflict
from evtool.log.preparing import Conflict
from evtool.log.sequence import VersionConflict
from evtool.log.writer import Encoded

UUIDS = [f"7cbadfce-ad60-4a3e-8799-{number:012x}" for number in range(3)]
IDS = [*UUIDS, UUIDS[0].upper(), "1", "é", "x" * 256]

events = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(IDS),
        "source_id": st.sampled_from(["web", "till"]),
        "stream_id": st.sampled_from(["a", "b"]),
        "event_type": st.just("Seen"),
        "payload": st.sampled_from(["{}", "{}", "{}", '{"n":1}']),
    },
    optional={
        "timestamp": st.sampled_from([MOMENT_NS, MOMENT_NS + 1]),
        "stream_version": st.integers(1, 4),
        "metadata": st.just("{}"),
    },
)
batches = st.lists(events, min_size=1, max_size=6)
segment_sizes = st.sampled_from([1, 4_000, 65_536])


@dataclass
class Model:
    """What a log holds, and its rule for what comes."""

    known: dict[tuple[str, str], Event] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Model:
        return Model(self.known.copy(), self.last.copy())

    def take(self, batch: list[Event]) -> tuple[int, int, list[Conflict]]:
        """Store what is new of a batch, event by event; how many that is, the duplicates, and the conflicts."""
        new, duplicates, conflicts = 0, 0, list[Conflict]()
        for place, item in enumerate(batch):
            key = (item["source_id"], item["event_id"])
            there, following = self.known.get(key), self.last.get(item["stream_id"], 0) + 1
            if there is not None:
                if is_same(item, there):
                    duplicates += 1
                else:
                    conflicts.append(IdConflict(place, *key, there["position"]))
            elif item.get("stream_version", following) != following:
                conflicts.append(VersionConflict(place, item["stream_id"], following, item["stream_version"]))
            else:
                new += 1
                self.last[item["stream_id"]] = following
                self.known[key] = item | {"stream_version": following, "position": len(self.known) + 1}
        return new, duplicates, conflicts


def is_same(item: Event, there: Event) -> bool:
    """Whether an event says the same as a known one. What became of an open time nobody knows here."""
    optional = {"metadata": None, "timestamp": None, "stream_version": there["stream_version"]}
    return all((optional | item).get(name) == (optional | there).get(name) for name in EVENT_SCHEMA)


class IdentityMachine(RuleBasedStateMachine):
    """A log, and what it must hold."""

    hash_mask = (1 << 64) - 1

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="evtool-identity-"))
        self.folder = self.root / "segments"
        self.model = Model()
        self.patch = pytest.MonkeyPatch()
        self.letters = 0

    @initialize(segment_bytes=segment_sizes)
    def make(self, segment_bytes: int) -> None:
        real, mask = identity.hash_events, np.uint64(self.hash_mask)
        for module in (identity, caches, indexchecks, segmentchecks):
            self.patch.setattr(module, "hash_events", lambda *given: real(*given) & mask)
        real_one = identity.hash_one
        self.patch.setattr(identity, "hash_one", lambda *given: real_one(*given) & int(mask))
        self.log = evtool.open(self.folder, create=True, config=config(segment_bytes))

    @rule(batch=batches, as_frame=st.booleans())
    def append(self, batch: list[Event], as_frame: bool) -> None:
        model = self.model.copy()
        new, duplicates, conflicts = model.take(batch)
        given = frame(batch) if as_frame else batch
        if not conflicts:
            commit = self.log.append(given)
            assert (commit.count, commit.duplicates) == (new, duplicates)
            assert (commit.first_position, commit.last_position) == (
                len(self.model.known) + 1,
                len(self.model.known) + new,
            )
            self.model = model
            return
        first = conflicts[0]
        error = IdConflictError if isinstance(first, IdConflict) else VersionConflictError
        with pytest.raises(error, match=f"^event {first.place} of the batch") as caught:
            self.log.append(given)
        if isinstance(caught.value, IdConflictError) and isinstance(first, IdConflict):
            assert caught.value.first_position == first.first_position

    @rule(batch=st.lists(events, min_size=1, max_size=20), batch_events=st.sampled_from([1, 3, 100]))
    def ingest(self, batch: list[Event], batch_events: int) -> None:
        path = self.root / "events.ndjson"
        path.write_bytes(b"".join(map(line, batch)))
        new, duplicates, conflicts = self.model.take(batch)
        summary = Ingest(self.log, [str(path)], IngestConfig(batch_events=batch_events)).run()
        assert (summary.accepted, summary.duplicates, summary.dead_letters) == (new, duplicates, len(conflicts))
        found = list(self.new_letters())
        assert found == [
            (conflict.place + 1, "id_conflict" if isinstance(conflict, IdConflict) else "version_conflict")
            for conflict in conflicts
        ]

    @rule(pending=st.lists(batches, min_size=2, max_size=4), together=st.booleans())
    def prepare_several_before_they_are_committed(self, pending: list[list[Event]], together: bool) -> None:
        writer = self.log.writer()
        encoded = []
        for batch in pending:
            prepared = writer.prepare(envelope.batch(batch))
            assert (prepared.count, prepared.duplicates, list(prepared.conflicts)) == self.model.take(batch)
            encoded.append(Encoded(prepared, [writer.encode(part) for part in prepared.parts]))
        if together:
            writer.commit_together(encoded)
        else:
            for each in encoded:
                writer.commit_together([each])

    @rule()
    def send_all_of_it_again(self) -> None:
        stored = rows(self.log)
        commit = self.log.append(frame(stored))
        assert (commit.count, commit.duplicates) == (0, len(stored))
        path = self.root / "replay.ndjson"
        path.write_bytes(b"".join(self.log.replay()))
        summary = Ingest(self.log, [str(path)], IngestConfig(batch_events=7)).run()
        assert (summary.accepted, summary.duplicates, summary.dead_letters) == (0, len(stored), 0)

    @rule(
        segment_bytes=segment_sizes,
        lost=st.sets(st.sampled_from(["streams.table", "ids.table", "sources.msgpack"])),
    )
    def reopen(self, segment_bytes: int, lost: set[str]) -> None:
        self.log.close()
        for name in lost:
            (self.folder / "index" / name).unlink(missing_ok=True)
        self.log = evtool.open(self.folder, config=config(segment_bytes))

    @invariant()
    def the_log_holds_what_the_dict_holds(self) -> None:
        stored = rows(self.log)
        assert [(row["source_id"], row["event_id"]) for row in stored] == list(self.model.known)
        for row, item in zip(stored, self.model.known.values(), strict=True):
            given = {"metadata": None, "timestamp": row["recorded_at"], "schema_version": 1} | item
            assert {name: row[name] for name in given} == given

    def teardown(self) -> None:
        try:
            self.log.close()
            assert check_sound(self.folder).segments == len(segments(self.folder))
        finally:
            self.patch.undo()
            shutil.rmtree(self.root)

    def new_letters(self) -> Iterator[tuple[int, str]]:
        path = self.folder / "dead-letters" / "dead-letters.ndjson"
        found: list[dict[str, Any]] = (
            [json.loads(text) for text in path.read_bytes().splitlines()] if path.exists() else []
        )
        yield from ((letter["line"], letter["reason"]) for letter in found[self.letters :])
        self.letters = len(found)


def line(item: Event) -> bytes:
    payload, metadata = item["payload"], item.get("metadata", "null")
    rest = json.dumps({name: value for name, value in item.items() if name not in ("payload", "metadata")})
    return f'{rest[:-1]},"payload":{payload},"metadata":{metadata}}}\n'.encode()


class OneHashMachine(IdentityMachine):
    """All ids have one hash."""

    hash_mask = 0


class FourHashesMachine(IdentityMachine):
    """Two bits of each hash, of those that the table of ids keeps."""

    hash_mask = 1 << 63 | 1 << 20


for machine, examples in ((IdentityMachine, 22), (OneHashMachine, 12), (FourHashesMachine, 12)):
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=12)
TestIdentity = IdentityMachine.TestCase
TestIdentityOfOneHash = OneHashMachine.TestCase
TestIdentityOfFourHashes = FourHashesMachine.TestCase
