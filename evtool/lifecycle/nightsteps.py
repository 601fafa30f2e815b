"""The steps of `evtool nightly`: verify, recompute, snapshot and compact; retain, backup and archive where
evtool.toml has policies, or a place, for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from polars.exceptions import PanicException

from evtool.config import Config
from evtool.errors import EvtoolError, LogDamagedError, ProjectionError
from evtool.lifecycle import audit, materialising, retention
from evtool.lifecycle import compact as compacting
from evtool.lifecycle import verify as verifying
from evtool.lifecycle.archiving import moving, place, planning
from evtool.lifecycle.audit import Outcome
from evtool.lifecycle.backups import making, pruning
from evtool.lifecycle.backups.place import store_of
from evtool.lifecycle.nightly import Context, Result, Step, failure
from evtool.lifecycle.recompute import Recomputed, recompute
from evtool.projections import catalogue, places, snapshots
from evtool.projections import projection as projections
from evtool.projections.projection import Projection

RECOMPUTE_FOLDER = "recompute"


def _verify(context: Context) -> Result:
    config = context.config
    report = verifying.verify(
        context.log,
        context.on_progress,
        reads_archive=config.archive.nightly == "full",
        read_models=config.read_models_path,
        config=config,
    )
    return Result(report.as_dict(), report.error)


def _audit(context: Context, step: str, counts: Mapping[str, int], outcome: Outcome) -> None:
    """The line of a step that has changed something, or is about to."""
    if any(counts.values()):
        audit.record(context.log.files, context.log.folder, f"nightly {step}", counts, {}, outcome)


def _projections(context: Context) -> Sequence[str]:
    """Those that are asked for: by default one's own, and those built-in ones that somebody uses."""
    config = context.config
    if config.nightly.projections is not None:
        return config.nightly.projections
    entries = catalogue.entries(config.definitions_path).values()
    root = config.read_models_path
    return [entry.name for entry in entries if entry.origin == "own" or places.versions(root, entry.name)]


def _recompute(context: Context) -> Result:
    """Every projection that is asked for; one that fails does not keep the others from it."""
    files, folder = context.log.files, context.folder / RECOMPUTE_FOLDER
    found: list[Mapping[str, Any]] = []
    first: EvtoolError | None = None
    for name in _projections(context):
        try:
            files.remove_folder(folder)
            asked = projections.open(context.log, name, context.config)
            result = recompute(asked, folder, _agreed(context, asked), context.on_progress)
        except (Exception, PanicException) as raised:
            error = failure(raised)
            found.append({"projection": name, "message": error.message, "hint": error.hint})
            first = first or error
            continue
        finally:
            files.remove_folder(folder)
        found.append(asdict(result) | {"is_same": result.is_same})
        first = first or _difference(result)
    return Result({"projections": found}, first)


def _agreed(context: Context, asked: Projection) -> int:
    """The last position at which a recomputation of this definition, with these parameters, was as refreshed."""
    identity = asked.identity
    wanted = {
        "projection": identity.name,
        "definition_hash": identity.definition_hash,
        "parameters_hash": identity.parameters_hash,
        "is_same": True,
    }
    for each in _recomputed(context):
        if wanted.items() <= each.items():
            return int(each["position"])
    return 0


def _recomputed(context: Context) -> Iterator[Mapping[str, Any]]:
    for report in context.reports():
        for step in report["steps"]:
            yield from step["facts"].get("projections", ())


def _difference(result: Recomputed) -> ProjectionError | None:
    if not result.is_wrong:
        return None
    where = "at" if result.is_reproduced else "at the earliest at"
    return ProjectionError(
        f"what refreshes have made of {result.projection} version {result.version} is not what its events give: "
        f"they part {where} position {result.first_position:,}",
        "It was made anew. Look at what read it meanwhile.",
    )


