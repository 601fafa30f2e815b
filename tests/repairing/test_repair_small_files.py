"""Damage of log.json, of schemas, dead letters and the audit, repaired."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from backing import backed_up, place
from compacting import bring_to
from lost_logs import make
from mending import check_whole, held, repair
from samples import many

import evtool
from evtool.config import Config, LogConfig
from evtool.errors import LogFormatError


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("hot") / "segments")


def copied(source: Path, target: Path) -> Path:
    folder = target / "segments"
    shutil.copytree(source, folder)
    return folder


def test_dead_letters_that_cannot_be_mended_are_put_aside(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    path = folder / "dead-letters" / "dead-letters.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"raw":"bad"', b'"raw":"***"') + lines[2])
    done = repair(folder)
    assert path.read_bytes() == lines[0] + lines[2]
    assert [line is None for _, line in done.plan.letters] == [True]
    (aside,) = (folder / "damaged").glob("*/dead-letters/dead-letters.ndjson")
    assert b"***" in aside.read_bytes()
    check_whole(folder, held(hot), set())


def test_schemas_come_back_from_a_backup_and_stay_as_they_are_without(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    backed_up(folder)
    path = folder / "schemas" / "schemas.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"Other", b"***er"))
    done = repair(folder)
    assert done.plan.is_empty
    assert [finding.file for finding in done.plan.others] == [str(path)]
    repair(folder, place(folder))
    assert path.read_bytes() == whole


def test_an_audit_that_cannot_be_mended_begins_anew(hot: Path, tmp_path: Path):
    folder = copied(hot, tmp_path)
    path = folder / "audit.ndjson"
    whole = path.read_bytes()
    backed_up(folder)
    path.write_bytes(whole.replace(b"ingest", b"******"))
    repair(folder, place(folder))
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"ingest", b"******"))
    repair(folder)
    assert path.read_bytes() == b""
    asides = sorted((folder / "damaged").glob("*/audit.ndjson"))
    assert [b"******" in aside.read_bytes() for aside in asides] == [True, True]


@pytest.mark.parametrize("state", ["hot", "cold"])
def test_another_number_of_partitions_in_log_json_is_found_by_the_frames(tmp_path: Path, state: str):
    folder = tmp_path / "segments"
    with evtool.open(folder, create=True, config=Config(log=LogConfig(partitions=2, segment_bytes=1))) as log:
        log.append(many(5_000, streams=99))
    bring_to(folder, state)
    path = folder / "log.json"
    whole = path.read_bytes()
    before = held(folder)
    path.write_bytes(whole.replace(b'"partitions": 2', b'"partitions": 3'))
    assert repair(folder).plan.segments == ()
    assert path.read_bytes() == whole
    check_whole(folder, before, set())


def test_a_log_of_a_newer_evtool_is_not_taken_for_a_damaged_one(tmp_path: Path):
    folder = tmp_path / "segments"
    with evtool.open(folder, create=True):
        pass
    path = folder / "log.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 3'))
    with pytest.raises(LogFormatError):
        repair(folder)
