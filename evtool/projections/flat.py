r"""The fast way to members of JSON objects: where their keys stand, all at once, in the bytes of many texts.

It takes texts that are known to be strict JSON objects, and finds a value or says that it cannot tell; what it
says is proved, and what it cannot tell is left to a reader of JSON. The proof, for a key K that holds neither
quotes, backslashes, slashes nor control characters, and does not begin with what may follow a string:

- Without `\\u` in a text, K is spelled there in one way only: `"K"`. Where these bytes stand not, the key is not.
  If K is ASCII, only `\\u00` and a digit below 8 begin an escape of one of its characters.
- Where they stand, their first quote opens a string: behind one that closes a string stands other than K begins
  with, and one that belongs to a string has a backslash before it. So they are a whole string, and if a colon
  follows, a key.
- If it is the only such key of the text, then its member has no other that could count instead of it.
- A key stands in the object that was opened last before it and is not yet closed. So if no brace stands between
  an opening one and the key, not even in a string, then it is a key of that object: at the top level if the
  brace is the text's first, at the second if it begins the value of a key at the top level, and so on.
- The value begins behind the colon and white space. A string without a backslash ends at the next quote, a number,
  `true`, `false` or `null` before the next comma, closing brace or white space.

Where the bytes of a key may stand is found by comparing words that are aligned in memory, not bytes: 2w - 1 bytes
cover, wherever they stand, one whole word of w bytes and no other, which is one of w. In most columns a key stands
at one distance from where each text begins: if as many texts have it there as there are such words at all, then it
stands nowhere else. The first of some bytes in a word is found by the arithmetic of
https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord, whose lowest mark is exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from evtool.ingest.lines import Mask, Offsets

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Words: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"

PADDING = 1024  # bytes that may be read behind the texts
ALIGNED_BYTES = 8  # a block whose data begin at a multiple of it is read faster
_ROUNDS = 64  # of eight bytes: longer values, as much white space and longer keys are left to the slow way
_KEY_BYTES_MAX = 256
_SAMPLES = 8  # texts of a block by which is guessed where a key stands
_SAMPLE_BYTES = 256
_KEY = re.compile(r'[^\s,:}\]"\\/\x00-\x1f\ud800-\udfff][^"\\/\x00-\x1f\ud800-\udfff]*')
_SPACE, _QUOTE, _COLON, _OPENING, _BRACKET, _CLOSING, _BACKSLASH = b' ":{[}\\'
_ONES, _HIGHS, _ONE = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(1)
_IN_SCALARS = 33  # no byte of a number, true, false or null is less, but for those of white space


@dataclass(frozen=True)
class Values:
    """Where the values of some rows are as texts: strings without their quotes.

    `rows` (rising) have one; `starts` and `ends` are of these. Of the rows in `unknown` (a mask over all rows)
    nothing is said here; all others have none, or null.
    """

    rows: Offsets
    starts: Offsets
    ends: Offsets
    unknown: Mask


@dataclass(frozen=True)
class _Keys:
    """Where a key stands: rows (rising) that have it once, its place, its value's place; rows that need a look."""

    rows: Offsets
    places: Offsets
    values: Offsets
    unknown: Offsets


def is_plain(steps: Sequence[str | int]) -> bool:
    """Whether `Block.values` can look for such a path."""
    return bool(steps) and all(
        isinstance(step, str) and _KEY.fullmatch(step) is not None and len(step.encode()) <= _KEY_BYTES_MAX
        for step in steps
    )


