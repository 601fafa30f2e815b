"""A process that adds schemas to a registry: python adding.py LOG_FOLDER NAME COUNT SHARED_TYPE.

It adds COUNT versions to a type of its own, and as many to a type that other processes add to as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evtool.files import Files
from evtool.schemas import document
from evtool.schemas.registry import Registry


def main(folder: str, name: str, count: str, shared: str) -> None:
    """Add them, and say each."""
    registry = Registry(Files(), Path(folder))
    for number in range(int(count)):
        for event_type in (name, shared):
            text = f'{{"title":"{name}-{number}"}}'
            added = registry.add(event_type, document.parse(text), compatibility="none")
            print(event_type, added.schema.version, text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
