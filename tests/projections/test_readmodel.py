"""Read models in Parquet: the same bytes for the same table, whole for readers, with where they come from."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from faults import Fault, FaultyFiles, Killed, flip
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.errors import DerivedDamagedError, InputError, ProjectionError
from evtool.files import Files
from evtool.projections.lineage import Lineage, read_lineage
from evtool.projections.readmodel import Written, read, rows, write

LINEAGE = Lineage(
    projection="orders",
    version=2,
    definition_hash="d" * 32,
    parameters={"grain": "day", "steps": ["ä", "b"]},
    position=70,
    events=50,
    failed_casts={"CAST(a AS DATE)": 2, "CAST(b AS BIGINT)": 1},
    log_id="one log",
    chain=2**64 - 1,
    recorded_at=1_767_225_600_000_000_001,
    input_digest="i" * 32,
)
ROWS = 20_000


def table(height: int, start: datetime = datetime(2025, 11, 30, tzinfo=UTC)) -> pl.DataFrame:
    """All types of read models, an hour a row, with nulls."""
    number = pl.int_range(height, dtype=pl.Int64)
    hours = [start + timedelta(hours=row) for row in range(height)]
    frame = pl.DataFrame({"hour": pl.Series(hours, dtype=pl.Datetime("us", "UTC"))})
    return frame.with_columns(
        day=pl.col("hour").dt.date(),
        product=pl.when(number % 7 > 0).then(pl.format("product {}", number % 50)),
        revenue=pl.when(number % 5 > 0).then(number * Decimal("1.07")).cast(pl.Decimal(38, 2)),
        orders=number * 1_000_003,
        share=pl.when(number % 3 > 0).then(number / 7),
        known=pl.when(number % 4 > 0).then(number % 2 == 0),
        reached=pl.when(number % 6 > 0).then(pl.concat_list(number, number % 3)),
    )


def put(folder: Path, frame: pl.DataFrame, rows_max: int = 10**6, files: Files | None = None) -> Written:
    return write(files or Files(), folder, frame, LINEAGE, rows_max)


def files_of(folder: Path) -> dict[str, int]:
    """All files below a folder and their inodes; none of them is temporary."""
    found = {
        path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*") if path.is_file()
    }
    assert not [name for name in found if name.endswith((".tmp", ".next"))]
    return found


def assert_peers_read(path: Path, frame: pl.DataFrame) -> None:
    assert pl.read_parquet(path, hive_partitioning=False).equals(frame)
    assert pl.from_arrow(pq.read_table(path)).select(frame.columns).equals(frame)  # type: ignore[union-attr]
    source = f"{path}/*/*.parquet" if path.is_dir() else str(path)
    names = ", ".join(frame.columns)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        found = connection.sql(f"select {names} from read_parquet('{source}') order by hour").to_arrow_table()
    assert pl.DataFrame(found).cast(dict(frame.schema)).equals(frame)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, bytes]:
    """A table of one chunk, and its file. The long texts outgrow a dictionary, where a chunk may end too."""
    frame = table(ROWS).with_columns(text=pl.format("{}{}", pl.int_range(ROWS), pl.lit("x" * 200))).rechunk()
    return frame, put(tmp_path_factory.mktemp("whole"), frame).path.read_bytes()


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, ROWS), max_size=6))
def test_any_chunking_gives_the_same_bytes(
    whole: tuple[pl.DataFrame, bytes], tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    frame, expected = whole
    pieces = [frame.slice(start, end - start) for start, end in pairwise([0, *sorted(cuts), ROWS])]
    chunked = pl.concat(pieces, rechunk=False)
    assert put(tmp_path_factory.mktemp("chunked"), chunked).path.read_bytes() == expected


@pytest.mark.parametrize("height", [0, 1, 3000])
def test_peers_read_one_file(tmp_path: Path, height: int) -> None:
    written = put(tmp_path, table(height))
    assert written.path == tmp_path / "orders.parquet"
    assert (written.rows, written.bytes) == (height, written.path.stat().st_size)
    assert_peers_read(written.path, table(height))
    found = read(tmp_path, "orders")
    assert found is not None
    assert found[0].equals(table(height))
    assert found[1] == LINEAGE
    assert rows(tmp_path, "orders") == height


@pytest.mark.parametrize("leading", ["hour", "day"])
def test_peers_read_parts(tmp_path: Path, leading: str) -> None:
    frame = table(3000).select(leading, pl.exclude(leading))
    written = put(tmp_path, frame, rows_max=2999)
    parts = sorted(path.parent.name for path in written.path.glob("*/part.parquet"))
    assert parts == [
        f"{leading}_month={month}" for month in ("2025-11", "2025-12", "2026-01", "2026-02", "2026-03", "2026-04")
    ]
    assert_peers_read(written.path, frame)
    found = read(tmp_path, "orders")
    assert found is not None
    assert found[0].equals(frame)
    assert found[1] == LINEAGE
    assert rows(tmp_path, "orders") == written.rows == 3000


def test_a_month_that_is_null_and_a_column_of_the_same_name(tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": [None, date(2026, 1, 1), date(2026, 2, 1)], "day_month": ["x", "y", None]})
    written = put(tmp_path, frame, rows_max=1)
    assert (written.path / "day_month_=__HIVE_DEFAULT_PARTITION__" / "part.parquet").exists()
    assert pl.read_parquet(written.path, hive_partitioning=False).sort("day").equals(frame)
    found = read(tmp_path, "orders")
    assert found is not None
    assert found[0].equals(frame)


@pytest.mark.parametrize("frame", [table(3000).reverse().sort("share"), table(3000).select("orders")])
def test_a_table_that_is_not_in_order_of_time_is_one_file(tmp_path: Path, frame: pl.DataFrame) -> None:
    assert put(tmp_path, frame, rows_max=10).path.is_file()


@pytest.mark.parametrize("kind", [pl.Int128, pl.Duration("us")])
def test_a_type_that_parquet_does_not_have_is_refused_in_a_sentence(tmp_path: Path, kind: pl.DataType) -> None:
    with pytest.raises(ProjectionError, match="column n of orders is of type"):
        put(tmp_path, pl.DataFrame({"n": pl.Series([1], dtype=kind)}))


def test_logs_of_the_same_events_give_the_same_bytes(tmp_path: Path) -> None:
    other = replace(LINEAGE, log_id="another", chain=7, recorded_at=None, input_digest=None)
    for rows_max in (10, 10**6):
        one = write(Files(), tmp_path / "one", table(99), LINEAGE, rows_max)
        two = write(Files(), tmp_path / "two", table(99), other, rows_max)
        assert one.sha256 == two.sha256
    metadata = pq.read_metadata(two.path).metadata
    assert list(metadata) == [b"evtool.lineage"]
    assert metadata[b"evtool.lineage"].decode() == (
        '{"definition_hash":"' + "d" * 32 + '","events":50,'
        '"failed_casts":{"CAST(a AS DATE)":2,"CAST(b AS BIGINT)":1},"format":1,'
        '"parameters":{"grain":"day","steps":["ä","b"]},"position":70,"projection":"orders","version":2}'
    )


def test_a_lineage_from_before_casts_had_names_is_read(tmp_path: Path) -> None:
    put(tmp_path, table(9))
    path = tmp_path / "orders.lineage.json"
    said = json.loads(path.read_text())
    del said["checksum"]
    for before, after in ((3, {"": 3}), (0, {})):
        path.write_text(json.dumps(said | {"failed_casts": before}))
        found = read(tmp_path, "orders")
        assert found is not None
        assert found[1] == replace(LINEAGE, failed_casts=after)
    for wrong in ("x", [1], {"a": "b"}, None, True):
        path.write_text(json.dumps(said | {"failed_casts": wrong}))
        with pytest.raises(DerivedDamagedError):
            read(tmp_path, "orders")


def test_what_has_these_bytes_already_stays_and_what_stands_beside_it_is_new(tmp_path: Path) -> None:
    put(tmp_path, table(99))
    before = files_of(tmp_path)
    other = replace(LINEAGE, log_id="another")
    write(Files(), tmp_path, table(99), other)
    after = files_of(tmp_path)
    assert before["orders.parquet"] == after["orders.parquet"]
    found = read(tmp_path, "orders")
    assert found is not None
    assert found[1] == other


@pytest.mark.parametrize("links", [True, False])
def test_parts_whose_rows_stay_are_not_written_anew(tmp_path: Path, links: bool) -> None:
    put(tmp_path, table(3000), rows_max=10)
    files = FaultyFiles() if links else FaultyFiles(Fault(1, error=errno.EPERM, kinds=("link",)))
    longer = table(3100)
    write(files, tmp_path, longer, replace(LINEAGE, position=71), 10)
    written = [name for kind, name in files.calls if kind == "write" and name == "part.parquet.tmp"]
    assert len(written) == (1 if links else 6)
    assert_peers_read(tmp_path / "orders.parquet", longer)
    assert read_lineage(tmp_path / "orders.parquet").matches
    assert len(files_of(tmp_path)) == 6 + 1  # none of before


FORMS = {
    "file": (table(200), 10**6),
    "other file": (table(201), 10**6),
    "parts": (table(900), 10),
    "other parts": (table(950), 10),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [("file", "other file"), ("file", "parts"), ("parts", "file"), ("parts", "other parts")],
)
@pytest.mark.parametrize("done", [0, 0.5, 1])
def test_an_end_at_any_call_leaves_one_whole_form(tmp_path: Path, before: str, after: str, done: float) -> None:
    old, new = FORMS[before], FORMS[after]
    put(tmp_path / "start", *old)
    shutil.copytree(tmp_path / "start", tmp_path / "counted", symlinks=True)
    counting = FaultyFiles()
    put(tmp_path / "counted", *new, counting)
    kept = set(files_of(tmp_path / "counted"))
    for call in range(1, len(counting.calls) + 1):
        folder = tmp_path / str(call)
        shutil.copytree(tmp_path / "start", folder, symlinks=True)
        with pytest.raises(Killed):
            put(folder, *new, FaultyFiles(Fault(call, done)))
        found = read(folder, "orders")
        assert found is not None
        assert found[0].equals(old[0]) or found[0].equals(new[0])
        outside = pl.read_parquet(folder / "orders.parquet", hive_partitioning=False)
        assert outside.equals(old[0]) or outside.equals(new[0])
        assert read_lineage(folder / "orders.parquet").matches
        put(folder, *new)
        assert set(files_of(folder)) == kept


def test_a_reader_meets_one_whole_form_while_they_change(tmp_path: Path) -> None:
    put(tmp_path, *FORMS["file"])
    done = threading.Event()

    def change() -> None:
        for form in [*FORMS] * 4:
            put(tmp_path, *FORMS[form])
        done.set()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        while not done.is_set():
            found = read(tmp_path, "orders")
            assert found is not None
            assert any(found[0].equals(frame) for frame, _ in FORMS.values())
    finally:
        writer.join()


@pytest.mark.parametrize("form", ["file", "parts"])
def test_a_flipped_bit_is_found(tmp_path: Path, form: str) -> None:
    frame, rows_max = FORMS[form]
    path = put(tmp_path, frame, rows_max=rows_max).path
    damaged = path if form == "file" else path / "hour_month=2025-12" / "part.parquet"
    for byte in range(4, 2000, 111):
        flip(damaged, byte)
        assert read_lineage(path).matches is False
        assert read_lineage(damaged).matches is False
        with pytest.raises(DerivedDamagedError):
            read(tmp_path, "orders")
        flip(damaged, byte)
    flip(damaged, 1000)
    put(tmp_path, frame, rows_max=rows_max)
    assert read_lineage(damaged).matches
    assert read(tmp_path, "orders") is not None


def test_a_change_of_anything_that_is_said_beside_a_read_model_is_found(tmp_path: Path) -> None:
    written = put(tmp_path, table(99))
    path = tmp_path / "orders.lineage.json"
    said = json.loads(path.read_text())
    inside = read_lineage(written.path).lineage
    assert inside.keys() == said.keys() - {"checksum"}
    for name, value in said.items():
        changes = [value + 1] if isinstance(value, int) else [f"{value}x", "\ud800", None]
        for change in changes:
            if (name, change) != ("checksum", None):
                path.write_text(json.dumps(said | {name: change}))
                assert read_lineage(written.path).matches is False, name
                with pytest.raises(DerivedDamagedError):
                    read(tmp_path, "orders")
    path.write_text(json.dumps(said))
    assert read(tmp_path, "orders") is not None


def test_the_lineage_of_a_file_a_folder_and_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = put(tmp_path, table(99))
    found = read_lineage(written.path)
    assert (found.sha256, found.matches) == (written.sha256, True)
    assert found.lineage["log_id"] == "one log"
    assert found.lineage["recorded_at"] == "2026-01-01T00:00:00.000000001Z"
    assert found.lineage["output"] == {
        "path": "orders.parquet",
        "sha256": written.sha256,
        "bytes": written.bytes,
        "rows": 99,
    }
    written = put(tmp_path, table(900), rows_max=10)
    assert read_lineage(written.path).sha256 == written.sha256
    monkeypatch.chdir(written.path / "hour_month=2026-01")
    part = read_lineage(Path("part.parquet"))
    assert part.matches
    assert part.lineage["position"] == 70
    (written.path / "hour_month=2026-01" / "part.parquet").unlink()
    assert read_lineage(written.path).matches is False


def test_a_file_without_anything_beside_it_says_what_it_knows(tmp_path: Path) -> None:
    path = put(tmp_path, table(99)).path
    for damage in ("{", "[]", "{}", '{"format": 2, "output": {}}'):
        (tmp_path / "orders.lineage.json").write_text(damage)
        assert read_lineage(path).matches is False
        with pytest.raises(DerivedDamagedError):
            read(tmp_path, "orders")
    (tmp_path / "orders.lineage.json").unlink()
    found = read_lineage(path)
    assert found.matches is None
    assert found.lineage == json.loads(pq.read_metadata(path).metadata[b"evtool.lineage"])
    assert read(tmp_path, "orders") is None
    assert rows(tmp_path, "orders") is None


def test_what_has_no_lineage_is_refused_in_a_sentence(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.parquet", tmp_path / "text.parquet"
    table(3).write_parquet(foreign)
    text.write_text("no Parquet at all, but long enough to be one")
    for path, message in (
        (foreign, "says nothing of its lineage"),
        (text, "is no Parquet file"),
        (tmp_path / "absent.parquet", "there is no file"),
        (text / "below", "there is no file"),
        (tmp_path, "not the folder of a read model's parts"),
    ):
        with pytest.raises(InputError, match=message):
            read_lineage(path)
