"""What is left of a damaged segment: the pieces that are whole, all of its batches, and what is gone for good.

Of hot and of cold segments the same is made, `Remains`, which is a segment to what writes them anew
(`rewriting.rewrite_as`): pieces that do not check are left out, and their positions are lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evtool.errors import LogDamagedError
from evtool.lifecycle.forgetting import ERASED_METADATA
from evtool.log.coldsegment import ROW
from evtool.log.format import BATCH, EVENTS_FRAME, FRAME_HEADER_BYTES
from evtool.log.frame import PLACED_SCHEMA
from evtool.log.gone import DROPPED, ERASED, ID, LOST, Gone, followed, gone
from evtool.log.segmentview import SegmentView
from evtool.log.stripes import STORED_COLUMNS, batches_of
from evtool.log.walk import Table

_WINDOW_EVENTS = 65_536

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


class Pieces(Protocol):
    """Whatever gives the events of a piece, or raises LogDamagedError."""

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The events of a row as columns of PLACED_SCHEMA."""

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these took."""


@dataclass(frozen=True)
class Damage:
    """Bytes that are not what was written: of which file, from where to where (None: all of it), which positions.

    `is_lost` says whether events went with them.
    """

    file: str
    message: str
    start: int | None = None
    end: int | None = None
    first_position: int | None = None
    last_position: int | None = None
    is_lost: bool = False


@dataclass(frozen=True)
class Known:
    """What was found out about a segment before its events are read.

    `rows` are its pieces, damaged or not; `batches` (records of BATCH) are without a gap; `maps` what producers
    handed over with each; `summary` has what a summary says of its range. `earlier` are those that were gone, if
    that `is_gone_known` still.
    """

    folder: Path
    first_position: int
    last_position: int
    pieces: Pieces
    rows: Table
    batches: np.ndarray[Any, Any]
    maps: Sequence[bytes]
    earlier: Gone
    summary: Mapping[str, Any]
    names: list[str] = field(default_factory=list)
    damages: tuple[Damage, ...] = ()
    is_gone_known: bool = True


@dataclass(frozen=True)
class Piece:
    """A whole piece, or the events of one at some `positions`."""

    source: Pieces
    row: np.void
    positions: Positions | None = None

    def batch(self, columns: Collection[str] | None) -> pa.RecordBatch:
        """Its events as columns of PLACED_SCHEMA, `position` among them. Raises LogDamagedError."""
        events = self.source.batch(self.row, columns)
        if self.positions is None:
            return events
        return events.filter(pa.array(np.isin(events["position"].to_numpy(), self.positions)))

    @property
    def count(self) -> int:
        """How many events."""
        return int(self.row["header"]["count"]) if self.positions is None else len(self.positions)


@dataclass(frozen=True)
class Remains:
    """A segment to whoever writes it anew: what can be proved whole, in windows of whole batches.

    `lost` are the positions that are lost now, `filled` how many events others have brought back.
    """

    folder: Path
    first_position: int
    last_position: int
    table: Table
    commits: np.ndarray[Any, Any]
    gone: Gone
    maps: Sequence[bytes]
    windows: Sequence[Sequence[Piece]]
    lost: Positions
    filled: int
    damages: tuple[Damage, ...]
    names: list[str]
    summary: Mapping[str, Any]

    is_sealed = True
    is_cold = True
    is_archived = False

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder

    @property
    def materialised(self) -> frozenset[str]:
        """None: they are made anew."""
        return frozenset()

    @property
    def gone_counts(self) -> Mapping[str, int]:
        """How many went, by how they did."""
        return self.gone.counts() if len(self.gone) else {}

    @property
    def log_bytes(self) -> int:
        """Bytes of its whole pieces."""
        return int(self.table["header"]["body_bytes"].sum(dtype=np.int64))

    def producer_maps(self) -> Iterator[tuple[int, bytes]]:
        """What producers handed over, the latest first."""
        for number in reversed(range(len(self.maps))):
            if self.maps[number]:
                yield number, self.maps[number]

    def check_commits(self) -> None:
        """Nothing: what is not whole is left out."""

    def event_rows(self) -> Table:
        """A row for each window that has events."""
        return self.table

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The events of a window that are left. Raises LogDamagedError if one has gone since it was looked at."""
        batches = [piece.batch(columns) for piece in self.windows[int(row["number"])]]
        schema = pa.schema([PLACED_SCHEMA.field(name) for name in batches[0].schema.names])
        tables = [pa.Table.from_batches([batch]).cast(schema) for batch in batches]
        return pa.concat_tables(tables).combine_chunks().to_batches()[0]

    def fetched(self, rows: Table, columns: Collection[str]) -> Remains:
        """Itself: what is archived is not written anew."""
        return self

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these took."""
        for number in rows["number"].tolist():
            for piece in self.windows[number]:
                piece.source.forget(np.array([piece.row]))


def remains(known: Known, fillers: Sequence[SegmentView] = (), fills_earlier: bool = True) -> Remains:
    """Read all pieces, and keep those that are whole; `fillers` of the same log are asked for what is lost.

    What was lost before is among that if it `fills_earlier`.

    Raises StorageError.
    """
    first = known.first_position
    is_there = np.zeros(known.last_position - first + 1, bool)
    pieces: list[Piece] = []
    damages = list(known.damages)
    for number, row in enumerate(known.rows):
        known.pieces.forget(known.rows[max(number - 1, 0) : number])
        try:
            events = known.pieces.batch(row, STORED_COLUMNS)
            positions = events["position"].to_numpy()
            is_right = len(positions) == row["header"]["count"] and _are_new(positions - first, is_there)
        except LogDamagedError as error:
            damages.append(_of(known, row, error.what))
            continue
        if is_right:
            # What stands in the place of an erased event tells nothing without its record in events-N.gone.
            kept = None if known.is_gone_known else np.sort(positions[~_is_placeholder(events)])
            is_there[(positions if kept is None else kept) - first] = True
            pieces.append(Piece(known.pieces, row, kept))
        else:
            damages.append(_of(known, row, "its positions are not those of its segment"))
    own = int(is_there.sum())
    batches, maps = known.batches, known.maps
    if fillers and known.is_gone_known:
        pieces += filling(known, fillers, is_there, fills_earlier)
        batches, maps = structured(known, fillers)
    lost, is_gone = _gone(known, is_there)
    windows = _windows(known, batches, pieces)
    return Remains(
        folder=known.folder,
        first_position=first,
        last_position=known.last_position,
        table=_table(windows),
        commits=batches,
        gone=is_gone,
        maps=maps,
        windows=windows,
        lost=lost,
        filled=int(is_there.sum()) - own,
        damages=tuple(damages),
        names=known.names,
        summary=_summary(known, batches, len(lost)),
    )


def _is_placeholder(events: pa.RecordBatch) -> Mask:
    """Which rows stand in the place of an event that was erased."""
    ids = pc.binary_join_element_wise("erased", events["position"].cast(pa.string()), "-")
    is_one = pc.and_(pc.equal(events["event_id"], ids), pc.equal(events["metadata"], ERASED_METADATA))
    found: Mask = pc.fill_null(is_one, False).to_numpy(zero_copy_only=False)
    return found


def _are_new(offsets: np.ndarray[Any, Any], is_there: Mask) -> bool:
    if not len(offsets) or offsets.min() < 0 or offsets.max() >= len(is_there):
        return False
    return not is_there[offsets].any() and len(np.unique(offsets)) == len(offsets)


def _of(known: Known, row: np.void, what: str) -> Damage:
    header, start = row["header"], int(row["offset"])
    path = getattr(known.pieces, "path", known.folder)
    return Damage(
        str(path),
        what,
        start,
        start + _stored_bytes(row),
        int(header["first_position"]),
        int(header["last_position"]),
        True,
    )


def _stored_bytes(row: np.void) -> int:
    is_frame = "recorded_at_max" not in (row["header"].dtype.names or ())
    return int(row["header"]["body_bytes"]) + (FRAME_HEADER_BYTES if is_frame else 0)


def _gone(known: Known, is_there: Mask) -> tuple[Positions, Gone]:
    """The positions that are lost now, and all that are gone, with those of before."""
    before, first = known.earlier, known.first_position
    has_row = is_there[before.positions - first]
    kinds = before.kinds.copy()
    # Of one that was erased and whose row went too, the id still counts: it is as if it had been dropped.
    kinds[(kinds == ERASED) & ~has_row] = DROPPED
    is_lost = kinds == LOST
    stays = ~(is_lost & has_row)
    keys, versions = before.streams
    earlier = gone(before.positions[stays], kinds[stays], before.ids[stays], keys[stays], versions[stays])
    is_left = is_there.copy()
    is_left[before.positions - first] = True
    lost = np.flatnonzero(~is_left) + first
    nothing = np.zeros((len(lost), 2), np.uint64)
    now = gone(
        lost, np.full(len(lost), LOST, np.uint32), np.zeros(len(lost), ID), nothing, np.zeros(len(lost), np.int64)
    )
    return lost, followed(earlier, now)


def _windows(known: Known, batches: np.ndarray[Any, Any], pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces by windows of whole batches, which no group of pieces lies across."""
    filled = batches[batches["count"] > 0]
    ends = filled["base_position"] + filled["count"].astype(np.int64) - 1
    ends = ends[~_is_within_a_group(known.rows, ends)]
    edges = [known.first_position]
    for number, end in enumerate(ends.tolist()):
        is_last = number + 1 == len(ends)
        if is_last or int(ends[number + 1]) - edges[-1] >= _WINDOW_EVENTS:
            edges.append(end + 1)
    windows: list[list[Piece]] = [[] for _ in edges[1:]]
    for piece in pieces:
        if piece.positions is None:
            at = np.searchsorted(edges, int(piece.row["header"]["first_position"]), side="right") - 1
            windows[int(at)].append(piece)
            continue
        cuts = np.searchsorted(piece.positions, edges[1:-1])
        for number, positions in enumerate(np.split(piece.positions, cuts)):
            if len(positions):
                windows[number].append(replace(piece, positions=positions))
    return [window for window in windows if window]


