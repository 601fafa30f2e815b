"""What other systems write, loaded with a few lines of evtool.toml; formats, ids and zones as flags."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from command_line import as_json, failed, letters, replayed, run
from foreign_lines import CLOUDTRAIL, GITHUB, SNOWPLOW

CLOUDTRAIL_TOML = """
[ingest]
records = "Records"
[ingest.fields]
event_id = "eventID"
source_id = "eventSource"
stream_id = ["userIdentity.arn", "userIdentity.invokedBy"]
event_type = "eventName"
timestamp = "eventTime"
payload = "."
"""
SNOWPLOW_TOML = """
[ingest]
timezone = "UTC"
[ingest.fields]
source_id = "app_id"
stream_id = ["user_id", "domain_userid"]
event_type = "event_name"
timestamp = "collector_tstamp"
schema_version = { constant = 1 }
payload = "."
"""
GITHUB_TOML = """
[ingest]
source = "github"
[ingest.fields]
event_id = "id"
stream_id = "actor.id"
event_type = "type"
timestamp = "created_at"
"""


def configured(folder: Path, text: str) -> None:
    (folder / "evtool.toml").write_text(text, encoding="utf-8")


def test_cloudtrail_files_as_they_are_delivered(tmp_path: Path):
    configured(tmp_path, CLOUDTRAIL_TOML)
    file = tmp_path / "123456789012_CloudTrail.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"Records": CLOUDTRAIL}).encode()))
    run("ingest", file, cwd=tmp_path)
    events = replayed(tmp_path / "segments")
    assert [event["payload"] for event in events] == CLOUDTRAIL
    assert [event["stream_id"] for event in events] == [
        "arn:aws:sts::123456789012:assumed-role/reader/session",
        "cloudtrail.amazonaws.com",
    ]
    assert [event["event_id"] for event in events] == [record["eventID"] for record in CLOUDTRAIL]
    assert as_json("ingest", file, cwd=tmp_path)["duplicates"] == 2


def test_cloudtrail_one_record_a_line(tmp_path: Path):
    configured(tmp_path, CLOUDTRAIL_TOML.replace('records = "Records"', ""))
    run("ingest", cwd=tmp_path, stdin="".join(json.dumps(record) + "\n" for record in CLOUDTRAIL).encode())
    assert [event["payload"] for event in replayed(tmp_path / "segments")] == CLOUDTRAIL


def test_snowplow_s_events_whose_times_have_no_offset(tmp_path: Path):
    configured(tmp_path, SNOWPLOW_TOML)
    run("ingest", cwd=tmp_path, stdin="".join(json.dumps(event) + "\n" for event in SNOWPLOW).encode())
    events = replayed(tmp_path / "segments")
    assert [event["payload"] for event in events] == SNOWPLOW
    assert [event["stream_id"] for event in events] == ["bc2e92ec6c204a14", "42"]
    assert {event["timestamp"] for event in events} == {"2026-01-31T12:00:00.123000000Z"}
    # Without the constant the field is looked for under its own name, and there is another thing of this name.
    configured(tmp_path, SNOWPLOW_TOML.replace("schema_version", "# schema_version"))
    run("ingest", "--log", "other", cwd=tmp_path, stdin=json.dumps(SNOWPLOW[0]).encode())
    assert [letter["reason"] for letter in letters(tmp_path / "other")] == ["wrong_type"]


def test_github_s_events_with_their_own_payload(tmp_path: Path):
    configured(tmp_path, GITHUB_TOML)
    run("ingest", cwd=tmp_path, stdin="".join(GITHUB).encode())
    for event, line in zip(replayed(tmp_path / "segments"), map(json.loads, GITHUB), strict=True):
        assert event["payload"] == line["payload"]
        assert event["stream_id"] == str(line["actor"]["id"])
        rest = ("actor", "repo", "public", "org")
        assert event["metadata"] == {key: line[key] for key in rest if key in line}


def test_a_mapping_that_names_nothing_stops_before_anything_is_stored(tmp_path: Path):
    configured(tmp_path, GITHUB_TOML.replace("actor.id", "actor.uid"))
    said = run("ingest", cwd=tmp_path, stdin="".join(GITHUB).encode() * 100, code=3).stderr.decode()
    assert re.search(r'ingest\.fields\.stream_id = "actor\.uid" names nothing in the first \d+ events', said)
    assert "Did you mean 'actor.id'?" in said
    assert "1: id, type, actor, repo, payload, public, created_at; 2: id" in said
    assert as_json("stats", cwd=tmp_path)["events"] == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[ingest.fields]\nstream = "a"', "no field"),
        ('[ingest.fields]\nstream_id = "a["', "no path"),
        ('[ingest]\nfields = "a"', "a table is wanted"),
        ('[ingest]\nformat = "xml"', "is none of"),
        ('[ingest]\ntimezone = "Europe/Nowhere"', "no time zone"),
        ('[ingest]\ntimezone = "../etc/passwd"', "no time zone"),
        ('[ingest]\nderive_id = "random"', "is none of"),
        ('[ingest]\nrecords = "Records"', "is for JSON"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_an_error(tmp_path: Path, text: str, word: str):
    configured(tmp_path, text)
    assert word in failed(3, "ingest", cwd=tmp_path)


@pytest.mark.parametrize(
    ("flag", "value"), [("--format", "xml"), ("--timezone", "Mars/Olympus"), ("--derive-id", "random")]
)
def test_a_flag_that_makes_no_sense_names_itself(tmp_path: Path, flag: str, value: str):
    assert f"{flag}: '{value}'" in failed(3, "ingest", flag, value, cwd=tmp_path)


def test_cloudevents_by_a_flag_one_a_line_or_in_an_array(tmp_path: Path):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"n": 1}}
    lines = [json.dumps(event | {"id": str(number)}) for number in range(3)]
    bad = json.dumps(event | {"specversion": "0.3"})
    run("ingest", "--format", "cloudevents", cwd=tmp_path, stdin="\n".join([*lines, bad]).encode())
    (letter,) = letters(tmp_path / "segments")
    assert (letter["reason"], letter["line"], letter["raw"]) == ("specversion_unknown", 4, bad)
    array = ("[" + " ,\n".join(lines) + "\n]\n").encode()
    said = as_json("ingest", "--format", "cloudevents", cwd=tmp_path, stdin=array)
    assert (said["accepted"], said["duplicates"]) == (0, 3)
    assert [event["event_id"] for event in replayed(tmp_path / "segments")] == ["0", "1", "2"]


def test_csv_from_a_pipe_twice(tmp_path: Path):
    text = b"customer,what,at,sum\n" + b"".join(
        b"c%d,Bought,2026-07-01T12:00:00,%d.50\n" % (n, n) for n in range(5)
    )
    configured(
        tmp_path,
        '[ingest]\nsource = "till"\nderive_id = "content"\n'
        '[ingest.fields]\nstream_id = "customer"\nevent_type = "what"\ntimestamp = "at"\n',
    )
    flags = ("ingest", "--format", "csv", "--timezone", "Europe/Berlin")
    first, second = (as_json(*flags, cwd=tmp_path, stdin=text) for _ in range(2))
    assert (first["accepted"], second["accepted"], second["duplicates"]) == (5, 0, 5)
    events = replayed(tmp_path / "segments")
    assert [event["payload"] for event in events] == [{"sum": f"{n}.50"} for n in range(5)]
    assert {event["timestamp"] for event in events} == {"2026-07-01T10:00:00.000000000Z"}


def test_parquet_needs_a_file(tmp_path: Path):
    told = run("ingest", "--format", "parquet", cwd=tmp_path, stdin=b"PAR1", code=4).stderr.decode()
    assert "Parquet cannot be read from a pipe" in told
