"""What is taken for a JSON Schema, and what is refused: nothing is fetched, whatever a schema refers to."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from evtool.errors import SchemaError
from evtool.schemas import document

REMOTE = [
    '{"$ref":"https://example.com/a.json"}',
    '{"$ref":"http://127.0.0.1:9/a.json"}',
    '{"$ref":"other.json"}',
    '{"$id":"https://example.com/a","$ref":"b"}',
    '{"$defs":{"never used":{"$ref":"https://example.com/a.json"}}}',
    '{"properties":{"a":{"items":{"$ref":"https://example.com/a.json#/x"}}}}',
    '{"$dynamicRef":"https://example.com/a.json"}',
    '{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"https://example.com/a.json"}',
]


@pytest.mark.parametrize("text", REMOTE)
def test_a_reference_to_another_document_is_refused_and_not_followed(text: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(SchemaError, match="refers to what is not in it") as caught:
        document.parse(text, "order.json")
    assert str(caught.value).startswith("order.json ")
    assert "nothing is fetched" in caught.value.hint


def test_a_file_is_not_fetched_either(tmp_path: Path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(SchemaError, match="refers to what is not in it"):
        document.parse(json.dumps({"$ref": other.as_uri()}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ('{"type":', "not JSON"),
        ("null", "not JSON: it is JSON, but no object"),
        ("[]", "it is JSON, but no object"),
        ('{"type":"object"} {}', "not JSON"),
        ('{"type":"strin"}', "no JSON Schema: /type"),
        ('{"properties":{"a/b":{"minimum":"1"}}}', "no JSON Schema: /properties/a~1b/minimum"),
        ('{"pattern":"("}', "no JSON Schema: /pattern"),
        ('{"$ref":"#/$defs/absent"}', "refers to what is not in it"),
        ('{"$schema":"https://example.com/mine"}', "draft that is not known"),
        ('{"type":"object","type":"string"}', "the key 'type' stands twice"),
        ('{"maximum":' + "9" * 5000 + "}", "no JSON Schema"),
        ('{"a":' + "[" * 200 + "]" * 200 + "}", "nests deeper"),
        ('{"description":"' + "x" * document.TEXT_BYTES_MAX + '"}', "is the limit"),
        ('{"description":"\ud800"}', "surrogate"),
    ],
    ids=lambda text: text[:30].encode(errors="replace").decode(),
)
def test_what_is_no_schema_is_refused_with_its_place(text: str, says: str):
    with pytest.raises(SchemaError) as caught:
        document.parse(text)
    assert says in caught.value.message
    assert len(caught.value.message) < 500


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(SchemaError, match="UTF-8"):
        document.parse(b'{"description":"\xff"}')


@pytest.mark.parametrize(
    "text",
    [
        "true",
        " false\n",
        "{}",
        '{"$schema":"http://json-schema.org/draft-04/schema#","minimum":1,"exclusiveMinimum":true}',
        '{"$schema":"http://json-schema.org/draft-07/schema#","items":[true]}',
        '{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[true]}',
        '{"$defs":{"d":{"type":"string"}},"$ref":"#/$defs/d"}',
        '{"$defs":{"d":{"$anchor":"here"}},"$ref":"#here"}',
        '{"$ref":"https://json-schema.org/draft/2020-12/schema"}',
        '{"properties":{"$ref":{"const":{"$ref":"https://example.com"}}}}',
    ],
)
def test_a_schema_that_stands_alone_is_taken(text: str):
    found = document.parse(text)
    assert found.text == text
    assert len(found.digest) == 16


def test_the_same_text_has_the_same_digest_and_no_other():
    first, second = document.parse('{"a":1}'), document.parse('{"a": 1}')
    assert first.digest == document.parse('{"a":1}').digest != second.digest


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", None])
def test_format_is_an_annotation_in_every_draft(draft: str | None):
    schema = {"properties": {"day": {"format": "date"}}} | ({"$schema": draft} if draft else {})
    assert document.compiled(json.dumps(schema)).is_valid({"day": "no day"})


def test_a_breach_names_place_rule_and_what_is_wrong_and_is_not_long():
    validator = document.compiled('{"properties":{"a/b":{"items":{"maxLength":3}}}}')
    found = document.breach(validator, {"a/b": ["x", "y" * 100_000]})
    assert found is not None
    assert (found.path, found.rule) == ("/a~1b/1", "/properties/a~1b/items/maxLength")
    assert len(str(found)) < 400
    assert "longer than 3" in str(found)
    assert document.breach(validator, {}) is None
