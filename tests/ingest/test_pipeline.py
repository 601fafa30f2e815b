"""An ingest as a whole, in one process: batches, dead letters with their lines, stopping and going on."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from event_lines import chunk, joined
from hypothesis import given, settings
from hypothesis import strategies as st

import evtool
from evtool.config import Config, IngestConfig
from evtool.envelope import RejectedError
from evtool.errors import InputError
from evtool.event import EVENT_SCHEMA
from evtool.ingest import members, sources
from evtool.ingest.pipeline import Ingest, Summary
from evtool.ingest.sources import Chunk, Reader
from evtool.lifecycle.verify import verify


def line(number: int, **fields: Any) -> bytes:
    event = {"event_id": f"e-{number}", "source_id": "s", "stream_id": f"u-{number % 7}", "event_type": "Seen"}
    return json.dumps(event | {"payload": {"n": number}} | fields).encode() + b"\n"


def written(folder: Path, data: bytes, name: str = "events.ndjson") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def ingested(folder: Path, *paths: str, **options: Any) -> Summary:
    """Ingest into the log in `folder`; what it says must be what the log and the dead letters hold."""
    with evtool.open(folder, create=True) as log:
        before, buried = log.position, len(letters(folder))
        summary = Ingest(log, paths, IngestConfig(**options)).run()
        assert log.position - before == summary.accepted
        assert len(letters(folder)) - buried == summary.dead_letters
        if summary.accepted:
            assert (summary.first_position, summary.last_position) == (before + 1, log.position)
    return summary


def letters(folder: Path) -> list[dict[str, Any]]:
    path = folder / "dead-letters" / "dead-letters.ndjson"
    return [json.loads(text) for text in path.read_bytes().splitlines()] if path.exists() else []


def raw(letter: dict[str, Any]) -> bytes:
    assert ("raw" in letter) != ("raw_base64" in letter)
    return letter["raw"].encode() if "raw" in letter else b64decode(letter["raw_base64"])


def numbers(folder: Path) -> list[int]:
    """The numbers in the payloads of a log, in order, after it was verified."""
    with evtool.open(folder, read_only=True) as log:
        assert verify(log).is_clean
        return [json.loads(text)["payload"]["n"] for block in log.replay() for text in block.splitlines()]


class Expectation:
    """The events and dead letters that some files must give, read line by line and numbered by hand."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.buried: list[tuple[str, int, str, int, bytes]] = []
        self.duplicates = 0
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._versions: dict[str, int] = {}

    def read(self, path: str, data: bytes) -> None:
        for at, text in enumerate(data.split(b"\n"), start=1):
            text = text.removesuffix(b"\r")
            if not text.strip(b" \t\r"):
                continue
            try:
                event = dict(zip(EVENT_SCHEMA, members.row(text, "pipe", True), strict=True))
                reason = self._take(event)
            except RejectedError as error:
                reason = error.reason
            if reason:
                self.buried.append((path, at, reason, len(text), text))

    def _take(self, event: dict[str, Any]) -> str | None:
        """Store a good event, or say why not; of one that is there already nothing is said."""
        key = (event["source_id"], event["event_id"])
        if key in self._known:
            # Whoever leaves the version open agrees with any. A time that was left open is recorded_at.
            known = self._known[key] | ({"stream_version": None} if event["stream_version"] is None else {})
            self.duplicates += event == known
            return None if event == known else "id_conflict"
        following = self._versions.get(event["stream_id"], 0) + 1
        if event["stream_version"] not in (None, following):
            return "version_conflict"
        self._versions[event["stream_id"]] = event["stream_version"] = following
        self._known[key] = event
        self.events.append(event)
        return None


@settings(max_examples=20)
@given(
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    block_bytes=st.sampled_from([100, 5000, 2**20]),
    batch_events=st.sampled_from([7, 50, 10_000]),
)
def test_every_line_of_every_file_is_an_event_or_a_dead_letter_with_its_place(
    seeds: list[int], block_bytes: int, batch_events: int
):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", block_bytes)
        texts = {f"{name}/{number}.ndjson": joined(chunk(seed), seed) for number, seed in enumerate(seeds)}
        texts = {
            path: data[: len(data) - number % 2] for number, (path, data) in enumerate(texts.items(), seeds[0])
        }
        for path, data in texts.items():
            Path(path).write_bytes(data)
        folder = Path(name, "log")
        expected = Expectation()
        duplicates = 0
        for _ in range(2):  # the second time most of it is there already
            for path, data in texts.items():
                expected.read(path, data)
            duplicates += ingested(folder, *texts, source="pipe", batch_events=batch_events).duplicates
        assert duplicates == expected.duplicates >= len(expected.events) / 2
        fields = ("input", "line", "reason", "bytes")
        found = [(*(letter[field] for field in fields), raw(letter)) for letter in letters(folder)]
        assert sorted(found) == sorted(expected.buried)  # those of a batch may come in another order
        with evtool.open(folder, read_only=True) as log:
            stored = [row for frame in log.scan() for row in frame.to_dicts()]
            assert verify(log).is_clean
        for row, event in zip(stored, expected.events, strict=True):
            timestamp = row["recorded_at"] if event["timestamp"] is None else event["timestamp"]
            assert {field: row[field] for field in EVENT_SCHEMA} == event | {"timestamp": timestamp}


