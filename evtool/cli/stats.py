"""`evtool stats`."""

from __future__ import annotations

from evtool.cli import render
from evtool.cli.options import JsonOption, LogOption


def stats(log: LogOption = None, as_json: JsonOption = False) -> None:
    """Count what the log holds: events, segments, partitions, bytes, times."""
    from dataclasses import asdict

    from evtool import config as configuration
    from evtool.log import stats as counting
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    with open_log(config.log_path, read_only=True, config=config) as opened:
        found = counting.collect(opened.snapshot(), opened.partitions)
        disk_bytes = opened.files.folder_size(opened.folder)
        identity = opened.manifest.id
        cache_bytes = opened.archive.cache.stored_bytes if found.archived_segments else 0
        archive_url = opened.archive.url if found.archived_segments else None
    if as_json:
        from evtool.timestamps import to_text

        facts = asdict(found) | {"bytes_on_disk": disk_bytes, "bytes_per_event": found.bytes_per_event}
        facts |= {"archive": archive_url, "cache_bytes": cache_bytes}
        for name in ("recorded_at_min", "recorded_at_max", "timestamp_min", "timestamp_max"):
            facts[name] = None if facts[name] is None else to_text(facts[name])
        render.print_json({"log": config.log_name, "id": identity, **facts})
        return
    gone = ", ".join(f"{count:,} {how}" for how, count in found.gone.items() if count)
    local_bytes = found.stored_bytes - found.archived_bytes
    archive = (
        f"{render.size(found.archived_bytes)} of {render.count(found.archived_segments, 'segment')}, "
        f"in {archive_url}; {render.size(cache_bytes)} of it are kept on disk"
    )
    per_event = "-" if found.bytes_per_event is None else f"{found.bytes_per_event:.1f} bytes"
    sealed = f"{found.sealed_segments:,} sealed"
    if found.cold_segments:
        sealed += f", {found.cold_segments:,} of them cold"
    render.print_facts(
        [
            ("log", f"{config.log_name} ({identity})"),
            ("events", f"{found.events:,}"),
            *([("gone", gone)] if gone else []),
            ("position", f"{found.position:,}"),
            ("batches", f"{found.batches:,}"),
            (
                "segments",
                f"{found.segments:,} ({sealed})",
            ),
            ("on disk", f"{render.size(disk_bytes)}, of which {render.size(local_bytes)} are events"),
            *([("archive", archive)] if archive_url else []),
            ("per event", per_event),
            ("event time", f"{render.moment(found.timestamp_min)} to {render.moment(found.timestamp_max)}"),
            ("recorded", f"{render.moment(found.recorded_at_min)} to {render.moment(found.recorded_at_max)}"),
        ]
    )
    share = max(found.events, 1)
    rows = ([str(n), f"{count:,}", f"{100 * count / share:.1f} %"] for n, count in enumerate(found.partitions))
    render.print_table(("partition", "events", "share"), rows)
