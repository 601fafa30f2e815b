"""Inputs as chunks of whole lines: files and pipes, plain, gzip or zstd (told by content, not by name).

One thread reads (and decompresses) ahead of the next stage by a few blocks; it alone blocks on a slow
input, so what has come so far can be handed on when nothing more comes for a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import queue
import stat
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evtool.errors import AccessDeniedError, EvtoolError, InputError
from evtool.event import LINE_BYTES_MAX

BLOCK_BYTES = 1024 * 1024
CHUNK_BYTES = 8 * 1024 * 1024
STDIN = "-"

_BLOCKS_AHEAD = 4
_PIECE_BYTES = 4096
_IDLE_SECONDS = 0.02
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPED_MAGIC = b"\x2a\x4d\x18"  # behind 0x50 to 0x5F: a zstd frame of notes; pzstd begins with one
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Chunk:
    """Whole lines of one input, the last byte a line feed.

    `arrived` is the monotonic time of the first byte. With `oversized` it is one line that was longer than
    LINE_BYTES_MAX, of which `data` holds the beginning and `oversized` is the length in bytes.
    """

    input: str
    data: bytes
    arrived: float
    oversized: int = 0


@dataclass
class Progress:
    """What has been read: bytes as they lie on disk or come in (`raw_bytes`), and after decompression."""

    raw_bytes: int = 0
    text_bytes: int = 0


def check(paths: Sequence[str], dead_letters: Path | None = None) -> int | None:
    """The bytes of all inputs together, None if one is a pipe. Raises InputError before anything is read.

    `dead_letters` is the file that grows with each line that is rejected: as an input it would have no end.
    """
    total: int | None = 0
    growing = dead_letters.stat() if dead_letters is not None and dead_letters.is_file() else None
    for path in paths:
        if path == STDIN:
            if sys.stdin is None:
                raise InputError("standard input is closed", "Pipe events into evtool, or name a file.")
            status = os.fstat(sys.stdin.fileno())
        else:
            with _named(path):
                status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder", "Name the files in it, as in: evtool ingest FOLDER/*.ndjson")
        if growing is not None and os.path.samestat(status, growing):
            raise InputError(
                f"{'standard input' if path == STDIN else path} is where this log's rejected lines go",
                "Copy the file, and ingest the copy.",
            )
        if path != STDIN and not os.access(path, os.R_OK):
            raise AccessDeniedError(f"cannot read {path}: permission denied", "Check its owner and permissions.")
        is_file = stat.S_ISREG(status.st_mode)
        total = total + status.st_size if is_file and total is not None else None
    return total


class Reader:
    """Reads inputs one after another in a thread of its own."""

    def __init__(self, paths: Sequence[str], chunk_bytes: int = CHUNK_BYTES, latency_seconds: float = 0.5) -> None:
        self.progress = Progress()
        self._paths = paths
        self._chunk_bytes = min(chunk_bytes, CHUNK_BYTES)
        self._latency_seconds = latency_seconds
        self._stop = threading.Event()
        # Of which input, and what: a block or how it broke off. Behind the last one comes None.
        self._blocks: queue.Queue[tuple[str | None, bytes | BaseException]] = queue.Queue(_BLOCKS_AHEAD)
        # A daemon: a read from a pipe on which nothing comes cannot be called off.
        threading.Thread(target=self._read_all, name="evtool-read", daemon=True).start()

    def stop(self) -> None:
        """End the chunks after the current one; what is read ahead is dropped."""
        self._stop.set()

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of about `chunk_bytes`, or of what came until the input paused or the latency ran out.

        Raises InputError when an input ends badly, after all its whole lines were given.
        """
        assembler: _Assembler | None = None
        while not self._stop.is_set():
            waiting = assembler is not None and assembler.has_lines
            try:
                name, block = self._blocks.get(timeout=_IDLE_SECONDS if waiting else 10 * _IDLE_SECONDS)
            except queue.Empty:
                if assembler is not None:
                    yield from assembler.take()
                continue
            if assembler is not None and name != assembler.input:
                yield from assembler.finish(torn=False)
                assembler = None
            if isinstance(block, BaseException):
                if assembler is not None:
                    yield from assembler.finish(torn=True)
                raise block
            if name is None:
                return
            assembler = assembler or _Assembler(name)
            yield from assembler.add(block)
            late = time.monotonic() - assembler.arrived >= self._latency_seconds
            if assembler.line_bytes >= self._chunk_bytes or late:
                yield from assembler.take()

    def _read_all(self) -> None:
        name: str | None = None
        try:
            for path, name in zip(self._paths, _names(self._paths), strict=True):
                with _opened(path) as file:
                    for block in _without_mark(self._texts(file, name)):
                        self.progress.text_bytes += len(block)
                        self._blocks.put((name, block))
                        if self._stop.is_set():
                            return
            self._blocks.put((None, b""))
        except BaseException as error:  # handed to the thread that asks for chunks
            self._blocks.put((name, error))

    def _texts(self, file: io.RawIOBase, name: str) -> Iterator[bytes]:
        counted = _Counted(file, self.progress)
        with _named(name):
            first = counted.peek(4)
        blocks = _blocks(counted, name)
        if first.startswith(_GZIP_MAGIC):
            return _decompressed(blocks, lambda: zlib.decompressobj(wbits=31), f"{name}: its gzip data")
        if first == _ZSTD_MAGIC or (first[1:] == _SKIPPED_MAGIC and first[0] >> 4 == 5):
            import zstandard

            return _decompressed(blocks, zstandard.ZstdDecompressor().decompressobj, f"{name}: its zstd data")
        return blocks


