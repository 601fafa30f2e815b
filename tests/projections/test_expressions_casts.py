"""Casts and exact arithmetic: a value stays the value that it is, or becomes null and is counted."""

import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evtool.projections.expression import Expression, casts
from evtool.projections.lowering import failures, lower
from evtool.projections.parsing import parse

PATH = 'payload."x"'
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
NUMBER_TEXTS = (
    st.text("0123456789-+.eE_ x\n", max_size=8)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4).map(str)
    | st.from_regex(r"-?[1-9][0-9]{0,3}(\.[0-9]{1,4})?[eE][+-]?[0-9]{1,2}", fullmatch=True)
    | st.integers(-(10**40), 10**40).map(str)
    | st.sampled_from(["inf", "nan", "-0", "-0.00", "0e99999999999", "1e99999999999", "١", " 1", "1 ", "1_0"])
)


def values(text: str, texts: Sequence[str | None]) -> list[object]:
    frame = pl.DataFrame({PATH: texts}, schema={PATH: pl.String})
    return frame.select(PATH, value=lower(parse(text)))["value"].to_list()


def computed(text: str, **columns: Sequence[object]) -> list[object]:
    kinds = dict.fromkeys(columns, pl.Int64)
    return pl.DataFrame(columns, schema=kinds).select(lower(parse(text))).to_series().to_list()


def failed(expression: Expression, texts: Sequence[str | None]) -> int:
    frame = pl.DataFrame({PATH: texts}, schema={PATH: pl.String})
    return sum(frame.select(failures(cast)).item() for cast in casts(expression))


def exact(text: str | None, precision: int, scale: int) -> Decimal | None:
    """The decimal(precision, scale) that a JSON number is, by fractions."""
    if text is None or not NUMBER.fullmatch(text):
        return None
    mantissa, _, exponent = text.lower().partition("e")
    power = int(exponent or "0")
    if abs(power) > 1000:
        return Decimal(0) if Fraction(mantissa) == 0 else None
    unscaled = Fraction(mantissa) * Fraction(10) ** (power + scale)
    if unscaled.denominator != 1 or abs(unscaled) >= 10**precision:
        return None
    with localcontext(prec=100):
        return Decimal(int(unscaled)).scaleb(-scale)


@given(
    st.lists(st.none() | NUMBER_TEXTS, max_size=8),
    st.sampled_from([(18, 2), (38, 0), (38, 38), (3, 3), (5, 0), (38, 10), (1, 1)]),
)
@example(["1.25", "1.250000000000000000000", "1.251", "-12.5e-1", "123456789012345678"], (18, 2))
def test_a_text_is_cast_to_the_decimal_that_it_spells_or_not_at_all(
    texts: list[str | None], digits: tuple[int, int]
) -> None:
    precision, scale = digits
    text = f"cast(payload.x as decimal({precision}, {scale}))"
    wanted = [exact(each, precision, scale) for each in texts]
    assert values(text, texts) == wanted
    lost = sum(each is not None and value is None for each, value in zip(texts, wanted, strict=True))
    assert failed(parse(text), texts) == lost


@given(st.lists(st.none() | NUMBER_TEXTS | st.integers(-(2**64), 2**64).map(str), max_size=8))
def test_a_text_is_cast_to_an_integer_in_its_one_spelling(texts: list[str | None]) -> None:
    def wanted(text: str | None) -> int | None:
        is_plain = text is not None and re.fullmatch("-?(0|[1-9][0-9]*)", text, re.ASCII)
        return int(text) if text and is_plain and -(2**63) <= int(text) < 2**63 else None

    assert values("payload.x::bigint", texts) == [wanted(text) for text in texts]


