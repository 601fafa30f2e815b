"""The rules of the envelope for a single event: what `append` takes and why a line is rejected.

Columns of good events never come through here; this is the way of small appends and of rejects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from evtool import jsontext, timestamps, uuids
from evtool.batch import BATCH_SCHEMA
from evtool.errors import EventError
from evtool.event import EVENT_SCHEMA, INT32_MAX, INT64_MAX, POSITION_SCHEMA, TEXT_BYTES_MAX
from evtool.jsontext import JsonError
from evtool.timestamps import TimestampError

BATCH_BYTES_MAX = 1 << 30  # the texts of a column are counted in 31 bits

_BATCH_STRUCT = pa.struct(list(BATCH_SCHEMA))

Row: TypeAlias = tuple[str, str, str, str, int | None, int | None, int, str, str | None]

# The reason codes of dead letters, and what each means; README's table is checked against it.
REASONS = {
    "invalid_json": "the line is not JSON as RFC 8259 has it",
    "not_an_object": "the line is JSON, but no object",
    "bad_utf8": "the line is not UTF-8",
    "lone_surrogate": "an escape names half of a surrogate pair, which is no character",
    "nesting_too_deep": "objects and arrays nest deeper than 128 levels",
    "line_too_long": "the line is longer than 16 MiB; its first 16 MiB are kept",
    "duplicate_key": "a key stands twice in the envelope",
    "unknown_field": "a key is not one of the envelope's, and the configuration rejects those",
    "missing_field": "a field that every event needs is absent or null",
    "empty_field": "a text that must say something is empty",
    "wrong_type": "a field holds another kind of value than it should",
    "text_too_long": "an id or a name is longer than its limit",
    "number_out_of_range": "a version is not a whole number of its range",
    "timestamp_invalid": "the time is neither RFC 3339 nor a number since 1970",
    "timestamp_without_offset": "the time has no offset, so it names no moment",
    "timestamp_out_of_range": "the time lies outside of 1677-09-21 to 2262-04-11",
    "row_malformed": "a row of a CSV file does not fit its header, or its quotation marks make no sense",
    "specversion_unknown": "a CloudEvent is of another version than 1.0, or says none",
    "id_conflict": "the source has sent this id before, with another content",
    "schema_invalid": "the payload breaks a rule of the schema of its event_type and schema_version",
    "schema_missing": "there is no schema for this event_type and schema_version, and there has to be one",
    "version_conflict": "the stream_version is not the next one of its stream",
}


_KINDS = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a fraction",
    str: "a text",
    dict: "an object",
    list: "an array",
    tuple: "an array",
}


class RejectedError(ValueError):
    """An event breaks a rule: `reason` is one of REASONS, the message says which field and how."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def row(event: Mapping[str, Any], default_source: str | None = None, zone: ZoneInfo | None = None) -> Row:
    """The columns of EVENT_SCHEMA for one event given as a mapping. Raises RejectedError.

    `payload` and `metadata` are mappings, or the text (or bytes) of a JSON object that is kept as it is.
    `position` and `recorded_at` are the log's to give, and ignored. A time without an offset is meant in `zone`.
    """
    for key in event:
        if key not in EVENT_SCHEMA and key not in POSITION_SCHEMA:
            raise RejectedError("unknown_field", f"{key!r} is no field of the envelope: put it into metadata")
    source = event.get("source_id")
    return (
        text("event_id", event.get("event_id")),
        text("source_id", default_source if source is None else source),
        text("stream_id", event.get("stream_id")),
        text("event_type", event.get("event_type")),
        timestamp(event.get("timestamp"), zone),
        version("stream_version", event.get("stream_version"), INT64_MAX),
        version("schema_version", event.get("schema_version"), INT32_MAX) or 1,
        json_object("payload", event.get("payload")) or "{}",
        json_object("metadata", event.get("metadata")),
    )


def batch(events: Iterable[Mapping[str, Any]], default_source: str | None = None) -> pa.RecordBatch:
    """A batch of BATCH_SCHEMA from mappings. Raises EventError, naming the event by its index."""
    return to_batch(rows(events, default_source))


def rows(events: Iterable[Mapping[str, Any]], default_source: str | None = None) -> list[Row]:
    """Mappings, checked. Raises EventError, naming the event by its index."""
    checked = []
    for number, event in enumerate(events):
        try:
            checked.append(row(event, default_source))
        except RejectedError as error:
            raise EventError(
                f"event {number} of the batch: {error} ({error.reason})", "Nothing of the batch was stored."
            ) from error
    return checked


