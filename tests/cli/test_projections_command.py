"""`evtool projections`, `lineage` and `explain` as people and programs meet them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import termios
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from command_line import COMMAND, line
from faults import flip
from within import failed, run

from evtool.projections import catalogue

BUILT_IN = {"daily-active-users", "sessions", "funnel-conversion", "event-counts"}


def event(number: int) -> bytes:
    payload = {"amount": f"{number}.50", "product_id": f"p{number % 2}", "user_id": f"u{number % 3}"}
    at = f"2026-01-0{1 + number % 3}T00:00:00Z"
    return line(number, event_type="ItemPurchased", timestamp=at, payload=payload)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run("ingest", cwd=folder, stdin=b"".join(map(event, range(1, 13))))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


def listed(folder: Path) -> dict[str, dict[str, object]]:
    found = json.loads(run("projections", "list", "--json", cwd=folder).stdout)["projections"]
    return {each["name"]: each for each in found}


def test_a_definition_from_new_to_promoted_and_back(here: Path):
    run("projections", "new", "by-product", cwd=here)
    assert b"is sound" in run("projections", "validate", "by-product", cwd=here).stderr
    assert "already" in failed(3, "projections", "new", "by-product", cwd=here)
    first = run("project", "by-product", "--format", "json", cwd=here).stdout
    assert [row["revenue"] for row in json.loads(first)] == [
        "14.00",
        "18.00",
        "8.00",
        "20.00",
        "16.00",
        "12.00",
    ] or (sum(Decimal(row["revenue"]) for row in json.loads(first)) == Decimal("84.00"))
    path = here / "projections" / "by-product.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 2").replace('orders = "count(*)"\n', ""))
    assert "no read model of version 2" in failed(19, "projections", "promote", "by-product", "2", cwd=here)
    run("project", "by-product", cwd=here)
    assert (listed(here)["by-product"]["read_models"], listed(here)["by-product"]["serves"]) == ([1, 2], 2)
    for version in (1, 2, 1):
        run("projections", "promote", "by-product", str(version), cwd=here)
        assert listed(here)["by-product"]["serves"] == version
    assert b"v1*, v2" in run("projections", "list", cwd=here).stdout
    assert "projections kept by-product" in failed(19, "projections", "promote", "by-product", "3", cwd=here)
    assert "`evtool projections list`" in failed(19, "projections", "promote", "by-produkt", "1", cwd=here)


@pytest.mark.parametrize("kind", get_args(catalogue.TemplateKind))
def test_a_new_definition_of_each_kind_is_sound_and_runs(here: Path, kind: str):
    run("projections", "new", "mine", "--kind", kind, cwd=here)
    text = (here / "projections" / "mine.toml").read_text()
    table = {"aggregate": "measures", "score": "score.weights"}.get(kind, kind)
    assert (text.splitlines()[0], f"[{table}]" in text) == ('name = "mine"', True)
    assert b"is sound" in run("projections", "validate", "mine", cwd=here).stderr
    assert b"," in run("project", "mine", "--format", "csv", cwd=here).stdout


def test_show_prints_the_file_and_its_parameters(here: Path):
    run("projections", "new", "mine", cwd=here)
    text = (here / "projections" / "mine.toml").read_text()
    assert run("projections", "show", "mine", cwd=here).stdout.decode() == text
    assert run("projections", "show", "projections/mine.toml", cwd=here).stdout.decode() == text
    found = json.loads(run("projections", "show", "mine", "--json", cwd=here).stdout)
    assert (found["name"], found["version"]) == ("mine", 1)
    assert found["parameters"]["grain"]["choices"] == ["hour", "day", "week", "month", "all"]


def test_validate_says_columns_or_the_place(here: Path):
    for name in BUILT_IN:
        columns = json.loads(run("projections", "validate", name, "--json", cwd=here).stdout)["columns"]
        frame = json.loads(run("project", name, "--format", "ndjson", cwd=here).stdout.splitlines()[0])
        assert list(columns) == list(frame)
    run("projections", "new", "wrong", cwd=here)
    path = here / "projections" / "wrong.toml"
    path.write_text(path.read_text().replace("count(*)", "cuont(*)"))
    told = failed(19, "projections", "validate", "wrong", cwd=here)
    number = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "cuont" in text)
    assert f"wrong.toml:{number}:11: " in told
    assert "there is no projection" in failed(19, "projections", "validate", "none", cwd=here)


def test_list_has_all_with_one_that_is_wrong(here: Path):
    (here / "projections").mkdir()
    (here / "projections" / "broken.toml").write_text("name = 3 x")
    (here / "projections" / "folder.toml").mkdir()
    done = run("projections", "list", "--json", cwd=here, code=19)
    found = {each["name"]: each for each in json.loads(done.stdout)["projections"]}
    assert set(found) >= BUILT_IN
    assert b"broken.toml is not TOML" in done.stderr


@pytest.mark.parametrize("name", ["../up", "a/b", "A", "", "x" * 129])
def test_names_that_new_refuses(here: Path, name: str):
    assert "no name of a projection" in failed(3, "projections", "new", name, cwd=here)
    assert not (here / "projections").exists()


def test_explain_gives_the_events_of_a_row(here: Path):
    rows = json.loads(run("project", "revenue-by-product", "--format", "json", cwd=here).stdout)
    for row in rows:
        chosen = ["--row", f"day={row['day']}", "--row", f"product_id={row['product_id']}"]
        lines = run("explain", "revenue-by-product", *chosen, cwd=here).stdout.splitlines()
        amounts = [Decimal(json.loads(text)["payload"]["amount"]) for text in lines]
        assert (len(amounts), sum(amounts)) == (row["orders"], Decimal(row["revenue"]))
    whole = run("explain", "revenue-by-product", cwd=here).stdout
    assert whole == run("replay", cwd=here).stdout
    assert run("explain", "revenue-by-product", "--limit", "5", cwd=here).stdout == b"".join(
        whole.splitlines(keepends=True)[:5]
    )
    assert run("explain", "revenue-by-product", "--limit", "0", cwd=here).stdout == b""
    assert "names no value" in failed(3, "explain", "revenue-by-product", "--row", "day", cwd=here)
    assert "no key 'dya'" in failed(3, "explain", "revenue-by-product", "--row", "dya=1", cwd=here)


def test_lineage_says_what_a_file_was_made_from(here: Path):
    run("project", "event-counts", "--set", "grain=month", cwd=here)
    (path,) = here.glob("segments/read-models/event-counts/v1/with-*/event-counts.parquet")
    found = json.loads(run("lineage", str(path), "--json", cwd=here).stdout)
    assert (found["projection"], found["position"], found["matches"]) == ("event-counts", 12, True)
    assert found["parameters"]["grain"] == "month"
    assert b"grain = month" in run("lineage", str(path), cwd=here).stdout
    flip(path, 20)
    assert json.loads(run("lineage", str(path), "--json", cwd=here, code=24).stdout)["matches"] is False
    assert "no file" in failed(4, "lineage", "none.parquet", cwd=here)
    (here / "text.parquet").write_text("no Parquet")
    assert "no Parquet file" in failed(4, "lineage", "text.parquet", cwd=here)


def test_a_read_model_of_which_a_byte_was_turned_over_is_not_given_as_data(here: Path):
    before = run("project", "event-counts", "--format", "csv", cwd=here).stdout
    (path,) = here.glob("segments/read-models/event-counts/v1/event-counts.parquet")
    flip(path, 20)
    assert "not what was written" in failed(24, "project", "event-counts", "--stale", cwd=here)
    done = run("project", "event-counts", "--format", "csv", cwd=here, code=None)
    assert (done.returncode, done.stdout) in ((0, before), (24, b""))
    assert run("project", "event-counts", "--full", "--format", "csv", cwd=here).stdout == before


def test_read_models_of_other_parameters_are_found_and_dropped(here: Path):
    for settings in ([], ["--set", "grain=week"]):
        run("project", "revenue-by-product", *settings, cwd=here)
    shown = run("projections", "kept", cwd=here).stdout.decode().splitlines()
    assert len(shown) == 3
    assert "grain=week" in shown[2]
    found = json.loads(run("projections", "kept", "revenue-by-product", "--json", cwd=here).stdout)["read_models"]
    assert [each["serves"] for each in found] == [True, False]
    run("projections", "drop", found[1]["id"], cwd=here)
    left = json.loads(run("projections", "kept", "--json", cwd=here).stdout)["read_models"]
    assert [each["id"] for each in left] == ["revenue-by-product/v1"]
    assert "no read model" in failed(19, "projections", "drop", found[1]["id"], cwd=here)


def in_a_terminal(width: int, *arguments: str, cwd: Path) -> list[str]:
    """The lines that a command prints to a terminal of some columns, without colours."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (40, width))
    command = [*COMMAND, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "EVTOOL_LOG")}
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    assert done.returncode == 0
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while part := os.read(leader, 65_536):
            shown += part
    os.close(leader)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


