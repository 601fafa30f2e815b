"""What differs between two JSON documents, by place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from evtool.schemas.assertions import identity
from evtool.schemas.document import pointer


@dataclass(frozen=True)
class Difference:
    """One place (JSON pointer) where two documents differ; what is absent on one side is None there."""

    path: str
    change: Literal["added", "removed", "changed"]
    old: Any
    new: Any


def differences(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> Iterator[Difference]:
    """The places in which two documents differ, in the order of the old one; what is equal as JSON does not."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            at = (*path, name)
            if name not in new:
                yield Difference(pointer(at), "removed", old[name], None)
            elif name not in old:
                yield Difference(pointer(at), "added", None, new[name])
            else:
                yield from differences(old[name], new[name], at)
    elif identity(old) != identity(new):
        yield Difference(pointer(path), "changed", old, new)
