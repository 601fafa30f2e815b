"""Events that a cold segment does not have any more: what of them still counts.

An event that was dropped, erased or lost keeps its position. Of one that was dropped or erased its id still counts
as seen, and its stream_version as given, though neither the id nor the name of the stream is kept: of the id two
hashes of 64 bits, of the stream the key by which streams.table knows it. Of one that was lost nothing is known.

    runs     a record of RUN for each run of neighbours that are gone in the same way, in order of position
    ids      a record of ID for each of their events, one behind the other; zeros for one that was lost
    streams  an Arrow IPC stream, compressed: for each of them high and low of its stream's key, and its version

Runs and ids are looked up where they lie, as who sends events again asks for a few of very many. Arrow is imported
by who reads or writes streams: to count what is gone takes none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evtool.log.format import GONE_KINDS

if TYPE_CHECKING:
    from evtool.log.hashing import Hashes
    from evtool.log.versions import Keys

DROPPED, ERASED, LOST = 1, 2, 3  # by retention, on request, by damage
KIND_NAMES = dict(enumerate(GONE_KINDS, DROPPED))

RUN = np.dtype([("first_position", "<i8"), ("count", "<u4"), ("kind", "<u4")])
ID = np.dtype([("hash", "<u8"), ("check", "<u8")])

Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


@dataclass(frozen=True)
class Gone:
    """Events that are gone, in order of position: their positions as `runs`, `ids` and `streams` one by one.

    The views hold what they were read from.
    """

    runs: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]
    stream_bytes: memoryview

    @staticmethod
    @functools.cache
    def none() -> Gone:
        """Nothing is gone."""
        return Gone(np.zeros(0, RUN), np.zeros(0, ID), memoryview(b""))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> Positions:
        """Of all of them."""
        counts = self.runs["count"].astype(np.int64)
        starts = np.cumsum(counts) - counts
        found: Positions = np.arange(len(self.ids)) + np.repeat(self.runs["first_position"] - starts, counts)
        return found

    @property
    def kinds(self) -> np.ndarray[Any, Any]:
        """How each of them went."""
        return np.repeat(self.runs["kind"], self.runs["count"])

    @property
    def streams(self) -> tuple[Keys, Numbers]:
        """The key of each one's stream, and its version in it."""
        if not len(self.ids):
            return np.zeros((0, 2), np.uint64), np.zeros(0, np.int64)
        import pyarrow as pa

        batch = pa.ipc.open_stream(pa.py_buffer(self.stream_bytes)).read_next_batch()
        keys = np.stack([batch["high"].to_numpy(), batch["low"].to_numpy()], axis=1)
        return keys, batch["version"].to_numpy()

    @property
    def absent(self) -> int:
        """How many of them have no row in the segment: of an erased one, what is left stands in its place."""
        return int(self.runs["count"][self.runs["kind"] != ERASED].sum(dtype=np.int64))

    def absent_between(self, first: int, last: int) -> int:
        """How many of those are at the positions from `first` to `last`."""
        runs = self.runs[self.runs["kind"] != ERASED]
        ends = runs["first_position"] + runs["count"].astype(np.int64)
        overlap = np.minimum(ends, last + 1) - np.maximum(runs["first_position"], first)
        return int(np.maximum(overlap, 0).sum())

    def last_absent(self, last: int) -> int | None:
        """The last position up to `last` at which there is no row; None without any."""
        runs = self.runs[(self.runs["kind"] != ERASED) & (self.runs["first_position"] <= last)]
        return min(int(runs[-1]["first_position"]) + int(runs[-1]["count"]) - 1, last) if len(runs) else None

    def erased_between(self, first: int, last: int) -> int:
        """How many were erased of those at the positions from `first` to `last`."""
        positions = self.positions[self.kinds == ERASED]
        return int(np.count_nonzero((positions >= first) & (positions <= last)))

    def counts(self) -> dict[str, int]:
        """How many went in which way, by its name."""
        return {
            name: int(self.runs["count"][self.runs["kind"] == kind].sum(dtype=np.int64))
            for kind, name in KIND_NAMES.items()
        }

    def find(self, positions: Positions) -> Numbers:
        """The number of the event at each of some positions; -1 for one that is not gone."""
        if not len(self.runs):
            return np.full(len(positions), -1, np.int64)
        counts = self.runs["count"].astype(np.int64)
        run = np.searchsorted(self.runs["first_position"], positions, side="right") - 1
        into = positions - self.runs["first_position"][run]
        is_gone = (run >= 0) & (into < counts[run])
        return np.where(is_gone, (np.cumsum(counts) - counts)[run] + into, -1)

    def known(self) -> tuple[Positions, np.ndarray[Any, Any], Keys, Numbers]:
        """Of those that were not lost: positions, ids, keys of their streams, and versions in them."""
        is_known = self.kinds != LOST
        keys, versions = self.streams
        return self.positions[is_known], self.ids[is_known], keys[is_known], versions[is_known]

    def encode(self) -> bytes:
        """Its bytes in a file."""
        return self.runs.tobytes() + self.ids.tobytes() + bytes(self.stream_bytes)


