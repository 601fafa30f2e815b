"""`evtool compact`: what it says, its exit codes, and that nothing but the files changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import as_json, digest, failed, line, run
from faults import flip

import evtool
from evtool.files import Files


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two sealed segments and an active one."""
    (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    for start in range(0, 250, 100):
        data = b"".join(
            line(n, metadata={"fill": os.urandom(900).hex()}) for n in range(start, min(start + 100, 250))
        )
        run("ingest", cwd=tmp_path, stdin=data)
    assert len(list((tmp_path / "segments").glob("0*"))) == 3
    return tmp_path / "segments"


def test_it_says_what_it_does_and_does_it_once(log: Path):
    before, replay = digest(log), run("replay", cwd=log.parent).stdout
    told = run("compact", "--dry-run", cwd=log.parent)
    assert told.stderr.startswith(b"200 events: ")
    assert b" would become about " in told.stderr
    assert as_json("stats", cwd=log.parent)["cold_segments"] == 0
    # Each is as large as a segment may be, so each stays by itself.
    done = run("compact", "--materialise", "payload.n", cwd=log.parent)
    assert [row.split()[1:3] for row in done.stdout.decode().splitlines()[1:]] == [["100", "1"], ["100", "1"]]
    assert done.stderr.startswith(b"200 events: ")
    assert b" became " in done.stderr
    assert run("compact", cwd=log.parent).stderr.startswith(b"nothing to compact")
    assert (digest(log), run("replay", cwd=log.parent).stdout) == (before, replay)
    assert as_json("stats", cwd=log.parent)["cold_segments"] == 2
    assert b"2 sealed, 2 of them cold" in run("stats", cwd=log.parent).stdout
    shown = run("inspect", "1", cwd=log.parent)
    assert b": cold, 1 row group, " in shown.stderr
    assert as_json("inspect", "1", cwd=log.parent)["cold"] is True


def test_programs_get_numbers(log: Path):
    told = as_json("compact", "--dry-run", cwd=log.parent)
    found = as_json("compact", cwd=log.parent)
    assert (told["dry_run"], found["dry_run"]) == (True, False)
    assert (told["events"], told["bytes_before"]) == (found["events"], found["bytes_before"])
    assert found["events"] == 200
    assert 0 < found["bytes_after"] < found["bytes_before"]
    assert [one["segments"] for one in found["compacted"]] == [1, 1]
    assert found["failures"] == []


def test_columns_of_projections_are_made_and_where_they_lack_it_says_so(log: Path):
    names = ["metadata.cohort_id", "metadata.experiment_id", "payload.amount", "payload.product_id"]
    names += ["payload.user_id"]
    assert run("compact", "--materialise", "none", cwd=log.parent).stderr.startswith(b"200 events: ")
    told = run("compact", cwd=log.parent).stderr.decode()
    lack = f"2 cold segments without columns for {', '.join(names)}: `evtool compact --rewrite` makes them"
    assert " ".join(told.split()).endswith(lack)
    dry = as_json("compact", "--rewrite", "--dry-run", cwd=log.parent)
    assert (dry["events"], dry["materialised"], dry["lacking"]) == (200, names, [])
    assert [one["names"] for one in as_json("compact", cwd=log.parent)["lacking"]] == [names, names]
    told = run("compact", "--rewrite", cwd=log.parent).stderr.decode()
    assert f"with columns for {', '.join(names)}" in " ".join(told.split())
    assert run("compact", "--rewrite", cwd=log.parent).stderr.startswith(b"nothing to compact")
    assert as_json("compact", cwd=log.parent)["lacking"] == []
    assert as_json("verify", cwd=log.parent)["findings"] == []


def columns(log: Path) -> list[set[str]]:
    """The columns that each cold segment has of payloads and metadata."""
    with evtool.open(log, read_only=True) as opened:
        return [set(each.materialised) for each in opened.snapshot().segments if each.is_cold]


def test_old_columns_stayed_that_the_summary_did_not_name(log: Path):
    before = digest(log)
    run("compact", "--materialise", "none", "--materialise", "payload.a", cwd=log.parent)
    assert columns(log) == [{"payload.a"}] * 2
    told = run("compact", "--materialise", "none", "--materialise", "payload.n", cwd=log.parent).stderr
    assert b"with columns for payload.a, payload.n" in told
    assert columns(log) == [{"payload.a", "payload.n"}] * 2
    told = run(
        "compact", "--materialise", "none", "--materialise", "payload.n", "--rewrite", cwd=log.parent
    ).stderr
    assert b"with columns for payload.n\n" in told
    assert columns(log) == [{"payload.n"}] * 2
    run("compact", "--materialise", "none", "--rewrite", cwd=log.parent)
    assert columns(log) == [set()] * 2
    again = run("compact", "--materialise", "none", "--rewrite", cwd=log.parent)
    assert again.stderr.startswith(b"nothing to compact")
    assert digest(log) == before


def test_a_definition_that_is_broken_is_named(log: Path):
    (log.parent / "projections").mkdir()
    (log.parent / "projections" / "mine.toml").write_text("name = 'mine'\nversion = 1\n[measures]\nn = 'count('\n")
    told = run("compact", "--dry-run", cwd=log.parent).stderr.decode()
    assert "what mine reads has none: see `evtool projections validate mine`" in told
    assert as_json("compact", "--dry-run", cwd=log.parent)["passed_over"] == ["mine"]


def test_a_damaged_segment_is_named_and_left(log: Path):
    second = sorted(log.glob("0*"))[1]
    flip(second / "frames.log", 3_000)
    done = run("compact", cwd=log.parent, code=14)
    assert f"segments/{second.name} was left as it is: " in done.stderr.decode()
    assert b"100 events: " in done.stderr
    assert as_json("compact", cwd=log.parent, code=14)["failures"][0]["folder"].endswith(second.name)
    flip(second / "frames.log", 3_000)
    assert as_json("compact", cwd=log.parent)["failures"] == []


def test_what_a_user_may_do_wrong_is_a_sentence(log: Path):
    assert "--materialise 'user' is no path" in failed(3, "compact", "--materialise", "user", cwd=log.parent)
    lock = Files().lock(log / "compact.lock")
    assert "is being compacted by process" in failed(13, "compact", cwd=log.parent)
    lock.release()
    assert "there is no log" in failed(10, "compact", "--log", "other", cwd=log.parent)
