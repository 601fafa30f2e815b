"""A chunk of foreign JSON lines becomes columns of events, by the places that the configuration names.

Many lines are decoded at once into a type made for these places (`extract`), whatever the order and number of
their keys. Lines between which one is bad are halved until it stands alone; it, and any line with a value
that only the slow way understands, is left to that (`mapping.row`), which has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from evtool import jsontext, timecolumns, uuids
from evtool.batch import BATCH_SCHEMA
from evtool.envelope import RejectedError, Row
from evtool.event import INT64_MAX, INT64_MIN, TEXT_BYTES_MAX
from evtool.ingest import derived, mapping, probe
from evtool.ingest.columns import PARSED_SCHEMA
from evtool.ingest.extract import Extractor, Slot
from evtool.ingest.lines import Lines, Mask, Offsets, Span
from evtool.ingest.mapping import OBJECTS, VERSIONS, Field, Rules, Shape
from evtool.ingest.parse import Parser
from evtool.jsontext import OBJECT_NESTING_MAX

_OPENING = ord("{")  # "[" is the same but for one bit
_CASE_BIT = 32
_NOTHING = (b"", b"null")
_ROWS_TOGETHER = 256  # dictionaries that are gone soon cost the garbage collector little
_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,30}")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode


class MappedParser(Parser):
    """Parses chunks of JSON lines of a shape, in any thread."""

    def __init__(self, shape: Shape, rules: Rules) -> None:
        super().__init__(rules.default_source, rules.fold_unknown, rules.derives_ids, rules.zone)
        self._shape = shape
        self._rules = rules
        self._is_checked = False
        slots = {slot for field in shape.fields.values() for slot in _slots(field)}
        if shape.version is not None:
            slots.add(Slot((shape.version[0],)))
        slots |= {Slot((key,), raw=True) for key in shape.exclusive or ()}
        self._extractor: Extractor | None
        try:
            self._extractor = Extractor(sorted(slots, key=repr)) if slots else None
        except ValueError:
            self._extractor = None  # every line goes the slow way

    def check(self, chunk: bytes) -> None:
        """Raise ConfigError if the first events have nothing at any path that is mapped."""
        with self._mutex:
            if not self._is_checked:
                self._is_checked = probe.check(self._shape, self._rules, chunk)

    def _row(self, line: bytes) -> Row:
        try:
            return mapping.row(line, self._shape, self._rules)
        except RejectedError as error:
            if self._shape.cells and error.reason == "not_an_object":
                # A converter of tables writes a row that it cannot make an object of as something else.
                raise RejectedError(
                    "row_malformed", "the row does not fit the header, or its quotes do not end"
                ) from None
            raise

    def _together(self, lines: Lines, rows: Offsets) -> tuple[list[pa.RecordBatch], Offsets]:
        """The events of the rows that are good, and the rows that are left."""
        starts, ends = lines.trimmed(rows)
        fits = lines.ends_fit(starts, ends, b"{", b"}") if len(rows) else np.zeros(0, bool)
        fits &= _shallow(lines, starts, ends)
        batches = []
        left = np.ones(len(lines), bool)
        for good, objects in self._decoded(lines, rows, (starts, ends), np.flatnonzero(fits)):
            assert self._extractor is not None
            columns = _Columns(
                self._extractor, objects, self._shape, self._rules, lines, (starts[good], ends[good])
            )
            batch = columns.batch(rows[good])
            left[batch["row"].to_numpy()] = False
            batches.append(batch)
        return batches, rows[left[rows]]

    def _decoded(
        self, lines: Lines, rows: Offsets, span: Span, candidates: Offsets
    ) -> list[tuple[Offsets, list[list[Any]]]]:
        """Places in `rows`, in order, and their decoded objects; without those that cannot be."""
        if self._extractor is None:
            return []
        found: list[tuple[Offsets, list[list[Any]]]] = []
        pending = [candidates]
        while pending:
            places = pending.pop()
            if not len(places):
                continue
            objects = self._extractor.decode(_text(lines, rows, span, places), len(places))
            if objects is not None:
                found.append((places, objects))
            elif len(places) > 1:
                pending += [places[len(places) // 2 :], places[: len(places) // 2]]
        if len(found) <= 1:
            return found
        merged = [[each for part in parts for each in part] for parts in zip(*(o for _, o in found), strict=True)]
        return [(np.concatenate([places for places, _ in found]), merged)]


class _Columns:
    """The columns of decoded lines. Not good is a row that breaks a rule, or that this way does not understand."""

    def __init__(
        self, extractor: Extractor, objects: list[list[Any]], shape: Shape, rules: Rules, lines: Lines, span: Span
    ) -> None:
        self._extractor = extractor
        self._objects = objects
        self._shape = shape
        self._rules = rules
        self._lines = lines
        self._span = span
        self._count = len(span[0])
        self._good = np.ones(self._count, bool)

    def batch(self, rows: Offsets) -> pa.RecordBatch:
        """The events as PARSED_SCHEMA, without the rows that are not good. `rows` are their line numbers."""
        self._check_format()
        fields = self._shape.fields
        columns = {name: self._texts(fields[name]) for name in TEXT_BYTES_MAX if name != "event_id"}
        columns |= self._ids(fields["event_id"])
        columns["timestamp"] = self._timestamps(fields["timestamp"])
        columns |= {name: self._versions(fields[name], limit) for name, limit in VERSIONS.items()}
        columns |= self._objects_and_rest()
        columns["row"] = pa.array(rows)
        batch = pa.RecordBatch.from_arrays([columns[name] for name in PARSED_SCHEMA.names], schema=PARSED_SCHEMA)
        return batch if self._good.all() else batch.filter(pa.array(self._good))

    def _check_format(self) -> None:
        if self._shape.version is not None:
            key, wanted = self._shape.version
            self._keep([value == wanted for value in self._column(Slot((key,)))])
        if self._shape.exclusive is not None:
            columns = [map(bytes, self._column(Slot((key,), raw=True))) for key in self._shape.exclusive]
            self._keep([one in _NOTHING or other in _NOTHING for one, other in zip(*columns, strict=True)])

    def _keep(self, good: Sequence[bool] | Mask) -> None:
        self._good &= np.asarray(good, bool)

    def _column(self, slot: Slot) -> list[Any]:
        return self._extractor.column(slot, self._objects)

    def _values(self, field: Field) -> list[Any]:
        """The first value that is there, of each row; None where there is none."""
        values: list[Any] = []
        for slot in _slots(field):
            column = self._column(slot)
            if self._shape.cells:
                column = [None if value == "" else value for value in column]
            values = [b if a is None else a for a, b in zip(values, column, strict=True)] if values else column
        return values or [field.constant] * self._count

    def _texts(self, field: Field) -> pa.Array:
        values = self._values(field)
        kinds = set(map(type, values))
        if float in kinds:
            # How it was written is no longer known.
            self._keep([type(value) is not float for value in values])
        if kinds != {str}:
            values = [_name(value) for value in values]
        default = self._rules.default_source if field.name == "source_id" else None
        if None in values:
            self._keep([default is not None or value is not None for value in values])
            values = [default or "" if value is None else value for value in values]
        column = pa.array(values, pa.string())
        offsets = np.frombuffer(column.buffers()[1], np.int32, self._count + 1)
        lengths = np.diff(offsets)
        self._keep((lengths >= 1) & (lengths <= TEXT_BYTES_MAX[field.name]))
        return column

    def _ids(self, field: Field) -> dict[str, pa.Array]:
        if not self._rules.derives_ids:
            return uuids.columns(self._texts(field))
        values = self._values(field)
        absent = np.array([value is None for value in values], bool)
        if not absent.any():
            return uuids.columns(self._texts(field))
        binary = derived.ids(self._lines.data, *self._span)
        if absent.all():
            return {"event_uuid": uuids.to_arrow(binary, None), "event_id": pa.nulls(self._count, pa.string())}
        self._keep(absent)  # a mixture is rare: those with an id go the slow way
        return {"event_uuid": uuids.to_arrow(binary, ~absent), "event_id": pa.nulls(self._count, pa.string())}

    def _timestamps(self, field: Field) -> pa.Array:
        values = self._values(field)
        kinds = set(map(type, values))
        nanoseconds = np.zeros(self._count, np.int64)
        absent = np.zeros(self._count, bool)
        good = np.zeros(self._count, bool)
        for kind in kinds:
            chosen = np.ones(self._count, bool)
            if len(kinds) > 1:
                chosen = np.array([type(value) is kind for value in values], bool)
            of_kind = [value for value in values if type(value) is kind] if len(kinds) > 1 else values
            if kind is type(None):
                absent, good = chosen, good | chosen
            elif kind in (str, int):
                nanoseconds[chosen], good[chosen] = self._moments(of_kind, kind)
        self._keep(good)
        return pa.array(nanoseconds, mask=absent if absent.any() else None)

    def _moments(self, values: list[Any], kind: type) -> tuple[timecolumns.Nanoseconds, Mask]:
        if kind is int:
            return _of_numbers(values)
        if self._shape.cells and all(map(_WHOLE_NUMBER.fullmatch, values)):
            return _of_numbers(list(map(int, values)))
        return timecolumns.parse_texts(pa.array(values, pa.string()), self._rules.zone)

    def _versions(self, field: Field, limit: int) -> pa.Array:
        dtype, default = BATCH_SCHEMA.field(field.name).type, 1 if field.name == "schema_version" else None
        values = self._values(field)
        if set(map(type, values)) == {type(None)}:
            return pa.nulls(self._count, dtype) if default is None else pa.repeat(pa.scalar(1, dtype), self._count)
        if self._shape.cells:
            values = [_cell_number(value) for value in values]
        good = [value is None or (type(value) is int and 1 <= value <= limit) for value in values]
        self._keep(good)
        return pa.array([value or default if fits else 1 for value, fits in zip(values, good, strict=True)], dtype)

    def _objects_and_rest(self) -> dict[str, pa.Array]:
        payload, metadata = (self._shape.fields[name] for name in OBJECTS)
        rest = self._shape.rest
        if rest is None:
            whole = self._lines.texts([self._span])[0]
            return {"payload": whole, "metadata": _strings(self._documents(metadata))}
        columns = {field.name: self._documents(field) for field in (payload, metadata)}
        columns[rest] = self._with_rest(columns[rest], may_be=rest == "payload" or self._rules.fold_unknown)
        columns["payload"] = [b"{}" if text is None else text for text in columns["payload"]]
        return {name: _strings(column) for name, column in columns.items()}

    def _documents(self, field: Field) -> list[bytes | None]:
        """The exact bytes of the objects of a field."""
        default = None if field.constant is None else field.constant.encode()
        found: list[bytes | None] = [default] * self._count
        for path, slot in reversed(list(zip(field.paths, _slots(field), strict=True))):
            texts = list(map(bytes, self._column(slot)))
            if all(text[:1] == b"{" for text in texts):
                found = list(texts)
                continue
            key = str(path.steps[-1])
            for row, text in enumerate(texts):
                if text not in _NOTHING and not (self._shape.cells and text == b'""'):
                    found[row] = self._document(field.name, text, key, row)
        return found

    def _document(self, name: str, text: bytes, key: str, row: int) -> bytes | None:
        try:
            return mapping.document(name, text, key, self._shape)
        except RejectedError:
            self._good[row] = False
            return None

    def _with_rest(self, own: list[bytes | None], may_be: bool) -> list[bytes | None]:
        """The members that no field has taken, as objects, in place of what is nothing in `own`."""
        rests = _rests(self._lines, self._span, self._shape.taken)
        for row, rest in enumerate(rests):
            if rest == b"{}":
                continue
            if rest is None or own[row] is not None or not may_be:
                self._good[row] = False  # merging the two is left to the slow way
                continue
            own[row] = rest
        return own


def _slots(field: Field) -> list[Slot]:
    return [Slot(path.steps, field.name in OBJECTS) for path in field.paths if path.steps]


def _text(lines: Lines, rows: Offsets, span: Span, places: Offsets) -> bytes | memoryview:
    """The texts of some lines, one behind the other."""
    starts, ends = span
    first, last = places[0], places[-1]
    if rows[last] - rows[first] + 1 == len(places):
        return memoryview(lines.data)[starts[first] : ends[last]]
    spans = zip(starts[places].tolist(), ends[places].tolist(), strict=True)
    return b"\n".join([lines.data[start:end] for start, end in spans])


def _shallow(lines: Lines, starts: Offsets, ends: Offsets) -> Mask:
    """Which lines, in order, nest less deep than an event may: so that no part of them nests too deep anywhere."""
    shallow = np.ones(len(starts), bool)
    opening = np.flatnonzero((lines.array | _CASE_BIT) == _OPENING)
    # Only a line with more brackets than that can nest so deep.
    width = opening[OBJECT_NESTING_MAX:] - opening[:-OBJECT_NESTING_MAX]
    near = np.flatnonzero(width < (ends - starts).max(initial=0))
    line_of = np.searchsorted(starts, opening[near], "right") - 1
    is_same = line_of == np.searchsorted(starts, opening[near + OBJECT_NESTING_MAX], "right") - 1
    for number in np.unique(line_of[is_same]).tolist():
        shallow[number] = jsontext.nesting(lines.data[starts[number] : ends[number]]) <= OBJECT_NESTING_MAX
    return shallow


def _name(value: Any) -> str | None:
    """An id or a name that may be written as a number or a truth."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str) else str(value)


