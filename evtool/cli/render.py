"""Everything that evtool says: results on standard output, talk on standard error.

People get tables and sentences, programs get JSON; colour only where a terminal is.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from evtool.errors import EvtoolError, StorageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH_MAX = 1_000_000
_GAP = 2  # between two columns of a table
_TEXT_WIDTH_MIN = 12  # to which texts are cut where a terminal is narrow


def error_console() -> Console:
    """Standard error, in colour where it is a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_json(value: Any, done: str = "") -> None:
    """One JSON object, on one line.

    Raises StorageError if it cannot be printed; its hint then is `done`, what was done all the same.
    """
    from evtool.files import translated

    is_utf_8 = sys.stdout.encoding.lower() in ("utf-8", "utf8")
    try:
        with translated("print to", "standard output"):
            sys.stdout.write(json.dumps(value, ensure_ascii=not is_utf_8) + "\n")
            sys.stdout.flush()
    except StorageError as error:
        raise type(error)(error.message, done or error.hint) from error


def print_error(error: EvtoolError) -> None:
    """What happened, and what to do."""
    with _heard_or_not():
        console = error_console()
        console.print("evtool: ", style="bold red", end="")
        console.print(error.message, markup=False)
        if error.hint:
            console.print(f"  {error.hint}", markup=False, style="dim")


def say(text: str) -> None:
    """A sentence on standard error."""
    with _heard_or_not():
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _heard_or_not() -> Iterator[None]:
    """Go on where standard error takes nothing: what was done does not depend on who hears of it."""
    try:
        yield
    except OSError:
        let_go(sys.stderr)


def let_go(stream: TextIO) -> None:
    """Send what a stream still holds, and all that comes, to nowhere: at the exit it would fail again."""
    with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, escape(value))
    _print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> None:
    """A table with columns of text first and numbers behind them."""
    print_columns(columns, rows, [number < text_columns for number in range(len(columns))])


def print_columns(columns: Sequence[str], rows: Iterable[Sequence[str]], is_text: Sequence[bool]) -> None:
    """A table whose columns are texts or numbers.

    Where a terminal is too narrow, texts behind the first column are cut, and then columns are left out from the
    right, which is said. No number is ever cut, nor what names a row.
    """
    from rich.cells import cell_len
    from rich.markup import escape
    from rich.table import Table

    listed = [list(row) for row in rows]
    widths = [max(cell_len(row[at]) for row in [columns, *listed]) for at in range(len(columns))]
    if sys.stdout.isatty():
        widths = _fitted(widths, is_text, error_console().width)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, left, width in zip(columns, is_text, widths, strict=False):
        table.add_column(escape(name), justify="left" if left else "right", no_wrap=True, width=width)
    for row in listed:
        table.add_row(*map(escape, row[: len(widths)]))
    _print(table)
    if len(widths) < len(columns):
        say(f"{len(widths)} of {len(columns)} columns fit into this terminal; a pipe or another format has all")


def _fitted(widths: Sequence[int], is_text: Sequence[bool], width: int) -> list[int]:
    """The widths of columns, in order, of those that a terminal has room for."""
    fitted = list(widths)
    while sum(fitted) + _GAP * (len(fitted) - 1) > width and len(fitted) > 1:
        longest = max(range(1, len(fitted)), key=lambda at: fitted[at] * is_text[at])
        excess = sum(fitted) + _GAP * (len(fitted) - 1) - width
        if is_text[longest] and fitted[longest] > _TEXT_WIDTH_MIN:
            fitted[longest] = max(fitted[longest] - excess, _TEXT_WIDTH_MIN)
        else:
            del fitted[-1]
    return fitted


def _print(table: Table) -> None:
    """Print a table: a pipe gets all of it, however wide it is."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False, emoji=False)
    if not sys.stdout.isatty():
        console.width = Measurement.get(console, console.options.update(max_width=_PIPE_WIDTH_MAX), table).maximum
    console.print(table)


def printable(text: str) -> str:
    """A text that anyone may have written, so that a terminal shows it and does nothing else."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count(number: int, one: str, many: str = "") -> str:
    """A number of things: "1 event", "2,000 events"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Bytes for people: 12.3 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def moment(nanoseconds: int | None) -> str:
    """A time for people, in UTC to the millisecond; a dash for none."""
    if nanoseconds is None:
        return "-"
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{rest // 1_000_000:03d}Z"
