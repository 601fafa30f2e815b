"""What `evtool project` loads before it answers: half of a short run is imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from compacting import bring_to
from projecting import purchase
from samples import config, frame, segments

import evtool
from evtool.log.sequence import SPLIT_EVENTS_MIN

_SHOW = "import sys; from evtool.cli.app import app; app(standalone_mode=False); print('\\nloaded', *sys.modules)"
# An answer that is there takes Polars and numpy. These take as long again, or are what writes and decodes events.
_NOT_TO_ANSWER = {
    "datasketches",
    "jsonschema_rs",
    "msgspec",
    "pyarrow",
    "sqlglot",
    "zstandard",
    "evtool.envelope",
    "evtool.jsontext",
    "evtool.log.appending",
    "evtool.log.caches",
    "evtool.log.frame",
    "evtool.log.scan",
    "evtool.log.writer",
    "evtool.projections.plan",
    "evtool.schemas.proposal",
    "evtool.schemas.validation",
}


def loaded(*arguments: str) -> set[str]:
    """The modules that a process has after it has run a command."""
    command = [sys.executable, "-c", _SHOW, *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1].startswith("loaded ")
    return set(lines[-1].split())


def test_a_refresh_loads_only_what_it_needs(tmp_path: Path):
    log = tmp_path / "log"
    with evtool.open(log, create=True, config=config(segment_bytes=1, fsync="never")) as opened:
        for first in (0, 400, 800):  # each begins a segment
            opened.append(frame([purchase(number) for number in range(first, first + 400)]))
    command = ["project", "revenue-by-product", "--log", str(log), "--format"]
    computing = loaded(*command, "csv")
    assert {"sqlglot", "evtool.log.scan"} < computing
    assert (
        not {"pandas", "evtool.log.writer", "jsonschema_rs"} & computing
    )  # pandas by Arrow, where it is installed: 0.18 s
    assert not _NOT_TO_ANSWER & loaded(*command, "csv")
    bring_to(log, "cold")
    assert any(segment.glob("*.parquet") for segment in segments(log))
    answering = loaded(*command, "table")
    assert not _NOT_TO_ANSWER & answering
    assert {"polars", "evtool.log.coldsegment"} < answering


def test_statistics_are_counted_without_polars(tmp_path: Path):
    log = tmp_path / "log"
    with evtool.open(log, create=True, config=config(partitions=1, fsync="never")) as opened:
        opened.append(frame([purchase(number) for number in range(SPLIT_EVENTS_MIN)]))  # no mixed partitions
    assert not {"polars", "pyarrow"} & loaded("stats", "--log", str(log))
