"""Stored events as NDJSON: one compact object a line, keys in a fixed order, payloads as they were sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from evtool import jsontext, parallel, timecolumns

BLOCK_EVENTS = 32_768
_ERROR = "upcast_error"


def blocks(frames: Iterable[pl.DataFrame]) -> Iterator[bytes]:
    """The lines of frames of stored events, in blocks of whole lines that are made in parallel."""
    pieces = (events[at : at + BLOCK_EVENTS] for events in frames for at in range(0, len(events), BLOCK_EVENTS))
    return parallel.ordered(render, pieces)


def render(events: pl.DataFrame) -> bytes:
    """Lines of all columns of STORED_SCHEMA, times as RFC 3339 UTC with nine decimals.

    Metadata is absent where it was absent, and so is `upcast_error`, the only other column that there may be.
    A frame without rows gives no bytes.
    """
    if not len(events):
        return b""
    columns = events.with_columns(
        _times(events["recorded_at"]),
        _times(events["timestamp"]),
        *(_quoted(events[name]) for name in ("event_id", "stream_id")),
        *(_quoted_once(events[name]) for name in ("source_id", "event_type")),
    )
    more: list[pl.Expr] = []
    if _ERROR in columns.columns and columns[_ERROR].null_count() < len(columns):
        columns = columns.with_columns(_quoted(columns[_ERROR]))
        more = [(pl.lit(f',"{_ERROR}":') + pl.col(_ERROR)).fill_null("")]
    lines = columns.select(
        pl.concat_str(
            pl.lit('{"position":'),
            "position",
            pl.lit(',"recorded_at":"'),
            "recorded_at",
            pl.lit('","event_id":'),
            "event_id",
            pl.lit(',"source_id":'),
            "source_id",
            pl.lit(',"stream_id":'),
            "stream_id",
            pl.lit(',"event_type":'),
            "event_type",
            pl.lit(',"timestamp":"'),
            "timestamp",
            pl.lit('","stream_version":'),
            "stream_version",
            pl.lit(',"schema_version":'),
            "schema_version",
            pl.lit(',"payload":'),
            "payload",
            (pl.lit(',"metadata":') + pl.col("metadata")).fill_null(""),
            *more,
            pl.lit("}\n"),
        ).alias("line")
    )
    # The rows lie one behind the other in Arrow's buffer: that is the text.
    text = lines["line"].to_arrow(compat_level=pl.CompatLevel.oldest())
    return bytes(text.buffers()[2])


def _times(nanoseconds: pl.Series) -> pl.Series:
    return timecolumns.to_texts(nanoseconds.to_numpy()).alias(nanoseconds.name)


def _quoted(texts: pl.Series) -> pl.Series:
    return jsontext.quoted(texts).alias(texts.name)


def _quoted_once(texts: pl.Series) -> pl.Series:
    """The same for a column of few different texts: each is looked at once."""
    different = texts.unique()
    return texts.replace_strict(different, jsontext.quoted(different), return_dtype=pl.String)
