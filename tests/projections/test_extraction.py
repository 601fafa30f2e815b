"""Values at paths of JSON objects, held against an oracle that reads them byte by byte, and against DuckDB."""

import random
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_oracle import expected, written

from evtool.projections import flat
from evtool.projections.extraction import Steps, extract, read

KEYS = (
    "user_id",
    "id",
    "a",
    "",
    "ü",
    "日本",
    "a b",
    "x:",
    '"user_id":',
    "back\\slash",
    "sl/ash",
    "}{",
    ":",
    "0",
    "\t",
    "user",
)
BATCH = 100  # enough texts at once for the fast way


TEXTS = st.one_of(
    st.sampled_from(
        [*KEYS, '"', "\\", '\\"', '{"user_id":"x"}', '"user_id":"v"', "{", "}", "null", "\\u0041", "[", ","]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.integers(0, 1100).map(lambda size: "v" * size),
)
NUMBERS = st.sampled_from(
    [b"0", b"-0", b"1.10", b"1e5", b"1E+400", b"-12.5e-3", b"123456789012345678901234567890", b"7"]
)
LEAVES = st.one_of(TEXTS, NUMBERS, st.sampled_from([b"null", b"true", b"false"]))
NAMES = st.one_of(
    st.sampled_from(KEYS), st.sampled_from(["user_id", "a"]), st.text(max_size=4).filter(str.isprintable)
)


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(NAMES, values), max_size=4).map(tuple)


