"""`evtool audit`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evtool.cli import render
from evtool.cli.options import LogOption

if TYPE_CHECKING:
    from evtool.config import Config
    from evtool.lifecycle.audit import Line

_COLUMNS = ("number", "time", "user", "command", "outcome", "counts", "details")


def audit(
    check: Annotated[
        bool,
        typer.Option("--check", help="Show no line, but say whether the chain of lines holds, and up to where."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="With --check: ask the backups that are there, too."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=0, help="Show the last N lines only.")] = None,
    log: LogOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each line as it is stored; with --check one JSON object.")
    ] = False,
) -> None:
    """Show who did what to the log, and when: each command that has changed it, or taken dead letters out of it.

    A table on a terminal, otherwise the lines as they are stored, NDJSON. Each line has the SHA-256 of its own
    text and that of the line before. --check follows them, and asks what else has kept the end: the reports of
    nightly runs, and with --from backups. The exit code is 14 where something does not fit.
    """
    from evtool import config as configuration
    from evtool.errors import ConfigError
    from evtool.files import Files
    from evtool.lifecycle import audit as audits
    from evtool.log import manifest

    config = configuration.load(log)
    manifest.read(Files(), config.log_path)  # raises LogNotFoundError
    if check:
        _check(config, source, as_json)
        return
    if source is not None:
        raise ConfigError("--from is where --check asks", "Say --check, too.")
    lines = list(audits.lines(Files(), config.log_path))
    shown = lines if limit is None else lines[max(len(lines) - limit, 0) :]
    if as_json or not sys.stdout.isatty():
        for line in shown:
            sys.stdout.write(line.text.decode(errors="backslashreplace") + "\n")
    elif shown:
        is_text = [name != "number" for name in _COLUMNS]
        render.print_columns(_COLUMNS, map(_row, shown), is_text)
    broken = next((line for line in lines if line.problem), None)
    if not lines:
        render.say("no command has left a line yet")
    elif broken is not None:
        render.say(f"line {broken.number:,}: {broken.problem}")
        raise typer.Exit(14)


def _row(line: Line) -> list[str]:
    told: Mapping[str, Any] = line.record or {}
    who = [str(told.get(name, "")) for name in ("user", "login", "sudo")]
    user = who[0] + "".join(
        f" ({name} {text})" for name, text in zip(("login", "sudo"), who[1:], strict=True) if text
    )
    texts = [str(told.get("time", "-"))[:19] + "Z", user, str(told.get("command", line.problem))]
    pairs = [_pairs(told.get(name)) for name in ("counts", "details")]
    return [f"{line.number:,}", *map(render.printable, (*texts, str(told.get("outcome", "-")), *pairs))]


def _pairs(found: Any) -> str:
    """Names and values in a few words; numbers with a separator."""
    if not isinstance(found, Mapping):
        return "-"
    shown = {
        name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in found.items() if value
    }
    return ", ".join(f"{name} {text}" for name, text in shown.items()) or "-"


def _check(config: Config, source: str | None, as_json: bool) -> None:
    from evtool.errors import LogDamagedError
    from evtool.lifecycle import audit as audits
    from evtool.lifecycle import witnesses
    from evtool.lifecycle.backups.place import store_of
    from evtool.log.log import open as open_log

    with open_log(config.log_path, read_only=True, config=config) as opened:
        checked = audits.check(opened.files, opened.folder)
        store = store_of(config, source) if source is not None else None
        witnessed, contradictions = witnesses.contradicted(opened, store)
    is_clean = checked.broken is None and not contradictions
    if as_json:
        last = checked.last
        facts = {"log": str(config.log_path), "clean": is_clean, "lines": checked.lines}
        facts |= {"sha256": last.sha256 if last else None, "broken_at": checked.broken, "problem": checked.problem}
        render.print_json(facts | {"witnesses": witnessed, "contradictions": contradictions})
    else:
        lines = render.count(checked.lines, "line")
        render.say(f"{lines}, {'chained to the end' if checked.broken is None else 'and the chain breaks'}")
        if checked.last is not None:
            render.say(f"last line {checked.last.number:,}, SHA-256 {checked.last.sha256}")
        if checked.broken is not None:
            render.say(f"line {checked.broken:,}: {checked.problem}")
        for told in contradictions:
            render.say(told)
        vouched = f"{render.count(witnessed, 'witness', 'witnesses')} of its end asked"
        render.say(
            f"{vouched}, {len(contradictions):,} against it" if witnessed else "nothing else vouches for its end"
        )
    if not is_clean:
        raise typer.Exit(LogDamagedError.exit_code)
