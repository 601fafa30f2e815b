"""`evtool ingest`."""

from __future__ import annotations

import functools
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import erase, progress, render
from evtool.cli.interrupts import stopped_by_signals
from evtool.cli.options import JsonOption, LogOption
from evtool.errors import EvtoolError, RejectedLinesError, RejectedShareError

if TYPE_CHECKING:
    from evtool.ingest.pipeline import Ingest
    from evtool.ingest.summary import Acknowledgement, Summary

_INPUTS_NAMED = 5


def ingest(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="NDJSON files, plain, gzip or zstd; - or nothing: standard input."
        ),
    ] = None,
    log: LogOption = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="source_id of events that have none.")] = None,
    batch_events: Annotated[
        int | None, typer.Option(metavar="N", help="Commit after so many events. (default: 262144)")
    ] = None,
    batch_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Commit after so much text, as 96MiB. (default: 96MiB)")
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Commit so long after a batch's first byte. (default: 500ms)"),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="evtool, json, cloudevents, csv or parquet. (default: evtool)"
        ),
    ] = None,
    derive_id: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="content: an event without an id gets one from its bytes."),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Where times without an offset are meant, as Europe/Berlin.")
    ] = None,
    ack: Annotated[
        bool, typer.Option("--ack", help="Print a JSON object for each batch when it is durable.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on where the last load of this name has come to, and note how far."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 9 if there are dead letters.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Append events to the log, durably.

    Reads one JSON object a line. Lines that are no events become dead letters, and the good ones around
    them are kept. Makes the log if there is none. Ctrl-C commits what is in hand and says where it stopped.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.ingest import deadletters, formats, sources
    from evtool.ingest.pipeline import Ingest
    from evtool.ingest.resume import check_name
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    options = configuration.with_flags(
        config.ingest,
        source=source,
        batch_events=batch_events,
        batch_bytes=batch_bytes,
        max_latency_ms=max_latency,
        format=input_format,
        derive_id=derive_id,
        timezone=timezone,
    )
    formats.parser(options)  # raises ConfigError, before a log is made
    if resume is not None:
        check_name(resume)
    inputs = paths or [sources.STDIN]
    total_bytes = sources.check(inputs, config.log_path / deadletters.FOLDER / deadletters.FILE)
    is_typed = sources.STDIN in inputs and sys.stdin.isatty()
    if is_typed:
        render.say("reading events from the terminal, one a line; Ctrl-D ends them")
    erase.finish(config)
    with (
        open_log(config.log_path, create=True, config=config) as opened,
        audited(config.log_path, "ingest") as entry,
    ):
        entry.details["inputs"] = _names(inputs)
        work = Ingest(
            opened,
            inputs,
            options,
            on_commit=lambda summary: entry.meanwhile(summary.counts),
            on_ack=(lambda done: _acknowledge(done, work.summary)) if ack else _nothing,
            resume=resume,
            source=source,
        )
        if work.resumed:
            render.say(f"going on behind line {work.resumed.line:,} of {work.resumed.input}")
        if work.cut_bytes:
            render.say(f"recovered: {work.cut_bytes:,} bytes of a batch that was never acknowledged were cut")
        look = functools.partial(_standing, work, total_bytes, time.monotonic())
        with stopped_by_signals(work.stop) as caught:
            try:
                with progress.watched("ingest", look, wanted=not (as_json or ack or is_typed)):
                    summary = work.run()
            except Exception:
                _report_failed(work.summary, as_json)
                raise
            finally:
                entry.counts = work.summary.counts
        entry.outcome = "interrupted" if summary.is_interrupted else "done"
        _report(summary, as_json)
    if caught:
        raise typer.Exit(128 + caught[0])
    _judge(summary, strict, options.dead_letter_alert)


def _names(inputs: list[str]) -> str:
    """The inputs, as the audit keeps them: the first of many."""
    others = f" and {len(inputs) - _INPUTS_NAMED:,} more" if len(inputs) > _INPUTS_NAMED else ""
    return ", ".join(inputs[:_INPUTS_NAMED]) + others


def _nothing(done: Acknowledgement) -> None:
    pass


def _acknowledge(done: Acknowledgement, summary: Summary) -> None:
    from dataclasses import asdict

    render.print_json(asdict(done), done=_stored(summary))


def _judge(summary: Summary, strict: bool, alert: float | None) -> None:
    """Raise RejectedLinesError or RejectedShareError where there are more dead letters than wanted."""
    hint = "The other lines are stored. `evtool dead-letters list` shows these."
    letters = render.count(summary.dead_letters, "line")
    if strict and summary.dead_letters:
        raise RejectedLinesError(f"{letters} of {summary.lines:,} became dead letters", hint)
    if alert is not None and summary.dead_letters > alert * summary.lines:
        raise RejectedShareError(
            f"{letters} of {summary.lines:,} became dead letters: more than dead_letter_alert = {alert:g}", hint
        )


def _report(summary: Summary, as_json: bool) -> None:
    if summary.is_interrupted:
        if summary.reached is None:
            render.say("stopped before anything was committed")
        else:
            name, line = summary.reached
            render.say(f"stopped behind line {line:,} of {name}; everything up to there is committed")
    if as_json:
        render.print_json(_as_dict(summary), done=_stored(summary))
        return
    positions = ""
    if summary.last_position is not None:
        positions = f" at positions {summary.first_position:,} to {summary.last_position:,}"
    batches = render.count(summary.batches, "batch", "batches")
    others = f", {render.count(summary.duplicates, 'duplicate')}" if summary.duplicates else ""
    others += f", {render.count(summary.dead_letters, 'dead letter')}" if summary.dead_letters else ""
    render.say(
        f"accepted {render.count(summary.accepted, 'event')}{positions} in {batches}{others}; "
        f"{render.size(summary.bytes_in)} in {summary.seconds:.2f} s, {summary.events_per_second:,} events/s"
    )


def _report_failed(summary: Summary, as_json: bool) -> None:
    """The report of work that failed: what went wrong there is told even if this cannot be printed."""
    try:
        _report(summary, as_json)
    except EvtoolError as error:
        render.print_error(error)


def _stored(summary: Summary) -> str:
    """What was done, for who gets no summary."""
    up_to = "" if summary.last_position is None else f" up to position {summary.last_position:,}"
    letters = render.count(summary.dead_letters, "dead letter")
    return f"Stored all the same: {render.count(summary.accepted, 'event')}{up_to}, {letters}."


def _as_dict(summary: Summary) -> dict[str, Any]:
    result: dict[str, Any] = {
        "accepted": summary.accepted,
        "duplicates": summary.duplicates,
        "dead_letters": summary.dead_letters,
        "batches": summary.batches,
        "first_position": summary.first_position,
        "last_position": summary.last_position,
        "bytes_in": summary.bytes_in,
        "seconds": round(summary.seconds, 6),
        "events_per_second": summary.events_per_second,
    }
    if summary.is_interrupted:
        name, line = summary.reached or (None, 0)
        result["stopped_at"] = {"input": name, "line": line}
    return result


def _standing(work: Ingest, total_bytes: int | None, began: float) -> progress.Standing:
    """Where an ingest stands that began then (time.monotonic()): how far in the bytes of its inputs, if known."""
    megabytes = work.progress.text_bytes / (time.monotonic() - began) / 1e6
    letters = render.count(work.summary.dead_letters, "dead letter")
    note = f"{megabytes:,.0f} MB/s, {letters}"
    return progress.Standing(work.summary.accepted, work.progress.raw_bytes, total_bytes or 0, note)
