"""Inputs become chunks of whole lines: files, pipes, compressed or not, whole or damaged."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evtool.errors import InputError
from evtool.event import LINE_BYTES_MAX
from evtool.ingest import chunks as chunking
from evtool.ingest import sources
from evtool.ingest.sources import Chunk, Reader

SOME_LINES = [b"line %d of some text that is not too short" % number for number in range(5000)]
SOME_TEXT = b"".join(line + b"\n" for line in SOME_LINES)


def written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def chunks_of(*paths: str, chunk_bytes: int = sources.CHUNK_BYTES) -> list[Chunk]:
    """All chunks of some inputs, each checked for the form that a chunk has."""
    chunks = list(Reader(paths, chunk_bytes).chunks())
    for chunk in chunks:
        assert chunk.data
        assert chunk.oversized or chunk.data.endswith(b"\n")
    return chunks


def text_of(*paths: str) -> bytes:
    return b"".join(chunk.data for chunk in chunks_of(*paths))


def lines_before_failure(path: str) -> tuple[list[bytes], InputError]:
    """The lines of an input that ends badly, and how it says so."""
    chunks: list[Chunk] = []
    with pytest.raises(InputError) as caught:
        chunks.extend(Reader([path]).chunks())
    return b"".join(chunk.data for chunk in chunks).splitlines(), caught.value


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    is_ended=st.booleans(),
    block_bytes=st.integers(1, 40),
    chunk_bytes=st.integers(1, 60),
)
def test_wherever_it_is_cut_the_lines_are_the_same(
    tmp_path: Path,
    lines: list[bytes],
    ending: bytes,
    is_ended: bool,
    block_bytes: int,
    chunk_bytes: int,
):
    data = b"".join(line + ending for line in lines)
    data = data if is_ended else data.removesuffix(b"\n")
    if data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf")):
        return
    path = written(tmp_path, "events", data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", block_bytes)
        chunks = chunks_of(path, chunk_bytes=chunk_bytes)
    whole = b"".join(chunk.data for chunk in chunks)
    assert whole == data + (b"\n" if data and not data.endswith(b"\n") else b"")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 60) | st.integers(19, 22), max_size=12),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    block_bytes=st.integers(1, 30),
    last=st.booleans(),
)
def test_a_line_that_is_too_long_is_a_chunk_of_its_own(
    tmp_path: Path, lengths: list[int], ending: bytes, block_bytes: int, last: bool
):
    lines = [bytes([97 + number]) * length for number, length in enumerate(lengths)]
    data = ending.join(lines) + (ending if last else b"")
    path = written(tmp_path, "events", data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK_BYTES", block_bytes)
        patched.setattr(chunking, "LINE_BYTES_MAX", 20)
        chunks = chunks_of(path, chunk_bytes=25)
    found: list[bytes] = []
    for chunk in chunks:
        if chunk.oversized:
            assert chunk.oversized > 20
            found.append(chunk.data[:1] * chunk.oversized)
            assert found[-1].startswith(chunk.data)
            assert len(chunk.data) <= 20
        else:
            found += chunk.data.replace(b"\r\n", b"\n").split(b"\n")[:-1]
    expected = data.replace(b"\r\n", b"\n").split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_a_line_of_more_than_16_mib_is_not_held_whole(tmp_path: Path):
    length = 2 * LINE_BYTES_MAX + 5
    path = written(tmp_path, "events", b"first\n" + b"x" * length + b"\nlast\n")
    first, long, last = chunks_of(path)
    assert (first.data, last.data) == (b"first\n", b"last\n")
    assert long.oversized == length
    assert long.data == b"x" * LINE_BYTES_MAX


def test_inputs_come_one_after_another_and_never_run_together(tmp_path: Path):
    paths = [
        written(tmp_path, name, data) for name, data in (("a", b"1\n2"), ("b", b""), ("c", b"3"), ("d", b"\n"))
    ]
    chunks = chunks_of(*paths)
    assert [(chunk.input, chunk.data) for chunk in chunks] == [
        (paths[0], b"1\n2\n"),
        (paths[2], b"3\n"),
        (paths[3], b"\n"),
    ]


def test_an_input_named_twice_is_two_inputs(tmp_path: Path):
    path = written(tmp_path, "a", b"1")
    first, second = chunks_of(path, path)
    assert (first.data, second.data) == (b"1\n", b"1\n")
    assert first.input != second.input


def test_what_inputs_are_called_tells_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file may be called what standard input is called, or what an input that comes twice is."""
    monkeypatch.chdir(tmp_path)
    for name in ("stdin", "stdin#1", "a", "a#4"):
        written(tmp_path, name, name.encode())
    read, write = os.pipe()
    os.write(write, b"-")
    os.close(write)
    with os.fdopen(read) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        paths = ["-", "stdin", "stdin#1", "a", "a", "./a", "a#4", "stdin"]
        chunks = chunks_of(*paths)
    assert [chunk.data for chunk in chunks] == [
        *(b"-\n", b"stdin\n", b"stdin#1\n", b"a\n", b"a\n", b"a\n", b"a#4\n", b"stdin\n")
    ]
    assert len({chunk.input for chunk in chunks}) == len(paths)
    assert [chunk.input for chunk in chunks[4:7]] == ["a#5", "./a", "a#4"]


