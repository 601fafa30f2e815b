"""`evtool dead-letters`: list, show, retry, export and drop."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import erase, render
from evtool.cli.interrupts import stopped_by_signals
from evtool.cli.options import JsonOption, LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.ingest.deadletters import DeadLetter
    from evtool.ingest.letterqueue import Filter, LetterQueue
    from evtool.ingest.retry import Retried
    from evtool.log.log import Log

app = typer.Typer(no_args_is_help=True, help="Look at rejected lines, try them again, take them away.")

_ROWS_MAX = 100  # of a table, unless --limit says otherwise
_COLUMNS = ("id", "time", "reason", "input", "line", "bytes", "attempts")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Only these; the beginning of an id is enough.")
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Its id; the beginning of it is enough.")]
ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", metavar="R", help="Only this reason; may be repeated.")
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="S", help="Only of this input or source_id; may be repeated."),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only rejected at this time or later, as -24h.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only rejected before this time.")
]


@app.command("list")
def list_letters(
    log: LogOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show so many. (default: 100; with --json: all)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a letter.")] = False,
) -> None:
    """List dead letters, the oldest first, and count them by reason."""
    _, opened = _opened(log)
    queue = _queue(opened)
    wanted = _filter(queue, None, reason, source, since, until)
    shown_max = limit if limit is not None or as_json else _ROWS_MAX
    counts: Counter[str] = Counter()
    rows, damaged = [], 0
    for entry in queue.entries():
        damaged += entry.letter is None
        if entry.letter is None or not wanted(entry.letter):
            continue
        if shown_max is None or counts.total() < shown_max:
            if as_json:
                render.print_json(_described(entry.letter))
            else:
                rows.append(_cells(entry.letter))
        counts[entry.letter.reason] += 1
    if rows:
        render.print_table(_COLUMNS, rows, text_columns=4)
    if not as_json and len(rows) < counts.total():
        render.say(f"the first {len(rows):,} are shown; --limit shows more")
    _say_counts(counts, damaged, queue)


@app.command()
def show(letter_id: IdArgument, log: LogOption = None, as_json: JsonOption = False) -> None:
    """Show all of one dead letter, its line too."""
    letter = _queue(_opened(log)[1]).get(letter_id)
    if as_json:
        render.print_json(_described(letter, with_raw=True))
        return
    facts = _described(letter)
    render.print_facts((name, render.printable(str(value))) for name, value in facts.items())
    if letter.is_cut:
        render.say(f"the first {len(letter.raw):,} of {letter.size_bytes:,} bytes:")
    sys.stdout.write(render.printable(letter.raw.decode(errors="backslashreplace")) + "\n")


@app.command()
def retry(
    ids: IdsArgument = None,
    log: LogOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take dead letters through today's rules once more.

    Those that pass become events and leave the queue; one whose event is stored already leaves it too. The rest
    stay, with the new reason and a count of attempts. Lines that were cut at 16 MiB cannot be tried.
    """
    from evtool.cli.audited import audited
    from evtool.ingest.retry import Retry

    config, opened = _opened(log, read_only=False)
    with opened, audited(config.log_path, "dead-letters retry") as entry:
        wanted = _filter(_queue(opened), ids, reason, source, since, until)
        work = Retry(opened, config.ingest)
        with stopped_by_signals(work.stop) as caught:
            result = work.run(wanted)
        entry.counts = {"passed": result.passed, "accepted": result.accepted, "failed": result.stay}
        entry.outcome = "interrupted" if result.is_interrupted else "done"
    _report(result, as_json)
    if caught:
        raise typer.Exit(128 + caught[0])


@app.command()
def export(
    ids: IdsArgument = None,
    log: LogOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to a file; .zst and .gz compress it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the letters, not only their lines.")] = False,
) -> None:
    """Write the rejected lines as they were sent, to be mended and ingested again.

    The letters stay in the queue. Lines that were cut at 16 MiB are left out, unless --json writes the letters.
    """
    from evtool import output
    from evtool.cli.audited import audited

    config, opened = _opened(log)
    queue = _queue(opened)
    wanted = _filter(queue, ids, reason, source, since, until)
    written = cut = 0
    with audited(config.log_path, "dead-letters export", is_optional=True) as entry, output.opened(out) as target:
        entry.details["to"] = out or "standard output"
        for letter in queue.letters(wanted):
            if letter.is_cut and not as_json:
                cut += 1
                continue
            if not written:
                entry.begin()
            target.write(letter.encode() if as_json else letter.raw + b"\n")
            written += 1
            entry.counts["letters"] = written
    left_out = f"; {render.count(cut, 'line')} cut at 16 MiB left out" if cut else ""
    render.say(f"exported {render.count(written, 'dead letter')}{left_out}")


