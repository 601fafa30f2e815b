"""What a segment is to those who read events, however it is stored.

A segment gives rows, one for each piece of it that is read as a whole: a frame of a hot segment, a row group of a
cold one. A row has `offset`, where the piece starts in its file, and `header`, with at least the fields kind,
partition, batch, count, body_bytes, base_position, base_recorded_at, first_position, last_position,
timestamp_min and timestamp_max. Pieces of one `batch` hold consecutive positions together, and rows come in
order of it; in a cold segment it is a stripe of several batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evtool.log.streamindex import Hashes
from evtool.log.walk import Table

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from evtool.log.gone import Gone


_TOGETHER = 32  # pieces of a cold segment that are fetched at once, about a stripe


class SegmentView(Protocol):
    """The committed events of one segment, which never change, each byte checked before it is believed."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def path(self) -> Path | str:
        """The file that has its events, or the URL of its object in the archive."""

    @property
    def first_position(self) -> int:
        """Of its first event, and its name."""

    @property
    def last_position(self) -> int:
        """Of its last event; first_position - 1 when there is none."""

    @property
    def is_sealed(self) -> bool:
        """Whether nothing more will be appended to it."""

    @property
    def is_cold(self) -> bool:
        """Whether it is stored as Parquet."""

    @property
    def is_archived(self) -> bool:
        """Whether its events are in the archive, and not here."""

    @property
    def materialised(self) -> frozenset[str]:
        """Names of columns that hold the values at paths in payload and metadata, as texts; of no hot one."""

    @property
    def gone(self) -> Gone:
        """Events at some of its positions that it has not any more; of a hot one none."""

    @property
    def gone_counts(self) -> Mapping[str, int]:
        """How many of them went, by how they did; empty where none did. It is known without reading `gone`."""

    @property
    def table(self) -> Table:
        """All rows, those without events too."""

    @property
    def log_bytes(self) -> int:
        """Bytes that its events take."""

    @property
    def events_bytes(self) -> int:
        """Bytes of the file at `path`, as far as it is committed."""

    @property
    def commits(self) -> Any:
        """A record for each batch, in order: base_position, base_recorded_at, count, checksum (of its commit
        frame), timestamp_min, timestamp_max.
        """

    def producer_maps(self) -> Iterator[tuple[int, bytes]]:
        """What producers handed over with its batches, and the number of the batch from 0; the latest first."""

    def check_commits(self) -> None:
        """Raise LogDamagedError if what is stored of its batches is not as it was written."""

    def chain_at(self, position: int) -> int | None:
        """The checksum of the commit frame whose batch ends with a position; None if no batch does."""

    def recorded_at(self, position: int) -> int:
        """When the event at one of its positions was recorded, ns UTC."""

    def event_rows(self) -> Table:
        """The rows of pieces that hold events."""

    def rows_of(self, streams: Hashes) -> tuple[Table, bool]:
        """The rows of pieces that may hold some streams, and whether they were chosen by the index of streams."""

    def events(self, row: np.void, columns: Collection[str] | None = None) -> pl.DataFrame:
        """The events of a piece, asked columns only, in any order. Raises LogDamagedError."""

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The same as Arrow columns of PLACED_SCHEMA, in order of position if that is among the columns."""

    def together(
        self, rows: Table, columns: Collection[str], among: Mapping[str, pa.Array], is_likely: bool = False
    ) -> pa.Table:
        """The events of several pieces, of those whose texts are `among` some by column, piece by piece.

        Columns are of PLACED_SCHEMA or `materialised`; texts may be string views. Raises LogDamagedError.
        """

    def streams(self, row: np.void) -> list[bytes]:
        """The different streams of a piece, as UTF-8."""

    def fetched(self, rows: Table, columns: Collection[str]) -> SegmentView:
        """The same with these columns of these pieces at hand, and position; itself, if it is not archived."""

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these pieces took."""


def one_by_one(
    segment: SegmentView, rows: Table, columns: Collection[str]
) -> Iterator[tuple[SegmentView, np.void]]:
    """Each of some pieces, and the segment to read these columns of it from. Some are fetched at once."""
    for start in range(0, len(rows), _TOGETHER):
        some = rows[start : start + _TOGETHER]
        view = segment.fetched(some, columns)
        for row in some:
            yield view, row
