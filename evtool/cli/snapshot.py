"""`evtool snapshot`: projections as they were at a position."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evtool.cli import erase, frames, progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    import polars as pl

    from evtool.config import Config
    from evtool.log.log import Log
    from evtool.projections.snapshots import Snapshot

app = typer.Typer(help="Keep projections as they are now, and look at what was kept.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The beginning of an id is enough.")]
FormatOption = Annotated[
    frames.Format, typer.Option("--format", help="A table, or only the rows: JSON, NDJSON, CSV, Parquet.")
]

_DIGITS_TO_DROP = 4
_COLUMNS = ("id", "projection", "label", "taken", "as of", "version", "position", "bytes")


@app.command()
def take(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PROJECTION]...", help="Which ones; by default all of them.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A name for it. No nightly run drops what has one.")
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refresh projections, and keep what they are then. One that fails does not keep the others from it."""
    from evtool.cli.audited import audited
    from evtool.errors import EvtoolError
    from evtool.projections import catalogue, snapshots
    from evtool.projections import projection as projections

    failed: EvtoolError | None = None
    taken: list[Snapshot] = []
    with _open(log) as (opened, config), audited(config.log_path, "snapshot take") as entry:
        known = {each.id for each in snapshots.every(opened)}
        for name in names or catalogue.entries(config.definitions_path):
            try:
                with progress.shown(name, wanted=not as_json) as on_progress:
                    asked = projections.open(opened, name, config)
                    taken.append(snapshots.take(opened, asked, label, on_progress))
            except EvtoolError as error:
                render.print_error(error)
                failed = failed or error
        entry.counts["snapshots"] = sum(each.id not in known for each in taken)
        entry.outcome = "failed" if failed else "done"
    if taken or as_json or not failed:
        _list(taken, as_json)
    if failed:
        raise typer.Exit(failed.exit_code)


@app.command("list")
def list_(log: LogOption = None, as_json: JsonOption = False) -> None:
    """List the snapshots, by projection, version and position."""
    from evtool.projections import snapshots

    with _open(log) as (opened, _):
        _list(snapshots.every(opened), as_json)


@app.command()
def show(snapshot: IdArgument, output_format: FormatOption = "table", log: LogOption = None) -> None:
    """Show a snapshot, and its rows."""
    from evtool.projections import snapshots

    with _open(log) as (opened, _):
        found = snapshots.find(opened, snapshot)
        frame = snapshots.frame(opened, found)
    if output_format == "table":
        render.print_facts(
            [
                ("id", found.id),
                ("projection", f"{found.projection} version {found.version}"),
                ("position", f"{found.position:,}"),
                ("recorded", render.moment(found.recorded_at)),
                ("taken", render.moment(found.taken_at)),
                ("label", _label(found)),
                ("bytes", f"{found.bytes:,}"),
            ]
        )
    _rows(frame, output_format, found.keys)


@app.command()
def diff(
    before: IdArgument, after: IdArgument, output_format: FormatOption = "table", log: LogOption = None
) -> None:
    """Show the rows that are not in both of two snapshots of a projection."""
    from evtool.projections import snapshots

    with _open(log) as (opened, _):
        one, other = snapshots.find(opened, before), snapshots.find(opened, after)
        changed = snapshots.difference(opened, one, other)
    if output_format == "table" and changed.is_empty():
        render.say("no row differs")
        return
    _rows(changed, output_format, ("change", *one.keys))


@app.command()
def drop(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The beginning of an id, of 4 digits or more.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take snapshots away for ever, with a label too. It asks before it does."""
    from evtool.cli.audited import audited
    from evtool.projections import snapshots

    with _open(log) as (opened, config):
        chosen = (snapshots.find(opened, beginning, _DIGITS_TO_DROP) for beginning in ids)
        found = {each.id: each for each in chosen}
        if not yes:
            _ask(list(found.values()))
        with audited(config.log_path, "snapshot drop") as entry:
            entry.counts["snapshots"] = len(found)
            entry.details["snapshots"] = ", ".join(found)
            entry.begin()
            snapshots.drop(opened, list(found.values()))
    if as_json:
        render.print_json({"dropped": list(found)})
        return
    for each in found.values():
        render.say(f"dropped {_told(each)}")


def _ask(found: list[Snapshot]) -> None:
    from evtool.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("drop asks before it drops, and there is no terminal", "Say --yes.")
    for each in found:
        render.say(_told(each))
    typer.confirm(f"Drop {render.count(len(found), 'snapshot')} for ever?", abort=True, err=True)


def _told(snapshot: Snapshot) -> str:
    """Which one it is, in a few words."""
    label = f", {render.printable(repr(snapshot.label))}" if snapshot.label else ""
    return f"snapshot {snapshot.id} of {snapshot.projection} at position {snapshot.position:,}{label}"


@contextlib.contextmanager
def _open(folder: Path | None) -> Iterator[tuple[Log, Config]]:
    """The log and the configuration, until the end of the block."""
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    config = configuration.load(folder)
    erase.finish(config)
    with open_log(config.log_path, config=config) as opened:
        yield opened, config


def _list(snapshots: list[Snapshot], as_json: bool) -> None:
    if as_json:
        render.print_json({"snapshots": [asdict(each) for each in snapshots]})
        return
    if not snapshots:
        render.say("there are no snapshots")
        return
    rows = [
        (
            each.id,
            each.projection,
            _label(each),
            render.moment(each.taken_at),
            render.moment(each.recorded_at),
            f"{each.version}",
            f"{each.position:,}",
            f"{each.bytes:,}",
        )
        for each in snapshots
    ]
    render.print_columns(_COLUMNS, rows, [number < 5 for number in range(len(_COLUMNS))])


def _label(snapshot: Snapshot) -> str:
    return ("wrong " if snapshot.is_wrong else "") + render.printable(snapshot.label or "-")


def _rows(frame: pl.DataFrame, kind: frames.Format, keys: tuple[str, ...]) -> None:
    if kind == "table":
        frames.show(frame, keys)
        return
    from evtool import output

    with output.opened(None) as target:
        frames.write(frame, kind, target)
