"""How many stored events a schema would refuse, given as of its version: what CI asks before it is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from evtool.log.log import Log
from evtool.schemas import validation
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.upcast import ERROR_COLUMN, upcast

EXAMPLES_MAX = 5
_COLUMNS = ("position", "event_type", "schema_version", "payload")
_BLOCK_EVENTS = 65_536


@dataclass(frozen=True)
class Example:
    """An event that would be refused: where it is, and what is wrong with it; `path` and `rule` are JSON pointers.

    The rule `upcast` is a step that fails.
    """

    position: int
    schema_version: int
    path: str
    rule: str
    message: str


@dataclass
class Report:
    """Events of a type, and how many of them would be refused, in all and by the version they are stored in."""

    events: int = 0
    refused: int = 0
    versions: dict[int, dict[str, int]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


def check(
    log: Log,
    schema: Schema,
    first_version: int = 1,
    on_progress: Callable[[int], None] = lambda events: None,
) -> Report:
    """Hold the stored events of a schema's type against it, from `first_version` to its own version.

    They are given as of its version, by the upcasters of the registry and its own. Nothing is written.
    Raises LogDamagedError.
    """
    schemas = _with(log.schemas.current(), schema)
    report = Report()
    for events in log.scan(types=[schema.event_type], columns=_COLUMNS):
        meant = events.filter(pl.col("schema_version").is_between(first_version, schema.version))
        for at in range(0, len(meant), _BLOCK_EVENTS):
            _add(report, meant[at : at + _BLOCK_EVENTS], schema, schemas)
            on_progress(report.events)
    return report


def _with(schemas: Schemas, schema: Schema) -> Schemas:
    if schemas.get(schema.event_type, schema.version) is not None:
        return schemas
    return Schemas((*schemas.registered, schema))


def _add(report: Report, events: pl.DataFrame, schema: Schema, schemas: Schemas) -> None:
    given = upcast(events, schemas, {schema.event_type: schema.version})
    errors, texts = given[ERROR_COLUMN].to_list(), given["payload"]
    refused = {row for row, error in enumerate(errors) if error is not None}
    taken = [row for row in range(len(texts)) if row not in refused]
    refused |= {taken[at] for at in validation.invalid(schema, texts.gather(taken))}
    versions = events["schema_version"].to_list()
    for row in sorted(refused)[: EXAMPLES_MAX - len(report.examples)]:
        if errors[row] is not None:
            path, rule, message = "", "upcast", errors[row]
        else:
            breach = validation.breach(schema, texts[row])
            path, rule, message = breach.path, breach.rule, breach.message
        report.examples.append(Example(events["position"][row], versions[row], path, rule, message))
    report.events += len(events)
    report.refused += len(refused)
    for row, version in enumerate(versions):
        counts = report.versions.setdefault(version, {"events": 0, "refused": 0})
        counts["events"] += 1
        counts["refused"] += row in refused
