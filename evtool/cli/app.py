"""`evtool`: the commands, and what becomes of an error.

The commands import the library inside themselves, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import signal
import sys

import typer

from evtool.cli import ingest, init, inspect, render, replay, stats, verify
from evtool.errors import EvtoolError, StorageError

INTERRUPT_EXIT = 130

app = typer.Typer(
    name="evtool",
    help="An event-sourced analytics platform in a folder: a durable log, exact ingest, replay.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (init.init, ingest.ingest, replay.replay, stats.stats, verify.verify, inspect.inspect):
    app.command()(command)


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
    """Run the command line; every error that a user can cause ends as a sentence and an exit code."""
    # When the reader of a pipe goes away, end as other tools do: quietly, by the signal (a shell says 141).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app()
    except EvtoolError as error:
        render.print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        render.say("evtool: interrupted")
        sys.exit(INTERRUPT_EXIT)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        render.print_error(StorageError(f"the operating system refused{where}: {error.strerror or error}"))
        sys.exit(StorageError.exit_code)


if __name__ == "__main__":
    main()
