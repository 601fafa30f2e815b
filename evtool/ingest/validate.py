"""Events of a chunk against the schemas of their types: those that break a rule become rejects."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from evtool.event import LINE_BYTES_MAX
from evtool.ingest.parse import Parsed, Reject
from evtool.schemas.validation import Validator


def validated(parsed: Parsed, validator: Validator) -> Parsed:
    """The same chunk with `schema_invalid` and `schema_missing` among its rejects. Raises LogDamagedError."""
    if not validator.is_needed or not len(parsed.order):
        return parsed
    events = parsed.events
    types, versions, payloads = (pl.Series(events[name]) for name in ("event_type", "schema_version", "payload"))
    good, bad = validator.check(types, versions, payloads)
    if not bad:
        return parsed
    rejects = list(parsed.rejects)
    rows = events["row"].to_numpy()
    for at, reason, message in bad:
        row = int(rows[at])
        raw = parsed.lines.raw(row)
        rejects.append(Reject(row, reason, message, raw[:LINE_BYTES_MAX], len(raw)))
    rejects.sort(key=lambda reject: reject.row)
    return replace(parsed, order=parsed.order[good[parsed.order]], rejects=tuple(rejects))
