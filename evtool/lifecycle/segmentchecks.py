"""What `verify` asks of any segment, hot or cold: its batches, and each piece of it with its events.

A group of pieces is read once. What comes out of that is all that others need: the columns of the logical digest,
which streams the pieces hold, and what the index must have of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.lifecycle.findings import RESTORE, Finding, damaged
from evtool.lifecycle.fingerprints import IdSums, StreamSums
from evtool.log.digest import Columns, columns_of
from evtool.log.format import MIXED_PARTITIONS
from evtool.log.frame import int64s
from evtool.log.identity import hash_events
from evtool.log.partitions import partitions_of
from evtool.log.scan import Group
from evtool.log.segmentview import SegmentView
from evtool.log.streamindex import PAIR, Pairs
from evtool.log.stripes import STORED_COLUMNS, TABLE_BYTES
from evtool.log.versions import stream_keys

_NO_PAIRS = np.zeros(0, PAIR)


@dataclass(frozen=True)
class Opened:
    """A segment that can be read.

    `digest` ends the chain of its frames, and `logical_digest` is what its events must have, if these are known.
    `unreadable` are the offsets of pieces that are known to be damaged. `derived` says what else is wrong with a
    piece, and `rest` looks at the bytes that no piece with events has.
    """

    view: SegmentView
    digest: int | None
    logical_digest: str | None = None
    unreadable: frozenset[int] = frozenset()
    derived: Callable[[SegmentView, np.void], Iterator[str]] = lambda view, row: iter(())
    rest: Callable[[], list[Finding]] = list


@dataclass(frozen=True)
class Checked:
    """What a group of pieces gave. `positions` are the first and the last one, `columns` what is hashed of the
    events in order of position; both None where any of them could not be read.
    """

    events: int = 0
    positions: tuple[int, int] | None = None
    columns: Columns | None = None
    findings: list[Finding] = field(default_factory=list)
    pairs: Pairs = field(default_factory=lambda: _NO_PAIRS)
    ids: IdSums | None = None
    streams: StreamSums | None = None
    sources: frozenset[str] = frozenset()


def piece(view: SegmentView, row: np.void, message: str) -> Finding:
    """Damage of one piece."""
    header, offset = row["header"], int(row["offset"])
    return replace(
        damaged(view.path, message),
        piece="row group" if view.is_cold else "frame",
        number=int(np.searchsorted(view.table["offset"], offset)),
        offset=offset,
        first_position=int(header["first_position"]),
        last_position=int(header["last_position"]),
    )


def batches(view: SegmentView, last_recorded_at: int) -> tuple[int, list[Finding]]:
    """The last recorded_at, and the batches that do not follow the one before."""
    commits = view.commits
    if not len(commits):
        return last_recorded_at, []
    count = commits["count"].astype(np.int64)
    ends = commits["base_recorded_at"] + np.maximum(count, 1) - 1
    before = np.concatenate([[last_recorded_at], ends[:-1]])
    firsts = view.first_position + np.cumsum(count) - count
    findings = []
    for broken, what in (
        (commits["base_position"] != firsts, "does not follow the one before it"),
        (commits["base_recorded_at"] <= before, "was recorded no later than the one before it"),
    ):
        for number in np.flatnonzero(broken).tolist():
            findings.append(of_batch(view.path, commits[number], what))
    return int(ends[-1]), findings


def of_batch(path: Path | str, commit: Any, what: str) -> Finding:
    """Damage of a batch, given by its commit."""
    first, count = int(commit["base_position"]), int(commit["count"])
    return Finding(
        str(path),
        "log",
        f"the batch {what}",
        RESTORE,
        first_position=first,
        last_position=first + max(count, 1) - 1,
    )


def check_gone(view: SegmentView) -> Checked:
    """What the index must have of events that a segment does not have any more."""
    try:
        positions, ids, keys, versions = view.gone.known()
    except LogDamagedError as error:
        return Checked(findings=[damaged(view.path, error.message)])
    streams = StreamSums()
    streams.add_events(keys, np.ones(len(keys), np.int64), versions)
    return Checked(ids=IdSums.of(ids["hash"], positions), streams=streams)


def check(opened: Opened, group: Group, log_id: bytes, partitions: int) -> Checked:
    """Read a group of pieces, all columns of them, and check everything that can be told from these alone."""
    view = _at_hand(opened, group)
    findings: list[Finding] = []
    batches: list[pa.RecordBatch] = []
    rows: list[np.void] = []
    for row in group.rows:
        if int(row["offset"]) in opened.unreadable:
            continue
        try:
            batch = view.batch(row, STORED_COLUMNS)
            findings += [piece(view, row, what) for what in (*_limits(batch, row), *opened.derived(view, row))]
        except LogDamagedError as error:
            findings.append(piece(view, row, error.what))
            continue
        batches.append(batch)
        rows.append(row)
    view.forget(group.rows)
    if not batches:
        return Checked(findings=findings)
    events = _together(batches)
    del batches
    # What is left of an erased event counts by what it was before, as those that are not there any more do.
    streams = _Streams(events, rows, view.gone.find(events["position"].to_numpy()) < 0)
    wrong = streams.partitions_that_differ(partitions)
    findings += [piece(view, row, f"it holds streams of other partitions than {number}") for row, number in wrong]
    found = Checked(
        events=len(events),
        findings=findings,
        pairs=streams.pairs(view),
        streams=streams.sums(),
        sources=frozenset(events["source_id"].unique().to_pylist()),
    )
    is_whole = len(rows) == len(group.rows)
    return _placed(found, events, view, log_id, is_whole)


def _at_hand(opened: Opened, group: Group) -> SegmentView:
    """The segment with the group fetched, if need be; as it is where that finds damage, as its pieces do."""
    try:
        return opened.view.fetched(group.rows, {*STORED_COLUMNS, *opened.view.materialised})
    except LogDamagedError:
        return opened.view


def _limits(batch: pa.RecordBatch, row: np.void) -> Iterator[str]:
    """What of a header is not so."""
    header = row["header"]
    for name, what in (("position", "positions"), ("timestamp", "times")):
        values = np.from_dlpack(batch[name])
        ends = ("first_position", "last_position") if name == "position" else ("timestamp_min", "timestamp_max")
        if (values.min(), values.max()) != (header[ends[0]], header[ends[1]]):
            yield f"its {what} are not those of its header"


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all, piece behind piece."""
    table = pa.Table.from_batches(batches)
    if table.nbytes > TABLE_BYTES:  # a column of texts of 32 bits would end
        large = [
            field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
            for field in table.schema
        ]
        table = table.cast(pa.schema(large))
    return table.combine_chunks().to_batches()[0]


