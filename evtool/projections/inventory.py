"""Which read models are kept, of every projection, version and set of parameters; and one of them removed.

A read model is named by its folder below that of all of them: `orders/v1`, or `orders/v1/with-0123456789abcdef`
for other parameters than the configured ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evtool.errors import ProjectionError
from evtool.files import Files
from evtool.projections.definition import NAME
from evtool.projections.lineage import beside, names_beside
from evtool.projections.places import (
    LOCK_FILE,
    OTHER_PARAMETERS,
    PROMOTED_FILE,
    STATE_FOLDER,
    numbers,
    promoted,
    versions,
)


@dataclass(frozen=True)
class Kept:
    """One read model with its state. `lineage` is what stands beside it; empty if that is damaged or missing.

    `serves` says whether it is the one that its projection answers from.
    """

    id: str
    name: str
    version: int
    folder: Path
    bytes: int
    lineage: Mapping[str, Any]
    serves: bool


def kept(root: Path, name: str | None = None) -> list[Kept]:
    """The read models of one projection, or of all, by name and version. Raises ProjectionError, StorageError."""
    names = [name] if name is not None else []
    if name is None and root.is_dir():
        names = sorted(path.name for path in root.iterdir() if NAME.fullmatch(path.name))
    return [found for each in names for found in _of_projection(root, each)]


def find(root: Path, wanted: str) -> Kept:
    """The read model of this id. Raises ProjectionError."""
    known = {each.id: each for each in kept(root)}
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ProjectionError(
            f"there is no read model {wanted!r}", f"{hint}`evtool projections kept` shows all of them."
        )
    return known[wanted]


def drop(files: Files, root: Path, model: Kept) -> None:
    """Remove a read model and its state; the log can give both again.

    Raises ProjectionError for the one that was promoted, StorageError. What says that it is there goes first, so
    that an end at any moment leaves one that is whole, or is made anew.
    """
    promotion = root / model.name / PROMOTED_FILE
    if promotion.exists() and model.serves:
        if len(versions(root, model.name)) > 1:
            raise ProjectionError(
                f"version {model.version} of {model.name} is the one that serves",
                "Promote another version first, and drop this one then.",
            )
        files.remove(promotion)  # the last one goes: there is nothing else that could serve
    clear(files, model)


def clear(files: Files, model: Kept) -> None:
    """Remove what there is of a read model and its state, whichever serves. Raises StorageError."""
    state = model.folder / STATE_FOLDER
    files.make_folder(state)
    held = files.wait_for_lock(state / LOCK_FILE)
    try:
        said = [path for path in _own(model.folder) if path.name in names_beside(model.name)]
        for path in [*said, *_own(model.folder), *_own(state)]:
            if path.is_dir() and not path.is_symlink():
                files.remove_folder(path)
            else:
                files.remove(path)
    finally:
        held.release()


def _of_projection(root: Path, name: str) -> Iterator[Kept]:
    serving = promoted(root, name)
    for version in numbers(root / name):
        folder = root / name / f"v{version}"
        for each in (folder, *sorted(path for path in folder.iterdir() if _is_other(path))):
            paths = [*_own(each), *_own(each / STATE_FOLDER)]
            if paths:
                yield Kept(
                    id=each.relative_to(root).as_posix(),
                    name=name,
                    version=version,
                    folder=each,
                    bytes=sum(_bytes(path) for path in paths),
                    lineage=next(iter(beside(Files(), each, name)), {}),
                    serves=each == folder and version == serving,
                )


def _own(folder: Path) -> list[Path]:
    """What is in a folder, but its state, read models of other parameters, and a lock somebody may wait for."""
    if not folder.is_dir():
        return []
    apart = (STATE_FOLDER, LOCK_FILE)
    return [path for path in folder.iterdir() if path.name not in apart and not _is_other(path)]


def _is_other(path: Path) -> bool:
    return path.name.startswith(OTHER_PARAMETERS) and path.is_dir()


def _bytes(path: Path) -> int:
    if path.is_symlink():  # to a folder that is counted by itself
        return 0
    return Files().folder_size(path) if path.is_dir() else Files().size(path)
