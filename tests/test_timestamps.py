"""Times: from text and numbers to nanoseconds and back, against datetime and Decimal."""

from __future__ import annotations

import decimal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool import timecolumns, timestamps
from evtool.timestamps import TimestampError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MIN, MAX = -(2**63), 2**63 - 1
NANOSECONDS = st.integers(MIN, MAX) | st.sampled_from([MIN, MIN + 1, -1, 0, 1, MAX - 1, MAX])


def text_of(nanoseconds: int) -> str:
    """RFC 3339 with nine decimals, by way of datetime."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    moment = EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def reason_of(text: str) -> str:
    with pytest.raises(TimestampError) as caught:
        timestamps.parse_text(text)
    assert str(caught.value)
    return caught.value.reason


@st.composite
def written_times(draw: st.DrawFn) -> tuple[str, int | None]:
    """A text of the form that is asked for, and its nanoseconds; None where there is no such moment."""

    def field(low: int, high: int, width: int = 2) -> int:
        return draw(st.integers(low, high) | st.integers(low, high) | st.integers(0, 10**width - 1))

    year, month, day = field(1600, 2300, 4), field(1, 12), field(1, 31)
    hour, minute, second = field(0, 23), field(0, 59), field(0, 59)
    digits = draw(st.text("0123456789", max_size=9))
    sign, hours, minutes = draw(st.sampled_from("+-")), field(0, 23), field(0, 59)
    zone = draw(st.sampled_from(["Z", "Z", "z", f"{sign}{hours:02d}:{minutes:02d}"]))
    between = draw(st.sampled_from("TTTt "))
    fraction = f".{digits}" if digits else ""
    text = f"{year:04d}-{month:02d}-{day:02d}{between}{hour:02d}:{minute:02d}:{second:02d}{fraction}{zone}"
    try:
        since = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - EPOCH
    except ValueError:
        return text, None
    seconds = since // timedelta(seconds=1)
    if zone not in "Zz":
        if hours > 23 or minutes > 59:
            return text, None
        seconds -= int(f"{sign}1") * (hours * 60 + minutes) * 60
    nanoseconds = seconds * 10**9 + int(digits.ljust(9, "0"))
    return text, nanoseconds if MIN <= nanoseconds <= MAX else None


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T00:00:00+00:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1970-01-01T23:59:00+23:59", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        *(
            (f"1970-01-01T00:00:00.{'1' * places}Z", int("1" * places) * 10 ** (9 - places))
            for places in range(1, 10)
        ),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * 10**9),
        ("1677-09-21T00:12:43.145224192Z", MIN),
        ("2262-04-11T23:47:16.854775807Z", MAX),
        ("1677-09-21T01:12:43.145224192+01:00", MIN),
        ("2262-04-11T22:47:16.854775807-01:00", MAX),
    ],
)
def test_a_good_text_is_its_moment(text: str, nanoseconds: int):
    assert timestamps.parse_text(text) == nanoseconds
    found, good = timecolumns.parse_texts(pa.array([text], pa.string()))
    assert (found.tolist(), good.tolist()) == ([nanoseconds], [True])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-01-01T00:00:00", "timestamp_without_offset"),
        ("2026-01-01 00:00:00.5", "timestamp_without_offset"),
        ("1677-09-21T00:12:43.145224191Z", "timestamp_out_of_range"),
        ("2262-04-11T23:47:16.854775808Z", "timestamp_out_of_range"),
        ("1677-09-21T00:12:43.145224192+00:01", "timestamp_out_of_range"),
        ("0001-01-01T00:00:00+23:59", "timestamp_out_of_range"),
        ("9999-12-31T23:59:59-23:59", "timestamp_out_of_range"),
        ("0000-01-01T00:00:00Z", "timestamp_invalid"),
        ("2026-02-30T00:00:00Z", "timestamp_invalid"),
        ("2025-02-29T00:00:00Z", "timestamp_invalid"),
        ("2026-13-01T00:00:00Z", "timestamp_invalid"),
        ("2026-00-01T00:00:00Z", "timestamp_invalid"),
        ("2026-01-01T24:00:00Z", "timestamp_invalid"),
        ("2016-12-31T23:59:60Z", "timestamp_invalid"),
        ("2026-01-01T00:60:00Z", "timestamp_invalid"),
        ("2026-01-01T00:00:00+24:00", "timestamp_invalid"),
        ("2026-01-01T00:00:00+23:60", "timestamp_invalid"),
        ("2026-01-01T00:00:00+05", "timestamp_invalid"),
        ("2026-01-01T00:00:00+0530", "timestamp_invalid"),
        ("2026-01-01T00:00:00.Z", "timestamp_invalid"),
        ("2026-01-01T00:00:00.1234567890Z", "timestamp_invalid"),
        ("2026-01-01T00:00:00,5Z", "timestamp_invalid"),
        ("2026-01-01T00:00Z", "timestamp_invalid"),
        ("2026-01-01T00Z", "timestamp_invalid"),
        ("2026-01-01", "timestamp_invalid"),
        ("20260101T000000Z", "timestamp_invalid"),
        ("2026-1-1T00:00:00Z", "timestamp_invalid"),
        ("+2026-01-01T00:00:00Z", "timestamp_invalid"),
        ("12026-01-01T00:00:00Z", "timestamp_invalid"),
        (" 2026-01-01T00:00:00Z", "timestamp_invalid"),
        ("2026-01-01T00:00:00Z\n", "timestamp_invalid"),
        ("2026-01-01T00:00:00 Z", "timestamp_invalid"),
        ("2026-01-01_00:00:00Z", "timestamp_invalid"),
        ("２026-01-01T00:00:00Z", "timestamp_invalid"),
        ("2026-01-01T00:00:00\N{MINUS SIGN}01:00", "timestamp_invalid"),
        ("1767225600", "timestamp_invalid"),
        ("now", "timestamp_invalid"),
        ("", "timestamp_invalid"),
    ],
)
def test_a_bad_text_is_refused_for_its_reason(text: str, reason: str):
    assert reason_of(text) == reason
    found, good = timecolumns.parse_texts(pa.array([text], pa.string()))
    assert (found.tolist(), good.tolist()) == ([0], [False])


@given(written_times())
def test_any_text_is_the_moment_that_datetime_says(case: tuple[str, int | None]):
    text, nanoseconds = case
    if nanoseconds is None:
        assert reason_of(text) in ("timestamp_invalid", "timestamp_out_of_range")
    else:
        assert timestamps.parse_text(text) == nanoseconds


@settings(max_examples=200)
@given(st.lists(written_times(), max_size=8))
def test_a_column_of_texts_is_each_of_them(cases: list[tuple[str, int | None]]):
    found, good = timecolumns.parse_texts(pa.array([text for text, _ in cases], pa.string()))
    assert found.dtype == np.int64
    assert good.tolist() == [nanoseconds is not None for _, nanoseconds in cases]
    assert found.tolist() == [nanoseconds or 0 for _, nanoseconds in cases]


@settings(max_examples=200)
@given(st.data())
def test_a_column_of_damaged_texts_is_each_of_them(data: st.DataObject):
    # Arrow's parser, which reads a column whose texts all look right, has a grammar of its own.
    texts = []
    for _ in range(data.draw(st.integers(1, 3))):
        text = text_of(data.draw(NANOSECONDS))[: data.draw(st.integers(19, 29))] + "Z"
        at = data.draw(st.integers(0, len(text) - 1))
        put = data.draw(st.sampled_from([*"0123456789:-+TtZz ./", "", "Z", "+01:00", ":00", "é"]))
        texts.append(text[:at] + put + text[at + data.draw(st.integers(0, 2)) :])
    found, good = timecolumns.parse_texts(pa.array(texts, pa.string()))
    for text, nanoseconds, is_good in zip(texts, found.tolist(), good.tolist(), strict=True):
        try:
            assert (timestamps.parse_text(text), True) == (nanoseconds, is_good), text
        except TimestampError:
            assert (nanoseconds, is_good) == (0, False), text


def test_a_part_of_a_column_is_parsed_as_that_part():
    column = pa.array([text_of(number * 10**18) for number in range(-9, 10)])
    for part in (column[3:5], column[5:], column.take(pa.array(range(0, 19, 2)))):
        found, good = timecolumns.parse_texts(part)
        assert good.all()
        assert found.tolist() == [timestamps.parse_text(text) for text in part.to_pylist()]


@given(st.lists(NANOSECONDS, max_size=20))
def test_nanoseconds_become_text_and_come_back(numbers: list[int]):
    texts = timecolumns.to_texts(np.array(numbers, np.int64)).to_list()
    assert texts == [text_of(number) for number in numbers]
    assert [timestamps.to_text(number) for number in numbers] == texts
    found, good = timecolumns.parse_texts(pa.array(texts, pa.string()))
    assert found.tolist() == numbers
    assert good.all()


@pytest.mark.parametrize(
    ("number", "nanoseconds"),
    [
        (0, 0),
        (1, 10**9),
        (-1, -(10**9)),
        (1_767_225_600, 1_767_225_600 * 10**9),
        (1_767_225_600_000, 1_767_225_600 * 10**9),
        (1_767_225_600_000_000, 1_767_225_600 * 10**9),
        (1_767_225_600_000_000_000, 1_767_225_600 * 10**9),
        (-9_223_372_036, -9_223_372_036 * 10**9),
        (10**11, 10**17),  # the first that counts milliseconds
        (10**14, 10**17),  # the first that counts microseconds
        (10**17, 10**17),  # the first that counts nanoseconds
        (-(10**11), -(10**17)),
        (MAX, MAX),
        (MIN, MIN),
        (1_767_225_600.5, 1_767_225_600_500_000_000),
        (1.1, 1_100_000_000),
        (Decimal("1767225600.123456789"), 1_767_225_600_123_456_789),
        (Decimal("1767225600123.456789"), 1_767_225_600_123_456_789),
        (Decimal("1767225600123456.789000000000000000000000000"), 1_767_225_600_123_456_789),
        (Decimal("1E9"), 10**18),
        (Decimal("-0.0"), 0),
        (Decimal("0e-99999999"), 0),
    ],
)
def test_a_good_number_is_its_moment(number: int | float | Decimal, nanoseconds: int):
    assert timestamps.parse_number(number) == nanoseconds


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (10**11 - 1, "timestamp_out_of_range"),
        (9_223_372_037, "timestamp_out_of_range"),
        (-9_223_372_037, "timestamp_out_of_range"),
        (10**14 - 1, "timestamp_out_of_range"),
        (10**17 - 1, "timestamp_out_of_range"),
        (MAX + 1, "timestamp_out_of_range"),
        (MIN - 1, "timestamp_out_of_range"),
        (1e300, "timestamp_out_of_range"),
        (float("inf"), "timestamp_out_of_range"),
        (float("nan"), "timestamp_out_of_range"),
        (Decimal("1E1000000"), "timestamp_out_of_range"),
        (Decimal("-1E1000000"), "timestamp_out_of_range"),
        (Decimal("1767225600.1234567891"), "timestamp_invalid"),
        (Decimal("1767225600.12345678900000000000000000000000000001"), "timestamp_invalid"),
        (Decimal("1E-10"), "timestamp_invalid"),
        (Decimal("1E-1000000"), "timestamp_invalid"),
        (1e-300, "timestamp_invalid"),
    ],
)
def test_a_bad_number_is_refused_for_its_reason(number: int | float | Decimal, reason: str):
    with pytest.raises(TimestampError) as caught:
        timestamps.parse_number(number)
    assert caught.value.reason == reason


def test_a_number_too_long_to_be_shown_is_refused_all_the_same():
    with pytest.raises(TimestampError) as caught:
        timestamps.parse_number(10**5000)
    assert caught.value.reason == "timestamp_out_of_range"


def moment_of(exact: Fraction) -> int | None:
    """Nanoseconds of a number of s, ms, us or ns, by the exact rule."""
    for digits, factor in ((11, 10**9), (14, 10**6), (17, 10**3)):
        if abs(exact) < 10**digits:
            exact *= factor
            break
    return int(exact) if exact.denominator == 1 and MIN <= exact <= MAX else None


@given(st.integers(-(2**65), 2**65) | st.decimals(-(2**65), 2**65, places=12) | st.decimals(-(10**11), 10**11))
def test_any_number_is_the_moment_that_exact_arithmetic_says(number: int | Decimal):
    expected = moment_of(Fraction(number))
    try:
        assert timestamps.parse_number(number) == expected
    except TimestampError:
        assert expected is None


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(1, 40))
def test_the_caller_s_decimal_context_does_not_matter(number: Decimal, precision: int):
    def result() -> int | str:
        try:
            return timestamps.parse_number(number)
        except TimestampError as error:
            return error.reason

    expected = result()
    with decimal.localcontext(prec=precision):
        assert result() == expected


@given(st.lists(st.integers(MIN, MAX)))
def test_a_column_of_numbers_is_each_of_them(numbers: list[int]):
    found, good = timecolumns.parse_numbers(np.array(numbers, np.int64))
    assert found.dtype == np.int64
    expected = [moment_of(Fraction(number)) for number in numbers]
    assert [value if fine else None for value, fine in zip(found.tolist(), good, strict=True)] == expected
