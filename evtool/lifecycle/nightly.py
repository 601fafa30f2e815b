"""Nightly: what a log needs every night, step by step, under one lock, with a report that stays.

    nightly.lock                              held by who runs it
    nightly/20260131T031700.000000Z.json      the report of a run, by when it began (UTC)
    nightly/recompute/                        where projections are computed from nothing, meanwhile

A step that fails, whatever it raises, does not keep the others from running. What is not begun within the time
budget is postponed: it comes first the next time. The report is written before and behind each step, so that a
run that was killed has one too: there the step that it was in has failed, and those behind it are postponed.
Their names rise from run to run, whatever the clock does; of many the oldest are removed. Each has a checksum.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from polars.exceptions import PanicException

from evtool.config import Config
from evtool.errors import (
    ConfigError,
    EvtoolError,
    InternalError,
    StorageError,
)
from evtool.files import Files, Lock
from evtool.log.log import Log
from evtool.projections.record import CHECKSUM, checksum_of

LOCK_FILE = "nightly.lock"
FOLDER = "nightly"
REPORT_SUFFIX = ".json"

_NAME_FORMAT = f"%Y%m%dT%H%M%S.%fZ{REPORT_SUFFIX}"

Outcome = Literal["ok", "failed", "skipped", "postponed"]
Progress = Callable[[int, int], None]  # events done, and how many there are


@dataclass(frozen=True)
class Context:
    """What a step works on, and whom it tells of its progress.

    `folder` has the reports; `reports` gives the earlier ones, the newest first.
    """

    log: Log
    config: Config
    folder: Path
    reports: Callable[[], Iterator[Mapping[str, Any]]]
    on_progress: Progress


@dataclass(frozen=True)
class Result:
    """What a step did: `facts` for the report, and what is wrong, if anything."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    error: EvtoolError | None = None


@dataclass(frozen=True)
class Step:
    """One thing to do. `run` raises what is wrong, or gives it in its result where there are facts as well."""

    name: str
    run: Callable[[Context], Result]


