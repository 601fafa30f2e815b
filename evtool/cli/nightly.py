"""`evtool nightly`."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption, seconds

if TYPE_CHECKING:
    from evtool.lifecycle.nightly import Done

_COLUMNS = ("step", "outcome", "what", "seconds")


def nightly(
    only: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Run this step and no other; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Leave this step out; may be repeated.")
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin no step later than that: 2h. It comes first the next time."),
    ] = None,
    projection: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Recompute and keep this projection and no other; may be repeated."),
    ] = None,
    log: LogOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do what a log needs every night: verify, recompute projections, snapshot, retain, compact, back up, archive.

    `retain`, `backup` and `archive` are among the steps where evtool.toml has policies, or a place, for them.

    A step that fails does not keep the others from running; the exit code is that of the first failure. The
    report stays in nightly/ of the log's folder. Projections in Python take part where they are named.
    The backup comes where evtool.toml says where to.
    """
    from dataclasses import asdict, replace

    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators

    from evtool import config as configuration
    from evtool.errors import EvtoolError
    from evtool.lifecycle import nightly as nights
    from evtool.lifecycle.nightsteps import steps
    from evtool.log.log import open as open_log

    budget_seconds = None if time_budget is None else seconds("--time-budget", time_budget, "2h")
    config = configuration.load(log)
    config = replace(config, nightly=configuration.with_flags(config.nightly, projections=projection or None))
    erase.finish(config)
    with open_log(config.log_path, config=config) as opened:
        watched = functools.partial(progress.shown, wanted=not as_json)
        report = nights.run(opened, config, steps(config), only or (), skip or (), budget_seconds, _tell, watched)
    if as_json:
        render.print_json(asdict(report))
    elif sys.stdout.isatty():
        rows = [(done.name, done.outcome, _gist(done), f"{done.seconds:.2f}") for done in report.steps]
        render.print_table(_COLUMNS, rows, text_columns=3)
    if report.message:
        render.print_error(EvtoolError(report.message, report.hint))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _tell(done: Done) -> None:
    """One line of a step, and what to do where it failed."""
    if done.outcome == "postponed":
        render.say(f"{done.name}: postponed")
        return
    told = ": ".join(text for text in (_gist(done), done.message) if text)
    render.say(f"{done.name}: {done.outcome} in {done.seconds:.2f} s" + (f"; {told}" if told else ""))
    if done.hint:
        render.say(f"  {done.hint}")


def _gist(done: Done) -> str:
    """A few words of what a step has found."""
    gist = _GISTS.get(done.name)
    return gist(done.facts) if gist and done.facts else ""


def _verified(facts: Any) -> str:
    archived = f", {render.count(facts['archived'], 'archived segment')} by size" if facts["archived"] else ""
    return f"{render.count(facts['events'], 'event')}{archived}, digest {facts['digest'] or 'none'}"


def _recomputed(facts: Any) -> str:
    same = sum(1 for each in facts["projections"] if each.get("is_same"))
    damaged = sum(1 for each in facts["projections"] if each.get("damaged"))
    mended = f", {render.count(damaged, 'damaged state')} made anew" if damaged else ""
    kept = sum(1 for each in facts["projections"] if each.get("is_kept"))
    outlived = f", {kept:,} kept as it is and not compared: events it was made from are gone" if kept else ""
    return f"{same} of {render.count(len(facts['projections']), 'projection')} as refreshed{mended}{outlived}"


def _compacted(facts: Any) -> str:
    done = facts["compacted"]
    segments = render.count(sum(one["segments"] for one in done), "segment")
    before, after = (sum(one[name] for one in done) for name in ("bytes_before", "bytes_after"))
    return f"{segments}: {render.size(before)} became {render.size(after)}" if done else "nothing to compact"


def _taken(facts: Any) -> str:
    taken = sum("id" in each for each in facts["taken"])
    return f"{render.count(taken, 'snapshot')}, {len(facts['dropped']):,} dropped"


def _retained(facts: Any) -> str:
    made = {name: len(facts[f"{name}s"]) for name in ("read_model", "snapshot")}
    others = made | {"dead_letter": facts["dead_letters"]}
    told = [render.count(number, name.replace("_", " ")) for name, number in others.items() if number]
    told = [render.count(facts["events"], "event"), *told]
    return f"dropped {', '.join(told)}"


def _backed_up(facts: Any) -> str:
    stored = f"{render.size(facts['stored_bytes'])} stored" if facts["new"] else "nothing has changed"
    return f"{facts['backup']} at position {facts['position']:,}, {stored}"


def _archived(facts: Any) -> str:
    moved = f"{render.count(facts['segments'], 'segment')} moved, {render.size(facts['bytes'])}"
    hot = f"; {render.count(facts['hot'], 'segment')} not compacted" if facts["hot"] else ""
    return (moved if facts["segments"] else "nothing to move") + hot


_GISTS = {
    "verify": _verified,
    "recompute": _recomputed,
    "snapshot": _taken,
    "retain": _retained,
    "compact": _compacted,
    "backup": _backed_up,
    "archive": _archived,
}
