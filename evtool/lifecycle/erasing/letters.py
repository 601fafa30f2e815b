"""Dead letters that hold something of what is erased.

A line that is a JSON object goes by its values: of a stream if the stream's name is one of them, wherever it
stands, as a producer may have its own place for it; by a condition if that is true for it, as it is, as of the
latest version of its type, or taken as a payload. Any other line goes if the name of a stream that is erased whole
stands in its bytes. A condition tells nothing of such a line: it is counted, so that somebody looks at it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from evtool import timestamps
from evtool.event import STORED_SCHEMA
from evtool.ingest.deadletters import DeadLetter
from evtool.ingest.letterqueue import LetterQueue
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.log.log import Log
from evtool.schemas.record import Schemas
from evtool.schemas.upcast import ERROR_COLUMN, upcast
from evtool.timestamps import TimestampError

_TOGETHER = 4_096
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()


@dataclass(frozen=True)
class Letters:
    """The ids of those that go, and how many cannot be read, so that the condition says nothing of them."""

    ids: frozenset[str]
    unread: int = 0


def choose(log: Log, wanted: Wanted, whole: Collection[str]) -> Letters:
    """Which dead letters go when these streams are erased whole. Raises StorageError."""
    names = frozenset({*wanted.streams, *whole})
    spelled = [spelling for name in names for spelling in _spellings(name)]
    ids, schemas = set[str](), log.schemas.current()
    unread, waiting = 0, list[tuple[str, DeadLetter]]()
    for letter in LetterQueue(log.files, log.folder).letters():
        found = _object(letter.raw)
        if found is None:
            is_theirs = any(spelling in letter.raw for spelling in spelled)
            unread += wanted.where is not None and not is_theirs
        else:
            is_theirs = bool(names) and not names.isdisjoint(_texts(found))
        if is_theirs:
            ids.add(letter.id)
        elif found is not None and wanted.where is not None:
            waiting.append((letter.id, letter))
        if len(waiting) == _TOGETHER:
            ids |= _true_for(wanted, waiting, schemas)
            waiting = []
    return Letters(frozenset(ids | _true_for(wanted, waiting, schemas)), unread)


def drop(log: Log, ids: Collection[str]) -> int:
    """Take them out of the queue, and what a crash has left of lines; how many there were.

    Raises LogLockedError, StorageError.
    """
    queue = LetterQueue(log.files, log.folder)
    if not queue.path.exists():
        return 0
    with queue.change() as change:
        dropped = end = 0
        for entry in change.entries():
            dropped += entry.letter is not None and entry.letter.id in ids
            end += len(entry.text)
        unfinished = queue.path.with_name(queue.path.name + ".tmp")
        if dropped or end != log.files.size(queue.path) or unfinished.exists():
            for entry in change.entries():
                if entry.letter is None or entry.letter.id not in ids:
                    change.keep(entry.text)
            change.finish()
    return dropped


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = _ANY.decode(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _texts(value: Any) -> Iterator[str]:
    """All texts and numbers in a value of JSON, as texts."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif each is not None:
            yield str(each)


def _spellings(name: str) -> set[bytes]:
    """How the name of a stream may stand in a line: as it is, or as JSON writes it."""
    return {name.encode(), json.dumps(name)[1:-1].encode(), json.dumps(name, ensure_ascii=False)[1:-1].encode()}


def _true_for(wanted: Wanted, letters: list[tuple[str, DeadLetter]], schemas: Schemas) -> set[str]:
    """Those for which the condition is true, as they are, upcast, or with the whole line as the payload."""
    if not letters:
        return set()
    plan = wanted.plan
    found: set[str] = set()
    as_they_are, as_payloads = (
        pl.DataFrame([take(each) for _, each in letters], schema=STORED_SCHEMA, orient="row")
        for take in (_as_event, _as_payload)
    )
    upcasts = upcast(as_they_are.with_columns(pl.col("event_type").fill_null("")), schemas).drop(ERROR_COLUMN)
    for events in (as_they_are, upcasts, as_payloads):
        events = plan.with_paths(events.with_columns(pl.lit(0, pl.Int64).alias("position")))
        numbered = events.with_row_index("number of the letter")
        chosen = numbered if plan.where is None else numbered.filter(plan.where)
        found |= {letters[number][0] for number in chosen["number of the letter"]}
    return found


def _as_event(letter: DeadLetter) -> tuple[Any, ...]:
    """The columns of STORED_SCHEMA that a line has, null where it has none."""
    try:
        members: Mapping[str, bytes] = {name: bytes(value) for name, value in _RAW.decode(letter.raw).items()}
    except (ValueError, RecursionError):
        members = {}
    values = {name: _value(name, members[name]) for name in STORED_SCHEMA if name in members}
    values.setdefault("source_id", letter.source)
    values.setdefault("payload", "{}")
    values["schema_version"] = values.get("schema_version") or 1
    return tuple(values.get(name) for name in STORED_SCHEMA)


def _as_payload(letter: DeadLetter) -> tuple[Any, ...]:
    names = {"source_id": letter.source, "payload": letter.raw.decode(errors="replace"), "schema_version": 1}
    event = dict(zip(STORED_SCHEMA, _as_event(letter), strict=True))
    return tuple({**event, **names, "source_id": event["source_id"]}.values())


def _value(name: str, raw: bytes) -> Any:
    """The value of a member as the column of its name has it; None for what does not fit."""
    if name in ("payload", "metadata"):
        return raw.decode(errors="replace") if raw.startswith(b"{") else None
    try:
        value = _ANY.decode(raw)
    except ValueError:
        return None
    if name in ("timestamp", "recorded_at"):
        try:
            return timestamps.parse_text(value) if isinstance(value, str) else None
        except TimestampError:
            return None
    if STORED_SCHEMA[name] == pl.String:
        return value if isinstance(value, str) else None
    is_number = type(value) is int and -(2**31) <= value < 2**31
    return value if is_number else None
