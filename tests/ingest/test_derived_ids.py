"""Ids made of what a line says: the same line is the same event, however often it comes."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from random import Random

import pytest
import xxhash
from event_lines import chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import as_frame

import evtool
from evtool.config import IngestConfig
from evtool.envelope import RejectedError
from evtool.ingest import derived, formats, members
from evtool.ingest.parse import Parsed, Parser
from evtool.ingest.pipeline import Ingest

LINE = '{"source_id":"s","stream_id":"u-%d","event_type":"Seen","payload":{"n":%d}}'


def ids(parsed: Parsed) -> list[str]:
    return as_frame(parsed.events, parsed.order)["event_id"].to_list()


def by_hand(line: bytes) -> str:
    """The hash with the bits of RFC 9562, section 5.8, put in one after the other."""
    number = int.from_bytes(xxhash.xxh3_128_digest(line.strip(b" \t\r\n")), "big")
    number = number & ~(0xF << 76) | 8 << 76
    return str(uuid.UUID(int=number & ~(0x3 << 62) | 2 << 62))


def test_an_id_is_the_hash_of_the_line_as_a_uuid_of_version_8():
    # Written down here because ids are kept: no version of evtool may make others.
    assert derived.id_of(b'{"stream_id":"a"}') == "1254a8dd-11c8-8df4-aa7a-5123664c3650"
    found = uuid.UUID(derived.id_of(b'{"stream_id":"a"}'))
    assert (found.version, found.variant) == (8, uuid.RFC_4122)


@settings(max_examples=200)
@given(line=st.binary(max_size=400))
def test_white_space_around_a_line_does_not_count(line: bytes):
    assert derived.id_of(b" \t" + line + b"\r\n") == derived.id_of(line) == by_hand(line)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**48))
def test_the_fast_way_and_the_slow_way_derive_the_same(seed: int):
    random = Random(seed)
    lines = [
        line.data if random.random() < 0.3 else line.data.replace(b'"event_id"', b'"event_name"')
        for line in chunk(seed)
    ]
    data = b"".join(line + b"\n" for line in lines)
    parsed = Parser("pipe", derives_ids=True).parse(data)
    found = dict(zip(parsed.events["row"].take(parsed.order).to_pylist(), ids(parsed), strict=True))
    for number, line in enumerate(data.split(b"\n")[:-1]):
        try:
            expected = members.row(line, "pipe", True, derives_ids=True)[0]
        except RejectedError:
            assert number not in found
        else:
            assert found[number] == expected


@pytest.mark.parametrize("count", [1, 500])
def test_an_event_with_an_id_keeps_it(count: int):
    lines = [LINE % (n, n) for n in range(count)] + [
        '{"event_id":"own",' + LINE[1:] % (7, n) for n in range(count)
    ]
    lines += ['{"event_id":null,' + LINE[1:] % (8, n) for n in range(count)]
    parsed = Parser(derives_ids=True).parse("".join(line + "\n" for line in lines).encode())
    assert parsed.rejects == ()
    found = ids(parsed)
    assert found[:count] == [by_hand(line.encode()) for line in lines[:count]]
    assert found[count : 2 * count] == ["own"] * count
    assert found[2 * count :] == [by_hand(line.encode()) for line in lines[2 * count :]]


def test_many_lines_of_one_layout_are_read_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(members, "row", None)  # whoever reads a line alone fails
    text = "".join(LINE % (n % 7, n) + "\n" for n in range(500)).encode()
    assert len(set(ids(Parser(derives_ids=True).parse(text)))) == 500


def test_an_id_that_is_bad_is_not_replaced():
    parsed = Parser(derives_ids=True).parse(
        b'{"event_id":"",%b\n{"event_id":1,%b\n' % (((LINE % (1, 1))[1:].encode(),) * 2)
    )
    assert [reject.reason for reject in parsed.rejects] == ["empty_field", "wrong_type"]


def test_without_being_asked_an_event_without_an_id_is_refused():
    for config in (IngestConfig(), IngestConfig(fields={"payload": "."})):
        parsed = formats.parser(config).parse((LINE % (1, 1)).encode() + b"\n")
        assert [reject.reason for reject in parsed.rejects] == ["missing_field"]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (IngestConfig(), "".join(LINE % (n % 7, n) + "\r\n" for n in range(300))),
        (
            IngestConfig(fields={"stream_id": "user.id", "payload": "."}, source="s"),
            "".join(json.dumps({"user": {"id": n % 7}, "event_type": "Seen", "n": n}) + "\n" for n in range(300)),
        ),
        (
            IngestConfig(format="cloudevents"),
            "".join(
                json.dumps({"specversion": "1.0", "source": "/s", "type": "t", "data": {"n": n}}) + "\n"
                for n in range(300)
            ),
        ),
        (
            IngestConfig(format="csv", source="s"),
            "stream_id,event_type,n\n" + "".join(f"u-{n % 7},Seen,{n}\n" for n in range(300)),
        ),
    ],
    ids=["evtool", "json", "cloudevents", "csv"],
)
def test_a_file_that_is_loaded_twice_is_stored_once(tmp_path: Path, config: IngestConfig, text: str):
    path = tmp_path / "events"
    path.write_text(text)
    options = IngestConfig(**{**vars(config), "derive_id": "content"})
    for number in range(2):
        with evtool.open(tmp_path / "log", create=True) as log:
            summary = Ingest(log, [str(path)], options).run()
            assert (summary.accepted, summary.duplicates, summary.dead_letters) == ((300, 0, 0), (0, 300, 0))[
                number
            ]
            assert log.position == 300


def test_two_equal_lines_are_one_event(tmp_path: Path):
    (tmp_path / "events").write_text((LINE % (1, 1) + "\n") * 5)
    with evtool.open(tmp_path / "log", create=True) as log:
        summary = Ingest(log, [str(tmp_path / "events")], IngestConfig(derive_id="content")).run()
    assert (summary.accepted, summary.duplicates) == (1, 4)
