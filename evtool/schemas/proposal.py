"""A schema that somebody wants to add: what it would become, and what stands against it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from evtool import envelope, timestamps
from evtool.config import Compatibility
from evtool.envelope import RejectedError
from evtool.errors import SchemaError
from evtool.event import INT32_MAX
from evtool.schemas import compatibility as rules
from evtool.schemas.compatibility import Conflict
from evtool.schemas.document import Document
from evtool.schemas.record import Schema, Schemas
from evtool.schemas.steps import Step

_CONFLICTS_SHOWN_MAX = 5


@dataclass(frozen=True)
class Proposal:
    """What adding a schema would do."""

    schema: Schema
    is_known: bool  # the same text is registered as this version already
    conflicts: tuple[Conflict, ...]


def propose(
    schemas: Schemas,
    event_type: str,
    document: Document,
    version: int | None,
    compatibility: Compatibility | None,
    steps: tuple[Step, ...],
    default: Compatibility,
) -> Proposal:
    """What adding a schema to these would do. Arguments and errors are those of `Registry.add`."""
    try:
        envelope.text("event_type", event_type)
    except RejectedError as error:
        raise SchemaError(str(error)) from error
    earlier = schemas.versions(event_type)
    same = _registered_before(schemas, event_type, document, version)
    if same is not None:
        changes = [
            what
            for what, given, has in (
                ("upcaster", steps, same.steps),
                ("compatibility", compatibility, same.compatibility),
            )
            if given and given != has
        ]
        if changes:
            raise SchemaError(
                f"{same.name} is registered with another {changes[0]}",
                "What is registered never changes: add the schema as a new version, with any change of its text.",
            )
        return Proposal(same, True, ())
    number = _number(schemas, event_type, version)
    mode = compatibility or (earlier[-1].compatibility if earlier else default)
    now = timestamps.to_text(time.time_ns())
    schema = Schema(event_type, number, document.text, mode, now, steps)
    return Proposal(schema, False, tuple(rules.check(mode, document, number, steps, earlier)))


def _registered_before(
    schemas: Schemas, event_type: str, document: Document, version: int | None
) -> Schema | None:
    """The registered schema that this one is already: the named version, or without a name the latest one."""
    latest = schemas.latest_version(event_type)
    found = None if latest is None else schemas.get(event_type, latest if version is None else version)
    if found is None or found.text == document.text:
        return found
    if version is None:
        return None
    raise SchemaError(
        f"{found.name} is registered with another schema",
        f"What is registered never changes: add it as version {(latest or 0) + 1}.",
    )


def _number(schemas: Schemas, event_type: str, version: int | None) -> int:
    latest = schemas.latest_version(event_type)
    number = (latest or 0) + 1 if version is None else version
    if not 1 <= number <= INT32_MAX:
        raise SchemaError(f"{number} is no schema_version", f"Versions are 1 to {INT32_MAX}.")
    if latest is not None and number != latest + 1:
        raise SchemaError(
            f"version {number} of {event_type} is not the next one: version {latest} is the last",
            f"Versions come in order: add it as version {latest + 1}.",
        )
    return number


def refusal(proposal: Proposal) -> SchemaError:
    """That what stands against a proposal keeps it out."""
    schema, conflicts = proposal.schema, proposal.conflicts
    shown = [f"  {conflict}" for conflict in conflicts[:_CONFLICTS_SHOWN_MAX]]
    if len(conflicts) > len(shown):
        shown.append(f"  and {len(conflicts) - len(shown)} more")
    return SchemaError(
        "\n".join([f"{schema.name} breaks its compatibility, {schema.compatibility}:", *shown]),
        "Change the schema, give steps with --upcast, or add it with --compatibility none.",
    )
