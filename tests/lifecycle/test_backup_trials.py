"""What went wrong with backups and restores in the hands of others: each named after its damage."""

from __future__ import annotations

from pathlib import Path

from backing import backed_up, place
from samples import make_log, many

from evtool.files import Files
from evtool.lifecycle.backups import checking
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