def test_an_input_that_cannot_be_opened_tears_nothing_off_the_one_before(tmp_path: Path):
    good = written(tmp_path, "good", b"1\n2")
    chunks: list[Chunk] = []
    with pytest.raises(InputError, match="gone"):
        chunks.extend(Reader([good, str(tmp_path / "gone")]).chunks())
    assert b"".join(chunk.data for chunk in chunks) == b"1\n2\n"


def test_a_byte_order_mark_is_dropped_from_the_start_of_each_input(tmp_path: Path):
    mark = b"\xef\xbb\xbf"
    first, second = written(tmp_path, "a", mark + b"1\n" + mark + b"2\n"), written(tmp_path, "b", mark + b"3\n")
    assert text_of(first, second) == b"1\n" + mark + b"2\n3\n"


def zstd(data: bytes) -> bytes:
    """As the zstd command does it: with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
class TestCompressed:
    def test_content_tells_it_and_the_name_does_not(self, tmp_path: Path, compress):
        for name in ("events.ndjson", "events.gz", "events.zst"):
            assert text_of(written(tmp_path, name, compress(SOME_TEXT))) == SOME_TEXT
        assert text_of(written(tmp_path, "plain.gz", SOME_TEXT)) == SOME_TEXT

    def test_several_members_are_one_text(self, tmp_path: Path, compress):
        halves = [compress(SOME_TEXT[:1234]), compress(b""), compress(SOME_TEXT[1234:])]
        assert text_of(written(tmp_path, "events", b"".join(halves))) == SOME_TEXT

    def test_a_byte_order_mark_is_dropped_from_it_too(self, tmp_path: Path, compress):
        assert text_of(written(tmp_path, "events", compress(b"\xef\xbb\xbf1\n"))) == b"1\n"

    def test_nothing_compressed_is_nothing(self, tmp_path: Path, compress):
        assert chunks_of(written(tmp_path, "events", compress(b""))) == []

    @pytest.mark.parametrize("share", [0.001, 0.7, 0.9, 0.999])
    def test_cut_short_it_gives_its_whole_lines_and_then_fails(self, tmp_path: Path, compress, share: float):
        text = os.urandom(2 * sources.BLOCK_BYTES).hex(" ", 40).encode().replace(b" ", b"\n")
        data = compress(text)
        path = written(tmp_path, "events", data[: max(int(len(data) * share), 5)])
        lines, error = lines_before_failure(path)
        assert lines == text.split(b"\n")[: len(lines)]
        assert lines or share < 0.5
        assert path in error.message
        assert error.hint

    @pytest.mark.parametrize("length", [sources.BLOCK_BYTES, LINE_BYTES_MAX - 5, LINE_BYTES_MAX + 5 * 2**20])
    def test_cut_short_within_a_line_of_any_length_it_gives_nothing_of_that_line(
        self, tmp_path: Path, compress, length: int
    ):
        data = compress(b"first\n" + os.urandom(length // 2).hex().encode() + b"\nlast\n")
        path = written(tmp_path, "events", data[: -len(data) // 50])
        lines, error = lines_before_failure(path)
        assert lines == [b"first"]
        assert "cut short" in error.message

    def test_damage_is_told(self, tmp_path: Path, compress):
        data = bytearray(compress(SOME_TEXT))
        data[len(data) // 2] ^= 0xFF
        _, error = lines_before_failure(written(tmp_path, "events", bytes(data)))
        assert "damaged" in error.message

    def test_both_its_sizes_are_counted(self, tmp_path: Path, compress):
        data = compress(SOME_TEXT)
        reader = Reader([written(tmp_path, "events", data)])
        assert b"".join(chunk.data for chunk in reader.chunks()) == SOME_TEXT
        assert (reader.progress.raw_bytes, reader.progress.text_bytes) == (len(data), len(SOME_TEXT))


def skippable(number: int, data: bytes = b"") -> bytes:
    """A frame of zstd that holds no text but notes for programs, as pzstd writes them."""
    return (0x184D2A50 + number).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("number", range(16))
def test_zstd_that_begins_with_notes(tmp_path: Path, number: int):
    frames = [zstd(SOME_TEXT[:999]), zstd(SOME_TEXT[999:])]
    noted = b"".join(skippable(number, len(frame).to_bytes(4, "little")) + frame for frame in frames)
    assert text_of(written(tmp_path, "events", noted + skippable(number))) == SOME_TEXT
    assert text_of(written(tmp_path, "empty", skippable(number))) == b""
    _, error = lines_before_failure(written(tmp_path, "cut", noted[:10]))
    assert "cut short" in error.message


def test_text_that_is_nearly_such_notes_is_text(tmp_path: Path):
    for text in (b"\x4f\x2a\x4d\x18\n", b"\x60\x2a\x4d\x18\n", b"\x2a\x4d\x18\n", b"\x50\x2a\x4d\n"):
        assert text_of(written(tmp_path, "events", text)) == text


class TestPipe:
    @pytest.fixture
    def pipe(self, tmp_path: Path) -> str:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        return str(path)

    def feed(self, pipe: str, steps: Iterable[bytes | threading.Event]) -> threading.Thread:
        """Write the steps into a pipe, waiting at each event for it."""

        def write() -> None:
            with Path(pipe).open("wb", buffering=0) as file:
                for step in steps:
                    if isinstance(step, bytes):
                        file.write(step)
                    else:
                        assert step.wait(60)

        thread = threading.Thread(target=write)
        thread.start()
        return thread

    def test_what_has_come_is_given_before_more_comes(self, pipe: str):
        more = [threading.Event() for _ in range(3)]
        thread = self.feed(pipe, [b"one\ntw", more[0], b"o\n", more[1], b"three", more[2]])
        chunks = Reader([pipe]).chunks()
        assert next(chunks).data == b"one\n"
        more[0].set()
        assert next(chunks).data == b"two\n"
        more[1].set()
        more[2].set()
        assert next(chunks).data == b"three\n"
        assert next(chunks, None) is None
        thread.join()

    def test_lines_that_come_slowly_keep_their_order_and_their_bytes(self, pipe: str):
        thread = self.feed(pipe, [SOME_TEXT[start : start + 997] for start in range(0, len(SOME_TEXT), 997)])
        reader = Reader([pipe], chunk_bytes=5000)
        assert b"".join(chunk.data for chunk in reader.chunks()) == SOME_TEXT
        thread.join()

    def test_a_compressed_pipe_is_told_by_content_too(self, pipe: str):
        thread = self.feed(pipe, [gzip.compress(SOME_TEXT)])
        assert text_of(pipe) == SOME_TEXT
        thread.join()

    def test_stopping_ends_the_chunks_while_the_pipe_stays_open(self, pipe: str):
        done = threading.Event()
        thread = self.feed(pipe, [b"one\n", done])
        reader = Reader([pipe])
        chunks = reader.chunks()
        assert next(chunks).data == b"one\n"
        reader.stop()
        assert next(chunks, None) is None
        done.set()
        thread.join()

    def test_its_size_is_not_known(self, pipe: str, tmp_path: Path):
        assert sources.check([pipe, written(tmp_path, "a", b"12345")]) is None


def test_the_size_of_files_is_known_beforehand(tmp_path: Path):
    paths = [written(tmp_path, "a", b"12345"), written(tmp_path, "b", b""), written(tmp_path, "c", b"123")]
    assert sources.check(paths) == 8
    assert sources.check([]) == 0


def test_what_cannot_be_read_is_told_before_anything_is(tmp_path: Path):
    good = written(tmp_path, "good", b"1\n")
    for bad in (str(tmp_path / "none"), str(tmp_path), good + "/below", "x" * 5000):
        with pytest.raises(InputError) as caught:
            sources.check([good, bad])
        assert bad[:20] in caught.value.message


def test_a_file_that_goes_away_after_it_was_checked_is_an_input_error(tmp_path: Path):
    good = written(tmp_path, "good", b"1\n")
    chunks = Reader([good, str(tmp_path / "gone")]).chunks()
    assert next(chunks).data == b"1\n"
    with pytest.raises(InputError, match="gone"):
        next(chunks)


def test_chunks_are_of_about_the_size_that_was_asked_for(tmp_path: Path):
    path = written(tmp_path, "events", (b"x" * 99 + b"\n") * 60_000)
    chunks = chunks_of(path, chunk_bytes=2 * sources.BLOCK_BYTES)
    assert sum(len(chunk.data) for chunk in chunks) == 6_000_000
    assert all(len(chunk.data) <= 3 * sources.BLOCK_BYTES for chunk in chunks)
    assert all(earlier.arrived <= later.arrived for earlier, later in pairwise(chunks))
