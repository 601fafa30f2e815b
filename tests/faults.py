"""An operating system that fails, and a disk after the power was cut."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evtool.files import AppendFile, Files, boot_identity
from evtool.log.format import HEAD_RECORD, seal

ANOTHER_BOOT = 0x0123_4567_89AB_CDEF


class Killed(BaseException):
    """The process ended here: like KeyboardInterrupt, nothing that a program handles."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the low-level call number `call` (from 1), and at every later one.

    `done` is how much of the call happens before: nothing (0), a part of what is written (a fraction), or
    all of it (1). `error` is what is raised: an errno, or None for the end of the process.
    """

    call: int
    done: float = 0.0
    error: int | None = None
    kinds: tuple[str, ...] = ("write", "fdatasync", "replace", "link")


class WatchedMap(mmap.mmap):
    """A mapping that remembers what was on stable storage after its last flush."""

    flushed = b""

    def flush(self, *arguments: int) -> None:
        super().flush(*arguments)
        self.flushed = self[:]


class FaultyFiles(Files):
    """The operating system with one fault; without any it just counts.

    `calls` are the low-level calls that were made, as (kind, file name). `synced` is how many bytes of each
    file were on stable storage after its last sync, `maps` are the mappings of files to be written.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.synced: dict[Path, int] = {}
        self.maps: dict[Path, WatchedMap] = {}
        self._paths: dict[int, Path] = {}

    def open_append(self, path: Path, create: bool = False, durable: bool = True) -> AppendFile:
        file = super().open_append(path, create, durable)
        self._paths[file._descriptor] = path
        self.synced.setdefault(path, file.size)
        return file

    def write(self, descriptor: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)

        def part(share: float) -> int:
            size = int(len(data) * share)
            return os.write(descriptor, data[:size]) if size else 0

        return self._call("write", self._paths[descriptor], part)

    def fdatasync(self, descriptor: int) -> None:
        path = self._paths[descriptor]

        def part(share: float) -> None:
            if share == 1:
                super(FaultyFiles, self).fdatasync(descriptor)
                self.synced[path] = os.fstat(descriptor).st_size

        self._call("fdatasync", path, part)

    def replace(self, source: Path, target: Path) -> None:
        def part(share: float) -> None:
            if share == 1:
                super(FaultyFiles, self).replace(source, target)
                self.synced[target] = self.synced.pop(source, 0)
                if source in self.maps:
                    self.maps[target] = self.maps.pop(source)

        self._call("replace", target, part)

    def link(self, source: Path, target: Path) -> None:
        def part(share: float) -> None:
            if share == 1:
                super(FaultyFiles, self).link(source, target)

        self._call("link", target, part)

    def map_writable(self, path: Path, size: int) -> mmap.mmap:
        super().map_writable(path, size).close()
        with path.open("r+b") as file:
            self.maps[path] = WatchedMap(file.fileno(), size)
        return self.maps[path]

    def _call(self, kind: str, path: Path, part: Callable[[float], int | None]) -> int | None:
        self.calls.append((kind, path.name))
        fault = self.fault
        number = sum(1 for made, _ in self.calls if fault and made in fault.kinds)
        if fault is None or number < fault.call or kind not in fault.kinds:
            return part(1)
        if number == fault.call:
            part(fault.done)
        if fault.error is None:
            raise Killed
        raise OSError(fault.error, os.strerror(fault.error))


def full_disk(call: int) -> FaultyFiles:
    """A disk that is full from a write on."""
    return FaultyFiles(Fault(call, done=0.5, error=errno.ENOSPC, kinds=("write",)))


def boot_again(folder: Path) -> None:
    """Let HEAD and the tables have been written in another boot of the machine than this one."""
    head = folder / "HEAD"
    if head.exists():
        record = np.frombuffer(head.read_bytes(), HEAD_RECORD).copy()
        record["boot"] = ANOTHER_BOOT
        head.write_bytes(seal(record))
    for table in folder.glob("index/*.table"):
        mine = boot_identity().to_bytes(8, "little")
        data = table.read_bytes()
        assert data[:4096].count(mine) <= 1  # none in a new table
        table.write_bytes(data[:4096].replace(mine, ANOTHER_BOOT.to_bytes(8, "little")) + data[4096:])


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Turn over one bit of a file; a second time brings it back."""
    with path.open("r+b") as file:
        file.seek(byte if byte >= 0 else path.stat().st_size + byte)
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ (1 << bit)]))
