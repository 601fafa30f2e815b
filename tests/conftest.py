"""What all tests share: how Hypothesis runs, and a folder for a log."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A failure prints the blob that brings it back; how long an example takes is not what is tested.
settings.register_profile(
    "evtool",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("evtool")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a log can be made; there is nothing yet."""
    return tmp_path / "segments"
