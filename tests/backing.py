"""Backups and logs restored from them, for tests; and a store that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import evtool
from evtool.config import Config
from evtool.errors import StoreError
from evtool.files import Buffer, Files
from evtool.lifecycle.backups import manifest as manifests
from evtool.lifecycle.backups.making import Made, back_up
from evtool.lifecycle.backups.restoring import Restored, restore
from evtool.lifecycle.verify import verify
from evtool.objectstore.folder import FolderStore
from evtool.objectstore.store import Store, Stored

Result = TypeVar("Result")


class FaultyStore(Store):
    """A store with one fault: at call number `call` (from 1) and every later one `error` is raised.

    With `is_done` the call has had its effect. `calls` are those that were made, `puts` the names that were put.
    """

    def __init__(
        self, store: Store, call: int = 0, error: BaseException | None = None, is_done: bool = False
    ) -> None:
        super().__init__(store.url)
        self._store, self._call, self._is_done = store, call, is_done
        self._error = error or StoreError("it does not answer")
        self.calls = 0
        self.puts: list[str] = []

    def put(self, name: str, data: Buffer) -> None:
        self.puts.append(name)
        self._do(lambda: self._store.put(name, data))

    def read(self, name: str, start: int, end: int) -> bytes:
        return self._do(lambda: self._store.read(name, start, end))

    def get(self, name: str) -> bytes:
        return self._do(lambda: self._store.get(name))

    def head(self, name: str) -> Stored | None:
        return self._do(lambda: self._store.head(name))

    def list(self, prefix: str) -> Iterator[Stored]:
        return self._do(lambda: iter([*self._store.list(prefix)]))

    def delete(self, name: str) -> None:
        self._do(lambda: self._store.delete(name))

    def _do(self, work: Callable[[], Result]) -> Result:
        self.calls += 1
        if not self._call or self.calls < self._call:
            return work()
        if self._is_done and self.calls == self._call:
            work()
        raise self._error


def place(folder: Path) -> FolderStore:
    """Where the backups of a log are."""
    return FolderStore(Files(), folder.with_name("backups"))


def backed_up(folder: Path, store: Store | None = None) -> Made:
    """A backup of the log in a folder."""
    with evtool.open(folder) as log:
        return back_up(log, store or place(folder))


def restored(
    store: Store,
    target: Path,
    until: str | None = None,
    backup: str | None = None,
    files: Files | None = None,
    config: Config | None = None,
) -> Restored:
    """A log made from the newest backup, or another one."""
    found = manifests.find(store, backup)
    return restore(store, found, target, files or Files(), config or Config(), until)


def replay(folder: Path, **selected: int) -> bytes:
    """The events of a log as lines."""
    with evtool.open(folder, read_only=True) as log:
        return b"".join(log.replay(**selected))


def digest(folder: Path) -> str:
    """The logical digest of a log, which must verify clean."""
    report = verify(evtool.open(folder, read_only=True))
    assert (report.findings, report.notes) == ([], [])
    assert report.digest is not None
    return report.digest
