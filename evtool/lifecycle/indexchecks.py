"""What `verify` asks of the index: streams.idx of segments, and the tables in index/, against what the events say.

The tables are compared by sums (`fingerprints`), one pass through each. Where these differ, the events of the
ranges or parts that do are looked up one by one. What a table holds beyond that is no damage: behind a power cut
it may.

A writer may go on meanwhile. A slot of ids.table never changes once it is in use, so only what the table had
reached before counts. A slot of streams.table does: it must hold the version of the stream as of then, or later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl

from evtool.errors import LogDamagedError
from evtool.files import Files
from evtool.lifecycle.findings import BEING_COMPACTED, REINDEX, Finding, damaged, excused, note, stale
from evtool.lifecycle.fingerprints import (
    RANGE_EVENTS,
    IdSums,
    Numbers,
    StreamSums,
    Sums,
    id_prints,
    parts_of,
    ranges_of,
)
from evtool.lifecycle.logfiles import SegmentFiles
from evtool.log import sourcenames, streamindex
from evtool.log.caches import INDEX_FOLDER
from evtool.log.format import STREAMS_FILE
from evtool.log.hashing import Hashes
from evtool.log.identity import hash_events
from evtool.log.ids import EventIds
from evtool.log.segmentview import SegmentView
from evtool.log.sourcenames import SOURCES_FILE
from evtool.log.streamindex import Pairs
from evtool.log.table import MappedTable, Mask
from evtool.log.versions import StreamVersions, stream_keys

Views: TypeAlias = Callable[[], Iterable[SegmentView]]

_IDENTITY = ("position", "source_id", "event_uuid", "event_id")
_READERS_DO_WITHOUT = "It is only a cache: readers do without, and `evtool reindex` makes it again."
_NEXT_WRITER = "It is only a cache: the next writer, or `evtool reindex`, makes it again."
_APPEND_SECONDS = 0.05
_SLOTS_TOGETHER = 1 << 21
_VERSIONS = {
    "high": pl.UInt64,
    "low": pl.UInt64,
    "stream_id": pl.String,
    "version": pl.Int64,
    "count": pl.UInt32,
}


def stream_index(segment: SegmentFiles, view: SegmentView, pairs: Pairs | None, log_id: bytes) -> list[Finding]:
    """streams.idx of a sealed segment; without `pairs`, by its own checksums alone."""
    path = segment.folder / STREAMS_FILE
    if not view.is_sealed:
        return []
    if segment.streams is None:
        if view.is_archived:  # who looks for a stream fetches it
            return []
        return [note(path, "it is missing", _READERS_DO_WITHOUT)]
    if pairs is None:
        index = streamindex.of(segment.streams, log_id, view.first_position, view.table)
        is_right = index is not None and index.is_whole()
    else:
        is_right = segment.streams == streamindex.encode(pairs, log_id, view.first_position, view.table)
    what = "it is not as it was written" if pairs is None else "it differs from what the events give"
    found = [] if is_right else [stale(path, what)]
    return excused(found, BEING_COMPACTED) if segment.is_being_compacted else found


@dataclass(frozen=True)
class Tables:
    """The tables of the index, as they were when the log was looked at; None where one cannot be believed.

    `reached` are the positions up to which they are complete, by name of the file.
    """

    folder: Path
    log_id: bytes
    ids: EventIds | None
    streams: StreamVersions | None
    reached: dict[str, int]
    stream_sums: StreamSums
    findings: list[Finding] = field(default_factory=list)

    @property
    def ids_reached(self) -> int:
        """The position up to which ids.table is complete."""
        return self.reached.get(EventIds.file_name, 0)


def open_tables(files: Files, log_folder: Path, log_id: bytes, is_fast: bool) -> Tables:
    """Open them to be read. The sums of streams.table are made now, as it changes."""
    folder = log_folder / INDEX_FOLDER
    ids, streams = (kind.open_read(files, folder, log_id) for kind in (EventIds, StreamVersions))
    assert ids is None or isinstance(ids, EventIds)
    assert streams is None or isinstance(streams, StreamVersions)
    findings = [finding for kind in (EventIds, StreamVersions) for finding in _header(files, folder, kind, log_id)]
    reached = {table.file_name: table.applied for table in (ids, streams) if table is not None}
    sums = StreamSums()
    if streams is not None and not is_fast:
        for keys, versions in streams.pairs():
            sums.add_slots(keys, versions)
    return Tables(folder, log_id, ids, streams, reached, sums, findings)


def _header(files: Files, folder: Path, kind: type[MappedTable], log_id: bytes) -> list[Finding]:
    path = folder / kind.file_name
    if not path.exists():
        return [note(path, "it is missing", _NEXT_WRITER)]
    if kind.open_read(files, folder, log_id) is None:
        return [stale(path, "it is no table of this log, or has changed", _NEXT_WRITER)]
    return []


def sources(files: Files, folder: Path, log_id: bytes, seen: frozenset[str] | None) -> list[Finding]:
    """sources.msgpack: is it whole, and has it all sources that were seen (None: nobody looked)?"""
    path = folder / SOURCES_FILE
    if not path.exists():
        return [note(path, "it is missing", _NEXT_WRITER)]
    names, end, size = sourcenames.look_at(files, folder, log_id)
    if end < size:  # perhaps a writer is just appending
        time.sleep(_APPEND_SECONDS)
        names, end, size = sourcenames.look_at(files, folder, log_id)
    if end < size:
        return [replace(stale(path, "it is not as it was written"), offset=end)]
    missing = () if names is None or seen is None else seen - names
    return [stale(path, f"it lacks {len(missing):,} of the sources, such as {min(missing)!r}")] if missing else []


def held_ids(table: EventIds, first: int, reached: int) -> Sums:
    """The sums of what ids.table holds of the positions from `first` to `reached`, for each range from 1 on."""
    sums: Sums = np.zeros(-(-reached // RANGE_EVENTS), np.uint64)
    for hashes, positions in table.pairs():
        chosen = (positions >= first) & (positions <= reached)
        np.add.at(sums, ranges_of(positions[chosen]), id_prints(hashes[chosen], positions[chosen]))
    return sums


def ids(
    tables: Tables,
    held: Sums,
    expected: Sequence[IdSums],
    views: Views,
    last: int,
    is_whole: bool,
) -> list[Finding]:
    """ids.table against the events up to `last` that it has reached, of which `expected` are the sums.

    `is_whole` says whether they are of all of these events.
    """
    end = min(last, tables.ids_reached)
    if tables.ids_reached != last:  # of a range that one of them is in the middle of, the sums tell nothing
        end = end // RANGE_EVENTS * RANGE_EVENTS
    wanted: Sums = np.zeros(-(-end // RANGE_EVENTS), np.uint64)
    for part in expected:
        count = max(min(len(wanted) - part.first, len(part.sums)), 0)
        wanted[part.first : part.first + count] += part.sums[:count]
    differing = np.flatnonzero(wanted != held[: len(wanted)])
    if not len(differing) or tables.ids is None:
        return []
    path = tables.folder / EventIds.file_name
    missing = [np.zeros(0, np.int64), *_missing(tables.ids, views, tables.log_id, set(differing.tolist()), end)]
    findings = [_lacking(path, start, stop) for start, stop in _runs(np.sort(np.concatenate(missing)))]
    if not findings and is_whole:
        hint = (
            "A power cut may leave such; each costs a look into the log. `evtool reindex` makes it without them."
        )
        findings.append(note(path, "it holds entries of events that there are not", hint))
    return findings


def _missing(table: EventIds, views: Views, log_id: bytes, differing: set[int], end: int) -> Iterator[Numbers]:
    """The positions, in ranges that differ, whose ids are not found."""
    for view in views():
        for row in view.event_rows():
            header = row["header"]
            ends = ranges_of(np.array([header["first_position"], header["last_position"]]))
            if differing.isdisjoint(range(int(ends[0]), int(ends[1]) + 1)):
                continue
            try:
                batch = view.batch(row, _IDENTITY)
            except LogDamagedError:  # said of the piece itself
                continue
            positions = batch["position"].to_numpy()
            own = view.gone.find(positions) < 0
            yield _unfound(table, hash_events(batch, log_id)[own], positions[own], differing, end)
        view.forget(view.event_rows())
        positions, ids, _, _ = view.gone.known()
        yield _unfound(table, ids["hash"], positions, differing, end)


def _unfound(table: EventIds, hashes: Hashes, positions: Numbers, differing: set[int], end: int) -> Numbers:
    in_range = np.isin(ranges_of(positions), list(differing)) & (positions <= end)
    positions, hashes = positions[in_range], hashes[in_range]
    rows, found = table.candidates(hashes)
    is_found = np.zeros(len(positions), bool)
    is_found[rows[found == positions[rows]]] = True
    # One by one, none is found that lies behind an empty slot.
    is_found[is_found] = [table.may_hold([value]) for value in hashes[is_found].tolist()]
    return positions[~is_found]


def _runs(positions: Numbers) -> Iterator[tuple[int, int]]:
    """Rising numbers as ranges without gaps."""
    if len(positions):
        cuts = np.flatnonzero(np.diff(positions) != 1) + 1
        for run in np.split(positions, cuts):
            yield int(run[0]), int(run[-1])


def _lacking(path: Path, first: int, last: int) -> Finding:
    what = "the event" if first == last else f"{last - first + 1:,} events"
    return replace(
        stale(path, f"{what} cannot be found by the id", REINDEX), first_position=first, last_position=last
    )


def streams(
    tables: Tables,
    expected: StreamSums,
    views: Views,
    newest: Views,
    last: int,
) -> list[Finding]:
    """streams.table against all events up to `last`; `newest` gives the segments as they are then."""
    table = tables.streams
    if table is None or not tables.reached[StreamVersions.file_name]:
        return []
    parts = expected.differing(tables.stream_sums)
    if not len(parts):
        return []
    reached = tables.reached[StreamVersions.file_name]
    path = tables.folder / StreamVersions.file_name
    findings, wrong = [], [pl.DataFrame(schema=_VERSIONS)]
    for together in _some(parts, len(table)):
        is_asked = np.zeros(len(tables.stream_sums.sums[0]), bool)
        is_asked[together] = True
        held = _held(table, is_asked)
        at_least, at_most = _versions(views(), is_asked, reached), _versions(newest(), is_asked, None)
        wrong.append(at_most.filter(pl.col("count") != pl.col("version")))
        joined = at_most.join(at_least.drop("stream_id"), on=["high", "low"], how="left", suffix="_then")
        joined = joined.join(held, on=["high", "low"], how="left", suffix="_held")
        joined = joined.with_columns(pl.col("version_then", "version_held").fill_null(0))
        low, high, has = pl.col("version_then"), pl.col("version"), pl.col("version_held")
        for stream, version, held_version in (
            joined.filter((has < low) | (has > high)).sort("stream_id").select("stream_id", "version", has).rows()
        ):
            findings.append(
                stale(path, f"{_named(stream)} has version {version}, and {held_version or 'none'} in it")
            )
    gaps, lost = pl.concat(wrong), sum(view.gone_counts.get("lost", 0) for view in views())
    findings += _gaps(tables.folder.parent, gaps, lost)
    if not findings and not lost and reached == last:
        findings.append(note(path, "it holds streams that there are not, or has taken up more meanwhile", REINDEX))
    return findings


def _gaps(log_folder: Path, wrong: pl.DataFrame, lost: int) -> list[Finding]:
    """The streams whose versions are not 1, 2, 3 …: an index that was damaged gave them.

    Not where events that are `lost`, of which no stream is known, can have had all that are missing.
    """
    hint = "Events keep the versions that they have. What expects a version of this stream goes by the last one."
    missing = (wrong["version"] - wrong["count"].cast(pl.Int64)).to_numpy()
    if (missing > 0).all() and missing.sum() <= lost:
        return []
    wrong = wrong.sort("stream_id")
    return [
        damaged(
            log_folder, f"{_named(stream)} has had {count:,} events, and the last has version {version:,}", hint
        )
        for stream, version, count in wrong.select("stream_id", "version", "count").rows()
    ]


def _named(stream: str | None) -> str:
    return f"stream {stream!r}" if stream is not None else "a stream whose events are gone"


def _some(parts: Numbers, slots: int) -> list[Numbers]:
    """The parts, as many together as have so many streams that they are no burden."""
    return np.array_split(parts, max(1, slots * len(parts) // (4_096 * _SLOTS_TOGETHER)))


def _versions(views: Iterable[SegmentView], is_asked: Mask, end: int | None) -> pl.DataFrame:
    """The streams of some parts, up to a position: high and low of the key, the name if an event has it, the last
    version, and the count of events, those that are gone too.
    """
    found = pl.DataFrame(schema=_VERSIONS)
    for view in views:
        for row in view.event_rows():
            if end is None or row["header"]["first_position"] <= end:
                found = _joined(found, _own(view, row, end), is_asked)
        view.forget(view.event_rows())
        if len(view.gone):
            found = _joined(found, _gone(view, end), is_asked)
    return found


def _own(view: SegmentView, row: np.void, end: int | None) -> pl.DataFrame:
    """The streams of a piece."""
    try:
        events = view.events(row, ("position", "stream_id", "stream_version"))
    except LogDamagedError:  # said of the piece itself
        return pl.DataFrame(schema=_VERSIONS)
    positions = events["position"].to_numpy()
    events = events.filter((view.gone.find(positions) < 0) & (positions <= (end or positions.max())))
    counted = events.group_by("stream_id").agg(
        pl.col("stream_version").max().alias("version"), pl.len().alias("count")
    )
    keys = stream_keys(counted["stream_id"].cast(pl.Binary).to_list())
    high, low = pl.Series("high", keys[:, 0]), pl.Series("low", keys[:, 1])
    return counted.select(high, low, "stream_id", "version", "count")


def _gone(view: SegmentView, end: int | None) -> pl.DataFrame:
    """The streams of events that are gone, each event a row."""
    positions, _, keys, versions = view.gone.known()
    known = pl.DataFrame({"high": keys[:, 0], "low": keys[:, 1], "version": versions})
    known = known.filter(positions <= (end or view.last_position))
    nameless, one = pl.lit(None, pl.String).alias("stream_id"), pl.lit(1, pl.UInt32).alias("count")
    return known.select("high", "low", nameless, "version", one)


def _joined(found: pl.DataFrame, more: pl.DataFrame, is_asked: Mask) -> pl.DataFrame:
    keys = more.select("high", "low").to_numpy()
    asked = more.filter(pl.Series(is_asked[parts_of(keys)], dtype=pl.Boolean))
    return (
        pl.concat([found, asked])
        .group_by("high", "low")
        .agg(pl.col("stream_id").drop_nulls().first(), pl.col("version").max(), pl.col("count").sum())
    )


def _held(table: StreamVersions, is_asked: Mask) -> pl.DataFrame:
    """What the table holds of some parts."""
    found = [pl.DataFrame(schema={"high": pl.UInt64, "low": pl.UInt64, "version": pl.Int64})]
    for keys, versions in table.pairs():
        chosen = is_asked[parts_of(keys)]
        found.append(pl.DataFrame({"high": keys[chosen, 0], "low": keys[chosen, 1], "version": versions[chosen]}))
    return pl.concat(found)