def _snapshot(context: Context) -> Result:
    """One of every projection that is asked for; then those that the policy does not keep go."""
    taken: list[Mapping[str, Any]] = []
    known = {each.id for each in snapshots.every(context.log)}
    first: EvtoolError | None = None
    for name in _projections(context):
        try:
            found = snapshots.take(
                context.log, projections.open(context.log, name, context.config), on_progress=context.on_progress
            )
        except (Exception, PanicException) as raised:
            error = failure(raised)
            taken.append({"projection": name, "message": error.message, "hint": error.hint})
            first = first or error
            continue
        taken.append({"projection": name, "version": found.version, "id": found.id, "position": found.position})
    policy = context.config.snapshots
    outdated = snapshots.outdated(context.log, policy.keep_daily, policy.keep_weekly)
    snapshots.drop(context.log, outdated)
    new = sum("id" in each and each["id"] not in known for each in taken)
    _audit(context, "snapshot", {"taken": new, "dropped": len(outdated)}, "failed" if first else "done")
    return Result({"taken": taken, "dropped": [each.id for each in outdated]}, first)


def _retain(context: Context) -> Result:
    """What the policies say, without a question; nothing where it would be everything."""
    config = context.config
    plan = retention.plan(context.log, config, time.time_ns())
    plan.check()
    columns = materialising.choose(config)
    if not plan.is_empty:
        _audit(context, "retain", plan.counts, "began")
    report = retention.apply(context.log, config, plan, columns, context.on_progress)
    _audit(context, "retain", report.counts, "failed" if report.failures else "done")
    return Result(asdict(report), _left([*plan.failures, *report.failures]))


def _left(failures: Sequence[compacting.Failure]) -> LogDamagedError | None:
    """What to say of the first segment that was left as it is, or that is lost."""
    for first in failures:
        return LogDamagedError(f"{first.folder}: {first.message}", first.hint)
    return None


def _compact(context: Context) -> Result:
    config = context.config
    columns = materialising.choose(config)
    report = compacting.compact(context.log, config.log.segment_bytes, columns, context.on_progress)
    _audit(context, "compact", report.counts, "failed" if report.failures else "done")
    return Result(asdict(report), _left(report.failures))


def _backup(context: Context) -> Result:
    config = context.config
    store = store_of(config, files=context.log.files)
    made = making.back_up(context.log, store)  # its progress is in bytes, and that of a night in events
    facts = {"url": store.url, "backup": made.manifest.id, "position": made.manifest.position, "new": made.is_new}
    facts |= {"stored": made.stored, "stored_bytes": made.stored_bytes}
    if config.backup.keep is not None:
        facts["removed"] = asdict(pruning.prune(store, config.backup.keep))
    return Result(facts)


def _archive(context: Context) -> Result:
    """What is due by [archive], behind the backup, so that a backup has it from this disk."""
    log, config = context.log, context.config
    url = place.url_of(log, config)
    plan = planning.plan(log, config.archive, time.time_ns())
    report = moving.move_all(log, config, plan, url)  # its progress is in bytes, and that of a night in events
    _audit(context, "archive", report.counts, "failed" if report.failures else "done")
    return Result(asdict(report) | {"hot": plan.hot, "archived": plan.archived}, _left(report.failures))


RETAIN, BACKUP, ARCHIVE = Step("retain", _retain), Step("backup", _backup), Step("archive", _archive)

STEPS = (
    Step("verify", _verify),
    Step("recompute", _recompute),
    Step("snapshot", _snapshot),
    Step("compact", _compact),
)


def steps(config: Config) -> tuple[Step, ...]:
    """Those of a configuration, in order: `retain`, `backup` and `archive` only where it says what or where to."""
    retain = (RETAIN,) if config.retain.is_any else ()
    backup = (BACKUP,) if config.backup.to is not None else ()
    archive = (ARCHIVE,) if config.archive.to is not None else ()
    return (*STEPS[:-1], *retain, STEPS[-1], *backup, *archive)
