"""Compatibility of a new schema with those before it, by modes that mean what Confluent's registry means.

    backward    the new schema takes what was written under the last one (as upcasters make it)
    forward     the last schema takes what is written under the new one
    full        both
    ..._transitive    the same with every earlier schema, not the last one only
    none        anything goes

Taking is meant strictly: every object that one schema takes, the other takes. It is proved in one of two ways: by
the walk of `structure`, which also says what stands against it, or by jsonschema-rs, which compares sets of
values. What neither proves is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evtool.config import Compatibility
from evtool.schemas import structure
from evtool.schemas.assertions import UndecidedError
from evtool.schemas.document import Document, Node
from evtool.schemas.image import image
from evtool.schemas.record import Schema
from evtool.schemas.steps import Step
from evtool.schemas.structure import Finding, Side

MODES: tuple[Compatibility, ...] = get_args(Compatibility)

Direction = Literal["backward", "forward"]


@dataclass(frozen=True)
class Conflict:
    """A rule that is broken, in which direction, against which version."""

    direction: Direction
    version: int
    finding: Finding

    def __str__(self) -> str:
        found = self.finding
        return f"{self.direction}, {found.rule} at {found.path or 'the root'}: {found.message}"


def check(
    mode: Compatibility, new: Document, version: int, steps: Sequence[Step], earlier: Sequence[Schema]
) -> list[Conflict]:
    """What keeps a schema from being the next version of a type, in a mode; nothing when it may be.

    `steps` are its upcaster, `earlier` the schemas of the type from the first version on.
    """
    conflicts = []
    compared = earlier if mode.endswith("_transitive") else earlier[-1:]
    for schema in reversed(compared):
        if mode.startswith(("backward", "full")):
            later = [step for between in earlier if between.version > schema.version for step in between.steps]
            found = backward(schema, new, version, [*later, *steps])
            conflicts += [Conflict("backward", schema.version, finding) for finding in found]
        if mode.startswith(("forward", "full")):
            conflicts += [
                Conflict("forward", schema.version, finding) for finding in forward(schema, new, version)
            ]
    return conflicts


def backward(schema: Schema, new: Document, version: int, steps: Sequence[Step]) -> list[Finding]:
    """What keeps `new` from taking what was written under `schema`, after `steps`."""
    name = f"version {schema.version}" + (" after its upcaster" if steps else "")
    try:
        stored = image(schema.document.value, steps)
    except UndecidedError as error:
        return [Finding("cannot_be_proved", "", str(error))]
    return contains(Side(stored, name), Side(new.value, f"version {version}"))


def forward(schema: Schema, new: Document, version: int) -> list[Finding]:
    """What keeps `schema` from taking what is written under `new`."""
    written = Side(new.value, f"version {version}")
    return contains(written, Side(schema.document.value, f"version {schema.version}"))


def contains(writer: Side, reader: Side) -> list[Finding]:
    """What keeps objects of `writer` from being taken by `reader`; nothing is a proof that nothing does."""
    findings = structure.compare(writer, reader)
    covers = _covers(writer.root, reader.root)
    if covers == "yes":
        return []
    if covers == "no" and not findings:
        message = f"{reader.name} does not take all that {writer.name} takes"
        return [Finding("cannot_be_proved", "", message)]
    return findings


def _covers(writer: Node, reader: Node) -> str:
    """Whether `reader` takes every object that `writer` takes: "yes", "no" or "unknown"."""
    import jsonschema_rs

    def canonical(node: Node) -> jsonschema_rs.CanonicalSchema:
        return jsonschema_rs.canonicalize(node, offline=True, validate_formats=False)

    draft = {"$schema": writer["$schema"]} if isinstance(writer, dict) and "$schema" in writer else {}
    try:
        objects = canonical(writer).intersect(canonical({"type": "object"} | draft))
        answer = canonical(reader).covers(objects)
    except ValueError:  # one of them cannot be taken apart, or the two not be compared
        return "unknown"
    return str(answer.value)
