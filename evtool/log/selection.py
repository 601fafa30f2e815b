"""Which events of a log are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evtool.log.format import MIXED_PARTITIONS
from evtool.log.partitions import partition_of, partitions_of
from evtool.log.walk import Table

if TYPE_CHECKING:  # a selection is named where nothing is read, too
    import polars as pl
    import pyarrow as pa

Clock = Literal["event", "recorded"]


@dataclass(frozen=True)
class Selection:
    """A part of a log; the default is all of it. Every start is included, every end excluded.

    start, end          positions
    since, until        ns UTC, of the event's timestamp or (`clock` "recorded") of recorded_at
    streams, types, sources, partitions    any of these; None for all
    """

    start: int | None = None
    end: int | None = None
    since: int | None = None
    until: int | None = None
    clock: Clock = "event"
    streams: frozenset[str] | None = None
    types: frozenset[str] | None = None
    sources: frozenset[str] | None = None
    partitions: frozenset[int] | None = None

    @staticmethod
    def of(
        *,
        streams: Iterable[str] | None = None,
        types: Iterable[str] | None = None,
        sources: Iterable[str] | None = None,
        partitions: Iterable[int] | None = None,
        **bounds: Any,
    ) -> Selection:
        """A selection from any iterables; an empty one selects nothing, None selects all."""
        return Selection(
            streams=_frozen(streams),
            types=_frozen(types),
            sources=_frozen(sources),
            partitions=_frozen(partitions),
            **bounds,
        )

    def prune(self, rows: Table, partitions: int) -> Table:
        """Those rows of INDEX_ROW whose frames may hold a selected event."""
        header = rows["header"]
        keep = np.ones(len(rows), bool)
        if self.start is not None:
            keep &= header["last_position"] >= self.start
        if self.end is not None:
            keep &= header["first_position"] < self.end
        first, last = _time_ranges(header, self.clock)
        if self.since is not None:
            keep &= last >= self.since
        if self.until is not None:
            keep &= first < self.until
        wanted = self._wanted_partitions(partitions)
        if wanted is not None:
            keep &= np.isin(header["partition"], [*wanted, MIXED_PARTITIONS])
        return rows[keep]

    def texts(self) -> dict[str, pa.Array]:
        """What is asked of text columns, by column: one of these."""
        import pyarrow as pa

        from evtool.log.frame import strings

        asked = {"stream_id": self.streams, "event_type": self.types, "source_id": self.sources}
        return {
            name: strings(sorted(texts)).cast(pa.string()) for name, texts in asked.items() if texts is not None
        }

    def columns(self) -> set[str]:
        """The columns that `apply` looks at."""
        looked_at = {
            "position": self.start is not None or self.end is not None,
            self._time_column: self.since is not None or self.until is not None,
            "stream_id": self.streams is not None or self.partitions is not None,
            "event_type": self.types is not None,
            "source_id": self.sources is not None,
        }
        return {name for name, is_looked_at in looked_at.items() if is_looked_at}

    def apply(self, events: pl.DataFrame, partitions: int) -> pl.DataFrame:
        """The selected rows of a frame of stored events that has at least `columns()`."""
        import polars as pl

        conditions = []
        for column, low, high in (
            ("position", self.start, self.end),
            (self._time_column, self.since, self.until),
        ):
            conditions += [pl.col(column) >= low] if low is not None else []
            conditions += [pl.col(column) < high] if high is not None else []
        for column, names in (
            ("stream_id", self.streams),
            ("event_type", self.types),
            ("source_id", self.sources),
        ):
            if names is not None:
                conditions.append(pl.col(column).is_in(sorted(names)))
        selected = events.filter(*conditions) if conditions else events
        return selected if self.partitions is None else self._of_partitions(selected, partitions)

    @property
    def _time_column(self) -> str:
        return "timestamp" if self.clock == "event" else "recorded_at"

    def _wanted_partitions(self, partitions: int) -> set[int] | None:
        wanted = None if self.partitions is None else set(self.partitions)
        if self.streams is not None:
            of_streams = {partition_of(stream, partitions) for stream in self.streams}
            wanted = of_streams if wanted is None else wanted & of_streams
        return wanted

    def _of_partitions(self, events: pl.DataFrame, partitions: int) -> pl.DataFrame:
        import polars as pl

        assert self.partitions is not None
        streams = events["stream_id"].unique()
        placed = partitions_of([stream.encode() for stream in streams.to_list()], partitions)
        chosen = streams.filter(pl.Series(np.isin(placed, list(self.partitions))))
        return events.filter(pl.col("stream_id").is_in(chosen.implode()))


def _time_ranges(header: Any, clock: Clock) -> tuple[Any, Any]:
    if clock == "event":
        return header["timestamp_min"], header["timestamp_max"]
    if "recorded_at_max" in (header.dtype.names or ()):  # of several batches
        return header["base_recorded_at"], header["recorded_at_max"]
    base = header["base_recorded_at"] - header["base_position"]
    return base + header["first_position"], base + header["last_position"]


def _frozen(values: Iterable[Any] | None) -> frozenset[Any] | None:
    if isinstance(values, str):
        raise TypeError(f"a list of names is wanted, not the text {values!r}")
    return None if values is None else frozenset(values)
