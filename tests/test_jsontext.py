"""JSON as text, against Python's own json: what is an object, how deep it nests, how a text is written."""

from __future__ import annotations

import json
import re
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool import jsontext
from evtool.event import NESTING_MAX
from evtool.jsontext import OBJECT_NESTING_MAX, JsonError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), VALUES, max_size=3)
# Most of what is put together from these is no JSON, or just about.
PIECES = st.lists(
    st.sampled_from(
        [
            *'{}[],:" \t\r',
            '"a"',
            '"a":',
            "1",
            "-0",
            "1.5e3",
            "true",
            "null",
            "NaN",
            "01",
            "\\",
            "é",
            "\x00",
            "\ud800",
        ]
    ),
    max_size=10,
).map("".join)


def oracle(text: str) -> Any:
    """What json makes of a text, strictly. Raises ValueError."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()  # raises UnicodeEncodeError for half a surrogate pair
    return value


def is_object(text: str) -> bool:
    try:
        return isinstance(oracle(text), dict)
    except (ValueError, RecursionError):
        return False


def refusal(data: bytes, nesting_max: int = OBJECT_NESTING_MAX) -> str | None:
    """The reason why it is no object; None if it is one."""
    try:
        jsontext.check_object(data, nesting_max)
    except JsonError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{}", None),
        (b' \t\r\n{ \t\r\n"a" \n: \n1 \n} \n', None),
        (b'{"a":1,"a":2}', None),
        (b'{"":{"":{"":[]}}}', None),
        (b'{"a":[1,-1,0,-0,1.5,1e5,1E+5,1e-5,123456789012345678901234567890,true,false,null]}', None),
        (b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00"}', None),
        ('{"é":"日本🧦\u2028\x7f"}'.encode(), None),
        (b'{"a":"\\ud800"}', "lone_surrogate"),
        (b'{"a":"\\udc00"}', "lone_surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "lone_surrogate"),
        (b'{"a":"\\ud800\\ud800\\udc00"}', "lone_surrogate"),
        (b'{"a":"\\ud800 \\udc00"}', "lone_surrogate"),
        (b'{"\\ud800":1}', "lone_surrogate"),
        (b'{"a":"\\\\ud800"}', None),
        (b'{"a":"\xff"}', "bad_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "bad_utf8"),
        (b'{"a":"\xc0\x80"}', "bad_utf8"),
        (b'{"a":"\xc3"}', "bad_utf8"),
        (b"", "invalid_json"),
        (b" ", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"{", "invalid_json"),
        (b"}", "invalid_json"),
        (b"{}{}", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{}\n{}", "invalid_json"),
        (b"{},", "invalid_json"),
        (b"{}x", "invalid_json"),
        (b"{}\x00", "invalid_json"),
        (b'{"a"}', "invalid_json"),
        (b'{"a":}', "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b'{,"a":1}', "invalid_json"),
        (b"{a:1}", "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b"{1:1}", "invalid_json"),
        (b'{"a":[1,]}', "invalid_json"),
        (b'{"a":[,]}', "invalid_json"),
        (b'{"a":[1 2]}', "invalid_json"),
        (b'{"a":"\t"}', "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":"\n"}', "invalid_json"),
        (b'{"a":"\\x"}', "invalid_json"),
        (b'{"a":"\\u12"}', "invalid_json"),
        (b'{"a":"\\u00g0"}', "invalid_json"),
        (b'{"a":"b}', "invalid_json"),
        *((b'{"a":%b}' % number, "invalid_json") for number in (b"01", b"1.", b".5", b"+1", b"-", b"1e", b"0x1")),
        *((b'{"a":%b}' % word, "invalid_json") for word in (b"NaN", b"Infinity", b"-Infinity", b"True", b"nul")),
        (b"/**/{}", "invalid_json"),
        (b"\x0c{}", "invalid_json"),
        ("\u00a0{}".encode(), "invalid_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"1", "not_an_object"),
        (b'"{}"', "not_an_object"),
        (b"[{}", "invalid_json"),
        (b"1 2", "invalid_json"),
        (b'"a', "invalid_json"),
        (b"[] x", "invalid_json"),
    ],
)
def test_an_object_is_told_from_what_is_none(data: bytes, reason: str | None):
    assert refusal(data) == reason
    if b"\n" not in data and reason != "bad_utf8":
        assert jsontext.are_objects(pl.Series([data.decode()])) == (reason is None and data.strip() == data)


@given(PIECES | OBJECTS.map(json.dumps))
def test_check_object_takes_what_json_takes(text: str):
    data = text.encode("utf-8", "surrogatepass")
    assert (refusal(data) is None) == is_object(text)


@settings(max_examples=300)
@given(st.lists(OBJECTS.map(json.dumps) | PIECES.map(lambda text: "{" + text + "}"), max_size=5))
def test_a_column_is_objects_when_each_text_is_one(texts: list[str]):
    texts = [text.replace("\ud800", "é") for text in texts]
    assert jsontext.are_objects(pl.Series(texts, dtype=pl.String)) == all(map(is_object, texts))


@settings(max_examples=300)
@given(st.lists(OBJECTS.map(json.dumps), min_size=1, max_size=4), st.data())
def test_objects_cut_anew_are_only_taken_where_each_is_one(objects: list[str], data: st.DataObject):
    # Texts that are JSON together, when one behind the other, and not each by itself.
    whole = "".join(objects)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=len(objects), max_size=len(objects))))
    texts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert jsontext.are_objects(pl.Series(texts)) == all(map(is_object, texts))


@pytest.mark.parametrize(
    "texts",
    [
        ['{"a":1', "}"],
        ['{"a":{}', "{}}"],
        ['{"a":{}', "}"],
        ['{"a":[{}', "{}]}"],
        ['{"a":[{}', ",{}]}"],
        ['{"a":"{}', '{}"}'],
        ["{}{}", "{}"],
        ["{} {}", "{}"],
        ["{}\t{}", ""],
        ["{}{}", ""],
        ["{}", " "],
        ["{}", "{}{}", "{}"],
        ['{"a":{"b":{}', '{"c":{}}}}'],
        ['{"a":{}}{"b":{}', "}"],
        ['{"a":\n{}}', "{}"],
        ["{}\n{}", "{}"],
        ["{}\n", "{}"],
    ],
)
def test_texts_that_are_objects_only_together_are_refused(texts: list[str]):
    assert not jsontext.are_objects(pl.Series(texts))
    assert not jsontext.are_objects(pl.Series([*["{}"] * 50, *texts, *["{}"] * 50]))


def test_no_texts_are_all_objects():
    assert jsontext.are_objects(pl.Series([], dtype=pl.String))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"k":', "}")])
@pytest.mark.parametrize("limit", [OBJECT_NESTING_MAX, NESTING_MAX])
def test_nesting_is_counted_to_the_level(opening: str, closing: str, limit: int):
    for levels, reason in ((limit, None), (limit + 1, "nesting_too_deep"), (5000, "nesting_too_deep")):
        inner = levels - 1
        text = '{"a":' + opening * inner + ("1" if opening != "[" else "") + closing * inner + "}"
        assert jsontext.nesting(text.encode()) == levels
        assert refusal(text.encode(), limit) == reason
        if limit == OBJECT_NESTING_MAX:
            assert jsontext.are_objects(pl.Series([text])) == (reason is None)
            assert jsontext.are_objects(pl.Series(["{}", text, "{}"])) == (reason is None)


@pytest.mark.parametrize(
    "text", ['{"a":"' + "[{" * 500 + '"}', '{"' + "[" * 500 + '":"\\"[[[["}', '{"\\\\":"[\\\\"}']
)
def test_brackets_in_strings_do_not_nest(text: str):
    assert jsontext.nesting(text.encode()) == 1
    assert refusal(text.encode()) is None
    assert jsontext.are_objects(pl.Series([text]))


@given(VALUES)
def test_nesting_is_the_depth_of_the_value(value: Any):
    def depth(value: Any) -> int:
        if isinstance(value, dict):
            value = list(value.values())
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert jsontext.nesting(json.dumps(value, ensure_ascii=False).encode()) == depth(value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["", '"', "\\", "\x00", "\x7f", "\u2028"]
)


@given(st.lists(st.none() | TEXTS, max_size=5))
def test_a_quoted_text_reads_back(texts: list[str | None]):
    quoted = jsontext.quoted(pl.Series(texts, dtype=pl.String)).to_list()
    for text, written in zip(texts, quoted, strict=True):
        if text is None:
            assert written is None
            continue
        assert written == jsontext.quote(text)
        assert json.loads(written) == text
        assert re.search("[\x00-\x1f]", written) is None


@given(OBJECTS)
def test_an_encoded_value_reads_back(value: dict[str, Any]):
    text = jsontext.encode(value)
    assert json.loads(text) == value
    assert refusal(text.encode()) is None


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": [float("inf")]}, {"a": object()}, {(1, 2): 3}])
def test_what_json_has_no_word_for_is_not_encoded(value: Any):
    with pytest.raises((TypeError, ValueError)):
        jsontext.encode(value)
