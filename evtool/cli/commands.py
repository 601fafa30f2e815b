"""The commands by name. Each is imported when it is asked for: a run takes one of them, the help takes all."""

from __future__ import annotations

import importlib
from collections import UserDict
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

# name -> the module below evtool.cli, and the function or the group of commands in it; in the order of the help
_HOMES = {
    "init": ("init", "init"),
    "ingest": ("ingest", "ingest"),
    "replay": ("replay", "replay"),
    "project": ("project", "project"),
    "explain": ("lineage", "explain"),
    "lineage": ("lineage", "lineage"),
    "stats": ("stats", "stats"),
    "verify": ("verify", "verify"),
    "inspect": ("inspect", "inspect"),
    "reindex": ("reindex", "reindex"),
    "compact": ("compact", "compact"),
    "repair": ("repair", "repair"),
    "retain": ("retain", "retain"),
    "erase": ("erase", "erase"),
    "archive": ("archive", "archive"),
    "nightly": ("nightly", "nightly"),
    "audit": ("audit", "audit"),
    "backup": ("backup", "app"),
    "restore": ("restore", "restore"),
    "projections": ("projections", "app"),
    "schema": ("schema", "schema"),
    "snapshot": ("snapshot", "app"),
    "dead-letters": ("deadletters", "app"),
}


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Found(_HOMES)


class _Found(UserDict[str, Any]):
    """Commands by name; a value is its home until it is looked at."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, tuple):
            found = self.data[name] = _load(name, *found)
        return found


def _load(name: str, module: str, attribute: str) -> Any:
    made = getattr(importlib.import_module(f"evtool.cli.{module}"), attribute)
    alone = typer.Typer()
    if isinstance(made, typer.Typer):
        alone.add_typer(made, name=name)
    else:
        alone.command(name)(made)
    return get_group(alone).commands[name]
