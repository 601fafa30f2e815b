"""evtool: an event-sourced analytics platform in a folder.

    import evtool

    with evtool.open("segments", create=True) as log:
        event = {"event_id": "1", "source_id": "shop", "stream_id": "user-1", "event_type": "UserSignedIn"}
        log.append([event])
        for frame in log.scan(types=["UserSignedIn"]):
            print(frame)

Names are loaded on first use, so that `import evtool` (and every `evtool --help`) stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evtool.errors import EvtoolError
    from evtool.log.log import Log, open
    from evtool.log.selection import Selection
    from evtool.log.writer import Commit

__all__ = ["Commit", "EvtoolError", "Log", "Selection", "open"]

_HOMES = {
    "Commit": "evtool.log.writer",
    "EvtoolError": "evtool.errors",
    "Log": "evtool.log.log",
    "Selection": "evtool.log.selection",
    "open": "evtool.log.log",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time that it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'evtool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
