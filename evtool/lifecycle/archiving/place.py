"""Which object store has a log's archive, by archive.json, evtool.toml and flags; which segments are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evtool import location
from evtool.config import Config
from evtool.errors import ArchiveError, ConfigError
from evtool.files import Files
from evtool.log.archive import OBJECT_KEY, PLACE_HINT, Place, read_place
from evtool.log.coldsegment import ColdSegment
from evtool.log.format import ARCHIVE_FILE
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.objectstore.opening import open_store
from evtool.objectstore.store import Store


@dataclass(frozen=True)
class Archive:
    """The archive of a log: what archive.json says of it, and the store that it is in."""

    log: Log
    place: Place
    store: Store


def of(log: Log) -> Archive | None:
    """The archive of a log; None while it has none. Nothing is asked of the store yet.

    Raises LogDamagedError, LogFormatError and ArchiveError (of archive.json), ConfigError (of a store that cannot
    be used here).
    """
    place = read_place(log.files, log.folder, log.manifest.id)
    if place is None:
        if archived(log):
            raise ArchiveError(f"{log.folder / ARCHIVE_FILE} is missing, and segments are archived", PLACE_HINT)
        return None
    is_known = log.archive.url == place.url  # else it has moved since this log was opened
    return Archive(log, place, log.archive.store if is_known else open_store(place.url, log.files))


def existing(log: Log) -> Archive:
    """The same of a log that must have one. Raises ArchiveError."""
    archive = of(log)
    if archive is None:
        raise ArchiveError(f"{log.folder} has no archive", "`evtool archive --to URL` begins one.")
    return archive


def object_of(segment: SegmentView) -> str | None:
    """The object that has the events of an archived segment; None of any other one."""
    return segment.summary.get(OBJECT_KEY) if isinstance(segment, ColdSegment) else None


def summaries_of(log: Log) -> dict[int, Mapping[str, Any]]:
    """The summaries of all cold segments by first position, in order. Raises LogDamagedError."""
    return {each.first_position: each.summary for each in log.snapshot().segments if isinstance(each, ColdSegment)}


def archived(log: Log) -> list[Mapping[str, Any]]:
    """The summaries of all archived segments, in order. Raises LogDamagedError."""
    return [each for each in summaries_of(log).values() if OBJECT_KEY in each]


def asked_url(log: Log, config: Config, flag: str | None = None) -> str | None:
    """The URL that a flag, or else evtool.toml, says; None where neither does. Raises ConfigError."""
    if flag is not None:
        return canonical(log, flag, Path.cwd())
    if config.archive.to is None:
        return None
    return canonical(log, config.archive.to, config.file.parent if config.file else Path.cwd())


def url_of(log: Log, config: Config, flag: str | None = None) -> str:
    """The URL of the archive, which is where it has been since its first segment.

    Raises ConfigError (no place was named), ArchiveError (it is at another place), LogDamagedError.
    """
    asked, place = asked_url(log, config, flag), read_place(log.files, log.folder, log.manifest.id)
    if place is None and asked is None and of(log) is None:
        raise ConfigError(
            "it is not said where the archive is",
            'Name a URL (--to), or write to = "URL" in [archive] of evtool.toml.',
        )
    if place is not None and asked is not None and asked != place.url:
        if not archived(log):
            return asked
        raise ArchiveError(
            f"the archive of {log.folder} is at {place.url}, not at {asked}",
            f"Copy its objects by another tool, then say `evtool archive --moved-to {asked}`.",
        )
    return place.url if place is not None else str(asked)


def canonical(log: Log, url: str, base: Path) -> str:
    """The absolute URL of a place, which is not among the files of the log. Raises ConfigError."""
    store = open_store(url, log.files, base)
    if "://" in url and not url.startswith("file:"):
        return str(location.url_of(url))
    folder = Path(store.url).resolve()
    if folder.is_relative_to(log.folder.resolve()):
        raise ConfigError(
            f"{folder} is among the files of the log", "Name a folder beside it, or on another disk."
        )
    return str(location.url_of(folder.as_uri()))


def store_at(url: str, files: Files, config: Config) -> Store:
    """The store of an absolute URL. Raises ConfigError."""
    return open_store(url, files, patience_seconds=config.archive.patience_ms / 1000)
