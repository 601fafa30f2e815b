"""`evtool`: the commands, and what becomes of an error.

The commands import the library inside themselves, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import typer

from evtool.cli import render
from evtool.cli.commands import Commands
from evtool.errors import ConfigError, EvtoolError, StorageError

INTERRUPT_EXIT = 130
_OBJECTS_BEFORE_COLLECTING = 250_000  # twice as many as the imports of a projection's refresh make

app = typer.Typer(
    name="evtool",
    cls=Commands,
    help="An event-sourced analytics platform in a folder: a durable log, exact ingest, replay, projections.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"evtool {version('evtool')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
) -> None:
    pass


def main() -> None:
    """The command line, as a process: streams, signals, exit codes."""
    # When the reader of a pipe goes away, end as other tools do: quietly, by the signal (a shell says 141).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})  # who started this one may have blocked it
    # A stream that was closed before the start is None in Python: then what is said goes nowhere.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    _open_as_many_files_as_may_be()
    # What is imported stays, so to look for garbage meanwhile is a tenth of the start for nothing.
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTING)
    # The threads that numpy starts to multiply matrices, which nothing here does, spin while they wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _run()
    try:
        sys.stdout.flush()  # Python would do it at the exit, and have no sentence for a full disk
    except OSError as error:
        render.let_go(sys.stdout)
        code = code or _tell(_refusal(error))
    # What is there at the exit goes with the process: to look for garbage in it is a tenth of the start, too.
    gc.freeze()
    sys.exit(code)


def _open_as_many_files_as_may_be() -> None:
    """Raise the limit of open files: a mapped segment takes three, and the usual limit of 1,024 is an old one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems take no limit that is as high as they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run() -> int:
    """Run the command; the exit code. Every error that a user can cause ends as a sentence and one of these."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except EvtoolError as error:
        return _tell(error)
    except KeyboardInterrupt:
        render.say("evtool: interrupted")
        return INTERRUPT_EXIT
    except OSError as error:
        return _tell(_refusal(error))
    except UnicodeEncodeError:
        wrong = _no_text(sys.argv)
        if wrong is None:
            raise
        return _tell(wrong)
    return 0


def _no_text(arguments: Sequence[str]) -> ConfigError | None:
    """What is wrong where an argument is not UTF-8, as only the name of a file may be; None where all are."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return ConfigError(f"{argument!r} is no text in UTF-8", "Only the name of a file may be other bytes.")
    return None


def _tell(error: EvtoolError) -> int:
    render.print_error(error)
    return error.exit_code


def _refusal(error: OSError) -> EvtoolError:
    """What the operating system refused, where no part of evtool has said it better."""
    from evtool.files import translated

    where = error.filename or "standard output"
    try:
        with translated("use", where):
            raise error
    except EvtoolError as refusal:
        return refusal
    except OSError:
        return StorageError(f"cannot use {where}: {error.strerror or error}")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")  # for as long as the process lives


if __name__ == "__main__":
    main()
