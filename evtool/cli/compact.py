"""`evtool compact`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.lifecycle.compact import Report

_COLUMNS = ("segment", "events", "segments", "before", "after")


def compact(
    materialise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="A path that every cold segment gets a column for, payload.user_id, besides those that "
            "projections read; `none`: without those. Repeatable.",
        ),
    ] = None,
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite",
            help="Write cold segments again that lack columns which projections read; after `--materialise none`, "
            "those that have others than are asked for, which go.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and about what it saves.")
    ] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store sealed segments as Parquet, and small neighbours as one. No event changes.

    What projections read of payloads and metadata gets columns, so that they are fast over such segments.
    It runs beside everything else, on what processors others leave, and what is cut short is taken up by the next
    run. A segment that is damaged is left as it is; then the exit code is 14.
    """
    from evtool.parallel import keep_freed_memory, step_back

    step_back()
    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.errors import LogDamagedError
    from evtool.lifecycle import compact as compacting
    from evtool.lifecycle import materialising
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    started = time.monotonic()
    target_bytes = config.log.segment_bytes
    columns = materialising.choose(config, materialise or [], rewrite)
    erase.finish(config)
    with open_log(config.log_path, config=config) as opened:
        if dry_run:
            report = compacting.estimate(opened, target_bytes, columns)
        else:
            with (
                audited(config.log_path, "compact") as entry,
                progress.shown("compact", wanted=not as_json) as on_progress,
            ):
                report = compacting.compact(opened, target_bytes, columns, on_progress)
                entry.counts = report.counts
                entry.outcome = "failed" if report.failures else "done"
    seconds = time.monotonic() - started
    if as_json:
        facts = {"log": str(config.log_path), "dry_run": dry_run, **_facts(report)}
        render.print_json(facts | {"seconds": round(seconds, 6)})
    else:
        _show(report, dry_run, seconds)
    if report.failures:
        raise typer.Exit(LogDamagedError.exit_code)


def _facts(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "events": sum(one.events for one in report.compacted),
        "bytes_before": sum(one.bytes_before for one in report.compacted),
        "bytes_after": sum(one.bytes_after for one in report.compacted),
        **asdict(report),
    }


def _show(report: Report, dry_run: bool, seconds: float) -> None:
    from pathlib import Path

    done = report.compacted
    if done:
        render.print_table(
            _COLUMNS,
            (
                (
                    Path(one.folder).name,
                    f"{one.events:,}",
                    f"{one.segments:,}",
                    render.size(one.bytes_before),
                    render.size(one.bytes_after),
                )
                for one in done
            ),
        )
        events = render.count(sum(one.events for one in done), "event")
        before, after = sum(one.bytes_before for one in done), sum(one.bytes_after for one in done)
        sizes = f"{render.size(before)} {'would become about' if dry_run else 'became'} {render.size(after)}"
        render.say(f"{events}: {sizes}" + ("" if dry_run else f", in {seconds:.2f} s"))
    elif not report.failures:
        render.say("nothing to compact: no sealed segment is left that is not")
    if done and report.materialised:
        render.say(f"with columns for {', '.join(report.materialised)}")
    for name in report.passed_over:
        render.say(f"what {name} reads has none: see `evtool projections validate {name}`")
    if report.lacking:
        segments = render.count(len(report.lacking), "cold segment")
        names = sorted({name for lack in report.lacking for name in lack.names})
        render.say(f"{segments} without columns for {', '.join(names)}: `evtool compact --rewrite` makes them")
    for failure in report.failures:
        render.say(f"{failure.folder} was left as it is: {failure.message}\n  {failure.hint}")
