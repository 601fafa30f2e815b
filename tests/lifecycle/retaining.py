"""A log of events of three types in several segments, and what of it policies must leave."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from compacting import small_pieces
from samples import MOMENT_NS, event

import evtool
from evtool.config import Config, LogConfig, RetainConfig
from evtool.lifecycle import retention
from evtool.lifecycle.retention import FEW_SHARE, Plan, Report
from evtool.timestamps import SECOND_NS

COUNT = 1_125
BATCH = 125
TYPES = ("Viewed", "Clicked", "Bought")
LETTERS = "dead-letters/dead-letters.ndjson"


def sent() -> list[dict[str, Any]]:
    """Events in no order of time, one a second."""
    chance = random.Random(5)
    seconds = chance.sample(range(COUNT), COUNT)
    return [
        event(
            number,
            f"user-{number % 5}",
            event_type="Rare" if number % 500 == 77 else TYPES[chance.randrange(3)],
            payload=f'{{"text":"{chance.randbytes(30).hex()}"}}',
            timestamp=MOMENT_NS + (seconds[number] // 8 + number) * SECOND_NS,
        )
        for number in range(COUNT)
    ]


def make(folder: Path) -> Path:
    """The log of `sent()`: some sealed segments and an active one."""
    settings = Config(log=LogConfig(partitions=2, segment_bytes=14 * 1024, fsync="never"))
    events = sent()
    with evtool.open(folder, create=True, config=settings) as log:
        for start in range(0, COUNT, BATCH):
            log.append(events[start : start + BATCH])
        assert len(log.snapshot().segments) == 5
    return folder


def settings_of(log: evtool.Log, policies: RetainConfig) -> Config:
    return Config(log_path=log.folder, retain=policies)


def planned(folder: Path, policies: RetainConfig, now_ns: int, is_exact: bool = False) -> Plan:
    """What would be dropped."""
    with evtool.open(folder, read_only=True) as log:
        return retention.plan(log, settings_of(log, policies), now_ns, is_exact)


def retained(
    folder: Path, policies: RetainConfig, now_ns: int, is_exact: bool = False, files: Any = None
) -> Report:
    """Drop it."""
    with small_pieces(), evtool.open(folder, files=files) as log:
        settings = settings_of(log, policies)
        plan = retention.plan(log, settings, now_ns, is_exact)
        return retention.apply(log, settings, plan)


def held(folder: Path) -> dict[int, dict[str, Any]]:
    """The events of a log by position."""
    with evtool.open(folder, read_only=True) as log:
        return {row["position"]: row for frame in log.scan() for row in frame.iter_rows(named=True)}


def left(folder: Path, policies: RetainConfig, now_ns: int, is_exact: bool = False) -> set[int]:
    """The positions that policies of age must leave, found event by event."""
    with evtool.open(folder, read_only=True) as log:
        segments = [(one.first_position, one.last_position, one.is_sealed) for one in log.snapshot().segments]
    events = held(folder)
    clock = "recorded_at" if policies.by == "recorded" else "timestamp"

    def is_due(row: dict[str, Any]) -> bool:
        age = policies.types.get(row["event_type"], policies.events)
        return age is not None and row[clock] < now_ns - age * SECOND_NS

    found = set()
    for first, last, is_sealed in segments:
        there = {position for position in events if first <= position <= last}
        due = {position for position in there if is_due(events[position])}
        is_worth = is_exact or len(due) >= FEW_SHARE * len(there)
        found |= there - due if is_sealed and is_worth else there
    return found
