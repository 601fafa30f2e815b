"""Members of payloads that become columns of their own in cold segments: typed String, as `->>` gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from evtool.errors import ConfigError
from evtool.ingest.mapping import Steps, field_of
from evtool.projections.extraction import extract

_PAYLOAD = re.compile(r"payload(?=[.\[])\.?")


def path_of(text: str) -> Steps:
    """The steps within the payload of "payload.user_id". Raises ConfigError."""
    match = _PAYLOAD.match(text)
    try:
        if match is None:
            raise ConfigError(text)
        return field_of("event_type", text[match.end() :]).paths[0].steps
    except ConfigError as error:
        raise ConfigError(
            f"--materialise {text!r} is no path into the payload", 'Write it as "payload.user_id".'
        ) from error


def deriving(names: Sequence[str]) -> Callable[[pa.Array], list[pa.Array]]:
    """What makes such columns of some payloads, in the order of the names."""
    steps = [path_of(name) for name in names]

    def derive(payloads: pa.Array) -> list[pa.Array]:
        return [column.to_arrow().cast(pa.string()) for column in extract(payloads, steps)] if steps else []

    return derive
