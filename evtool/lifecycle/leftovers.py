"""What compactions leave: files that were begun, and what their results have taken the place of.

Nobody needs any of it, so it may be removed at any time by who holds compact.lock; each removal is one step for
those who look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evtool.errors import LogDamagedError
from evtool.files import Files, translated
from evtool.log import streamframes
from evtool.log.coldsegment import open_cold
from evtool.log.format import (
    COPY_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    STREAMS_FILE,
    SUMMARY_FILE,
    events_file,
    gone_file,
    is_cold_file,
    map_file,
    parse_segment_name,
)
from evtool.log.log import Log
from evtool.log.segment import is_cold, is_readable, read_summary, segment_folders, summary_record
from evtool.log.streamindex import StreamIndex

_UNFINISHED = ".tmp"  # behind a name, no reader looks at it
_REPLACED = (COPY_FILE, SUMMARY_FILE, STREAMS_FILE)


def clear(log: Log) -> None:
    """Remove it from all sealed segments; put back what is lost of cold ones and can be made from the rest.

    Damage is left as it is. Raises StorageError.
    """
    for entry in sorted(log.folder.iterdir()):
        if parse_segment_name(entry.name.removesuffix(_UNFINISHED)) is not None and entry.suffix == _UNFINISHED:
            log.files.remove_folder(entry)
    covered = 0
    for first_position, folder in list(segment_folders(log.folder)):
        summary = read_summary(log.files, folder, log.manifest.id)
        if first_position <= covered:
            _remove_segment(log.files, folder)
        elif is_cold(summary):
            covered = int(summary["last_position"])
            with contextlib.suppress(LogDamagedError, FileNotFoundError):
                _clear_cold(log, folder, summary)
        elif summary is not None:
            _remove_but(log.files, folder, set())


def _clear_cold(log: Log, folder: Path, summary: Mapping[str, Any]) -> None:
    """The folder of a cold segment, if its own files are there."""
    cold = open_cold(log.files, folder, summary, log.manifest.id_bytes, log.archive)
    record = summary_record(summary)
    if not is_readable(log.files, folder, log.manifest.id):
        log.files.write_whole(folder / SUMMARY_FILE, record)
    if log.files.size(folder / COPY_FILE) == 0 or log.files.read_whole(folder / COPY_FILE) != record:
        log.files.write_whole(folder / COPY_FILE, record)
    generation = summary["generation"]
    own = {name(generation) for name in (events_file, map_file, gone_file)}
    _remove_but(log.files, folder, {*own, COPY_FILE})
    # From here on a damaged summary is known to be that of a cold segment.
    log.files.remove(folder / FRAMES_FILE)
    log.files.remove(folder / INDEX_FILE)
    if not isinstance(cold.stream_index, StreamIndex):
        streamframes.write(log.files, log.manifest, cold, streamframes.read_pairs(cold))


def _remove_but(files: Files, folder: Path, kept: set[str]) -> None:
    """Remove the files of cold segments from a folder, but for some."""
    unfinished = {name + _UNFINISHED for name in _REPLACED}
    for entry in sorted(folder.iterdir()):
        is_theirs = is_cold_file(entry.name) or entry.name == COPY_FILE or entry.name in unfinished
        if is_theirs and entry.name not in kept:
            files.remove(entry)


def _remove_segment(files: Files, folder: Path) -> None:
    """At once for who looks at the names, whatever ends the process meanwhile."""
    removed = folder.with_name(folder.name + _UNFINISHED)
    files.remove_folder(removed)
    with translated("rename", folder):
        files.replace(folder, removed)
    files.sync_folder(folder.parent)
    files.remove_folder(removed)
