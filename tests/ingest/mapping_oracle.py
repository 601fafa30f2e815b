"""What a mapping makes of a line, worked out with nothing but Python's own json, and lines to try it on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from event_lines import NUMBERS, ODD_TEXTS, TIMES, VERSIONS, Line, damage, json_object, json_value
from line_oracle import DEPTH_MAX, ENVELOPE, TEXT_LIMITS, VERSION_LIMITS, Members, Number, decoded, depth, moment
from line_oracle import _levels as levels
from line_oracle import _text_problems as text_problems
from line_oracle import _texts as texts_of
from line_oracle import _version_problems as version_problems

Steps = tuple[str | int, ...]
# field -> the places where it may be: in the oracle's own words, and as they are written in evtool.toml.
MAPPINGS: list[dict[str, list[Steps]]] = [
    {"event_id": [("id",)], "stream_id": [("actor", "login")], "event_type": [("type",)], "payload": [()]},
    {
        "event_id": [("id",)],
        "stream_id": [("actor", "id"), ("actor", "login")],
        "event_type": [("data", "kind"), ("type",)],
        "timestamp": [("at",)],
        "payload": [("data",)],
        "schema_version": [("data", "v")],
    },
    {
        "event_id": [("items", 0, "id"), ("id",)],
        "stream_id": [("items", 1, "id"), ("id",)],
        "event_type": [("type",)],
        "timestamp": [("at",)],
        "stream_version": [("v",)],
        "payload": [()],
        "metadata": [("actor",)],
    },
    {"event_id": [("id",)], "stream_id": [("id",)], "event_type": [("a key. with [dots]",), ("type",)]},
    {"stream_id": [("actor", "login")], "event_type": [("quo\"te",), ("type",)], "payload": [()]},
]  # fmt: skip
KEYS = ("id", "type", "at", "v", "data", "actor", "items", "a key. with [dots]", 'quo"te', "colour", "source_id")


def written(steps: Steps) -> str:
    """A place as a path of evtool.toml."""
    if not steps:
        return "."
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text


def table(mapping: Mapping[str, list[Steps]]) -> dict[str, Any]:
    """A mapping as the table `[ingest.fields]`."""
    return {name: [written(place) for place in places] for name, places in mapping.items()}


def look_up(value: Any, steps: Steps) -> Any:
    for step in steps:
        if isinstance(step, str) and isinstance(value, Members):
            value = dict(value).get(step)
        elif isinstance(step, int) and isinstance(value, list) and not isinstance(value, Members):
            value = value[step] if step < len(value) else None
        else:
            return None
    return value


def fields_of(line: Members, mapping: Mapping[str, list[Steps]]) -> dict[str, Any]:
    """What is at the places of the fields."""
    found: dict[str, Any] = {}
    for name in ENVELOPE:
        values = (look_up(line, place) for place in mapping.get(name, [(name,)]))
        found[name] = next((value for value in values if value is not None), None)
        if name in TEXT_LIMITS:
            found[name] = _as_text(found[name])
    return found


def rest_of(line: Members, mapping: Mapping[str, list[Steps]]) -> list[tuple[str, Any]]:
    """The members that no field takes as a whole; of none where the payload is all of it."""
    if mapping.get("payload") == [()]:
        return []
    taken = {places[0][0] for places in (mapping.get(n, [(n,)]) for n in ENVELOPE) if len(places[0]) == 1}
    return [(key, value) for key, value in line if key not in taken]


def problems(
    line: bytes, mapping: Mapping[str, list[Steps]], source: str | None, folds: bool, derives: bool
) -> set[str]:
    """The reason codes that fit a line; empty when it is an event."""
    try:
        text = line.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return {"bad_utf8"}
    found = {"nesting_too_deep"} if depth(text) > DEPTH_MAX else set()
    try:
        value = decoded(text)
    except ValueError:
        return found | {"invalid_json"} | ({"lone_surrogate"} if "\\u" in text else set())
    if any("\ud800" <= character <= "\udfff" for text in texts_of(value) for character in text):
        found.add("lone_surrogate")
    if not isinstance(value, Members):
        return found | {"not_an_object"}
    fields, rest = fields_of(value, mapping), rest_of(value, mapping)
    for name, limit in TEXT_LIMITS.items():
        given = source if name == "source_id" and fields[name] is None else fields[name]
        if not (name == "event_id" and derives and given is None):
            found |= set(text_problems(given, limit))
    when = None if fields["timestamp"] is None else moment(fields["timestamp"])
    found |= {when} if isinstance(when, str) else set()
    for name, limit in VERSION_LIMITS.items():
        found |= set(version_problems(fields[name], limit))
    for name in ("payload", "metadata"):
        if not isinstance(fields[name], Members | None):
            found.add("wrong_type")
        elif fields[name] is not None and levels(fields[name]) > DEPTH_MAX - 1:
            found.add("nesting_too_deep")
    return found | _rest_problems(value, fields, rest, mapping.get("payload") == [()], folds)


def event(line: bytes, mapping: Mapping[str, list[Steps]], source: str | None) -> dict[str, Any]:
    """The columns of a line without problems; payload and metadata as `decoded` gives them."""
    whole = decoded(line.decode())
    values, rest = fields_of(whole, mapping), rest_of(whole, mapping)
    values["source_id"] = source if values["source_id"] is None else values["source_id"]
    values["timestamp"] = None if values["timestamp"] is None else moment(values["timestamp"])
    for name in VERSION_LIMITS:
        values[name] = None if values[name] is None else int(values[name])
    values["schema_version"] = values["schema_version"] or 1
    values["payload"] = Members() if values["payload"] is None else values["payload"]
    if rest:
        values["metadata"] = Members([*(values["metadata"] or ()), *rest])
    return values


def chunk(seed: int) -> list[Line]:
    """Lines of foreign events, most of them as they should be."""
    random = Random(seed)
    odd_share = random.choice((0.0, 0.02, 0.02, 0.3))
    separators = random.choice(((",", ":"), (",", ":"), (", ", ": "), (" ,", " : ")))
    lines = [_line(random, number, odd_share, separators) for number in range(random.randrange(1, 90))]
    for _ in range(random.choice((0, 0, 1, 5))):
        damage(random, lines)
    return lines


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str("0" if value == "-0" else value) if isinstance(value, Number) else value


def _rest_problems(
    line: Members, fields: Mapping[str, Any], rest: Sequence[tuple[str, Any]], is_whole: bool, folds: bool
) -> set[str]:
    keys = [key for key, _ in line]
    own = {key for key, _ in fields["metadata"]} if isinstance(fields["metadata"], Members) else set()
    found = set()
    if not is_whole and (len(set(keys)) < len(keys) or own & {key for key, _ in rest}):
        found.add("duplicate_key")
    if rest and not folds:
        found.add("unknown_field")
    if any(levels(value) > DEPTH_MAX - 2 for _, value in rest):
        found.add("nesting_too_deep")
    return found


def _line(random: Random, number: int, odd_share: float, separators: tuple[str, str]) -> Line:
    comma, colon = separators
    keys = [key for key in KEYS[:7] if random.random() < 0.9] + [key for key in KEYS[7:] if random.random() < 0.1]
    if random.random() < 0.2:
        random.shuffle(keys)
    if random.random() < odd_share:
        keys += random.choices(keys, k=1) if keys else []
    values = [_odd(random) if random.random() < odd_share else _value(random, key, number, colon) for key in keys]
    members = comma.join(f"{json.dumps(key)}{colon}{value}" for key, value in zip(keys, values, strict=True))
    space = random.choice(("", "", "", " ", "\t"))
    return Line(f"{space}{{{members}}}{space}".encode(), None)


def _value(random: Random, key: str, number: int, colon: str) -> str:
    match key:
        case "id":
            return random.choice((str(number), f'"e-{number}"', f'"{number}"'))
        case "at":
            return f'"2026-01-{1 + number % 28:02d}T{number % 24:02d}:59:07.{number % 1000:03d}Z"'
        case "v":
            return str(1 + number % 9)
        case "actor":
            login = json.dumps(f"user-{number % 7}é", ensure_ascii=random.random() < 0.2)
            return random.choice(
                (f'{{"login"{colon}{login}}}', f'{{"id"{colon}{number},"x":[1],"login":{login}}}')
            )
        case "data":
            return random.choice((f'{{"kind"{colon}"k","v":{1 + number % 3}}}', json_object(random, 3)))
        case "items":
            return random.choice(('[{"id":"i1"},{"id":2}]', '[{"id":"i1"}]', "[]", '[null,{"id":true}]', "[7]"))
    return f'"{key[:2]}-{number % 3}"'


def _odd(random: Random) -> str:
    pools = (ODD_TEXTS, TIMES, VERSIONS, NUMBERS, ("null", "true", "{}", "[]", '{"login":null}', '{"login":[1]}'))
    if random.random() < 0.3:
        return json_value(random, 3)
    if random.random() < 0.05:
        return "[" * 130 + "]" * 130
    return random.choice(random.choice(pools))
