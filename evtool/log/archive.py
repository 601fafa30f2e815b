"""Where the archive of a log is, how its objects are called, and the catalogue that names all of them.

A segment whose summary has an `object` may have its events there and nowhere else: the local events file counts
when it is there, and the object when it is not. Map, gone, streams.idx and summary stay in the segment's folder.
The first segments of a log are archived, one behind the other, so the archive by itself is a whole log up to a
position: `catalogue.msgpack` says which.

    events/day=YYYY-MM-DD/NAME-G.parquet    NAME is the segment's, G the generation of its files, the day that of
                                            its earliest event; later days may be in the same object
    index/NAME-G.map, .gone, .streams       what stands beside it in the folder: its map, what is gone, streams.idx
    catalogue.msgpack                       replaced as a whole, behind all that it names
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from evtool.errors import LogDamagedError, LogFormatError
from evtool.files import Files
from evtool.log import manifest as manifest_file
from evtool.log.format import ARCHIVE_FILE, LOG_FILE, checksum, gone_file, is_whole, map_file, segment_name
from evtool.log.manifest import Manifest

VERSION = 1
CATALOGUE = "catalogue.msgpack"
OBJECT_KEY = "object"  # of a summary

_OBJECT = re.compile(r"events/day=\d{4}-\d\d-\d\d/\d{20}-[1-9]\d*\.parquet")
_KEYS = {
    "log_id": str,
    "first_position": int,
    "last_position": int,
    "generation": int,
    "blocks": int,
    "batches": int,
    "columns": list,
    "materialised": list,
    "events_bytes": int,
    "footer_bytes": int,
    "map_bytes": int,
}
PLACE_HINT = "`evtool archive --moved-to URL` writes it anew, where that is the archive of this log."
_CATALOGUE_HINT = "Look whether the URL is right. The next `evtool archive` of this log writes it anew."


@dataclass(frozen=True)
class Place:
    """archive.json: the archive of a log is at `url`, file:///FOLDER or s3://BUCKET/PREFIX, without any secret.

    `id` tells it from the archive of another copy of the log. `owner` is the inode of log.json in the folder that
    may change what is there: that of a copy is another one. 0 is anybody.
    """

    log_id: str
    url: str
    id: str = ""
    owner: int = 0
    version: int = VERSION


def read_place(files: Files, folder: Path, log_id: str) -> Place | None:
    """What archive.json of the log in `folder` says; None without one. Raises LogDamagedError, LogFormatError."""
    path = folder / ARCHIVE_FILE
    try:
        data = files.read_whole(path)
    except FileNotFoundError:
        return None
    try:
        table = json.loads(data)
        if table["version"] > VERSION:
            raise _newer(str(path), table["version"])
        id_, owner = str(table.get("id", "")), int(table.get("owner", 0))
        place = Place(str(table["log_id"]), str(table["url"]), id_, owner, int(table["version"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LogDamagedError(f"{path} is damaged: it does not say where the archive is", PLACE_HINT) from error
    if place.log_id != log_id:
        raise LogDamagedError(f"{path} is of another log, {place.log_id}", PLACE_HINT)
    return place


def write_place(files: Files, folder: Path, place: Place) -> None:
    """Write archive.json, durably, for the log in this folder. Raises StorageError."""
    owned = replace(place, owner=owner_of(files, folder))
    files.write_whole(folder / ARCHIVE_FILE, json.dumps(asdict(owned), indent=2).encode() + b"\n")


def owner_of(files: Files, folder: Path) -> int:
    """What a folder has as the owner of an archive."""
    return next(iter(files.identity(folder / LOG_FILE)), 0)


def events_object(summary: Mapping[str, Any]) -> str:
    """The name that the events file of a cold segment gets in the archive."""
    day = datetime.fromtimestamp(summary["timestamp_min"] // 1_000_000_000, UTC)
    return f"events/day={day:%Y-%m-%d}/{_stem(summary)}.parquet"


def map_object(summary: Mapping[str, Any]) -> str:
    """The name of its map."""
    return f"index/{_stem(summary)}.map"


def gone_object(summary: Mapping[str, Any]) -> str:
    """The name of what it knows of events that are gone, if any are."""
    return f"index/{_stem(summary)}.gone"


def streams_object(summary: Mapping[str, Any]) -> str:
    """The name of its streams.idx."""
    return f"index/{_stem(summary)}.streams"


class IndexObject(NamedTuple):
    """An object of index/ that a summary proves: its name, that of the file here, its bytes and their checksum."""

    name: str
    file: str
    bytes: int
    checksum: int


def index_objects(summary: Mapping[str, Any]) -> Iterator[IndexObject]:
    """The map of a segment, and what it knows of events that are gone. Not streams.idx, which proves itself."""
    generation = summary["generation"]
    yield IndexObject(
        map_object(summary), map_file(generation), int(summary["map_bytes"]), summary["map_checksum"]
    )
    if "gone" in summary:
        yield IndexObject(
            gone_object(summary), gone_file(generation), int(summary["gone_bytes"]), summary["gone_checksum"]
        )


def _stem(summary: Mapping[str, Any]) -> str:
    return f"{segment_name(summary['first_position'])}-{summary['generation']}"


def is_archived(summary: Mapping[str, Any] | None) -> bool:
    """Whether a summary names an object that has the segment's events."""
    return summary is not None and OBJECT_KEY in summary


