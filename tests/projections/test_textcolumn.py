"""A column of texts put together from pieces: held against Python's own slices."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.projections.textcolumn import BYTES_BEFORE, BYTES_BEHIND, TextColumn

PIECES = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), max_size=12)


def put_pieces(column: TextColumn, rows: list[int], texts: list[str]) -> None:
    """Put texts that stand one behind the other with something between."""
    data, starts = bytearray(b"x" * BYTES_BEFORE), []
    for text in texts:
        starts.append(len(data))
        data += text.encode() + b"-"
    spans = np.array(starts, np.int64)
    ends = spans + [len(text.encode()) for text in texts]
    padded = np.frombuffer(bytes(data) + b"y" * (BYTES_BEHIND + BYTES_BEFORE), np.uint8)
    column.put(np.array(rows, np.int64), padded, spans, ends.astype(np.int64))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), PIECES), max_size=4), st.randoms(use_true_random=False))
def test_pieces_and_texts_come_back_from_their_rows(
    puts: list[tuple[bool, list[str]]], choose: random.Random
) -> None:
    count = 20
    column = TextColumn(count)
    wanted: list[str | None] = [None] * count
    for are_pieces, texts in puts:
        rows = sorted(choose.sample(range(count), len(texts)))
        if are_pieces:
            put_pieces(column, rows, texts)
        else:
            column.put_texts(np.array(rows, np.int64), [text or None for text in texts])
        for row, text in zip(rows, texts, strict=True):
            wanted[row] = text if are_pieces else text or None
    found = column.series()
    assert found.to_list() == wanted
    assert (found + "!").to_list() == [None if text is None else text + "!" for text in wanted]


def test_a_text_does_not_hold_what_it_was_cut_from() -> None:
    data = bytearray(b"x" * 4 + b"a text that is long enough" + b"y" * 40)
    column = TextColumn(2)
    view = np.frombuffer(data, np.uint8)
    column.put(np.array([0, 1]), view, np.array([4, 4]), np.array([30, 10]))
    found = column.series()
    view.flags.writeable = True
    view[:] = 0
    assert found.to_list() == ["a text that is long enough", "a text"]
