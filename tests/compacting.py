"""Logs that are hot, cold or both, for tests of whoever reads or writes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from samples import segments

import evtool
from evtool.lifecycle.compact import Report, compact, estimate
from evtool.lifecycle.materialising import Chosen, canonical
from evtool.log import stripes

TARGET_BYTES = 1 << 30


def small_pieces() -> Any:
    """Let stripes and blocks be of few events."""
    return patch.multiple(stripes, STRIPE_EVENTS=1_000, BLOCK_EVENTS=700)


def estimated(folder: Path) -> Report:
    """What `compacted` would do."""
    with small_pieces(), evtool.open(folder) as log:
        return estimate(log, TARGET_BYTES)


def compacted(folder: Path, target_bytes: int = TARGET_BYTES, *materialise: str) -> Report:
    """Compact a log in stripes and blocks of few events, and close it."""
    with small_pieces(), evtool.open(folder) as log:
        return compact(log, target_bytes, Chosen(tuple(canonical(materialise, "--materialise"))))


def bring_to(folder: Path, state: str) -> None:
    """Make the sealed segments of a log "cold" one by one, "merged" into one, or "mixed": all but the first."""
    if state == "cold":
        compacted(folder, 0)
    elif state == "merged":
        compacted(folder)
    elif state == "mixed":
        first, kept = segments(folder)[0], folder.with_name("kept")
        shutil.copytree(first, kept)
        compacted(folder, 0)
        shutil.rmtree(first)
        shutil.move(kept, first)
