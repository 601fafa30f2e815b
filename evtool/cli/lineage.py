"""`evtool lineage` and `evtool explain`: what a read model was made from."""

from __future__ import annotations

from typing import Annotated

import typer

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption
from evtool.errors import ConfigError, DerivedDamagedError


def lineage(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A Parquet file of a read model.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a read model was made from, and whether its bytes are still those that were written."""
    from pathlib import Path

    from evtool.projections.lineage import read_lineage

    found = read_lineage(Path(file))
    facts = {**found.lineage, "sha256": found.sha256, "matches": found.matches}
    if as_json:
        render.print_json(facts)
    else:
        render.print_facts((name.replace("_", " "), _text(value)) for name, value in facts.items())
    if found.matches is False:
        raise typer.Exit(DerivedDamagedError.exit_code)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} = {inner}" for name, inner in value.items()) or "-"
    return "-" if value is None else str(value)


def explain(
    projection: Annotated[
        str, typer.Argument(metavar="NAME|FILE|MODULE:OBJECT", help="A definition by name or path, or an object.")
    ],
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Which rows: a value by which they are found, as day=2026-11-01 or step=2; may be repeated.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Another value of a parameter; may be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="At most so many events.")] = None,
    log: LogOption = None,
) -> None:
    """Write the events behind a row of a read model, as NDJSON in order of position."""
    import sys

    from evtool import config as configuration
    from evtool import ndjson
    from evtool.log.log import open as open_log
    from evtool.projections import explain as explaining
    from evtool.projections import parameters
    from evtool.projections import projection as projections
    from evtool.projections.source import Source

    chosen = {}
    for text in row or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--row {text!r} names no value", "As in --row day=2026-11-01.")
        chosen[name] = value
    config = configuration.load(log)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        asked = projections.open(opened, projection, config, parameters.settings(settings or []))
        source = Source(opened.snapshot(), opened.partitions, opened.schemas.current())
        left = limit
        for events in explaining.events(asked.plan, source, chosen):
            shown = events if left is None else events.head(left)
            sys.stdout.buffer.write(ndjson.render(shown))
            left = None if left is None else left - len(shown)
            if left == 0:
                return
