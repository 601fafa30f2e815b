"""HEAD: how far the log is committed and acknowledged, in 64 bytes that readers map.

The writer stores it after the sync of each batch, so a reader that believes it never sees a batch that
a power cut could take back. It is a hint all the same: it is not synced, so one that was written in
another boot of the machine, or does not match its checksum, is not believed and frames.log is walked.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from evtool.files import Files, boot_identity, translated
from evtool.log.format import FORMAT_VERSION, HEAD_FILE, HEAD_MAGIC, HEAD_RECORD, is_whole, seal

_ATTEMPTS = 100  # a reader that meets a store in progress just looks again


@dataclass(frozen=True)
class Head:
    """The last commit: its last position, where it ends in which segment, its last recorded_at (ns)."""

    position: int
    segment: int
    log_bytes: int
    frames: int
    recorded_at: int
    boot: int
    is_synced: int

    @property
    def is_claim(self) -> bool:
        """Whether what it tells of must be there: it was synced, or no power cut can have taken it."""
        return bool(self.is_synced) or self.is_of_this_boot

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the page cache that holds what it tells of is still the one it was written in."""
        return self.boot != 0 and self.boot == boot_identity()


class HeadFile:
    """The mapped HEAD of a log, for its writer."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._path = folder / HEAD_FILE
        self._map = files.map_writable(self._path, HEAD_RECORD.itemsize)

    def store(
        self, position: int, segment: int, log_bytes: int, frames: int, recorded_at: int, is_synced: bool
    ) -> None:
        """Let readers see everything up to `position`."""
        record = np.zeros(1, HEAD_RECORD)
        place = (position, segment, log_bytes, frames, recorded_at)
        record[0] = (HEAD_MAGIC, FORMAT_VERSION, is_synced, *place, boot_identity(), 0)
        self._map[:] = seal(record)

    def sync(self) -> None:
        """Bring it to stable storage. Raises StorageError."""
        with translated("sync", self._path):
            self._map.flush()

    def close(self) -> None:
        """Unmap it."""
        self._map.close()


def read(files: Files, folder: Path) -> Head | None:
    """The HEAD of a log; None when it is absent or damaged."""
    for _ in range(_ATTEMPTS):
        try:
            data = files.read_whole(folder / HEAD_FILE)
        except FileNotFoundError:
            return None
        if len(data) == HEAD_RECORD.itemsize and data[:4] == HEAD_MAGIC and is_whole(data):
            record = np.frombuffer(data, HEAD_RECORD)[0]
            if record["version"] != FORMAT_VERSION:
                return None
            return Head(*(int(record[item.name]) for item in fields(Head)))
    return None
