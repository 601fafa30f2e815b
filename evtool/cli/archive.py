"""`evtool archive`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.lifecycle.archiving.checking import Report as Checked
    from evtool.lifecycle.archiving.moving import Report
    from evtool.lifecycle.archiving.planning import Plan
    from evtool.log.log import Log


def archive(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where to: a folder, file:///FOLDER or s3://BUCKET/PREFIX. (default: evtool.toml, archive.json)",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Move segments whose events are all older: 90d (s, m, h, d, w)."),
    ] = None,
    by: Annotated[
        Literal["recorded", "timestamp"] | None,
        typer.Option(help="What their age is: that of their recording (by default), or of their timestamp."),
    ] = None,
    keep_local: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Move the oldest segments until events take less on this disk: 50GiB."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be moved.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Move nothing, but read all that was moved, and check it.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With --check: look at names and sizes only.")] = False,
    bring_back: Annotated[
        bool, typer.Option("--bring-back", help="Bring segments back to this disk, from --from on or --all.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="BOUND", help="With --bring-back: from a time, event id or position (@123) on."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --bring-back: all of them; the log has no archive then.")
    ] = False,
    moved_to: Annotated[
        str | None, typer.Option(metavar="URL", help="The archive is there now: its objects were copied before.")
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move old segments to a folder or a bucket; they stay part of the log, and are read from there.

    Compacted segments go, the oldest first and without a gap: those that are old enough, those that are too much
    for this disk, or, if neither is said, all. Each is stored, read back, and then removed here. The next run goes
    on with what was cut short, and removes objects that no segment names. Ingest and readers go on. Keys of s3://
    come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL).
    """
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    moving = {"--to": to, "--older-than": older_than, "--by": by, "--keep-local": keep_local, "--dry-run": dry_run}
    check_flags(
        moving, {"--check": check, "--bring-back": bring_back, "--moved-to": moved_to}, quick, since, everything
    )
    config = configuration.load(log)
    erase.finish(config)
    with open_log(config.log_path, config=config) as opened:
        if check:
            _check(opened, quick, as_json)
        elif bring_back:
            _bring_back(opened, since, as_json)
        elif moved_to is not None:
            _switch(opened, config, moved_to, as_json)
        else:
            _move(opened, _with_flags(config, older_than, by, keep_local), to, dry_run, as_json)


def check_flags(
    moving: Mapping[str, Any], others: Mapping[str, Any], quick: bool, since: str | None, everything: bool
) -> None:
    """Raise ConfigError unless the flags are of one thing to do."""
    from evtool.errors import ConfigError

    asked = [name for name, value in others.items() if value]
    given = [name for name, value in moving.items() if value]
    if len(asked) > 1 or (asked and given):
        raise ConfigError(
            f"{asked[0]} and {(asked[1:] + given)[0]} do not go together", "Do one behind the other."
        )
    if quick and "--check" not in asked:
        raise ConfigError("--quick is of --check", "Say --check --quick.")
    if "--bring-back" in asked and (since is None) != everything:
        raise ConfigError(
            "--bring-back wants to know how much", "Say --from, a time, event id or position (@123), or --all."
        )
    if "--bring-back" not in asked and (since is not None or everything):
        raise ConfigError("--from and --all are of --bring-back", "Say --bring-back --all.")


def _with_flags(config: Config, older_than: str | None, by: str | None, keep_local: str | None) -> Config:
    from dataclasses import replace

    from evtool import config as configuration

    settings = configuration.with_flags(config.archive, older_than=older_than, by=by, keep_local=keep_local)
    return replace(config, archive=settings)


def _move(log: Log, config: Config, to: str | None, dry_run: bool, as_json: bool) -> None:
    from evtool.cli.audited import audited
    from evtool.errors import LogDamagedError, LogReadOnlyError
    from evtool.lifecycle.archiving import moving, place, planning

    if log.is_read_only:
        raise LogReadOnlyError(f"{log.folder} is only to be read", "What it is read from is an archive already.")
    url = place.url_of(log, config, to)
    plan = planning.plan(log, config.archive, time.time_ns())
    if not as_json:
        _show(plan, url, dry_run)
    report = None
    if not dry_run:
        with (
            audited(log.folder, "archive") as entry,
            progress.shown("archive", "bytes", wanted=not as_json) as on_progress,
        ):
            report = moving.move_all(log, config, plan, url, on_progress)
            entry.counts = report.counts
            entry.outcome = "failed" if report.failures else "done"
    if as_json:
        moved = None if report is None else asdict(report)
        render.print_json({"log": str(log.folder), "url": url, "dry_run": dry_run, **_facts(plan), "moved": moved})
    elif report is not None:
        _say_moved(report)
    for failure in () if report is None else report.failures:
        render.say(f"{failure.folder}: {failure.message}\n  {failure.hint}")
    if report is not None and report.failures:
        raise typer.Exit(LogDamagedError.exit_code)


