"""Which folder has what of a projection, which of its versions there are, and which one serves.

    read-models/<name>/promoted.json                 the version that serves, once one was promoted
    read-models/<name>/v<version>/                   its read model, with the lineage, and state/
    read-models/<name>/v<version>/with-<16 digits>/  the same for other parameters than the configured ones

As long as none was promoted, the highest version that has a read model serves. From the first promotion on a new
version is made beside the one that serves, until it is promoted too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evtool.errors import ProjectionError
from evtool.files import Files
from evtool.projections.definition import NAME
from evtool.projections.lineage import beside
from evtool.projections.readmodel import place

PROMOTED_FILE = "promoted.json"
STATE_FOLDER = "state"
LOCK_FILE = "lock"
OTHER_PARAMETERS = "with-"

_HASH = re.compile(r"[0-9a-f]{16,}")
_VERSION_FOLDER = re.compile(r"v([1-9][0-9]{0,9})")
_HASH_DIGITS = 16


@dataclass(frozen=True)
class Places:
    """The folders of one version of a projection below `root`, the folder of all read models.

    `parameters_hash` (hexadecimal digits) is given for other parameters than the configured ones. Raises
    ProjectionError for a name that is none.
    """

    root: Path
    name: str
    version: int
    parameters_hash: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.version < 1:
            raise ProjectionError(f"{self.name} can have no version {self.version}", "Versions count from 1.")
        if self.parameters_hash is not None and not _HASH.fullmatch(self.parameters_hash):
            raise ValueError(f"no hash of parameters: {self.parameters_hash!r}")

    @property
    def folder(self) -> Path:
        """Where the read model is."""
        folder = self.root / self.name / f"v{self.version}"
        return (
            folder
            if self.parameters_hash is None
            else folder / (OTHER_PARAMETERS + self.parameters_hash[:_HASH_DIGITS])
        )

    @property
    def state_folder(self) -> Path:
        """Where its state is."""
        return self.folder / STATE_FOLDER

    @property
    def read_model(self) -> Path:
        """The Parquet file, or the folder of its parts."""
        return place(self.folder, self.name)


def versions(root: Path, name: str) -> dict[int, Mapping[str, Any]]:
    """The versions that have a read model, rising, with what stands beside it (empty if that is damaged)."""
    _check_name(name)
    found: dict[int, Mapping[str, Any]] = {}
    for version in numbers(root / name):
        places = Places(root, name, version)
        if places.read_model.exists():
            found[version] = next(iter(beside(Files(), places.folder, name)), {})
    return found


def promoted(root: Path, name: str) -> int | None:
    """The version that serves; None if there is none.

    Raises ProjectionError if what says which one is damaged.
    """
    _check_name(name)
    path = root / name / PROMOTED_FILE
    try:
        version = json.loads(Files().read_whole(path))["version"]
    except (FileNotFoundError, NotADirectoryError):
        return max(versions(root, name), default=None)
    except (ValueError, KeyError, TypeError):
        version = None
    if type(version) is not int:
        raise ProjectionError(f"{path} is damaged", "Promote the version that shall serve again.")
    return version


def is_promoted(root: Path, name: str) -> bool:
    """Whether a version was chosen to serve; if not, the highest one does."""
    return (root / name / PROMOTED_FILE).exists()


def promote(files: Files, root: Path, name: str, version: int) -> None:
    """Let `version` serve from now on. Raises ProjectionError if it has no read model, StorageError."""
    there = versions(root, name)
    if version not in there:
        have = f"it has one of {', '.join(f'version {each}' for each in there)}" if there else "it has none at all"
        shows = "`evtool projections list` shows which projections there are."
        if there:
            shows = f"A definition makes its own version; `evtool projections kept {name}` shows all there are."
        raise ProjectionError(f"{name} has no read model of version {version} that could serve: {have}", shows)
    folder = root / name
    held = files.wait_for_lock(folder / LOCK_FILE)
    try:
        files.write_whole(folder / PROMOTED_FILE, json.dumps({"version": version}).encode() + b"\n")
    finally:
        held.release()


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ProjectionError(
            f"{name!r} is no name of a projection",
            "Names are 1 to 128 lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit.",
        )


def numbers(folder: Path) -> list[int]:
    """The versions that have a folder in that of a projection, rising."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _VERSION_FOLDER.fullmatch(path.name)))
