"""Erasing from a log with an archive: cut short anywhere, the next one leaves nothing of it there, nor here."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import taken_over
from backing import FaultyStore
from compacting import compacted, small_pieces
from erasures import MARKER, STREAM, found
from faults import Fault, FaultyFiles, Killed
from samples import MOMENT_NS, event

import evtool
from evtool.config import ArchiveConfig, Config, LogConfig
from evtool.errors import StoreError
from evtool.lifecycle.archiving import checking, moving, place, planning
from evtool.lifecycle.erasing import doing, pending
from evtool.lifecycle.erasing import planning as erasures
from evtool.lifecycle.erasing.choosing import Wanted
from evtool.lifecycle.verify import verify
from evtool.objectstore import opening

KINDS = ("write", "fdatasync", "replace", "remove")
BY_STREAM = Wanted((STREAM,))
COUNT = 30  # events of a segment
STEP = 17


class FaultyRemovals(FaultyFiles):
    """Files of which removals are counted, and fail, too."""

    def remove(self, path: Path) -> None:
        self._call("remove", path, lambda share: super(FaultyRemovals, self).remove(path) if share == 1 else None)

    def remove_folder(self, path: Path) -> None:
        def part(share: float) -> None:
            if share == 1:
                super(FaultyRemovals, self).remove_folder(path)

        self._call("remove", path, part)


def settings(root: Path) -> Config:
    return Config(
        log_path=root / "segments",
        log=LogConfig(partitions=2, fsync="never"),
        archive=ArchiveConfig(to=(root / "archive").as_uri()),
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two archived segments, of which something is cached, and a hot one; the stream is in all of them."""
    root = tmp_path_factory.mktemp("archived")
    config = settings(root)
    for start in range(0, 2 * COUNT, COUNT):
        with evtool.open(config.log_path, create=True, config=config) as log:
            log.append([_event(number) for number in range(start, start + COUNT)])
            log.seal()
    compacted(config.log_path, 0)
    with evtool.open(config.log_path, config=config) as log:
        moving.move_all(log, config, planning.plan(log, config.archive, MOMENT_NS * 2), config.archive.to or "")
        log.append([_event(number) for number in range(2 * COUNT, 3 * COUNT)])
        log.seal()
        log.append([event(3 * COUNT, "user-1")])
    with evtool.open(config.log_path, read_only=True, config=config) as log:
        assert sum(map(len, log.scan())) == 3 * COUNT + 1
    assert {path.split("/")[0] for path in found(root)} == {"archive", "segments"}
    assert any("cache" in path for path in found(root))
    return root


def _event(number: int) -> dict[str, Any]:
    is_theirs = number % 4 == 0
    return event(
        number,
        STREAM if is_theirs else "user-1",
        timestamp=MOMENT_NS + number,
        payload=f'{{"name":"{MARKER if is_theirs else "nobody"}"}}',
    )


def copied(kept: Path, tmp_path: Path, number: int) -> Path:
    """The same log and archive, at another place, which archive.json is told."""
    root = Path(shutil.copytree(kept, tmp_path / str(number)))
    path = root / "segments/archive.json"
    path.write_text(path.read_text().replace(kept.as_uri(), root.as_uri()))
    taken_over(root / "segments")
    return root


def erase(root: Path, files: FaultyFiles | None = None) -> None:
    config = settings(root)
    with small_pieces(), evtool.open(config.log_path, config=config, files=files) as log:
        doing.apply(log, config, erasures.plan(log, config, BY_STREAM))


def erase_again(root: Path) -> None:
    """What the next `evtool erase` does."""
    config = settings(root)
    with small_pieces(), evtool.open(config.log_path, config=config) as log:
        if doing.resume(log, config) is None:
            plan = erasures.plan(log, config, BY_STREAM)
            if not plan.is_empty:
                doing.apply(log, config, plan)


def check(root: Path, is_thorough: bool) -> None:
    assert found(root) == []
    assert not pending.is_there(root / "segments")
    if not is_thorough:
        return
    config = settings(root)
    with evtool.open(config.log_path, config=config) as log:
        report = checking.check(place.existing(log), is_quick=False)
        assert (report.damaged, report.unnamed) == ((), 0)
        assert (verify(log).findings, verify(log).notes) == ([], [])


def rounds(total: int, step: int) -> Iterator[tuple[int, bool]]:
    """Calls at which to be killed, before or behind their effect."""
    return ((call, bool(call // step % 2)) for call in range(1, total + 1, step))


def test_killed_at_each_file_operation_nothing_is_left_behind_the_next(kept: Path, tmp_path: Path):
    counting = FaultyRemovals()
    erase(copied(kept, tmp_path, 0), counting)
    check(tmp_path / "0", is_thorough=True)
    total = sum(kind in KINDS for kind, _ in counting.calls)
    for call, is_done in rounds(total, STEP):
        root = copied(kept, tmp_path, call)
        with pytest.raises(Killed):
            erase(root, FaultyRemovals(Fault(call, float(is_done), kinds=KINDS)))
        erase_again(root)
        check(root, call % 10 == 0)
        shutil.rmtree(root)


def test_a_store_that_fails_at_any_operation_keeps_nothing_behind_the_next(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def erase_failing(number: int, call: int) -> tuple[Path, int]:
        root, stores = copied(kept, tmp_path, number), list[FaultyStore]()
        with monkeypatch.context() as patch:
            _let_fail(patch, stores, call)
            with contextlib.suppress(StoreError):
                erase(root)
        return root, max(each.calls for each in stores)

    _, total = erase_failing(0, 0)
    assert total > 20
    for call, _ in rounds(total, STEP):
        root, _ = erase_failing(call, call)
        erase_again(root)
        check(root, call % 5 == 0)
        shutil.rmtree(root)


def _let_fail(patch: pytest.MonkeyPatch, stores: list[FaultyStore], call: int) -> None:
    """Have every store that is opened fail from a call on."""
    opened = opening.open_store

    def open_faulty(*arguments: Any, **named: Any) -> FaultyStore:
        stores.append(FaultyStore(opened(*arguments, **named), call, StoreError("gone"), call % 2 == 0))
        return stores[-1]

    for module in (opening, place):
        patch.setattr(module, "open_store", open_faulty)