class Block:
    """Some texts, one directly behind the other. Offsets given and taken are those of `data`.

    `bounds` (n + 1) are where the texts start, and where the last one ends, at least PADDING bytes before the
    end of `data`.
    """

    def __init__(self, data: Bytes, bounds: Offsets) -> None:
        self.data = data
        self._starts, self._ends = bounds[:-1], bounds[1:]
        self._first, self._last = int(bounds[0]), int(bounds[-1])
        self._text = data[self._first : self._last]
        self._words: Words = np.ndarray(shape=(len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
        self._known: dict[str, _Keys] = {}

    def values(self, steps: Sequence[str]) -> Values:
        """The values at a path that is plain."""
        unknown = self._has_escapes_of(steps)
        rows, openings = self._all_rows, self._starts
        for level, step in enumerate(steps):
            keys = self._keys(step)
            unknown[keys.unknown] = True
            values = keys.values
            if level:
                is_object = self.data[openings] == _OPENING
                rows, openings = rows[is_object], openings[is_object]
            rows, places, values, openings = _matched(keys, rows, openings)
            is_proved = self._is_within(openings, places)
            if not is_proved.all():
                unknown[rows[~is_proved]] = True
                rows, values = rows[is_proved], values[is_proved]
            openings = values
        return self._ended(rows, openings, unknown)

    @cached_property
    def _all_rows(self) -> Offsets:
        return np.arange(len(self._starts))

    @cached_property
    def _is_flat(self) -> bool:
        """Whether each text has one opening brace, which all have at least."""
        return int(np.count_nonzero(self._text == _OPENING)) == len(self._starts)

    @cached_property
    def _braces(self) -> Offsets:
        return _set(np.logical_or(self._text == _OPENING, self._text == _CLOSING)) + self._first

    @cached_property
    def _backslashes(self) -> Offsets:
        return _set(self._text == _BACKSLASH) + self._first

    @cached_property
    def _has_backslashes(self) -> Mask:
        found = np.zeros(len(self._starts), bool)
        found[self._rows_of(self._backslashes)] = True
        return found

    @cached_property
    def _unicode_escapes(self) -> Offsets:
        places: Offsets = self._backslashes[self.data[self._backslashes + 1] == ord("u")]
        return places

    def _has_escapes_of(self, steps: Sequence[str]) -> Mask:
        """The rows with an escape that may be one of a character of these keys."""
        found = np.zeros(len(self._starts), bool)
        escapes = self._unicode_escapes
        if all(map(str.isascii, steps)):
            first, second, third = (self.data[escapes + at] for at in (2, 3, 4))
            escapes = escapes[(first == ord("0")) & (second == ord("0")) & (third < ord("8"))]
        found[self._rows_of(escapes)] = True
        return found

    def _rows_of(self, places: Offsets) -> Offsets:
        """The rows in which rising places are."""
        if len(places) == len(self._starts) and ((places >= self._starts) & (places < self._ends)).all():
            return self._all_rows
        return np.searchsorted(self._starts, places, side="right") - 1

    def _is_within(self, openings: Offsets, places: Offsets) -> Mask:
        """Whether no brace stands between an opening one (the first at or behind `openings`) and a place."""
        proved: Mask = places == openings + 1
        if proved.all():
            return proved
        if self._is_flat:
            return np.ones(len(places), bool)
        rest = np.flatnonzero(~proved & (places > openings))
        first, behind = (np.searchsorted(self._braces, side[rest]) for side in (openings, places))
        proved[rest] = behind == first + 1
        return proved

    def _keys(self, key: str) -> _Keys:
        """Where a key stands."""
        if key not in self._known:
            literal = b'"%b"' % key.encode()
            places = self._places(literal)
            behind, following = self._behind_space(places + len(literal))
            if not (following == _COLON).all():  # strings that are no keys, or as yet white space
                is_key = (following == _COLON) | (following <= _SPACE)
                places, behind, following = places[is_key], behind[is_key], following[is_key]
            values, first = self._behind_space(behind + 1)
            is_lost = (following <= _SPACE) | (first <= _SPACE)
            self._known[key] = self._once(places, values, is_lost)
        return self._known[key]

    def _once(self, places: Offsets, values: Offsets, is_lost: Mask) -> _Keys:
        """Keys that stand once in their row and have a value that was found."""
        rows = self._rows_of(places)
        if rows is not self._all_rows:
            again = rows[1:] == rows[:-1]
            is_lost[1:] |= again
            is_lost[:-1] |= again
        if not is_lost.any():
            return _Keys(rows, places, values, rows[:0])
        return _Keys(rows[~is_lost], places[~is_lost], values[~is_lost], rows[is_lost])

    def _places(self, literal: bytes) -> Offsets:
        """Where a quoted key stands, but for places in the middle of a string."""
        first, wanted = _words_of(literal)
        size = wanted.itemsize
        words = self.data[: self._last // size * size].view(wanted.dtype)
        is_likely = words == wanted[0]
        for word in wanted[1:]:
            is_likely |= words == word
        usual = self._usual_places(literal)
        if usual is not None and len(usual) == np.count_nonzero(is_likely):
            return usual
        found = _set(is_likely)
        places = found * size - first
        values = words[found]
        for at in range(1, len(wanted)):
            places -= at * (values == wanted[at])
        inside = (places >= self._first) & (places <= self._last - len(literal))
        return self._where(places if inside.all() else places[inside], literal)

    def _usual_places(self, literal: bytes) -> Offsets | None:
        """The places at one distance from where the texts begin; None where a few of them do not suggest one."""
        rows = range(0, len(self._starts), -(-len(self._starts) // _SAMPLES))
        samples = [self.data[start : start + _SAMPLE_BYTES].tobytes() for start in self._starts[rows].tolist()]
        distances = {sample.find(literal) for sample in samples} - {-1}
        if len(distances) != 1:
            return None
        places = self._starts + distances.pop()
        return self._where(places[: np.searchsorted(places, self._last)], literal)

    def _where(self, places: Offsets, literal: bytes) -> Offsets:
        """Those of some places where a quoted key stands, but for the middle of a string."""
        same = self._begin_with(places, literal)
        if len(self._backslashes):
            same &= self.data[places - 1] != _BACKSLASH
        return places if same.all() else places[same]

    def _begin_with(self, places: Offsets, literal: bytes) -> Mask:
        size = -(-len(literal) // 8) * 8
        wanted, masks = (
            np.frombuffer(text.ljust(size, b"\0"), "<u8") for text in (literal, b"\xff" * len(literal))
        )
        found = pieces(self.data, places, size)
        same: Mask = (found[:, 0] & masks[0]) == wanted[0]
        for at in range(1, size // 8):
            same &= (found[:, at] & masks[at]) == wanted[at]
        return same

    def _behind_space(self, places: Offsets) -> tuple[Offsets, Bytes]:
        """The places behind white space that may be at `places`, and what is there; of much of it, one within."""
        found = self.data[places]
        spaced = np.flatnonzero(found <= _SPACE)
        if not len(spaced):
            return places, found
        places = places.copy()
        for _ in range(_ROUNDS):
            places[spaced] += 1
            found[spaced] = self.data[places[spaced]]
            spaced = spaced[found[spaced] <= _SPACE]
            if not len(spaced):
                break
        return places, found

    def _ended(self, rows: Offsets, starts: Offsets, unknown: Mask) -> Values:
        """The values that begin at `starts`, with their ends."""
        first = self.data[starts]
        is_string = first == _QUOTE
        if is_string.all():
            starts = starts + 1
            ends, is_lost = self._ends_before(starts, strings=True)
            if not is_lost.any() and not len(self._backslashes):
                return Values(rows, starts, ends, unknown)
        else:
            starts = starts + is_string
            ends = starts.copy()
            is_lost = (first == _OPENING) | (first == _BRACKET)
            for strings, wanted in ((True, is_string), (False, ~is_string & ~is_lost)):
                ends[wanted], is_lost[wanted] = self._ends_before(starts[wanted], strings)
        if len(self._backslashes):
            suspects = np.flatnonzero(self._has_backslashes[rows])
            before, behind = (np.searchsorted(self._backslashes, side[suspects]) for side in (starts, ends))
            is_lost[suspects] |= before != behind
        unknown[rows[is_lost]] = True
        kept = ~is_lost & (first != ord("n"))
        if kept.all():
            return Values(rows, starts, ends, unknown)
        return Values(rows[kept], starts[kept], ends[kept], unknown)

    def _ends_before(self, starts: Offsets, strings: bool) -> tuple[Offsets, Mask]:
        """Where strings or other scalars end that begin at `starts`, and which of them are too long."""
        ends = starts.copy()
        is_lost = np.zeros(len(starts), bool)
        rows: Any = slice(None)
        for _ in range(_ROUNDS):
            words = self._words[ends[rows]]
            marks = _marks_of(words, _QUOTE) if strings else _scalar_ends(words)
            # Without a mark: 64 bits below it, which are eight bytes to go on.
            ends[rows] += np.bitwise_count((marks & -marks) - _ONE) >> 3
            left = np.flatnonzero(marks == 0)
            if not len(left):
                return ends, is_lost
            rows = left if isinstance(rows, slice) else rows[left]
        is_lost[rows] = True
        return ends, is_lost


def pieces(data: Bytes, places: Offsets, size: int) -> Words:
    """The `size` bytes (a multiple of eight) at each of some places, as a row of words."""
    everywhere = np.ndarray(shape=(len(data) - size + 1,), dtype=f"V{size}", buffer=data, strides=(1,))
    found: Words = everywhere[places].view("<u8").reshape(-1, size // 8)
    return found


def _words_of(literal: bytes) -> tuple[int, Words]:
    """Neighbouring words of a quoted key, all different, as many as each has bytes, and where the first begins.

    They are of its middle, where it is least like other keys. With two bytes some differ, as no quote is inside.
    """
    for size in (4, 2):
        last = len(literal) - (2 * size - 1)
        for first in sorted(range(last + 1), key=lambda first: abs(2 * first - last)):
            words = [literal[first + at : first + at + size] for at in range(size)]
            if len(set(words)) == size:
                return first, np.frombuffer(b"".join(words), f"<u{size}")
    raise ValueError(f"{literal!r} is no quoted key")


def _marks_of(words: Words, byte: int) -> Words:
    """The highest bit of each byte that is `byte`; above the lowest of them, others may be marked too."""
    different = words ^ np.uint64(byte * int(_ONES))
    return (different - _ONES) & ~different & _HIGHS


def _scalar_ends(words: Words) -> Words:
    """The same for a comma, a closing brace and white space, of which scalars have none."""
    spaces = (words - np.uint64(_IN_SCALARS * int(_ONES))) & ~words & _HIGHS
    return spaces | _marks_of(words, ord(",")) | _marks_of(words, _CLOSING)


def _matched(keys: _Keys, rows: Offsets, openings: Offsets) -> tuple[Offsets, Offsets, Offsets, Offsets]:
    """Rows in which both a key and an object are, the key behind where the object opens.

    With each row: where the key stands, where its value begins, and where the object opens.
    """
    places, values = keys.places, keys.values
    if len(rows) != len(keys.rows) or not np.array_equal(rows, keys.rows):
        rows, of_keys, of_objects = np.intersect1d(keys.rows, rows, assume_unique=True, return_indices=True)
        places, values, openings = places[of_keys], values[of_keys], openings[of_objects]
    inside = places > openings
    if inside.all():
        return rows, places, values, openings
    return rows[inside], places[inside], values[inside], openings[inside]


def _set(mask: Mask) -> Offsets:
    """The places that are set in a mask of which few are: eight at a time, which is faster than flatnonzero."""
    whole = len(mask) // 8 * 8
    words = mask[:whole].view("<u8")
    is_hit = words != 0
    found = _set(is_hit) if 0 < np.count_nonzero(is_hit) < len(is_hit) // 32 else np.flatnonzero(is_hit)
    marks = words[found]
    if (marks & (marks - _ONE)).any():
        of_found, within = np.divmod(np.flatnonzero(marks.view(bool)), 8)
        places = found[of_found] * 8 + within
    else:
        places = found * 8 + (np.bitwise_count((marks & -marks) - _ONE) >> 3)
    rest = np.flatnonzero(mask[whole:])
    return np.concatenate([places, rest + whole]) if len(rest) else places
