"""`evtool project`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evtool.cli import erase, frames, progress, render
from evtool.cli.options import LogOption, seconds
from evtool.errors import ConfigError

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.log.log import Log
    from evtool.projections.projection import Projection
    from evtool.projections.runner import Answer

_BOUND = "a time, an event id, or a position (@123)"


def project(
    projection: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE|MODULE:OBJECT]", help="A definition by name or path, or a Python object."
        ),
    ] = None,
    log: LogOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Another value of a parameter; may be repeated."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="X", help=f"Only events from {_BOUND} on.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="X", help=f"Only events before {_BOUND}.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="X", help="As the log stood then: a time of recording, or a position, which counts."),
    ] = None,
    output_format: Annotated[
        Literal["table", "json", "ndjson", "csv", "parquet"] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, json, ndjson, csv or parquet; by default as --out ends, or a table.",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write to a file.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Make it anew from the first event on.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Answer at once, as of the last run, and say how far behind that is.")
    ] = False,
    all_of_them: Annotated[bool, typer.Option("--all", help="Refresh every projection, and show none.")] = False,
    follow: Annotated[
        str | None, typer.Option(metavar="TIME", help="Refresh again and again, so long after another: 5s.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors, and show no table: for cron.")
    ] = False,
) -> None:
    """Make and show a read model: exact, with every event that is committed.

    It is kept as Parquet in read-models/NAME/vVERSION/ under the log, and goes on from there the next time.
    With --from, --to or --as-of it is computed for that part of the log alone, and not kept.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    _check(projection, all_of_them, full, stale, follow, [start, end, as_of], settings, out, output_format)
    kind = output_format or (frames.FORMATS.get(Path(out).suffix, "table") if out else "table")
    if out and output_format == "table":
        raise ConfigError("a table is for people and goes to standard output", "Leave --out or --format away.")
    if out and kind == "table":
        raise ConfigError(f"--out {out}: its ending tells no format", "Add --format json, ndjson, csv or parquet.")
    pause = None if follow is None else _pause(follow)
    config = configuration.load(log)
    erase.finish(config)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        if all_of_them:
            _refresh_all(opened, config, full, quiet)
            return
        asked = _open(opened, config, projection or "", settings or [])
        bounds = {"from": start, "to": end, "as_of": as_of}
        part = {name: bound for name, bound in bounds.items() if bound is not None}
        is_first = not stale  # which answers at once
        for answer in _answers(opened, asked, list(bounds.values()), full, stale, pause, quiet):
            if not quiet or kind != "table":
                _write(answer, kind, out, opened, part, follow is not None)
            if not quiet:
                _say(answer, asked)
                _say_absent(answer, opened)
                if is_first:
                    _say_unknown_types(answer, asked, opened)
            is_first = False


def _check(
    projection: str | None,
    all_of_them: bool,
    full: bool,
    stale: bool,
    follow: str | None,
    bounds: list[str | None],
    settings: list[str] | None,
    out: str | None,
    output_format: str | None,
) -> None:
    """Raise ConfigError for what makes no sense together."""
    is_part = any(bound is not None for bound in bounds)
    if projection is not None and all_of_them:
        raise ConfigError(f"--all refreshes every projection, and {projection} is one", "Leave one of them away.")
    if projection is None and not all_of_them:
        raise ConfigError(
            "name a projection, or --all of them", "`evtool projections list` shows which there are."
        )
    if all_of_them and (stale or follow or is_part or settings or out or output_format):
        raise ConfigError(
            "--all refreshes every projection as it is configured", "It goes with --full and --quiet alone."
        )
    if stale and (full or is_part or follow):
        raise ConfigError("--stale answers with what the last run has made", "Leave the other away.")
    if is_part and (full or follow):
        raise ConfigError(
            "a part of the log is computed anew in any case, and once", "Leave --full and --follow away."
        )
    if bounds[2] is not None and bounds[1] is not None and bounds[1].startswith("@"):
        raise ConfigError("--as-of and a position in --to are two ends", "Leave one of them away.")


def _open(opened: Log, config: Config, reference: str, settings: list[str]) -> Projection:
    from evtool.projections import parameters
    from evtool.projections import projection as projections

    return projections.open(opened, reference, config, parameters.settings(settings))


