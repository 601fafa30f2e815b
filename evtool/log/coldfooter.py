"""The footer of a cold segment's Parquet file: what it says of columns, and where their chunks are.

It is read by its checksum, here or from the archive, and not before a column is asked for. Arrow is imported by
who parses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evtool.errors import LogDamagedError
from evtool.log.excerpt import Column, columns_of
from evtool.log.ranges import Piece, Ranges

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DAMAGE_HINT = "`evtool verify` shows all of the damage; `evtool repair` mends it, from a backup if it can."


class Footer:
    """The end of the events file, which is read and parsed once, by who needs it first; or one `made` for it."""

    def __init__(self, file: Ranges, summary: Mapping[str, Any], made: pq.FileMetaData | None = None) -> None:
        size = int(summary["footer_bytes"])
        self._file = file
        self._piece = Piece(int(summary["events_bytes"]) - size, size, int(summary["footer_checksum"]))
        self._made = made

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """What it says. Raises LogDamagedError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._made is not None:
            return self._made
        return pq.read_metadata(pa.BufferReader(pa.py_buffer(self.read())))

    def read(self) -> memoryview:
        """Its bytes, to the end of the file. Raises LogDamagedError."""
        (data,) = self._file.read([self._piece])
        if not self._piece.is_of(data):
            raise LogDamagedError(f"{self._file.place}: its footer does not match its checksum", DAMAGE_HINT)
        return data

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """The columns of the file."""
        return columns_of(self.metadata)
