"""Which read models are kept, and what is left when one is dropped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults import Killed
from projecting import make, open_projection, purchase, refreshed

import evtool
from evtool.errors import ProjectionError
from evtool.files import Files
from evtool.projections import inventory, places

NAME = "revenue-by-product"
SETTINGS = ({}, {"grain": "week"}, {"grain": "month"})


class EndsAtARemoval(Files):
    """The process ends before the removal of this number, from 1."""

    def __init__(self, call: int) -> None:
        self.left = call

    def remove(self, path: Path) -> None:
        self.left -= 1
        if not self.left:
            raise Killed
        super().remove(path)


@pytest.fixture
def root(folder: Path) -> Path:
    """The folder of read models of a log, with one projection in three sets of parameters, and another."""
    make(folder, [[purchase(number, f"u{number % 3}", hours=number) for number in range(40)]])
    with evtool.open(folder, read_only=True) as log:
        for settings in SETTINGS:
            refreshed(log, NAME, **settings)
        refreshed(log, "sessions")
    return folder / "read-models"


def ids(root: Path) -> list[str]:
    return [each.id for each in inventory.kept(root)]


def test_every_read_model_is_listed_with_what_it_was_made_with(root: Path):
    found = inventory.kept(root)
    assert [(each.name, each.serves) for each in found] == [
        (NAME, True),
        (NAME, False),
        (NAME, False),
        ("sessions", True),
    ]
    assert {each.lineage["parameters"]["grain"] for each in found[:3]} == {"day", "week", "month"}
    on_disk = [sum(path.stat().st_size for path in each.folder.rglob("*.*")) for each in found[1:]]
    assert all(each.bytes > size > 0 for each, size in zip(found[1:], on_disk, strict=True))  # and the checkpoint
    assert [each.id for each in inventory.kept(root, "sessions")] == ["sessions/v1"]
    assert inventory.kept(root / "nothing") == []


def test_dropping_one_leaves_the_others_and_it_can_be_made_again(root: Path, folder: Path):
    before = ids(root)
    with evtool.open(folder, read_only=True) as log:
        expected = refreshed(log, NAME)[1]
        inventory.drop(Files(), root, inventory.find(root, f"{NAME}/v1"))
        assert ids(root) == before[1:]
        for settings in SETTINGS[1:]:
            assert open_projection(log, NAME, **settings).runner.stale().position == 40
        assert refreshed(log, NAME)[1] == expected
    assert ids(root) == before


def test_the_promoted_one_is_not_dropped(root: Path):
    shutil.copytree(root / NAME / "v1", root / NAME / "v2")
    places.promote(Files(), root, NAME, 1)
    with pytest.raises(ProjectionError, match="is the one that serves"):
        inventory.drop(Files(), root, inventory.find(root, f"{NAME}/v1"))
    other = ids(root)[1]
    inventory.drop(Files(), root, inventory.find(root, other))
    assert other not in ids(root)


def test_the_last_version_goes_even_if_it_was_promoted(root: Path, folder: Path):
    places.promote(Files(), root, "sessions", 1)
    inventory.drop(Files(), root, inventory.find(root, "sessions/v1"))
    assert inventory.kept(root, "sessions") == []
    assert places.promoted(root, "sessions") is None
    with evtool.open(folder, read_only=True) as log:
        assert refreshed(log, "sessions")[0].position == 40


def test_one_that_is_not_there_is_told_with_one_that_is(root: Path):
    with pytest.raises(ProjectionError) as caught:
        inventory.find(root, "session/v1")
    assert "Did you mean sessions/v1?" in str(caught.value.hint)
    for wanted in ("", "..", "../segments", "/", f"{NAME}/v1/state"):
        with pytest.raises(ProjectionError, match="no read model"):
            inventory.find(root, wanted)


def test_killed_at_any_removal_the_rest_is_whole_or_made_anew(root: Path, folder: Path):
    with evtool.open(folder, read_only=True) as log:
        expected = refreshed(log, NAME)[1]
        for call in range(1, 20):
            files = EndsAtARemoval(call)
            try:
                inventory.drop(files, root, inventory.find(root, f"{NAME}/v1"))
            except Killed:
                assert refreshed(log, NAME)[1] == expected
            else:
                break
        assert call > 4
        assert f"{NAME}/v1" not in ids(root)
