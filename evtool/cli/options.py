"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evtool.errors import ConfigError

LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log",
        metavar="DIR",
        help="The log's folder, or the URL of its archive. (default: EVTOOL_LOG, evtool.toml, ./segments)",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def seconds(flag: str, text: str, example: str) -> float:
    """The seconds of a time that a flag was given, as `example` is one. Raises ConfigError."""
    from evtool.quantities import parse_duration_ms

    try:
        milliseconds = parse_duration_ms(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error
    if milliseconds < 1:
        raise ConfigError(f"{flag}: the time is too short", f"As in {flag} {example}.")
    return milliseconds / 1000
