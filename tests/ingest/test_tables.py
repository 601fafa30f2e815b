"""CSV and Parquet: cells keep their exact value, bad rows are dead letters, and any size streams."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evtool
from evtool.config import IngestConfig
from evtool.errors import InputError
from evtool.ingest import tables
from evtool.ingest.pipeline import Ingest, Summary

ENVELOPE = {"event_id": "1", "stream_id": "u", "event_type": "Seen"}
BERLIN = {"timezone": "Europe/Berlin"}


def ingested(
    folder: Path, path: Path, **options: Any
) -> tuple[Summary, list[dict[str, Any]], list[dict[str, Any]]]:
    """What was said, the events and the dead letters."""
    with evtool.open(folder / "log", create=True) as log:
        summary = Ingest(log, [str(path)], IngestConfig(**({"source": "s"} | options))).run()
        events = [json.loads(text) for block in log.replay() for text in block.splitlines()]
    letters = folder / "log" / "dead-letters" / "dead-letters.ndjson"
    return (
        summary,
        events,
        [json.loads(text) for text in letters.read_bytes().splitlines()] if letters.exists() else [],
    )


def from_csv(folder: Path, text: str | bytes, **options: Any) -> tuple[Summary, list[Any], list[Any]]:
    (folder / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return ingested(folder, folder / "t.csv", format="csv", **options)


def from_parquet(folder: Path, columns: dict[str, Any], **options: Any) -> tuple[Summary, list[Any], list[Any]]:
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=2)
    return ingested(folder, folder / "t.parquet", format="parquet", **options)


def test_columns_of_the_envelope_s_names_are_its_fields_and_the_others_the_payload(tmp_path: Path):
    _, (event,), letters = from_csv(
        tmp_path,
        "event_id,stream_id,event_type,timestamp,stream_version,schema_version,metadata,amount,note\r\n"
        '1,u,Bought,2026-01-01T00:00:00Z,1,2,"{""a"":1.0}",1.50,"say ""yes"", é"\r\n',
    )
    assert letters == []
    assert event["timestamp"] == "2026-01-01T00:00:00.000000000Z"
    assert (event["stream_version"], event["schema_version"], event["metadata"]) == (1, 2, {"a": 1.0})
    assert event["payload"] == {"amount": "1.50", "note": 'say "yes", é'}


def test_columns_are_mapped_by_their_names(tmp_path: Path):
    fields = {
        "event_id": "Order.ID",
        "stream_id": ["customer", "session"],
        "event_type": {"constant": "Bought"},
        "timestamp": "at",
    }
    text = "Order.ID,customer,session,at,sum\n1,c,s,1767225600,2\n2,,s,1767225600.5,3\n3,,s,,4\n"
    _, events, letters = from_csv(tmp_path, text, fields=fields)
    assert letters == []
    assert [event["stream_id"] for event in events] == ["c", "s", "s"]
    assert [event["timestamp"][:22] for event in events[:2]] == [
        "2026-01-01T00:00:00.00",
        "2026-01-01T00:00:00.50",
    ]
    assert events[2]["timestamp"] == events[2]["recorded_at"], "an empty cell is no time"
    assert [event["payload"] for event in events] == [
        {"session": "s", "sum": "2"},
        {"session": "s", "sum": "3"},
        {"session": "s", "sum": "4"},
    ]


def test_the_payload_may_be_the_whole_row_or_a_column_that_holds_json(tmp_path: Path):
    text = 'event_id,stream_id,event_type,body,n\n1,u,t,"{""a"": 1.10}",x\n'
    _, (event,), _ = from_csv(tmp_path, text, fields={"payload": "."})
    assert event["payload"] == {**ENVELOPE, "event_type": "t", "body": '{"a": 1.10}', "n": "x"}
    _, events, letters = from_csv(
        tmp_path, text.replace("1,u", "2,u") + "3,u,t,{,x\n4,u,t,[],x\n", fields={"payload": "body"}
    )
    assert (events[1]["payload"], events[1]["metadata"]) == ({"a": 1.10}, {"n": "x"})
    assert [letter["reason"] for letter in letters] == ["invalid_json", "wrong_type"]


def test_bad_rows_are_dead_letters_with_their_line(tmp_path: Path):
    text = (
        b"event_id,stream_id,event_type,n\n"
        b"1,u,t,1\n"
        b"2,u,t\n"  # 3: too short
        b"3,u,t,1,1\n"  # 4: too long
        b"\n"
        b"4,,t,1\n"  # 6: without a stream
        b'5,"u"x,t,1\n'  # 7: text behind a quote
        b"6,u\xff,t,1\n"  # 8: no UTF-8
        b"7,u,t,1\n"
        b'8,u,t,"never ends'
    )
    summary, events, letters = from_csv(tmp_path, text)
    assert [event["event_id"] for event in events] == ["1", "7"]
    assert [(letter["line"], letter["reason"]) for letter in letters] == [
        (3, "row_malformed"),
        (4, "row_malformed"),
        (6, "missing_field"),
        (7, "row_malformed"),
        (8, "bad_utf8"),
        (10, "row_malformed"),
    ]
    assert json.loads(letters[0]["raw"]) == ["2", "u", "t"]
    assert json.loads(letters[3]["raw"]) == '5,"u"x,t,1\n'
    assert summary.dead_letters == 6


@pytest.mark.parametrize(
    ("text", "word"), [(b"a,a\n1,2\n", "two columns 'a'"), (b'"a\n', "header"), (b"a\xff\n1\n", "not UTF-8")]
)
def test_a_header_that_makes_no_sense_is_an_error(tmp_path: Path, text: bytes, word: str):
    with pytest.raises(InputError, match=word):
        from_csv(tmp_path, text)


@pytest.mark.parametrize("text", ["", "\ufeff", "event_id,stream_id\n"])
def test_a_table_without_rows_has_no_events(tmp_path: Path, text: str):
    summary, events, letters = from_csv(tmp_path, text)
    assert (summary.accepted, events, letters) == (0, [], [])


def test_a_byte_order_mark_and_gzip_are_looked_through(tmp_path: Path):
    text = "\ufeffevent_id,stream_id,event_type\n1,u,t\n".encode()
    _, events, _ = from_csv(tmp_path, gzip.compress(text))
    assert [event["event_id"] for event in events] == ["1"]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)


@settings(max_examples=150)
@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=20),
    ending=st.sampled_from(["\n", "\r\n"]),
    cut=st.integers(1, 50),
)
def test_cells_come_out_as_they_were_wherever_blocks_are_cut(rows: list[list[str]], ending: str, cut: int):
    file = io.StringIO()
    csv.writer(file, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    data = file.getvalue().encode()
    blocks = (data[at : at + cut] for at in range(0, len(data), cut))
    found = b"".join(tables.csv_lines(blocks, "t.csv"))
    assert [json.loads(line) for line in found.split(b"\n")[1:-1]] == [
        dict(zip("abc", row, strict=True)) for row in rows
    ]


def test_parquet_keeps_the_exact_value_of_every_kind_of_cell(tmp_path: Path):
    moment = datetime(2026, 1, 31, 12, 30, 0, 123456, tzinfo=UTC)
    columns = {
        "event_id": pa.array([1, 2]),
        "stream_id": pa.array(["u", "v"]).dictionary_encode(),
        "event_type": pa.array(["t", "t"]),
        "timestamp": pa.array([moment, None], pa.timestamp("us", "Europe/Berlin")),
        "decimal": pa.array([Decimal("12.50"), Decimal("-0.01")], pa.decimal128(38, 2)),
        "wide": pa.array([Decimal(10**60), None], pa.decimal256(70, 0)),
        "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
        "float": pa.array([0.1, -1e300]),
        "short": pa.array([0.1, 16777216.0], pa.float32()),
        "truth": pa.array([True, None]),
        "text": pa.array(['q"\\\n\u2028é', ""], pa.large_string()),
        "bytes": pa.array([b"\x00\xff", None], pa.binary(2)),
        "local": pa.array([datetime(2026, 7, 1, 1, 2, 3), None], pa.timestamp("ms")),
        "far": pa.array([datetime(9999, 12, 31), datetime(1, 1, 1)], pa.timestamp("s", "UTC")),
        "day": pa.array([date(2026, 1, 31), None]),
        "clock": pa.array([time(1, 2, 3, 4), None]),
        "span": pa.array([timedelta(seconds=3), None], pa.duration("ms")),
        "list": pa.array([[1, None], []]),
        "fixed": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
        "struct": pa.array([{"a": "x", "b": [{"c": 1.5}]}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "null": pa.nulls(2),
    }
    _, events, letters = from_parquet(tmp_path, columns)
    assert letters == []
    assert [event["event_id"] for event in events] == ["1", "2"]
    assert [event["stream_id"] for event in events] == ["u", "v"]
    assert events[0]["timestamp"] == "2026-01-31T12:30:00.123456000Z"
    assert events[1]["timestamp"] == events[1]["recorded_at"]
    with evtool.open(tmp_path / "log", read_only=True) as log:
        texts = [text for frame in log.scan(columns=["payload"]) for (text,) in frame.rows()]
    assert texts[0] == (
        f'{{"decimal":12.50,"wide":{10**60},"unsigned":18446744073709551615,"float":0.1,"short":0.1,"truth":true,'
        '"text":"q\\"\\\\\\n\u2028é","bytes":"AP8=","local":"2026-07-01T01:02:03.000","far":"9999-12-31T00:00:00.000Z",'
        '"day":"2026-01-31","clock":"01:02:03.000004","span":3000,"list":[1,null],"fixed":[1,2],'
        '"struct":{"a":"x","b":[{"c":1.5}]},"map":[{"key":"k","value":1}],"null":null}'
    )
    second = json.loads(texts[1], parse_float=Decimal)
    assert (second["decimal"], second["float"], second["far"]) == (
        Decimal("-0.01"),
        Decimal("-1e+300"),
        "0001-01-01T00:00:00.000Z",
    )
    empty = ("wide", "truth", "bytes", "local", "day", "clock", "span", "fixed", "struct", "map", "null")
    assert {name for name, value in second.items() if value is None} == set(empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_no_word_for_are_dead_letters(tmp_path: Path, value: float):
    columns = {
        "event_id": ["1", "2", "3"],
        "stream_id": ["u"] * 3,
        "event_type": ["t"] * 3,
        "n": [1.5, value, 2.5],
    }
    _, events, letters = from_parquet(tmp_path, columns)
    assert [event["payload"]["n"] for event in events] == [1.5, 2.5]
    assert [(letter["line"], letter["reason"]) for letter in letters] == [(2, "invalid_json")]


def test_a_path_may_lead_into_a_column(tmp_path: Path):
    columns = {"event_id": [1], "user": [{"id": 7, "name": "n"}], "event_type": ["t"]}
    _, (event,), _ = from_parquet(tmp_path, columns, fields={"stream_id": "user.id"})
    assert (event["stream_id"], event["payload"]) == ("7", {"user": {"id": 7, "name": "n"}})


def test_a_column_of_local_times_needs_a_zone(tmp_path: Path):
    columns = {name: [value] for name, value in ENVELOPE.items()} | {"timestamp": [datetime(2026, 7, 1, 12)]}
    _, _, letters = from_parquet(tmp_path, columns)
    assert [letter["reason"] for letter in letters] == ["timestamp_without_offset"]
    _, (event,), _ = from_parquet(tmp_path, columns, **BERLIN)
    assert event["timestamp"] == "2026-07-01T10:00:00.000000000Z"


def test_row_groups_come_one_after_the_other(tmp_path: Path):
    count = 30_000
    columns = {"event_id": range(count), "stream_id": ["u"] * count, "event_type": ["t"] * count}
    pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), tmp_path / "t.parquet", row_group_size=7000)
    summary, events, _ = ingested(tmp_path, tmp_path / "t.parquet", format="parquet")
    assert summary.accepted == count
    assert [int(event["event_id"]) for event in events] == list(range(count))


def test_what_is_no_parquet_is_an_error(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        ingested(tmp_path, tmp_path / "t.parquet", format="parquet")
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="two columns 'a'"):
        ingested(tmp_path, tmp_path / "t.parquet", format="parquet")