TREES = st.recursive(LEAVES, lambda inner: st.one_of(objects(inner), st.lists(inner, max_size=3)), max_leaves=6)
STEPS = st.one_of(st.sampled_from(["user_id", "a", "id", "user"]), NAMES, st.integers(-2, 3))
PATHS = st.lists(st.lists(STEPS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


@st.composite
def columns(draw: st.DrawFn, null: bool = True) -> list[str | None]:
    """Texts of the same few trees in many orders and spellings: some in one, as a producer writes, others not."""
    choose = random.Random(draw(st.integers(0, 2**32)))
    trees = draw(st.lists(objects(TREES), min_size=1, max_size=6))
    escapes, spaces = draw(st.sampled_from([0.0, 0.0, 0.03, 0.5])), draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    texts: list[str | None] = [written(choose.choice(trees), choose, escapes, spaces) for _ in range(BATCH)]
    if null and draw(st.booleans()):
        texts = [None if choose.random() < 0.3 else text for text in texts]
    return texts


@settings(max_examples=150, deadline=None)
@given(columns(), PATHS)
def test_values_are_those_of_the_oracle(texts: list[str | None], paths: list[Steps]) -> None:
    for column, path in zip(extract(pl.Series(texts, dtype=pl.String), paths), paths, strict=True):
        assert column.dtype == pl.String
        assert column.to_list() == [expected(text, path) for text in texts]


@settings(max_examples=50, deadline=None)
@given(columns(null=False), PATHS)
def test_the_slow_way_says_the_same(texts: list[str], paths: list[Steps]) -> None:
    found = read([text.encode() for text in texts], paths)
    assert found == [[expected(text, path) for text in texts] for path in paths]
    assert [read([text.encode()], paths) for text in texts[:3]] == [
        [[column[row]] for column in found] for row in range(3)
    ]


@settings(max_examples=40, deadline=None)
@given(columns(), PATHS, st.integers(0, BATCH), st.integers(1, BATCH))
def test_any_cut_and_kind_of_column_gives_the_same(
    texts: list[str | None], paths: list[Steps], first: int, count: int
) -> None:
    wanted = [[expected(text, path) for text in texts[first : first + count]] for path in paths]
    whole = pa.array(texts, pa.string())
    kinds: list[Any] = [whole.slice(first, count), whole.cast(pa.large_string()).slice(first, count)]
    kinds += [
        whole.cast(pa.string_view()).slice(first, count),
        pl.Series(texts, dtype=pl.String).slice(first, count),
    ]
    kinds.append(pa.chunked_array([whole.slice(first, count // 2), whole.slice(first, count).slice(count // 2)]))
    for kind in kinds:
        assert [column.to_list() for column in extract(kind, paths)] == wanted


def rows_left(texts: list[str], path: tuple[str, ...]) -> int:
    """How many texts the fast way says nothing of."""
    data = np.frombuffer("".join(texts).encode() + bytes(flat.PADDING), np.uint8)
    bounds = np.cumsum([0, *(len(text.encode()) for text in texts)])
    return int(flat.Block(data, bounds).values(path).unknown.sum())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"user_id":"u1","amount":1.5}', ("user_id",)),
        ('{"n":{"b":{}},"user_id":"u1"}', ("n", "b", "c")),
        ('{"amount": 1.50, "user_id": "user_id"}', ("amount",)),
        ('{"k":"user_id","user_id":true}', ("user_id",)),
        ('{"k":"user_id"}', ("user_id",)),
        ('{"text":"line\\nbreak","user_id":null}', ("user_id",)),
        ('{"text":"}","user_id":12}', ("user_id",)),
        ('{"user":{"user_id":"u1"},"z":[{}]}', ("user", "user_id")),
        ('{"z":1}', ("user_id",)),
        ('{"user_id":"u1","user":{"z":1}}', ("user", "user_id")),
    ],
)
def test_usual_spellings_go_the_fast_way(text: str, path: tuple[str, ...]) -> None:
    assert rows_left([text] * 5, path) == 0
    assert extract(pl.Series([text] * BATCH), [path])[0].to_list() == [expected(text, path)] * BATCH


@pytest.mark.parametrize(
    "text",
    [
        '{"user_id":"u1","user_id":"u2"}',
        '{"user_id":"u1","\\u0075ser_id":"u2"}',
        '{"n":{"user_id":"u1"}}',
        '{"n":{"user_id":"u1"},"user_id":2}',
        '{"s":"{","n":{},"user_id":"u1"}',
        '{"user_id":"u\\"1"}',
        '{"user_id":[1, {"user_id":2}]}',
        '{"user_id"' + " " * 1000 + ':"u1"}',
        '{"user_id":' + " " * 1000 + '"u1"}',
        '{"user_id":"' + "v" * 1000 + '"}',
    ],
)
def test_what_cannot_be_proved_is_read(text: str) -> None:
    assert rows_left([text] * 5, ("user_id",)) == 5
    assert (
        extract(pl.Series(['{"user_id":1}', text] * BATCH), [("user_id",)])[0].to_list()
        == ["1", expected(text, ("user_id",))] * BATCH
    )


@pytest.mark.parametrize(
    "text", ['{"a\\"user_id":"x"}', '{"s":"say \\"user_id\\":1"}', '{"s":"\\\\","user_id":"x"}']
)
def test_a_quote_within_a_string_begins_no_key(text: str) -> None:
    assert (
        extract(pl.Series([text] * BATCH), [("user_id",)])[0].to_list() == [expected(text, ("user_id",))] * BATCH
    )


def test_texts_of_several_blocks_and_of_one_that_is_larger_than_a_block() -> None:
    texts = [f'{{"id":"u{number}","n":{number},"fill":"{"f" * (number % 300)}"}}' for number in range(12_000)]
    texts[5_000] = '{"fill":"' + "f" * (3 << 20) + '","id":"large","n":5000}'
    ids, numbers = extract(pl.Series(texts), [("id",), ("n",)])
    assert ids.to_list() == ["large" if number == 5_000 else f"u{number}" for number in range(12_000)]
    assert numbers.to_list() == [str(number) for number in range(12_000)]


def test_duckdb_says_the_same_of_texts_without_twice_keys_and_of_scalars() -> None:
    choose = random.Random(5)
    values: list[Callable[[], str]] = [
        lambda: f'"u{choose.randrange(10**6)}"',
        lambda: str(choose.randrange(-(10**9), 10**9)),
        lambda: choose.choice(["2.5", "true", "false", "null", '"\\u00fc\\n"', '""']),
    ]
    texts = []
    for _ in range(3_000):
        names = choose.sample(["user_id", "amount", "note", "n"], choose.randint(0, 4))
        members = [
            f'"{name}":' + (f'{{"user_id":{choose.choice(values)()}}}' if name == "n" else choose.choice(values)())
            for name in names
        ]
        texts.append("{" + ", ".join(members) + "}")
    frame = pl.DataFrame({"text": texts})  # noqa: F841  # DuckDB finds it by its name
    paths: list[Steps] = [("user_id",), ("amount",), ("n", "user_id"), ("nothing",)]
    found = extract(pl.Series(texts), paths)
    for path, column in zip(paths, found, strict=True):
        pointer = "/" + "/".join(map(str, path))
        peer = duckdb.sql(f"select text::json ->> '{pointer}' as value from frame").pl()["value"]
        assert column.to_list() == peer.to_list()


def test_the_same_path_twice_no_paths_and_no_texts() -> None:
    texts = pl.Series(['{"a":1}'] * BATCH)
    assert extract(texts, []) == []
    assert [column.to_list() for column in extract(texts, [("a",), ("a",)])] == [["1"] * BATCH] * 2
    assert [column.to_list() for column in extract(pl.Series([], dtype=pl.String), [("a",)])] == [[]]
    assert [column.to_list() for column in extract(pa.chunked_array([], pa.string()), [("a",)])] == [[]]
    assert extract(pl.Series([None] * BATCH, dtype=pl.String), [("a",)])[0].null_count() == BATCH


@pytest.mark.parametrize("odd", [[0], [1_999], [0, 1, 1_000], [], list(range(0, 2_000, 2))])
def test_texts_that_are_read_come_back_to_their_rows(odd: list[int]) -> None:
    texts = [f'{{"id":"u{row}"}}' for row in range(2_000)]
    for row in odd:
        texts[row] = f'{{"\\u0069d":"odd{row}"}}'
    wanted = [f"odd{row}" if row in odd else f"u{row}" for row in range(2_000)]
    assert extract(pl.Series(texts), [("id",)])[0].to_list() == wanted