def gone(
    positions: Positions, kinds: np.ndarray[Any, Any], ids: np.ndarray[Any, Any], keys: Keys, versions: Numbers
) -> Gone:
    """Of some events, in order of position, all that is kept."""
    if not len(positions):
        return Gone.none()
    import pyarrow as pa

    breaks = (np.diff(positions) != 1) | (np.diff(kinds) != 0)
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    runs = np.zeros(len(starts), RUN)
    runs["first_position"], runs["kind"] = positions[starts], kinds[starts]
    runs["count"] = np.diff(starts, append=len(positions))
    batch = pa.record_batch(
        [pa.array(keys[:, 0], pa.uint64()), pa.array(keys[:, 1], pa.uint64()), pa.array(versions, pa.int64())],
        ["high", "low", "version"],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return Gone(runs, ids, memoryview(sink.getvalue()))


def joined(parts: Sequence[Gone]) -> Gone:
    """All of several, whose events differ."""
    parts = [part for part in parts if len(part)]
    if len(parts) <= 1:
        return parts[0] if parts else Gone.none()
    positions = np.concatenate([part.positions for part in parts])
    is_in_order = bool((np.diff(positions) > 0).all())  # as where they are of one stripe after the other
    order = slice(None) if is_in_order else np.argsort(positions)
    streams = [part.streams for part in parts]
    return gone(
        positions[order],
        np.concatenate([part.kinds for part in parts])[order],
        np.concatenate([part.ids for part in parts])[order],
        np.concatenate([keys for keys, _ in streams])[order],
        np.concatenate([versions for _, versions in streams])[order],
    )


def followed(before: Gone, after: Gone) -> Gone:
    """What was gone before, and what went after that.

    Of an event in both, as one that was erased and is dropped now, the latter is how it went, and the former what
    it was.
    """
    places = before.find(after.positions)
    is_again = places >= 0
    if not is_again.any():
        return joined([before, after])
    kinds = before.kinds
    kinds[places[is_again]] = after.kinds[is_again]
    changed = gone(before.positions, kinds, before.ids, *before.streams)
    (keys, versions), is_new = after.streams, ~is_again
    rest = gone(after.positions[is_new], after.kinds[is_new], after.ids[is_new], keys[is_new], versions[is_new])
    return joined([changed, rest])


def decode(data: memoryview, runs: int, events: int) -> Gone:
    """What `encode` gave, of so many runs and events."""
    ends = runs * RUN.itemsize, runs * RUN.itemsize + events * ID.itemsize
    return Gone(np.frombuffer(data[: ends[0]], RUN), np.frombuffer(data[ends[0] : ends[1]], ID), data[ends[1] :])


def ids_of(hashes: Hashes, checks: Hashes) -> np.ndarray[Any, Any]:
    """Records of ID."""
    ids = np.zeros(len(hashes), ID)
    ids["hash"], ids["check"] = hashes, checks
    return ids
