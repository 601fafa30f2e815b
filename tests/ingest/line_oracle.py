"""What the envelope's rules say of a line, worked out with nothing but Python's own json and datetime.

It shares no code with evtool. A line may break several rules at once; which of them is named is evtool's
choice, so the answer is the set of all of them.
"""

from __future__ import annotations

import json
import re
from calendar import timegm
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from typing import Any

TEXT_LIMITS = {"event_id": 256, "source_id": 1024, "stream_id": 1024, "event_type": 1024}
VERSION_LIMITS = {"stream_version": 2**63 - 1, "schema_version": 2**31 - 1}
IGNORED = ("position", "recorded_at")
ENVELOPE = (*TEXT_LIMITS, "timestamp", *VERSION_LIMITS, "payload", "metadata")
DEPTH_MAX = 128

_TIME = re.compile(
    "([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})([.][0-9]{1,9})?"
    "([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


class Members(list):
    """A JSON object as pairs, so that nothing is lost."""


class Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()

    @property
    def is_whole(self) -> bool:
        return re.fullmatch("-?[0-9]+", self) is not None


def decoded(text: str) -> Any:
    """JSON with objects as Members and numbers as Number. Raises ValueError where it is not RFC 8259."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=refuse)


def depth(text: str) -> int:
    """How deep the brackets outside of strings nest."""
    deepest = level = 0
    in_text = escaped = False
    for character in text:
        if in_text:
            in_text = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_text = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def problems(line: bytes, default_source: str | None, fold_unknown: bool) -> set[str]:
    """The reason codes that fit a line; empty when it is an event."""
    try:
        text = line.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return {"bad_utf8"}
    found = {"nesting_too_deep"} if depth(text) > DEPTH_MAX else set()
    try:
        value = decoded(text)
    except ValueError:
        # Which of the two is named where both are true is open.
        return found | {"invalid_json"} | ({"lone_surrogate"} if "\\u" in text else set())
    if any("\ud800" <= character <= "\udfff" for text in _texts(value) for character in text):
        found.add("lone_surrogate")
    if not isinstance(value, Members):
        return found | {"not_an_object"}
    return found | set(_envelope_problems(value, default_source, fold_unknown))


def event(line: bytes, default_source: str | None) -> dict[str, Any]:
    """The columns of a line without problems; payload and metadata as `decoded` gives them."""
    members = dict(decoded(line.decode()))
    values = {name: members.get(name) for name in ENVELOPE}
    unknown = [(key, value) for key, value in members.items() if key not in (*ENVELOPE, *IGNORED)]
    values["source_id"] = default_source if values["source_id"] is None else values["source_id"]
    values["timestamp"] = None if values["timestamp"] is None else moment(values["timestamp"])
    for name in VERSION_LIMITS:
        values[name] = None if values[name] is None else int(values[name])
    values["schema_version"] = values["schema_version"] or 1
    values["payload"] = Members() if values["payload"] is None else values["payload"]
    if unknown:
        values["metadata"] = Members([*(values["metadata"] or ()), *unknown])
    return values


def moment(value: Any) -> int | str:
    """Nanoseconds since 1970, or the reason why there are none."""
    if isinstance(value, Number):
        return _in_range(_of_number(value))
    if isinstance(value, str):
        return _in_range(_of_text(value))
    return "wrong_type"


def _in_range(nanoseconds: int | str) -> int | str:
    if isinstance(nanoseconds, int) and not -(2**63) <= nanoseconds < 2**63:
        return "timestamp_out_of_range"
    return nanoseconds


def _of_text(text: str) -> int | str:
    match = _TIME.fullmatch(text)
    if match is None:
        return "timestamp_invalid"
    *fields, fraction, offset = match.groups()
    if offset is None:
        return "timestamp_without_offset"
    shift = 0
    if offset not in "Zz":
        hours, minutes = int(offset[1:3]), int(offset[4:])
        if hours > 23 or minutes > 59:
            return "timestamp_invalid"
        shift = int(offset[0] + "60") * (hours * 60 + minutes)
    try:
        seconds = timegm(datetime(*map(int, fields)).timetuple()) - shift
    except ValueError:
        return "timestamp_invalid"
    return int(seconds * 10**9 + Fraction("0" + (fraction or "")) * 10**9)


def _of_number(number: Number) -> int | str:
    exponent = re.search("[eE](.*)", number)
    if exponent and abs(int(exponent[1])) > 1000:  # too long to be written out
        is_zero = not re.search("[1-9]", re.split("[eE]", number)[0])
        return 0 if is_zero else "timestamp_out_of_range" if int(exponent[1]) > 0 else "timestamp_invalid"
    exact = Fraction(number)
    for digits, factor in ((11, 10**9), (14, 10**6), (17, 10**3)):
        if abs(exact) < 10**digits:
            exact *= factor
            break
    if abs(exact) >= 2**63 + 1:
        return "timestamp_out_of_range"
    return int(exact) if exact.denominator == 1 else "timestamp_invalid"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Members):
        for key, member in value:
            yield key
            yield from _texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)
    elif isinstance(value, str):
        yield value


def _levels(value: Any) -> int:
    if isinstance(value, Members):
        return 1 + max((_levels(member) for _, member in value), default=0)
    return 1 + max(map(_levels, value), default=0) if isinstance(value, list) else 0


def _envelope_problems(members: Members, default_source: str | None, fold: bool) -> Iterator[str]:
    keys = [key for key, _ in members]
    if len(set(keys)) < len(keys):
        yield "duplicate_key"
    values = dict(members)
    for name, limit in TEXT_LIMITS.items():
        value = values.get(name)
        yield from _text_problems(default_source if value is None and name == "source_id" else value, limit)
    if values.get("timestamp") is not None:
        reason = moment(values["timestamp"])
        if isinstance(reason, str):
            yield reason
    for name, limit in VERSION_LIMITS.items():
        yield from _version_problems(values.get(name), limit)
    if any(key in ("payload", "metadata") and not isinstance(value, Members | None) for key, value in members):
        yield "wrong_type"
    unknown = [key for key in keys if key not in (*ENVELOPE, *IGNORED)]
    if unknown and not fold:
        yield "unknown_field"
    own = values.get("metadata")
    if isinstance(own, Members) and {key for key, _ in own} & set(unknown):
        yield "duplicate_key"
    # In metadata they stand one level deeper.
    if any(_levels(values[key]) > DEPTH_MAX - 2 for key in unknown):
        yield "nesting_too_deep"


def _text_problems(value: Any, limit: int) -> Iterator[str]:
    if value is None:
        yield "missing_field"
    elif not isinstance(value, str) or isinstance(value, Number):
        yield "wrong_type"
    elif not value:
        yield "empty_field"
    elif len(value.encode("utf-8", "surrogatepass")) > limit:
        yield "text_too_long"


def _version_problems(value: Any, limit: int) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, Number) or not value.is_whole:
        yield "wrong_type"
    elif len(value) > 30 or not 1 <= int(value) <= limit:
        yield "number_out_of_range"