def _names(paths: Sequence[str]) -> list[str]:
    """What inputs are called, no two the same: `stdin` or the path, with a number where that comes again."""
    names = ["stdin" if path == STDIN else path for path in paths]
    times = Counter(names)
    taken = set(names)
    for number, name in enumerate(names):
        if times[name] > 1:
            unique = f"{name}#{number + 1}"
            while unique in taken:
                unique += "'"
            taken.add(unique)
            names[number] = unique
    return names


def _blocks(file: _Counted, name: str) -> Iterator[bytes]:
    with _named(name):
        while block := file.read(BLOCK_BYTES):
            yield block


def _decompressed(blocks: Iterator[bytes], start: Callable[[], Any], what: str) -> Iterator[bytes]:
    """The text of compressed blocks: one or more streams, one behind the other, each started by `start`.

    Raises InputError when they are damaged or cut short, after all text before that place.
    """
    stream, at, texts, size = start(), 0, [], 0
    is_begun = False
    try:
        for block in blocks:
            # In small pieces: each may hold thousands of times its size.
            for begin in range(0, len(block), _PIECE_BYTES):
                piece = block[begin : begin + _PIECE_BYTES]
                while piece:
                    texts.append(stream.decompress(piece))
                    size += len(texts[-1])
                    is_begun, piece = not stream.eof, stream.unused_data
                    if stream.eof:
                        stream = start()
                if size >= BLOCK_BYTES:
                    yield b"".join(texts)
                    at, texts, size = at + size, [], 0
        problem = "is cut short" if is_begun else ""
    except Exception as error:  # zlib.error, ZstdError: they have no base of their own
        if isinstance(error, EvtoolError):
            raise
        problem = f"is damaged ({error})"
    if texts:
        yield b"".join(texts)
    if problem:
        raise InputError(
            f"{what} {problem} behind {at + size:,} bytes of text",
            "The events before that place are kept. Get the file again, then ingest it whole.",
        )


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a text, without the byte order mark that some editors put before it."""
    first = next(blocks, b"")
    yield first.removeprefix(_BYTE_ORDER_MARK)
    yield from blocks


class _Counted(io.RawIOBase):
    """An input that counts what is read from it, and can be looked into before."""

    def __init__(self, file: io.RawIOBase, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            block = self._file.read(BLOCK_BYTES)
            if not block:
                break
            self._ahead += block
        return self._ahead[:size]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block, self._ahead = self._ahead or self._file.read(size) or b"", b""
        if size >= 0 and len(block) > size:
            block, self._ahead = block[:size], block[size:]
        self._progress.raw_bytes += len(block)
        return block


class _Assembler:
    """Puts the blocks of one input together to whole lines."""

    def __init__(self, input_name: str) -> None:
        self.input = input_name
        self.arrived = time.monotonic()
        self.line_bytes = 0
        self._lines: list[bytes] = []
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._last = b""  # byte of the tail

    @property
    def _is_oversized(self) -> bool:
        # One byte more may be the CR of a line break; the parser says whether it is.
        return self._tail_bytes > LINE_BYTES_MAX + 1

    @property
    def has_lines(self) -> bool:
        return bool(self._lines)

    def add(self, block: bytes) -> Iterator[Chunk]:
        """Take a block in; gives chunks only where a line is too long to be kept whole."""
        if not self._lines and not self._tail:
            self.arrived = time.monotonic()
        if self._is_oversized:
            end = block.find(b"\n")
            if end < 0:
                self._tail_bytes += len(block)
                self._last = block[-1:]
                return
            yield self._oversized(end - ((self._last + block[:end])[-1:] == b"\r"))
            block = block[end + 1 :]
        end = block.rfind(b"\n") + 1
        if end:
            self._lines += [*self._tail, block[:end]]
            self.line_bytes += self._tail_bytes + end
            self._tail, self._tail_bytes = [], 0
        if end < len(block):
            self._tail.append(block[end:])
            self._tail_bytes += len(block) - end
            self._last = block[-1:]
            if self._is_oversized:
                yield from self.take()

    def take(self) -> Iterator[Chunk]:
        """The whole lines so far, if there are any."""
        if self._lines:
            yield Chunk(self.input, b"".join(self._lines), self.arrived)
        self._lines, self.line_bytes = [], 0
        self.arrived = time.monotonic()

    def finish(self, torn: bool) -> Iterator[Chunk]:
        """What is left at the end of the input, where the last line may lack its line feed.

        If the input was `torn` off, the last line is not whole, and not given, however long it is already.
        """
        if self._is_oversized and not torn:
            yield from self.take()
            yield self._oversized(-(self._last == b"\r"))
        if self._tail and not torn:
            self._lines += [*self._tail, b"\n"]
        yield from self.take()

    def _oversized(self, more: int) -> Chunk:
        beginning = b"".join(self._tail)[:LINE_BYTES_MAX]
        length = self._tail_bytes + more
        self._tail, self._tail_bytes = [], 0
        return Chunk(self.input, beginning, self.arrived, oversized=length)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[io.RawIOBase]:
    if path == STDIN:
        descriptor = sys.stdin.fileno()
        with contextlib.suppress(OSError, AttributeError):  # a larger pipe saves switches; it may be refused
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, BLOCK_BYTES)
        yield io.FileIO(descriptor, closefd=False)
        return
    with _named(path):
        file = io.FileIO(Path(path))
    with file:
        yield file


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}", "Check its name; `-` is standard input.") from error
    except PermissionError as error:
        raise AccessDeniedError(
            f"cannot read {path}: permission denied", "Check its owner and permissions."
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
