"""How far work is, on a terminal: a line of standard error that comes after a second and goes when the work ends.

Nothing is shown where standard error is no terminal, or one that cannot take a line back (TERM=dumb). The line is
drawn by a thread of its own, so that Ctrl-C in the main one never meets half of it. It hides no cursor, which a
process that is stopped or killed would leave hidden. rich is imported when there is something to draw.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_DELAY_SECONDS = 1.0  # what ends sooner shows nothing
_REFRESH_SECONDS = 0.2
_BAR_WIDTH_MIN, _BAR_WIDTH_MAX = 10, 30


@dataclass(frozen=True)
class Standing:
    """Where work stands: `count` things, `done` of `total` (0: not known) by some measure, and a note."""

    count: int
    done: int
    total: int
    note: str = ""


@contextlib.contextmanager
def shown(what: str, things: str = "events", wanted: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of the block, which tells how many `things` are done, and of how many."""
    told = (0, 0)

    def tell(done: int, total: int) -> None:
        nonlocal told
        told = (done, total)

    def look() -> Standing:
        done, total = told
        return Standing(done, done, total)

    with watched(what, look, things, wanted):
        yield tell


@contextlib.contextmanager
def watched(
    what: str, look: Callable[[], Standing], things: str = "events", wanted: bool = True
) -> Iterator[None]:
    """The same for a block that is looked at, from another thread, instead of telling."""
    if not wanted or not sys.stderr.isatty():
        yield
        return
    line = _Line(what, look, things)
    try:
        line.start()
        yield
    finally:
        line.end()


class _Line:
    """The line of one piece of work, and the thread that draws it."""

    def __init__(self, what: str, look: Callable[[], Standing], things: str) -> None:
        self._what, self._look, self._things = what, look, things
        self._began = self._looked = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evtool-progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Take the line back."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        if not self._ended.wait(_DELAY_SECONDS):
            with contextlib.suppress(OSError):  # the terminal has gone, and the work goes on
                self._draw()

    def _draw(self) -> None:
        console = _console()
        if not console.is_interactive:
            return
        from rich.progress import Progress

        progress = Progress(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # rich would send what is printed meanwhile to this console
            redirect_stderr=False,
        )
        progress.add_task("", total=None)
        self._look_again(progress)
        with progress:
            while not self._ended.wait(_REFRESH_SECONDS):
                self._look_again(progress)
                progress.refresh()

    def _look_again(self, progress: Progress) -> None:
        now, standing, (task,) = time.monotonic(), self._look(), progress.tasks
        if standing.done < task.completed:  # the next piece of work has begun, since the last look
            self._began = self._looked
            progress.reset(task.id)
        self._looked = now
        progress.update(task.id, total=standing.total or None, completed=standing.done)
        texts = _texts(standing, self._things, now - self._began, task.time_remaining)
        progress.columns = self._columns(texts, bool(standing.total), progress.console.width)

    def _columns(self, texts: list[str], has_total: bool, width: int) -> tuple[ProgressColumn, ...]:
        """What there is room for: a bar where the total is known, and of the texts those that come first."""
        from rich.progress import BarColumn, TextColumn

        room = width - len(self._what) - len("  ") - 1  # some terminals go on to the next line when one is full
        bar_room = _BAR_WIDTH_MIN * has_total
        while len(texts) > 1 and len(", ".join(texts)) + bar_room > room:
            texts = texts[:-1]
        text = ", ".join(texts)
        bar_width = min(room - len(text), _BAR_WIDTH_MAX)
        bar = (BarColumn(bar_width),) if has_total and bar_width >= _BAR_WIDTH_MIN else ()
        return (TextColumn(self._what, markup=False), *bar, TextColumn(text, markup=False))


def _texts(standing: Standing, things: str, seconds: float, seconds_left: float | None) -> list[str]:
    """What is to be said, the most important first."""
    count, total = standing.count, standing.total
    rate = [f"{count / seconds:,.0f} {things}/s"] if count and seconds else []
    notes = [standing.note] if standing.note else []
    if not total:
        return [f"{count:,} {things}", *rate, _clock(seconds), *notes]
    left = [f"{_clock(seconds_left)} left"] if seconds_left else []
    of_total = f" of {total:,}" if count == standing.done else ""
    return [f"{100 * standing.done // total:3} %", *left, f"{count:,}{of_total} {things}", *rate, *notes]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _console() -> Console:
    """Standard error, whose cursor stays visible, and whose lines are not wrapped."""
    from rich.console import Console

    class Terminal(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Terminal(stderr=True, highlight=False, emoji=False)
