"""The values of lines that fit a layout become columns, and every rule is checked on the column.

Checks look at offsets and single bytes in the chunk (numpy) before anything is made a text column. A row
that breaks a rule is only marked here; the slow way then reads its line again and says which rule it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from evtool import jsontext, timestamps
from evtool.event import EVENT_SCHEMA, INT32_MAX, POSITION_SCHEMA, TEXT_BYTES_MAX
from evtool.ingest.layout import Fit, Layout
from evtool.ingest.lines import Lines, Mask, Offsets
from evtool.jsontext import OBJECT_NESTING_MAX, VALUE_ENDS, VALUE_STARTS

_OBJECTS = ("payload", "metadata")


class Columns:
    """The columns of the rows that fit a layout."""

    def __init__(
        self, layout: Layout, lines: Lines, found: Fit, default_source: str | None, fold_unknown: bool
    ) -> None:
        self._lines = lines
        self._kinds = {value.key: value.kind for value in layout.values}
        self._default_source = default_source
        self._fold_unknown = fold_unknown
        every = bool(found.fits.all())
        self._spans = {
            key: span if every else (span[0][found.fits], span[1][found.fits]) for key, span in found.spans.items()
        }
        self._count = int(found.fits.sum())
        self._good = np.ones(self._count, bool)

    def frame(self, rows: Offsets) -> pl.DataFrame:
        """The events as PARSED_SCHEMA, without those that break a rule. `rows` are their line numbers."""
        columns = {name: self._text(name) for name in TEXT_BYTES_MAX}
        columns["timestamp"] = self._timestamp()
        columns["stream_version"] = self._version("stream_version", pl.Int64, None)
        columns["schema_version"] = self._version("schema_version", pl.Int32, 1)
        columns["payload"] = self._object("payload", "{}")
        columns["metadata"] = self._metadata()
        frame = pl.DataFrame(
            [columns[name].alias(name) for name in EVENT_SCHEMA] + [pl.Series("row", rows, pl.Int64)]
        )
        return frame if self._good.all() else frame.filter(pl.Series(self._good))

    def _text(self, name: str) -> pl.Series:
        if name not in self._spans:
            default = self._default_source if name == "source_id" else None
            self._good &= default is not None
            return _constant(default, pl.String, self._count)
        starts, ends = self._spans[name]
        lengths = ends - starts
        self._good &= (lengths >= 1) & (lengths <= TEXT_BYTES_MAX[name])
        return self._lines.texts(starts, ends)

    def _timestamp(self) -> pl.Series:
        if "timestamp" not in self._spans:
            return _constant(None, pl.Int64, self._count)
        if self._kinds["timestamp"] == "string":
            nanoseconds, good = timestamps.parse_texts(self._lines.texts(*self._spans["timestamp"]))
        else:
            numbers, good = self._lines.whole_numbers(*self._spans["timestamp"])
            nanoseconds, in_range = timestamps.parse_numbers(numbers)
            good = good & in_range
        self._good &= good
        return pl.Series("timestamp", nanoseconds)

    def _version(self, name: str, dtype: Any, default: int | None) -> pl.Series:
        if name not in self._spans:
            return _constant(default, dtype, self._count)
        numbers, good = self._lines.whole_numbers(*self._spans[name])
        good &= numbers >= 1
        if dtype == pl.Int32:
            good &= numbers <= INT32_MAX
        self._good &= good
        return pl.Series(name, np.where(good, numbers, 1)).cast(dtype)

    def _object(self, name: str, default: str | None) -> pl.Series:
        if name not in self._spans:
            return _constant(default, pl.String, self._count)
        starts, ends = self._spans[name]
        texts = self._lines.texts(starts, ends)
        self._good &= _passing(
            self._lines.ends_fit(starts, ends, b"{", b"}"),
            lambda chosen: jsontext.are_documents(_rows(texts, chosen), (ends - starts)[chosen], objects=True),
        )
        return texts

    def _metadata(self) -> pl.Series:
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
        starts, ends = self._spans[key]
        if self._kinds[key] == "number":
            _, plain = self._lines.whole_numbers(starts, ends)
            if plain.all():
                return
        texts = self._lines.texts(starts, ends)
        self._good &= _passing(
            self._lines.ends_fit(starts, ends, VALUE_STARTS, VALUE_ENDS),
            lambda chosen: jsontext.are_documents(_rows(texts, chosen), (ends - starts)[chosen], objects=False),
        )

    def _folded(self, unknown: list[str]) -> pl.Series:
        """Metadata made of the members that the envelope does not know, in their order."""
        pieces = []
        for number, key in enumerate(unknown):
            quote = '"' if self._kinds[key] == "string" else ""
            pieces.append(pl.lit(("{" if number == 0 else ",") + jsontext.quote(key) + ":" + quote))
            pieces.append(pl.lit(self._lines.texts(*self._spans[key])))
            pieces.append(pl.lit(quote))
        metadata = pl.select(pl.concat_str(*pieces, pl.lit("}")).alias("metadata")).to_series()
        # Folding puts a value one level deeper.
        is_long = (metadata.str.len_bytes() >= 2 * OBJECT_NESTING_MAX).to_numpy()
        for row in np.flatnonzero(is_long).tolist():
            self._good[row] &= jsontext.nesting(metadata[row].encode()) <= OBJECT_NESTING_MAX
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


def _rows(texts: pl.Series, rows: Offsets) -> pl.Series:
    return texts if len(rows) == len(texts) else texts[rows]


def _constant(value: Any, dtype: Any, count: int) -> pl.Series:
    return pl.Series("constant", [value], dtype).new_from_index(0, count)
