"""The values of lines that fit a layout become columns, and every rule is checked on the column.

Checks look at offsets and single bytes in the chunk (numpy) before anything is made a text column. A row
that breaks a rule is only marked here; the slow way then reads its line again and says which rule it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evtool import jsontext, timecolumns, uuids
from evtool.batch import BATCH_SCHEMA
from evtool.event import EVENT_SCHEMA, INT32_MAX, INT64_MAX, POSITION_SCHEMA, TEXT_BYTES_MAX
from evtool.ingest import derived
from evtool.ingest.layout import Fit, Layout
from evtool.ingest.lines import Lines, Mask, Offsets
from evtool.jsontext import OBJECT_NESTING_MAX, VALUE_ENDS, VALUE_STARTS

PARSED_SCHEMA = BATCH_SCHEMA.append(pa.field("row", pa.int64()))

_VERSIONS = ("stream_version", "schema_version")


class Columns:
    """The columns of the rows that fit a layout."""

    def __init__(
        self,
        layout: Layout,
        lines: Lines,
        found: Fit,
        default_source: str | None,
        fold_unknown: bool,
        derives_ids: bool = False,
        zone: ZoneInfo | None = None,
    ) -> None:
        self._lines = lines
        self._kinds = {value.key: value.kind for value in layout.values}
        self._default_source = default_source
        self._fold_unknown = fold_unknown
        self._derives_ids = derives_ids
        self._zone = zone
        every = bool(found.fits.all())
        self._spans = {
            key: span if every else (span[0][found.fits], span[1][found.fits]) for key, span in found.spans.items()
        }
        self._count = int(found.fits.sum())
        self._good = np.ones(self._count, bool)
        keys = [key for key in self._spans if self._is_text(key)]
        self._texts = dict(zip(keys, lines.texts([self._spans[key] for key in keys]), strict=True))

    def batch(self, rows: Offsets) -> pa.RecordBatch:
        """The events as PARSED_SCHEMA, without those that break a rule. `rows` are their line numbers."""
        columns = {name: self._text(name) for name in TEXT_BYTES_MAX if name != "event_id"}
        columns |= self._ids(rows)
        columns["timestamp"] = self._timestamp()
        columns["stream_version"] = self._version("stream_version", INT64_MAX, None)
        columns["schema_version"] = self._version("schema_version", INT32_MAX, 1)
        columns["payload"] = self._object("payload", "{}")
        columns["metadata"] = self._metadata()
        columns["row"] = pa.array(rows)
        batch = pa.RecordBatch.from_arrays([columns[name] for name in PARSED_SCHEMA.names], schema=PARSED_SCHEMA)
        return batch if self._good.all() else batch.filter(pa.array(self._good))

    def _is_text(self, key: str) -> bool:
        """Whether a value is wanted as a text, rather than looked at in its place."""
        if key in POSITION_SCHEMA or key in _VERSIONS:
            return False
        return key != "timestamp" or self._kinds[key] == "string"

    def _ids(self, rows: Offsets) -> dict[str, pa.Array]:
        if self._derives_ids and "event_id" not in self._spans:
            binary = derived.ids(self._lines.data, *self._lines.trimmed(rows))
            return {"event_uuid": uuids.to_arrow(binary, None), "event_id": pa.nulls(self._count, pa.string())}
        return uuids.columns(self._text("event_id"))

    def _text(self, name: str) -> pa.Array:
        if name not in self._spans:
            default = self._default_source if name == "source_id" else None
            self._good &= default is not None
            return _constant(default or "", pa.string(), self._count)
        starts, ends = self._spans[name]
        lengths = ends - starts
        self._good &= (lengths >= 1) & (lengths <= TEXT_BYTES_MAX[name])
        return self._texts[name]

    def _timestamp(self) -> pa.Array:
        if "timestamp" not in self._spans:
            return pa.nulls(self._count, pa.int64())
        if self._kinds["timestamp"] == "string":
            nanoseconds, good = timecolumns.parse_texts(self._texts["timestamp"], self._zone)
        else:
            numbers, good = self._lines.whole_numbers(*self._spans["timestamp"])
            nanoseconds, in_range = timecolumns.parse_numbers(numbers)
            good = good & in_range
        self._good &= good
        return pa.array(nanoseconds)

    def _version(self, name: str, limit: int, default: int | None) -> pa.Array:
        dtype = BATCH_SCHEMA.field(name).type
        if name not in self._spans:
            return _constant(default, dtype, self._count)
        numbers, good = self._lines.whole_numbers(*self._spans[name])
        good &= (numbers >= 1) & (numbers <= limit)
        self._good &= good
        return pa.array(np.where(good, numbers, 1)).cast(dtype)

    def _object(self, name: str, default: str | None) -> pa.Array:
        if name not in self._spans:
            return _constant(default, pa.string(), self._count)
        self._check_documents(name, b"{", b"}", objects=True)
        return self._texts[name]

    def _metadata(self) -> pa.Array:
        unknown = [key for key in self._spans if key not in EVENT_SCHEMA and key not in POSITION_SCHEMA]
        for key in (*POSITION_SCHEMA, *unknown):
            if self._kinds.get(key, "string") != "string":
                self._check_value(key)
        if not unknown:
            return self._object("metadata", None)
        # Where there is metadata already, merging the two is left to the slow way.
        self._good &= self._fold_unknown and "metadata" not in self._spans
        return self._folded(unknown)

    def _check_value(self, key: str) -> None:
        if self._kinds[key] == "number":
            _, plain = self._lines.whole_numbers(*self._spans[key])
            if plain.all():
                return
        self._check_documents(key, VALUE_STARTS, VALUE_ENDS, objects=False)

    def _check_documents(self, key: str, first: bytes, last: bytes, objects: bool) -> None:
        starts, ends = self._spans[key]
        texts = self._texts[key] if key in self._texts else self._lines.texts([(starts, ends)])[0]
        self._good &= _passing(
            self._lines.ends_fit(starts, ends, first, last),
            lambda chosen: jsontext.are_documents(_rows(texts, chosen), (ends - starts)[chosen], objects),
        )

    def _folded(self, unknown: list[str]) -> pa.Array:
        """Metadata made of the members that the envelope does not know, in their order."""
        pieces = []
        for number, key in enumerate(unknown):
            quote = '"' if self._kinds[key] == "string" else ""
            pieces += [("{" if number == 0 else ",") + jsontext.quote(key) + ":" + quote, self._texts[key], quote]
        metadata = pc.binary_join_element_wise(*pieces, "}", "")
        # Folding puts a value one level deeper.
        is_long = pc.greater_equal(pc.binary_length(metadata), 2 * OBJECT_NESTING_MAX).to_numpy(
            zero_copy_only=False
        )
        for row in np.flatnonzero(is_long).tolist():
            self._good[row] &= jsontext.nesting(metadata[row].as_py().encode()) <= OBJECT_NESTING_MAX
        return metadata


def _passing(candidates: Mask, check: Callable[[Offsets], bool]) -> Mask:
    """Which candidates pass a check of many rows that is quick when all of them do.

    Rows that do not pass together are halved, until each of those that do not pass stands alone.
    """
    passing = np.zeros(len(candidates), bool)
    pending = [np.flatnonzero(candidates)]
    while pending:
        rows = pending.pop()
        if check(rows):
            passing[rows] = True
        elif len(rows) > 1:
            pending += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return passing


def _rows(texts: pa.Array, rows: Offsets) -> pa.Array:
    return texts if len(rows) == len(texts) else texts.take(pa.array(rows))


def _constant(value: Any, dtype: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, dtype) if value is None else pa.repeat(pa.scalar(value, dtype), count)