@dataclass(frozen=True)
class Catalogue:
    """What an archive has: `log` is the text of log.json, `segments` are summaries, each with its `object`.

    `id` is that of archive.json.
    """

    log: str
    segments: Sequence[Mapping[str, Any]]
    id: str = ""

    @property
    def last_position(self) -> int:
        """Of the last event; 0 in an empty archive."""
        return int(self.segments[-1]["last_position"]) if self.segments else 0

    @property
    def manifest(self) -> Manifest:
        """What log.json says."""
        return manifest_file.parse(self.log.encode(), Path(CATALOGUE))


def encode(catalogue: Catalogue) -> bytes:
    """The bytes of a catalogue.msgpack."""
    packed: bytes = msgpack.packb(
        {
            "version": VERSION,
            "id": catalogue.id,
            "log": catalogue.log,
            "last_position": catalogue.last_position,
            "segments": [dict(summary) for summary in catalogue.segments],
        }
    )
    return packed + checksum(packed).to_bytes(8, "little")


def decode(data: bytes, where: str) -> Catalogue:
    """What `encode` gave; `where` names it in messages.

    Every name and number that a reader goes by is checked. Raises LogDamagedError, LogFormatError.
    """
    if len(data) < 8 or not is_whole(data):
        raise LogDamagedError(f"{where} does not match its checksum", _CATALOGUE_HINT)
    try:
        table = msgpack.unpackb(data[:-8])
        if table["version"] > VERSION:
            raise _newer(where, table["version"])
        catalogue = Catalogue(str(table["log"]), table["segments"], str(table.get("id", "")))
        problem = _problem(catalogue, table["last_position"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogDamagedError(f"{where} is no catalogue of an archive", _CATALOGUE_HINT) from error
    if problem:
        raise LogDamagedError(f"{where}: {problem}", _CATALOGUE_HINT)
    return catalogue


def _problem(catalogue: Catalogue, last_position: int) -> str:
    """What does not fit together in a catalogue; "" when all does."""
    log_id, expected = catalogue.manifest.id, 1
    for summary in catalogue.segments:
        if not all(isinstance(summary[key], kind) for key, kind in _KEYS.items()):
            return "a segment is not described"
        if summary["log_id"] != log_id:
            return "a segment is of another log"
        if summary["first_position"] != expected or summary["last_position"] < expected:
            return f"no segment starts at position {expected}"
        name = summary[OBJECT_KEY]
        if not _OBJECT.fullmatch(name) or not name.endswith(f"/{_stem(summary)}.parquet"):
            return f"{name!r} is no name of a segment's events"
        expected = summary["last_position"] + 1
    return "" if last_position == expected - 1 else f"it ends at position {expected - 1}, not at {last_position}"


def _newer(where: str, version: Any) -> LogFormatError:
    return LogFormatError(
        f"{where} has version {version}; this evtool reads up to {VERSION}",
        "Install a newer evtool: pip install --upgrade evtool",
    )