def _cell_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else value


def _of_numbers(values: list[int]) -> tuple[timecolumns.Nanoseconds, Mask]:
    try:
        return timecolumns.parse_numbers(np.array(values, np.int64))
    except OverflowError:
        fits = np.array([INT64_MIN <= value <= INT64_MAX for value in values], bool)
        moments, good = timecolumns.parse_numbers(np.array(values, object)[fits].astype(np.int64))
        nanoseconds = np.zeros(len(values), np.int64)
        nanoseconds[fits], fits[fits] = moments, good
        return nanoseconds, fits


def _strings(texts: list[bytes | None]) -> pa.Array:
    """Texts in UTF-8 as a column of strings."""
    column = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers(), column.null_count)


def _rests(lines: Lines, span: Span, taken: frozenset[str]) -> list[bytes | None]:
    """Each line as an object without the keys that are `taken`; None where it is left to the slow way.

    A line is taken apart into a dictionary, in which a key that stood twice would be missing. So it is put
    together again, and must be the same bytes, with spaces behind commas and colons or without.
    """
    starts, ends = span
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    rests: list[bytes | None] = []
    for at in range(0, len(spans), _ROWS_TOGETHER):
        texts = [lines.data[start:end] for start, end in spans[at : at + _ROWS_TOGETHER]]
        for text, members in zip(texts, _MEMBERS.decode_lines(b"\n".join(texts)), strict=True):
            if _ENCODE(members) != text and _spaced(members) != text:
                rests.append(None)
                continue
            for key in taken:
                members.pop(key, None)
            rests.append(_ENCODE(members))
    return rests


def _spaced(members: dict[str, msgspec.Raw]) -> bytes:
    return b"{%b}" % b", ".join([b"%b: %b" % (_ENCODE(key), bytes(raw)) for key, raw in members.items()])
