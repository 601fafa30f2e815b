"""Hashes of ids: the same for ever and however an id comes, and even enough for a table."""

from __future__ import annotations

import time
import uuid

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from evtool import uuids
from evtool.log import hashing
from evtool.log.hashing import hash_id, hash_ids, hash_one, source_seeds

LOG_ID = bytes(range(16))
NAMES = ["shop", "app", "é"]
SEEDS = source_seeds(LOG_ID, NAMES)
COUNT = 1 << 17


def mix(state: int) -> int:
    """SplitMix64's finaliser, as it is published."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def by_hand(name: str, event_id: str) -> int:
    """The hash as the module's docstring tells it."""
    state = xxhash.xxh3_64_intdigest(name.encode(), seed=int.from_bytes(LOG_ID[:8], "little"))
    data = event_id.encode()
    try:
        is_uuid = str(uuid.UUID(event_id)) == event_id
    except ValueError:
        is_uuid = False
    if is_uuid:
        data = uuid.UUID(event_id).bytes
    else:
        state = (state + len(data) * 0x9E3779B97F4A7C15) % 2**64
    for start in range(0, max(len(data), 1), 8):
        state = mix(state ^ int.from_bytes(data[start : start + 8], "little"))
    return state


def hashed(event_ids: list[str], codes: list[int], kind: pa.DataType | None = None) -> list[int]:
    """As the writer of a log does it: what is a canonical UUID comes as bytes."""
    packed, is_uuid = uuids.pack(pa.array(event_ids, pa.string()))
    texts = pa.array(event_ids, pa.large_string()).cast(kind or pa.large_string())
    return hash_ids(np.array(codes, np.uint32), SEEDS, packed, texts, is_uuid).tolist()


ids = st.one_of(st.text(max_size=40), st.uuids().map(str), st.uuids().map(lambda it: str(it).upper()))


@given(st.lists(st.tuples(ids, st.integers(0, 2)), max_size=30))
def test_hashes_are_what_the_docstring_says(rows: list[tuple[str, int]]):
    event_ids, codes = [item for item, _ in rows], [code for _, code in rows]
    expected = [by_hand(NAMES[code], item) for item, code in rows]
    assert hashed(event_ids, codes) == expected
    assert [int(hash_id(item, SEEDS)[code]) for item, code in rows] == expected
    assert [hash_one(item, int(SEEDS[code])) for item, code in rows] == expected


def test_hashes_never_change():
    texts = ["1", "order-0001", "7cbadfce-ad60-4a3e-8799-65df6ad78e3d", "x" * 100]
    assert hashed(texts, [0, 1, 2, 0]) == [
        0x3C6A75BA1BC3E96B,
        0xEB4845A5408E67E9,
        0xAF8D8B82C6568557,
        0x04320C39F5F58415,
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()], ids=str)
def test_slices_and_nulls_of_any_text_type(kind: pa.DataType):
    texts = pa.array(["left out", "", "a", "eight by", "nine byte", None, "é" * 30], pa.string()).cast(kind)
    expected = [by_hand("app", text) for text in ["a", "eight by", "nine byte", "", "é" * 30]]
    assert hash_ids(np.ones(5, np.int8), SEEDS, texts=texts.slice(2)).tolist() == expected
    assert hash_ids(np.ones(0, np.int8), SEEDS, texts=texts.slice(7)).tolist() == []
    assert hash_ids(np.ones(1, np.int8), SEEDS, texts=texts.slice(1, 1)).tolist() == [by_hand("app", "")]


def test_a_column_of_uuids_with_nulls_where_texts_are():
    """As the body of a frame has them."""
    name = str(uuid.uuid4())
    packed = np.zeros((3, 16), np.uint8)
    packed[1] = np.frombuffer(uuid.UUID(name).bytes, np.uint8)
    texts = pa.array(["a", None, "b"])
    hashes = hash_ids(np.zeros(3, np.int32), SEEDS, packed, texts, np.array([False, True, False]))
    assert hashes.tolist() == [by_hand("shop", item) for item in ("a", name, "b")]


def test_a_long_text_among_short_ones_costs_what_it_is_long():
    """Not what it is long for each of the others."""
    texts = pa.array(["x" * 200_000] + [str(number) for number in range(100_000)], pa.large_string())
    started = time.perf_counter()
    hashes = hash_ids(np.zeros(len(texts), np.int8), SEEDS, texts=texts)
    assert time.perf_counter() - started < 20  # by the longest of all it would be many minutes
    assert int(hashes[0]) == by_hand("shop", "x" * 200_000)