def _facts(plan: Plan) -> dict[str, Any]:
    from evtool.timestamps import to_text

    times = {
        name: None if (value := getattr(plan, name)) is None else to_text(value) for name in ("first", "last")
    }
    return asdict(plan) | times


def _show(plan: Plan, url: str, dry_run: bool) -> None:
    if plan.segments:
        first, last = render.moment(plan.first)[:10], render.moment(plan.last)[:10]
        days = first if first == last else f"{first} to {last}"
        render.say(
            f"{'would move' if dry_run else 'moving'} {render.count(plan.segments, 'segment')}, up to position "
            f"{plan.last_position:,}, to {url}: {render.count(plan.events, 'event')} of {days}, "
            f"{render.size(plan.bytes)}"
        )
    else:
        there = render.count(plan.archived, "segment")
        render.say(f"nothing to move; {there} at {url}" if plan.archived else "nothing to move")
    if plan.hot:
        hot = render.count(plan.hot, "segment that is", "segments that are")
        render.say(
            f"{hot} due and not compacted, with which {plan.waiting:,} wait: run `evtool compact`, then again"
        )
    if plan.missed_bytes:
        missed = render.size(plan.missed_bytes)
        render.say(f"{missed} stay on this disk beyond the size: what is not sealed or not compacted")


def _say_moved(report: Report) -> None:
    if report.segments:
        render.say(
            f"moved {render.count(report.segments, 'segment')}, {render.size(report.bytes)}: "
            f"the archive has all up to position {report.position:,}"
        )
    if report.removed:
        removed = render.count(report.removed, "object")
        render.say(f"removed {removed} that no segment names, {render.size(report.removed_bytes)}")


def _check(log: Log, quick: bool, as_json: bool) -> None:
    from evtool.lifecycle.archiving import checking, place

    with progress.shown("check", "bytes", wanted=not as_json) as on_progress:
        report = checking.check(place.existing(log), quick, on_progress)
    error = checking.error_of(report)
    if as_json:
        code = error.exit_code if error else 0
        render.print_json({"log": str(log.folder), "clean": error is None, "exit_code": code, **asdict(report)})
        if error is not None:
            raise typer.Exit(code)
        return
    _show_checked(report)
    if error is not None:
        raise error


def _show_checked(report: Checked) -> None:
    how = "looked at" if report.is_quick else "read"
    render.print_facts(
        [
            ("archive", f"{render.count(report.segments, 'segment')} at {report.url}"),
            ("position", f"{report.position:,}"),
            (how, f"{render.count(report.objects, 'object')}, {render.size(report.bytes)}"),
            ("not named", f"{render.count(report.unnamed, 'object')}, {render.size(report.unnamed_bytes)}"),
            ("result", "clean" if not report.damaged else f"{len(report.damaged):,} damaged"),
        ]
    )
    for damage in report.damaged:
        where = (
            f" (positions {damage.first_position:,} to {damage.last_position:,})" if damage.last_position else ""
        )
        render.say(f"{damage.object}{where}: {damage.message}")


def _bring_back(log: Log, since: str | None, as_json: bool) -> None:
    from evtool.cli.audited import audited
    from evtool.lifecycle.archiving import returning

    first = 1 if since is None else returning.position_of(log, since, time.time_ns())
    with (
        audited(log.folder, "archive --bring-back") as entry,
        progress.shown("bring back", "bytes", wanted=not as_json) as on_progress,
    ):
        report = returning.bring_back(log, first, on_progress)
        entry.counts = {"segments": report.segments, "bytes": report.bytes}
    if as_json:
        render.print_json({"log": str(log.folder), **asdict(report)})
        return
    rest = "it is empty, and the log has no archive any more" if report.is_over else f"{report.left:,} stay there"
    render.say(
        f"brought {render.count(report.segments, 'segment')} back from {report.url}, "
        f"{render.size(report.bytes)}; {rest}"
    )


def _switch(log: Log, config: Config, url: str, as_json: bool) -> None:
    from pathlib import Path

    from evtool.cli.audited import audited
    from evtool.lifecycle.archiving import place, returning

    target = place.canonical(log, url, Path.cwd())
    with audited(log.folder, "archive --moved-to") as entry:
        is_new = returning.moved_to(log, config, target)
        entry.counts["changed"] = int(is_new)
    if as_json:
        render.print_json({"log": str(log.folder), "url": target, "changed": is_new})
        return
    render.say(f"the archive of {log.folder} is at {target} " + ("now" if is_new else "already"))
