"""A log on a file system that takes no writes: what reads works, what writes is refused in a sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import lines
from within import run

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log, a read model and a snapshot, which can only be read from here on."""
    for start in (0, 10):
        run("ingest", cwd=tmp_path, stdin=lines(*range(start, start + 10)))
        (tmp_path / "evtool.toml").write_text('[log]\nsegment_bytes = "64KiB"\n')
    run("project", "event-counts", cwd=tmp_path)
    run("snapshot", "take", "event-counts", cwd=tmp_path)
    read_only(tmp_path, monkeypatch)
    return tmp_path


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the calls that change something below a folder fail as on a file system that is mounted read-only."""

    def refuse(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            there = Path(os.fsdecode(path))
            if (Path.cwd() / there).is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(name: str, is_change: Callable[..., bool] = lambda *arguments: True) -> None:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if is_change(*arguments):
                refuse(path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, name, call)

    guarded("open", lambda flags=0, *rest: bool(flags & WRITING))
    for name in ("mkdir", "unlink", "rmdir", "rename", "replace", "truncate", "symlink", "link"):
        guarded(name)


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        ("verify",),
        ("verify", "--fast"),
        ("verify", "--since", "@15"),
        ("stats",),
        ("replay",),
        ("snapshot", "list"),
        ("compact", "--dry-run"),
        ("inspect", "1"),
    ],
    ids=" ".join,
)
def test_what_only_reads_works(here: Path, command: tuple[str, ...]):
    before = everything(here)
    run(*command, cwd=here)
    assert everything(here) == before


@pytest.mark.parametrize(
    "command",
    [
        ("compact",),
        ("nightly",),
        ("snapshot", "take", "event-counts", "--label", "other"),
        ("project", "event-counts", "--full"),
        ("project", "daily-active-users"),
        ("reindex",),
        ("ingest",),
    ],
    ids=" ".join,
)
def test_what_writes_is_refused_in_a_sentence(here: Path, command: tuple[str, ...]):
    before = everything(here)
    told = run(*command, cwd=here, stdin=lines(99), code=22).stderr.decode()
    assert "Read-only file system" in told
    assert "Check the owner and the permissions, and that the disk is writable." in told
    assert everything(here) == before


def test_damage_is_told_all_the_same(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    path = here / "segments" / "HEAD"
    path.write_bytes(bytes(64))
    read_only(here, monkeypatch)
    assert b"HEAD: damaged, can be made again" in run("verify", cwd=here, code=24).stderr
