"""The finished table of a projection, in Parquet: the same table gives the same bytes, and readers see it whole.

    <name>.parquet                              one file, or a link to the folder of the parts:
    .<name>-<digest>/<time>_month=2026-01/part.parquet
    <name>.lineage.json                         where it comes from

A table of more than ROWS_PER_FILE_MAX rows that is sorted by a time in its first column is partitioned by month,
as Hive does; every other one is a file. The parts of one result are in one folder, whose name is their digest;
those that did not change are the same files as before, by another name. Either form stands under the same name,
which is renamed over what was there: no reader of it meets half of one form, or both, whatever ended the writer.

The bytes depend on the table, on the lineage in it, and on the version of pyarrow. Moments are written in the unit
that they have, as UTC: those of a read model are microseconds, which every reader takes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from evtool.errors import DerivedDamagedError, ProjectionError, StorageError
from evtool.files import Files
from evtool.projections.lineage import (
    LINEAGE_KEY,
    PART_FILE,
    Lineage,
    announce,
    beside,
    canonical,
    confirm,
    digest_of_parts,
)

ROWS_PER_FILE_MAX = 2_000_000
ROW_GROUP_ROWS = 131_072

_PLAIN = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Date, pl.Datetime, pl.Time, pl.Null)
_NO_PERIOD = "__HIVE_DEFAULT_PARTITION__"
_WRITER = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "data_page_size": 1 << 20,
    "dictionary_pagesize_limit": 1 << 20,
    "write_batch_size": 1024,
    "write_statistics": True,
    "write_page_index": True,
    "write_page_checksum": True,
    "store_schema": False,  # what Parquet's own types do not say is nothing that a read model has
}


@dataclass(frozen=True)
class Written:
    """A read model that was written, and its SHA-256: of partitioned ones, over the list of the parts."""

    path: Path
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class _Part:
    """One encoded file: of the whole table, or of one period of it, at a path below the folder of parts."""

    path: str
    data: memoryview
    rows: int
    sha256: str

    def described(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "bytes": len(self.data), "rows": self.rows}


def place(folder: Path, name: str) -> Path:
    """The read model of this name, in either form."""
    return folder / f"{name}.parquet"


def write(
    files: Files,
    folder: Path,
    frame: pl.DataFrame,
    lineage: Lineage,
    rows_per_file_max: int = ROWS_PER_FILE_MAX,
) -> Written:
    """Put `frame` in the place of the read model in `folder`, with its lineage.

    Files that have exactly these bytes already stay as they are. Raises StorageError, and ProjectionError for a
    type that Parquet does not have.
    """
    name = lineage.projection
    for column, kind in frame.schema.items():
        if not _is_plain(kind):
            raise ProjectionError(
                f"column {column} of {name} is of type {kind}, which is none of a read model",
                "Numbers, decimals, texts, truth values, dates, times, and lists of them are.",
            )
    files.make_folder(folder)
    periods = _periods(frame) if frame.height > rows_per_file_max else None
    if periods is None:
        part = _encoded(place(folder, name).name, frame, lineage.of_file())
        return _write_file(files, folder, name, part, lineage)
    parts = [_encoded(f"{period}/{PART_FILE}", rows, lineage.of_part()) for period, rows in periods]
    return _write_parts(files, folder, name, parts, lineage)


def rows(folder: Path, name: str) -> int | None:
    """How many rows the read model has, by what stands beside it; None if there is none."""
    described = [each["output"]["rows"] for each in beside(Files(), folder, name) if each]
    return described[0] if described and place(folder, name).exists() else None


def sha256(folder: Path, name: str) -> str | None:
    """The SHA-256 of the read model, by what stands beside it; None if there is none."""
    described = [str(each["output"]["sha256"]) for each in beside(Files(), folder, name) if each]
    return described[0] if described and place(folder, name).exists() else None


def read(folder: Path, name: str) -> tuple[pl.DataFrame, Lineage] | None:
    """The read model as it was written last; None if there is none, or nothing beside it says what it is.

    Raises DerivedDamagedError when its bytes are not those that were written.
    """
    files = Files()
    described = beside(files, folder, name)
    while described:
        for each in described:
            try:
                frame = _load(files, folder, each["output"]) if each else None
                if frame is not None:
                    return frame, Lineage.of(each)
            except (KeyError, TypeError, ValueError):  # it is not what was written beside it
                continue
        before, described = described, beside(files, folder, name)
        if described == before:  # nobody has changed it meanwhile
            raise DerivedDamagedError(
                f"{place(folder, name)} is not what was written there",
                "The log can give it again: `evtool verify` says by which command.",
            )
    return None


def _is_plain(kind: pl.DataType) -> bool:
    """Whether all formats of read models have a type, Parquet first of all, which has no integers of 128 bits."""
    if isinstance(kind, pl.List):
        return _is_plain(kind.inner)  # type: ignore[arg-type]
    return kind in _PLAIN or (kind.is_numeric() and kind not in (pl.Int128, pl.UInt128))


def _periods(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]] | None:
    """The rows of each month of the first column; None if it is no time, or does not come in order."""
    column = frame.columns[0]
    if frame[column].dtype not in (pl.Date, pl.Datetime):
        return None
    runs = frame[column].dt.truncate("1mo").rle().struct.unnest()
    months = runs["value"].dt.strftime("%Y-%m")
    if months.n_unique() != len(months):
        return None
    label = f"{column}_month"
    while label in frame.columns:
        label += "_"
    ends = runs["len"].cum_sum().to_list()
    return [
        (f"{label}={month or _NO_PERIOD}", frame.slice(end - rows, rows))
        for month, rows, end in zip(months, runs["len"], ends, strict=True)
    ]


def encode(frame: pl.DataFrame, lineage: Mapping[str, Any]) -> memoryview:
    """A table as Parquet, with what it was made from in the file's metadata."""
    import pyarrow as pa  # which an answer that is there needs not
    import pyarrow.parquet as pq

    texts = pl.col(pl.Categorical, pl.Enum).cast(pl.String)
    # One chunk: where chunks end, pages would end.
    table = frame.with_columns(texts).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **_WRITER) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata({LINEAGE_KEY: canonical(lineage)})
    return memoryview(sink.getvalue())


