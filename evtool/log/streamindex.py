"""streams.idx of a sealed segment: which of its frames hold a stream, looked up without reading them.

An entry is 32 bits: the number of a frame in the lower ones, as many as the frames need, and above them bits of
a stream's hash. Entries lie in pages by the upper half of the hash. A directory in front of them has the end and
the checksum of each, so that a look-up reads one page, and believes nothing that has changed: where an end has,
the checksum is that of other entries.
Another stream may look the same; then a frame is read in vain. A stream of the segment is always found.

The file is bound to its segment by the checksum that ends the chain of its frames.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from evtool.errors import StorageError
from evtool.files import Files
from evtool.log.format import STREAMS_FILE, STREAMS_MAGIC, checksum, is_whole, seal
from evtool.log.versions import stream_keys
from evtool.log.walk import Table

# A page is as little as is worth a checksum.
PAGE_ENTRIES = 256

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("log_id", "V16"),
        ("first_position", "<i8"),
        ("digest", "<u8"),  # header checksum of the segment's last frame
        ("frames", "<u8"),
        ("pages", "<u8"),
        ("entries", "<u8"),
        ("checksum", "<u8"),  # of the 64 bytes before it
    ]
)
PAGE = np.dtype([("end", "<u8"), ("checksum", "<u8")])  # the entries up to its last one; of its bytes
PAIR = np.dtype([("hash", "<u8"), ("frame", "<u4")])

_ENTRY = np.dtype("<u4")
_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)

Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
Pairs: TypeAlias = "np.ndarray[Any, Any]"  # of PAIR
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def stream_hashes(streams: Collection[str]) -> Hashes:
    """What some streams are looked up by: half of their keys in streams.table."""
    hashes: Hashes = stream_keys([stream.encode() for stream in streams])[:, 0]
    return hashes


def encode(pairs: Pairs, log_id: bytes, first_position: int, table: Table) -> bytes:
    """The file for a segment with these frames (commit frames too) and these pairs of stream and frame.

    The same pairs in any order give the same bytes.
    """
    page_count = max(1, len(pairs) // PAGE_ENTRIES)
    frame_bits = _frame_bits(len(table))
    entry = (pairs["hash"] << frame_bits | pairs["frame"]) & _LOWER
    ordered = np.sort(_page_of(pairs["hash"], page_count) << _HALF | entry)
    entries = ordered.astype(_ENTRY)
    directory = np.zeros(page_count, PAGE)
    directory["end"] = np.searchsorted(ordered, np.arange(1, page_count + 1, dtype=np.uint64) << _HALF)
    data, end = entries.tobytes(), 0
    for number, stop in enumerate((directory["end"] * np.uint64(_ENTRY.itemsize)).tolist()):
        directory["checksum"][number] = checksum(data[end:stop])
        end = stop
    header = np.zeros(1, HEADER)
    header["magic"], header["log_id"], header["first_position"] = STREAMS_MAGIC, log_id, first_position
    header["digest"], header["frames"] = _digest(table), len(table)
    header["pages"], header["entries"] = page_count, len(entries)
    return seal(header) + directory.tobytes() + data


@dataclass(frozen=True)
class StreamIndex:
    """The streams.idx of a segment of `frames` frames, mapped."""

    frames: int
    directory: np.ndarray[Any, Any]
    entries: memoryview

    def frames_of(self, hashes: Hashes) -> Numbers | None:
        """The numbers of the frames that may hold some streams, rising; None if the file is damaged there."""
        bits = _frame_bits(self.frames)
        wanted_page, wanted = _page_of(hashes, len(self.directory)), (hashes << bits & _LOWER) >> bits
        order = np.argsort(wanted_page)
        pages, starts = np.unique(wanted_page[order], return_index=True)
        found = [np.zeros(0, np.int64)]
        for page, chosen in zip(pages.tolist(), np.split(wanted[order], starts[1:]), strict=False):
            entries = self._page(page)
            if entries is None:
                return None
            same = entries[np.isin(entries >> bits, chosen)]
            found.append((same & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64))
        numbers = np.sort(np.concatenate(found))
        return numbers[np.diff(numbers, prepend=-1) > 0]

    def is_whole(self) -> bool:
        """Whether all of it is as it was written."""
        return all(self._page(number) is not None for number in range(len(self.directory)))

    def _page(self, number: int) -> Hashes | None:
        start = int(self.directory["end"][number - 1]) if number else 0
        end = int(self.directory["end"][number])
        data = self.entries[start * _ENTRY.itemsize : end * _ENTRY.itemsize]
        if checksum(data) != self.directory["checksum"][number]:
            return None
        return np.frombuffer(data, _ENTRY).astype(np.uint64)


def read(files: Files, folder: Path, log_id: bytes, first_position: int, table: Table) -> StreamIndex | None:
    """The index of the sealed segment in `folder` with these frames; None if there is none that is its own."""
    try:
        data = files.map(folder / STREAMS_FILE)
    except (FileNotFoundError, StorageError):  # it is worth time, and nothing else
        return None
    return of(data, log_id, first_position, table)


def of(data: memoryview, log_id: bytes, first_position: int, table: Table) -> StreamIndex | None:
    """The index that some bytes are, if it is that of the segment with these frames."""
    if len(data) < HEADER.itemsize or data[:8] != STREAMS_MAGIC or not is_whole(data[: HEADER.itemsize]):
        return None
    header = np.frombuffer(data[: HEADER.itemsize], HEADER)[0]
    told = (
        header["log_id"].tobytes(),
        int(header["first_position"]),
        int(header["digest"]),
        int(header["frames"]),
    )
    if told != (log_id, first_position, _digest(table), len(table)):
        return None
    pages, entries = int(header["pages"]), int(header["entries"])
    start = HEADER.itemsize + pages * PAGE.itemsize
    if pages < 1 or len(data) != start + entries * _ENTRY.itemsize:
        return None
    return StreamIndex(len(table), np.frombuffer(data[HEADER.itemsize : start], PAGE), data[start:])


def _digest(table: Table) -> int:
    return int(table["header"]["checksum"][-1]) if len(table) else 0


def _frame_bits(frames: int) -> np.uint64:
    return np.uint64(max(frames - 1, 0).bit_length())


def _page_of(hashes: Hashes, pages: int) -> Hashes:
    number: Hashes = (hashes >> _HALF) * np.uint64(pages) >> _HALF
    return number
