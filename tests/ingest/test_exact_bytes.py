"""Payload and metadata come back byte for byte, from the line that was sent to the line of a replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evtool
from evtool.config import IngestConfig
from evtool.ingest.pipeline import Ingest

OBJECTS = (
    "{}",
    "{ }",
    "{\t}",
    '{"n":1.10}',
    '{"n":1E5,"m":1e5,"k":1E+05,"z":100000.0}',
    '{"zero":0,"minus":-0,"float":-0.0,"tiny":1e-400,"huge":1e400}',
    '{"big":12345678901234567890123,"exact":0.1000000000000000055511151231257827021181583404541015625}',
    '{"z":1,"a":2,"m":3}',
    '{"a":1,"a":2,"a":{"a":3,"a":4}}',
    '{"":{"":[]}}',
    '{"escaped":"\\u00e9\\/\\n\\t\\b\\f\\r\\"\\\\","raw":"é/"}',
    '{"\\u0061":"\\u0000","A":"\\u001F\\u007f"}',
    '{"pair":"\\ud83e\\udde6\\uD83E\\uDDE6","raw":"🧦"}',
    '{"raw":"\x7f\u0080\u2028\u2029\ufeff\uffff"}',
    '{ "a" : [ 1 , 2,3 , { } , [ ] ] , "b" : null }',
    '{"a":\t1,\r"b":2}',
    '{"text":"},\\"metadata\\":{\\"x\\":1}","more":"{[\\"}]"}',
    '{"payload":{"metadata":{"payload":null}}}',
    '{"event_id":"inner","stream_id":7,"position":1}',
    '{"deep":' + "[" * 126 + "]" * 126 + "}",
    '{"long":"' + "x" * 70_000 + '"}',
)


def ingested(folder: Path, data: bytes) -> list[bytes]:
    """The lines of a replay of a log that was made of these."""
    (folder / "events.ndjson").write_bytes(data)
    with evtool.open(folder / "log", create=True) as log:
        summary = Ingest(log, [str(folder / "events.ndjson")], IngestConfig()).run()
        assert summary.dead_letters == 0
        return b"".join(log.replay()).split(b"\n")[:-1]


def line(number: int, rest: str, spaces: str = "") -> bytes:
    gap = spaces + "," + spaces
    return f'{{"event_id":"e-{number}"{gap}"source_id":"s","stream_id":"u","event_type":"t"{rest}}}\n'.encode()


@pytest.mark.parametrize("spaces", ["", " "])
@pytest.mark.parametrize("copies", [1, 100], ids=["one by one", "together"])
def test_a_payload_and_its_metadata_are_never_written_anew(tmp_path: Path, copies: int, spaces: str):
    pairs = [(text, OBJECTS[-number]) for number, text in enumerate(OBJECTS[:-1]) for _ in range(copies)]
    colon = spaces + ":" + spaces
    rest = [f',"payload"{colon}{payload},"metadata"{colon}{metadata}' for payload, metadata in pairs]
    lines = ingested(tmp_path, b"".join(line(number, text, spaces) for number, text in enumerate(rest)))
    assert len(lines) == len(pairs)
    for found, (payload, metadata) in zip(lines, pairs, strict=True):
        assert found.endswith(f',"payload":{payload},"metadata":{metadata}}}'.encode())


@pytest.mark.parametrize(
    "order", ['"metadata":{metadata},"payload":{payload}', '"payload":{payload},"metadata":{metadata}']
)
def test_one_is_never_taken_for_the_other(tmp_path: Path, order: str):
    rest = "," + order.replace("{payload}", '{"p":1.0}').replace("{metadata}", '{"m":1.0}')
    lines = ingested(tmp_path, b"".join(line(number, rest) for number in range(200)))
    assert all(found.endswith(b',"payload":{"p":1.0},"metadata":{"m":1.0}}') for found in lines)


def test_absent_null_and_empty_metadata_are_told_apart(tmp_path: Path):
    for number, (rest, end) in enumerate(
        (
            ("", b',"payload":{}}'),
            (',"metadata":null', b',"payload":{}}'),
            (',"metadata":{}', b',"payload":{},"metadata":{}}'),
            (',"payload":null', b',"payload":{}}'),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for found in ingested(folder, b"".join(line(number, rest) for number in range(100))):
            assert found.endswith(b'"schema_version":1' + end)


def test_payloads_of_megabytes_are_whole(tmp_path: Path):
    payloads = ['{"n":%d,"text":"%s"}' % (number, "é\\n" * 400_000) for number in range(2)]  # noqa: UP031
    payloads.append("{" + ",".join(f'"k{number}":[{number}.0]' for number in range(50_000)) + "}")
    lines = ingested(tmp_path, b"".join(line(n, f',"payload":{text}') for n, text in enumerate(payloads)))
    for found, text in zip(lines, payloads, strict=True):
        assert found.endswith(f',"payload":{text}}}'.encode())


def test_names_and_ids_come_back_as_the_texts_they_are(tmp_path: Path):
    texts = ['say "é"', "back\\slash", "tab\tnul\x00", "🧦", "\u2028", "</script>", "../../etc/passwd", " "]
    names = ("event_id", "source_id", "stream_id", "event_type")
    events = [dict.fromkeys(names, text) for text in texts]
    for copy in range(70):  # often enough to be read together; an id comes once from a source
        name = ("event_id", "source_id")[copy % 2]
        events += [dict.fromkeys(names, text) | {name: f"{text}{copy}"} for text in texts]
    lines = ingested(tmp_path, b"".join(json.dumps(event).encode() + b"\n" for event in events))
    assert [{name: json.loads(found)[name] for name in names} for found in lines] == events
