"""What is left of a damaged segment: the pieces that are whole, all of its batches, and what is gone for good.

Of hot and of cold segments the same is made, `Remains`, which is a segment to what writes them anew
(`rewriting.rewrite_as`): pieces that do not check are left out, and their positions are lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.log.coldsegment import ROW
from evtool.log.format import BATCH, EVENTS_FRAME, FRAME_HEADER_BYTES
from evtool.log.frame import PLACED_SCHEMA
from evtool.log.gone import DROPPED, ERASED, ID, LOST, Gone, followed, gone
from evtool.log.stripes import STORED_COLUMNS
from evtool.log.walk import Table

_WINDOW_EVENTS = 65_536

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class Pieces(Protocol):
    """Whatever gives the events of a piece, or raises LogDamagedError."""

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The events of a row as columns of PLACED_SCHEMA."""


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
    handed over with each; `summary` has what a summary says of its range. `earlier` are those that were gone.
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


@dataclass(frozen=True)
class Remains:
    """A segment to whoever writes it anew: what can be proved whole, in windows of whole batches."""

    folder: Path
    first_position: int
    last_position: int
    table: Table
    commits: np.ndarray[Any, Any]
    gone: Gone
    maps: Sequence[bytes]
    pieces: Pieces
    windows: Sequence[Table]
    lost: np.ndarray[Any, np.dtype[np.int64]]
    damages: tuple[Damage, ...]
    names: list[str]
    summary: Mapping[str, Any]

    is_sealed = True
    is_cold = True

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
        batches = [self.pieces.batch(piece, columns) for piece in self.windows[int(row["number"])]]
        schema = pa.schema([PLACED_SCHEMA.field(name) for name in batches[0].schema.names])
        tables = [pa.Table.from_batches([batch]).cast(schema) for batch in batches]
        return pa.concat_tables(tables).combine_chunks().to_batches()[0]

    def forget(self, rows: Table) -> None:
        """Nothing: pieces are few."""


def remains(known: Known) -> Remains:
    """Read all pieces, and keep those that are whole. Raises StorageError."""
    first, count = known.first_position, known.last_position - known.first_position + 1
    is_there = np.zeros(count, bool)
    whole = np.zeros(len(known.rows), bool)
    damages = list(known.damages)
    for number, row in enumerate(known.rows):
        try:
            positions = known.pieces.batch(row, STORED_COLUMNS)["position"].to_numpy()
            is_right = len(positions) == row["header"]["count"] and _are_new(positions - first, is_there)
        except LogDamagedError as error:
            damages.append(_of(known, row, error.what))
            continue
        if is_right:
            is_there[positions - first] = True
            whole[number] = True
        else:
            damages.append(_of(known, row, "its positions are not those of its segment"))
    lost, is_gone = _gone(known, is_there)
    windows = list(_windows(known, whole))
    return Remains(
        folder=known.folder,
        first_position=first,
        last_position=known.last_position,
        table=_table(windows),
        commits=known.batches,
        gone=is_gone,
        maps=known.maps,
        pieces=known.pieces,
        windows=windows,
        lost=lost,
        damages=tuple(damages),
        names=known.names,
        summary=_summary(known, len(lost)),
    )


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


def _gone(known: Known, is_there: Mask) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Gone]:
    """The positions that are lost now, and all that are gone, with those of before."""
    before = known.earlier
    is_left = is_there.copy()
    is_left[before.positions - known.first_position] = True
    lost = np.flatnonzero(~is_left) + known.first_position
    kinds = before.kinds.copy()
    # Of one that was erased and whose row went too, the id still counts: it is as if it had been dropped.
    kinds[(kinds == ERASED) & ~is_there[before.positions - known.first_position]] = DROPPED
    earlier = gone(before.positions, kinds, before.ids, *before.streams)
    nothing = np.zeros((len(lost), 2), np.uint64)
    now = gone(
        lost, np.full(len(lost), LOST, np.uint32), np.zeros(len(lost), ID), nothing, np.zeros(len(lost), np.int64)
    )
    return lost, followed(earlier, now)


def _windows(known: Known, whole: Mask) -> Iterator[Table]:
    """The whole pieces of consecutive batches, a few of them together; pieces of one group stay together."""
    rows = known.rows
    if not len(rows):
        return
    order = np.argsort(rows["header"]["batch"], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows["header"]["batch"][order])) + 1)
    gathered: list[int] = []
    events = 0
    for group in groups:
        kept = group[whole[group]]
        count = int(rows["header"]["count"][kept].sum(dtype=np.int64))
        if gathered and events + count > _WINDOW_EVENTS:
            yield rows[gathered]
            gathered, events = [], 0
        gathered += kept.tolist()
        events += count
    if gathered:
        yield rows[gathered]


def _table(windows: Sequence[Table]) -> Table:
    table = np.zeros(len(windows), ROW)
    for number, window in enumerate(windows):
        header, row = window["header"], table[number]
        row["offset"] = row["number"] = number
        into = row["header"]
        into["kind"], into["batch"] = EVENTS_FRAME, number
        into["count"] = header["count"].sum(dtype=np.int64)
        into["body_bytes"] = header["body_bytes"].sum(dtype=np.int64)
        into["first_position"], into["last_position"] = (
            header["first_position"].min(),
            header["last_position"].max(),
        )
        into["timestamp_min"], into["timestamp_max"] = (
            header["timestamp_min"].min(),
            header["timestamp_max"].max(),
        )
    return table


def _summary(known: Known, lost: int) -> dict[str, Any]:
    """What the summary of the new files says, but for these files."""
    batches = known.batches
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


def one_batch(first: int, last: int, recorded_at: int, identity: int) -> np.ndarray[Any, Any]:
    """A batch in the place of those of which nothing is known but the positions; `identity` vouches for it."""
    batch = np.zeros(1, BATCH)
    batch["base_position"], batch["base_recorded_at"] = first, recorded_at
    batch["count"], batch["checksum"] = last - first + 1, identity
    return batch
