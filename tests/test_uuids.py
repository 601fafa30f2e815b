"""Canonical UUIDs and partitions: the same text back, the same place always."""

from __future__ import annotations

import string
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from samples import ODD_IDS, ODD_TEXTS

from evtool import uuids
from evtool.log.partitions import partition_of, partitions_of

CANONICAL = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def is_canonical(text: str) -> bool:
    """By other means: Python's own parser, and back."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def round_trip(texts: list[str]) -> list[str | None]:
    """Each text that is packed, unpacked; None for the others."""
    binary, is_packed = uuids.pack(pa.array(texts, pa.string()))
    assert is_packed.tolist() == [is_canonical(text) for text in texts]
    column = uuids.to_arrow(binary, None if is_packed.all() else ~is_packed)
    assert column.null_count == int((~is_packed).sum())
    return uuids.unpack(column).to_list()


near_misses = st.builds(
    lambda place, character: CANONICAL[:place] + character + CANONICAL[place + 1 :],
    st.integers(0, 35),
    st.sampled_from(string.hexdigits + "-gG /:`é\x00"),
)


@given(st.lists(st.uuids().map(str) | near_misses | st.sampled_from(ODD_IDS) | st.text(max_size=40), min_size=1))
def test_a_uuid_comes_back_and_nothing_else_is_taken_for_one(texts: list[str]):
    assert round_trip(texts) == [text if is_canonical(text) else None for text in texts]


@given(st.lists(st.uuids(), min_size=1))
def test_a_uuid_is_packed_as_its_bytes(given_uuids: list[UUID]):
    binary, is_packed = uuids.pack(pa.array([str(value) for value in given_uuids]))
    assert is_packed.all()
    assert [row.tobytes() for row in binary] == [value.bytes for value in given_uuids]


@pytest.mark.parametrize("place", range(36))
def test_one_wrong_character_anywhere_makes_it_a_text(place: int):
    for wrong in "gG/:`@_":
        assert round_trip([CANONICAL[:place] + wrong + CANONICAL[place + 1 :], CANONICAL]) == [None, CANONICAL]


def test_a_slice_of_a_column_is_packed_as_itself():
    texts = pa.array([CANONICAL, "other", CANONICAL.replace("3", "4"), "é" * 18, CANONICAL])
    for start in range(5):
        binary, is_packed = uuids.pack(texts[start:])
        column = uuids.to_arrow(binary, ~is_packed)
        wanted = [text if is_canonical(text) else None for text in texts[start:].to_pylist()]
        assert uuids.unpack(column).to_list() == wanted
        assert uuids.unpack(column[1:]).to_list() == wanted[1:]


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.integers(1, 1024))
def test_partitions_are_the_same_one_by_one_and_together(streams: list[str], partitions: int):
    together = partitions_of([stream.encode() for stream in streams], partitions)
    assert together.tolist() == [partition_of(stream, partitions) for stream in streams]
    assert together.tolist() == [xxhash.xxh3_64_intdigest(stream.encode()) % partitions for stream in streams]


def test_the_partition_of_a_stream_is_fixed_for_ever():
    # Logs are on disks: another hash, seed or encoding would lose their streams.
    names = ["", "user-1", "user-2", "cart/7", "é", "漢字", "x" * 1024]
    assert [partition_of(name, 8) for name in names] == [2, 1, 4, 0, 3, 1, 2]
    assert [partition_of(name, 1) for name in names] == [0] * len(names)


def test_streams_are_spread_evenly():
    counts = np.bincount(partitions_of([b"user-%d" % number for number in range(8_000)], 8), minlength=8)
    assert counts.min() > 800
    assert len({partition_of(text, 1024) for text in ODD_TEXTS}) > 8
