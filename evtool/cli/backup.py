"""`evtool backup`: back a log up to an object store, look at what is there, check it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.lifecycle.backups.checking import Listed, Report
    from evtool.lifecycle.backups.making import Made
    from evtool.lifecycle.backups.pruning import Pruned

app = typer.Typer(invoke_without_command=True)

_COLUMNS = ("id", "made", "recorded", "position", "events", "snapshots", "bytes")


@app.callback()
def backup(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where to: a folder, file:///FOLDER or s3://BUCKET/PREFIX. (default: evtool.toml)"
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make no backup, but read all of those that are there, and check them."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Keep the newest N backups, and remove what only others need. (default: evtool.toml)"
        ),
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back the log up as it is now, to a folder or a bucket, while others go on reading, writing and compacting.

    A sealed segment is stored once. Everything that is stored is read back. What was cut short is no backup, and
    the next run goes on with it. Backed up are log.json, the segments, schemas, dead letters and snapshots; read
    models, index/ and the reports of nights are made again. Keys of s3:// come from the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL).

    --keep removes manifests of older backups first, then objects that no backup names, and only such as were
    stored more than two days ago: another backup may run meanwhile, and rely on younger ones.
    """
    from evtool.errors import ConfigError

    if context.invoked_subcommand is not None:
        if (to, check, keep) != (None, None, None):
            raise ConfigError(
                f"{context.invoked_subcommand} takes no --to, --check or --keep", "Name the URL behind it instead."
            )
        return

    if check is not None:
        if to is not None or keep is not None:
            raise ConfigError("--check makes no backup, and removes none", "Leave --to and --keep out.")
        _check(check, as_json)
        return
    from dataclasses import replace

    from evtool import config as configuration
    from evtool.lifecycle.backups import making, pruning
    from evtool.lifecycle.backups.place import store_of
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    settings = configuration.with_flags(config.backup, to=to, keep=keep)
    began = time.monotonic()
    store = store_of(replace(config, backup=settings), to)
    erase.finish(config)
    with (
        open_log(config.log_path, config=config) as opened,
        progress.shown("backup", "bytes", wanted=not as_json) as on_progress,
    ):
        made = making.back_up(opened, store, on_progress)
    pruned = None if settings.keep is None else pruning.prune(store, settings.keep)
    if as_json:
        seconds = round(time.monotonic() - began, 6)
        render.print_json(
            {"log": str(config.log_path), "url": store.url, **_facts(made, pruned), "seconds": seconds}
        )
    else:
        _show(made, pruned, store.url)


@app.command("list")
def list_(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Where. (default: evtool.toml)")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the backups that are there, the oldest first."""
    from evtool import config as configuration
    from evtool.lifecycle.backups import checking
    from evtool.lifecycle.backups.place import store_of

    store = store_of(configuration.load(), url)
    listed = checking.every(store)
    if as_json:
        render.print_json({"url": store.url, "backups": [_described(each) for each in listed]})
        return
    if not listed:
        render.say(f"there is no backup at {store.url}")
        return
    render.print_columns(
        _COLUMNS, [_row(each) for each in listed], [number < 3 for number in range(len(_COLUMNS))]
    )
    for each in listed:
        if each.problem:
            render.say(each.problem)


def _check(url: str, as_json: bool) -> None:
    from evtool import config as configuration
    from evtool.lifecycle.backups import checking
    from evtool.lifecycle.backups.place import store_of

    store = store_of(configuration.load(), url)
    with progress.shown("check", "bytes", wanted=not as_json) as on_progress:
        report = checking.check(store, on_progress)
    error = checking.error_of(report, store.url)
    if as_json:
        code = error.exit_code if error else 0
        render.print_json({"url": store.url, "clean": error is None, "exit_code": code, **asdict(report)})
        if error is not None:
            raise typer.Exit(code)
        return
    _show_report(report, store.url)
    if error is not None:
        raise error


def _show_report(report: Report, url: str) -> None:
    render.print_facts(
        [
            ("backups", f"{len(report.backups):,} at {url}"),
            ("read", f"{render.count(report.objects, 'object')}, {render.size(report.bytes)}"),
            ("not named", f"{render.count(report.unnamed, 'object')}, {render.size(report.unnamed_bytes)}"),
            ("result", "clean" if not report.damaged else f"{len(report.damaged):,} damaged"),
        ]
    )
    for damage in report.damaged:
        path = f" ({damage.path})" if damage.path else ""
        render.say(f"{damage.object}{path}: {damage.message}\n  needed by {', '.join(damage.backups)}")


def _facts(made: Made, pruned: Pruned | None) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "backup": manifest.id,
        "new": made.is_new,
        "position": manifest.position,
        "events": manifest.events,
        "bytes": manifest.bytes,
        "stored": made.stored,
        "stored_bytes": made.stored_bytes,
        "removed": None if pruned is None else asdict(pruned),
    }


def _show(made: Made, pruned: Pruned | None, url: str) -> None:
    manifest = made.manifest
    if made.is_new:
        render.say(
            f"backup {manifest.id} at {url}: position {manifest.position:,}, {render.size(manifest.bytes)}, "
            f"of which {render.size(made.stored_bytes)} in {render.count(made.stored, 'object')} were not there"
        )
    else:
        render.say(f"nothing has changed since backup {manifest.id} at {url}, position {manifest.position:,}")
        if made.stored:
            lost = render.count(made.stored, "object")
            render.say(f"of this backup, {lost} had gone or changed in size, and were stored again")
    if pruned is not None and (pruned.backups or pruned.objects):
        render.say(
            f"removed {render.count(len(pruned.backups), 'older backup')} and "
            f"{render.count(pruned.objects, 'object')}, {render.size(pruned.bytes)}"
        )


def _described(each: Listed) -> dict[str, Any]:
    manifest = each.manifest
    if manifest is None:
        return {"id": each.id, "problem": each.problem}
    names = ("log_id", "made_at", "position", "recorded_at", "digest", "events", "bytes")
    return {
        "id": each.id,
        **{name: getattr(manifest, name) for name in names},
        "snapshots": len(manifest.snapshots),
    }


def _row(each: Listed) -> tuple[str, ...]:
    manifest = each.manifest
    if manifest is None:
        return (each.id, "damaged", *["-"] * (len(_COLUMNS) - 2))
    return (
        manifest.id,
        render.moment(manifest.made_at),
        render.moment(manifest.recorded_at),
        f"{manifest.position:,}",
        f"{manifest.events:,}",
        f"{len(manifest.snapshots):,}",
        f"{manifest.bytes:,}",
    )
