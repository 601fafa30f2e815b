"""CloudEvents 1.0 in JSON (https://github.com/cloudevents/spec, version 1.0.2): which attribute is which field.

`data` that is an object is the payload; any other becomes an object of this one member, as does `data_base64`.
The other attributes, extensions among them, are metadata. `specversion` must be 1.0, and is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evtool.event import EVENT_SCHEMA
from evtool.ingest import mapping
from evtool.ingest.mapping import Field, Shape

SPECVERSION = ("specversion", "1.0")
ATTRIBUTES: dict[str, list[str]] = {
    "event_id": ["id"],
    "source_id": ["source"],
    "stream_id": ["subject", "source"],
    "event_type": ["type"],
    "timestamp": ["time"],
    "payload": ["data", "data_base64"],
}


def shape_of(table: Mapping[str, Any]) -> Shape:
    """The shape of CloudEvents, with what `[ingest.fields]` says otherwise. Raises ConfigError."""
    own = mapping.shape_of(table)  # refuses what is no field
    fields = {}
    for name in EVENT_SCHEMA:
        if name in table:
            fields[name] = own.fields[name]
        elif name in ATTRIBUTES:
            fields[name] = replace(mapping.field_of(name, ATTRIBUTES[name]), is_mapped=False)
        else:
            fields[name] = Field(name, is_mapped=False)
    exclusive = None if "payload" in table else ("data", "data_base64")
    return Shape(fields, own.rest, SPECVERSION, wraps=True, exclusive=exclusive)