def _is_within_a_group(rows: Table, ends: Positions) -> Mask:
    """Which ends of batches lie before the end of a group of pieces that are put in order together."""
    if not len(rows):
        return np.zeros(len(ends), bool)
    header = rows["header"][np.argsort(rows["header"]["batch"], kind="stable")]
    starts = np.flatnonzero(np.diff(header["batch"].astype(np.int64), prepend=-1))
    firsts = np.minimum.reduceat(header["first_position"], starts)
    lasts = np.maximum.reduceat(header["last_position"], starts)
    group = np.searchsorted(firsts, ends, side="right") - 1
    is_within: Mask = (group >= 0) & (ends < lasts[group])
    return is_within


def _table(windows: Sequence[Sequence[Piece]]) -> Table:
    table = np.zeros(len(windows), ROW)
    for number, window in enumerate(windows):
        headers = [piece.row["header"] for piece in window]
        row = table[number]
        row["offset"] = row["number"] = number
        into = row["header"]
        into["kind"], into["batch"] = EVENTS_FRAME, number
        into["count"] = sum(piece.count for piece in window)
        into["body_bytes"] = sum(int(header["body_bytes"]) for header in headers)
        for name, chosen in (("first_position", min), ("last_position", max)):
            into[name] = chosen(int(header[name]) for header in headers)
        for name, chosen in (("timestamp_min", min), ("timestamp_max", max)):
            into[name] = chosen(int(header[name]) for header in headers)
    return table


