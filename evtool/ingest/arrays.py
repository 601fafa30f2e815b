"""Arrays of events, on a line or over many, as one event a line: `[{…},{…}]`, or `{"Records":[{…},{…}]}`.

Elements are cut out of the text as they come in, so memory is bounded by the size of one of them, not of all.
Every byte of them stays but for line breaks between their parts, which become spaces: a line of NDJSON has none.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and quick
from typing import Literal

from evtool.errors import InputError
from evtool.event import LINE_BYTES_MAX

_SPACE = " \t\r\n"
_BLANK = b" \t\r\n"
# Only where a value ends is asked of it, so numbers of any size are left as they are.
_VALUES = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


def array_lines(blocks: Iterator[bytes], name: str, key: str | None) -> Iterator[bytes]:
    """The events of an input as blocks of lines; `key` is that of the array in each object of the input.

    Without a key an input that begins with anything but an array is passed on as it is.
    Raises InputError where the text is no JSON, or another one than that; all events before are given.
    """
    splitter = _Splitter(name, key)
    first = b""
    for first in blocks:  # it is looked at behind the loop
        if first.strip(_BLANK):
            break
    if key is None and not first.lstrip(_BLANK).startswith(b"["):
        yield first
        yield from blocks
        return
    yield splitter.feed(first)
    for block in blocks:
        yield splitter.feed(block)
    yield splitter.finish()


class _Incomplete(Exception):  # noqa: N818  # no error, but the end of what has come so far
    """More text is needed to go on."""


class _Splitter:
    """Takes text in, in pieces, and gives the elements of its arrays."""

    def __init__(self, name: str, key: str | None) -> None:
        self._name = name
        self._key = key
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text = ""
        self._at = 0
        self._events = 0
        self._has_key = False
        self._inside: Literal["nothing", "object", "array"] = "nothing"
        self._is_first = True  # in the object or array

    def feed(self, block: bytes, final: bool = False) -> bytes:
        """The lines of the elements that have come in whole. Raises InputError."""
        self._text = self._text[self._at :] + self._decoder.decode(block, final)
        self._at = 0
        lines: list[str] = []
        while True:
            start = self._at
            try:
                self._step(lines)
            except _Incomplete:
                self._at = start
                break
        if len(self._text) - self._at > 2 * LINE_BYTES_MAX:
            raise self._malformed("is no JSON, or holds a value of more than 16 MiB,")
        self._events += len(lines)
        return "".join(lines).encode(errors="surrogateescape")

    def finish(self) -> bytes:
        """The last lines. Raises InputError if the text does not end where its JSON does."""
        lines = self.feed(b"", final=True)
        if self._inside != "nothing" or self._text[self._at :].strip(_SPACE):
            raise self._malformed("is no JSON, or is cut short,")
        return lines

    def _step(self, lines: list[str]) -> None:
        if self._inside == "array":
            self._element(lines)
        elif self._inside == "object":
            self._member()
        else:
            self._enter("object" if self._key is not None else "array")
            self._has_key = False

    def _enter(self, what: Literal["object", "array"]) -> None:
        opening = "{" if what == "object" else "["
        if self._next() != opening:
            raise self._malformed(f"holds something else than {'objects' if what == 'object' else 'arrays'}")
        self._at += 1
        self._inside, self._is_first = what, True

    def _element(self, lines: list[str]) -> None:
        if self._is_first and self._next() == "]":
            self._at += 1
            self._leave_array()
            return
        self._next()
        start, end = self._at, self._value()
        # What follows must be there too: a number could go on.
        delimiter = self._next()
        if delimiter not in ",]":
            raise self._malformed("is no JSON")
        self._at += 1
        lines.append(self._text[start:end].replace("\n", " ") + "\n")
        self._is_first = False
        if delimiter == "]":
            self._leave_array()

    def _leave_array(self) -> None:
        self._inside, self._is_first = ("nothing" if self._key is None else "object"), False

    def _member(self) -> None:
        following = self._next()
        if following == "}":
            self._at += 1
            self._inside = "nothing"
            if not self._has_key:
                raise self._malformed(f"holds an object without {self._key!r}")
            return
        if not self._is_first:
            if following != ",":
                raise self._malformed("is no JSON")
            self._at += 1
            following = self._next()
        start, end = self._at, self._value()
        if self._next() != ":":
            raise self._malformed("is no JSON")
        self._at += 1
        self._next()
        if following == '"' and scanstring(self._text[:end], start + 1)[0] == self._key:
            self._enter("array")
            self._has_key = True
            return
        self._value()
        self._next()  # a number could go on
        self._is_first = False

    def _value(self) -> int:
        """Go behind the value that starts here; gives where it ends."""
        try:
            _, self._at = _VALUES.raw_decode(self._text, self._at)
        except ValueError:
            raise _Incomplete from None
        except RecursionError as error:
            raise self._malformed("nests too deep") from error
        return self._at

    def _next(self) -> str:
        """Go to the next character that is no space; gives it."""
        while self._at < len(self._text):
            if self._text[self._at] not in _SPACE:
                return self._text[self._at]
            self._at += 1
        raise _Incomplete

    def _malformed(self, what: str) -> InputError:
        return InputError(
            f"{self._name} {what} behind {self._events:,} events", "The events before that place are kept."
        )
