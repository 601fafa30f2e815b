"""Logs with an archive in a folder beside them, and what must hold of both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from backing import replay
from compacting import compacted, small_pieces
from samples import config, make_log, many, segments

import evtool
from evtool.config import ArchiveConfig, Config, RetainConfig
from evtool.files import Files
from evtool.lifecycle import retention
from evtool.lifecycle.archiving import checking, moving, place, planning, returning, sweeping
from evtool.lifecycle.archiving.moving import Report
from evtool.lifecycle.archiving.planning import Plan
from evtool.lifecycle.archiving.returning import Returned
from evtool.lifecycle.verify import verify
from evtool.objectstore.folder import FolderStore

SMALL = config(segment_bytes=6 * 1024, partitions=2)
COUNT = 100  # events of a segment


def make(folder: Path, cold: int = 4, hot: int = 1) -> Path:
    """A log of so many cold segments, so many sealed ones behind them, and an active one."""
    make_log(folder, [many(COUNT, number * COUNT) for number in range(cold)], SMALL)
    compacted(folder, 0)
    make_log(folder, [many(COUNT, (cold + number) * COUNT) for number in range(hot)], SMALL)
    make_log(folder, [many(7, (cold + hot) * COUNT)])
    assert len(segments(folder)) == cold + hot + 1
    return folder


def taken_over(folder: Path) -> Path:
    """The folder of a log that was copied or put back: it goes on with the archive."""
    if (path := folder / "archive.json").exists():
        owner = (folder / "log.json").stat().st_ino
        path.write_text(json.dumps(json.loads(path.read_text()) | {"owner": owner}))
    return folder


def store_folder(folder: Path) -> Path:
    """Where the archive of a log is."""
    return folder.with_name("archive")


def settings(folder: Path, **fields: Any) -> Config:
    """The configuration of a log whose archive is there."""
    fields = {"to": store_folder(folder).as_uri()} | fields
    return Config(log_path=folder, archive=ArchiveConfig(**fields))


def planned(folder: Path, **fields: Any) -> Plan:
    """What would be moved."""
    with evtool.open(folder, read_only=True) as log:
        return planning.plan(log, settings(folder, **fields).archive, time.time_ns())


def archived(folder: Path, files: Files | None = None, **fields: Any) -> Report:
    """Move what is due."""
    asked = settings(folder, **fields)
    with evtool.open(folder, files=files, config=asked) as log:
        plan = planning.plan(log, asked.archive, time.time_ns())
        return moving.move_all(log, asked, plan, place.url_of(log, asked))


def brought_back(folder: Path, since: int = 1, files: Files | None = None) -> Returned:
    """Bring segments back from a position on."""
    asked = settings(folder)
    with evtool.open(folder, files=files, config=asked) as log:
        return returning.bring_back(log, since)


def dropped(folder: Path, files: Files | None = None, **policies: Any) -> retention.Report:
    """Drop events by policies, whatever is due."""
    asked = Config(log_path=folder, retain=RetainConfig(**policies), archive=settings(folder).archive)
    with small_pieces(), evtool.open(folder, files=files, config=asked) as log:
        plan = retention.plan(log, asked, time.time_ns(), is_exact=True)
        return retention.apply(log, asked, plan)


def stubs(folder: Path) -> list[Path]:
    """The folders of segments whose events are not in them."""
    return [each for each in segments(folder) if not [*each.glob("*.parquet"), *each.glob("frames.log")]]


def objects(folder: Path) -> list[str]:
    """The names of all objects."""
    root = store_folder(folder)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def check_archive(folder: Path) -> checking.Report:
    """All that the log says is archived is there, byte by byte, and nothing else."""
    with evtool.open(folder, read_only=True, config=settings(folder)) as log:
        report = checking.check(place.existing(log), is_quick=False)
        catalogue = sweeping.read_catalogue(place.existing(log).store)
    assert report.damaged == ()
    assert report.unnamed == 0
    assert catalogue is not None
    assert [summary["object"] for summary in catalogue.segments] == [
        name for name in objects(folder) if name.startswith("events/")
    ]
    return report


def check_catalogue(folder: Path) -> None:
    """Whoever reads the archive by itself finds all that its catalogue names."""
    catalogue = sweeping.read_catalogue(FolderStore(Files(), store_folder(folder)))
    for summary in catalogue.segments if catalogue is not None else ():
        assert set(sweeping.objects_of(summary)) <= set(objects(folder))


def check_sound(folder: Path, wanted: bytes) -> None:
    """The log verifies clean, and has these lines."""
    assert replay(folder) == wanted
    with evtool.open(folder, read_only=True) as log:
        report = verify(log)
    assert report.findings == []