def _summary(known: Known, batches: np.ndarray[Any, Any], lost: int) -> dict[str, Any]:
    """What the summary of the new files says, but for these files."""
    filled = batches[batches["count"] > 0]
    told = dict(known.summary)
    replaced = told.pop("logical_digest", None)
    if lost and replaced is not None:
        told["replaced_digest"] = replaced
    return told | {
        "count": int(batches["count"].sum(dtype=np.int64)),
        "batches": len(batches),
        "timestamp_min": int(filled["timestamp_min"].min()),
        "timestamp_max": int(filled["timestamp_max"].max()),
    }


def filling(
    known: Known, fillers: Sequence[SegmentView], is_there: Mask, fills_earlier: bool = True
) -> list[Piece]:
    """Pieces of others for positions that are lost, where their batches are ours; `is_there` learns of them."""
    first, found = known.first_position, []
    before = known.earlier
    is_wanted = ~is_there
    stays = (before.kinds != LOST) | (not fills_earlier)
    is_wanted[before.positions[stays] - first] = False
    is_wanted &= _of_our_batches(known, fillers)
    for view in fillers:
        for row in view.event_rows():
            ends = (int(row["header"][name]) for name in ("first_position", "last_position"))
            low, high = (min(max(end - first, 0), len(is_wanted)) for end in ends)
            if not is_wanted[low : high + 1].any():
                continue
            positions = np.sort(view.batch(row, STORED_COLUMNS)["position"].to_numpy())
            inside = positions[(positions >= first) & (positions <= known.last_position)]
            wanted = inside[is_wanted[inside - first] & (view.gone.find(inside) < 0)]
            is_wanted[wanted - first] = False
            is_there[wanted - first] = True
            if len(wanted):
                found.append(Piece(view, row, wanted))
    return found