@dataclass(frozen=True)
class Done:
    """What became of a step."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """A run: what became of each step, in the order in which they came, and the exit code of the first failure.

    `message` and `hint` are of what is wrong with the run as a whole: that no step of it has begun.
    """

    log: str
    started_at: str
    seconds: float
    exit_code: int
    steps: tuple[Done, ...]
    message: str = ""
    hint: str = ""


def run(
    log: Log,
    config: Config,
    steps: Sequence[Step],
    only: Collection[str] = (),
    skip: Collection[str] = (),
    budget_seconds: float | None = None,
    on_step: Callable[[Done], None] = lambda done: None,
    watched: Callable[[str], AbstractContextManager[Progress]] = lambda name: contextlib.nullcontext(_unheard),
) -> Report:
    """Run the steps, but for those that are not asked for; `on_step` is told of each that has run.

    `watched` is entered with the name of a step while it runs, and gives whom that tells of its progress.
    Raises ConfigError (no such step), LogReadOnlyError, LogLockedError (another one runs) and StorageError (no
    report can be written); what a step raises is in the report.
    """
    _check([step.name for step in steps], only, skip)
    log.check_writable()
    lock = _lock(log)
    try:
        return _Night(log, config, steps, budget_seconds, on_step, watched).run(only, skip)
    finally:
        lock.release()


def _unheard(done: int, total: int) -> None:
    pass


def failure(error: Exception | PanicException) -> EvtoolError:
    """What was raised, as an error to report; if evtool does not expect it, with its type, message and place."""
    if isinstance(error, EvtoolError):
        return error
    if isinstance(error, OSError):
        return StorageError(f"cannot use {error.filename}: {error.strerror or error}")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return InternalError(
        f"{type(error).__name__}: {error}{where}", "This is a mistake of evtool: please report it with this line."
    )


def reports(files: Files, folder: Path) -> Iterator[Mapping[str, Any]]:
    """The reports in the folder of a log, the newest first; those that are not as written are passed over."""
    for path in reversed(_paths(folder)):
        value = read_report(files, path)
        if value is not None:
            yield value


def read_report(files: Files, path: Path) -> Mapping[str, Any] | None:
    """One report; None if it is not as it was written."""
    try:
        value = json.loads(files.read_whole(path))
        is_whole = isinstance(value, dict) and value.pop(CHECKSUM, None) == checksum_of(value)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if is_whole else None


def _paths(folder: Path) -> list[Path]:
    """The reports in the folder of a log, the newest last."""
    return sorted(path for path in (folder / FOLDER).glob(f"*{REPORT_SUFFIX}") if _moment(path.name) is not None)


def _moment(name: str) -> datetime | None:
    try:
        return datetime.strptime(name, _NAME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _behind(names: Sequence[str], now: datetime) -> str:
    """The name of a report that begins now, and comes last even if the clock was put back since the one before."""
    before = _moment(names[-1]) if names else None
    if before is not None and before >= now:
        now = before + timedelta(microseconds=1)
    return now.strftime(_NAME_FORMAT)


def _check(names: Sequence[str], only: Collection[str], skip: Collection[str]) -> None:
    for flag, asked in (("--only", only), ("--skip", skip)):
        for name in asked:
            if name not in names:
                raise ConfigError(f"{flag}: there is no step {name!r}", f"The steps are {', '.join(names)}.")
    if names and not [name for name in names if (not only or name in only) and name not in skip]:
        raise ConfigError("--only and --skip leave no step", f"The steps are {', '.join(names)}.")


def _lock(log: Log) -> Lock:
    return log.files.lock(log.folder / LOCK_FILE, "has its nightly run already, in", "Wait until it ends.")


class _Night:
    """One run, and its report as it grows."""

    def __init__(
        self,
        log: Log,
        config: Config,
        steps: Sequence[Step],
        budget_seconds: float | None,
        on_step: Callable[[Done], None],
        watched: Callable[[str], AbstractContextManager[Progress]],
    ) -> None:
        self._log = log
        self._steps = {step.name: step for step in steps}
        self._budget_seconds = budget_seconds
        self._on_step = on_step
        self._watched = watched
        self._began = time.monotonic()
        now = datetime.now(UTC)
        folder = log.folder / FOLDER
        self._keep_reports = config.nightly.keep_reports
        self._path = folder / _behind([path.name for path in _paths(log.folder)], now)
        self._report = Report(str(log.folder), f"{now:%Y-%m-%dT%H:%M:%S.%f}Z", 0.0, 0, ())
        self._context = Context(log, config, folder, lambda: reports(log.files, log.folder), _unheard)

    def run(self, only: Collection[str], skip: Collection[str]) -> Report:
        last: Mapping[str, Any] = next(self._context.reports(), {"steps": []})
        waiting = [each["name"] for each in last["steps"] if each["outcome"] == "postponed"]
        waiting = [name for name in waiting if name in self._steps]
        order = waiting + [name for name in self._steps if name not in waiting]
        asked = [name for name in order if (not only or name in only) and name not in skip]
        # What was postponed and is not asked for now keeps its turn.
        left = [Done(name, "postponed" if name in waiting else "skipped") for name in order if name not in asked]
        self._report = replace(self._report, steps=(*(Done(name, "postponed") for name in asked), *left))
        self._log.files.make_folder(self._path.parent)
        self._write()
        unfinished = self._path.parent.glob(f"*{REPORT_SUFFIX}.tmp")
        for path in (*unfinished, *_paths(self._log.folder)[: -self._keep_reports]):
            self._log.files.remove(path)
        for number, name in enumerate(asked):
            if self._is_over():
                self._on_step(self._report.steps[number])
            else:
                self._step(number, self._steps[name])
        if asked and all(done.outcome == "postponed" for done in self._report.steps[: len(asked)]):
            self._none_began()
        return self._report

    def _none_began(self) -> None:
        """A budget that is too short must not look like a good night, every night."""
        error = ConfigError(
            "the time budget was over before any step began", "Give it more time, as in --time-budget 2h."
        )
        self._report = replace(self._report, exit_code=error.exit_code, message=error.message, hint=error.hint)
        self._write()

    def _is_over(self) -> bool:
        return self._budget_seconds is not None and time.monotonic() - self._began >= self._budget_seconds

    def _step(self, number: int, step: Step) -> None:
        self._put(number, Done(step.name, "failed", message="it was cut short"))
        began = time.monotonic()
        try:
            with self._watched(step.name) as on_progress:
                result = step.run(replace(self._context, on_progress=on_progress))
        except (Exception, PanicException) as error:
            result = Result(error=failure(error))
        seconds = round(time.monotonic() - began, 6)
        done = Done(step.name, "ok", seconds, result.facts)
        if result.error is not None:
            done = replace(done, outcome="failed", message=result.error.message, hint=result.error.hint)
            code = self._report.exit_code or result.error.exit_code
            self._report = replace(self._report, exit_code=code)
        self._put(number, done)
        self._on_step(done)

    def _put(self, number: int, done: Done) -> None:
        steps = (*self._report.steps[:number], done, *self._report.steps[number + 1 :])
        self._report = replace(self._report, steps=steps)
        self._write()

    def _write(self) -> None:
        self._report = replace(self._report, seconds=round(time.monotonic() - self._began, 6))
        said = asdict(self._report)
        text = json.dumps(said | {CHECKSUM: checksum_of(said)}, indent=2, ensure_ascii=False)
        self._log.files.write_whole(self._path, text.encode(errors="backslashreplace") + b"\n")