def uuid7(count: int) -> np.ndarray:
    """UUIDs of version 7: 48 bits of milliseconds that go on by one every 30, then random bits."""
    generator = np.random.default_rng(7)
    packed = generator.integers(0, 256, (count, 16), np.uint8)
    times = (1_767_225_600_000 + np.arange(count) // 30).astype(">u8").view(np.uint8).reshape(-1, 8)
    packed[:, :6] = times[:, 2:]
    packed[:, 6] = packed[:, 6] & 0x0F | 0x70
    packed[:, 8] = packed[:, 8] & 0x3F | 0x80
    return packed


def uuid4(count: int) -> np.ndarray:
    packed = np.random.default_rng(4).integers(0, 256, (count, 16), np.uint8)
    packed[:, 6] = packed[:, 6] & 0x0F | 0x40
    packed[:, 8] = packed[:, 8] & 0x3F | 0x80
    return packed


def counted(pattern: str) -> pa.Array:
    return pa.array([pattern.format(number) for number in range(COUNT)])


# Of each kind the first half of the hashes is for one source and the second one for another.
SEQUENCES = {
    "numbers": {"texts": counted("{}")},
    "numbers with zeros": {"texts": counted("order-{:020d}")},
    "numbers before a long end": {"texts": counted("{:08d}" + "-of-the-shop" * 4)},
    "numbers apart": {
        "texts": pa.array([f"{n >> 12:03d}-aaaa{n >> 6 & 63:03d}-bbbb{n & 63:03d}" for n in range(COUNT)])
    },
    "uuid4": {"uuid_bytes": uuid4(COUNT)},
    "uuid7": {"uuid_bytes": uuid7(COUNT)},
    "counting uuids": {"uuid_bytes": np.arange(2 * COUNT, dtype=">u8").view(np.uint8).reshape(COUNT, 16)},
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_hashes_of_usual_ids_are_spread_evenly(name: str):
    both = [hash_ids(np.full(COUNT, code), SEEDS, **SEQUENCES[name]) for code in (0, 1)]
    hashes = np.concatenate(both)
    assert len(np.unique(hashes >> np.uint64(8))) == len(hashes)  # the 56 bits that the index keeps
    for shift in range(0, 57, 8):
        share = np.bincount(((hashes >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256)
        mean = len(hashes) / 256
        chi_square = float(((share - mean) ** 2 / mean).sum())
        assert 140 < chi_square < 400, shift  # 255 degrees of freedom: 255 on average, deviation 22.6
    # Equal upper 32 bits come as often as by chance: n^2 / 2^33 = 8 pairs.
    pairs = len(hashes) - len(np.unique(hashes >> np.uint64(32)))
    assert pairs < 30


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 20])
def test_each_bit_of_an_id_changes_half_of_the_hash(length: int):
    count = 256
    texts = np.random.default_rng(length).integers(0, 256, (count, length), np.uint8)

    def of(data: np.ndarray) -> np.ndarray:
        return hash_ids(np.zeros(count, np.int8), SEEDS, texts=pa.array([bytes(row) for row in data]))

    before = of(texts)
    for bit in range(8 * length):
        flipped = texts.copy()
        flipped[:, bit // 8] ^= np.uint8(1 << (bit % 8))
        changed = np.unpackbits((before ^ of(flipped)).view(np.uint8).reshape(count, 8), axis=1).mean(axis=0)
        assert changed.min() > 0.3  # of each of the 64 bits, over 256 texts: deviation 0.031
        assert changed.max() < 0.7


def test_sources_and_logs_give_other_hashes():
    seeds = np.concatenate([SEEDS, source_seeds(bytes(16), NAMES)])
    assert len(set(hash_id("1", seeds).tolist())) == 6


def test_rows_are_hashed_in_parts_that_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch):
    texts = pa.array([f"{number}" * (number % 5) for number in range(100)])
    codes = np.arange(100) % 3
    packed = uuid4(100)
    whole = [hash_ids(codes, SEEDS, texts=texts), hash_ids(codes, SEEDS, packed)]
    monkeypatch.setattr(hashing, "_PART_ROWS", 7)
    assert np.array_equal(whole, [hash_ids(codes, SEEDS, texts=texts), hash_ids(codes, SEEDS, packed)])