@app.command()
def drop(
    ids: IdsArgument = None,
    log: LogOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take dead letters away for ever. It asks before it does."""
    from evtool.cli.audited import audited

    config, opened = _opened(log)
    queue = _queue(opened)
    wanted = _filter(queue, ids, reason, source, since, until)
    if dry_run:
        matching = sum(1 for _ in queue.letters(wanted))
        _say_dropped(matching, 0, as_json)
        return
    with queue.change() as change, audited(config.log_path, "dead-letters drop") as told:
        # What comes while the question stands is not dropped: the change ends where it began.
        matching = sum(1 for entry in change.entries() if entry.letter is not None and wanted(entry.letter))
        if matching and not yes:
            _ask(matching)
        if matching:
            told.counts["letters"] = matching
            told.begin()
            for entry in change.entries():
                if entry.letter is None or not wanted(entry.letter):
                    change.keep(entry.text)
            change.finish()
    _say_dropped(matching, matching, as_json)


def _opened(log: Any, read_only: bool = True) -> tuple[Config, Log]:
    from evtool import config as configuration
    from evtool.log.log import open as open_log

    config = configuration.load(log)
    if not read_only:
        erase.finish(config)
    return config, open_log(config.log_path, read_only=read_only, config=config)


def _queue(log: Log) -> LetterQueue:
    from evtool.ingest.letterqueue import LetterQueue

    return LetterQueue(log.files, log.folder)


def _filter(
    queue: LetterQueue,
    ids: list[str] | None,
    reasons: list[str] | None,
    sources: list[str] | None,
    since: str | None,
    until: str | None,
) -> Filter:
    from evtool.ingest.letterqueue import Filter

    return Filter(
        queue.resolve(ids or ()),
        frozenset(reasons or ()),
        frozenset(sources or ()),
        _moment("--since", since),
        _moment("--until", until),
    )


def _moment(flag: str, text: str | None) -> int | None:
    from evtool.errors import ConfigError
    from evtool.replay import parse_moment

    if text is None:
        return None
    moment = parse_moment(text, time.time_ns())
    if moment is None:
        raise ConfigError(f"{flag}: {text!r} is no time", "Write 2026-01-31, 2026-01-31T12:00:00Z or -24h.")
    return moment


def _described(letter: DeadLetter, with_raw: bool = False) -> dict[str, Any]:
    """A letter as it is stored, and who sent it; the line itself only if it is wanted."""
    record = letter.record()
    raw = {name: record.pop(name) for name in ("raw", "raw_base64") if name in record}
    who = {"source_id": letter.source_id} if letter.source_id else {}
    return record | who | (raw if with_raw else {})


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    name = render.printable(letter.input)
    numbers = (f"{letter.line:,}", f"{letter.size_bytes:,}", f"{letter.attempts:,}")
    return (letter.id, letter.time[:19] + "Z", letter.reason, name, *numbers)


def _say_counts(counts: Counter[str], damaged: int, queue: LetterQueue) -> None:
    by_reason = ", ".join(f"{number:,} {reason}" for reason, number in counts.most_common())
    render.say(render.count(counts.total(), "dead letter") + (f": {by_reason}" if by_reason else ""))
    if damaged:
        render.say(f"{render.count(damaged, 'line')} of {queue.path} cannot be read as a dead letter, and is kept")


def _report(result: Retried, as_json: bool) -> None:
    if as_json:
        render.print_json(
            {
                "passed": result.passed,
                "accepted": result.accepted,
                "duplicates": result.duplicates,
                "failed": result.stay,
                "not_tried": result.cut,
                "left": result.left,
                "first_position": result.first_position,
                "last_position": result.last_position,
                "interrupted": result.is_interrupted,
            }
        )
        return
    passed = f"{render.count(result.passed, 'dead letter')} passed"
    if result.duplicates:
        passed += f" ({render.count(result.duplicates, 'event')} stored before)"
    cut = f", {result.cut:,} cut at 16 MiB and not tried" if result.cut else ""
    render.say(f"{passed}, {result.stay:,} failed again{cut}; {result.left:,} in the queue")
    if result.is_interrupted:
        render.say("stopped before the end of the queue; what was tried is done")


def _ask(matching: int) -> None:
    from evtool.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("drop asks before it drops, and there is no terminal", "Say --yes, or try --dry-run.")
    typer.confirm(f"Drop {render.count(matching, 'dead letter')} for ever?", abort=True, err=True)


def _say_dropped(matching: int, dropped: int, as_json: bool) -> None:
    if as_json:
        render.print_json({"matching": matching, "dropped": dropped})
    elif dropped == matching:
        render.say(f"dropped {render.count(dropped, 'dead letter')}")
    else:
        render.say(f"{render.count(matching, 'dead letter')} would be dropped")
