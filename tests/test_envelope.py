"""The rules for a single event and for a frame of them, as `append` applies them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import as_frame

from evtool import envelope
from evtool.batch import BATCH_SCHEMA
from evtool.envelope import REASONS, RejectedError
from evtool.errors import EventError
from evtool.event import EVENT_SCHEMA, POSITION_SCHEMA, TEXT_BYTES_MAX

BASE: dict[str, Any] = {"event_id": "1", "source_id": "shop", "stream_id": "user-1", "event_type": "Seen"}
ROW = ("1", "shop", "user-1", "Seen", None, None, 1, "{}", None)
COLUMNS = list(EVENT_SCHEMA)


def row_with(**fields: Any) -> dict[str, Any]:
    """The columns of BASE with some fields changed."""
    return dict(zip(EVENT_SCHEMA, envelope.row(BASE | fields), strict=True))


def refusal(**fields: Any) -> tuple[str, str]:
    """Why BASE with some fields changed is refused: the reason and the message."""
    with pytest.raises(RejectedError) as caught:
        envelope.row(BASE | fields)
    assert caught.value.reason in REASONS
    return caught.value.reason, str(caught.value)


def test_what_is_absent_gets_its_default():
    assert envelope.row(BASE) == ROW
    assert envelope.row(BASE | dict.fromkeys(COLUMNS[4:])) == ROW


def test_what_the_log_gives_is_ignored():
    assert envelope.row(BASE | {"position": 7, "recorded_at": "whatever"}) == ROW


def test_the_default_source_stands_in_for_none_only():
    assert envelope.row(BASE | {"source_id": None}, "pipe")[1] == "pipe"
    assert envelope.row(BASE, "pipe")[1] == "shop"
    assert refusal(source_id="")[0] == "empty_field"
    reason, message = refusal(source_id=None)
    assert reason == "missing_field"
    assert "--source" in message


@pytest.mark.parametrize("name", TEXT_BYTES_MAX)
def test_a_text_has_its_limit_in_bytes(name: str):
    limit = TEXT_BYTES_MAX[name]
    for character, size in (("a", 1), ("é", 2), ("日", 3), ("🧦", 4)):
        longest = character * (limit // size) + "a" * (limit % size)
        assert row_with(**{name: longest})[name] == longest
        assert refusal(**{name: longest + "a"})[0] == "text_too_long"
    assert refusal(**{name: None})[0] == "missing_field"
    assert refusal(**{name: ""})[0] == "empty_field"
    assert refusal(**{name: "\ud800"})[0] == "lone_surrogate"
    for value in (7, 1.5, True, b"bytes", ["a"], {}):
        assert refusal(**{name: value})[0] == "wrong_type"


def test_an_unknown_field_is_named():
    reason, message = refusal(colour="red")
    assert reason == "unknown_field"
    assert "'colour'" in message


@pytest.mark.parametrize(("name", "limit"), [("stream_version", 2**63 - 1), ("schema_version", 2**31 - 1)])
def test_a_version_is_a_whole_number_of_its_range(name: str, limit: int):
    for value in (1, 2, limit):
        assert row_with(**{name: value})[name] == value
    for value in (0, -1, limit + 1, 10**30):
        assert refusal(**{name: value})[0] == "number_out_of_range"
    for value in (True, 1.0, "1", Decimal(1), [1]):
        assert refusal(**{name: value})[0] == "wrong_type"


@pytest.mark.parametrize("name", ["stream_version", "schema_version", "timestamp"])
def test_a_number_too_long_to_be_shown_is_refused_all_the_same(name: str):
    assert refusal(**{name: 10**5000})[0] in ("number_out_of_range", "timestamp_out_of_range")


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("2026-01-01T00:00:00.123456789Z", 1_767_225_600_123_456_789),
        (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600 * 10**9),
        (datetime(2026, 1, 1, 2, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))), 1_767_225_600_000_005_000),
        (1_767_225_600, 1_767_225_600 * 10**9),
        (1_767_225_600.25, 1_767_225_600_250_000_000),
        (Decimal("1767225600.000000001"), 1_767_225_600_000_000_001),
        (0, 0),
    ],
)
def test_a_timestamp_is_a_text_a_number_or_a_datetime(value: Any, nanoseconds: int):
    assert row_with(timestamp=value)["timestamp"] == nanoseconds


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("yesterday", "timestamp_invalid"),
        ("2026-01-01T00:00:00", "timestamp_without_offset"),
        (datetime(2026, 1, 1), "timestamp_without_offset"),  # that is the point
        (datetime(9999, 1, 1, tzinfo=UTC), "timestamp_out_of_range"),
        (2**63, "timestamp_out_of_range"),
        (float("nan"), "timestamp_out_of_range"),
        (True, "wrong_type"),
        (b"2026-01-01T00:00:00Z", "wrong_type"),
        ([], "wrong_type"),
    ],
)
def test_a_bad_timestamp_is_refused_for_its_reason(value: Any, reason: str):
    found, message = refusal(timestamp=value)
    assert found == reason
    assert message.startswith("timestamp")


@pytest.mark.parametrize("name", ["payload", "metadata"])
class TestObjects:
    @pytest.mark.parametrize("text", ['{ "b":1.10, "a" : "\\u00e9\\/" }', "{}", ' {"a":\t1} ', '{"a":1,"a":2}'])
    def test_a_text_is_kept_as_it_is(self, name: str, text: str):
        assert row_with(**{name: text})[name] == text
        assert row_with(**{name: text.encode()})[name] == text

    def test_a_mapping_is_written_compactly_in_its_order(self, name: str):
        value = MappingProxyType({"b": [1, 1.5, True, None, "é"], "a": {}, "n": 10**30})
        assert row_with(**{name: value})[name] == f'{{"b":[1,1.5,true,null,"é"],"a":{{}},"n":{10**30}}}'

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("[]", "wrong_type"),
            ("null", "wrong_type"),
            ([], "wrong_type"),
            (7, "wrong_type"),
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("{}{}", "invalid_json"),
            ('{"a":\n1}', "wrong_type"),  # a replay writes it on one line
            ("{}\n", "wrong_type"),
            (b'{"a":"\xff"}', "bad_utf8"),
            ('{"a":"\\ud800"}', "lone_surrogate"),
            ('{"a":"\ud800"}', "lone_surrogate"),
            ({"a": "\ud800"}, "lone_surrogate"),
            ('{"a":' * 128 + "1" + "}" * 128, "nesting_too_deep"),
            ({"a": object()}, "wrong_type"),
            ({(1, 2): 3}, "wrong_type"),
        ],
    )
    def test_anything_else_is_refused_for_its_reason(self, name: str, value: Any, reason: str):
        found, message = refusal(**{name: value})
        assert found == reason
        assert name in message

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_json_lacks_does_not_become_null(self, name: str, number: float):
        assert refusal(**{name: {"a": number}})[0] == "wrong_type"

    def test_a_mapping_within_itself_is_refused(self, name: str):
        value: dict[str, Any] = {}
        value["self"] = value
        assert refusal(**{name: value})[0] in ("wrong_type", "nesting_too_deep")


def test_a_batch_names_its_bad_event():
    with pytest.raises(EventError, match=r"event 2 of the batch: stream_id is missing \(missing_field\)"):
        envelope.batch([BASE, BASE, {"event_id": "3", "source_id": "shop"}])


def test_batches_of_events_have_the_envelope_s_columns():
    assert envelope.batch([BASE, BASE]).schema == BATCH_SCHEMA
    assert envelope.batch([]).schema == BATCH_SCHEMA
    assert as_frame(envelope.batch([BASE, BASE])).rows() == [ROW, ROW]


def test_an_id_that_is_a_uuid_travels_as_its_bytes():
    uuid = "00112233-4455-6677-8899-aabbccddeeff"
    batch = envelope.batch([BASE | {"event_id": uuid}, BASE])
    assert batch["event_uuid"].to_pylist() == [bytes.fromhex(uuid.replace("-", "")), None]
    assert batch["event_id"].to_pylist() == [None, BASE["event_id"]]


def frame_with(**columns: Any) -> pl.DataFrame:
    """One event as a frame, some columns given as Series or lists."""
    base = pl.DataFrame({name: [value] for name, value in BASE.items()})
    return base.with_columns(pl.Series(name, values) for name, values in columns.items())


def checked(frame: pl.DataFrame, default_source: str | None = None) -> pl.DataFrame:
    """What becomes of a frame that is handed to `append`."""
    return as_frame(envelope.frame_to_batch(frame, default_source))


def test_a_frame_is_completed():
    assert checked(frame_with()).rows() == [ROW]
    assert envelope.frame_to_batch(frame_with()).schema == BATCH_SCHEMA
    assert checked(frame_with(position=[9], recorded_at=[9])).rows() == [ROW]
    assert checked(frame_with().drop("source_id"), "pipe")["source_id"].to_list() == ["pipe"]
    assert len(checked(frame_with().clear())) == 0


def test_a_frame_s_datetimes_are_moments():
    moment = datetime(2026, 1, 1, 0, 0, 0, 7000, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        column = pl.Series([moment]).cast(pl.Datetime(unit, "UTC"))
        found = checked(frame_with(timestamp=column))
        assert found["timestamp"].to_list() == [1_767_225_600_007_000_000]
    elsewhere = pl.Series([moment]).dt.convert_time_zone("Asia/Tokyo")
    assert checked(frame_with(timestamp=elsewhere))["timestamp"].to_list() == [1_767_225_600_007_000_000]


@pytest.mark.parametrize(
    "columns",
    [
        {"colour": ["red"]},
        {"event_id": [None]},
        {"event_id": [""]},
        {"event_id": ["é" * 129]},
        {"stream_id": ["s" * 1025]},
        {"stream_version": [0]},
        {"stream_version": ["one"]},
        {"schema_version": [0]},
        {"schema_version": [2**31]},
        {"payload": ["[]"]},
        {"payload": ["{}{}"]},
        {"payload": ['{"a":\n1}']},
        {"payload": ["{}\n"]},
        {"payload": ['{"a":"\\ud800"}']},
        {"metadata": ["null"]},
        {"metadata": [""]},
        {"timestamp": ["yesterday"]},
        {"timestamp": pl.Series([datetime(2026, 1, 1)])},  # names no moment
        {"timestamp": pl.Series([datetime(3000, 1, 1, tzinfo=UTC)])},
        {"stream_version": [1.5]},
        {"timestamp": [1.5]},
    ],
    ids=str,
)
def test_a_frame_that_breaks_a_rule_is_refused(columns: dict[str, Any]):
    with pytest.raises(EventError):
        checked(frame_with(**columns))


@pytest.mark.parametrize("payload", [" {} ", "{}", "\t{}", "{\r}"])
def test_a_frame_s_objects_may_have_spaces_around(payload: str):
    found = checked(pl.concat([frame_with(payload=[payload])] * 3))
    assert found["payload"].to_list() == [payload] * 3


FIELDS = {
    "event_id": st.sampled_from(["1", "é" * 128, "é" * 129, "", None]),
    "source_id": st.sampled_from(["shop", None, ""]),
    "stream_id": st.sampled_from(["user-1", "s" * 1024, "s" * 1025]),
    "event_type": st.sampled_from(["Seen", "Bought", None]),
    "timestamp": st.sampled_from([None, 0, 10**18, -(2**63)]),
    "stream_version": st.sampled_from([None, 1, 7, 0, -1]),
    "schema_version": st.sampled_from([None, 1, 2**31 - 1, 0]),
    "payload": st.sampled_from([None, "{}", '{"a":1.10}', ' {"a" : 1}', '{"a":1', "}", "{}{}", "[]"]),
    "metadata": st.sampled_from([None, "{}", '{"b":[]}', "x", "{} {}"]),
}
GOOD_MOSTLY = {name: st.just(BASE.get(name)) | values for name, values in FIELDS.items()}


@settings(max_examples=200)
@given(st.lists(st.fixed_dictionaries(GOOD_MOSTLY), min_size=1, max_size=4))
def test_a_frame_is_taken_when_each_of_its_events_is(events: list[dict[str, Any]]):
    # In a frame a timestamp counts nanoseconds, so it is compared apart.
    frame = pl.DataFrame(events, schema=EVENT_SCHEMA, orient="row")
    try:
        rows = [envelope.row(event | {"timestamp": None}, "pipe") for event in events]
    except RejectedError:
        with pytest.raises(EventError):
            checked(frame, "pipe")
        return
    found = checked(frame, "pipe")
    assert found.with_columns(pl.lit(None, pl.Int64).alias("timestamp")).rows() == rows
    assert found["timestamp"].to_list() == [event["timestamp"] for event in events]


@given(st.dictionaries(st.text(max_size=2), st.integers() | st.text(max_size=3) | st.booleans() | st.none()))
def test_a_mapping_reads_back(value: dict[str, Any]):
    try:
        text = row_with(payload=value)["payload"]
    except RejectedError as error:
        assert error.reason == "lone_surrogate"  # noqa: PT017  # nothing else may be wrong with it
        return
    assert json.loads(text) == value


def test_every_reason_says_what_it_means():
    assert all(REASONS.values())
    assert list(POSITION_SCHEMA) == ["position", "recorded_at"]
