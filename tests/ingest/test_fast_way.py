"""Usual lines are read together: the slow way is for what is odd, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import evtool
from evtool import shop
from evtool.config import IngestConfig
from evtool.ingest import layout, members
from evtool.ingest.parse import Parser
from evtool.ingest.pipeline import Ingest

LINES = [line + b"\n" for line in b"".join(shop.blocks(3000, 11)).splitlines()]
ODD = sum(b"\\" in line for line in LINES)


class Counter:
    """How often a line is read by itself."""

    def __init__(self) -> None:
        self.calls = 0
        self._row = members.row

    def row(self, *arguments: object) -> members.Row:
        self.calls += 1
        return self._row(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counted = Counter()
    monkeypatch.setattr(members, "row", counted.row)
    return counted


def has_metadata(line: bytes) -> bool:
    return b'"metadata"' in line


def has_none(line: bytes) -> bool:
    return not has_metadata(line)


@pytest.mark.parametrize("first", range(12))
def test_whichever_line_comes_first_most_are_read_together(counter: Counter, first: int):
    # Some have metadata, some have not: one shape must not take the lines of the other for its own bad ones.
    lines = LINES[first:] + LINES[:first]
    parsed = Parser().parse(b"".join(lines))
    assert len(parsed.events) == len(lines)
    assert counter.calls <= ODD + 64


@pytest.mark.parametrize("key", [has_metadata, has_none, len])
def test_in_whatever_order_they_come_most_are_read_together(counter: Counter, key):
    lines = sorted(LINES, key=key)
    for chunks in (1, 3):
        parser = Parser()
        for number in range(chunks):
            assert not parser.parse(b"".join(lines[number::chunks])).rejects
        assert counter.calls <= chunks * (ODD + 64)


def test_the_lines_of_a_replay_are_read_together_too(counter: Counter, tmp_path: Path):
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"".join(LINES))
    with evtool.open(tmp_path / "log", create=True) as log:
        Ingest(log, [str(path)], IngestConfig()).run()
        replayed = b"".join(log.replay()).splitlines(keepends=True)
    for first in range(6):
        counter.calls = 0
        parsed = Parser().parse(b"".join(replayed[first:]))
        assert len(parsed.events) == len(LINES) - first
        assert counter.calls <= ODD + 64


def test_a_tenth_of_bad_lines_does_not_send_the_good_ones_the_slow_way(counter: Counter):
    lines = list(LINES)
    lines[::10] = [line.replace(b'"payload":{', b'"payload":{{') for line in lines[::10]]
    parsed = Parser().parse(b"".join(lines))
    assert len(parsed.rejects) == len(LINES) // 10
    assert counter.calls <= ODD + len(LINES) // 10 + 64


def test_a_line_that_can_be_no_pattern_is_not_learned_from():
    assert layout.learn(b'{"event_id":"e","source_id":"s","stream_id":"u","event_type":"t"}') is not None
    for line in (
        b"{}",
        b'{"payload":null}',
        b'{"\\u0061":1}',
        b'{"event_id":7}',
        b'{"payload":[]}',
        b'{"a":1,"a":2}',
    ):
        assert layout.learn(line) is None
