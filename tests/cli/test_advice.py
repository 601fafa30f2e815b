"""What evtool advises about read models that are damaged or missing mends them, when it is done as it is said."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from within import failed, run

LONGEST = """
import polars as pl


class Longest:
    name = "longest"
    version = 1

    def partial(self, events):
        return events.group_by("event_type").len("bytes")

    def merge(self, partials):
        return pl.concat(partials).group_by("event_type").agg(pl.col("bytes").sum())

    def finalize(self, state):
        return state.sort("event_type")
"""
OWN = 'name = "mine"\nversion = {}\n[keys]\nkind = "event_type"\n[measures]\nevents = "count(*)"\n'


def event(number: int) -> bytes:
    fields = {
        "event_id": f"e-{number}",
        "source_id": "s",
        "stream_id": f"u-{number % 3}",
        "event_type": "ItemPurchased",
    }
    when = f"2026-01-{number + 1:02}T00:00:00Z"
    return json.dumps(fields | {"timestamp": when, "payload": {"user_id": f"u-{number % 3}"}}).encode() + b"\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "evtool.toml").write_text("")
    run("ingest", "-", cwd=tmp_path, stdin=b"".join(map(event, range(20))))
    return tmp_path


def damage(folder: Path, pattern: str) -> None:
    paths = list(folder.glob(f"segments/read-models/{pattern}"))
    assert paths
    for path in paths:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data)


def advice(folder: Path) -> set[str]:
    found = json.loads(run("verify", "--json", cwd=folder, code=24).stdout)
    return {finding["hint"] for finding in found["findings"]}


def follow(folder: Path, hints: set[str]) -> None:
    """Do what is said, after which everything is well."""
    for hint in hints:
        words = shlex.split(hint[hint.index("evtool ") :])
        run(*words[1:], cwd=folder)
    run("verify", cwd=folder)


@pytest.mark.parametrize("what", ["state/*.sorted", "state/*.arrow", "state/checkpoint", "*.parquet"])
@pytest.mark.parametrize("settings", [[], ["--set", "user=payload.user_id || ' '"]], ids=["configured", "other"])
def test_a_damaged_state_is_mended_by_what_verify_says(here: Path, what: str, settings: list[str]):
    run("project", "sessions", *settings, cwd=here)
    pattern = "sessions/v1/" + ("with-*/" if settings else "") + what
    damage(here, pattern)
    (hint,) = advice(here)
    assert hint.startswith("Make it again: evtool project sessions ")
    assert hint.endswith("--full")
    follow(here, {hint})


def test_a_damaged_read_model_of_a_list_as_parameter_is_mended(here: Path):
    steps = """steps=["A B", "later: event_type > 'C'"]"""
    run("project", "funnel-conversion", "--set", steps, cwd=here)
    damage(here, "*/v1/with-*/*.parquet")
    follow(here, advice(here))


def test_a_damaged_read_model_of_a_projection_in_python_is_mended(here: Path):
    (here / "lengths.py").write_text(LONGEST)
    run("project", "lengths:Longest", cwd=here)
    damage(here, "longest/v1/*.parquet")
    assert advice(here) == {"Make it again: evtool project lengths:Longest --full"}
    follow(here, advice(here))


def test_a_damaged_read_model_of_a_definition_elsewhere_is_mended(here: Path):
    (here / "elsewhere.toml").write_text(OWN.format(1))
    run("project", "./elsewhere.toml", cwd=here)
    damage(here, "mine/v1/*.parquet")
    follow(here, advice(here))
    assert (here / "segments" / "read-models" / "mine" / "v1" / "mine.parquet").exists()


@pytest.mark.parametrize("left", ["another version", "nothing"])
def test_a_damaged_read_model_of_no_definition_is_to_be_dropped(here: Path, left: str):
    (here / "projections").mkdir()
    own = here / "projections" / "mine.toml"
    own.write_text(OWN.format(1))
    run("project", "mine", cwd=here)
    own.write_text(OWN.format(2))
    if left == "nothing":
        own.unlink()
    damage(here, "mine/v1/*.parquet")
    assert advice(here) == {"No definition makes it any more. Drop it: evtool projections drop mine/v1"}
    follow(here, advice(here))


def test_a_read_model_of_other_parameters_whose_lineage_is_lost_is_to_be_dropped(here: Path):
    run("project", "event-counts", "--set", "grain=hour", cwd=here)
    (path,) = here.glob("segments/read-models/event-counts/v1/with-*/*.lineage.json")
    path.write_text("{")
    follow(here, advice(here))


def test_advice_names_the_log_where_a_flag_did(here: Path):
    (here / "segments").rename(here / "other log")
    run("project", "event-counts", "--log", "other log", cwd=here)
    told = failed(19, "project", "event-counts", "--log", "other log", "--set", "grain=month", "--stale", cwd=here)
    assert "has no read model with these parameters yet" in told
    hint = told.splitlines()[1]
    words: list[Any] = shlex.split(hint[hint.index("evtool ") :])[1:]
    assert words == ["project", "event-counts", "--set", "grain=month", "--log", "other log"]
    run(*words, cwd=here)
    run(*words, "--stale", cwd=here)


def test_damage_of_what_can_be_made_again_has_its_own_exit_code(here: Path):
    run("project", "event-counts", cwd=here)
    run("snapshot", "take", "event-counts", cwd=here)
    (snapshot,) = json.loads(run("snapshot", "list", "--json", cwd=here).stdout)["snapshots"]
    (kept,) = here.glob("segments/snapshots/*/event-counts.parquet")
    kept.write_bytes(kept.read_bytes()[::-1])
    told = failed(24, "snapshot", "show", snapshot["id"], cwd=here)
    assert f"evtool snapshot drop {snapshot['id']} --yes" in told
    damage(here, "event-counts/v1/event-counts.parquet")
    assert "evtool project event-counts" in failed(24, "project", "event-counts", "--stale", cwd=here)
    follow(here, {told[told.index("Drop it:") : told.index(";")]} | {"Make it: evtool project event-counts"})


def test_a_snapshot_is_dropped_when_it_is_meant_alone(here: Path):
    run("snapshot", "take", "event-counts", "--label", "kept", cwd=here)
    (snapshot,) = json.loads(run("snapshot", "list", "--json", cwd=here).stdout)["snapshots"]
    assert "too short" in failed(19, "snapshot", "drop", snapshot["id"][:3], "--yes", cwd=here)
    assert "no terminal" in failed(3, "snapshot", "drop", snapshot["id"], cwd=here)
    told = run("snapshot", "drop", snapshot["id"][:4], "--yes", cwd=here).stderr.decode()
    assert f"dropped snapshot {snapshot['id']} of event-counts at position 20, 'kept'" in told


def test_a_version_that_serves_and_goes_stale_is_told(here: Path):
    (here / "projections").mkdir()
    for version in (1, 2):
        (here / "projections" / "mine.toml").write_text(OWN.format(version))
        run("project", "mine", cwd=here)
    listed = json.loads(run("projections", "list", "--json", cwd=here).stdout)["projections"]
    assert [(each["serves"], each["promoted"]) for each in listed if each["name"] == "mine"] == [(2, False)]
    assert b"no refresh changes it any more" in run("projections", "promote", "mine", "1", cwd=here).stderr
    assert b"no refresh" not in run("projections", "promote", "mine", "2", cwd=here).stderr


def test_other_parameters_are_those_that_differ_without_the_configured_ones_too(here: Path):
    for settings in ([], ["--set", "grain=week"]):
        run("project", "event-counts", *settings, cwd=here)
    run("projections", "drop", "event-counts/v1", cwd=here)
    shown = run("projections", "kept", cwd=here).stdout.decode()
    assert "grain=week" in shown
    assert "timezone" not in shown
