"""Events that go when their segments are written anew: dropped, or erased.

One that is dropped leaves its position. Of one that is erased a row stays, with its position, type, times and
versions: its payload is empty, its metadata say that it was erased, and its id and stream are named anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evtool.log.gone import DROPPED, ERASED, Gone, gone
from evtool.log.identity import identify
from evtool.log.partitions import partitions_of
from evtool.log.stripes import Change
from evtool.log.versions import stream_keys

ERASED_PAYLOAD = "{}"
ERASED_METADATA = '{"erased":true}'

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
Choose: TypeAlias = Callable[[pa.RecordBatch], Mask]  # events, as columns of PLACED_SCHEMA -> which of them


def dropping(choose: Choose, log_id: bytes) -> Change:
    """The change that takes the chosen events away."""

    def change(events: pa.RecordBatch) -> tuple[pa.RecordBatch, Gone]:
        chosen = choose(events)
        if not chosen.any():
            return events, Gone.none()
        return events.filter(pa.array(~chosen)), _gone(events, chosen, DROPPED, log_id)

    return change


def departing(log_id: bytes) -> Callable[[pa.RecordBatch], Gone]:
    """What gives of events, by the columns of an identity, what is kept when all of them are dropped."""
    return lambda events: _gone(events, np.ones(len(events), bool), DROPPED, log_id)


def erasing(choose: Choose, log_id: bytes, streams: Mapping[str, str] | None = None) -> Change:
    """The change that leaves of the chosen events what may stay, in streams that are called anew."""

    def change(events: pa.RecordBatch) -> tuple[pa.RecordBatch, Gone]:
        chosen = choose(events)
        if not chosen.any():
            return events, Gone.none()
        is_chosen = pa.array(chosen)
        positions, those = events["position"].filter(is_chosen), np.zeros(chosen.sum(), np.int64)
        values = {
            "event_uuid": pa.nulls(len(those), events.schema.field("event_uuid").type),
            "event_id": pc.binary_join_element_wise("erased", positions.cast(pa.string()), "-"),
            "payload": pa.array([ERASED_PAYLOAD]).take(pa.array(those)),
            "metadata": pa.array([ERASED_METADATA]).take(pa.array(those)),
            "stream_id": _renamed(events["stream_id"].filter(is_chosen), streams or {}),
        }
        columns = [
            pc.replace_with_mask(events[name], is_chosen, values[name].cast(events.schema.field(name).type))
            if name in values
            else events[name]
            for name in events.schema.names
        ]
        erased = pa.RecordBatch.from_arrays(columns, schema=events.schema)
        return erased, _gone(events, chosen, ERASED, log_id)

    return change


def new_name(stream_id: str, partitions: int) -> str:
    """A name for an erased stream that tells nothing of it, but its partition."""
    partition = partitions_of([stream_id.encode()], partitions)[0]
    while True:
        name = f"erased-{secrets.token_hex(8)}"
        if partitions_of([name.encode()], partitions)[0] == partition:
            return name


def _renamed(streams: pa.Array, names: Mapping[str, str]) -> pa.Array:
    encoded = streams.dictionary_encode()
    called = [names.get(name, name) for name in encoded.dictionary.to_pylist()]
    return pa.array(called, streams.type).take(encoded.indices)


def _gone(events: pa.RecordBatch, chosen: Mask, kind: int, log_id: bytes) -> Gone:
    """What is kept of the chosen ones."""
    taken = events.filter(pa.array(chosen))
    positions = taken["position"].to_numpy()
    order = np.argsort(positions)
    taken = taken.take(pa.array(order))
    encoded = taken["stream_id"].dictionary_encode()
    keys = stream_keys(encoded.dictionary.cast(pa.binary()).to_pylist())
    return gone(
        positions[order],
        np.full(len(order), kind, np.uint32),
        identify(taken, log_id),
        keys[encoded.indices.to_numpy()],
        taken["stream_version"].to_numpy(),
    )
