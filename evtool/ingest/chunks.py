"""The blocks of one input, put together to chunks of whole lines that know where in the input they stand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from evtool.event import LINE_BYTES_MAX

HEAD_BYTES = 65_536  # of an input's text, by which it is known again


@dataclass(frozen=True)
class Chunk:
    """Whole lines of one input, the last byte a line feed.

    `arrived` is the monotonic time of the first byte. `start` and `end` are where it stands in the input's text,
    in bytes, and `head` is the beginning of that text, HEAD_BYTES at most. `is_ended` says whether the last line
    feed is there, or was put behind the input's last line. With `oversized` it is one line that was longer than
    LINE_BYTES_MAX, of which `data` holds the beginning and `oversized` is the length in bytes.
    """

    input: str
    data: bytes
    arrived: float
    start: int
    end: int
    head: bytes
    is_ended: bool = True
    oversized: int = 0


class Assembler:
    """Puts the blocks of one input together. They begin at byte `start` of its text, which begins with `head`."""

    def __init__(self, input_name: str, start: int = 0, head: bytes = b"") -> None:
        self.input = input_name
        self.arrived = time.monotonic()
        self.line_bytes = 0
        self._reached = start
        self._head = head
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
        """Whether there are whole lines to take."""
        return bool(self._lines)

    def add(self, block: bytes) -> Iterator[Chunk]:
        """Take a block in; gives chunks only where a line is too long to be kept whole."""
        if not self._lines and not self._tail:
            self.arrived = time.monotonic()
        self._head += block[: HEAD_BYTES - len(self._head)]
        if self._is_oversized:
            end = block.find(b"\n")
            if end < 0:
                self._tail_bytes += len(block)
                self._last = block[-1:]
                return
            yield self._oversized(end - ((self._last + block[:end])[-1:] == b"\r"), self._tail_bytes + end + 1)
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
            data = b"".join(self._lines)
            yield self._chunk(data, len(data))
        self._lines, self.line_bytes = [], 0
        self.arrived = time.monotonic()

    def finish(self, torn: bool) -> Iterator[Chunk]:
        """What is left at the end of the input, where the last line may lack its line feed.

        If the input was `torn` off, the last line is not whole, and not given, however long it is already.
        """
        if self._is_oversized and not torn:
            yield from self.take()
            yield self._oversized(-(self._last == b"\r"), self._tail_bytes, is_ended=False)
        if self._tail and not torn:
            data = b"".join([*self._lines, *self._tail, b"\n"])
            self._lines, self._tail = [], []
            yield self._chunk(data, len(data) - 1, is_ended=False)
        yield from self.take()

    def _chunk(self, data: bytes, size: int, is_ended: bool = True, oversized: int = 0) -> Chunk:
        """A chunk that takes `size` bytes of the text."""
        start, self._reached = self._reached, self._reached + size
        return Chunk(self.input, data, self.arrived, start, self._reached, self._head, is_ended, oversized)

    def _oversized(self, more: int, size: int, is_ended: bool = True) -> Chunk:
        beginning = b"".join(self._tail)[:LINE_BYTES_MAX]
        length = self._tail_bytes + more
        self._tail, self._tail_bytes = [], 0
        return self._chunk(beginning, size, is_ended, length)