@pytest.mark.parametrize("batch_events", [3, 300, 1000, 1001])
def test_batches_are_cut_at_exactly_so_many_events(tmp_path: Path, batch_events: int):
    reached: list[int] = []
    data = b"".join(line(number) + b"oops\n" for number in range(1000))
    with evtool.open(tmp_path / "log", create=True) as log:
        config = IngestConfig(batch_events=batch_events, max_latency_ms=3_600_000)
        path = written(tmp_path, data)
        work = Ingest(log, [path], config, lambda summary: reached.append(summary.accepted))
        summary = work.run()
    assert reached == [*range(batch_events, 1000, batch_events), 1000]
    assert (summary.batches, summary.dead_letters, summary.bytes_in) == (
        len(reached),
        1000,
        len(data),
    )
    assert numbers(tmp_path / "log") == list(range(1000))


def test_batches_are_cut_at_so_much_text(tmp_path: Path):
    data = b"".join(line(number, metadata={"fill": "x" * 1000}) for number in range(1000))
    summary = ingested(tmp_path / "log", written(tmp_path, data), batch_bytes=100_000, max_latency_ms=3_600_000)
    assert 10 <= summary.batches <= 30
    assert numbers(tmp_path / "log") == list(range(1000))


def test_an_event_larger_than_a_batch_is_a_batch_of_its_own(tmp_path: Path):
    data = b"".join(line(number, metadata={"fill": "x" * 3000}) for number in range(5))
    assert ingested(tmp_path / "log", written(tmp_path, data), batch_bytes=1000).accepted == 5
    assert numbers(tmp_path / "log") == list(range(5))


@pytest.mark.parametrize("limit", [{"batch_events": 9, "batch_bytes": 1500}, {"batch_bytes": 1050}], ids=str)
def test_a_full_batch_takes_no_dead_letters_from_behind_its_last_event(tmp_path: Path, limit: dict[str, int]):
    # Otherwise they would come twice when the ingest is stopped there and goes on from the next line.
    lines = [line(number) if number % 10 else b"oops" for number in range(1000)]
    data = b"".join(text.strip().ljust(149) + b"\n" for text in lines)
    seen: list[tuple[int, int]] = []
    with evtool.open(tmp_path / "log", create=True) as log, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", 1500)
        config = IngestConfig(**limit, max_latency_ms=3_600_000)
        path = written(tmp_path, data)
        Ingest(log, [path], config, lambda s: seen.append((s.accepted, s.dead_letters))).run()
    assert len(seen) >= 100
    assert [(accepted, buried) for accepted, buried in seen if buried * 9 > accepted + 8] == []


def test_a_version_that_is_not_the_next_is_a_dead_letter_with_its_place(tmp_path: Path):
    data = b"".join(line(number, stream_id="one", stream_version=number + 1) for number in range(200))
    lines = data.splitlines(keepends=True)
    lines[150:150] = [
        b"\n",
        line(900, stream_id="one", stream_version=7),
        line(901, stream_id="two", stream_version=2),
    ]
    folder = tmp_path / "log"
    summary = ingested(folder, written(tmp_path, b"".join(lines)), batch_events=33)
    assert (summary.accepted, summary.dead_letters) == (200, 2)
    found = letters(folder)
    assert [(letter["reason"], letter["line"]) for letter in found] == [
        ("version_conflict", 152),
        ("version_conflict", 153),
    ]
    assert [raw(letter) + b"\n" for letter in found] == lines[151:153]
    assert "151" in found[0]["message"]
    assert "7" in found[0]["message"]
    assert numbers(folder) == list(range(200))


def test_what_follows_a_refused_version_is_numbered_as_if_it_had_not_been(tmp_path: Path):
    lines = [
        line(0),
        line(1, stream_id="u-0", stream_version=5),
        line(7),
        line(8, stream_id="u-0", stream_version=3),
    ]
    assert ingested(tmp_path / "log", written(tmp_path, b"".join(lines))).accepted == 3
    with evtool.open(tmp_path / "log", read_only=True) as log:
        assert log.stream("u-0")["stream_version"].to_list() == [1, 2, 3]


def test_an_empty_input_makes_no_batch(tmp_path: Path):
    summary = ingested(tmp_path / "log", written(tmp_path, b"\n\r\n  \n"))
    assert (summary.accepted, summary.dead_letters, summary.batches) == (0, 0, 0)
    assert summary.first_position is None


def test_only_bad_lines_make_only_dead_letters(tmp_path: Path):
    summary = ingested(tmp_path / "log", written(tmp_path, b"a\nb\nc"))
    assert (summary.accepted, summary.dead_letters, summary.batches) == (0, 3, 0)
    assert [letter["line"] for letter in letters(tmp_path / "log")] == [1, 2, 3]
    assert numbers(tmp_path / "log") == []


