"""What is made from events and has to go with some of them: read models, states, snapshots, reports of nights.

A result says of no row which events are in it. So what was made from events up to the first erased one, or beyond,
goes whole, and is made again from what stays. Where retention has dropped events that a result still counts, it
cannot be made again as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evtool.config import Config
from evtool.errors import EvtoolError
from evtool.files import Files
from evtool.lifecycle import nightly
from evtool.log.log import Log
from evtool.log.snapshot import Snapshot as Segments
from evtool.projections import catalogue, inventory, snapshots
from evtool.projections import projection as projections
from evtool.projections.inventory import Kept
from evtool.projections.lineage import beside
from evtool.projections.places import LOCK_FILE, STATE_FOLDER
from evtool.projections.projection import placed
from evtool.projections.store import StateStore

RECOMPUTE_FOLDER = "recompute"

_UNFINISHED = ".tmp"
_ENDED_WELL = ("ok", "skipped", "postponed")


@dataclass(frozen=True)
class Made:
    """What goes. `again` has, by the id of a read model that serves and is made again, what it is asked for by;
    `lost` are read models and snapshots, by id, that count events which retention has dropped.

    `reports` of nights in which something failed may show what is in events.
    """

    models: tuple[Kept, ...] = ()
    again: Mapping[str, str] = field(default_factory=dict)
    snapshots: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    reports: int = 0


def choose(log: Log, config: Config, segments: Segments, first: int | None, first_dropped: int | None) -> Made:
    """What was made from the event at `first` or behind it; of what is lost, from `first_dropped` on.

    Raises ProjectionError, StorageError.
    """
    models, again, lost = list[Kept](), dict[str, str](), set[str]()

    def goes(state: StateStore, position: int | None) -> tuple[bool, bool]:
        """Whether it goes, and whether it counts events that were dropped since."""
        binding, before = state.binding(), tuple(state.facts().get("gone", (0, 0)))
        is_lost = binding is not None and before[0] != segments.gone_between(1, binding.position)[0]
        is_reached = _reaches(position, first)
        return is_reached or (is_lost and _reaches(position, first_dropped)), is_lost

    for model in inventory.kept(config.read_models_path):
        state = StateStore(log.files, model.folder / STATE_FOLDER)
        is_gone, is_lost = goes(state, _position(log.files, model, state))
        if not is_gone:
            continue
        models.append(model)
        reference = _asked_by(config, model) if model.serves and not is_lost else None
        if reference is not None:
            again[model.id] = reference
        if is_lost:
            lost.add(model.id)
    names, labels = list[str](), dict[str, str]()
    for each in snapshots.every(log):
        state = StateStore(log.files, snapshots.place(log, each) / STATE_FOLDER)
        is_gone, is_lost = goes(state, each.position)
        if is_gone:
            names.append(each.id)
            labels |= {each.id: each.label} if each.label is not None else {}
            lost |= {each.id} if is_lost else set()
    reports = len(list(_telling(log.files, log.folder)))
    return Made(tuple(models), again, tuple(names), labels, frozenset(lost), reports)


def remove(log: Log, config: Config, first: int | None, lost: Collection[str]) -> dict[str, int]:
    """Remove what reaches `first`, or is among `lost`, and whatever was left unfinished; how many there were."""
    files, models = log.files, 0
    for model in inventory.kept(config.read_models_path):
        state = StateStore(files, model.folder / STATE_FOLDER)
        with state.lock():
            is_gone = model.id in lost or _reaches(_position(files, model, state), first)
            if not is_gone:
                _clear_unfinished(files, model, state)
        if is_gone:
            inventory.clear(files, model)
            models += 1
    return {
        "read_models": models,
        "snapshots": _remove_snapshots(log, first, lost),
        "reports": _remove_reports(files, log.folder),
    }


def make_again(log: Log, config: Config, references: Collection[str]) -> dict[str, EvtoolError]:
    """Refresh projections from what the log has; of those that cannot be, why."""
    failed = {}
    for reference in references:
        try:
            projections.open(log, reference, config).runner.refresh()
        except EvtoolError as error:
            failed[reference] = error
    return failed


def _reaches(position: int | None, first: int | None) -> bool:
    """Whether what was made up to a position (None: nobody knows) has looked at `first` (None: there is none)."""
    return first is not None and (position is None or position >= first)


def _position(files: Files, model: Kept, state: StateStore) -> int | None:
    """Up to where events are in a read model or its state; None where neither can say."""
    binding, said = state.binding(), beside(files, model.folder, model.name)
    positions = [each.get("position") for each in said]
    positions += [binding.position] if binding is not None else []
    known = [each for each in positions if type(each) is int]
    return max(known) if known and len(known) == len(positions) else None


def _asked_by(config: Config, model: Kept) -> str | None:
    """What a refresh that makes this read model is asked for by; None where none does."""
    reference = str(model.lineage.get("reference") or model.name)
    if catalogue.is_object(reference):
        return reference
    try:
        _, places = placed(catalogue.find(reference, config.definitions_path), config, {})
    except EvtoolError:
        return None
    return reference if places.folder == model.folder else None


def _clear_unfinished(files: Files, model: Kept, state: StateStore) -> None:
    """Remove what a refresh that was cut short has left, of unknown events. To be called under the lock."""
    kept = {*(path.name for path in state.paths()), LOCK_FILE}
    target = _target(model.folder / f"{model.name}.parquet")
    left = [path for path in _in(model.folder / STATE_FOLDER) if path.name not in kept]
    left += [path for path in _in(model.folder) if path.suffix == _UNFINISHED]
    left += [path for path in _in(model.folder) if path.name.startswith(".") and path.name != target]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            files.remove_folder(path)
        else:
            files.remove(path)


def _target(path: Path) -> str:
    return path.readlink().name if path.is_symlink() else ""


def _in(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _remove_snapshots(log: Log, first: int | None, lost: Collection[str]) -> int:
    """Those, and folders of which nobody can say what is in them; how many of the former."""
    if not (log.folder / snapshots.FOLDER).is_dir():
        return 0
    every = snapshots.every(log)
    gone = [each for each in every if each.id in lost or _reaches(each.position, first)]
    snapshots.drop(log, gone)
    snapshots.clear_unknown(log)
    return len(gone)


def _remove_reports(files: Files, folder: Path) -> int:
    files.remove_folder(folder / nightly.FOLDER / RECOMPUTE_FOLDER)
    for path in (folder / nightly.FOLDER).glob(f"*{_UNFINISHED}"):
        files.remove(path)
    telling = list(_telling(files, folder))
    for path in telling:
        files.remove(path)
    return len(telling)


def _telling(files: Files, folder: Path) -> Iterator[Path]:
    """The reports that say more than numbers: where something failed, the message may show what is in an event."""
    for path in sorted((folder / nightly.FOLDER).glob(f"*{nightly.REPORT_SUFFIX}")):
        report = nightly.read_report(files, path)
        if report is None or any(step["outcome"] not in _ENDED_WELL for step in report["steps"]):
            yield path
