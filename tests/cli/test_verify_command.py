"""`evtool verify`: what it says to people and to programs, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import lines
from faults import flip
from within import failed, run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a log of 20 events in two batches."""
    for start in (0, 10):
        run("ingest", cwd=tmp_path, stdin=lines(*range(start, start + 10)))
    return tmp_path


def facts(text: bytes) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.decode().splitlines()}


def as_json(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run("verify", "--json", *arguments, cwd=folder, code=code)
    assert done.stderr == b""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    assert found["exit_code"] == code
    return found


def test_a_whole_log_is_told_from_what_was_looked_at_in_haste(here: Path):
    whole, fast = facts(run("verify", cwd=here).stdout), facts(run("verify", "--fast", cwd=here).stdout)
    assert (whole["checked"], whole["result"], len(whole["digest"])) == ("every byte", "clean", 32)
    assert fast["checked"] == "headers, summaries, sizes and indexes; no event was read"
    assert (fast["digest"], fast["result"]) == ("none: not every event was read", "clean")
    assert (whole["events"], fast["events"]) == ("20", "20, counted by headers")
    assert (whole["beside"], fast["beside"]) == ("20 ids, 5 streams", "20 ids, 5 streams")
    assert as_json(here)["mode"] == "full"
    assert (as_json(here, "--fast")["mode"], as_json(here, "--fast")["digest"]) == ("fast", None)


def test_every_finding_has_its_place_and_what_to_do(here: Path):
    (path,) = (here / "segments").glob("0*/frames.log")
    flip(path, 400)
    flip(here / "segments" / "index" / "ids.table", 3)
    (here / "segments" / "index" / "sources.msgpack").unlink()
    told = run("verify", cwd=here, code=14)
    assert told.stdout.decode().splitlines()[-1].split() == ["result", "2", "findings"]
    assert told.stderr.decode().splitlines() == [
        "segments/00000000000000000001/frames.log: damaged: frame 0 at byte 64 (positions 1 to 10): "
        "its body does not match its checksum",
        "  `evtool repair` mends it from a backup, or keeps the rest of it; other segments are not affected.",
        "segments/index/ids.table: damaged, can be made again: it is no table of this log, or has changed",
        "  It is only a cache: the next writer, or `evtool reindex`, makes it again.",
        "segments/index/sources.msgpack: note: it is missing",
        "  It is only a cache: the next writer, or `evtool reindex`, makes it again.",
    ]
    found = as_json(here, code=14)
    assert (found["clean"], found["unlisted"], len(found["notes"])) == (False, 0, 1)
    assert found["findings"][0] == {
        "file": f"segments/{path.parent.name}/frames.log",
        "severity": "log",
        "message": "its body does not match its checksum",
        "hint": "`evtool repair` mends it from a backup, or keeps the rest of it; "
        "other segments are not affected.",
        "piece": "frame",
        "number": 0,
        "offset": 64,
        "first_position": 1,
        "last_position": 10,
    }
    flip(path, 400)
    as_json(here, code=24)


def test_since_takes_what_replay_takes(here: Path):
    for bound in ("@5", "e-3", "id:e-3", "-24h", "2026-01-01", "2026-01-01T00:00:00Z"):
        found = as_json(here, "--since", bound)
        assert (found["since"], found["skipped"], found["events"]) == (bound, 0, 20)
    assert "is no position" in failed(3, "verify", "--since", "@x", cwd=here)
    assert "has the id 'nobody'" in failed(16, "verify", "--since", "nobody", cwd=here)
