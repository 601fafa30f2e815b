"""Columns of texts that are nearly of one layout: what stands where a key mostly stands is not always that key."""

import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_oracle import expected

from evtool.projections import flat
from evtool.projections.extraction import Steps, extract

PATHS: list[Steps] = [("user_id",), ("n",), ("n", "user_id"), ("k", "user_id")]

# How a text with the key at one place may be changed; each is given 0 to 20 bytes to fill up a place with.
NEAR: list[Callable[[str, str], str]] = [
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":{len(v)}}}',
    lambda fill, v: f'{{"k":"{fill}", "user_id" : "{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_ie":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":null,"n":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","n":{{"user_id":"{v}"}}}}',
    lambda fill, v: f'{{"k":{{"f":"{fill}","user_id":"{v}"}},"n":1}}',
    lambda fill, v: f'{{"k":"{fill}\\\\","user_id":"{v}"}}',
    lambda fill, v: f'{{"k{fill}\\"user_id":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}\\"user_id\\":\\"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","z":"user_id","n":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}","user_id":"second"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}","\\u0075ser_id":"second"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}","caf\\u00e9":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}\\u00e9"}}',
    lambda fill, v: f'{{"k":"{fill}","n":{{"user_id":"inner"}},"user_id":"{v}"}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":"{v}","n":{{"user_id":"inner"}}}}',
    lambda fill, v: f'{{"k":"{fill}","user_id":["{v}"]}}',
    lambda fill, v: f'{{"user_id":"{v}","k":"{fill}"}}',
    lambda fill, v: "{}",
]


def checked(texts: Sequence[str], column: pa.ChunkedArray | pl.Series) -> None:
    for path, found in zip(PATHS, extract(column, PATHS), strict=True):
        assert found.to_list() == [expected(text, path) for text in texts]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(NEAR), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.booleans(),
)
def test_texts_that_almost_fit_a_layout(
    seed: int, others: list[Callable[[str, str], str]], share: float, shifted: bool
) -> None:
    choose = random.Random(seed)
    usual = choose.choice(NEAR[:7])
    width = choose.randint(0, 20)

    def text() -> str:
        make = choose.choice(others) if choose.random() < share else usual
        fill = "f" * (choose.randint(max(width - 4, 0), width + 4) if shifted else width)
        return make(fill, "v" * choose.randint(0, 20))

    texts = [text() for _ in range(100)]
    checked(texts, pl.Series(texts))


@pytest.mark.parametrize("make", NEAR)
def test_one_text_of_another_layout_among_many(make: Callable[[str, str], str]) -> None:
    for width in range(16):
        texts = [NEAR[0]("f" * 9, f"u{row}") for row in range(60)]
        texts[30] = make("f" * width, "odd")
        checked(texts, pl.Series(texts))


@settings(max_examples=100, deadline=None)
@given(st.text("ab\u00fc", min_size=1, max_size=9), st.lists(st.text("ab\u00fc", max_size=9), max_size=5))
def test_keys_whose_parts_are_alike(key: str, others: list[str]) -> None:
    names = list(dict.fromkeys([*others, key]))
    texts = ["{" + ",".join(f'"{name}":"{row}{name}"' for name in names) + "}" for row in range(60)]
    assert extract(pl.Series(texts), [(key,)])[0].to_list() == [f"{row}{key}" for row in range(60)]
    if key.isascii():
        data = np.frombuffer("".join(texts).encode() + bytes(flat.PADDING), np.uint8)
        bounds = np.cumsum([0, *(len(text.encode()) for text in texts)])
        assert not flat.Block(data, bounds).values([key]).unknown.any()


def test_a_key_of_a_text_behind_the_block_counts_for_none_in_it() -> None:
    texts = [NEAR[0]("f" * 9, f"u{row}") for row in range(60)]
    texts[30] = NEAR[0]("f" * 5, "odd")
    texts[-1] = '{"n":1}'
    behind = NEAR[0]("f" * 2, "next")  # whose key is as far from where the last text begins as the others' keys
    data = np.frombuffer(("".join(texts) + behind).encode() + bytes(flat.PADDING), np.uint8)
    values = flat.Block(data, np.cumsum([0, *map(len, texts)])).values(["user_id"])
    assert values.rows.tolist() == list(range(59))
    assert not values.unknown.any()


def test_a_key_that_is_not_ascii_may_be_spelled_by_escapes() -> None:
    texts = ['{"\u00fc":"a","\\u00fc":"b"}', '{"\u00fc":"a"}'] * 50
    assert extract(pl.Series(texts), [("\u00fc",)])[0].to_list() == ["b", "a"] * 50


def test_chunks_of_many_sizes_are_one_column() -> None:
    def texts_of(rows: range) -> list[str]:
        return [NEAR[row % 2]("f" * (row % 30), f"u{row}" * (row % 9)) for row in rows]

    texts = texts_of(range(12_000))
    whole = pa.array(texts)
    cuts = [0, 5, 5, 6_000, 6_040, 6_041, 12_000]
    parts = [whole.slice(first, last - first) for first, last in itertools.pairwise(cuts)]
    copies = [pa.array(texts[first:last], pa.string()) for first, last in itertools.pairwise(cuts)]
    for chunks in (parts, copies):
        checked(texts, pa.chunked_array(chunks))
