"""Local times in a zone: by the column and one by one, and where clocks are set."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evtool import timecolumns, timestamps
from evtool.timestamps import SECOND_NS, TimestampError

BERLIN = ZoneInfo("Europe/Berlin")
# Offsets of half and quarter hours and of odd seconds, changes by half an hour and at midnight, a day left out.
ZONES = [
    *("Europe/Berlin", "UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo"),
    *("Pacific/Apia", "Africa/Monrovia", "Europe/Amsterdam", "America/St_Johns", "Asia/Pyongyang"),
]


def utc(text: str) -> int:
    return timestamps.parse_text(text)


@pytest.mark.parametrize(
    ("local", "moment"),
    [
        ("2026-01-31T12:00:00", "2026-01-31T11:00:00Z"),
        ("2026-07-31 12:00:00.123456789", "2026-07-31T10:00:00.123456789Z"),
        ("2026-03-29T01:59:59.9", "2026-03-29T00:59:59.9Z"),
        ("2026-03-29T02:30:00", "2026-03-29T01:30:00Z"),  # left out: 03:30 in summer time
        ("2026-03-29T03:00:00", "2026-03-29T01:00:00Z"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00Z"),  # comes twice: the first
        ("2026-10-25T02:59:59.999999999", "2026-10-25T00:59:59.999999999Z"),
        ("2026-10-25T03:00:00", "2026-10-25T02:00:00Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00-05:00", "2026-01-31T17:00:00Z"),
    ],
)
def test_local_times_in_berlin(local: str, moment: str):
    assert timestamps.parse_text(local, BERLIN) == utc(moment)
    nanoseconds, good = timecolumns.parse_texts(pa.array([local] * 3), BERLIN)
    assert (nanoseconds.tolist(), good.tolist()) == ([utc(moment)] * 3, [True] * 3)


def test_an_hour_amid_which_clocks_were_set():
    # Monrovia went from 00:00:00 to 00:44:30 on that day.
    local = pa.array([f"1972-01-07T00:{minute}:00" for minute in (10, 44, 50)])
    nanoseconds, good = timecolumns.parse_texts(local, ZoneInfo("Africa/Monrovia"))
    assert good.all()
    wanted = ["1972-01-07T00:54:30Z", "1972-01-07T01:28:30Z", "1972-01-07T00:50:00Z"]
    assert nanoseconds.tolist() == [utc(text) for text in wanted]


def test_without_a_zone_a_local_time_is_refused():
    with pytest.raises(TimestampError) as caught:
        timestamps.parse_text("2026-01-31T12:00:00")
    assert caught.value.reason == "timestamp_without_offset"
    assert not timecolumns.parse_texts(pa.array(["2026-01-31T12:00:00"]))[1].any()


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00", "2026-01-31", "2026-01-31T12:00:00.", "2026-01-31T12:00:00+01", "x" * 19]
)
def test_a_zone_makes_no_other_text_a_time(text: str):
    with pytest.raises(TimestampError):
        timestamps.parse_text(text, BERLIN)
    assert timecolumns.parse_texts(pa.array([text, "2026-01-31T12:00:00"]), BERLIN)[1].tolist() == [False, True]


MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2262, 4, 10))
NEAR_CHANGES = st.builds(
    lambda year, month, day, minutes: datetime(year, month, day) + timedelta(minutes=minutes),
    st.integers(1880, 2040),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(-200, 200),
)
ENDINGS = st.sampled_from(["", "", "", ".5", ".123456789", "Z", "+05:30"])


@settings(max_examples=300)
@given(
    zone=st.sampled_from(ZONES),
    texts=st.lists(st.tuples(MOMENTS | NEAR_CHANGES, ENDINGS), min_size=1, max_size=20),
)
def test_a_column_of_local_times_is_what_zoneinfo_says_of_each(zone: str, texts: list[tuple[datetime, str]]):
    written = [moment.replace(microsecond=0).isoformat() + ending for moment, ending in texts]
    nanoseconds, good = timecolumns.parse_texts(pa.array(written), ZoneInfo(zone))
    assert good.all()
    for text, (local, ending), found in zip(written, texts, nanoseconds.tolist(), strict=True):
        assert found == timestamps.parse_text(text, ZoneInfo(zone))
        if ending[:1] in ("", "."):
            aware = local.replace(microsecond=0, tzinfo=ZoneInfo(zone))
            seconds = round((aware - datetime.fromisoformat("1970-01-01T00:00:00+00:00")).total_seconds())
            assert found == seconds * SECOND_NS + int((ending[1:] or "0").ljust(9, "0"))


@pytest.mark.parametrize("text", ["1677-09-21T00:12:44", "2262-04-11T23:47:16"])
def test_the_ends_of_the_range_are_those_of_utc(text: str):
    for zone in ("America/New_York", "Asia/Tokyo", "UTC"):
        nanoseconds, good = timecolumns.parse_texts(pa.array([text]), ZoneInfo(zone))
        if good[0]:
            assert nanoseconds[0] == timestamps.parse_text(text, ZoneInfo(zone))
            continue
        with pytest.raises(TimestampError) as caught:
            timestamps.parse_text(text, ZoneInfo(zone))
        assert caught.value.reason == "timestamp_out_of_range"
