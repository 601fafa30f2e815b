"""A log, opened: append to it, read any part of it.

    log = open("segments")
    log.append([{"event_id": "1", "source_id": "shop", "stream_id": "user-1", "event_type": "UserSignedIn"}])
    for frame in log.scan(types=["UserSignedIn"], columns=["stream_id", "timestamp"]):
        ...

Reading takes no lock and sees whole batches only. The first append takes the writer's lock, which is
held until `close`.

What appends, what decodes events and what looks up ids is imported by the methods that do: whoever only asks how
far a log goes, as most runs of most commands do, starts in a fraction of the time.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evtool.config import Config
from evtool.errors import LogExistsError, LogReadOnlyError, PositionError
from evtool.files import Files
from evtool.location import mirror_folder, url_of
from evtool.log import manifest as manifest_file
from evtool.log.archived import Archive
from evtool.log.format import ERASING_FILE, MIRROR_LOCK_FILE
from evtool.log.manifest import Manifest
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot, SnapshotReader
from evtool.schemas.registry import Registry

if TYPE_CHECKING:
    import polars as pl

    from evtool.log.appending import Appender
    from evtool.log.caches import Indexed
    from evtool.log.preparing import Expected
    from evtool.log.writer import Commit, Writer
    from evtool.schemas.validation import Validator


def open(
    path: str | Path,
    *,
    create: bool = False,
    read_only: bool = False,
    config: Config | None = None,
    files: Files | None = None,
) -> Log:
    """Open the log in the folder `path`; with `create`, make it if there is none.

    `path` may be the URL of an archive, s3://BUCKET/PREFIX or file:///FOLDER: what is in it then, to read only.

    `config` gives what evtool.toml would; the file itself is not read here. Raises LogNotFoundError,
    LogFormatError, LogDamagedError, LogExistsError (the folder holds something else), StoreError or StorageError.
    """
    files = files or Files()
    config = config or Config()
    url = url_of(path) or (config.log_url if path == config.log_path else None)
    if url is not None:
        return _open_archive(files, url, config, create)
    folder = Path(path)
    if create and not manifest_file.exists(folder):
        try:
            manifest_file.create(files, folder, config.log.partitions)
        except LogExistsError:
            if not manifest_file.exists(folder):
                raise
            # Another process was quicker: then that log is the one.
    manifest = manifest_file.read(files, folder)
    return Log(files, folder, manifest, config, read_only or (folder / MIRROR_LOCK_FILE).exists())


def _open_archive(files: Files, url: str, config: Config, create: bool) -> Log:
    from evtool.log import mirror
    from evtool.objectstore.opening import open_store

    if create:
        raise LogReadOnlyError(
            f"{url} is an archive, to be read only", "Write to the log that it is the archive of."
        )
    folder = mirror_folder(url)
    store = open_store(url, files, patience_seconds=config.archive.patience_ms / 1000)
    mirror.refresh(files, folder, url, store)
    return Log(files, folder, manifest_file.read(files, folder), config, read_only=True)


class Log:
    """One log. Safe to share between threads; appends wait for each other."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        manifest: Manifest,
        config: Config,
        read_only: bool = False,
    ) -> None:
        self.files = files
        self.folder = folder
        self.manifest = manifest
        self._config = config.log
        self._read_only = read_only
        self._default_source = config.ingest.source
        archive = config.archive
        self.archive = Archive(files, folder, manifest.id, archive.cache_bytes, archive.patience_ms / 1000)
        self._reader = SnapshotReader(files, folder, manifest, self.archive)
        self._registry = Registry(files, folder, read_only)
        self._unknown_types = config.schemas.unknown_types
        self._appender: Appender | None = None
        self._mutex = threading.Lock()

    @property
    def partitions(self) -> int:
        """How many partitions it has; fixed when it was made."""
        return self.manifest.partitions

    @property
    def is_read_only(self) -> bool:
        """Whether it was opened to be read only."""
        return self._read_only

    def check_writable(self) -> None:
        """Raise LogReadOnlyError if it was."""
        if self._read_only:
            raise LogReadOnlyError(f"{self.folder} was opened to be read only")

    @property
    def schemas(self) -> Registry:
        """The schemas of its event types."""
        return self._registry

    @cached_property
    def validator(self) -> Validator:
        """Holds events against these schemas."""
        from evtool.schemas.validation import Validator

        return Validator(self._registry, self._unknown_types)

    @property
    def is_synced(self) -> bool:
        """Whether an acknowledged batch survives a power cut (`fsync = "batch"`)."""
        return self._config.fsync == "batch"

    @property
    def position(self) -> int:
        """Of the last event that a reader sees now; 0 in an empty log."""
        return self.snapshot().last_position

    def snapshot(self) -> Snapshot:
        """The segments as they are now; what is appended later is not in it. Raises LogDamagedError."""
        with self._mutex:
            return self._reader.take()

    def append(
        self,
        events: Iterable[Mapping[str, Any]] | pl.DataFrame,
        *,
        expected_version: Mapping[str, Expected] | None = None,
        resume: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Store a batch, all that is new of it or nothing; it is durable when this returns.

        `events` are mappings with the fields of the envelope, or a Polars frame with such columns
        (payload and metadata as JSON text). An event that is stored already, with the same content, is counted
        as a duplicate, so a batch may be sent again when it is not known whether it arrived.

        `expected_version` names streams and their last versions before the batch, or "no_stream", "exists" or
        "any". Appends of several threads are made durable together, each of them whole.

        Raises EventError (a rule of the envelope or of a schema is broken), IdConflictError (an id is used by
        another event), VersionConflictError, LogReadOnlyError, LogLockedError, StorageError: nothing was stored.
        """
        return self._writing_side().append(events, expected_version, resume)

    def writer(self) -> Writer:
        """The log's writer, for who prepares, encodes and commits in steps of its own (as ingest does)."""
        return self._writing_side().writer()

    def scan(
        self, selection: Selection | None = None, *, columns: Collection[str] | None = None, **selected: Any
    ) -> Iterator[pl.DataFrame]:
        """Polars frames of stored events, in order of position within and across frames.

        The part is given as a Selection or as its fields (`types=["ItemViewed"], since=...`, times in ns).
        A frame has the asked `columns` of STORED_SCHEMA (default: all), at least one row, and at most
        a batch or 65,536 rows, whichever is more. Frames and columns that are not asked for are not read.
        Raises LogDamagedError.
        """
        from evtool.log import scan as scanning

        chosen = selection or Selection.of(**selected)
        return scanning.scan(self.snapshot(), chosen, self.partitions, columns)

    def stream(self, stream_id: str, *, columns: Collection[str] | None = None, **selected: Any) -> pl.DataFrame:
        """All events of one stream in order, as one frame."""
        import polars as pl

        from evtool.event import empty_frame

        frames = list(self.scan(streams=[stream_id], columns=columns, **selected))
        empty = empty_frame()
        return (
            pl.concat(frames) if frames else empty.select(n for n in empty.columns if not columns or n in columns)
        )

    def replay(self, selection: Selection | None = None, **selected: Any) -> Iterator[bytes]:
        """The selected events as NDJSON, in order of position: blocks of whole lines."""
        from evtool import ndjson

        chosen = selection or Selection.of(**selected)
        return ndjson.blocks(self.scan(chosen))

    def find(self, event_id: str, source_id: str | None = None) -> int:
        """The position of the event with this id; without a source, of the first one if several have used it.

        Raises PositionError when there is none, LogDamagedError.
        """
        from evtool.log import finding

        position = finding.find(self.files, self.folder, self.manifest, self.snapshot(), event_id, source_id)
        if position is None:
            raise PositionError(
                f"no event of {self.folder} has the id {event_id!r}",
                "A time is written as 2026-01-31, 2026-01-31T12:00:00Z or -24h, a position as @123.",
            )
        return position

    def seal(self) -> None:
        """Seal the active segment, if it has an event: what is appended next begins another one.

        Raises LogReadOnlyError, LogLockedError, LogDamagedError, StorageError.
        """
        self._writing_side().seal()

    def reindex(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Indexed:
        """Build index/ and each streams.idx anew from the log, and say what index/ holds.

        `on_progress` is told how many events are done, and how many there are.
        Raises LogReadOnlyError, LogLockedError, LogDamagedError, StorageError.
        """
        indexed = self._writing_side().reindex(on_progress)
        with self._mutex:
            # The old one keeps old views.
            self._reader = SnapshotReader(self.files, self.folder, self.manifest, self.archive)
        return indexed

    def close(self) -> None:
        """Let the log go. What was appended is durable already."""
        if self._appender is not None:
            self._appender.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writing_side(self) -> Appender:
        """What appends, made the first time that it is asked for. Raises LogReadOnlyError."""
        self.check_writable()
        with self._mutex:
            if self._appender is None:
                from evtool.log.appending import Appender

                if (self.folder / ERASING_FILE).exists():
                    warnings.warn(
                        f"an erasure was cut short in {self.folder}: `evtool erase` finishes it", stacklevel=3
                    )
                place = self.files, self.folder, self.manifest, self._config
                self._appender = Appender(*place, self._default_source, self.validator, self.archive)
            return self._appender
