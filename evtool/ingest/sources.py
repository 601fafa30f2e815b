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
from typing import Any, TypeAlias

from evtool.errors import AccessDeniedError, EvtoolError, InputError
from evtool.ingest.chunks import Assembler, Chunk
from evtool.ingest.deadletters import printable
from evtool.ingest.resume import ResumePoint
from evtool.log.format import checksum

BLOCK_BYTES = 1024 * 1024
CHUNK_BYTES = 8 * 1024 * 1024
STDIN = "-"

# From the path of an input, what it is called and the blocks of its text to blocks of lines.
Converter: TypeAlias = Callable[[str, str, Iterator[bytes]], Iterator[bytes]]

_BLOCKS_AHEAD = 4
_PIECE_BYTES = 4096
_IDLE_SECONDS = 0.02
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPED_MAGIC = b"\x2a\x4d\x18"  # behind 0x50 to 0x5F: a zstd frame of notes; pzstd begins with one
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ANOTHER_NAME = "Name the inputs as before, or --resume under another name: nothing is stored a second time."


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
    """Reads inputs one after another in a thread of its own, from `resume` on if that is given.

    Raises InputError if `resume` is in none of them.
    """

    def __init__(
        self,
        paths: Sequence[str],
        chunk_bytes: int = CHUNK_BYTES,
        latency_seconds: float = 0.5,
        converter: Converter | None = None,
        resume: ResumePoint | None = None,
    ) -> None:
        self.progress = Progress()
        self._converter = converter
        self._resume = resume
        self._inputs = _left(list(zip(paths, _names(paths), strict=True)), resume)
        # Where the blocks of an input begin, and its head.
        self._beginnings: dict[str, tuple[int, bytes]] = {}
        self._chunk_bytes = min(chunk_bytes, CHUNK_BYTES)
        self._latency_seconds = latency_seconds
        self._stop = threading.Event()
        # Of which input, and what: a block or how it broke off. Behind the last one comes None.
        self._blocks: queue.Queue[tuple[str | None, bytes | BaseException]] = queue.Queue(_BLOCKS_AHEAD)
        # A daemon: a read from a pipe on which nothing comes cannot be called off.
        threading.Thread(target=self._read_all, name="evtool-read", daemon=True).start()

    @property
    def names(self) -> list[str]:
        """Of the inputs that are read."""
        return [name for _, name in self._inputs]

    def stop(self) -> None:
        """End the chunks after the current one; what is read ahead is dropped."""
        self._stop.set()

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of about `chunk_bytes`, or of what came until the input paused or the latency ran out.

        Raises InputError when an input ends badly, after all its whole lines were given.
        """
        assembler: Assembler | None = None
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
            assembler = assembler or Assembler(name, *self._beginnings.pop(name))
            yield from assembler.add(block)
            late = time.monotonic() - assembler.arrived >= self._latency_seconds
            if assembler.line_bytes >= self._chunk_bytes or late:
                yield from assembler.take()

    def _read_all(self) -> None:
        name: str | None = None
        try:
            for path, name in self._inputs:
                with _opened(path) as file:
                    for block in self._text(file, path, name):
                        self.progress.text_bytes += len(block)
                        self._blocks.put((name, block))
                        if self._stop.is_set():
                            return
            self._blocks.put((None, b""))
        except BaseException as error:  # handed to the thread that asks for chunks
            self._blocks.put((name, error))

    def _text(self, file: io.RawIOBase, path: str, name: str) -> Iterator[bytes]:
        """The text of an input that is to be read, and where it begins."""
        counted = _Counted(file, self.progress)
        with _named(name):
            first = counted.peek(4)
        blocks, is_plain = _unpacked(_blocks(counted, name), first, name)
        if self._converter is not None:
            blocks, is_plain = self._converter(path, name, _without_mark(blocks)), False
        point, self._resume = self._resume, None
        if point is None or not point.offset:
            return self._from_start(blocks, name)
        # Standard input may be a file too, but who knows where in it the text began.
        if is_plain and path != STDIN and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return self._from_place(counted, blocks, name, point)
        return self._from_within(blocks, name, point)

    def _from_start(self, blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
        """All of it, without the byte order mark that some editors put before it."""
        first = next(blocks, b"")
        mark = _BYTE_ORDER_MARK if first.startswith(_BYTE_ORDER_MARK) else b""
        self._beginnings[name] = len(mark), mark
        yield first.removeprefix(mark)
        yield from blocks

    def _from_place(
        self, file: _Counted, blocks: Iterator[bytes], name: str, point: ResumePoint
    ) -> Iterator[bytes]:
        """What lies behind a place in a plain file. Raises InputError if it is not the same file."""
        with _named(name):
            head = file.peek(point.head_bytes)
            _check_same(head, point, name)
            if not file.skip(point.offset):
                raise _too_short(point, name)
        self._beginnings[name] = point.offset, head
        yield from blocks

    def _from_within(self, blocks: Iterator[bytes], name: str, point: ResumePoint) -> Iterator[bytes]:
        """The same for a pipe or a compressed file: what is before the place is read, and dropped."""
        head, left = b"", point.offset
        for block in blocks:
            head += block[: point.head_bytes - len(head)]
            if left > len(block):
                left -= len(block)
                continue
            _check_same(head, point, name)
            self._beginnings[name] = point.offset, head
            yield block[left:]
            yield from blocks
            return
        raise _too_short(point, name)


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """A text without the byte order mark that some editors put before it."""
    yield next(blocks, b"").removeprefix(_BYTE_ORDER_MARK)
    yield from blocks


def _unpacked(blocks: Iterator[bytes], first: bytes, name: str) -> tuple[Iterator[bytes], bool]:
    """The text of an input that begins with these bytes, and whether it lies there as it is."""
    if first.startswith(_GZIP_MAGIC):
        return _decompressed(blocks, lambda: zlib.decompressobj(wbits=31), f"{name}: its gzip data"), False
    if first == _ZSTD_MAGIC or (first[1:] == _SKIPPED_MAGIC and first[0] >> 4 == 5):
        import zstandard

        start = zstandard.ZstdDecompressor().decompressobj
        return _decompressed(blocks, start, f"{name}: its zstd data"), False
    return blocks, True


def _left(inputs: list[tuple[str, str]], resume: ResumePoint | None) -> list[tuple[str, str]]:
    """The inputs (path and name) from that of a resume point on. Raises InputError if it is of none of them."""
    if resume is None:
        return inputs
    for number, (_, name) in enumerate(inputs):
        if printable(name) == resume.input:
            return inputs[number:]
    raise InputError(
        f"the load {resume.name!r} has come to line {resume.line:,} of {resume.input}, which is no input now",
        _ANOTHER_NAME,
    )


def _check_same(head: bytes, point: ResumePoint, name: str) -> None:
    if len(head) < point.head_bytes:
        raise _too_short(point, name)
    if checksum(head[: point.head_bytes]) != point.head:
        raise InputError(f"{name} does not begin as it did when the load {point.name!r} read it", _ANOTHER_NAME)


def _too_short(point: ResumePoint, name: str) -> InputError:
    return InputError(
        f"{name} is shorter than the {point.offset:,} bytes of text that the load {point.name!r} has read of it",
        _ANOTHER_NAME,
    )


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

    def skip(self, offset: int) -> bool:
        """Go on at a place from the start of the file; False if the file does not reach so far."""
        if os.fstat(self._file.fileno()).st_size < offset:
            return False
        self._file.seek(offset)
        self._ahead = b""
        self._progress.raw_bytes += offset
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block, self._ahead = self._ahead or self._file.read(size) or b"", b""
        if size >= 0 and len(block) > size:
            block, self._ahead = block[:size], block[size:]
        self._progress.raw_bytes += len(block)
        return block


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