def test_a_narrow_terminal_cuts_no_number_and_no_name(here: Path):
    run("project", "event-counts", "--set", "grain=week", cwd=here)
    run("project", "revenue-by-product", cwd=here)
    names = {
        each["id"] for each in json.loads(run("projections", "kept", "--json", cwd=here).stdout)["read_models"]
    }
    shown = in_a_terminal(70, "projections", "kept", cwd=here)
    assert {text.split()[0] for text in shown[1:-1]} == names
    assert "columns fit into this terminal" in shown[-1]
    listed = in_a_terminal(80, "projections", "list", cwd=here)
    assert all(len(text) <= 80 for text in listed)
    assert any(text.startswith("experiment-outcomes ") for text in listed)
    revenue = {
        row["revenue"]
        for row in json.loads(run("project", "revenue-by-product", "--format", "json", cwd=here).stdout)
    }
    table = in_a_terminal(80, "project", "revenue-by-product", cwd=here)
    assert {text.split()[2] for text in table[1:]} == revenue


def test_names_of_emoji_between_colons_stay_what_they_are(here: Path):
    assert "no:boom:log" in failed(10, "stats", "--log", "no:boom:log", cwd=here)


def test_a_pipe_gets_the_whole_of_a_table(here: Path):
    settings = ["--set", f"where=event_type <> '{'x' * 300}'"]
    run("project", "event-counts", *settings, cwd=here)
    assert b"x" * 300 in run("projections", "kept", cwd=here).stdout


