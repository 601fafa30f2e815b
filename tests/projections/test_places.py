"""Which folder has what of a projection, which versions there are, and which one serves."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from faults import Fault, FaultyFiles, Killed

from evtool.errors import ProjectionError
from evtool.files import Files
from evtool.projections.lineage import Lineage
from evtool.projections.places import Places, promote, promoted, versions
from evtool.projections.readmodel import write


def make(root: Path, version: int, rows: int = 1, rows_max: int = 10) -> None:
    lineage = Lineage("orders", version, "d", {}, rows, rows, {}, "log", 1, None)
    days = pl.DataFrame({"day": pl.int_range(rows, dtype=pl.Int32, eager=True).cast(pl.Date)})
    write(Files(), Places(root, "orders", version).folder, days, lineage, rows_max)


def test_each_version_and_set_of_parameters_has_its_folder(tmp_path: Path) -> None:
    plain, other = Places(tmp_path, "a.b-c_d", 3), Places(tmp_path, "a.b-c_d", 3, "0123456789abcdef" * 2)
    assert plain.folder == tmp_path / "a.b-c_d" / "v3"
    assert plain.state_folder == plain.folder / "state"
    assert plain.read_model == plain.folder / "a.b-c_d.parquet"
    assert other.folder == plain.folder / "with-0123456789abcdef"
    assert other.state_folder == other.folder / "state"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "-a", "a\n", "a\0", "ä", "x" * 129])
def test_a_name_that_is_none_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    for refused in (
        lambda: Places(tmp_path, name, 1),
        lambda: versions(tmp_path, name),
        lambda: promoted(tmp_path, name),
        lambda: promote(Files(), tmp_path, name, 1),
    ):
        with pytest.raises(ProjectionError, match="no name of a projection"):
            refused()


def test_neither_does_a_version_or_a_hash_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match="no version 0"):
        Places(tmp_path, "orders", 0)
    for parameters_hash in ("", "0123", "../../../etc/passwd", "0123456789ABCDEF"):
        with pytest.raises(ValueError, match="no hash"):
            Places(tmp_path, "orders", 1, parameters_hash)


def test_versions_are_those_with_a_read_model(tmp_path: Path) -> None:
    assert versions(tmp_path, "orders") == {}
    for version in (10, 2):
        make(tmp_path, version, rows=version, rows_max=5)
    Places(tmp_path, "orders", 11).state_folder.mkdir(parents=True)  # begun, not finished
    (tmp_path / "orders" / "v007").mkdir()
    (tmp_path / "orders" / "notes").touch()
    found = versions(tmp_path, "orders")
    assert {version: lineage["position"] for version, lineage in found.items()} == {2: 2, 10: 10}
    assert list(found) == [2, 10]


def test_the_highest_version_serves_until_one_is_promoted(tmp_path: Path) -> None:
    assert promoted(tmp_path, "orders") is None
    make(tmp_path, 1)
    make(tmp_path, 2)
    assert promoted(tmp_path, "orders") == 2
    promote(Files(), tmp_path, "orders", 1)
    assert promoted(tmp_path, "orders") == 1
    make(tmp_path, 3)
    assert promoted(tmp_path, "orders") == 1
    promote(Files(), tmp_path, "orders", 3)
    assert promoted(tmp_path, "orders") == 3


def test_a_version_without_a_read_model_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match=r"no read model of version 1 .*: it has none at all"):
        promote(Files(), tmp_path, "orders", 1)
    make(tmp_path, 1)
    make(tmp_path, 2)
    with pytest.raises(
        ProjectionError, match=r"no read model of version 3 .*: it has one of version 1, version 2"
    ):
        promote(Files(), tmp_path, "orders", 3)
    assert promoted(tmp_path, "orders") == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"version": "1"}', '{"version": true}', "\udcff"])
def test_a_damaged_promotion_is_said_and_can_be_made_again(tmp_path: Path, damage: str) -> None:
    make(tmp_path, 1)
    promote(Files(), tmp_path, "orders", 1)
    (tmp_path / "orders" / "promoted.json").write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(ProjectionError, match="is damaged"):
        promoted(tmp_path, "orders")
    promote(Files(), tmp_path, "orders", 1)
    assert promoted(tmp_path, "orders") == 1


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_end_while_promoting_leaves_what_served(tmp_path: Path, call: int) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2)
    promote(Files(), tmp_path, "orders", 1)
    with pytest.raises(Killed):
        promote(FaultyFiles(Fault(call)), tmp_path, "orders", 2)
    assert promoted(tmp_path, "orders") == 1
    promote(Files(), tmp_path, "orders", 2)
    assert promoted(tmp_path, "orders") == 2
