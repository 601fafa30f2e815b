"""Making a log: by several processes at once, behind a crash, where files have one name only."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import event, ids, make_log

import evtool
from evtool.errors import AccessDeniedError, LogExistsError
from evtool.files import AppendFile, Files
from evtool.log import manifest

PROCESSES = 8

# Each process waits for the end of its input, so that all of them start at once.
MAKING = """
import sys, evtool
sys.stdin.read()
print(evtool.open(sys.argv[1], create=True).manifest.id)
"""


class Overtaken(Files):
    """Half way through the making of a log, at some moment, something else is done."""

    def __init__(self, moment: str, overtake: Callable[[], None]) -> None:
        self._moment = moment
        self._overtake = overtake

    def _at(self, moment: str) -> None:
        if moment == self._moment:
            self._moment = ""
            self._overtake()

    def make_folder(self, path: Path) -> None:
        self._at("before the folder is made")
        super().make_folder(path)

    def open_append(self, path: Path, create: bool = False, durable: bool = True) -> AppendFile:
        self._at("before the file is made")
        return super().open_append(path, create, durable)

    def link(self, source: Path, target: Path) -> None:
        self._at("before it gets its name")
        super().link(source, target)


MOMENTS = ["before the folder is made", "before the file is made", "before it gets its name"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_log_that_two_processes_make_at_once(folder: Path, moment: str):
    """The other one makes it too, and stores an event: both go on with the log of one of them."""
    files = Overtaken(moment, lambda: make_log(folder, [[event(1)]]) and None)
    with evtool.open(folder, create=True, files=files) as log:
        log.append([event(2)])
    make_log(folder, [[event(3)]])
    assert ids(evtool.open(folder, read_only=True)) == ["event-1", "event-2", "event-3"]
    assert list(folder.glob("*.tmp")) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_log_that_is_only_made_is_made_once(folder: Path, moment: str):
    made: list[str] = []
    files = Overtaken(moment, lambda: made.append(manifest.create(Files(), folder, 3).id))
    with pytest.raises(LogExistsError, match="already"):
        manifest.create(files, folder, 8)
    assert [evtool.open(folder).manifest.id] == made


def test_many_processes_make_one_log(folder: Path):
    command = [sys.executable, "-c", MAKING, str(folder)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    made = {process.communicate(timeout=100)[0] for process in processes}
    assert made == {f"{evtool.open(folder).manifest.id}\n"}
    assert [path.name for path in folder.iterdir()] == ["log.json"]


def test_what_a_crash_left_of_the_making_of_a_log_is_in_nobody_s_way(folder: Path):
    folder.mkdir()
    for name in ("log.json.tmp", f"log.json.{'0123456789abcdef' * 2}.tmp"):
        (folder / name).write_bytes(b'{"format"')
    make_log(folder, [[event(1)]])
    assert ids(evtool.open(folder)) == ["event-1"]


@pytest.mark.parametrize("is_overtaken", [False, True])
@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP], ids=["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_links(folder: Path, error: int, is_overtaken: bool):
    class OneName(Files):
        def link(self, source: Path, target: Path) -> None:
            if is_overtaken:
                make_log(folder, [[event(1)]])
            raise OSError(error, os.strerror(error))

    with evtool.open(folder, create=True, files=OneName()) as log:
        log.append([event(2)])
    assert ids(evtool.open(folder)) == ["event-1", "event-2"][not is_overtaken :]
    assert list(folder.glob("*.tmp")) == []


def test_an_error_leaves_nothing_behind(folder: Path):
    class Forbidden(Files):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(AccessDeniedError, match=r"log\.json"):
        evtool.open(folder, create=True, files=Forbidden())
    assert list(folder.iterdir()) == []
