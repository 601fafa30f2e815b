"""`evtool verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evtool.cli import progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.lifecycle.findings import Finding
    from evtool.lifecycle.verify import Report

_WORDS = {"log": "damaged", "derived": "damaged, can be made again", "note": "note"}


def verify(
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at headers, summaries, sizes and indexes only: no event is read.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="Leave out segments that end before a time of recording (RFC 3339, a date, -24h), an event id, "
            "or a position (@123).",
        ),
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every checksum, count and order of the log, and all that is made from it; compute its logical digest.

    The digest depends on the events and their order alone: equal logs have equal digests, however they
    are stored. Damage is listed. The exit code is 14 if the log is damaged, and 24 if only something is that can
    be made again: an index, a read model, a snapshot.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators

    import time

    from evtool import config as configuration
    from evtool.lifecycle import verify as verifying
    from evtool.log.log import open as open_log
    from evtool.replay import parse_bound

    config = configuration.load(log)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        bound = None if since is None else parse_bound(since, opened, time.time_ns())
        with progress.shown("verify", wanted=not as_json) as on_progress:
            report = verifying.verify(
                opened, on_progress, fast=fast, since=bound, read_models=config.read_models_path, config=config
            )
    code = report.error.exit_code if report.error is not None else 0
    if as_json:
        facts = {"log": config.log_name, "clean": report.is_clean, "exit_code": code, "since": since}
        render.print_json(facts | report.as_dict())
    else:
        _show(report, config.log_name, since)
    if code:
        raise typer.Exit(code)


def _show(report: Report, log: str, since: str | None) -> None:
    batches = render.count(report.batches, "batch", "batches")
    found = len(report.findings) + (report.unlisted if report.findings else 0)
    render.print_facts(
        [
            ("log", log),
            ("checked", _checked(report, since)),
            ("events", f"{report.events:,}" + (", counted by headers" if report.mode == "fast" else "")),
            ("position", f"{report.position:,}"),
            ("frames", f"{report.frames:,} in {batches}, {render.count(report.segments, 'segment')}"),
            ("read" if report.mode == "full" else "not read", render.size(report.bytes)),
            ("beside", _beside(report)),
            ("digest", report.digest or _no_digest(report)),
            ("result", "clean" if report.is_clean else render.count(found, "finding")),
        ]
    )
    for finding in (*report.findings, *report.notes):
        render.say(_told(finding))
    if report.unlisted:
        render.say(f"and {report.unlisted:,} more that are not listed")


def _checked(report: Report, since: str | None) -> str:
    what = "every byte" if report.mode == "full" else "headers, summaries, sizes and indexes; no event was read"
    if since is None:
        return what
    return f"{what}; from {since} on, without {render.count(report.skipped, 'segment')} before"


def _beside(report: Report) -> str:
    counts = (
        (report.ids, "id"),
        (report.streams, "stream"),
        (report.schemas, "schema"),
        (report.dead_letters, "dead letter"),
        (report.read_models, "read model"),
        (report.states, "state"),
        (report.snapshots, "snapshot"),
    )
    return ", ".join(render.count(number, name) for number, name in counts if number) or "nothing"


def _no_digest(report: Report) -> str:
    return (
        "none: not every event was read"
        if report.mode == "fast" or report.skipped
        else "none: not every event can be read"
    )


def _told(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{finding.file}: {_WORDS[finding.severity]}: {where}{finding.message}\n  {finding.hint}"