def _of_our_batches(known: Known, fillers: Sequence[SegmentView]) -> Mask:
    """The positions of batches that others have with the same checksum of their commit frames."""
    ours, theirs = (batches[batches["count"] > 0] for batches in (known.batches, _batches_of(fillers)[0]))
    ends, their_ends = (batches["base_position"] + batches["count"].astype(np.int64) for batches in (ours, theirs))
    found = np.searchsorted(their_ends, ends)
    found[found == len(theirs)] = 0
    is_same = np.zeros(len(ours), bool)
    if len(theirs):
        is_same = (their_ends[found] == ends) & (theirs["checksum"][found] == ours["checksum"])
    mask: Mask = np.repeat(is_same & (ours["checksum"] != 0), ours["count"])
    return mask


def structured(known: Known, fillers: Sequence[SegmentView]) -> tuple[np.ndarray[Any, Any], Sequence[bytes]]:
    """The batches, those that stand for several of which nothing is known by what others have of them."""
    ours = known.batches
    theirs, their_maps = _batches_of(fillers)
    starts = np.searchsorted(theirs["base_position"], ours["base_position"])
    ends = np.searchsorted(theirs["base_position"], ours["base_position"] + ours["count"].astype(np.int64))
    records, maps = [], []
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        chosen, own = theirs[start:end], ours[number : number + 1]
        is_same = len(chosen) > 0 and int(chosen["count"].sum(dtype=np.int64)) == int(own["count"][0])
        if is_same and own["count"][0] and chosen["checksum"][chosen["count"] > 0][-1] == own["checksum"][0]:
            records.append(chosen)
            maps += their_maps[start:end]
        else:
            records.append(own)
            maps.append(known.maps[number])
    return np.concatenate(records), maps


def _batches_of(fillers: Sequence[SegmentView]) -> tuple[np.ndarray[Any, Any], list[bytes]]:
    records, maps = [np.zeros(0, BATCH)], list[bytes]()
    for view in fillers:
        own, _ = batches_of([view])
        bodies = dict(view.producer_maps())
        records.append(own)
        maps += [bodies.get(number, b"") for number in range(len(own))]
    return np.concatenate(records), maps


def one_batch(first: int, last: int, recorded_at: int, identity: int) -> np.ndarray[Any, Any]:
    """A batch in the place of those of which nothing is known but the positions; `identity` vouches for it."""
    batch = np.zeros(1, BATCH)
    batch["base_position"], batch["base_recorded_at"] = first, recorded_at
    batch["count"], batch["checksum"] = last - first + 1, identity
    return batch
