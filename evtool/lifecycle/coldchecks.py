"""What `verify` asks of a cold segment: each function gives what is wrong, as sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.lifecycle.materialising import deriving, roots_of
from evtool.log.coldsegment import ColdSegment, recorded_at
from evtool.log.format import checksum


def summary(cold: ColdSegment, previous_digest: int) -> Iterator[str]:
    """The summary against the files, every byte of which is read."""
    told, commits, table = cold.summary, cold.commits, cold.table
    if checksum(cold.data) != told["events_checksum"]:
        yield "it does not match its checksum"
    cold.forget(table)
    try:
        columns = [cold.metadata.schema.column(index).path for index in range(cold.metadata.num_columns)]
    except LogDamagedError as error:
        yield error.message
        return
    header = table["header"]
    facts = {
        "columns": columns,
        "blocks": cold.metadata.num_row_groups,
        "count": int(commits["count"].sum(dtype=np.int64)),
        "batches": len(commits),
        "last_position": int(header["last_position"].max()),
        "timestamp_min": int(header["timestamp_min"].min()),
        "timestamp_max": int(header["timestamp_max"].max()),
        "digest": int(commits["checksum"][-1]),
        "previous_digest": previous_digest,
    }
    for name, fact in facts.items():
        if told[name] != fact:
            yield f"segment.msgpack says {name} is {told[name]}, and it is {fact}"
    times = [recorded_at(commits, header[name]) for name in ("first_position", "last_position")]
    if (times[0] != header["base_recorded_at"]).any() or (times[1] != header["recorded_at_max"]).any():
        yield "its times of recording are not those of its batches"


def batches(cold: ColdSegment, last_recorded_at: int) -> tuple[int, list[str]]:
    """The last recorded_at, and what is wrong with the order of the batches."""
    commits = cold.commits
    count = commits["count"].astype(np.int64)
    ends = commits["base_recorded_at"] + np.maximum(count, 1) - 1
    before = np.concatenate([[last_recorded_at], ends[:-1]])
    firsts = cold.first_position + np.cumsum(count) - count
    problems = []
    for broken, what in (
        (commits["base_position"] != firsts, "does not follow the one before it"),
        (commits["base_recorded_at"] <= before, "was recorded no later than the batch before it"),
    ):
        first_batch = cold.summary["last_batch"] - len(commits) + 1
        problems += [f"batch {first_batch + number} {what}" for number in np.flatnonzero(broken).tolist()]
    return int(ends[-1]), problems


def derived(cold: ColdSegment, row: np.void) -> Iterator[str]:
    """Materialised columns of a row group against its payloads and metadata."""
    names = cold.summary["materialised"]
    if not names:
        return
    table = cold.read(row, [*roots_of(names), *names])
    for name, column in zip(names, deriving(names)(table), strict=True):
        if not pa.chunked_array([column]).equals(table[name]):
            yield f"column {name} is not what the events say"
