"""A few events, placed one by one: the same log as by columns, in every byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import check_sound, event

import evtool
from evtool.errors import EvtoolError
from evtool.log import writer as writer_module
from evtool.log.clock import RecordedClock
from evtool.log.format import FRAMES_FILE, INDEX_FILE, segment_name

Events = list[dict[str, Any]]
NOW_NS = 1_700_000_000_000_000_000
UUID = "7cbadfce-ad60-4a3e-8799-65df6ad78e3d"

some_events = st.builds(
    event,
    st.integers(0, 3),
    st.sampled_from(["user-1", "user-2", "é"]),
    event_id=st.sampled_from([UUID, UUID.upper(), "c" * 40, *map(str, range(30))]),
    source_id=st.sampled_from(["shop", "till"]),
    timestamp=st.sampled_from([None, 1_600_000_000, "2026-01-31T12:00:00.123Z", "2026-01-31T12:00:00.123456789Z"]),
    stream_version=st.sampled_from([None, None, None, 1, 2, 3]),
    metadata=st.sampled_from([None, '{"a":1}']),
)


def store(folder: Path, batches: list[Events], few: int) -> list[object]:
    """What became of each batch, in a log that places so many events one by one; its clock stands still."""
    outcomes: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "FEW", few)
        patch.setattr(writer_module, "RecordedClock", lambda last, _: RecordedClock(last, lambda: NOW_NS))
        with evtool.open(folder) as log:
            for batch in batches:
                try:
                    outcomes.append(log.append(batch))
                except EvtoolError as error:
                    outcomes.append((type(error), str(error)))
    return outcomes


@settings(max_examples=60)
@given(st.lists(st.lists(some_events, max_size=6), min_size=1, max_size=8))
def test_events_placed_one_by_one_leave_the_same_log_as_columns(batches: list[Events]):
    with TemporaryDirectory() as parent:
        few, columns = Path(parent) / "few", Path(parent) / "columns"
        evtool.open(few, create=True).close()
        shutil.copytree(few, columns)  # the id of a log is in its bytes
        assert store(few, batches, 32) == store(columns, batches, 0)
        for name in (FRAMES_FILE, INDEX_FILE):
            assert (few / segment_name(1) / name).read_bytes() == (columns / segment_name(1) / name).read_bytes()
        check_sound(few)
