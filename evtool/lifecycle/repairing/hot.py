"""What is left of a hot segment: its frames, as frames.log and frames.idx together tell where they are.

A header is believed where it matches its checksum and its place: in frames.log behind the one before it, in
frames.idx at its offset. Behind a header that is damaged in both, frames are believed from where their chain leads
to one that is known, or to the end of the segment. Batches whose commit frames are damaged are told by their
neighbours: the frame behind a commit frame holds its checksum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evtool.errors import LogDamagedError
from evtool.files import forget
from evtool.lifecycle.repairing.remains import Damage, Known, one_batch
from evtool.log.format import (
    BATCH,
    BODY_BYTES_MAX,
    COMMIT_FRAME,
    EVENTS_FRAME,
    FORMAT_VERSION,
    FRAME_ALIGNMENT_BYTES,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAMES_FILE,
    INDEX_ROW,
    SEGMENT_HEADER_BYTES,
    checksum,
    is_whole,
    padded,
)
from evtool.log.gone import Gone
from evtool.log.walk import Table, header_checksum, segment_header

Rows = dict[int, bytes]  # offset -> header


@dataclass(frozen=True)
class Place:
    """Where a segment stands: what is known of it without its own files.

    `last_position` is of its last event, `digest` the checksum of its last header (None: not known),
    `recorded_after` the end of the segment before, and `end` how many bytes of frames.log were committed. Of the
    last segment, which may go on behind what HEAD tells, `last_position` is None, and `claimed` what HEAD tells.
    """

    log_id: bytes
    last_position: int | None
    digest: int | None
    previous_digest: int
    recorded_after: int
    last_batch_before: int
    end: int | None
    claimed: int = 0


@dataclass(frozen=True)
class Frames:
    """Frames by their headers, whose bodies are believed where they check."""

    folder: Path
    data: memoryview
    headers: Rows

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FRAMES_FILE

    def batch(self, row: np.void, columns: Collection[str] | None = None) -> pa.RecordBatch:
        """The events of a frame. Raises LogDamagedError."""
        from evtool.log import frame

        body = self.body(row)
        try:
            return frame.decode_batch(memoryview(body), row["header"], columns)
        except LogDamagedError as error:
            raise LogDamagedError(
                f"{self.path}: at byte {row['offset']}: {error.message}", "", error.what
            ) from error

    def forget(self, rows: Table) -> None:
        """Let go of the memory that reading these took."""
        if len(rows):
            last = rows[-1]
            end = int(last["offset"]) + FRAME_HEADER_BYTES + int(last["header"]["body_bytes"])
            forget(self.data, int(rows["offset"][0]), end)

    def body(self, row: np.void) -> memoryview:
        """The bytes of a body. Raises LogDamagedError."""
        start = int(row["offset"]) + FRAME_HEADER_BYTES
        body = self.data[start : start + int(row["header"]["body_bytes"])]
        if len(body) < int(row["header"]["body_bytes"]):
            raise LogDamagedError(f"{self.path}: it is cut off", "", "the file ends before it does")
        if checksum(body) != row["header"]["body_checksum"]:
            what = "its body does not match its checksum"
            raise LogDamagedError(f"{self.path}: {what}", "", what)
        return body


def known(
    folder: Path,
    first_position: int,
    data: memoryview,
    index: memoryview,
    summary: Mapping[str, Any] | None,
    place: Place,
) -> Known | None:
    """What is known of a hot segment; None where it is one in which nothing was acknowledged."""
    rows = _rows(data, index, summary, place, first_position)
    table = np.zeros(len(rows), INDEX_ROW)
    for number, (offset, header) in enumerate(sorted(rows.items())):
        table[number] = (offset, np.frombuffer(header, FRAME_HEADER)[0])
    ends = table["header"]["last_position"] <= (place.last_position or np.iinfo(np.int64).max)
    table = table[(table["header"]["base_position"] >= first_position) & ends]
    pieces = Frames(folder, data, rows)
    last = place.last_position
    if last is None:
        table = _acknowledged(pieces, table, place.claimed)
        last = max(int(table["header"]["last_position"][-1]) if len(table) else 0, place.claimed)
        if last < first_position:
            return None
    batches, maps, broken = _batches(pieces, table, first_position, last, place)
    events = table[table["header"]["kind"] == EVENTS_FRAME]
    return Known(
        folder=folder,
        first_position=first_position,
        last_position=last,
        pieces=pieces,
        rows=events,
        batches=batches,
        maps=maps,
        earlier=Gone.none(),
        summary=_told(table, batches, first_position, last, summary, place),
        damages=(*_headers(pieces, table, place), *broken),
    )


def _acknowledged(pieces: Frames, table: Table, claimed: int) -> Table:
    """Without what stands behind the last batch, and without that one if a crash can have torn it."""
    header = table["header"]
    commits = np.flatnonzero(header["kind"] == COMMIT_FRAME)
    if not len(commits):
        return table[header["last_position"] <= claimed]
    table = table[: int(commits[-1]) + 1]
    if int(table["header"]["last_position"][-1]) <= claimed:
        return table
    is_last = table["header"]["batch"] == table["header"]["batch"][-1]
    try:
        for row in table[is_last]:
            pieces.body(row)
    except LogDamagedError:
        table = table[~is_last]
    return table


def _told(
    table: Table,
    batches: np.ndarray[Any, Any],
    first_position: int,
    last_position: int,
    summary: Mapping[str, Any] | None,
    place: Place,
) -> dict[str, Any]:
    last_batch = int(table["header"]["batch"][-1]) if len(table) else place.last_batch_before + len(batches)
    digest = place.digest if place.digest is not None else int(batches["checksum"][-1])
    return {
        "version": FORMAT_VERSION,
        "log_id": place.log_id.hex(),
        "first_position": first_position,
        "last_position": last_position,
        "last_batch": int(summary["last_batch"]) if summary else last_batch,
        "recorded_at_min": int(batches["base_recorded_at"][0]),
        "recorded_at_max": int(batches["base_recorded_at"][-1]) + max(int(batches["count"][-1]), 1) - 1,
        "digest": digest,
        "previous_digest": place.previous_digest,
        "generation": 1,
    }


def _rows(
    data: memoryview, index: memoryview, summary: Mapping[str, Any] | None, place: Place, first_position: int
) -> Rows:
    """All headers that can be believed, by offset."""
    listed = _listed(data, index, summary)
    is_open = place.last_position is None or place.end is None
    end = max(place.end or 0, _end_of(listed), len(data)) if is_open else place.end or 0
    chain = header_checksum(memoryview(segment_header(place.log_id, first_position)))
    found: Rows = {}
    at: int = SEGMENT_HEADER_BYTES
    wanted: int | None = chain
    while at < end:
        header = _header_at(data, at)
        if header is None or (wanted is not None and _field(header, "chain") != wanted):
            header = listed.get(at)
        if header is None:
            at, header = _behind_hole(data, listed, at, end, place.digest)
            if header is None:
                break
        found[at] = header
        wanted = _field(header, "checksum")
        at += FRAME_HEADER_BYTES + padded(_field(header, "body_bytes"))
    return found


def _end_of(rows: Rows) -> int:
    return max(
        (at + FRAME_HEADER_BYTES + padded(_field(row, "body_bytes")) for at, row in rows.items()), default=0
    )


def _behind_hole(
    data: memoryview, listed: Rows, at: int, end: int, digest: int | None
) -> tuple[int, bytes | None]:
    """The first header behind a place where none can be believed."""
    known = min((offset for offset in listed if offset >= at), default=None)
    tail = bytes(data[at : end if known is None else known])
    place = tail.find(FRAME_MAGIC)
    while place >= 0:
        offset = at + place
        header = _header_at(data, offset) if offset % FRAME_ALIGNMENT_BYTES == 0 else None
        if header is not None and _leads(data, offset, header, listed, end, known, digest):
            return offset, header
        place = tail.find(FRAME_MAGIC, place + 1)
    return (end, None) if known is None else (known, listed[known])


def _leads(
    data: memoryview,
    offset: int,
    header: bytes,
    listed: Rows,
    end: int,
    known: int | None,
    digest: int | None,
) -> bool:
    """Whether the chain from a header leads to one that is known, or to the end of what was committed."""
    while True:
        chain = _field(header, "checksum")
        offset += FRAME_HEADER_BYTES + padded(_field(header, "body_bytes"))
        if offset == known:
            return _field(listed[offset], "chain") == chain
        if offset >= end:
            return offset == end and (digest is None or chain == digest)
        found = _header_at(data, offset)
        if found is None or _field(found, "chain") != chain:
            return False
        header = found


def _listed(data: memoryview, index: memoryview, summary: Mapping[str, Any] | None) -> Rows:
    """The headers in frames.idx that can be believed, by offset."""
    size = INDEX_ROW.itemsize
    index = index[: len(index) // size * size]
    if summary is not None and "index_checksum" in summary:
        index = index[: int(summary["frames"]) * size]
        if checksum(index) == summary["index_checksum"]:
            return {int(row["offset"]): row["header"].tobytes() for row in np.frombuffer(index, INDEX_ROW)}
    found: Rows = {}
    expected: int | None = SEGMENT_HEADER_BYTES
    for row in np.frombuffer(index, INDEX_ROW):
        header = row["header"].tobytes()
        offset = int(row["offset"])
        is_there = expected is not None or bytes(data[offset : offset + FRAME_HEADER_BYTES]) == header
        if not (is_whole(header) and is_there):
            expected = None
            continue
        offset = offset if expected is None else expected
        found[offset] = header
        expected = offset + FRAME_HEADER_BYTES + padded(_field(header, "body_bytes"))
    return found


def _header_at(data: memoryview, offset: int) -> bytes | None:
    raw = bytes(data[offset : offset + FRAME_HEADER_BYTES])
    if len(raw) < FRAME_HEADER_BYTES or raw[:4] != FRAME_MAGIC or not is_whole(raw):
        return None
    header = np.frombuffer(raw, FRAME_HEADER)[0]
    is_known = header["version"] == FORMAT_VERSION and header["kind"] in (EVENTS_FRAME, COMMIT_FRAME)
    return raw if is_known and header["body_bytes"] <= BODY_BYTES_MAX else None


def _field(header: bytes, name: str) -> int:
    return int(np.frombuffer(header, FRAME_HEADER)[0][name])


def _batches(
    pieces: Frames, table: Table, first: int, last: int, place: Place
) -> tuple[np.ndarray[Any, Any], list[bytes], list[Damage]]:
    """All batches of the segment without a gap, and what producers handed over with them."""
    records, maps, damages = [], [], list[Damage]()
    next_position, recorded_at = first, place.recorded_after + 1
    numbers, starts = np.unique(table["header"]["batch"], return_index=True)
    groups = [rows for rows in np.split(table, starts[1:]) if len(numbers)]
    for number, rows in enumerate(groups):
        base = int(rows["header"]["base_position"][0])
        if base > next_position:
            identity = int(rows["header"]["chain"][0])
            records.append(one_batch(next_position, base - 1, recorded_at, identity))
            maps.append(b"")
        following = groups[number + 1]["header"] if number + 1 < len(groups) else None
        record, body, wrong = _batch(pieces, rows, following, last, place.digest)
        damages += wrong
        records.append(record)
        maps.append(body)
        next_position = base + int(record["count"][0])
        recorded_at = int(record["base_recorded_at"][0]) + max(int(record["count"][0]), 1)
    if next_position <= last:
        records.append(one_batch(next_position, last, recorded_at, place.digest or 0))
        maps.append(b"")
    batches = np.concatenate(records)
    batches["map_bytes"] = [len(body) for body in maps]
    return batches, maps, damages


def _batch(
    pieces: Frames, rows: Table, following: Any, last: int, digest: int | None
) -> tuple[np.ndarray[Any, Any], bytes, list[Damage]]:
    """One batch by its frames; without its commit frame, by what the one behind it says."""
    header = rows["header"]
    record = np.zeros(1, BATCH)
    commits = rows[header["kind"] == COMMIT_FRAME]
    if len(commits):
        commit = commits[0]
        for name in ("base_position", "base_recorded_at", "timestamp_min", "timestamp_max", "checksum", "count"):
            record[name] = commit["header"][name]
        try:
            return record, bytes(pieces.body(commit)), []
        except LogDamagedError as error:
            start = int(commit["offset"])
            end = start + FRAME_HEADER_BYTES + int(commit["header"]["body_bytes"])
            what = f"a commit frame: {error.what}; where its producer had come to is lost"
            return record, b"", [Damage(str(pieces.path), what, start, end)]
    base = int(header["base_position"][0])
    behind = int(following["base_position"][0]) if following is not None else last + 1
    record["base_position"], record["base_recorded_at"] = base, header["base_recorded_at"][0]
    record["count"] = behind - base
    record["timestamp_min"], record["timestamp_max"] = header["timestamp_min"].min(), header["timestamp_max"].max()
    record["checksum"] = following["chain"][0] if following is not None else digest or 0
    return record, b"", []


def _headers(pieces: Frames, table: Table, place: Place) -> Iterator[Damage]:
    """Where frames.log does not have the headers, or anything, that must be there."""
    data, at = pieces.data, SEGMENT_HEADER_BYTES
    first = int(table["offset"][0]) if len(table) else at
    if bytes(data[:at]) != segment_header(place.log_id, pieces_first(pieces)):
        yield Damage(str(pieces.path), "its header is not as it was written", 0, min(at, len(data)))
    end = place.end if place.end is not None else len(data)
    for row in table:
        offset = int(row["offset"])
        if offset > at:
            yield Damage(str(pieces.path), "no frame can be made out", at, offset)
        if offset < len(data) and bytes(data[offset : offset + FRAME_HEADER_BYTES]) != row["header"].tobytes():
            yield Damage(
                str(pieces.path), "a frame header is not as it was written", offset, offset + FRAME_HEADER_BYTES
            )
        at = offset + FRAME_HEADER_BYTES + padded(int(row["header"]["body_bytes"]))
        body_end = offset + FRAME_HEADER_BYTES + int(row["header"]["body_bytes"])
        if any(data[body_end:at]):
            yield Damage(str(pieces.path), "padding is not zero", body_end, at)
    if min(end, len(data)) > at >= first:
        yield Damage(str(pieces.path), "no frame can be made out", at, min(end, len(data)))


def pieces_first(pieces: Frames) -> int:
    """The first position of the segment, by the name of its folder."""
    return int(pieces.folder.name)
