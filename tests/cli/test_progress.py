"""The progress that a terminal shows: when it comes, what it says, and that nothing of it stays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import within
from command_line import TIMEOUT_SECONDS, environment, line
from terminal import OnTerminal

# Work that goes on until its input ends, and never does all of what there is.
_WORK = """
import select, sys
from evtool.cli import progress
done, total = 0, int(sys.argv[1])
try:
    with progress.shown("work") as tell:
        while not select.select([0], [], [], 0.01)[0]:
            done = min(done + 1, 750)
            tell(done, total)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
print("rich.progress" in sys.modules)
"""
_NOTHING_IN_SECONDS = 1.2
_BAR = "[━╸╺]+"

# A command that shows its progress at once, and does not end before it has shown how far it was in the end.
_COMMAND = f"""
import threading
from evtool.cli import app, progress
progress._DELAY_SECONDS, progress._REFRESH_SECONDS = 0, 0.02
looked, look, end = threading.Semaphore(0), progress._Line._look_again, progress._Line.end
def end_when_seen(line):
    while looked.acquire(blocking=False):
        pass
    for _ in range(2):  # the first look may have begun before
        looked.acquire(timeout={TIMEOUT_SECONDS})
    end(line)
progress._Line._look_again = lambda *arguments: (look(*arguments), looked.release())
progress._Line.end = end_when_seen
app.main()
"""


@pytest.fixture(scope="module")
def works() -> dict[str, OnTerminal]:
    """The same work on different terminals, until each shows what is to be seen there."""
    started = {
        "plain": (OnTerminal("-c", _WORK, "1000"), " left"),
        "without a total": (OnTerminal("-c", _WORK, "0"), " events/s"),
        "without colour": (OnTerminal("-c", _WORK, "1000", NO_COLOR="1"), " left"),
        "ASCII": (OnTerminal("-c", _WORK, "1000", PYTHONIOENCODING="ascii"), " left"),
        "60": (OnTerminal("-c", _WORK, "1000", columns=60), " left"),
        "40": (OnTerminal("-c", _WORK, "1000", columns=40), " left"),
        "20": (OnTerminal("-c", _WORK, "1000", columns=20), " %"),
        "7": (OnTerminal("-c", _WORK, "1000", columns=7), "w"),
    }
    for work, shown in started.values():
        work.read_until(shown)
    for work, _ in started.values():
        assert work.end() == ("True\n", 0)
    return {name: work for name, (work, _) in started.items()}


def test_a_line_says_how_far_the_work_is_and_is_gone_in_the_end(works: dict[str, OnTerminal]):
    work = works["plain"]
    left = r"\d+:\d\d:\d\d left"
    assert re.fullmatch(rf"work {_BAR} +\d+ %, {left}, \d+ of 1,000 events, \d+ events/s", work.lines[-1])
    assert work.screen == ""


def test_what_has_no_total_has_no_share(works: dict[str, OnTerminal]):
    assert re.fullmatch(r"work \d+ events, \d+ events/s, \d+:\d\d:\d\d", works["without a total"].lines[-1])
    assert works["without a total"].screen == ""


def test_work_of_less_than_a_second_shows_nothing():
    work = OnTerminal("-c", _WORK, "1000")
    assert work.end() == ("False\n", 0)
    assert work.drawn == ""


def test_a_terminal_that_takes_no_line_back_gets_none():
    work = OnTerminal("-c", _WORK, "1000", TERM="dumb")
    time.sleep(_NOTHING_IN_SECONDS)
    assert work.end() == ("False\n", 0)
    assert work.drawn == ""


def test_a_pipe_gets_nothing():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    forced = environment(FORCE_COLOR="1", TTY_COMPATIBLE="1")
    with subprocess.Popen([sys.executable, "-c", _WORK, "1000"], env=forced, **pipes) as work:
        time.sleep(_NOTHING_IN_SECONDS)
        assert work.communicate(timeout=TIMEOUT_SECONDS) == (b"False\n", b"")


def test_no_color_is_heeded(works: dict[str, OnTerminal]):
    colours = r"\x1b\[[0-9;]*\b[349]\d"
    assert re.search(colours, works["plain"].drawn)
    assert not re.search(colours, works["without colour"].drawn)
    assert works["without colour"].lines[-1].startswith("work ━")


def test_a_terminal_that_knows_ascii_alone_gets_no_more(works: dict[str, OnTerminal]):
    assert works["ASCII"].lines[-1].startswith("work --")
    assert "\\u" not in works["ASCII"].drawn


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (7, "w"),
        (20, r"work +\d+ %"),
        (40, rf"work {_BAR} +\d+ %, .* left"),
        (60, rf"work {_BAR} +\d+ %, .* left, \d+ of 1,000 events"),
    ],
)
def test_a_narrow_terminal_gets_what_fits_in_one_line(works: dict[str, OnTerminal], columns: int, said: str):
    work = works[str(columns)]
    assert all(len(line) <= columns for line in work.lines)
    assert re.match(said, work.lines[-1])
    assert work.screen == ""


def test_ctrl_c_leaves_a_clean_terminal():
    work = OnTerminal("-c", _WORK, "1000")
    work.read_until(" left")
    work.press(b"\x03")
    work.read_until("interrupted")
    assert work.end() == ("True\n", 0)
    assert work.screen == "interrupted"
    assert "\x1b[?25l" not in work.drawn  # no cursor is hidden, which no end could leave hidden


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of 200 events in a sealed segment and 100 in one that is not."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    for first, count in ((0, 200), (200, 100)):
        filled = (line(n, metadata={"fill": os.urandom(400).hex()}) for n in range(first, first + count))
        within.run("ingest", cwd=folder, stdin=b"".join(filled))
    return folder


def test_an_ingest_shows_how_far_in_the_bytes_of_its_files_it_is(tmp_path: Path):
    (tmp_path / "events.ndjson").write_bytes(b"".join(map(line, range(100))) + b"{\n")
    work = OnTerminal("-c", _COMMAND, "ingest", "events.ndjson", cwd=tmp_path)
    _, code = work.end()
    assert code == 0
    said = rf"ingest {_BAR} 100 %, 100 events, [\d,]+ events/s, \d+ MB/s, 1 dead letter"
    assert any(re.fullmatch(said, each) for each in work.lines), work.lines
    assert work.screen.startswith("accepted 100 events")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("verify", {"verify": 300}),
        ("project daily-active-users --format csv", {"daily-active-users": 300}),
        ("snapshot take daily-active-users", {"daily-active-users": 300}),
        ("reindex", {"reindex": 300}),
        ("compact", {"compact": 200}),
        (
            "nightly --skip verify --projection daily-active-users",
            {"recompute": 300, "snapshot": 0, "compact": 200},
        ),
    ],
)
def test_commands_tell_how_many_events_are_done(here: Path, tmp_path: Path, command: str, told: dict[str, int]):
    shutil.copytree(here, tmp_path, dirs_exist_ok=True)
    work = OnTerminal("-c", _COMMAND, *command.split(), cwd=tmp_path)
    _, code = work.end()
    assert code == 0
    for name, count in told.items():
        said = rf"{name} {_BAR} 100 %, {count} of {count} events.*" if count else f"{name} 0 events.*"
        assert any(re.fullmatch(said, each) for each in work.lines), work.lines
        assert not re.search(f"^{name} ", work.screen, re.M)
