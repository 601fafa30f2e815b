"""A folder through which the archive of a log is read by itself, without the log: a log of stubs, to read only.

It has log.json, archive.json, and the archived segments without their events: summaries, maps and what is gone,
which are fetched when it is opened and they are not there yet, and streams.idx, when a stream is looked for. It is
a cache: what is removed of it is made again. What is made of a log by default, as read models, is in it, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evtool import parallel
from evtool.errors import LogDamagedError, LogNotFoundError, StoreError
from evtool.files import Files
from evtool.log.archive import (
    CATALOGUE,
    OBJECT_KEY,
    Catalogue,
    Place,
    decode,
    index_objects,
    read_place,
    write_place,
)
from evtool.log.chunkcache import ChunkCache
from evtool.log.format import (
    ARCHIVE_FILE,
    CACHE_FOLDER,
    COPY_FILE,
    LOG_FILE,
    MIRROR_LOCK_FILE,
    SUMMARY_FILE,
    checksum,
    segment_name,
)
from evtool.log.segment import segment_folders, summary_record

if TYPE_CHECKING:
    from evtool.objectstore.store import Store

_FETCHERS = 8
_OWN = "Read it again; if it stays so, run `evtool archive` for the log that it is the archive of."


def refresh(files: Files, folder: Path, url: str, store: Store) -> None:
    """Make the folder what the catalogue at `url` says now.

    Raises LogNotFoundError where there is none, LogDamagedError, StoreError, StorageError.
    """
    where = f"{url}/{CATALOGUE}"
    try:
        catalogue = decode(store.get(CATALOGUE), where)
    except FileNotFoundError as error:
        raise LogNotFoundError(
            f"there is no archive of a log at {url}", "`evtool archive --to URL` makes one; look for a slip in it."
        ) from error
    files.make_folder(folder)
    lock = files.wait_for_lock(folder / MIRROR_LOCK_FILE)
    try:
        if _is_of_another(files, folder, catalogue):
            _clear(files, folder)
        lacking = [summary for summary in catalogue.segments if not _is_there(files, folder, summary)]
        for summary, found in parallel.ordered(
            lambda each: (each, _fetched(store, url, each)), lacking, workers=_FETCHERS
        ):
            _write(files, folder / segment_name(summary["first_position"]), summary, found)
        named = {summary["first_position"] for summary in catalogue.segments}
        for first_position, path in list(segment_folders(folder)):
            if first_position not in named:
                files.remove_folder(path)
        cache = ChunkCache(files, folder / CACHE_FOLDER, 0)
        cache.keep_only(summary[OBJECT_KEY] for summary in catalogue.segments)
        _write_records(files, folder, url, catalogue)
    finally:
        lock.release()


def _is_of_another(files: Files, folder: Path, catalogue: Catalogue) -> bool:
    """Whether what a folder has is of another log, or of another archive of it."""
    try:
        place = read_place(files, folder, catalogue.manifest.id)
        return place is not None and place.id != catalogue.id
    except LogDamagedError:
        return True


def _clear(files: Files, folder: Path) -> None:
    """Remove everything, archive.json last: until then it is known to be of another one."""
    for entry in sorted(folder.iterdir()):
        if entry.name in (ARCHIVE_FILE, MIRROR_LOCK_FILE):
            continue
        if entry.is_dir():
            files.remove_folder(entry)
        else:
            files.remove(entry)
    files.remove(folder / ARCHIVE_FILE)


def _write_records(files: Files, folder: Path, url: str, catalogue: Catalogue) -> None:
    log = catalogue.log.encode()
    with contextlib.suppress(FileNotFoundError):
        if files.read_whole(folder / LOG_FILE) == log and (folder / ARCHIVE_FILE).exists():
            return
    write_place(files, folder, Place(catalogue.manifest.id, url, catalogue.id))
    files.write_whole(folder / LOG_FILE, log, durable=False)


def _is_there(files: Files, folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether a segment is as its summary says."""
    path = folder / segment_name(summary["first_position"])
    try:
        return files.read_whole(path / SUMMARY_FILE) == summary_record(summary) and all(
            checksum(files.read_whole(path / each.file)) == each.checksum for each in index_objects(summary)
        )
    except (FileNotFoundError, NotADirectoryError):
        return False


def _fetched(store: Store, url: str, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """What stands in the folder of a segment beside its summary, by the names there."""
    found = {}
    for each in index_objects(summary):
        try:
            data = store.get(each.name)
        except FileNotFoundError as error:
            raise StoreError(f"{url}/{each.name} is missing, and the catalogue names it", _OWN) from error
        if checksum(data) != each.checksum:
            raise LogDamagedError(f"{url}/{each.name} does not match its checksum", _OWN)
        found[each.file] = data
    return found


def _write(files: Files, path: Path, summary: Mapping[str, Any], found: Mapping[str, bytes]) -> None:
    """Put a segment there: its summary last, which is what readers go by; then remove what it has replaced."""
    record = summary_record(summary)
    files.make_folder(path)
    for name, data in [*found.items(), (COPY_FILE, record), (SUMMARY_FILE, record)]:
        files.write_whole(path / name, data, durable=False)
    for entry in sorted(path.iterdir()):
        if entry.name not in {*found, COPY_FILE, SUMMARY_FILE}:
            files.remove(entry)
