"""An erasure that is under way: erasing.msgpack in the log's folder, from its first change to its last.

It says which events, by their positions, and under which keys their streams are known and what these are called
from then on; which dead letters, by their ids; and which read models are to be made again. So none of what is
erased is in it. Who finds it finishes what it tells of, whatever ended the process that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from evtool.errors import LogDamagedError, LogFormatError
from evtool.files import Files
from evtool.lifecycle.erasing.choosing import Positions
from evtool.log.format import ERASING_FILE
from evtool.log.manifest import Manifest
from evtool.log.versions import stream_keys
from evtool.projections import record

FORMAT = 1


@dataclass(frozen=True)
class Pending:
    """What is to be done: events at `positions` erased (in order), `names` given to streams, by their keys.

    `letters` are ids of dead letters. Read models and snapshots go that have reached `first` (None: no event
    goes), or are `lost`, by their ids; `again` is what is refreshed at the end. `counts` and `details` are for the
    record that is kept of it.
    """

    positions: Positions
    names: Mapping[bytes, str]
    letters: frozenset[str]
    first: int | None
    lost: frozenset[str]
    again: tuple[str, ...]
    counts: Mapping[str, int]
    details: Mapping[str, str]

    def name_of(self, stream: str) -> str:
        """What a stream is called from now on."""
        return self.names.get(stream_keys([stream.encode()])[0].tobytes(), stream)


def is_there(folder: Path) -> bool:
    """Whether an erasure of the log in a folder was cut short, or is under way."""
    return (folder / ERASING_FILE).exists()


def write(files: Files, folder: Path, manifest: Manifest, pending: Pending) -> None:
    """Begin: from now on it will be done. Raises StorageError."""
    steps = np.diff(pending.positions, prepend=0).astype("<i8").tobytes()
    values = {
        "format": FORMAT,
        "log_id": manifest.id,
        "positions": zstandard.ZstdCompressor().compress(steps),
        "names": [[key, name] for key, name in pending.names.items()],
        "letters": sorted(pending.letters),
        "first": pending.first,
        "lost": sorted(pending.lost),
        "again": list(pending.again),
        "counts": dict(pending.counts),
        "details": dict(pending.details),
    }
    files.write_whole(folder / ERASING_FILE, record.encode(values))


def read(files: Files, folder: Path, manifest: Manifest) -> Pending | None:
    """What was begun; None if nothing is under way. Raises LogDamagedError, LogFormatError, StorageError."""
    path = folder / ERASING_FILE
    files.remove(path.with_name(path.name + ".tmp"))
    try:
        values: dict[str, Any] | None = record.decode(files.read_whole(path))
    except FileNotFoundError:
        return None
    if values is None or values.get("log_id") != manifest.id:
        what = "is damaged" if values is None else "is of another log"
        raise LogDamagedError(
            f"{path} {what}: what was to be erased is not known any more",
            "Remove it, and say once more what is to be erased.",
        )
    if values["format"] != FORMAT:
        raise LogFormatError(f"{path} was written by a newer evtool", "pip install --upgrade evtool")
    steps = np.frombuffer(zstandard.ZstdDecompressor().decompress(values["positions"]), "<i8")
    return Pending(
        positions=np.cumsum(steps),
        names=dict(values["names"]),
        letters=frozenset(values["letters"]),
        first=values["first"],
        lost=frozenset(values["lost"]),
        again=tuple(values["again"]),
        counts=values["counts"],
        details=values["details"],
    )


def remove(files: Files, folder: Path) -> None:
    """End: all of it is done. Raises StorageError."""
    files.remove(folder / ERASING_FILE)
    files.sync_folder(folder)
