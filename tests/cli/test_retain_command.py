"""`evtool retain`: it shows what would go, asks, and says in sentences what makes no sense."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, TIMEOUT_SECONDS, environment, failed, run
from projecting import purchase
from samples import config, frame

import evtool

OLD = ("--events-older-than", "90d", "--by", "timestamp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a log of two sealed segments of old events, and an active one of a late one."""
    for first in (0, 20, 40):
        size = 1 if first < 40 else 1 << 20
        with evtool.open(tmp_path / "segments", create=True, config=config(segment_bytes=size)) as log:
            late = {"timestamp": 1_900_000_000 * 10**9} if first == 40 else {}
            log.append(frame([purchase(number, f"u{number % 3}") | late for number in range(first, first + 20)]))
    return tmp_path


def retain(folder: Path, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    done = run("retain", *arguments, "--json", cwd=folder, code=code)
    return json.loads(done.stdout), done.stderr.decode()


def test_a_plan_drops_nothing_and_yes_does(folder: Path):
    found, _ = retain(folder, *OLD, "--dry-run")
    assert (found["events"], found["emptied"], found["dropped"]) == (40, 2, None)
    (policy,) = found["policies"]
    assert (policy["policy"], policy["events"], policy["first"][:10]) == (
        "events older than 90d",
        40,
        "2026-01-01",
    )
    assert evtool.open(folder / "segments").position == 60
    found, _ = retain(folder, *OLD, "--yes")
    assert (found["dropped"]["events"], found["dropped"]["emptied"]) == (40, 2)
    told = run("retain", *OLD, "--yes", cwd=folder).stderr.decode()
    assert told == "nothing to drop\n"
    assert len(run("replay", cwd=folder).stdout.splitlines()) == 20
    assert "40 dropped" in run("stats", cwd=folder).stdout.decode()


def test_a_refresh_from_nothing_says_what_is_gone(folder: Path):
    run("project", "daily-active-users", cwd=folder)
    run("retain", *OLD, "--yes", cwd=folder)
    assert b"gone" not in run("project", "daily-active-users", cwd=folder).stderr
    gone = "40 events recorded up to 20"
    for arguments in (("--full",), ("--as-of", "@45")):
        told = run("project", "daily-active-users", *arguments, cwd=folder).stderr.decode()
        assert told.startswith(gone)
        assert told.endswith("are gone: this is made from what is left\n")
    told = run("project", "--all", "--full", cwd=folder).stderr.decode()
    assert f"daily-active-users: {gone}" in told


def test_policies_of_the_file_hold_and_flags_take_their_place(folder: Path):
    (folder / "evtool.toml").write_text(
        '[retain]\nevents = "90000d"\nby = "timestamp"\n[retain.types]\nItemPurchased = "30000d"\n'
    )
    found, _ = retain(folder, "--dry-run")
    assert [each["policy"] for each in found["policies"]] == [
        "events older than 90000d",
        "ItemPurchased older than 30000d",
    ]
    assert found["events"] == 0
    found, _ = retain(folder, "--dry-run", "--type", "ItemPurchased=12h", "--type", "Other=1w")
    assert [each["events"] for each in found["policies"]] == [0, 40, 0]
    report = json.loads(run("nightly", "--only", "retain", "--json", cwd=folder).stdout)
    assert [step["name"] for step in report["steps"]][:1] == ["retain"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no policy says what may go"),
        (("--events-older-than", "90"), "--events-older-than: '90' is no age"),
        (("--dead-letters", "soon"), "--dead-letters: 'soon' is no age"),
        (("--type", "ItemViewed"), "--type 'ItemViewed' gives no age"),
        (("--size", "much"), "--size: 'much' is no size"),
        (("--size", "1"), "the policies would drop every event that can be dropped, 40 of them"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(folder: Path, arguments: tuple[str, ...], told: str):
    assert told in failed(3, "retain", "--yes", *arguments, cwd=folder)
    assert evtool.open(folder / "segments").position == 60


def test_everything_takes_a_word_of_its_own(folder: Path):
    told = run("retain", "--size", "1", "--dry-run", cwd=folder).stderr.decode()
    assert "this is everything that can be dropped: it takes --all" in told
    assert retain(folder, "--size", "1", "--yes", "--all")[0]["dropped"]["events"] == 40


def test_without_a_terminal_it_asks_nobody(folder: Path):
    assert "there is no terminal" in failed(3, "retain", *OLD, cwd=folder)
    assert len(run("replay", cwd=folder).stdout.splitlines()) == 60


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 60), (b"y\n", 0, 20)])
def test_on_a_terminal_it_shows_the_plan_and_asks(folder: Path, answer: bytes, code: int, left: int):
    master, terminal = os.openpty()
    os.write(master, answer)
    done = subprocess.run(
        [*COMMAND, "retain", *OLD],
        cwd=folder,
        stdin=terminal,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    os.close(master)
    os.close(terminal)
    assert done.returncode == code
    assert b"Drop this for ever?" in done.stderr
    assert b"40 events of 2 segments, 2 of them whole" in done.stderr
    assert len(run("replay", cwd=folder).stdout.splitlines()) == left


def test_a_damaged_segment_is_named(folder: Path):
    path = sorted((folder / "segments").glob("0*"))[0] / "frames.log"
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    found, told = retain(folder, *OLD, "--yes", code=14)
    assert found["dropped"]["events"] == 20
    assert told.startswith(f"{path.parent.relative_to(folder)} was left as it is: ")


def test_a_type_that_no_event_has_is_told_before_others_go_by_the_age_of_all(folder: Path):
    ages = ("--events-older-than", "30d", "--type", "ItemPurchase=300d", "--type", "ItemPurchased=400d")
    told = run("retain", "--dry-run", *ages, cwd=folder).stderr.decode()
    assert "no event that is there has the type ItemPurchase: did you mean ItemPurchased?" in told
    assert told.count("no event that is there") == 1
