"""What to do about a read model that is damaged: the command that makes it again, or removes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evtool.config import Config
from evtool.errors import EvtoolError
from evtool.projections import catalogue, parameters
from evtool.projections.definition import Definition
from evtool.projections.places import is_promoted, versions
from evtool.projections.projection import command, of_log, placed


def advice(config: Config, root: Path, folder: Path, name: str, said: Mapping[str, Any]) -> str:
    """A sentence with the command that mends the read model `name` in a folder below `root`.

    `said` is its lineage, as it stands beside it; empty if that is damaged. What no definition makes any more,
    with these parameters, is to be removed.
    """
    model = folder.relative_to(root)
    try:
        found = _command(config, model, name, said)
    except EvtoolError:  # there is no definition, or none that could make anything
        found = None
    if found:
        return f"Make it again: {found}"
    drop = shlex.join(["evtool", "projections", "drop", model.as_posix(), *of_log(config)])
    if is_promoted(root, name) and len(model.parts) == 2 and len(versions(root, name)) > 1:
        return f"No definition makes it any more. Let another version serve if this one does, and drop it: {drop}"
    return f"No definition makes it any more. Drop it: {drop}"


def _command(config: Config, model: Path, name: str, said: Mapping[str, Any]) -> str | None:
    """The command that makes a read model anew; None if none does. Raises ProjectionError, ConfigError."""
    reference = str(said.get("reference") or name)
    if catalogue.is_object(reference):  # whose code is not run for this
        return command(config, reference, {}, "--full")
    definition = catalogue.find(reference, config.definitions_path)
    for changes in ({}, changed(config, definition, said.get("parameters") or {})):
        _, places = placed(definition, config, changes)
        if places.folder.relative_to(places.root) == model:
            return command(config, reference, changes, "--full")
    return None


def changed(config: Config, definition: Definition, values: Mapping[str, Any]) -> dict[str, str]:
    """What `--set` has to say for these values of parameters: those that are others than the configured ones.

    Raises ConfigError.
    """
    configured, _ = placed(definition, config, {})
    return {
        key: parameters.written(value)
        for key, value in values.items()
        if key not in configured.parameters or configured.parameters[key] != value
    }


def configured(config: Config, name: str) -> dict[str, Any]:
    """The values of parameters that a projection has by itself; none where there is no definition of it."""
    try:
        identity, _ = placed(catalogue.find(name, config.definitions_path), config, {})
    except EvtoolError:
        return {}
    return dict(identity.parameters)


def is_refreshed(config: Config, name: str, version: int) -> bool:
    """Whether there is a definition by which refreshes change this version; that of one elsewhere is not known."""
    known = catalogue.entries(config.definitions_path)
    try:
        return name not in known or known[name].read().version == version
    except EvtoolError:
        return False
