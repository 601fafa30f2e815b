"""`evtool retain`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.lifecycle.retention import Plan, Report
    from evtool.log.log import Log

_COLUMNS = ("policy", "from", "to", "events", "segments", "bytes")


def retain(
    events_older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Let events go that are older: 90d (s, m, h, d or w).")
    ] = None,
    by: Annotated[
        Literal["recorded", "timestamp"] | None,
        typer.Option(help="What their age is: that of their recording (by default), or of their timestamp."),
    ] = None,
    type_ages: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME=AGE", help="Another age for an event type; may be repeated."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Let the oldest segments go until events take less: 50GiB.")
    ] = None,
    unused_read_models: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Let read models go that do not serve and were not written for so long."),
    ] = None,
    snapshots: Annotated[
        str | None, typer.Option(metavar="AGE", help="Let snapshots without a label go that are older.")
    ] = None,
    dead_letters: Annotated[
        str | None, typer.Option(metavar="AGE", help="Let dead letters go that are older.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Write segments again for less than 1 % of their events, too.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Drop what is due even if that is everything there is.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be dropped.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let go of what is old or too much, for ever: events, read models, snapshots, dead letters.

    The policies are those under `retain` in evtool.toml; a flag takes the place of the same one there. What is
    due is shown, and it asks before it drops. Only sealed segments are touched. Positions, ids and stream
    versions of dropped events are never given again: who sends them again stores nothing.
    """
    from dataclasses import replace

    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.errors import LogDamagedError
    from evtool.lifecycle import materialising, retention
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    policies = configuration.with_flags(
        config.retain,
        by=by,
        size=size,
        unused_read_models=unused_read_models,
        snapshots=snapshots,
        dead_letters=dead_letters,
    )
    if events_older_than is not None:
        policies = replace(policies, events=_age("--events-older-than", events_older_than))
    types = {**policies.types, **dict(map(_type_age, type_ages or []))}
    config = replace(config, retain=replace(policies, types=types))
    if not (yes or dry_run):
        _check_terminal()
    erase.finish(config)
    with open_log(config.log_path, config=config) as opened:
        with progress.shown("retain: plan", wanted=not as_json) as on_progress:
            plan = retention.plan(opened, config, time.time_ns(), exact, on_progress)
        if not everything and not dry_run:
            plan.check()
        if not as_json:
            _show(plan)
            _say_unknown_types(opened, frozenset(types))
        if dry_run and plan.is_everything and not everything:
            render.say("this is everything that can be dropped: it takes --all")
        is_wanted = not dry_run and (not plan.is_empty or bool(plan.failures))
        if is_wanted and not yes:
            typer.confirm("Drop this for ever?", abort=True, err=True)
        report = None
        if is_wanted:
            with (
                audited(config.log_path, "retain") as entry,
                progress.shown("retain", wanted=not as_json) as on_progress,
            ):
                entry.counts = plan.counts
                entry.begin()
                report = retention.apply(opened, config, plan, materialising.choose(config), on_progress)
                entry.counts = report.counts
                entry.outcome = "failed" if report.failures else "done"
    if as_json:
        render.print_json({"log": str(config.log_path), "dry_run": dry_run, **_facts(plan, report)})
    elif report is not None:
        _say_dropped(report)
    failures = {each.folder: each for each in (*plan.failures, *(report.failures if report else ()))}
    for failure in failures.values():
        render.say(f"{failure.folder} was left as it is: {failure.message}\n  {failure.hint}")
    if failures:
        raise typer.Exit(LogDamagedError.exit_code)


