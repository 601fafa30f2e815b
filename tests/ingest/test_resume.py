"""Loads that were interrupted go on where they were: every event once, every dead letter once."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from faults import Fault, FaultyFiles, Killed, boot_again
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import check_sound, ids

import evtool
from evtool.config import IngestConfig
from evtool.errors import InputError, StorageError
from evtool.files import Files
from evtool.ingest import chunks, resume, sources
from evtool.ingest.letterqueue import LetterQueue
from evtool.ingest.pipeline import Ingest
from evtool.ingest.sources import Reader
from evtool.ingest.summary import Acknowledgement, Summary

NAME = "nightly"


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a short input be as many chunks as a long one."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 700)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1000)


def line(number: int) -> bytes:
    return b'{"event_id":"e-%d","source_id":"s","stream_id":"u-%d","event_type":"t"}\n' % (number, number % 7)


def text(count: int) -> bytes:
    """Lines of which every tenth is bad."""
    return b"".join(line(n) if n % 10 else b"bad %d\n" % n for n in range(count))


def load(
    folder: Path,
    *paths: str | Path,
    stop_after: int = 0,
    acks: list[Acknowledgement] | None = None,
    files: Files | None = None,
    name: str | None = NAME,
    **options: Any,
) -> Summary:
    """Load, and stop after so many batches."""
    with evtool.open(folder, create=True, files=files) as log:
        told = [] if acks is None else acks

        def on_ack(done: Acknowledgement) -> None:
            told.append(done)
            if len(told) == stop_after:
                work.stop()

        config = IngestConfig(**{"max_latency_ms": 3_600_000, "batch_events": 50} | options)
        work = Ingest(log, [str(path) for path in paths], config, on_ack=on_ack, resume=name)
        return work.run()


def letters(folder: Path) -> list[tuple[str, int]]:
    return [(letter.input, letter.line) for letter in LetterQueue(Files(), folder).letters()]


def check_whole(folder: Path, count: int, path: Path | str) -> None:
    """All of `text(count)` is there, once."""
    check_sound(folder)
    assert ids(evtool.open(folder, read_only=True)) == [f"e-{n}" for n in range(count) if n % 10]
    assert letters(folder) == [(str(path), n + 1) for n in range(0, count, 10)]


def point(folder: Path, name: str = NAME) -> resume.ResumePoint | None:
    return resume.find(evtool.open(folder, read_only=True).snapshot(), name)


@settings(max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 60) | st.integers(19, 22), max_size=12),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    block_bytes=st.integers(1, 30),
    is_ended=st.booleans(),
)
def test_chunks_know_where_they_stand(
    lengths: list[int], ending: bytes, mark: bytes, block_bytes: int, is_ended: bool
):
    data = mark + ending.join(b"x" * length for length in lengths) + (ending if is_ended else b"")
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", block_bytes)
        patched.setattr(chunks, "LINE_BYTES_MAX", 20)
        patched.setattr(chunks, "HEAD_BYTES", 25)
        path = Path(name, "input")
        path.write_bytes(data)
        found = list(Reader([str(path)], 25).chunks())
    has_mark = data.startswith(mark) and len(mark) if block_bytes >= 3 else 0
    place = has_mark or 0
    for number, chunk in enumerate(found):
        assert chunk.start == place
        place = chunk.end
        is_last = number == len(found) - 1
        assert chunk.is_ended or (is_last and not data.endswith(b"\n"))
        assert data.startswith(chunk.head)
        assert len(chunk.head) >= min(25, chunk.end)
        if not chunk.oversized:
            assert chunk.data == data[chunk.start : chunk.end] + (b"" if chunk.is_ended else b"\n")
    assert not found or place == len(data)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("batch_events", [7, 50, 900])
def test_a_load_in_parts_is_the_load_in_one(tmp_path: Path, compress: Any, batch_events: int):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(compress(b"\xef\xbb\xbf" + text(1000)))
    acks: list[Acknowledgement] = []
    while load(folder, path, stop_after=len(acks) + 2, acks=acks, batch_events=batch_events).is_interrupted:
        pass
    check_whole(folder, 1000, path)
    assert sum(ack.accepted for ack in acks) == 900
    assert sum(ack.duplicates for ack in acks) == 0
    assert sum(ack.dead_letters for ack in acks) == 100
    assert [ack.line for ack in acks] == sorted(ack.line for ack in acks)
    # Once it is whole, nothing of it is read any more.
    again = load(folder, path)
    assert (again.lines, again.bytes_in) == (0, 0)


def test_a_part_begins_where_the_last_one_ended(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(data := text(1000))
    acks: list[Acknowledgement] = []
    load(folder, path, stop_after=3, acks=acks)
    reached = acks[-1]
    found = point(folder)
    assert found is not None
    assert (found.input, found.line, found.offset) == (str(path), reached.line, reached.bytes)
    assert data[: found.offset].count(b"\n") == found.line
    seen = [chunk.start for chunk in Reader([str(path)], resume=found).chunks()]
    assert seen[0] == found.offset
    assert load(folder, path).bytes_in == len(data) - found.offset


def test_several_inputs_go_on_in_the_one_that_was_reached(tmp_path: Path):
    folder, paths = tmp_path / "log", [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(b"".join(line(n) + b"bad\n" for n in range(1000 * number, 1000 * number + 1000)))
    load(folder, *paths, stop_after=20, batch_events=60)
    found = point(folder)
    assert found is not None
    assert found.input == str(paths[1])
    paths[0].unlink()
    load(folder, *paths[1:], batch_events=60)
    assert ids(evtool.open(folder, read_only=True)) == [f"e-{n}" for n in range(3000)]
    assert letters(folder) == [(str(path), n) for path in paths for n in range(2, 2001, 2)]
    # A file that comes later is read too, if those before it are still named.
    (tmp_path / "d").write_bytes(line(9000))
    assert load(folder, paths[2], tmp_path / "d").accepted == 1


def test_a_pipe_is_read_up_to_the_place_and_dropped(tmp_path: Path):
    folder, pipe = tmp_path / "log", tmp_path / "input"
    pipe.write_bytes(text(1000))
    load(folder, pipe, stop_after=2)
    pipe.unlink()
    os.mkfifo(pipe)
    sending = threading.Thread(target=lambda: pipe.write_bytes(text(1000)))
    sending.start()
    assert 0 < load(folder, pipe).accepted < 900
    sending.join()
    check_whole(folder, 1000, pipe)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_another_file_in_its_place_is_refused(tmp_path: Path, compress: Any):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(compress(text(1000)))
    load(folder, path, stop_after=2)
    before = ids(evtool.open(folder, read_only=True))
    for data, told in [
        (b"other " + text(1000), "does not begin as it did"),
        (text(20), "is shorter"),
        (text(60), "is shorter"),
        (b"", "is shorter"),
    ]:
        path.write_bytes(compress(data))
        with pytest.raises(InputError, match=told) as caught:
            load(folder, path)
        assert "another name" in caught.value.hint
    with pytest.raises(InputError, match="no input now"):
        load(folder, tmp_path / "elsewhere")
    assert ids(evtool.open(folder, read_only=True)) == before
    path.write_bytes(text(1000))  # under another name it is a load of its own
    assert load(folder, path, name="again").duplicates == len(before)


def test_a_file_that_grows_is_loaded_from_where_it_ended(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    data = text(300)
    for size in (0, 1, 500, 501, 700, 3000, 3001, len(data)):
        path.write_bytes(data[:size])
        load(folder, path)
    # What was half a line once became a dead letter then, as it does at the end of any input.
    assert ids(evtool.open(folder, read_only=True)) == [f"e-{n}" for n in range(300) if n % 10]
    assert {(str(path), n + 1) for n in range(0, 300, 10)} <= set(letters(folder))


def test_a_last_line_without_its_line_feed_is_read_again_and_counts_once(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    for data, accepted, duplicates, buried in [
        (line(1) + line(2)[:-1], 2, 0, 0),
        (line(1) + line(2)[:-1], 0, 1, 0),
        (line(1) + line(2) + b"bad", 0, 1, 1),
        (line(1) + line(2) + b"bad", 0, 0, 1),
        (line(1) + line(2) + b"bad\n" + line(3), 1, 0, 1),
    ]:
        path.write_bytes(data)
        done = load(folder, path)
        assert (done.accepted, done.duplicates, done.dead_letters) == (accepted, duplicates, buried)
        assert letters(folder) == [(str(path), 3)][: int(b"bad" in data)]
    assert ids(evtool.open(folder, read_only=True)) == ["e-1", "e-2", "e-3"]


def test_a_batch_of_which_nothing_is_new_is_a_place_too(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(text(200))
    load(folder, path, name=None)
    for name, data in (("all known", text(200)), ("all bad", b"bad\n" * 200), ("all blank", b"\n" * 200)):
        path.write_bytes(data)
        acks: list[Acknowledgement] = []
        load(folder, path, name=name, acks=acks)
        found = point(folder, name)
        assert found is not None
        assert (found.line, found.offset) == (200, len(data))
        assert all(ack.batch is not None and ack.first_position is None for ack in acks)
        assert load(folder, path, name=name).bytes_in == 0
    check_sound(folder)


def test_acknowledgements_say_what_is_durable(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(data := text(200))
    acks: list[Acknowledgement] = []
    load(folder, path, name=None, acks=acks)
    assert [(ack.batch, ack.first_position, ack.last_position) for ack in acks] == [
        (1, 1, 50),
        (2, 51, 100),
        (3, 101, 150),
        (4, 151, 180),
    ]
    assert all(data[: ack.bytes].count(b"\n") == ack.line for ack in acks)
    assert (acks[-1].line, acks[-1].bytes) == (200, len(data))
    again: list[Acknowledgement] = []
    load(folder, path, name=None, acks=again)
    assert {ack.batch for ack in again} == {None}
    assert sum(ack.duplicates for ack in again) == 180
    assert point(folder) is None


def test_names_do_not_know_each_other(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(text(2000))
    load(folder, path, name="one", stop_after=1)
    load(folder, path, name="two")
    one, two = point(folder, "one"), point(folder, "two")
    assert one is not None
    assert two is not None
    assert one.line < two.line
    assert point(folder, "on") is None


def test_the_maps_of_others_are_passed_over(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(text(200))
    load(folder, path, stop_after=2)
    found = point(folder)
    assert found is not None
    mine = found.as_map()
    with evtool.open(folder) as log:
        for number, other in enumerate(
            [
                {"name": NAME},
                mine | {"line": "7"},
                mine | {"line": True},
                mine | {"line": -1},
                mine | {"head_bytes": mine["head_bytes"] + 1},
                mine | {"more": 1},
                {"fill": "x" * 100_000, "name": NAME},
                {"offsets": {0: 17}, "topic": NAME},
            ]
        ):
            event = {"event_id": f"other-{number}", "source_id": "s", "stream_id": "u", "event_type": "t"}
            log.append([event], resume=other)
    assert point(folder) == found


def test_the_map_is_as_the_format_s_page_says(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(text(200))
    load(folder, path, stop_after=1)
    page = (Path(__file__).resolve().parents[2] / "segments" / "README.md").read_text(encoding="utf-8")
    segment = evtool.open(folder, read_only=True).snapshot().segments[-1]
    kept = msgpack.unpackb(bytes(segment.body(segment.table[-1])))
    sentence = page[page.index("--resume`") : page.index("**Body of an events frame")]
    assert all(f"`{key}`" in sentence for key in kept)
    assert kept["name"] == NAME


COUNT = 100


def break_at_every_call(tmp_path: Path, fault: Any) -> None:
    path = tmp_path / "input"
    path.write_bytes(text(COUNT))
    files = FaultyFiles()
    load(tmp_path / "counted", path, files=files, batch_events=20)
    assert {"frames.log", "dead-letters.ndjson"} <= {name for _, name in files.calls}
    for call in range(1, len(files.calls) + 1):
        folder = tmp_path / str(call)
        with contextlib.suppress(Killed, StorageError):
            load(folder, path, files=FaultyFiles(fault(call)), batch_events=20)
        boot_again(folder) if call % 2 else None
        with contextlib.suppress(Killed, StorageError):
            load(folder, path, files=FaultyFiles(fault(call // 2 + 1)), batch_events=13)
        load(folder, path, batch_events=20)
        check_whole(folder, COUNT, path)
        shutil.rmtree(folder)


@pytest.mark.parametrize("done", [0, 0.4, 1], ids=["before", "torn", "after"])
def test_killed_at_every_call_and_again_it_has_all_of_it_once(tmp_path: Path, done: float):
    break_at_every_call(tmp_path, lambda call: Fault(call, done))


def test_a_full_disk_at_every_call_and_again_it_has_all_of_it_once(tmp_path: Path):
    break_at_every_call(tmp_path, lambda call: Fault(call, 0.5, 28))


def test_letters_of_another_load_are_kept_all_the_same(tmp_path: Path):
    path, folder = tmp_path / "input", tmp_path / "log"
    path.write_bytes(b"bad\n")
    for name in (None, "one", "two", "one"):
        load(folder, path, name=name)
    kept = (folder / "dead-letters" / "dead-letters.ndjson").read_bytes().splitlines()
    assert [json.loads(letter).get("resume") for letter in kept] == [None, "one", "two"]
