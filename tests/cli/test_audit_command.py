"""`evtool audit`, and the lines that commands leave."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import TIMEOUT_SECONDS, lines, start
from within import run

from evtool.cli import audited
from evtool.errors import AccessDeniedError
from evtool.files import Files
from evtool.lifecycle import audit, retention

SECRET = "user-4711@example.org"


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in run("audit", cwd=folder).stdout.splitlines()]


def commands(folder: Path) -> list[tuple[str, str]]:
    return [(line["command"], line["outcome"]) for line in told(folder)]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    run("init", cwd=tmp_path)
    event = f'{{"event_id":"x","source_id":"s","stream_id":"{SECRET}","event_type":"A","stream_version":9}}\n'
    run("ingest", cwd=tmp_path, stdin=lines(*range(20)) + event.encode())
    return tmp_path


def test_every_command_that_changes_something_leaves_a_line(here: Path):
    (here / "schema.json").write_text("{}")
    run("schema", "add", "schema.json", "--type", "Other", cwd=here)
    run("schema", "add", "schema.json", "--type", "Other", cwd=here)  # no change
    run("dead-letters", "retry", cwd=here)
    run("dead-letters", "export", cwd=here)
    run("dead-letters", "drop", "--yes", cwd=here)
    run("project", "event-counts", cwd=here)
    run("snapshot", "take", "event-counts", cwd=here)
    run("snapshot", "take", "event-counts", cwd=here)  # is kept already
    run("projections", "promote", "event-counts", "1", cwd=here)
    run("projections", "drop", "event-counts/v1", cwd=here)
    run("reindex", cwd=here)
    run("ingest", cwd=here, stdin=lines(1, 2))  # duplicates
    run("nightly", cwd=here)
    run("backup", "--to", "backups", cwd=here)
    run("restore", "--from", "backups", "--to", "again", cwd=here)
    wanted = [
        ("init", "done"),
        ("ingest", "done"),
        ("schema add", "done"),
        ("dead-letters retry", "done"),
        ("dead-letters export", "began"),
        ("dead-letters export", "done"),
        ("dead-letters drop", "began"),
        ("dead-letters drop", "done"),
        ("snapshot take", "done"),
        ("projections promote", "done"),
        ("projections drop", "began"),
        ("projections drop", "done"),
        ("reindex", "done"),
    ]
    assert commands(here)[: len(wanted)] == wanted
    assert {name for name, _ in commands(here)[len(wanted) :]} <= {"nightly snapshot"}
    assert told(here)[1]["counts"]["accepted"] == 20
    again = [json.loads(text) for text in run("audit", "--log", "again", cwd=here).stdout.splitlines()]
    assert [(line["command"], line["outcome"]) for line in again[-2:]] == [
        ("restore", "began"),
        ("restore", "done"),
    ]
    assert SECRET not in json.dumps([told(here), again])
    checked = json.loads(run("audit", "--check", "--from", "backups", "--json", cwd=here).stdout)
    assert (checked["clean"], checked["witnesses"]) == (True, 2)


def test_what_is_killed_while_it_drops_has_said_that_it_began(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    run("ingest", cwd=here, stdin=lines(*range(20, 22)))

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, "plan", planned_all(retention.plan))
    monkeypatch.setattr(retention, "apply", die)
    run("retain", "--events-older-than", "1s", "--all", "--yes", cwd=here, code=130)
    assert commands(here)[-2:] == [("retain", "began"), ("retain", "interrupted")]


def planned_all(plan: Any) -> Any:
    """A plan that has something to do, whatever is sealed."""
    from dataclasses import replace

    return lambda *arguments: replace(plan(*arguments), events=1, is_everything=False)


def test_an_ingest_that_is_stopped_or_fails_leaves_a_line(tmp_path: Path):
    process = start("ingest", "--ack", cwd=tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(lines(1, 2))
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_SECONDS)
    run("ingest", "-", "--strict", cwd=tmp_path, stdin=b"no event\n", code=9)
    (tmp_path / "torn.gz").write_bytes(b"\x1f\x8b\x08\x00 and nothing that follows")
    run("ingest", "torn.gz", cwd=tmp_path, code=4)  # nothing stored: no line
    assert commands(tmp_path) == [("ingest", "interrupted"), ("ingest", "done")]
    assert [line["counts"]["accepted"] for line in told(tmp_path)] == [2, 0]


def test_dead_letters_of_a_log_that_can_only_be_read_are_exported_and_that_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: Any) -> None:
        raise AccessDeniedError("cannot open audit.lock: it is read-only")

    before = (here / "segments" / audit.FILE).read_bytes()
    monkeypatch.setattr(audit, "record", refuse)
    done = run("dead-letters", "export", cwd=here)
    assert SECRET.encode() in done.stdout
    assert b"this leaves no line in the audit: cannot open audit.lock" in done.stderr
    run("dead-letters", "drop", "--yes", cwd=here, code=AccessDeniedError.exit_code)
    assert run("dead-letters", "export", cwd=here).stdout == done.stdout  # nothing was dropped without a line
    assert (here / "segments" / audit.FILE).read_bytes() == before


def test_work_of_days_tells_once_a_day_where_it_is(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audited, "MEANWHILE_SECONDS", 0)
    run("ingest", "--batch-events", "5", cwd=here, stdin=lines(*range(30, 40)))
    assert commands(here)[2:] == [("ingest", "running"), ("ingest", "running"), ("ingest", "done")]
    assert [line["counts"]["accepted"] for line in told(here)[2:]] == [5, 10, 10]


def test_a_broken_chain_is_named_with_its_line(here: Path):
    path = here / "segments" / audit.FILE
    path.write_bytes(path.read_bytes().replace(b'"accepted":20', b'"accepted":19'))
    done = run("audit", "--check", "--json", cwd=here, code=14)
    found = json.loads(done.stdout)
    assert (found["clean"], found["lines"], found["broken_at"]) == (False, 2, 2)
    assert b"line 2: it is not as it was written" in run("audit", cwd=here, code=14).stderr
    assert b"audit.ndjson: damaged: line 2: " in run("verify", cwd=here, code=14).stderr


def test_a_log_of_before_there_was_an_audit_has_none_and_is_whole(here: Path):
    Files().remove(here / "segments" / audit.FILE)
    assert run("audit", cwd=here).stderr == b"no command has left a line yet\n"
    run("verify", cwd=here)
    run("audit", "--check", cwd=here)
