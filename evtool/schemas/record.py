"""What the registry keeps of a schema, how that is written, and all of it at one moment.

One JSON object a line: event_type, schema_version, registered_at (RFC 3339), compatibility (the mode in force from
then on), schema (the exact text), digest (XXH3-64 of that text), upcast (steps from the version before; absent
without any), and at the end checksum (XXH3-64 of the line's bytes before it). Both are 16 hexadecimal digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import xxhash

from evtool.config import Compatibility

if TYPE_CHECKING:  # to know which schemas there are takes neither
    from evtool.schemas.document import Document
    from evtool.schemas.steps import Step

_SEAL = b',"checksum":"'
_SEAL_BYTES = len(_SEAL) + 16 + len(b'"}')


@dataclass(frozen=True)
class Schema:
    """A registered schema. `steps` make a payload of the version before one of this version."""

    event_type: str
    version: int
    text: str
    compatibility: Compatibility
    registered_at: str
    steps: tuple[Step, ...] = ()

    @cached_property
    def document(self) -> Document:
        """The schema, taken apart."""
        from evtool.schemas import document

        return document.parse(self.text, self.name)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"version {self.version} of {self.event_type}"

    def as_dict(self) -> dict[str, Any]:
        """As it is kept."""
        kept = {
            "event_type": self.event_type,
            "schema_version": self.version,
            "registered_at": self.registered_at,
            "compatibility": self.compatibility,
            "schema": self.text,
            "digest": xxhash.xxh3_64_hexdigest(self.text.encode()),
        }
        return kept | ({"upcast": [step.as_dict() for step in self.steps]} if self.steps else {})

    def encode(self) -> bytes:
        """As a line of the registry's file."""
        from evtool.schemas import steps

        whole = steps.encode(self.as_dict())
        open_end = whole[:-1]
        return open_end + _SEAL + xxhash.xxh3_64_hexdigest(open_end).encode() + b'"}\n'


def decode(line: bytes) -> Schema:
    """A schema from its line, without the line break. Raises ValueError when it is not as it was written."""
    open_end, seal = line[:-_SEAL_BYTES], line[-_SEAL_BYTES:]
    if seal != _SEAL + xxhash.xxh3_64_hexdigest(open_end).encode() + b'"}':
        raise ValueError("its checksum is wrong")
    from evtool.schemas import steps

    kept = json.loads(open_end + b"}", parse_float=Decimal)
    return Schema(
        event_type=kept["event_type"],
        version=kept["schema_version"],
        text=kept["schema"],
        compatibility=kept["compatibility"],
        registered_at=kept["registered_at"],
        steps=steps.from_list(kept.get("upcast", []), "upcast"),
    )


@dataclass(frozen=True)
class Schemas:
    """All registered schemas at one moment, in the order in which they came."""

    registered: tuple[Schema, ...] = ()
    _of_type: dict[str, tuple[Schema, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grouped: dict[str, list[Schema]] = {}
        for schema in self.registered:
            grouped.setdefault(schema.event_type, []).append(schema)
        object.__setattr__(self, "_of_type", {name: tuple(found) for name, found in grouped.items()})

    @property
    def types(self) -> Iterable[str]:
        """Event types that have schemas."""
        return self._of_type.keys()

    def versions(self, event_type: str) -> tuple[Schema, ...]:
        """The schemas of a type, from the first version to the latest, without gaps; none for an unknown type."""
        return self._of_type.get(event_type, ())

    def get(self, event_type: str, version: int) -> Schema | None:
        """The schema of one version of a type, if it has one."""
        versions = self.versions(event_type)
        at = version - versions[0].version if versions else -1
        return versions[at] if 0 <= at < len(versions) else None

    def latest_version(self, event_type: str) -> int | None:
        """The latest version of a type, if it has any."""
        versions = self.versions(event_type)
        return versions[-1].version if versions else None

    def steps_between(self, event_type: str, version: int, target: int) -> tuple[Step, ...]:
        """What makes a payload of one version one of a later one; a version without steps takes it as it is."""
        later = (schema for schema in self.versions(event_type) if version < schema.version <= target)
        return tuple(step for schema in later for step in schema.steps)

    def __len__(self) -> int:
        return len(self.registered)

    def __bool__(self) -> bool:
        return bool(self.registered)
