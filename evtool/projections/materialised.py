"""Columns of cold segments that hold the values at paths: their names, as users write them, and back.

    payload.user_id    payload.items[0].price    metadata["a.b"]

A column has what `extraction` finds at its path in the stored payload or metadata of each event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from evtool import jsontext
from evtool.errors import ConfigError
from evtool.ingest.mapping import field_of
from evtool.projections.language.expression import JsonPath

_ROOT = re.compile(r"(payload|metadata)(?=[.\[])\.?")
_PLAIN = re.compile(r'[^.\[\]"]+')


def path_of(name: str) -> JsonPath:
    """The path that a name means. Raises ConfigError."""
    match = _ROOT.match(name)
    if match is None:
        raise ConfigError(f"{name!r} is no path into payload or metadata")
    return JsonPath(match[1], field_of("event_type", name[match.end() :]).paths[0].steps)


def name_of(path: JsonPath) -> str | None:
    """The one name that a column of this path gets; None where no path of an object is."""
    if not path.steps or not isinstance(path.steps[0], str):
        return None
    name = path.root
    for step in path.steps:
        if isinstance(step, int):
            if not 0 <= step < 1_000_000_000:
                return None
            name += f"[{step}]"
        else:
            name += f".{step}" if _PLAIN.fullmatch(step) else f"[{jsontext.quote(step)}]"
    return name


@lru_cache(maxsize=64)
def paths_of(names: frozenset[str]) -> Mapping[JsonPath, str]:
    """The columns of these names by their paths; one of two that have the same."""
    return {path_of(name): name for name in sorted(names)}
