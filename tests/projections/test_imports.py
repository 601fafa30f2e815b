"""What `evtool project` loads before it answers: half of a short run is imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from projecting import make, purchase

_SHOW = "import sys; from evtool.cli.app import app; app(standalone_mode=False); print('\\nloaded', *sys.modules)"
_TO_COMPUTE = {"sqlglot", "datasketches", "pyarrow.parquet", "evtool.projections.plan"}


def loaded(log: Path) -> set[str]:
    """The modules that a process has after it has refreshed a projection by one type of event."""
    command = [sys.executable, "-c", _SHOW, "project", "revenue-by-product", "--log", str(log), "--format", "csv"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1].startswith("loaded ")
    return set(lines[-1].split())


def test_a_refresh_loads_only_what_it_needs(tmp_path: Path):
    log = make(tmp_path / "log", [[purchase(number) for number in range(400)]])
    computing, answering = loaded(log), loaded(log)
    assert "pandas" not in computing  # of which pyarrow makes use wherever it is installed, at 0.18 s
    assert "sqlglot" in computing
    assert not _TO_COMPUTE & answering
