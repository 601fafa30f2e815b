"""Snapshots: what a projection was at a position, kept with its state.

    snapshots/<id>/record                  XXH3-64 of the rest (8 bytes, little-endian), then a msgpack map
    snapshots/<id>/<name>.parquet          the read model, with its lineage beside it
    snapshots/<id>/state/                  the checkpoint of the state, and its runs
    snapshots/lock                         held by whoever makes, marks or drops one

A snapshot is made in a folder <id>.tmp, whose name is changed last; what an end before that leaves is removed by
the next one that is made. Runs never change, so they are the same files by another name where that can be.

One whose read model is not what the events give is marked as wrong: nothing is computed from it.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from evtool.errors import DerivedDamagedError, ProjectionError
from evtool.files import Files, translated
from evtool.log.log import Log
from evtool.log.snapshot import Snapshot as Segments
from evtool.projections import readmodel, record
from evtool.projections.checkpoint import StateDamagedError
from evtool.projections.definition import Identity
from evtool.projections.lineage import Lineage
from evtool.projections.places import STATE_FOLDER
from evtool.projections.store import StateStore
from evtool.timestamps import SECOND_NS

if TYPE_CHECKING:
    from evtool.projections.projection import Projection
    from evtool.projections.runner import Answer

FOLDER = "snapshots"
RECORD_FILE = "record"
LOCK_FILE = "lock"
FORMAT = 1

_UNFINISHED = ".tmp"
_ID_DIGITS = 16
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class Snapshot:
    """What is known of one. Times are ns UTC: of the recording of the event at `position`, and of its making."""

    id: str
    projection: str
    version: int
    definition_hash: str
    parameters_hash: str
    position: int
    recorded_at: int | None
    taken_at: int
    label: str | None
    keys: tuple[str, ...]
    rows: int
    bytes: int
    is_wrong: bool = False

    @property
    def of(self) -> tuple[str, int, str, str]:
        """What it was made by."""
        return self.projection, self.version, self.definition_hash, self.parameters_hash


def take(
    log: Log,
    asked: Projection,
    label: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Snapshot:
    """Refresh a projection and keep what it is then. What is kept already, with this label, is not kept twice.

    Raises LogReadOnlyError, and as `Runner.refresh` does; UnicodeEncodeError for a label that is no text.
    """
    log.check_writable()
    (label or "").encode()  # before anything is made

    def copy(store: StateStore, answer: Answer) -> Snapshot:
        with _lock(log) as folder:
            for path in folder.glob(f"*{_UNFINISHED}"):
                log.files.remove_folder(path)
            found = readmodel.read(asked.places.folder, asked.identity.name)
            assert found is not None  # the refresh has just written it
            wanted = _described(asked, answer, label, found[1])
            for each in every(log):
                if replace(wanted, id=each.id, taken_at=each.taken_at, bytes=each.bytes) == each:
                    return each
            return _make(log.files, folder, store, answer, found[1], wanted)

    return asked.runner.keep(copy, on_progress)


def every(log: Log) -> list[Snapshot]:
    """All snapshots of a log, by projection, version and position. A damaged record is passed over."""
    found = []
    for path in (log.folder / FOLDER).glob(f"*/{RECORD_FILE}"):
        snapshot = None if path.parent.suffix == _UNFINISHED else _read(log.files, path)
        if snapshot is not None:
            found.append(snapshot)
    return sorted(found, key=lambda each: (each.projection, each.version, each.position, each.taken_at))


def of(log: Log, identity: Identity) -> list[Snapshot]:
    """Those of a definition with these parameters, by position."""
    wanted = (identity.name, identity.version, identity.definition_hash, identity.parameters_hash)
    return [snapshot for snapshot in every(log) if snapshot.of == wanted]


def find(log: Log, beginning: str, digits_min: int = 0) -> Snapshot:
    """The snapshot whose id begins like this.

    Raises ProjectionError if none does, or several, or it is shorter than `digits_min`.
    """
    if len(beginning) < digits_min:
        raise ProjectionError(f"{beginning!r} is too short for an id", f"Give {digits_min} digits of it at least.")
    found = [each for each in every(log) if each.id.startswith(beginning)]
    if len(found) != 1 or not beginning:
        many = f"{len(found)} snapshots have" if found else "no snapshot has"
        raise ProjectionError(
            f"{many} an id that begins with {beginning!r}", "`evtool snapshot list` shows all of them."
        )
    return found[0]


def place(log: Log, snapshot: Snapshot) -> Path:
    """The folder of a snapshot: its read model, with the lineage, and state/."""
    return log.folder / FOLDER / snapshot.id


def frame(log: Log, snapshot: Snapshot) -> pl.DataFrame:
    """The read model of a snapshot. Raises DerivedDamagedError."""
    try:
        found = readmodel.read(place(log, snapshot), snapshot.projection)
    except DerivedDamagedError as error:
        raise DerivedDamagedError(error.message, advice(snapshot.id, snapshot.projection)) from error
    if found is None:
        what = f"snapshot {snapshot.id} has lost its read model"
        raise DerivedDamagedError(what, advice(snapshot.id, snapshot.projection))
    return found[0]


def advice(snapshot: str, projection: str) -> str:
    """What to do about a snapshot, named by its id, that is damaged."""
    return (
        f"Drop it: evtool snapshot drop {snapshot} --yes; evtool project {projection} --as-of gives what it was."
    )


def difference(log: Log, before: Snapshot, after: Snapshot) -> pl.DataFrame:
    """The rows that are in one of two snapshots only, with a first column `change`: "before" or "after".

    A row that has changed is there twice, below itself. Raises ProjectionError for snapshots of two projections,
    or with other columns.
    """
    one, other = frame(log, before), frame(log, after)
    if before.projection != after.projection or one.schema != other.schema:
        raise ProjectionError(
            f"snapshots {before.id} and {after.id} have not the same columns",
            "Compare snapshots of one projection.",
        )
    pairs = (("before", one, other), ("after", other, one))
    changed = [
        rows.join(others, on=rows.columns, how="anti", nulls_equal=True, maintain_order="left").select(
            pl.lit(name).alias("change"), pl.all()
        )
        for name, rows, others in pairs
    ]
    found = pl.concat(changed)
    return found.sort(before.keys, maintain_order=True) if before.keys else found


def drop(log: Log, snapshots: Sequence[Snapshot]) -> None:
    """Take snapshots away for ever. Raises LogReadOnlyError, StorageError."""
    log.check_writable()
    if not snapshots:
        return
    with _lock(log) as folder:
        for snapshot in snapshots:
            path = folder / snapshot.id
            with suppress(FileNotFoundError), translated("rename", path):  # half of one is none
                log.files.replace(path, path.with_name(path.name + _UNFINISHED))
            log.files.remove_folder(path.with_name(path.name + _UNFINISHED))
        log.files.sync_folder(folder)


def clear_unknown(log: Log) -> None:
    """Remove the folders of snapshots that are unfinished, or whose record is damaged. Raises StorageError."""
    with _lock(log) as folder:
        known = {each.id for each in every(log)}
        for path in folder.iterdir():
            if path.is_dir() and path.name not in known:
                log.files.remove_folder(path)


def mark_wrong(log: Log, snapshot: Snapshot) -> None:
    """Let nothing be computed from a snapshot any more."""
    with _lock(log) as folder:
        log.files.write_whole(folder / snapshot.id / RECORD_FILE, _record(replace(snapshot, is_wrong=True)))


def outdated(log: Log, keep_daily: int, keep_weekly: int) -> list[Snapshot]:
    """Those that may go: without a label, and wrong or the last one of its projection of no late day or week.

    The days and weeks (from Monday, in UTC) are the last ones in which snapshots were taken.
    """
    kinds: dict[Any, list[Snapshot]] = {}
    for snapshot in every(log):
        if snapshot.label is None:
            kinds.setdefault(snapshot.of, []).append(snapshot)
    found = []
    for snapshots in kinds.values():
        days: dict[Any, str] = {}
        weeks: dict[Any, str] = {}
        sound = [each for each in snapshots if not each.is_wrong]
        for snapshot in sorted(sound, key=lambda each: each.taken_at):
            taken = datetime.fromtimestamp(snapshot.taken_at // SECOND_NS, UTC)
            days[taken.date()] = snapshot.id
            weeks[taken.isocalendar()[:2]] = snapshot.id
        kept = {days[day] for day in sorted(days, reverse=True)[:keep_daily]}
        kept |= {weeks[week] for week in sorted(weeks, reverse=True)[:keep_weekly]}
        found += [snapshot for snapshot in snapshots if snapshot.id not in kept]
    return found


def is_of_more(facts: Mapping[str, Any], segments: Segments, position: int) -> bool:
    """Whether events that went into a state up to a position, of which `facts` were kept, are gone since."""
    return tuple(facts.get("gone", (0, 0))) != segments.gone_between(1, position)


def is_outlived(log: Log, snapshot: Snapshot) -> bool:
    """Whether events that a snapshot was made from are gone since."""
    facts = StateStore(log.files, place(log, snapshot) / STATE_FOLDER).facts()
    return is_of_more(facts, log.snapshot(), snapshot.position)


def states(log: Log, identity: Identity, end: int) -> Iterator[Path]:
    """The folders of states of a definition with these parameters, up to a position, the latest first."""
    for snapshot in reversed(of(log, identity)):
        if snapshot.position <= end and not snapshot.is_wrong:
            yield place(log, snapshot) / STATE_FOLDER


def _described(asked: Projection, answer: Answer, label: str | None, lineage: Lineage) -> Snapshot:
    """A snapshot of an answer; how many bytes it takes is not known yet."""
    identity = asked.identity
    now = datetime.now(UTC)
    return Snapshot(
        id=uuid.uuid4().hex[:_ID_DIGITS],
        projection=identity.name,
        version=identity.version,
        definition_hash=identity.definition_hash,
        parameters_hash=identity.parameters_hash,
        position=answer.position,
        recorded_at=lineage.recorded_at,
        taken_at=int(now.timestamp() * 1_000_000) * 1000,
        label=label,
        keys=tuple(answer.keys),
        rows=len(answer.frame),
        bytes=0,
    )


def _make(
    files: Files, folder: Path, store: StateStore, answer: Answer, lineage: Lineage, wanted: Snapshot
) -> Snapshot:
    making = folder / (wanted.id + _UNFINISHED)
    files.make_folder(making / STATE_FOLDER)
    for path in store.paths():
        _link(files, path, making / STATE_FOLDER / path.name)
    readmodel.write(files, making, answer.frame, lineage)
    made = replace(wanted, bytes=files.folder_size(making))
    files.write_whole(making / RECORD_FILE, _record(made))
    with translated("rename", folder / wanted.id):
        files.replace(making, folder / wanted.id)
    files.sync_folder(folder)
    return made


def _link(files: Files, path: Path, other: Path) -> None:
    """Give a file another name, or where that cannot be, copy it. Raises StateDamagedError if it is not there."""
    try:
        with translated("link", path):
            try:
                files.link(path, other)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                files.write_whole(other, files.read_whole(path), durable=False)
    except FileNotFoundError as error:
        raise StateDamagedError(path) from error


@contextmanager
def _lock(log: Log) -> Iterator[Path]:
    folder = log.folder / FOLDER
    log.files.make_folder(folder)
    held = log.files.wait_for_lock(folder / LOCK_FILE)
    try:
        yield folder
    finally:
        held.release()


def _record(snapshot: Snapshot) -> bytes:
    return record.encode({"format": FORMAT, **asdict(snapshot)})


def _read(files: Files, path: Path) -> Snapshot | None:
    """What a record says; None if it is damaged, of another format or snapshot, or has gone."""
    try:
        data = files.read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    values = record.decode(data)
    if values is None or values.pop("format") != FORMAT or values["id"] != path.parent.name:
        return None
    return Snapshot(**values | {"keys": tuple(values["keys"])})
