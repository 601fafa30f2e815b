"""What the values of JSON objects are, by Python's json and a finder of raw texts; and JSON in many spellings."""

import json
import random
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from evtool.projections.extraction import Steps


def skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def end_of(text: str, at: int) -> int:
    """Where the value ends that begins at a place: the oracle's own reader."""
    if text[at] == '"':
        return int(scanstring(text, at + 1)[1])
    if text[at] not in "{[":
        while at < len(text) and text[at] not in ",}] \t\r\n":
            at += 1
        return at
    return children(text, at)[1]


def children(text: str, at: int) -> tuple[dict[str | int, tuple[int, int]], int]:
    """The places of an object's or array's values, the last of each key, and where it ends."""
    found: dict[str | int, tuple[int, int]] = {}
    is_object = text[at] == "{"
    number = 0
    at = skip(text, at + 1)
    while text[at] not in "}]":
        key: str | int = number
        if is_object:
            key, at = scanstring(text, at + 1)
            at = skip(text, skip(text, at) + 1)
        end = end_of(text, at)
        found[key] = (at, end)
        number += 1
        at = skip(text, end)
        if text[at] == ",":
            at = skip(text, at + 1)
    return found, at + 1


def expected(text: str | None, path: Steps) -> str | None:
    if text is None:
        return None
    raw = text.strip(" \t\r\n")
    for step in path:
        if raw[0] != ("{" if isinstance(step, str) else "["):
            return None
        span = children(raw, 0)[0].get(step)
        if span is None:
            return None
        raw = raw[span[0] : span[1]]
    if raw[0] == '"':
        return str(json.loads(raw))
    return None if raw == "null" else raw


def spelled(text: str, choose: random.Random, level: float) -> str:
    """A JSON string in one of its spellings."""
    parts = []
    for character in text:
        if choose.random() < level:
            parts.append("".join(f"\\u{unit:04x}" for unit in np.frombuffer(character.encode("utf-16-le"), "<u2")))
        elif character == "/" and choose.random() < 0.5:
            parts.append("\\/")
        else:
            parts.append(json.dumps(character, ensure_ascii=False)[1:-1])
    return '"' + "".join(parts) + '"'


def written(value: Any, choose: random.Random, escapes: float, spaces: float) -> str:
    """JSON of a tree, in which an object is a list of its members as pairs within a tuple."""

    def space() -> str:
        return (
            "".join(choose.choice(" \t\r\n") for _ in range(choose.randint(1, 3)))
            if choose.random() < spaces
            else ""
        )

    def write(value: Any) -> str:
        if isinstance(value, str):
            return spelled(value, choose, escapes)
        if isinstance(value, tuple):
            members = (
                f"{space()}{spelled(k, choose, escapes)}{space()}:{space()}{write(v)}{space()}" for k, v in value
            )
            return "{" + (",".join(members) or space()) + "}"
        if isinstance(value, list):
            return "[" + (",".join(f"{space()}{write(each)}{space()}" for each in value) or space()) + "]"
        return str(value.decode())

    return space() + write(value) + space()
