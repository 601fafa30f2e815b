"""A log of everything that a repair may meet: segments, schemas, dead letters, lines of an audit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from samples import MOMENT_NS, event

import evtool
from evtool.config import Config, LogConfig
from evtool.files import Files
from evtool.ingest.deadletters import DeadLetter, DeadLetterFile
from evtool.lifecycle import audit
from evtool.schemas import document

COUNT = 900
BATCH = 100


def sent() -> list[dict[str, Any]]:
    """Events of seven streams."""
    chance = random.Random(3)
    return [
        event(
            number,
            f"user-{number % 7}",
            payload=f'{{"text":"{chance.randbytes(30).hex()}"}}',
            timestamp=MOMENT_NS + number * 1_000_000,
        )
        for number in range(COUNT)
    ]


def make(folder: Path) -> Path:
    """Sealed segments of two batches each, and an active one of one."""
    settings = Config(log=LogConfig(partitions=2, segment_bytes=24 * 1024, fsync="never"))
    events = sent()
    with evtool.open(folder, create=True, config=settings) as log:
        for start in range(0, COUNT, BATCH):
            log.append(events[start : start + BATCH], resume={"line": start + BATCH})
        assert [one.is_sealed for one in log.snapshot().segments] == [True] * 4 + [False]
        for text in ("{}", '{"type":"object"}'):
            log.schemas.add("Other", document.parse(text), compatibility="none")
    letters = [DeadLetter("2026-01-01T00:00:00Z", "bad", "it is bad", "file", n, 3, b"bad") for n in (1, 2, 3)]
    DeadLetterFile(Files(), folder, durable=False).append(letters)
    for number in range(3):
        audit.record(Files(), folder, "ingest", {"accepted": number}, {})
    return folder