def _encoded(path: str, frame: pl.DataFrame, lineage: Mapping[str, Any]) -> _Part:
    data = encode(frame, lineage)
    return _Part(path, data, frame.height, hashlib.sha256(data).hexdigest())


def _write_file(files: Files, folder: Path, name: str, part: _Part, lineage: Lineage) -> Written:
    target = place(folder, name)

    def put() -> None:
        if not _has(files, target, part):
            files.write_whole(target, part.data)

    _replace(files, folder, name, lineage.beside(part.described()), put, keep=None)
    return Written(target, part.sha256, len(part.data), part.rows)


def _write_parts(files: Files, folder: Path, name: str, parts: Sequence[_Part], lineage: Lineage) -> Written:
    target = place(folder, name)
    sha256 = digest_of_parts([(part.path, part.sha256) for part in parts])
    inside = folder / f".{name}-{sha256[:16]}"
    written = Written(target, sha256, sum(len(part.data) for part in parts), sum(part.rows for part in parts))
    for part in parts:
        _put_part(files, target / part.path, inside / part.path, part)
    output = {
        "path": target.name,
        "sha256": sha256,
        "bytes": written.bytes,
        "rows": written.rows,
        "folder": inside.name,
        "parts": [part.described() for part in parts],
    }
    _replace(files, folder, name, lineage.beside(output), lambda: files.point(target, inside.name), keep=inside)
    return written


def _put_part(files: Files, before: Path, path: Path, part: _Part) -> None:
    """Let `path` be this part, if it can by another name of the file that it was before."""
    if _has(files, path, part):
        return
    files.make_folder(path.parent)
    if _has(files, before, part):
        try:
            files.link(before.resolve(), path)
        except OSError:  # a file system without links, or something damaged is there
            files.write_whole(path, part.data)
        files.sync_folder(path.parent)
    else:
        files.write_whole(path, part.data)


def _has(files: Files, path: Path, part: _Part) -> bool:
    if not path.is_file() or files.size(path) != len(part.data):
        return False
    return hashlib.sha256(files.map(path)).hexdigest() == part.sha256


def _replace(
    files: Files, folder: Path, name: str, said: Mapping[str, Any], put: Callable[[], None], keep: Path | None
) -> None:
    """Change the read model by `put` to what is `said`, then remove what other parts there are."""
    announce(files, folder, name, said)
    put()
    confirm(files, folder, name)
    of_parts = re.compile(rf"\.{re.escape(name)}-[0-9a-f]{{16}}")
    for path in folder.iterdir():
        if of_parts.fullmatch(path.name) and path != keep:
            files.remove_folder(path)


def _load(files: Files, folder: Path, output: Mapping[str, Any]) -> pl.DataFrame | None:
    """The table that is described; None if the files are others."""
    inside = folder / str(output.get("folder", ""))
    frames = []
    for part in output.get("parts", [output]):
        try:
            data = files.read_whole(inside / part["path"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StorageError as error:
            if isinstance(error.__cause__, IsADirectoryError):  # the other form
                return None
            raise
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            return None
        frames.append(pl.read_parquet(data))
    return pl.concat(frames)