def test_the_folder_of_a_version_is_not_taken_for_parts(here: Path):
    run("project", "event-counts", "--set", "grain=week", cwd=here)
    run("project", "event-counts", cwd=here)
    assert "not the folder of a read model's parts" in failed(
        4, "lineage", "segments/read-models/event-counts/v1", cwd=here
    )


def test_an_exported_file_says_what_it_was_made_from(here: Path):
    run("project", "event-counts", "--out", "all.parquet", cwd=here)
    run("project", "event-counts", "--to", "@7", "--out", "part.parquet", cwd=here)
    run("project", "event-counts", "--stale", "--out", "stale.parquet", cwd=here)
    found = {
        name: json.loads(run("lineage", f"{name}.parquet", "--json", cwd=here).stdout)
        for name in ("all", "part", "stale")
    }
    assert (found["all"]["projection"], found["all"]["position"], found["all"]["events"]) == (
        "event-counts",
        12,
        12,
    )
    assert (found["part"]["position"], found["part"]["to"], found["part"]["events"]) == (6, "@7", 6)
    assert (here / "stale.parquet").read_bytes() == (here / "all.parquet").read_bytes()
    kept = here / "segments/read-models/event-counts/v1/event-counts.parquet"
    assert (here / "all.parquet").read_bytes() == kept.read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[projections.parameters]\ngrian = "week"', "Did you mean 'grain'?"),
        ('[projections.parameters.session]\ngap = "5m"', "Did you mean 'sessions'?"),
        ('[projections.parameters.sessions]\ngip = "5m"', "sessions has no parameter 'gip'"),
    ],
)
def test_a_parameter_of_evtool_toml_that_nobody_has_is_told_with_the_list(here: Path, text: str, says: str):
    assert len(listed(here)) == 9
    (here / "evtool.toml").write_text(text + "\n")
    done = run("projections", "list", cwd=here, code=3)
    assert says in done.stderr.decode()
    assert len(done.stdout.splitlines()) == 10
