"""`evtool restore`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evtool.cli import progress, render
from evtool.cli.options import JsonOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.lifecycle.backups.restoring import Restored
    from evtool.lifecycle.verify import Report


def restore(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Where the backups are. (default: evtool.toml)"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The log's new folder, empty or not there. (default: the log's folder)"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="Only what was there before X: a time of recording (RFC 3339, a date, -24h), an event id, or a "
            "position (@123). X itself is left out, as by `replay --to`.",
        ),
    ] = None,
    backup: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Which backup: an id of `evtool backup list`. (default: the newest)"),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Read every event of the new log, as `evtool verify` does."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Make a log again from a backup, all of it or up to some event, and verify it.

    Every object is checked while it is written. Nothing is written over: the folder must be empty, or hold what a
    restore has left that was cut short, which is begun anew. log.json comes last, so until then there is no log.

    With --until the log ends with the last event before X, also in the middle of a batch; schemas and dead letters
    are those of the backup, and snapshots those up to there. Read models are made by the next `evtool project`.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators

    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.files import Files
    from evtool.lifecycle.backups import manifest as manifests
    from evtool.lifecycle.backups import restoring
    from evtool.lifecycle.backups.place import store_of

    config = configuration.load(to)
    began = time.monotonic()
    restoring.refuse_what_is_there(config.new_log_path)
    store = store_of(config, source)
    found = manifests.find(store, backup)
    with progress.shown("restore", "bytes", wanted=not as_json) as on_progress:
        done = restoring.restore(store, found, config.log_path, Files(), config, until, on_progress)
    with audited(config.log_path, "restore") as entry:
        entry.counts = {"position": done.position, "bytes": done.bytes}
        entry.details["backup"] = found.id
        report = _verified(config, is_full=False, as_json=as_json)
        if verify and report.error is None:
            report = _verified(config, is_full=True, as_json=as_json)
        entry.counts["findings"] = len(report.findings)
        entry.outcome = "failed" if report.error else "done"
    code = report.error.exit_code if report.error else 0
    if as_json:
        facts = {"log": str(config.log_path), "url": store.url, "backup": found.id, "position": done.position}
        verified = {"verified": report.mode, "clean": report.is_clean, "digest": report.digest, "exit_code": code}
        seconds = round(time.monotonic() - began, 6)
        render.print_json(facts | {"events": report.events, "bytes": done.bytes} | verified | {"seconds": seconds})
    else:
        _show(report, done, config.log_path)
    if code:
        raise typer.Exit(code)


def _verified(config: Config, is_full: bool, as_json: bool) -> Report:
    from evtool.lifecycle import verify as verifying
    from evtool.log.log import open as open_log

    with (
        open_log(config.log_path, read_only=True, config=config) as opened,
        progress.shown("verify", wanted=not as_json) as on_progress,
    ):
        return verifying.verify(opened, on_progress, fast=not is_full)


def _show(report: Report, done: Restored, folder: Path) -> None:
    how = "every byte is verified" if report.mode == "full" else "headers and sizes are verified"
    result = how if report.is_clean else render.count(len(report.findings), "finding")
    render.say(
        f"restored {folder} from backup {done.backup.id}: {render.count(report.events, 'event')} up to position "
        f"{done.position:,}, {render.size(done.bytes)}; {result}"
    )
    if report.digest:
        render.say(f"digest {report.digest}")
    for finding in report.findings:
        render.say(f"{finding.file}: {finding.message}\n  {finding.hint}")
