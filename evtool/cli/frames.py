"""A read model in the format that was asked for: a table for people, JSON, NDJSON, CSV or Parquet for programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from evtool.cli import render

if TYPE_CHECKING:
    import polars as pl

Format = Literal["table", "json", "ndjson", "csv", "parquet"]

FORMATS: dict[str, Format] = {
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".parquet": "parquet",
}
TABLE_ROWS_MAX = 50
_BAR_WIDTH = 24
_BLOCKS = " ▏▎▍▌▋▊▉█"


def write(frame: pl.DataFrame, kind: Format, target: BinaryIO, lineage: Mapping[str, Any] | None = None) -> None:
    """Write all rows as JSON (an array), NDJSON, CSV or Parquet. Decimals are texts in JSON, times RFC 3339.

    Parquet has the `lineage` in the metadata of the file.
    """
    if kind == "parquet":
        from evtool.projections.readmodel import encode

        target.write(encode(frame, lineage or {}))
        return
    text = io.BytesIO()  # by itself Polars would write to the file, and say less of a full disk
    spelled = _spelled(frame)
    if kind == "csv":
        _without_lists(spelled).write_csv(text)
    elif kind == "ndjson":
        spelled.write_ndjson(text)
    else:
        spelled.write_json(text)
        text.write(b"\n")
    target.write(text.getbuffer())


def show(frame: pl.DataFrame, keys: tuple[str, ...]) -> None:
    """A table on standard output: its beginning and its end where it is long, with bars on a terminal."""
    whole = len(frame)
    half = TABLE_ROWS_MAX // 2
    is_cut = whole > TABLE_ROWS_MAX
    shown = frame.head(half).vstack(frame.tail(half)) if is_cut else frame
    bars = _bars(frame, shown, keys) if sys.stdout.isatty() else None
    is_key = [name in keys for name in frame.columns]
    spelled = _spelled(shown).rows()
    texts = [[_cell(value, named) for value, named in zip(row, is_key, strict=True)] for row in spelled]
    if bars is not None:
        texts = [[*row, bar] for row, bar in zip(texts, bars, strict=True)]
    if is_cut:
        texts.insert(half, ["…"] * len(texts[0]))
    names = [*frame.columns, *([""] if bars is not None else [])]
    numbers = [not kind.is_numeric() for kind in frame.dtypes] + ([True] if bars is not None else [])
    render.print_columns(names, texts, is_text=numbers)
    if not whole:
        render.say("no rows: none of the events that were asked for is one that this projection counts")
    if is_cut:
        render.say(f"{whole:,} rows, of which {TABLE_ROWS_MAX} are shown; --format csv, json or parquet gives all")


def _spelled(frame: pl.DataFrame) -> pl.DataFrame:
    """Decimals and times as texts, exactly; numbers and texts as they are."""
    import polars as pl

    def spell(name: str, kind: pl.DataType) -> pl.Expr:
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
        return column.cast(pl.String) if kind.is_decimal() or kind == pl.Date else column

    return frame.select(spell(name, kind) for name, kind in frame.schema.items())


def _without_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists, which CSV does not have, as JSON."""
    import polars as pl

    def as_json(column: pl.Series) -> pl.Series:
        lists = column.to_list()
        texts = [None if one is None else json.dumps(one, ensure_ascii=False, default=str) for one in lists]
        return pl.Series(column.name, texts, dtype=pl.String)

    return frame.with_columns(as_json(frame[name]) for name, kind in frame.schema.items() if kind.is_nested())


def _cell(value: Any, is_key: bool) -> str:
    """A value as people read it; of keys, which may be years, no digits are set apart."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if is_key else f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return render.printable(str(value))


def _bars(frame: pl.DataFrame, shown: pl.DataFrame, keys: tuple[str, ...]) -> list[str] | None:
    """A bar for the first measure of each row, where rows have one key and the measure is no ratio of signs."""
    measures = [name for name, kind in frame.schema.items() if name not in keys and kind.is_numeric()]
    if len(frame) < 2 or len(keys) != 1 or not measures or frame[measures[0]].null_count() == len(frame):
        return None
    values = [float(value or 0) for value in shown[measures[0]]]
    largest = float(frame[measures[0]].max() or 0)  # type: ignore[arg-type]
    if largest <= 0 or min(values) < 0:
        return None
    return [_bar(value / largest) for value in values]


def _bar(share: float) -> str:
    eighths = round(share * _BAR_WIDTH * 8)
    return _BLOCKS[-1] * (eighths // 8) + _BLOCKS[eighths % 8].strip()
