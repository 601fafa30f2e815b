"""Where a command writes what it was asked for: standard output, or a file that is whole or not there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from evtool.errors import ConfigError
from evtool.files import translated


@contextlib.contextmanager
def opened(path: str | None, log_folder: Path | None = None) -> Iterator[BinaryIO]:
    """Where to write: standard output (None or "-") or a file, compressed if it ends in .zst or .gz.

    A file appears under its name when it is whole; if it cannot be finished, nothing is left of it.
    Raises StorageError, or ConfigError for a file that cannot be, or lies in the folder of the log.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with translated("write", path):
        if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
            with Path(path).open("wb") as file:  # a pipe or a device, as /dev/stdout is written to as it is
                yield file
            return
        target = _behind_links(Path(path))
        if target.is_dir():
            raise ConfigError(f"{target} is a folder", "Name a file.")
        if not target.parent.is_dir():
            raise ConfigError(f"there is no folder {target.parent}", "Make it first.")
        if log_folder is not None and target.resolve().is_relative_to(log_folder.resolve()):
            raise ConfigError(f"{path} lies in the folder of the log", "Name a file in another folder.")
    beginning = os.fsdecode(os.fsencode(target.name)[:200])
    temporary = target.with_name(f".{beginning}.{os.getpid()}.tmp")
    try:
        with translated("write", target):
            with temporary.open("wb") as file, _compressed(file, Path(path).suffix) as stream:
                yield stream
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    """What a path leads to, which need not be there. Raises ConfigError when it leads nowhere."""
    try:
        target = path.resolve() if path.is_symlink() else path
    except RuntimeError:  # of Python before 3.13
        target = path
    if target.is_symlink():
        raise ConfigError(f"the links of {path} lead in a circle", "Name a file.")
    return target


@contextlib.contextmanager
def _compressed(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    if suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=3, threads=-1).stream_writer(file, closefd=False) as stream:
            yield stream
    elif suffix == ".gz":
        import gzip

        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as stream:
            yield stream  # type: ignore[misc]  # it has what a BinaryIO needs here: write
    else:
        yield file