def _age(flag: str, text: str) -> int:
    """The seconds of an age that a flag was given. Raises ConfigError."""
    from evtool.errors import ConfigError
    from evtool.quantities import parse_age_seconds

    try:
        return parse_age_seconds(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _type_age(text: str) -> tuple[str, int]:
    """A type and its age, of `--type NAME=AGE`. Raises ConfigError."""
    from evtool.errors import ConfigError

    name, _, age = text.rpartition("=")
    if not name:
        raise ConfigError(f"--type {text!r} gives no age", "As in --type PageViewed=30d.")
    return name, _age(f"--type {name}", age)


def _check_terminal() -> None:
    from evtool.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("retain asks before it drops, and there is no terminal", "Say --yes, or try --dry-run.")


def _facts(plan: Plan, report: Report | None) -> dict[str, Any]:
    from dataclasses import asdict

    from evtool.timestamps import to_text

    def shown(moment: int | None) -> str | None:
        return None if moment is None else to_text(moment)

    shares = [asdict(each) | {"first": shown(each.first), "last": shown(each.last)} for each in plan.shares]
    numbers = ("events", "segments", "emptied", "bytes_before", "bytes_after", "waiting", "active", "missed_bytes")
    return {
        "policies": shares,
        **{name: getattr(plan, name) for name in numbers},
        "is_everything": plan.is_everything,
        "read_models": [each.id for each in plan.read_models],
        "snapshots": [each.id for each in plan.snapshots],
        "dead_letters": plan.dead_letters,
        "failures": [asdict(each) for each in plan.failures],
        "dropped": None if report is None else asdict(report),
    }


def _show(plan: Plan) -> None:
    if plan.shares:
        rows = [
            (
                render.printable(each.policy),
                render.moment(each.first)[:19],
                render.moment(each.last)[:19],
                f"{each.events:,}",
                f"{each.segments:,}",
                render.size(each.bytes),
            )
            for each in plan.shares
        ]
        render.print_table(_COLUMNS, rows, text_columns=3)
    if plan.events:
        before, after = render.size(plan.bytes_before), render.size(plan.bytes_after)
        whole = f"{plan.emptied:,} of them whole" if plan.emptied else "none of them whole"
        render.say(
            f"{render.count(plan.events, 'event')} of {render.count(plan.segments, 'segment')}, {whole}: "
            f"{before} become about {after}"
        )
    for model in plan.read_models:
        render.say(f"read model {model.id}: {render.size(model.bytes)}")
    for snapshot in plan.snapshots:
        taken = render.moment(snapshot.taken_at)
        render.say(
            f"snapshot {snapshot.id} of {snapshot.projection}, taken {taken}: {render.size(snapshot.bytes)}"
        )
    if plan.dead_letters:
        render.say(render.count(plan.dead_letters, "dead letter"))
    if plan.waiting:
        waiting = render.count(plan.waiting, "event")
        render.say(f"{waiting} due in segments of which less than 1 % is: they wait, unless --exact is given")
    if plan.active:
        active = render.count(plan.active, "event")
        render.say(f"{active} due in the active segment: it is left until it is sealed")
    if plan.missed_bytes:
        missed = render.size(plan.missed_bytes)
        render.say(f"about {missed} stay above the size: the active segment, and ids that still count as seen")
    if plan.is_empty:
        render.say("nothing to drop")


def _say_unknown_types(opened: Log, types: frozenset[str]) -> None:
    """A type that is misspelled has no age of its own: its events go by that of all, or not at all."""
    import contextlib

    from evtool.errors import LogDamagedError
    from evtool.projections import unknowntypes

    with contextlib.suppress(LogDamagedError):  # which the plan has told
        for name, near in unknowntypes.absent(types, opened.snapshot(), opened.partitions).items():
            meant = f": did you mean {render.printable(near)}?" if near else ""
            render.say(f"no event that is there has the type {render.printable(name)}{meant}")


def _say_dropped(report: Report) -> None:
    if report.events:
        events = render.count(report.events, "event")
        sizes = f"{render.size(report.bytes_before)} became {render.size(report.bytes_after)}"
        how = f"{render.count(report.emptied, 'segment')} emptied, {report.rewritten:,} written again"
        render.say(f"dropped {events}: {sizes}; {how}")
    made = (
        (len(report.read_models), "read model"),
        (len(report.snapshots), "snapshot"),
        (report.dead_letters, "dead letter"),
    )
    for number, name in made:
        if number:
            render.say(f"dropped {render.count(number, name)}")
