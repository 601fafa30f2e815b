"""What `verify` asks of what projections have made: read models, the states that refreshes go on from, snapshots.

All of it can be made again from the log. Others may refresh meanwhile: what is wrong is looked at again when what
describes it has become another one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evtool.config import Config
from evtool.errors import ProjectionError, StorageError
from evtool.files import Files, forget
from evtool.lifecycle.findings import Finding, stale
from evtool.projections import lineage, mending, places, record, snapshots
from evtool.projections.readmodel import place
from evtool.projections.store import CHECKPOINT_FILE, StateStore

_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 10
_VERSION = re.compile(r"v[1-9][0-9]{0,9}")
_OTHER_PARAMETERS = "with-*"


@dataclass
class Made:
    """How much of it there is, and what of it is damaged."""

    read_models: int = 0
    states: int = 0
    snapshots: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def tasks(
    files: Files, log_folder: Path, read_models: Path, is_fast: bool, config: Config
) -> Iterator[Callable[[], Made]]:
    """What there is to look at below the folder of read models, and in that of snapshots; with `is_fast`, at sizes
    only. `config` says which definitions there are, and with which parameters.
    """
    for folder in (read_models, log_folder / snapshots.FOLDER):
        yield functools.partial(_folder, folder)
    for folder in _folders(read_models):
        name = folder.relative_to(read_models).parts[0]
        hint = functools.partial(_advice, files, config, read_models, folder, name)
        yield functools.partial(_checked, files, folder, name, hint, is_fast)
    for folder in _listed(read_models):
        yield functools.partial(_promoted, read_models, folder)
    for folder in _listed(log_folder / snapshots.FOLDER):
        if folder.suffix != ".tmp":
            yield functools.partial(_snapshot, files, folder, is_fast)


def _advice(files: Files, config: Config, read_models: Path, folder: Path, name: str) -> str:
    said = next((each for each in lineage.beside(files, folder, name) if each), {})
    return mending.advice(config, read_models, folder, name, said)


def _folder(path: Path) -> Made:
    """Nothing of a folder. Raises NotADirectoryError if it is none."""
    with contextlib.suppress(FileNotFoundError), os.scandir(path):
        return Made()
    return Made()


def _promoted(read_models: Path, folder: Path) -> Made:
    try:
        places.promoted(read_models, folder.name)
    except ProjectionError as error:
        path = folder / places.PROMOTED_FILE
        return Made(findings=[stale(path, "it is not as it was written", error.hint)])
    return Made()


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _folders(read_models: Path) -> Iterator[Path]:
    """Those that may have a read model: of each version, and of other parameters."""
    for projection in _listed(read_models):
        for version in _listed(projection):
            if _VERSION.fullmatch(version.name):
                yield version
                yield from sorted(path for path in version.glob(_OTHER_PARAMETERS) if path.is_dir())


def _checked(files: Files, folder: Path, name: str, hint: Callable[[], str], is_fast: bool) -> Made:
    """A read model and its state; `hint` gives what to do where they are damaged."""
    made = Made()

    def look() -> list[tuple[Path, str]]:
        return list(_wrong(files, made, folder, name, is_fast))

    def described() -> Any:
        return lineage.beside(files, folder, name)

    is_there = place(folder, name).exists() or lineage.sidecar(folder, name).exists()
    made.read_models += is_there
    made.findings += [stale(path, what, hint()) for path, what in _settled(look, described)]
    state = folder / places.STATE_FOLDER
    if (state / CHECKPOINT_FILE).exists():
        made.states += 1
        made.findings += _state(files, state, hint, is_fast)
    return made


def _settled(look: Callable[[], list[tuple[Path, str]]], described: Callable[[], Any]) -> list[tuple[Path, str]]:
    """What is wrong when nobody changes it."""
    for _ in range(_ATTEMPTS):
        before = described()
        wrong = look()
        if not wrong or described() == before:
            break
    return wrong


def _wrong(files: Files, made: Made, folder: Path, name: str, is_fast: bool) -> Iterator[tuple[Path, str]]:
    target, described = place(folder, name), lineage.beside(files, folder, name)
    if not target.exists() and not lineage.sidecar(folder, name).exists():  # at most it is just being made
        return
    if not described:
        if target.exists():
            yield lineage.sidecar(folder, name), "it is missing, so nothing says what the read model is"
        return
    if not all(map(_is_described, described)):
        yield lineage.sidecar(folder, name), "it is not as it was written"
        return
    found = [list(_parts(files, made, folder, each["output"], is_fast)) for each in described]
    yield from min(found, key=len)  # while it is replaced one of two describes it


def _is_described(beside: Mapping[str, Any]) -> bool:
    try:
        lineage.Lineage.of(beside)
        output = beside["output"]
        parts = [output, *output.get("parts", [])]
        texts = [part[key] for part in parts for key in ("path", "sha256")]
        return all(isinstance(text, str) for text in texts) and all(type(part["bytes"]) is int for part in parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _parts(
    files: Files, made: Made, folder: Path, output: Mapping[str, Any], is_fast: bool
) -> Iterator[tuple[Path, str]]:
    """The files of a read model that are not what is said of them."""
    target = folder / output["path"]
    if "parts" in output and not target.exists():
        yield target, "it is missing"
    for part in output.get("parts", [output]):
        path = folder / str(output.get("folder", "")) / part["path"]
        try:
            data = files.map(path)
        except (FileNotFoundError, NotADirectoryError):
            yield path, "it is missing"
            continue
        except StorageError as error:
            yield path, error.message
            continue
        if len(data) != part["bytes"]:
            yield path, f"it has {len(data):,} bytes where {part['bytes']:,} were written"
        elif not is_fast:
            made.bytes += len(data)
            if _sha256(data) != part["sha256"]:
                yield path, "its bytes are not those that were written"


def _sha256(data: memoryview) -> str:
    state = hashlib.sha256()
    for start in range(0, len(data), _BLOCK_BYTES):
        state.update(data[start : start + _BLOCK_BYTES])
        forget(data, start, min(start + _BLOCK_BYTES, len(data)))
    return state.hexdigest()


def _state(files: Files, folder: Path, hint: Callable[[], str], is_fast: bool) -> list[Finding]:
    def look() -> list[tuple[Path, str]]:
        store = StateStore(files, folder)
        return (
            [(path, "it is missing") for path in store.paths() if not path.exists()]
            if is_fast
            else [*store.damage()]
        )

    def described() -> Any:
        return files.identity(folder / CHECKPOINT_FILE)

    return [stale(path, what, hint()) for path, what in _settled(look, described)]


def _snapshot(files: Files, folder: Path, is_fast: bool) -> Made:
    """A snapshot; one that goes meanwhile is none."""
    values = _record(files, folder)
    if values is None:
        path = folder / snapshots.RECORD_FILE
        found = Made(findings=[stale(path, "it is missing or not as it was written", f"Remove {folder}.")])
    else:
        name = str(values["projection"])
        found = _checked(files, folder, name, lambda: snapshots.advice(folder.name, name), is_fast)
    return Made(snapshots=1, bytes=found.bytes, findings=found.findings) if folder.is_dir() else Made()


def _record(files: Files, folder: Path) -> Mapping[str, Any] | None:
    try:
        values = record.decode(files.read_whole(folder / snapshots.RECORD_FILE))
    except FileNotFoundError:
        return None
    is_own = values is not None and "projection" in values and values.get("id") == folder.name
    return values if is_own else None
