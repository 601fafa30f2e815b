"""`evtool verify`."""

from __future__ import annotations

import sys

import typer

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption


def verify(log: LogOption = None, as_json: JsonOption = False) -> None:
    """Check every checksum, count and order of the log, and compute its logical digest.

    The digest depends on the events and their order alone: equal logs have equal digests, however they
    are stored. Damage is listed, and the exit code is 14.
    """
    from dataclasses import asdict

    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators

    from evtool import config as configuration
    from evtool.errors import LogDamagedError
    from evtool.lifecycle import verify as verifying
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    show = sys.stderr.isatty() and not as_json

    def on_progress(events: int) -> None:
        if show:
            sys.stderr.write(f"\r{events:,} events checked ")

    with open_log(config.log_path, read_only=True, config=config) as opened:
        report = verifying.verify(opened, on_progress)
    if show:
        sys.stderr.write("\r\033[K")
    if as_json:
        render.print_json({"log": str(config.log_path), "clean": report.is_clean, **asdict(report)})
    else:
        batches = render.count(report.batches, "batch", "batches")
        render.print_facts(
            [
                ("log", str(config.log_path)),
                ("events", f"{report.events:,}"),
                ("position", f"{report.position:,}"),
                ("frames", f"{report.frames:,} in {batches}, {render.count(report.segments, 'segment')}"),
                ("read", render.size(report.bytes)),
                ("digest", report.digest or "none: not every event can be read"),
                ("result", "clean" if report.is_clean else render.count(len(report.findings), "finding")),
            ]
        )
        for finding in (*report.findings, *report.notes):
            render.say(f"{finding.file}: {finding.message}\n  {finding.hint}")
    if not report.is_clean:
        raise typer.Exit(LogDamagedError.exit_code)
