"""`evtool repair`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.lifecycle.repairing.filling import Backup
    from evtool.lifecycle.repairing.planning import Plan, SegmentStep
    from evtool.lifecycle.repairing.remains import Damage
    from evtool.lifecycle.repairing.repair import Repaired
    from evtool.lifecycle.repairing.stubs import StubStep

_COLUMNS = ("segment", "positions", "what becomes of it", "lost", "from the backup")
_WAYS = {
    "rewrite": "written anew without what is lost",
    "restore": "made whole from the backup",
    "archive": "files brought back from the archive",
    "begin": "begun anew: nothing in it was acknowledged",
}
_RANGES_SHOWN = 20


def repair(
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", help="Where backups are. (default: `to` in [backup] of evtool.toml)"
        ),
    ] = None,
    backup: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Which backup: an id of `evtool backup list`. (default: the newest)"),
    ] = None,
    without_backup: Annotated[
        bool, typer.Option("--without-backup", help="Ask no backup, though evtool.toml says where there are some.")
    ] = False,
    read_archive: Annotated[
        bool,
        typer.Option("--read-archive", help="Read all events in the archive, too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, and lost.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a damaged log whole again: keep all that is proved, put aside what is not, name what is lost.

    Reads everything, as `evtool verify` does, shows what it would do, and asks. Events come back from a backup
    that has them, and files of archived segments from the archive, proved by checksums. What is lost otherwise is
    a frame's or a row group's events: their positions are named, and are never given again. Damaged bytes and a
    report stay in damaged/ of the log's folder. Whoever writes to the log has to wait. The exit code is 14 where
    damage is left that this cannot mend.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration

    config = configuration.load(log)
    if not (yes or dry_run):
        _check_terminal()
    asked = None if without_backup else _backup(config, source, backup)
    try:
        plan, repaired = _run(config, asked, read_archive, yes, dry_run, as_json)
    finally:
        if asked is not None:
            asked.close()
    if as_json:
        facts = {"log": str(config.log_path), "dry_run": dry_run, "backup": asked.manifest.id if asked else None}
        render.print_json(facts | plan.facts() | _result(plan, repaired))
    elif repaired is not None:
        _say_repaired(plan, repaired)
    _judge(plan, repaired)


def _run(
    config: Config, asked: Backup | None, read_archive: bool, yes: bool, dry_run: bool, as_json: bool
) -> tuple[Plan, Repaired | None]:
    """What a repair would do, and what it did."""
    from evtool.cli.audited import audited
    from evtool.files import Files
    from evtool.lifecycle.repairing import planning
    from evtool.lifecycle.repairing.repair import session

    opened, log_json = planning.open_damaged(Files(), config.log_path, config, asked)
    repaired = None
    with session(opened, may_be_read_only=dry_run) as held:
        with progress.shown("repair: verify", wanted=not as_json) as on_progress:
            plan = planning.plan(opened, config, asked, log_json, on_progress, read_archive)
        if not as_json:
            _show(plan)
        if not plan.is_empty and not dry_run:
            if not yes:
                typer.confirm("Do this?", abort=True, err=True)
            with (
                audited(config.log_path, "repair") as entry,
                progress.shown("repair", wanted=not as_json) as on_progress,
            ):
                entry.counts = plan.counts
                if asked is not None:
                    entry.details["backup"] = asked.manifest.id
                repaired = held.apply(plan, config, asked, entry.begin, on_progress)
                entry.details["report"] = repaired.folder.name
                entry.outcome = "failed" if repaired.report.error else "done"
    return plan, repaired


def _backup(config: Config, source: str | None, backup_id: str | None) -> Backup | None:
    """The backup that is asked; None where nobody says where there is one."""
    from evtool.lifecycle.backups import manifest as manifests
    from evtool.lifecycle.backups.place import store_of
    from evtool.lifecycle.repairing.filling import Backup

    if source is None and backup_id is None and config.backup.to is None:
        return None
    store = store_of(config, source)
    return Backup(store, manifests.find(store, backup_id))


def _check_terminal() -> None:
    from evtool.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError(
            "repair asks before it changes anything, and there is no terminal", "Say --yes, or try --dry-run."
        )


def _show(plan: Plan) -> None:
    rows = sorted([*map(_stub_row, plan.stubs), *map(_row, plan.segments)])
    if rows:
        render.print_columns(_COLUMNS, rows, (True, True, True, False, False))
    if plan.place is not None:
        render.say(f"archive.json: made again, the archive is at {plan.place.url}")
    for stub in plan.stubs:
        _say_damages(stub.damages)
    for step in plan.segments:
        _say_damages(step.remains.damages if step.remains is not None else ())
        if step.refusal:
            render.say(f"{step.damaged.folder.name}: not filled from the backup: {step.refusal}")
    ranges = [each for step in plan.segments for each in step.lost]
    if ranges:
        shown = ", ".join(_range(each) for each in ranges[:_RANGES_SHOWN])
        others = len(ranges) - _RANGES_SHOWN
        more = f" and {others:,} more ranges (--json has all)" if others > 0 else ""
        render.say(f"lost: {render.count(plan.lost_events, 'event')}, positions {shown}{more}")
    if plan.filled:
        render.say(f"from the backup: {render.count(plan.filled, 'event')}")
    for file_step in (plan.log_json, plan.schemas):
        if file_step is not None:
            render.say(f"{file_step.path}: {file_step.message}")
    if plan.letters:
        aside = sum(line is None for _, line in plan.letters)
        letters = render.count(len(plan.letters), "dead letter")
        render.say(f"{letters} damaged: {len(plan.letters) - aside:,} mended, {aside:,} put aside")
    if plan.has_broken_audit:
        render.say("the audit is mended, or put aside and begun anew")
    for path in plan.derived:
        render.say(f"{path}: made again")
    for finding in (*plan.left, *plan.others):
        render.say(f"{finding.file}: left as it is: {finding.message}\n  {finding.hint}")
    if plan.is_empty:
        render.say("nothing to repair" if not (plan.others or plan.left) else "nothing else to repair")


def _say_damages(damages: Iterable[Damage]) -> None:
    for damage in damages:
        at = "" if damage.start is None else f" at byte {damage.start:,}"
        render.say(f"{damage.file}{at}: {damage.message}")


def _stub_row(step: StubStep) -> tuple[str, ...]:
    first, last = step.positions
    return (step.folder.name, f"{first:,} to {last:,}", _WAYS["archive"], "0", "0")


def _row(step: SegmentStep) -> tuple[str, ...]:
    first, last = step.damaged.first_position, step.damaged.last_position
    positions = f"{first:,} to {last:,}" if last >= first else "none"
    return (step.damaged.folder.name, positions, _WAYS[step.way], f"{step.lost_events:,}", f"{step.filled:,}")


def _range(found: tuple[int, int]) -> str:
    first, last = found
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _result(plan: Plan, repaired: Repaired | None) -> dict[str, Any]:
    if repaired is None:
        return {"repaired": False}
    report = repaired.report
    return {
        "repaired": True,
        "report": str(repaired.folder),
        "clean": report.is_clean and not plan.left,
        "digest": report.digest,
        "findings": [vars(finding) for finding in (*plan.left, *report.findings)],
    }


def _say_repaired(plan: Plan, repaired: Repaired) -> None:
    report = repaired.report
    left = len(report.findings) + len(plan.left)
    result = "the log is whole" if report.is_clean and not left else render.count(left, "finding") + " left"
    events = render.count(report.events, "event")
    render.say(
        f"repaired: {result}, {events} up to position {report.position:,}, digest {report.digest or 'none'}"
    )
    render.say(f"what was damaged, and the report: {repaired.folder}")
    for finding in (*plan.left, *report.findings):
        render.say(f"{finding.file}: {finding.message}\n  {finding.hint}")


def _judge(plan: Plan, repaired: Repaired | None) -> None:
    """End with the code of what is left, if something is."""
    from evtool.errors import DerivedDamagedError, LogDamagedError

    if plan.left:
        raise typer.Exit(LogDamagedError.exit_code)
    if repaired is not None:
        if repaired.report.error is not None:
            raise typer.Exit(repaired.report.error.exit_code)
    elif plan.is_empty and plan.others:
        is_log = any(finding.severity == "log" for finding in plan.others)
        raise typer.Exit(LogDamagedError.exit_code if is_log else DerivedDamagedError.exit_code)
