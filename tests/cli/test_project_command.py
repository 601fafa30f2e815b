"""`evtool project` as people and programs meet it: which part of the log, which form, which sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import environment, line, start
from within import failed, run

DEFINITION = """\
name = "mine"
version = 1
[time]
grain = ":grain"
[keys]
kind = "payload.kind"
[measures]
total = "sum(cast(payload.amount as decimal(18,2)))"
share = "count(*) filter (where payload.kind = 'a') / count(*)"
latest = "max(timestamp)"
flag = "min(payload.kind) = 'a'"
[parameters]
grain = { value = "day", choices = ["hour", "day", "all"] }
"""


def event(number: int, **payload: Any) -> bytes:
    fields = {"amount": f"{number}.50", "kind": "ab"[number % 2], "user_id": f"u{number % 3}"} | payload
    at = f"2026-01-0{1 + number % 3}T0{number % 10}:00:00Z"
    return line(number, event_type="ItemPurchased", timestamp=at, payload=fields)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of 30 events in two batches, and a definition."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "projections").mkdir()
    (folder / "projections" / "mine.toml").write_text(DEFINITION)
    for batch in (range(1, 21), range(21, 31)):
        run("ingest", cwd=folder, stdin=b"".join(event(number) for number in batch))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(made, tmp_path / "here", ignore=shutil.ignore_patterns("read-models"))
    return tmp_path / "here"


def answer(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    found = json.loads(run("project", *arguments, "--format", "json", cwd=folder).stdout)
    assert isinstance(found, list)
    return found


def test_a_part_of_the_log(here: Path):
    whole = answer(here, "mine", "--set", "grain=all")
    first = answer(here, "mine", "--set", "grain=all", "--as-of", "@13")
    rest = answer(here, "mine", "--set", "grain=all", "--from", "e-14", "--to", "2026-02-01")

    def totals(rows: list[dict[str, Any]]) -> dict[str, Decimal]:
        return {row["kind"]: Decimal(row["total"]) for row in rows}

    assert totals(whole) == {kind: totals(first)[kind] + totals(rest)[kind] for kind in "ab"}


def test_every_format_has_the_same_values(here: Path):
    rows = answer(here, "mine")
    assert rows[0] == {
        "day": "2026-01-01",
        "kind": "a",
        "total": "91.50",
        "share": 1.0,
        "latest": "2026-01-01T08:00:00.000000000Z",
        "flag": True,
    } | {key: rows[0][key] for key in ("total", "latest")}
    assert rows[0]["total"].endswith(".50") or rows[0]["total"].endswith(".00")
    assert rows[0]["latest"].startswith("2026-01-01T0")
    assert rows[0]["latest"].endswith("Z")
    lines = run("project", "mine", "--format", "ndjson", cwd=here).stdout.splitlines()
    assert [json.loads(text) for text in lines] == rows
    written = list(
        csv.DictReader(io.StringIO(run("project", "mine", "--format", "csv", cwd=here).stdout.decode()))
    )
    assert [row["total"] for row in written] == [row["total"] for row in rows]
    assert [row["latest"] for row in written] == [row["latest"] for row in rows]
    frame = pl.read_parquet(run("project", "mine", "--format", "parquet", cwd=here).stdout)
    assert frame.equals(pl.read_parquet(here / "segments/read-models/mine/v1/mine.parquet"))
    assert [str(value) for value in frame["total"]] == [row["total"] for row in rows]
    table = run("project", "mine", cwd=here).stdout.decode()
    assert table.split()[:6] == ["day", "kind", "total", "share", "latest", "flag"]
    assert len(table.splitlines()) == 1 + len(rows)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.csv", "csv"),
        ("x.json", "json"),
        ("x.ndjson", "ndjson"),
        ("x.jsonl", "ndjson"),
        ("x.parquet", "parquet"),
    ],
)
def test_out_writes_what_its_ending_says(here: Path, name: str, kind: str):
    done = run("project", "mine", "--out", name, cwd=here)
    assert done.stdout == b""
    assert (here / name).read_bytes() == run("project", "mine", "--format", kind, cwd=here).stdout


def test_out_that_cannot_be(here: Path):
    assert "tells no format" in failed(3, "project", "mine", "--out", "x.txt", cwd=here)
    assert "there is no folder" in failed(3, "project", "mine", "--out", "none/x.csv", cwd=here)
    assert "folder of the log" in failed(3, "project", "mine", "--out", "segments/x.csv", cwd=here)
    assert "for people" in failed(3, "project", "mine", "--format", "table", "--out", "x.csv", cwd=here)
    assert not (here / "x.csv").exists()


def test_stale_answers_as_of_the_last_run_and_says_so(here: Path):
    assert "no read model yet" in failed(19, "project", "mine", "--stale", cwd=here)
    before = answer(here, "mine")
    run("ingest", cwd=here, stdin=event(31) + event(32))
    done = run("project", "mine", "--stale", "--format", "json", cwd=here)
    assert json.loads(done.stdout) == before
    assert done.stderr.decode() == "as of position 30; 2 events came after that\n"
    assert answer(here, "mine") != before


def test_values_that_do_not_cast_are_counted_aloud(here: Path):
    run("ingest", cwd=here, stdin=event(31, amount="n/a") + event(32, amount="1.005"))
    for options in ([], ["--stale"], ["--from", "@1"]):
        done = run("project", "mine", *options, cwd=here)
        amount = '2 by CAST(payload."amount" AS DECIMAL(18, 2))'
        assert done.stderr.decode().startswith(f"2 values did not cast and counted as absent ({amount}); ")


def test_all_goes_on_behind_one_that_is_wrong(here: Path):
    (here / "projections" / "broken.toml").write_text(
        DEFINITION.replace('"mine"', '"broken"').replace("sum(", "smu(")
    )
    done = run("project", "--all", cwd=here, code=19)
    told = done.stderr.decode().splitlines()
    assert any("broken.toml:8:" in text for text in told)
    assert any(text.startswith("mine: 6 rows at position 30 in ") for text in told)
    assert any(text.startswith("sessions: ") for text in told)  # which comes behind it
    assert done.stdout == b""
    assert (here / "segments/read-models/sessions/v1/sessions.parquet").exists()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["mine", "--all"],
        ["--all", "--stale"],
        ["--all", "--format", "csv"],
        ["mine", "--stale", "--full"],
        ["mine", "--stale", "--as-of", "@3"],
        ["mine", "--from", "@1", "--full"],
        ["mine", "--from", "@1", "--follow", "1s"],
        ["mine", "--to", "@5", "--as-of", "@3"],
        ["mine", "--follow", "soon"],
        ["mine", "--follow", "0s"],
        ["mine", "--set", "grain"],
        ["mine", "--set", "grain=week"],
        ["mine", "--as-of", "x.y:z"],
    ],
)
def test_options_that_make_no_sense(made: Path, options: list[str]):
    done = run("project", *options, cwd=made, code=None)
    assert done.returncode in (3, 16)
    assert done.stdout == b""
    assert done.stderr.startswith(b"evtool: ")


def test_follow_shows_what_has_come(here: Path):
    process = start("project", "mine", "--follow", "100ms", "--format", "json", cwd=here)
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        run("ingest", cwd=here, stdin=event(31, kind="new"))
        second = json.loads(process.stdout.readline())
        assert len(second) == len(first) + 1
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert b"Traceback" not in told
    finally:
        process.kill()


def test_a_pipe_that_is_closed_early_ends_it_quietly(made: Path):
    command = "evtool project event-counts --set grain=hour --format csv | head -c 1; exit ${PIPESTATUS[0]}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=made, capture_output=True, check=False, env=environment(PATH=path)
    )
    assert done.returncode in (0, 141)
    assert done.stderr == b""


def test_no_log_and_an_empty_log(tmp_path: Path):
    assert "no log" in failed(10, "project", "event-counts", cwd=tmp_path)
    run("init", cwd=tmp_path)
    done = run("project", "event-counts", cwd=tmp_path)
    assert done.stdout.split() == [b"day", b"event_type", b"events"]
    assert b"no rows" in done.stderr
    assert json.loads(run("project", "event-counts", "--format", "json", cwd=tmp_path).stdout) == []
    total = run("project", "daily-active-users", "--set", "grain=all", "--format", "csv", cwd=tmp_path).stdout
    assert total == b"users\n0\n"


def test_names_and_files_that_are_not_there(made: Path):
    assert "Did you mean daily-active-users" in failed(19, "project", "daily-active-user", cwd=made)
    assert "there is no file x.toml" in failed(19, "project", "x.toml", cwd=made)
    assert "cannot be had" in failed(19, "project", "no.such:Thing", cwd=made)
    assert "folder" in failed(20, "project", "./projections/", cwd=made)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_log_that_cannot_be_written_to(here: Path):
    shutil.rmtree(here / "segments" / "read-models", ignore_errors=True)
    (here / "segments").chmod(0o555)
    try:
        assert "read-models" in failed(22, "project", "mine", cwd=here)
        assert answer(here, "mine", "--from", "@1")
    finally:
        (here / "segments").chmod(0o755)


def test_read_models_that_cannot_be_where_they_should(here: Path):
    (here / "segments" / "read-models").write_text("in the way")
    assert "read-models" in failed(20, "project", "mine", cwd=here)


def test_two_processes_at_once_give_one_read_model(here: Path):
    several = [start("project", "mine", "--format", "json", cwd=here) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in several]
    assert [process.returncode for process in several] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert json.loads(outputs[0][0]) == answer(here, "mine")


def test_a_long_table_is_cut_in_the_middle_and_says_so(here: Path):
    lines = b"".join(line(n, event_type=f"T{n:03}", timestamp="2026-01-01T00:00:00Z") for n in range(100, 170))
    run("ingest", cwd=here, stdin=lines)
    done = run("project", "event-counts", "--set", "grain=all", cwd=here)
    assert len(done.stdout.splitlines()) == 52
    assert b"71 rows, of which 50 are shown" in done.stderr


def test_a_type_that_no_event_has_is_told_beside_the_result(here: Path):
    steps = ("project", "funnel-conversion", "--set", "steps=ItemPurchased > ItemPurchsed", "--format", "json")
    done = run(*steps, cwd=here)
    assert [row["actors"] for row in json.loads(done.stdout)] == [3, 0]
    assert b"no event of the log has the type 'ItemPurchsed'; did you mean 'ItemPurchased'?" in done.stderr
    assert b"no event of the log" not in run(*steps, "--stale", cwd=here).stderr  # which answers at once
    assert b"no event of the log" not in run("project", "mine", cwd=here).stderr


def test_cron_mailed_what_all_went_well_says(here: Path):
    for arguments in (["--all"], ["mine"], ["mine", "--stale"], ["mine", "--out", "out.csv"]):
        done = run("project", *arguments, "--quiet", cwd=here)
        assert (done.stdout, done.stderr) == (b"", b""), arguments
    assert (here / "out.csv").read_text().startswith("day,kind,")
    assert run("project", "mine", "--quiet", "--format", "csv", cwd=here).stdout == (here / "out.csv").read_bytes()
    (here / "projections" / "broken.toml").write_text("name = 3 x")
    assert "broken.toml is not TOML" in failed(19, "project", "--all", "--quiet", cwd=here)


def test_a_name_and_all_are_one_too_many_not_one_too_few(here: Path):
    assert "mine is one" in failed(3, "project", "mine", "--all", cwd=here)


def test_an_end_that_the_log_has_not_reached_is_no_end(here: Path):
    assert "there is no position 99,999 yet" in failed(16, "project", "mine", "--as-of", "@99999", cwd=here)


def test_years_were_written_as_amounts(here: Path):
    (here / "projections" / "years.toml").write_text(
        'name = "years"\nversion = 1\n[keys]\nyear = "position * 0 + 2026"\n[measures]\nn = "count(*)"\n'
    )
    table = run("project", "years", cwd=here).stdout.decode()
    assert "2026" in table
    assert "2,026" not in table