@given(st.lists(st.none() | NUMBER_TEXTS | st.floats(allow_nan=False).map(repr), max_size=8))
def test_a_text_is_cast_to_the_nearest_float_if_there_is_one(texts: list[str | None]) -> None:
    def wanted(text: str | None) -> float | None:
        is_number = text is not None and NUMBER.fullmatch(text)
        return float(text) if text and is_number and abs(float(text)) != float("inf") else None

    assert values("payload.x::double", texts) == [wanted(text) for text in texts]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("boolean", {"true": "true", "false": "false"}, ["True", "t", "1", "yes", " true", ""]),
        (
            "date",
            {"2024-02-29": "2024-02-29"},
            ["2023-02-29", "2024-2-3", "+2024-02-03", " 2024-02-03", "2024-02-03T00"],
        ),
        (
            "timestamp",
            {
                "2024-01-31T12:00:00+01:00": "2024-01-31T11:00:00.000000000Z",
                "2024-01-31t12:00:00.123456789z": "2024-01-31T12:00:00.123456789Z",
            },
            ["2024-01-31T12:00:00", "2024-01-31", "1700000000", "", "2024-02-30T00:00:00Z"],
        ),
    ],
)
def test_other_spellings_than_the_plain_one_are_no_value(kind: str, good: dict[str, str], bad: list[str]) -> None:
    text = f"cast(cast(payload.x as {kind}) as text)"
    assert values(text, [*good, None, *bad]) == [*good.values(), None, *([None] * len(bad))]
    assert failed(parse(text), [*good, None, *bad]) == len(bad)


def test_a_decimal_that_would_be_rounded_is_no_narrower_decimal_and_no_integer() -> None:
    texts = ["1.50", "1.55", "2.00", "-2.00", "1234567.00"]
    assert values("payload.x::decimal(18,2)::decimal(4,1)", texts) == [Decimal("1.5"), None, 2, -2, None]
    assert values("payload.x::decimal(18,2)::bigint", texts) == [None, None, 2, -2, 1234567]
    assert values("payload.x::double::bigint", ["1.5", "3", "9.3e18", "-9223372036854775808"]) == [
        None,
        3,
        None,
        -(2**63),
    ]
    assert values("payload.x::double::decimal(18,2)", ["0.1", "0.125", "1e20"]) == [Decimal("0.10"), None, None]


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=5)
)
@example(
    [
        (2**63 - 1, 1),
        (-(2**63), -1),
        (-(2**63), -(2**63)),
        (3, 0),
        (-7, 2),
        (52709374686542463, 275861105995691908),
    ]
)
def test_what_outgrows_an_integer_is_null_and_counted(pairs: list[tuple[int, int]]) -> None:
    left, right = zip(*pairs, strict=True)
    frame = pl.DataFrame(
        {"position": left, "stream_version": right}, schema={"position": pl.Int64, "stream_version": pl.Int64}
    )
    for sign, compute in (("+", int.__add__), ("-", int.__sub__), ("*", int.__mul__)):
        tree = parse(f"position {sign} stream_version")
        true = [compute(a, b) for a, b in pairs]
        wanted = [value if -(2**63) <= value < 2**63 else None for value in true]
        assert frame.select(lower(tree)).to_series().to_list() == wanted
        (cast,) = casts(tree)
        assert frame.select(failures(cast)).item() == wanted.count(None)
    assert computed("position / stream_version", position=left, stream_version=right) == [
        a / b if b else None for a, b in pairs
    ]


DECIMALS = st.tuples(st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(10**19), 10**19), st.integers(0, 38))


