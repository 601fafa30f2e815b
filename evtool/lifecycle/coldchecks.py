"""What `verify` asks of a cold segment: its Parquet file, the map of it, and the summary that vouches for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.lifecycle.findings import (
    BEING_COMPACTED,
    RESTORE,
    RESTORE_OBJECT,
    Finding,
    damaged,
    excused,
    longer,
    stale,
)
from evtool.lifecycle.logfiles import SegmentFiles
from evtool.lifecycle.materialising import deriving, roots_of
from evtool.lifecycle.segmentchecks import Opened, piece
from evtool.log.archived import ArchivedFile
from evtool.log.coldsegment import ColdSegment, recorded_at
from evtool.log.format import COPY_FILE, SUMMARY_FILE, checksum_of, events_file, gone_file, map_file
from evtool.log.segmentview import SegmentView

_COMPACT = "The other one of segment.msgpack and segment.copy counts; the next `evtool compact` makes it anew."


def opened(
    segment: SegmentFiles, summary: Mapping[str, Any], previous_digest: int | None
) -> tuple[Opened | None, list[Finding]]:
    """The segment if it can be read, and what was found so far."""
    findings = _records(segment)
    cold, problem = segment.cold, segment.problem
    if problem is not None:
        names = (map_file(summary["generation"]), events_file(summary["generation"]))
        paths = [segment.folder / name for name in names]
        path = next((path for path in paths if problem.message.startswith(f"{path}: ")), segment.folder)
        return None, [*findings, damaged(path, problem.message.removeprefix(f"{path}: "))]
    assert cold is not None
    if isinstance(cold.path, Path):
        findings += longer(cold.path, cold.file.size)
    if isinstance(cold.file, ArchivedFile) and (loss := cold.file.loss()):
        return None, [*findings, _lost(cold, loss)]
    try:
        _ = cold.gone
    except LogDamagedError as error:
        path = segment.folder / gone_file(summary["generation"])
        return None, [*findings, damaged(path, error.message.removeprefix(f"{path}: "))]
    findings += [damaged(cold.path, what) for what in _facts(cold, previous_digest)]
    unreadable: frozenset[int] = frozenset()
    try:
        columns = [cold.metadata.schema.column(index).path for index in range(cold.metadata.num_columns)]
        if (columns, cold.metadata.num_row_groups) != (cold.summary["columns"], cold.summary["blocks"]):
            findings.append(damaged(cold.path, "its footer tells of other columns or row groups than its summary"))
    except LogDamagedError:
        unreadable = frozenset(cold.table["offset"].tolist())
        findings.append(_footer(cold))
    found = Opened(
        cold,
        int(cold.summary["digest"]),
        logical_digest=str(cold.summary["logical_digest"]),
        unreadable=unreadable,
        derived=_derived,
        rest=lambda: _rest(cold, bool(unreadable)),
    )
    return found, findings


def _lost(cold: ColdSegment, loss: str) -> Finding:
    """An object of the archive that is not there, or not all of it."""
    found = damaged(cold.path, loss, RESTORE_OBJECT)
    return replace(found, first_position=cold.first_position, last_position=cold.last_position)


def _records(segment: SegmentFiles) -> list[Finding]:
    """The summary and its copy, of which one is whole."""
    findings = []
    if not segment.is_summary_whole:
        findings.append(stale(segment.folder / SUMMARY_FILE, "it is missing or not as it was written", _COMPACT))
    if not segment.is_copy_whole:
        findings.append(stale(segment.folder / COPY_FILE, "it is missing or not as it was written", _COMPACT))
    return excused(findings, BEING_COMPACTED) if segment.is_being_compacted else findings


def _footer(cold: ColdSegment) -> Finding:
    """A file without its footer cannot be read at all."""
    return Finding(
        str(cold.path),
        "log",
        "its footer does not match its checksum",
        RESTORE,
        offset=cold.file.size - int(cold.summary["footer_bytes"]),
        first_position=cold.first_position,
        last_position=cold.last_position,
    )


def _facts(cold: ColdSegment, previous_digest: int | None) -> Iterator[str]:
    """The summary against the map."""
    told, commits, header = cold.summary, cold.commits, cold.table["header"]
    facts = {
        "count": int(commits["count"].sum(dtype=np.int64)),
        "batches": len(commits),
        "digest": int(commits["checksum"][-1]),
        "previous_digest": told["previous_digest"] if previous_digest is None else previous_digest,
    }
    if not cold.gone.absent:
        facts["last_position"] = int(header["last_position"].max())
        facts["timestamp_min"] = int(header["timestamp_min"].min())
        facts["timestamp_max"] = int(header["timestamp_max"].max())
    held = int(header["count"].sum(dtype=np.int64)) + cold.gone.absent
    positions = cold.last_position - cold.first_position + 1
    if held != positions:
        yield f"it has {positions:,} positions, and {held:,} events that are there or gone"
    for name, fact in facts.items():
        if told[name] != fact:
            yield f"segment.msgpack says {name} is {told[name]}, and it is {fact}"
    times = [recorded_at(commits, header[name]) for name in ("first_position", "last_position")]
    if (times[0] != header["base_recorded_at"]).any() or (times[1] != header["recorded_at_max"]).any():
        yield "its times of recording are not those of its batches"


def _rest(cold: ColdSegment, is_footer_damaged: bool) -> list[Finding]:
    """Every byte of the file. Damage of a row group is left to who reads it, unless nobody can."""
    if checksum_of(cold.file.parts()) == cold.summary["events_checksum"]:
        return []
    bad = [(row, name) for row in cold.table for name in cold.damaged_columns(row)]
    if not bad and not is_footer_damaged:
        return [damaged(cold.path, "what stands between its row groups is not as it was written")]
    return [
        piece(cold, row, f"column {name} does not match its checksum") for row, name in bad if is_footer_damaged
    ]


def _derived(cold: SegmentView, row: np.void) -> Iterator[str]:
    """Materialised columns of a row group against its payloads and metadata."""
    assert isinstance(cold, ColdSegment)
    names = cold.summary["materialised"]
    if not names:
        return
    table = cold.read(row, [*roots_of(names), *names])
    for name, column in zip(names, deriving(names)(table), strict=True):
        if not pa.chunked_array([column]).equals(table[name]):
            yield f"column {name} is not what the events say"
