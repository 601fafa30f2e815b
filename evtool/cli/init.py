"""`evtool init`."""

from __future__ import annotations

from typing import Annotated

import typer

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption


def init(
    log: LogOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(metavar="N", help="Into how many partitions streams are spread. (default: 8)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an empty log. Ingest makes one too, when there is none."""
    from dataclasses import asdict, replace

    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.files import Files
    from evtool.log import manifest as manifest_file

    config = configuration.load(log)
    chosen = configuration.with_flags(config.log, partitions=partitions)
    config = replace(config, log=chosen)
    manifest = manifest_file.create(Files(), config.new_log_path, config.log.partitions)
    with audited(config.new_log_path, "init") as entry:
        entry.counts["partitions"] = manifest.partitions
    if as_json:
        render.print_json({"log": str(config.log_path), **asdict(manifest)}, done="The log was made.")
    else:
        render.say(f"made a log of {manifest.partitions} partitions in {config.log_path}")
