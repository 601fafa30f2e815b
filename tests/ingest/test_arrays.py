"""Arrays of events: every element becomes a line, wherever its bytes are cut and its lines are broken."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from event_lines import json_object
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool.errors import InputError
from evtool.ingest.arrays import array_lines


def split(data: bytes, key: str | None = None, size: int = 1 << 20) -> list[bytes]:
    blocks = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(array_lines(blocks, "in.json", key)).split(b"\n")[:-1]


OBJECTS = st.integers(0, 2**48).map(lambda seed: json_object(Random(seed), 3))


@settings(max_examples=200)
@given(
    documents=st.lists(st.lists(OBJECTS, max_size=5), min_size=1, max_size=3),
    space=st.sampled_from(["", " ", "\n", "\r\n  "]),
    size=st.integers(1, 40),
    has_key=st.booleans(),
)
def test_every_element_is_a_line_wherever_the_text_is_cut(
    documents: list[list[str]], space: str, size: int, has_key: bool
):
    texts = [f"[{space}" + f"{space},{space}".join(elements) + f"{space}]" for elements in documents]
    if has_key:
        texts = [f'{{"a":[1,{{}}]{space},"R\\u0065cords"{space}:{space}{text},"b":12}}' for text in texts]
    found = split(f"{space}\n".join(["", *texts, ""]).encode(), "Records" if has_key else None, size)
    assert found == [element.encode() for elements in documents for element in elements]


def test_an_array_that_is_printed_over_many_lines_loses_nothing_but_its_line_breaks():
    events = [{"id": number, "n": [1.5, "é\n"], "x": {}} for number in range(50)]
    found = split(json.dumps(events, indent=2).encode(), size=100)
    assert [json.loads(line) for line in found] == events


@pytest.mark.parametrize("text", [b"", b"\n \n", b'{"a":1}\n{"b":2}\n', b"not json\n", b'\n{"a":\n'])
def test_lines_are_passed_on_as_they_are(text: bytes):
    assert b"".join(array_lines(iter([text]), "in", None)).strip() == text.strip()


def test_elements_that_are_no_events_are_left_to_the_parser():
    assert split(b'[1,12,"a",null,[{}],NaN,\xff]'.replace(b"\xff", b'"\xff"')) == [
        *(b"1", b"12", b'"a"', b"null", b"[{}]", b"NaN", b'"\xff"')
    ]


@pytest.mark.parametrize(
    ("text", "key", "events"),
    [
        (b'[{"a":1},{"b"', None, 1),
        (b'[{"a":1}', None, 0),
        (b'[{"a":1},]', None, 1),
        (b'[{"a":1}{"b":2}]', None, 0),
        (b'[{"a":1}] x', None, 1),
        (b'[{"a":1}] {}', None, 1),
        (b'{"R":[{"a":1}]', "R", 1),
        (b'{"R":[{"a":1}]}{"S":[]}', "R", 1),
        (b'{"R":[{"a":1}]}{"R":7}', "R", 1),
        (b'{"R":[{"a":1}]}[]', "R", 1),
        (b'{"R":[{"a":1}] "b":1}', "R", 1),
    ],
)
def test_what_is_no_such_json_is_an_error_behind_the_events_before(text: bytes, key: str | None, events: int):
    found: list[bytes] = []
    blocks: Any = array_lines((text[at : at + 1] for at in range(len(text))), "in.json", key)
    with pytest.raises(InputError, match=rf"in\.json .*behind {events} events"):
        found.extend(blocks)
    assert b"".join(found) == b'{"a":1}\n' * events


def test_a_value_that_does_not_end_takes_bounded_memory():
    blocks = (b'["' if number == 0 else b"x" * (1 << 20) for number in range(10**6))
    with pytest.raises(InputError, match="16 MiB"):
        for _ in array_lines(blocks, "in.json", None):
            pass
