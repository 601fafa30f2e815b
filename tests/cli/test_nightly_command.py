"""`evtool nightly` and `evtool snapshot`: what they say, their exit codes, and the lines for cron and systemd."""

from __future__ import annotations

import configparser
import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from command_line import environment, line
from faults import flip
from within import failed, run

from evtool.cli import nightly
from evtool.files import Files
from evtool.projections import catalogue

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log of 20 events, where `event-counts` is the only projection."""
    text = catalogue.entries(None)["event-counts"].path.read_text()
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(catalogue, "_built_in", lambda: tmp_path / "none")
    (tmp_path / "projections").mkdir()
    (tmp_path / "projections" / "event-counts.toml").write_text(text)
    (tmp_path / "evtool.toml").write_text("[snapshots]\nkeep_daily = 1\nkeep_weekly = 0\n")
    ingest(tmp_path, 0, 20)
    return tmp_path


def ingest(folder: Path, start: int, end: int) -> None:
    data = b"".join(line(number, timestamp=f"2026-01-0{1 + number % 3}T00:00:00Z") for number in range(start, end))
    run("ingest", cwd=folder, stdin=data)


def listed(folder: Path) -> list[dict[str, Any]]:
    found = json.loads(run("snapshot", "list", "--json", cwd=folder).stdout)["snapshots"]
    assert isinstance(found, list)
    return found


def test_a_night_says_a_line_for_each_step(here: Path):
    done = run("nightly", cwd=here)
    assert done.stdout == b""  # the table is for terminals
    said = [re.sub(r"[\d.]+ s;", "(time);", text) for text in done.stderr.decode().splitlines()]
    assert said[0].startswith("verify: ok in (time); 20 events, digest ")
    assert said[1:] == [
        "recompute: ok in (time); 1 of 1 projection as refreshed",
        "snapshot: ok in (time); 1 snapshot, 0 dropped",
        "compact: ok in (time); nothing to compact",
    ]


def test_a_terminal_gets_a_table(here: Path, monkeypatch: pytest.MonkeyPatch):
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(nightly, "sys", terminal)
    shown = run("nightly", "--skip", "verify", cwd=here).stdout.decode()
    assert shown.split()[:4] == ["step", "outcome", "what", "seconds"]
    assert [row.split()[:2] for row in shown.splitlines()[1:]] == [
        ["recompute", "ok"],
        ["snapshot", "ok"],
        ["compact", "ok"],
        ["verify", "skipped"],
    ]


def test_programs_get_the_report_that_stays(here: Path):
    printed = json.loads(run("nightly", "--json", "--only", "verify", "--only", "compact", cwd=here).stdout)
    (path,) = (here / "segments" / "nightly").glob("*.json")
    kept = json.loads(path.read_text())
    assert printed | {"checksum": kept["checksum"]} == kept
    assert [step["outcome"] for step in printed["steps"]] == ["ok", "ok", "skipped", "skipped"]


def test_damage_sets_the_exit_code_and_is_told(here: Path):
    flip(next((here / "segments").glob("0*/frames.log")), 300)
    done = run("nightly", "--skip", "recompute", "--skip", "snapshot", cwd=here, code=14)
    told = done.stderr.decode()
    assert told.startswith("verify: failed in ")
    assert "`evtool repair` mends it from a backup" in told
    assert "\ncompact: " in told


def test_what_a_user_may_do_wrong_is_a_sentence(here: Path):
    assert "there is no step 'verity'" in failed(3, "nightly", "--only", "verity", cwd=here)
    assert "--time-budget: 'soon' is no duration" in failed(3, "nightly", "--time-budget", "soon", cwd=here)
    assert "too short" in failed(3, "nightly", "--time-budget", "0s", cwd=here)
    assert "there is no log" in failed(10, "nightly", "--log", "other", cwd=here)
    lock = Files().lock(here / "segments" / "nightly.lock")
    assert "has its nightly run already" in failed(13, "nightly", cwd=here)
    lock.release()
    assert "no snapshot has" in failed(19, "snapshot", "show", "x", cwd=here)
    assert "no snapshot has" in failed(19, "snapshot", "drop", "xxxx", cwd=here)
    done = run("snapshot", "take", "nothing", "event-counts", cwd=here, code=19)
    assert b"there is no projection 'nothing'" in done.stderr
    assert len(listed(here)) == 1


def test_snapshots_are_taken_listed_shown_compared_and_dropped(here: Path):
    assert b"there are no snapshots" in run("snapshot", "list", cwd=here).stderr
    table = run("snapshot", "take", "--label", "before", cwd=here).stdout.decode().splitlines()
    assert table[0].split() == ["id", "projection", "label", "taken", "as", "of", "version", "position", "bytes"]
    assert table[1].split()[1:3] == ["event-counts", "before"]
    ingest(here, 20, 25)
    run("snapshot", "take", "event-counts", cwd=here)
    before, after = listed(here)
    assert (before["position"], after["position"], before["label"], after["label"]) == (20, 25, "before", None)
    shown = run("snapshot", "show", before["id"][:6], cwd=here).stdout.decode()
    assert "event-counts version 1" in shown
    assert shown.splitlines()[-1].split() == ["2026-01-03", "Seen", "6"]
    rows = list(csv.reader(io.StringIO(compared(here, before, after, "csv").decode())))
    assert rows == [
        ["change", "day", "event_type", "events"],
        ["before", "2026-01-01", "Seen", "7"],
        ["after", "2026-01-01", "Seen", "9"],
        ["before", "2026-01-02", "Seen", "7"],
        ["after", "2026-01-02", "Seen", "8"],
        ["before", "2026-01-03", "Seen", "6"],
        ["after", "2026-01-03", "Seen", "8"],
    ]
    assert json.loads(compared(here, before, after, "json"))[0]["events"] == 7
    assert pl.read_parquet(compared(here, before, after, "parquet")).height == 6
    assert compared(here, before, after, "table").decode().split()[:4] == rows[0]
    assert run("snapshot", "diff", after["id"], after["id"], cwd=here).stderr == b"no row differs\n"
    assert (
        run("snapshot", "drop", before["id"], after["id"], "--yes", cwd=here).stderr.count(b"dropped snapshot")
        == 2
    )
    assert listed(here) == []


def compared(folder: Path, before: dict[str, Any], after: dict[str, Any], kind: str) -> bytes:
    return run("snapshot", "diff", before["id"], after["id"], "--format", kind, cwd=folder).stdout


def test_a_snapshot_that_cannot_be_taken_says_nothing_of_those_that_there_are(here: Path):
    told = run("snapshot", "take", "nothing", cwd=here, code=None).stderr.decode()
    assert "nothing" in told
    assert "no snapshots" not in told


def test_a_night_keeps_what_the_configuration_says_and_all_labels(here: Path):
    run("snapshot", "take", "--label", "kept", cwd=here)
    run("snapshot", "take", cwd=here)
    ingest(here, 20, 22)
    done = run("nightly", "--only", "snapshot", cwd=here)
    assert b"1 snapshot, 1 dropped" in done.stderr
    assert [(each["position"], each["label"]) for each in listed(here)] == [(20, "kept"), (22, None)]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command.replace("/srv/evtool", str(folder))],
        cwd="/",
        env=environment(PATH=path),
        capture_output=True,
        check=True,
    )


def of_cron(text: str) -> list[str]:
    """The commands of a crontab: what comes behind the five fields of the time."""
    entries = [text for text in text.splitlines() if text and not text.startswith("#") and "=" not in text[:5]]
    return [entry.split(maxsplit=5)[5] for entry in entries]


def test_the_lines_for_cron_are_those_of_readme_and_run(here: Path):
    crontab = (SCRIPTS / "evtool.crontab").read_text()
    (shown,) = re.findall(r"^```cron\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [text for text in crontab.splitlines() if text and text[0] != "#"] == shown.splitlines()
    commands = of_cron(shown)
    assert len(commands) == 2
    said = [shell(command, here) for command in commands]
    assert (said[0].stdout, said[0].stderr) == (b"", b"")  # which cron would mail every quarter of an hour
    again = shell(commands[0], here)
    assert (again.stdout, again.stderr) == (b"", b"")
    (report,) = (here / "segments" / "nightly").glob("*.json")
    assert {step["outcome"] for step in json.loads(report.read_text())["steps"]} == {"ok"}
    assert (here / "segments" / "read-models" / "event-counts" / "v1" / "event-counts.parquet").exists()


def test_the_unit_for_systemd_runs_the_same_at_the_same_time(here: Path):
    units = {}
    for kind in ("service", "timer"):
        units[kind] = configparser.ConfigParser()
        units[kind].optionxform = str  # type: ignore[assignment,method-assign]
        units[kind].read(SCRIPTS / f"evtool-nightly.{kind}")
    service = units["service"]["Service"]
    command = service["ExecStart"].removeprefix("/usr/local/bin/")
    crontab = (SCRIPTS / "evtool.crontab").read_text()
    assert f"cd {service['WorkingDirectory']} && {command}" == of_cron(crontab)[-1]
    minute, hour = crontab.splitlines()[-1].split()[:2]
    assert units["timer"]["Timer"]["OnCalendar"] == f"*-*-* {int(hour):02}:{int(minute):02}:00"


def test_a_run_without_any_step_is_refused(here: Path):
    assert "leave no step" in failed(3, "nightly", "--only", "verify", "--skip", "verify", cwd=here)