def to_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows as a batch of BATCH_SCHEMA."""
    return pa.RecordBatch.from_struct_array(pa.array([_packed(row) for row in rows], _BATCH_STRUCT))


def _packed(row: Row) -> tuple[Any, ...]:
    uuid = uuids.pack_one(row[0])
    return uuid, row[0] if uuid is None else None, *row[1:]


def frame_to_batch(events: pl.DataFrame, default_source: str | None = None) -> pa.RecordBatch:
    """A frame that was handed to `append`, checked, as a batch of BATCH_SCHEMA. Raises EventError.

    Absent columns get the envelope's defaults. `timestamp` may be a Datetime or int64 nanoseconds.
    """
    size = events.estimated_size()
    if size > BATCH_BYTES_MAX:
        raise EventError(
            f"the batch holds {size:,} bytes; {BATCH_BYTES_MAX:,} is the limit", "Append it in several batches."
        )
    whole = _checked(events, default_source)
    table = whole.to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = {name: table[name].combine_chunks().cast(BATCH_SCHEMA.field(name).type) for name in EVENT_SCHEMA}
    columns |= uuids.columns(columns["event_id"])
    return pa.RecordBatch.from_arrays([columns[name] for name in BATCH_SCHEMA.names], schema=BATCH_SCHEMA)


def _checked(events: pl.DataFrame, default_source: str | None) -> pl.DataFrame:
    unknown = [name for name in events.columns if name not in EVENT_SCHEMA and name not in POSITION_SCHEMA]
    if unknown:
        raise EventError(f"{unknown[0]!r} is no column of the envelope", f"Known: {', '.join(EVENT_SCHEMA)}.")
    given = events.select(pl.col(name) for name in EVENT_SCHEMA if name in events.columns)
    missing = [
        pl.lit(None, dtype).alias(name) for name, dtype in EVENT_SCHEMA.items() if name not in given.columns
    ]
    whole = given.with_columns(missing)
    try:
        if isinstance(whole["timestamp"].dtype, pl.Datetime):
            whole = whole.with_columns(_moment(whole["timestamp"]))
        for name, dtype in EVENT_SCHEMA.items():
            if dtype.is_integer() and not (whole[name].dtype.is_integer() or whole[name].dtype == pl.Null):
                raise EventError(f"the column {name} must hold whole numbers, and holds {whole[name].dtype}")
        whole = whole.select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items())
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError) as error:
        raise EventError(f"a column does not have the envelope's type: {error}") from error
    whole = whole.with_columns(
        pl.col("source_id").fill_null(pl.lit(default_source, pl.String)),
        pl.col("schema_version").fill_null(1),
        pl.col("payload").fill_null("{}"),
    )
    texts = pl.concat([whole["payload"], whole["metadata"].drop_nulls()])
    if not (jsontext.are_objects(texts) and _within_limits(whole).all()):
        # This says which event breaks which rule. Its time is left out: here a number is ns, and good.
        batch(whole.with_columns(timestamp=pl.lit(None, pl.Int64)).to_dicts())
    return whole


def _within_limits(events: pl.DataFrame) -> pl.Series:
    """Which rows of a frame of EVENT_SCHEMA keep the limits of texts and versions."""
    keeps = pl.col("schema_version").ge(1) & (pl.col("stream_version").is_null() | pl.col("stream_version").ge(1))
    for name, limit in TEXT_BYTES_MAX.items():
        keeps &= pl.col(name).str.len_bytes().is_between(1, limit).fill_null(False)
    return events.select(keeps.alias("keeps")).to_series()


def text(name: str, value: Any) -> str:
    """An id or a name, checked. Raises RejectedError."""
    if value is None:
        hint = "; give a default with --source or in evtool.toml" if name == "source_id" else ""
        raise RejectedError("missing_field", f"{name} is missing{hint}")
    if not isinstance(value, str):
        raise RejectedError("wrong_type", f"{name} must be a text, and is {_kind(value)}")
    if not value:
        raise RejectedError("empty_field", f"{name} is empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise RejectedError("lone_surrogate", f"{name} holds half of a surrogate pair") from error
    if size > TEXT_BYTES_MAX[name]:
        raise RejectedError("text_too_long", f"{name} has {size:,} bytes; {TEXT_BYTES_MAX[name]:,} is the limit")
    return value


def timestamp(value: Any, zone: ZoneInfo | None = None) -> int | None:
    """Event time in ns; None when it is absent. Raises RejectedError."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return timestamps.parse_text(value, zone)
        if isinstance(value, datetime):
            return timestamps.parse_text(value.isoformat())
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return timestamps.parse_number(value)
    except TimestampError as error:
        raise RejectedError(error.reason, f"timestamp: {error}") from error
    raise RejectedError("wrong_type", f"timestamp must be a text or a number, and is {_kind(value)}")


def version(name: str, value: Any, limit: int) -> int | None:
    """A stream_version or schema_version; None when it is absent. Raises RejectedError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise RejectedError("wrong_type", f"{name} must be a whole number, and is {_kind(value)}")
    if not 1 <= value <= limit:
        raise RejectedError("number_out_of_range", f"{name} must be between 1 and {limit}")
    return value


def json_object(name: str, value: Any) -> str | None:
    """The text of a JSON object; None when it is absent. Raises RejectedError."""
    if value is None:
        return None
    try:
        if isinstance(value, Mapping):
            value = jsontext.encode(value)
        if isinstance(value, str):
            value = value.encode()
        if not isinstance(value, bytes):
            raise RejectedError("wrong_type", f"{name} must be an object, and is {_kind(value)}")
        jsontext.check_object(value)
        if b"\n" in value:
            raise RejectedError("wrong_type", f"{name} must be written on one line, as NDJSON carries it")
        return value.decode()
    except JsonError as error:
        reason = "wrong_type" if error.reason == "not_an_object" else error.reason
        raise RejectedError(reason, f"{name}: {error}") from error
    except UnicodeEncodeError as error:
        raise RejectedError("lone_surrogate", f"{name} holds half of a surrogate pair") from error
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, RejectedError):
            raise
        raise RejectedError("wrong_type", f"{name} cannot be written as JSON: {error}") from error


def _moment(moments: pl.Series) -> pl.Series:
    if moments.dtype.time_zone is None:  # type: ignore[attr-defined]
        raise EventError("the column timestamp has no time zone, so it names no moments", "Give it one: UTC.")
    return moments.dt.cast_time_unit("ns").cast(pl.Int64)


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        Decimal: "a fraction",
        str: "a text",
        dict: "an object",
    }
    return names.get(type(value), "an array" if isinstance(value, list | tuple) else type(value).__name__)