def _placed(found: Checked, events: pa.RecordBatch, view: SegmentView, log_id: bytes, is_whole: bool) -> Checked:
    """With what depends on the order of position."""
    positions: Any = np.from_dlpack(events["position"])
    steps = np.diff(positions)
    if (steps < 0).any():
        order = np.argsort(positions)
        events = events.take(int64s(order))
        positions = positions[order]
        steps = np.diff(positions)
    first, last = int(positions[0]), int(positions[-1])
    is_dense = len(positions) + view.gone.absent_between(first, last) == last - first + 1
    if (steps == 0).any() or (is_whole and not is_dense):
        message = "positions have a gap or come twice"
        found.findings.append(replace(damaged(view.path, message), first_position=first, last_position=last))
        return found
    own = view.gone.find(positions) < 0
    ids = IdSums.of(hash_events(events, log_id)[own], positions[own])
    if not is_whole:
        return replace(found, ids=ids)
    ends = int(positions[0]), int(positions[-1])
    return replace(found, ids=ids, positions=ends, columns=columns_of(events))


class _Streams:
    """The streams of some events, each hashed once; `rows` are the pieces that the events lie in, one by one.

    `own` says of which events it is their own.
    """

    def __init__(self, events: pa.RecordBatch, rows: list[np.void], own: Any) -> None:
        encoded = events["stream_id"].dictionary_encode()
        self._names: list[bytes] = encoded.dictionary.cast(pa.large_binary()).to_pylist()
        self._keys = stream_keys(self._names)
        self._codes = np.from_dlpack(encoded.indices)
        self._versions = np.from_dlpack(events["stream_version"])
        self._own = own
        ends = np.cumsum([int(row["header"]["count"]) for row in rows])
        self._pieces = [
            (row, _different(codes, len(self._names)))
            for row, codes in zip(rows, np.split(self._codes, ends[:-1]), strict=True)
        ]

    def partitions_that_differ(self, partitions: int) -> list[tuple[np.void, int]]:
        """The pieces that hold streams of another partition than they say, and which one that is."""
        if all(row["header"]["partition"] == MIXED_PARTITIONS for row, _ in self._pieces):
            return []
        of_stream = partitions_of(self._names, partitions)
        found = []
        for row, codes in self._pieces:
            partition = int(row["header"]["partition"])
            if partition != MIXED_PARTITIONS and (of_stream[codes] != partition).any():
                found.append((row, partition))
        return found

    def pairs(self, view: SegmentView) -> Pairs:
        """The pairs of stream and piece, as streams.idx has them."""
        pairs = np.zeros(sum(len(codes) for _, codes in self._pieces), PAIR)
        end = 0
        for row, codes in self._pieces:
            start, end = end, end + len(codes)
            pairs["hash"][start:end] = self._keys[codes, 0]
            pairs["frame"][start:end] = np.searchsorted(view.table["offset"], row["offset"])
        return pairs

    def sums(self) -> StreamSums:
        """What streams.table must have of them."""
        codes = self._codes[self._own]
        counts = np.bincount(codes, minlength=len(self._names))
        # Exact: below 2^53, as versions count events.
        versions = np.bincount(codes, self._versions[self._own], len(self._names)).astype(np.int64)
        sums = StreamSums()
        sums.add_events(self._keys, counts, versions)
        return sums


def _different(codes: np.ndarray[Any, Any], limit: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The different ones of some numbers below a limit."""
    seen = np.zeros(limit, bool)
    seen[codes] = True
    return np.flatnonzero(seen)
