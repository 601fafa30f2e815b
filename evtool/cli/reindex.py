"""`evtool reindex`."""

from __future__ import annotations

import time

from evtool.cli import erase, progress, render
from evtool.cli.options import JsonOption, LogOption


def reindex(log: LogOption = None, as_json: JsonOption = False) -> None:
    """Build index/ anew from the log: the ids, the stream versions and the sources; and where streams are.

    What is missing or out of date is made anew by itself. This is for an index that cannot be trusted.
    """
    from evtool.parallel import keep_freed_memory

    keep_freed_memory()  # before the imports below load their allocators
    from evtool import config as configuration
    from evtool.cli.audited import audited
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    started = time.monotonic()
    erase.finish(config)
    with (
        open_log(config.log_path, config=config) as opened,
        audited(config.log_path, "reindex") as entry,
        progress.shown("reindex", wanted=not as_json) as tell,
    ):
        indexed = opened.reindex(tell)
        entry.counts = {"ids": indexed.ids, "streams": indexed.streams}
    seconds = time.monotonic() - started
    if as_json:
        counts = {"ids": indexed.ids, "streams": indexed.streams, "sources": indexed.sources}
        render.print_json({"log": str(config.log_path), **counts, "seconds": round(seconds, 6)})
        return
    sources = "too many sources to list" if indexed.sources is None else render.count(indexed.sources, "source")
    counted = f"{render.count(indexed.ids, 'id')}, {render.count(indexed.streams, 'stream')}, {sources}"
    render.say(f"indexed {counted} in {seconds:.2f} s")
