"""CloudEvents 1.0: attributes to fields, data in all its forms, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import as_frame

from evtool.config import IngestConfig
from evtool.envelope import RejectedError
from evtool.ingest import cloudevents, formats, mapping
from evtool.ingest.mapping import Rules

# The example of the specification (CloudEvents - Version 1.0.2, section "Example"), on one line.
EXAMPLE = (
    '{"specversion" : "1.0","type" : "com.github.pull_request.opened","source" : '
    '"https://github.com/cloudevents/spec/pull","subject" : "123","id" : "A234-1234-1234",'
    '"time" : "2018-04-05T17:31:00Z","comexampleextension1" : "value","comexampleothervalue" : 5,'
    '"datacontenttype" : "text/xml","data" : "<much wow=\\"xml\\"/>"}'
)
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def parsed(*lines: str, **options: Any) -> Any:
    return formats.parser(IngestConfig(format="cloudevents", **options)).parse(
        "".join(f"{x}\n" for x in lines).encode()
    )


def event(line: str | dict[str, Any], **options: Any) -> dict[str, Any]:
    found = parsed(line if isinstance(line, str) else json.dumps(line), **options)
    assert found.rejects == ()
    return as_frame(found.events, found.order).row(0, named=True)


def reason(line: dict[str, Any]) -> str:
    (reject,) = parsed(json.dumps(line)).rejects
    return str(reject.reason)


def test_the_example_of_the_specification():
    assert event(EXAMPLE) == {
        "event_id": "A234-1234-1234",
        "source_id": "https://github.com/cloudevents/spec/pull",
        "stream_id": "123",
        "event_type": "com.github.pull_request.opened",
        "timestamp": 1_522_949_460 * 10**9,
        "stream_version": None,
        "schema_version": 1,
        "payload": '{"data":"<much wow=\\"xml\\"/>"}',
        "metadata": '{"comexampleextension1":"value","comexampleothervalue":5,"datacontenttype":"text/xml"}',
    }


def test_without_a_subject_the_source_is_the_stream():
    found = event(EVENT)
    assert (found["stream_id"], found["payload"], found["metadata"]) == ("/s", "{}", None)


@pytest.mark.parametrize(
    ("member", "payload"),
    [
        ('"data":{"a": 1.0}', '{"a": 1.0}'),
        ('"data":[1, 2.50]', '{"data":[1, 2.50]}'),
        ('"data":"\\u00e9"', '{"data":"\\u00e9"}'),
        ('"data":12345678901234567890123', '{"data":12345678901234567890123}'),
        ('"data":false', '{"data":false}'),
        ('"data":null', "{}"),
        ('"data_base64":"AAE="', '{"data_base64":"AAE="}'),
        ('"data":null,"data_base64":"AAE="', '{"data_base64":"AAE="}'),
    ],
)
def test_data_keeps_every_byte_and_is_wrapped_unless_it_is_an_object(member: str, payload: str):
    found = event(json.dumps(EVENT, separators=(",", ":"))[:-1] + f",{member}}}")
    assert (found["payload"], found["metadata"]) == (payload, None)


@pytest.mark.parametrize("version", ["0.3", "1.1", "1", 1.0, None, ["1.0"]])
def test_another_specversion_is_a_dead_letter(version: Any):
    assert reason(EVENT | {"specversion": version}) == "specversion_unknown"


def test_no_specversion_is_a_dead_letter():
    assert reason({key: value for key, value in EVENT.items() if key != "specversion"}) == "specversion_unknown"


def test_a_specversion_that_is_spelled_with_escapes_is_the_same():
    assert event(json.dumps(EVENT).replace("1.0", "1\\u002e0"))["event_id"] == "1"


@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_the_attributes_that_every_event_has(name: str):
    assert reason({key: value for key, value in EVENT.items() if key != name}) == "missing_field"
    assert reason(EVENT | {name: ""}) == "empty_field"


def test_data_in_two_forms_is_refused():
    assert reason(EVENT | {"data": {}, "data_base64": ""}) == "wrong_type"


def test_attributes_of_the_envelope_s_names_are_extensions_like_any_other():
    found = event(EVENT | {"metadata": 1, "timestamp": "x", "stream_id": "y", "payload": 2})
    assert json.loads(found["metadata"]) == {"metadata": 1, "timestamp": "x", "stream_id": "y", "payload": 2}
    assert found["timestamp"] is None


def test_fields_can_be_mapped_otherwise():
    line = EVENT | {"subject": "b", "partitionkey": "p", "data": {"v": 3}}
    found = event(line, fields={"stream_id": "partitionkey", "schema_version": "data.v", "payload": "."})
    assert (found["stream_id"], found["schema_version"]) == ("p", 3)
    assert (json.loads(found["payload"]), found["metadata"]) == (line, None)


MEMBERS = st.dictionaries(
    st.sampled_from(["specversion", *EVENT, "subject", "time", "data", "data_base64", "ext", "metadata"]),
    st.sampled_from(["1.0", "1.0", "x", 1, 2.5, None, True, {}, {"a": [1]}, [1], "2026-01-01T00:00:00Z"]),
)


@settings(max_examples=200)
@given(lines=st.lists(MEMBERS, max_size=20), spaced=st.booleans())
def test_the_fast_way_says_what_the_slow_way_says(lines: list[dict[str, Any]], spaced: bool):
    texts = [json.dumps(EVENT | line, separators=None if spaced else (",", ":")) for line in lines]
    found = parsed(*texts)
    rows: dict[int, Any] = dict(
        zip(
            found.events["row"].take(found.order).to_pylist(),
            as_frame(found.events, found.order).rows(),
            strict=True,
        )
    )
    reasons = {reject.row: reject.reason for reject in found.rejects}
    shape = cloudevents.shape_of({})
    for number, text in enumerate(texts):
        try:
            expected: Any = mapping.row(text.encode(), shape, Rules())
        except RejectedError as error:
            expected = error.reason
        assert (rows | reasons)[number] == expected