@settings(max_examples=60)
@given(DECIMALS, DECIMALS)
@example((10**38 - 1, 0), (1, 0))
@example((10**19, 0), (10**19, 0))
@example((2**64, 0), (2**64, 0))  # 0 in 128 bits
@example((-(10**38) + 1, 38), (10**38 - 1, 38))
def test_arithmetic_on_decimals_is_exact_or_null(left: tuple[int, int], right: tuple[int, int]) -> None:
    (a, a_scale), (b, b_scale) = left, right
    x, y = Fraction(a, 10**a_scale), Fraction(b, 10**b_scale)
    frame = pl.DataFrame(
        {'payload."a"': [spelled(a, a_scale)], 'payload."b"': [spelled(b, b_scale)]},
    )
    terms = f"cast(payload.a as decimal(38,{a_scale}))", f"cast(payload.b as decimal(38,{b_scale}))"
    for sign, true, scale in (
        ("+", x + y, max(a_scale, b_scale)),
        ("-", x - y, max(a_scale, b_scale)),
        ("*", x * y, a_scale + b_scale),
    ):
        if scale > 38:
            continue
        found = frame.select(lower(parse(f" {sign} ".join(terms)))).item()
        fits = abs(true) * 10**scale < 10**38
        # An operand that has more than 38 digits at the scale of a sum takes the sum with it.
        widest = max(abs(x), abs(y)) * 10**scale < 10**38 or sign == "*"
        assert found is None if not (fits and widest) else Fraction(found) == true
    quotient = frame.select(lower(parse(" / ".join(terms)))).item()
    assert quotient == (None if not b else float_of(x / y))
    for compare in ("<", "=", ">"):
        assert (
            frame.select(lower(parse(f" {compare} ".join(terms)))).item()
            == {"<": x < y, "=": x == y, ">": x > y}[compare]
        )


def spelled(unscaled: int, scale: int) -> str:
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :]
    return ("-" if unscaled < 0 else "") + whole + (f".{fraction}" if fraction else "")


def float_of(number: Fraction) -> float:
    return number.numerator / number.denominator


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("round(2.45, 1)", "2.5"),
        ("round(-2.45, 1)", "-2.5"),
        ("round(-2.5)", "-3"),
        ("floor(-2.5)", "-3"),
        ("ceil(-2.5)", "-2"),
        ("round(99999999999999999999999999999999999.995, 2)", "100000000000000000000000000000000000.00"),
        ("0.1 + 0.2", "0.3"),
        ("-7.5 % 2", "-1.5"),
        ("epoch(timestamp '2024-01-01T00:00:00.000000001Z')", "1704067200.000000001"),
        ("epoch(interval '1 day')", "86400.000000000"),
    ],
)
def test_decimals_are_rounded_only_where_it_is_said(text: str, wanted: str) -> None:
    assert pl.select(lower(parse(text))).item() == Decimal(wanted)


def test_times_keep_their_nanoseconds() -> None:
    moment = 1_711_846_800_123_456_789
    assert computed("timestamp + interval '1 nanosecond'", timestamp=[moment, 2**63 - 1]) == [moment + 1, None]
    assert computed("date_trunc('hour', timestamp, 'Asia/Kolkata')", timestamp=[moment]) == [1_711_845_000 * 10**9]
    assert computed("cast(timestamp - recorded_at as bigint)", timestamp=[moment], recorded_at=[1]) == [moment - 1]
    assert computed("date(timestamp, 'Pacific/Auckland')", timestamp=[2**63 - 1, -(2**63)]) == computed(
        "date '2262-04-12'", timestamp=[0]
    ) + computed("date '1677-09-21'", timestamp=[0])


def test_a_long_sum_of_decimals_does_not_double_its_work_with_each_term() -> None:
    term = "cast(payload.x as decimal(18,2))"
    assert values(term + " + 1.5" * 150, ["1.00", None]) == [Decimal("226.00"), None]
    assert values("round(" * 20 + term + ", 1)" * 20, ["1.05"]) == [Decimal("1.1")]


def test_a_column_without_any_value_keeps_its_rows_where_a_literal_stands_in_for_it() -> None:
    text = "0.00 = coalesce(cast(payload.x as decimal(9,2)), 0.01)"
    assert values(text, [None, None, "x"]) == [False, False, False]
    assert values("coalesce(payload.x, null, 'a') = 'a'", [None, None]) == [True, True]
    for text in ("1 = payload.x::bigint * 2", "1 < payload.x::bigint", "nullif(null, payload.x::bigint)"):
        assert values(text, [None, None, None]) == [None, None, None]
    for text in ("coalesce('', payload.x) in ('')", "case when true then '' else payload.x end in ('')"):
        assert values(text, [None, None, None]) == [True, True, True]
    assert values("nullif(1, payload.x::bigint)", [None, None, None]) == [1, 1, 1]
    assert values("1 < payload.x::bigint", ["0", "1", "2"]) == [False, False, True]
