"""`evtool replay`."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Literal

import typer

from evtool.cli.options import LogOption

_BOUND = "a time (RFC 3339, a date, -24h), an event id, or a position (@123)"


def replay(
    log: LogOption = None,
    start: Annotated[str | None, typer.Option("--from", metavar="X", help=f"Begin with {_BOUND}.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="X", help=f"End before {_BOUND}.")] = None,
    clock: Annotated[
        Literal["event", "recorded"],
        typer.Option(help="Which time is meant: of the event, or when it was recorded."),
    ] = "event",
    stream: Annotated[
        list[str] | None, typer.Option(metavar="S", help="Only this stream; may be repeated.")
    ] = None,
    event_type: Annotated[
        list[str] | None, typer.Option("--type", metavar="T", help="Only this event type; may be repeated.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(metavar="S", help="Only this source; may be repeated.")
    ] = None,
    partition: Annotated[int | None, typer.Option(metavar="N", help="Only this partition.")] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=2**63 - 1, help="At most so many events.")
    ] = None,
    upcast: Annotated[
        bool, typer.Option("--upcast", help="Give each event as of the latest schema version of its type.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to a file; .zst and .gz compress it.")
    ] = None,
) -> None:
    """Write events as NDJSON, in order of position.

    `evtool replay | evtool ingest --log other` makes an equal log.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool import output
    from evtool import replay as replaying
    from evtool.log.log import open as open_log

    # An end in order: a file that is not whole goes away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    config = configuration.load(log)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        selection = replaying.select(opened, start, end, clock, stream, event_type, source, partition)
        with output.opened(out, opened.folder) as target:
            for block in replaying.blocks(opened, selection, limit, upcast):
                target.write(block)
