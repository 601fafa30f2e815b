"""log.json: what a log is, written once when it is made."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from evtool.errors import LogDamagedError, LogExistsError, LogFormatError, LogNotFoundError
from evtool.files import Files, translated
from evtool.log.format import FORMAT_VERSION, LOG_FILE, RESTORE_FILE, parse_segment_name

_KIND = "evtool log"
# May stand in a folder before it becomes a log: notes about it, and what a file manager leaves.
HARMLESS = {"README.md", ".gitignore", ".gitkeep", ".DS_Store", "lost+found"}

_UNFINISHED = re.compile(re.escape(LOG_FILE) + r"(\.[0-9a-f]+)?\.tmp")


@dataclass(frozen=True)
class Manifest:
    """The identity of a log (32 hexadecimal digits), its format version and its number of partitions."""

    id: str
    version: int
    partitions: int
    created_at: str
    format: str = _KIND

    @property
    def id_bytes(self) -> bytes:
        """The identity as the 16 bytes that segment headers carry."""
        return bytes.fromhex(self.id)


def create(files: Files, folder: Path, partitions: int) -> Manifest:
    """Make `folder` a log. Raises LogExistsError when it is one or holds something else."""
    try:
        files.make_folder(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise LogExistsError(f"{folder} is a file, not a folder") from error
    names = {entry.name for entry in folder.iterdir()}
    # It is the first file of a log: if another process makes one now, it is there before the others are.
    if exists(folder):
        raise _in_the_way(folder)
    if RESTORE_FILE in names:
        raise LogExistsError(*_restore_cut_short(folder))
    strangers = sorted(name for name in names - HARMLESS if not _UNFINISHED.fullmatch(name))
    if any(parse_segment_name(name) is not None for name in strangers):
        raise LogDamagedError(
            f"{folder} holds segments but no {LOG_FILE}",
            "`evtool repair --from URL` brings it back from a backup; without it nothing is written here.",
        )
    if strangers:
        raise LogExistsError(
            f"{folder} is not empty: it holds {strangers[0]!r}", "Name an empty or a new folder for the log."
        )
    now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    manifest = Manifest(id=uuid.uuid4().hex, version=FORMAT_VERSION, partitions=partitions, created_at=now)
    try:
        files.create_whole(folder / LOG_FILE, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
    except FileExistsError as error:
        raise _in_the_way(folder) from error
    return manifest


def exists(folder: Path) -> bool:
    """Whether `folder` is a log. Raises StorageError when that cannot be told."""
    with translated("look at", folder):
        return (folder / LOG_FILE).exists()


def _in_the_way(folder: Path) -> LogExistsError:
    return LogExistsError(f"there is a log in {folder} already", "Use it, or name another folder.")


def _restore_cut_short(folder: Path) -> tuple[str, str]:
    return (
        f"{folder} is no log yet: a restore was cut short",
        "Run the same `evtool restore` again: it begins anew.",
    )


def read(files: Files, folder: Path) -> Manifest:
    """The manifest of the log in `folder`.

    Raises LogNotFoundError, LogFormatError (a newer evtool wrote it) or LogDamagedError.
    """
    path = folder / LOG_FILE
    try:
        data = files.read_whole(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if files.size(folder / RESTORE_FILE):
            raise LogNotFoundError(*_restore_cut_short(folder)) from error
        hint = "Make one with `evtool init` or by ingesting into it, or name another with --log."
        raise LogNotFoundError(f"there is no log in {folder}", hint) from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> Manifest:
    """The manifest that the bytes of a log.json are. Raises LogFormatError, LogDamagedError."""
    try:
        table = json.loads(data)
        if table["format"] != _KIND:
            raise ValueError(f"format is {table['format']!r}")
        if table["version"] > FORMAT_VERSION:
            raise LogFormatError(
                f"{path.parent} has format version {table['version']}; this evtool reads up to {FORMAT_VERSION}",
                "Install a newer evtool: pip install --upgrade evtool",
            )
        manifest = Manifest(
            id=table["id"],
            version=table["version"],
            partitions=table["partitions"],
            created_at=table["created_at"],
        )
        if len(manifest.id_bytes) != 16 or not 1 <= manifest.partitions <= 1024:
            raise ValueError("its values make no sense")
    except (ValueError, KeyError, TypeError) as error:
        what = f"it has no key {error}" if isinstance(error, KeyError) else str(error)
        raise LogDamagedError(
            f"{path} is damaged: {what}",
            "`evtool repair` brings it back; it never changes after a log is made.",
        ) from error
    return manifest