@pytest.mark.parametrize("blank", [b"\x0c", b"\x0b", b" \x0b\t"])
def test_a_line_is_blank_when_json_says_that_it_is(tmp_path: Path, blank: bytes):
    # What only Python's strip() takes for white space is no JSON, and must not vanish.
    ingested(tmp_path / "log", written(tmp_path, line(0) + blank + b"\n" + line(1)))
    assert [(letter["reason"], letter["line"]) for letter in letters(tmp_path / "log")] == [("invalid_json", 2)]


def test_the_source_and_what_becomes_of_unknown_fields_are_configured(tmp_path: Path):
    data = b"".join(line(number, colour="red", source_id=None) for number in range(100))
    path = written(tmp_path, data)
    assert ingested(tmp_path / "folded", path, source="pipe").accepted == 100
    with evtool.open(tmp_path / "folded", read_only=True) as log:
        found = log.scan(columns=("source_id", "metadata"))
        assert {row for frame in found for row in frame.rows()} == {("pipe", '{"colour":"red"}')}
    assert ingested(tmp_path / "refused", path, source="pipe", unknown_fields="reject").dead_letters == 100
    assert {letter["reason"] for letter in letters(tmp_path / "refused")} == {"unknown_field"}
    assert ingested(tmp_path / "no-source", path).dead_letters == 100
    assert {letter["reason"] for letter in letters(tmp_path / "no-source")} == {"missing_field"}


@pytest.mark.parametrize("batch_events", [100, 1000, 100_000])
def test_an_input_that_ends_badly_keeps_its_events_and_tells(tmp_path: Path, batch_events: int):
    data = gzip.compress(b"".join(line(number) for number in range(20_000)), 1)
    path = written(tmp_path, data[: len(data) // 2])
    with evtool.open(tmp_path / "log", create=True) as log:
        work = Ingest(log, [path], IngestConfig(batch_events=batch_events))
        with pytest.raises(InputError, match="cut short"):
            work.run()
    # All that can be had of it: what a reader gets before it learns of the end.
    chunks: list[Chunk] = []
    with pytest.raises(InputError):
        chunks.extend(Reader([path]).chunks())
    whole = b"".join(chunk.data for chunk in chunks).count(b"\n")
    assert numbers(tmp_path / "log") == list(range(whole))
    assert 1000 < whole == work.summary.accepted < 20_000
    assert letters(tmp_path / "log") == []


@pytest.mark.parametrize("batch_events", [10, 777, 5000])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopped_it_tells_the_line_up_to_which_all_is_kept(tmp_path: Path, batch_events: int, stop_after: int):
    lines = [line(number) if number % 10 else b"oops %d\n" % number for number in range(30_000)]
    path = written(tmp_path, b"".join(lines))
    folder = tmp_path / "log"
    with evtool.open(folder, create=True) as log, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", 10_000)

        def stop(summary: Summary) -> None:
            if summary.batches == stop_after:
                work.stop()

        work = Ingest(log, [path], IngestConfig(batch_events=batch_events, batch_bytes=100_000), stop)
        summary = work.run()
    assert summary.accepted < 27_000
    assert summary.is_interrupted
    assert summary.reached is not None
    name, reached = summary.reached
    assert name == path
    kept = [number for number in range(reached) if number % 10]
    assert numbers(folder) == kept
    assert [letter["line"] for letter in letters(folder)] == [1 + number for number in range(0, reached, 10)]
    assert not ingested(folder, written(tmp_path, b"".join(lines[reached:]), "rest")).is_interrupted
    assert numbers(folder) == [number for number in range(30_000) if number % 10]


def test_stopped_between_two_batches_it_still_tells_the_line(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with evtool.open(tmp_path / "log", create=True) as log:
        # Nothing more comes when the batch is on disk, and the pipe stays open.
        work = Ingest(log, [str(pipe)], IngestConfig(max_latency_ms=50), lambda summary: work.stop())
        held = os.open(pipe, os.O_RDWR)
        os.write(held, line(0) + b"oops\n" + line(1))
        summary = work.run()
        os.close(held)
    assert summary.accepted == 2
    assert summary.is_interrupted
    assert summary.reached == (str(pipe), 3)


def test_stopped_before_anything_came_it_names_no_line(tmp_path: Path):
    path = written(tmp_path, line(0) * 10)
    with evtool.open(tmp_path / "log", create=True) as log:
        work = Ingest(log, [path], IngestConfig())
        work.stop()
        assert work.run().reached is None
        assert work.summary.is_interrupted
        assert log.position == 0


def test_the_log_s_own_configuration_gives_the_default_source(tmp_path: Path):
    config = Config(ingest=IngestConfig(source="of-the-file"))
    with evtool.open(tmp_path / "log", create=True, config=config) as log:
        log.append([{"event_id": "1", "stream_id": "u", "event_type": "Seen"}])
        assert next(log.scan())["source_id"].to_list() == ["of-the-file"]