def _answers(
    opened: Log,
    asked: Projection,
    bounds: list[str | None],
    full: bool,
    stale: bool,
    pause: float | None,
    quiet: bool,
) -> Iterator[Answer]:
    if stale:
        yield asked.serving.stale()
        return
    if any(bound is not None for bound in bounds):
        from evtool.projections.bounds import select

        with progress.shown(asked.identity.name, wanted=not quiet) as on_progress:
            answer = asked.runner.compute(select(opened, *bounds), on_progress)
        yield answer
        return
    with progress.shown(asked.identity.name, wanted=not quiet) as on_progress:
        answer = asked.runner.refresh(full, on_progress)
    yield answer
    while pause is not None:
        time.sleep(pause)
        position, answer = answer.position, asked.runner.refresh()
        if answer.position != position:
            yield answer


def _pause(follow: str) -> float:
    if follow.strip().isdigit():
        raise ConfigError(f"--follow {follow} has no unit", "As in --follow 5s: ms, s, m or h.")
    return seconds("--follow", follow, "5s")


def _write(
    answer: Answer, kind: frames.Format, out: str | None, opened: Log, part: dict[str, str], is_one_of_many: bool
) -> None:
    """A table, below a line with the time where one follows another; or what programs read."""
    if kind == "table":
        if is_one_of_many:
            render.say(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, position {answer.position:,}")
        frames.show(answer.frame, answer.keys)
    else:
        from evtool import output

        with output.opened(out, opened.folder) as target:
            frames.write(answer.frame, kind, target, answer.lineage | part)


def _say(answer: Answer, asked: Projection) -> None:
    """What of it is not as one would think."""
    if answer.failed_casts:
        values = render.count(sum(answer.failed_casts.values()), "value")
        casts = ", ".join(f"{count:,} by {cast}" for cast, count in sorted(answer.failed_casts.items()) if cast)
        named = f" ({casts})" if casts else ""
        stop = 'on_cast_error = "stop" in a definition'
        if asked.definition and "on_cast_error" in asked.definition.parameters:
            stop = "--set on_cast_error=stop"
        render.say(f"{values} did not cast and counted as absent{named}; {stop} shows the first one")
    if answer.behind:
        render.say(f"as of position {answer.position:,}; {render.count(answer.behind, 'event')} came after that")


def _say_absent(answer: Answer, opened: Log, name: str = "") -> None:
    """That events are gone which would have been taken up: how many, and up to when."""
    if answer.absent:
        until = render.moment(opened.snapshot().absent_until(answer.position))
        gone = f"{render.count(answer.absent, 'event')} recorded up to {until}"
        render.say(f"{name}{gone} {'is' if answer.absent == 1 else 'are'} gone: this is made from what is left")


def _say_unknown_types(answer: Answer, asked: Projection, opened: Log) -> None:
    """Where a result has nothing in it: the event types that no event has."""
    from evtool.projections.unknowntypes import absent, lacks_something

    if asked.definition is None or not lacks_something(answer.frame, asked.definition.kind):
        return
    for name, near in absent(asked.plan.named_types, opened.snapshot(), opened.partitions).items():
        meant = "" if near is None else f"; did you mean {near!r}?"
        render.say(f"no event of the log has the type {name!r}{meant}")


def _refresh_all(opened: Log, config: Config, full: bool, quiet: bool) -> None:
    from evtool.errors import EvtoolError
    from evtool.projections import catalogue
    from evtool.projections import projection as projections

    failed: EvtoolError | None = None
    for name in catalogue.entries(config.definitions_path):
        started = time.perf_counter()
        try:
            with progress.shown(name, wanted=not quiet) as on_progress:
                answer = projections.open(opened, name, config).runner.refresh(full, on_progress)
        except EvtoolError as error:  # one that is wrong does not keep the others from being refreshed
            render.print_error(error)
            failed = failed or error
            continue
        rows, seconds = render.count(len(answer.frame), "row"), time.perf_counter() - started
        if not quiet:
            render.say(f"{name}: {rows} at position {answer.position:,} in {seconds:.2f} s")
            _say_absent(answer, opened, f"{name}: ")
    if failed:
        raise typer.Exit(failed.exit_code)
