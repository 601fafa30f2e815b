"""Events that come again, in any order and over any number of openings: each is stored once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import check_sound, event, ids

import evtool

REOPEN = "reopen"
BATCH = st.lists(st.integers(1, 9), max_size=4)


@settings(max_examples=40)
@given(steps=st.lists(BATCH | st.just(REOPEN), max_size=12), is_resumed=st.booleans())
@example(steps=[[1], [1], [2], REOPEN, [2]], is_resumed=False)  # nothing of the second batch is new
@example(steps=[[1], [1], [2], REOPEN, [2]], is_resumed=True)  # ... and it is written all the same
def test_each_event_is_stored_once(steps: list[list[int] | str], is_resumed: bool):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "log")
        log = evtool.open(folder, create=True)
        known: list[str] = []
        for step in steps:
            if isinstance(step, str):
                log.close()
                log = evtool.open(folder)
                continue
            new = [f"e-{number}" for number in dict.fromkeys(step) if f"e-{number}" not in known]
            events = [event(number, event_id=f"e-{number}") for number in step]
            commit = log.append(events, resume={"step": 1} if is_resumed else None)
            assert (commit.count, commit.duplicates) == (len(new), len(step) - len(new))
            known += new
        log.close()
        assert ids(evtool.open(folder, read_only=True)) == known
        check_sound(folder)
