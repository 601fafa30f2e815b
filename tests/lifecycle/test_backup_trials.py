"""What went wrong with backups and restores in the hands of others: each named after its damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from backing import FaultyStore, backed_up, place, replay, restored
from faults import Fault, FaultyFiles, Killed
from samples import make_log, many

import evtool
from evtool.errors import ConfigError, LogExistsError, LogNotFoundError, PositionError
from evtool.files import Buffer, Files
from evtool.lifecycle.backups import checking, making
from evtool.objectstore.folder import FolderStore


class Meeting(Files):
    """At the first rename another one puts the same object, from its beginning to its end."""

    def __init__(self, other: FolderStore, name: str, data: bytes) -> None:
        self._others = [(other, name, data)]

    def replace(self, source: Path, target: Path) -> None:
        while self._others:
            other, name, data = self._others.pop()
            other.put(name, data)
        super().replace(source, target)


def test_two_copies_of_a_log_that_put_one_object_at_once_both_have_it(folder: Path):
    make_log(folder, [many(50)])
    found = backed_up(folder).manifest.files[0].object
    data = place(folder).get(found)
    FolderStore(Meeting(place(folder), found, data), place(folder).folder).put(found, data)
    assert place(folder).get(found) == data
    assert [each.name for each in place(folder).list("objects/") if each.name.endswith(".tmp")] == []
    assert checking.check(place(folder)).damaged == ()


@pytest.mark.parametrize("until", ["", "@x", "nobody"])
def test_a_bound_that_makes_no_sense_leaves_nothing_behind(folder: Path, tmp_path: Path, until: str):
    make_log(folder, [many(50)])
    backed_up(folder)
    with pytest.raises((ConfigError, PositionError)):
        restored(place(folder), tmp_path / "again", until)
    assert [*(tmp_path / "again").iterdir()] == []


def test_a_folder_in_which_a_restore_was_cut_short_is_told_by_those_who_look_for_a_log(
    folder: Path, tmp_path: Path
):
    make_log(folder, [many(50)])
    backed_up(folder)
    with pytest.raises(Killed):
        restored(place(folder), tmp_path / "again", files=FaultyFiles(Fault(12)))
    for create in (True, False):
        with pytest.raises((LogExistsError, LogNotFoundError), match="a restore was cut short"):
            evtool.open(tmp_path / "again", create=create)
    restored(place(folder), tmp_path / "again")


def test_a_new_disk_with_its_lost_and_found_takes_a_restore(folder: Path, tmp_path: Path):
    make_log(folder, [many(50)])
    backed_up(folder)
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    with pytest.raises(Killed):
        restored(place(folder), disk, files=FaultyFiles(Fault(12)))
    restored(place(folder), disk)
    assert replay(disk) == replay(folder)
    assert (disk / "lost+found").is_dir()


class Looking(FaultyStore):
    """Before the manifest is stored something else is done."""

    def __init__(self, store: FolderStore, meanwhile: Callable[[], object]) -> None:
        super().__init__(store)
        self._meanwhile = meanwhile

    def put(self, name: str, data: Buffer) -> None:
        if name.startswith("backups/"):
            self._meanwhile()
        super().put(name, data)


def test_two_copies_that_went_apart_and_are_backed_up_in_one_second_keep_both_backups(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Standing(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Standing:
            return cls(2026, 1, 31, 3, 17, tzinfo=tz)

    monkeypatch.setattr(making, "datetime", Standing)
    make_log(folder, [many(50)])
    shutil.copytree(folder, tmp_path / "copy")
    make_log(folder, [many(10, 50)])
    make_log(tmp_path / "copy", [many(20, 50)])
    backed_up(folder, Looking(place(folder), lambda: backed_up(tmp_path / "copy", place(folder))))
    found = checking.every(place(folder))
    assert sorted(each.manifest.position for each in found if each.manifest) == [60, 70]
