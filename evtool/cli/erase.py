"""`evtool erase`, and what other commands do with an erasure that was cut short."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import progress, render
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.lifecycle.erasing.doing import Report
    from evtool.lifecycle.erasing.planning import Plan
    from evtool.log.log import Log


def erase(
    stream: Annotated[
        list[str] | None, typer.Option(metavar="STREAM", help="All events of this stream; may be repeated.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="All events for which this is true: \"payload.user_id = 'u-17'\"."),
    ] = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it is kept in the audit for ever, so name nobody in it.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")] = False,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase events for ever, wherever something of them is kept, here and in the archive of the log.

    Position, type, times and versions stay, and their ids still count as seen. It shows what it touches, and asks.
    Dead letters, snapshots and what a repair put aside go; read models are made again from what stays. Backups are
    left as they are, and those that hold it are named.
    Whatever cuts it short, the next command that opens the log to write goes on with it; so does `evtool erase`.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.errors import ConfigError, LogDamagedError
    from evtool.lifecycle.erasing import doing, pending, planning
    from evtool.lifecycle.erasing.choosing import Wanted
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    wanted = Wanted(tuple(dict.fromkeys(stream or ())), where)
    is_cut_short = pending.is_there(config.log_path)
    if bool(wanted.streams) == (where is not None) and not (is_cut_short and where is None):
        raise ConfigError(
            "say what is to be erased, by --stream or by --where",
            "As in --stream user-17, or --where \"payload.user_id = 'user-17'\".",
        )
    if where is not None:
        _ = wanted.plan  # raises ConfigError, before anything is read
    if not (yes or dry_run) and (wanted.streams or where is not None):
        _check_terminal()
    if is_cut_short and dry_run:
        render.say("an erasure that was cut short is not done yet: `evtool erase` finishes it")
    plan, report = None, None
    with open_log(config.log_path, config=config) as opened:
        if is_cut_short and not dry_run:
            report = _resumed(opened, config, wanted=not as_json)
            if not as_json and report is not None:
                render.say("an erasure that was cut short went on")
                _say_erased(report)
        if (wanted.streams or where is not None) and not (report and report.failures):
            report = None
            with progress.shown("erase: plan", wanted=not as_json) as on_progress:
                plan = planning.plan(opened, config, wanted, on_progress)
            plan.check()
            if not as_json:
                _show(plan, config)
            if not (yes or dry_run):
                typer.confirm("Erase this for ever?", abort=True, err=True)
            if not dry_run:
                record = _recorder(opened)
                with (
                    _told_of(opened, plan, {"by": wanted.by, "reason": reason}, record) as begin,
                    progress.shown("erase", wanted=not as_json) as on_progress,
                ):
                    report = doing.apply(opened, config, plan, reason, on_progress, record, begin)
                if not as_json:
                    _say_erased(report)
    if as_json:
        render.print_json({"log": str(config.log_path), "dry_run": dry_run, **_facts(plan, report)})
    for failure in report.failures if report else ():
        render.say(f"{failure.folder} was left as it is: {failure.message}\n  {failure.hint}")
    if report is not None and report.failures:
        render.say("the rest is done; `evtool erase` tries these again")
        raise typer.Exit(LogDamagedError.exit_code)


@contextlib.contextmanager
def _told_of(
    opened: Log, plan: Plan, details: dict[str, str], record: Callable[..., Any]
) -> Iterator[Callable[[], None]]:
    """Give what leaves a line in the audit when an erasure begins; where it is cut short, say who finishes it."""
    from evtool.errors import EvtoolError
    from evtool.lifecycle.erasing import pending

    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        has_begun = True
        record(plan.counts, details, "began")

    try:
        yield begin
    except BaseException as error:
        if has_begun:
            with contextlib.suppress(EvtoolError):  # what went wrong before is what is to be told
                outcome = "failed" if isinstance(error, Exception) else "interrupted"
                record(plan.counts, {**details, "error": type(error).__name__}, outcome)
        if pending.is_there(opened.folder):
            render.say("the erasure has begun: `evtool erase` finishes it, or the next command that writes")
        else:
            render.say("nothing was erased")
        raise


def finish(config: Config) -> None:
    """Finish an erasure that was cut short, before a command does anything else with a log.

    What keeps it from that is said, and the command goes on.
    """
    from evtool.log.format import ERASING_FILE

    if not (config.log_path / ERASING_FILE).exists():
        return
    from evtool.errors import EvtoolError
    from evtool.log.log import open as open_log

    try:
        with open_log(config.log_path, config=config) as opened:
            report = _resumed(opened, config, wanted=True)
        if report is not None and not report.failures:
            render.say("an erasure that was cut short is done")
        for failure in report.failures if report else ():
            _say_waiting(failure.message, failure.hint)
    except EvtoolError as error:
        _say_waiting(error.message, error.hint)


def _say_waiting(message: str, hint: str) -> None:
    render.say(f"an erasure is not done yet: {message}\n  {hint}")
    warnings.filterwarnings("ignore", "an erasure was cut short")  # of the library, which is told so here


def _resumed(opened: Log, config: Config, wanted: bool) -> Report | None:
    from evtool.lifecycle.erasing import doing

    with progress.shown("erase", wanted=wanted) as on_progress:
        return doing.resume(opened, config, on_progress, _recorder(opened))


def _recorder(opened: Log) -> Callable[..., Any]:
    """What keeps in the audit of a log how many events were erased, from which segments, and why."""
    from evtool.lifecycle import audit

    return functools.partial(audit.record, opened.files, opened.folder, "erase")


def _check_terminal() -> None:
    from evtool.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("erase asks before it erases, and there is no terminal", "Say --yes, or try --dry-run.")


def _facts(plan: Plan | None, report: Report | None) -> dict[str, Any]:
    from dataclasses import asdict

    found: dict[str, Any] = {"plan": None, "erased": None if report is None else asdict(report)}
    if plan is not None:
        found["plan"] = {
            **plan.counts,
            "hot": plan.touched.hot,
            "cold": plan.touched.cold,
            "active": plan.touched.active,
            "renamed_streams": len(plan.chosen.whole),
            "unread_dead_letters": plan.letters.unread,
            "failed_casts": dict(plan.chosen.failed_casts),
            "read_model_ids": [model.id for model in plan.made.models],
            "made_again": list(plan.made.again),
            "snapshot_ids": list(plan.made.snapshots),
            "lost": sorted(plan.made.lost),
            "backups": None if plan.backups is None else asdict(plan.backups),
        }
    return found


def _show(plan: Plan, config: Config) -> None:
    chosen, touched = plan.chosen, plan.touched
    streams = render.count(chosen.streams, "stream")
    whole = f", {len(chosen.whole):,} of them whole, which get another name" if chosen.whole else ""
    facts = [("events", f"{len(chosen.positions):,} of {streams}{whole}")]
    kinds = ((touched.hot, "hot"), (touched.cold, "cold"), (touched.active, "active"))
    told = ", ".join(f"{number:,} {kind}" for number, kind in kinds if number)
    if told:
        facts.append(("segments", f"{told}: {render.size(touched.bytes)} to write anew"))
    facts.append(("dead letters", f"{len(plan.letters.ids):,}"))
    facts.append(
        ("read models", f"{len(plan.made.models):,}, with their states; {len(plan.made.again):,} made again")
    )
    labelled = f", {len(plan.made.labels):,} of them with a label" if plan.made.labels else ""
    facts.append(("snapshots", f"{len(plan.made.snapshots):,}{labelled}"))
    if plan.made.reports:
        facts.append(("reports", f"{plan.made.reports:,} of nights in which something failed"))
    if plan.aside.files:
        told = f"{render.count(plan.aside.files, 'file')}, {render.size(plan.aside.bytes)}: go whatever is in them"
        facts.append(("put aside by repair", told))
    render.print_facts(facts)
    _show_more(plan, config)


def _show_more(plan: Plan, config: Config) -> None:
    """What is to be known besides: what cannot be had again, cannot be told, and stays elsewhere."""
    for name, failed in plan.chosen.failed_casts.items():
        render.say(f"{render.count(failed, 'value')} could not be cast, and these events are not chosen: {name}")
    if plan.letters.unread:
        unread = render.count(plan.letters.unread, "dead letter")
        render.say(f"{unread} cannot be read, so no condition is true for them: see `evtool dead-letters list`")
    for model in plan.made.models:
        if model.id in plan.made.lost:
            render.say(f"read model {model.id} cannot be made as it was: events that it counts were dropped")
        elif model.serves and model.id not in plan.made.again:
            render.say(f"read model {model.id} cannot be made again: no definition makes it any more")
    for snapshot in plan.made.snapshots:
        label = plan.made.labels.get(snapshot)
        render.say(f"snapshot {snapshot}" + (f": {render.printable(label)}" if label is not None else ""))
    if plan.backups is not None:
        _show_backups(plan, config)


def _show_backups(plan: Plan, config: Config) -> None:
    from evtool.projections.projection import of_log

    assert plan.backups is not None
    if plan.backups.problem:
        render.say(f"which backups hold it is not known: {plan.backups.problem}")
    if plan.backups.ids:
        many = render.count(len(plan.backups.ids), "backup")
        command = " ".join(["evtool backup --keep 1", *of_log(config)])
        render.say(
            f"it is still in {many} at {plan.backups.url}: {', '.join(plan.backups.ids)}\n"
            f"  Behind this, `{command}` makes a new one and removes what is older; objects younger than two days "
            "go with the same command two days later."
        )


def _say_erased(report: Report) -> None:
    if report.segments:
        events = render.count(report.counts["events"], "event")
        sizes = f"{render.size(report.bytes_before)} became {render.size(report.bytes_after)}"
        render.say(f"erased {events} in {render.count(len(report.segments), 'segment')}: {sizes}")
    for name in ("dead_letters", "read_models", "snapshots"):
        if report.counts[name]:
            render.say(f"removed {render.count(report.counts[name], name[:-1].replace('_', ' '))}")
    if report.made_again:
        render.say(f"made again: {', '.join(report.made_again)}")
    for name, why in report.not_made.items():
        render.say(f"{name} could not be made again: {why}")
