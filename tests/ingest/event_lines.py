"""Chunks of similar lines, as producers write them and as bad luck makes them, made from a seed.

A `Shape` is what the lines of one producer have in common: which keys, in which order and spelling, with
which spaces and kinds of values. Most lines of a chunk follow a shape; some hold odd values or are damaged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

TEXT_FIELDS = ("event_id", "source_id", "stream_id", "event_type")
LINES_MIN = 64  # below this every line is read one by one

ODD_TEXTS = (
    '""',
    '" "',
    '"é日本🧦"',
    '"\\u00e9\\/\\n"',
    '"\\ud83e\\udde6"',
    '"\\ud83e"',
    '"\\udde6\\ud83e"',
    '"say \\"yes\\""',
    '"back\\\\"',
    '"},"',
    '"{"',
    '"a,\\"metadata\\":{}"',
    '"it\'s"',
    '"\x7f\u2028"',
    '"tab\t"',
    '"nul\x00"',
    '"\\x41"',
    '"\\u12"',
    '"' + "i" * 256 + '"',
    '"' + "i" * 257 + '"',
    '"' + "é" * 128 + '"',
    '"' + "é" * 129 + '"',
    '"' + "s" * 1025 + '"',
    "null",
    "7",
    "true",
    "{}",
    '["a"]',
    "'a'",
    "",
)
NUMBERS = (
    *("0", "-0", "7", "-1", "1.10", "1E5", "1e-5", "1.0", "0.5", "-0.0", "1e400", "1E+2", "1e1000000"),
    *("999999999999999999", "1000000000000000000", "9223372036854775807", "9223372036854775808"),
    "12345678901234567890123",
)
BAD_NUMBERS = (
    "01",
    "-",
    "1.",
    ".5",
    "+1",
    "1e",
    "0x1",
    "1_0",
    "NaN",
    "Infinity",
    "-Infinity",
    "１",
    "--1",
    "1e1e1",
)
TIMES = (
    '"2026-01-01T00:00:00Z"',
    '"2026-01-01t00:00:00z"',
    '"2026-01-01 00:00:00.5Z"',
    '"2026-01-01T00:00:00.123456789+05:30"',
    '"2026-01-01T00:00:00-00:00"',
    '"2026-01-01T00:00:00"',
    '"2026-01-01T24:00:00Z"',
    '"2016-12-31T23:59:60Z"',
    '"2026-02-30T00:00:00Z"',
    '"2024-02-29T23:59:59.9Z"',
    '"2026-01-01T00:00:00.Z"',
    '"2026-01-01T00:00:00.1234567890Z"',
    '"2026-01-01T00:00Z"',
    '"2026-01-01T00Z"',
    '"2026-01-01"',
    '"2026-01-01T00:00:00+24:00"',
    '"2026-01-01T00:00:00+05"',
    '"2026-01-01T00:00:00+0530"',
    '"2026-01-01T00:00:00,5Z"',
    '" 2026-01-01T00:00:00Z"',
    '"2026-01-01T00:00:00Z "',
    '"2026-01-01T00:00:00\\u005a"',
    '"2026-01-01T00:00:00Ｚ"',
    '"1677-09-21T00:12:43.145224192Z"',
    '"1677-09-21T00:12:43.145224191Z"',
    '"2262-04-11T23:47:16.854775807Z"',
    '"2262-04-11T23:47:16.854775808Z"',
    '"0000-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59Z"',
    '"1767225600"',
    '""',
    *("1767225600", "1767225600000", "1767225600000000", "1767225600000000000", "-1767225600", "0", "-1"),
    *("99999999999", "100000000000", "99999999999999", "100000000000000", "99999999999999999"),
    *("100000000000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("1767225600.5", "1.7672256e9", "1767225600.1234567891", "1e300", "-0", "true", "null", "[1]", "{}"),
)
VERSIONS = ("0", "-1", "1.0", "1e0", "2147483647", "2147483648", "null", '"1"', "true", "01", "[]", *NUMBERS[-3:])
# Where values are checked together, several of these could pass for one another's rest.
PARTS_OF_VALUES = (
    *("{}{}", "{} {}", "{},{}", "{}\r{}", '{"a":1', "}", '{"a":[{}', "{}]}", '{"a":{}', '{"a":{"b":1}', "1 2"),
    *("1,2", "[]{}", '"a" "b"', '{"a":"', '"}', '{"a":1}}', '{{"a":1}', "{}x", "x{}", "nul", "[1", "2]", "[[]"),
    *('{},"metadata":{}', '{},"x":{}', '{"a":1,}', "{a:1}", "[1,]", "[,1]", "/**/{}", "{}//", '{"a" 1}', "{\x00}"),
    *(
        '{"a":"\t"}',
        '{"a":"\\q"}',
        '{"a":"\\ud800"}',
        '{"\\ud800":1}',
        '{"a":01}',
        '{"a":NaN}',
        "{\v}",
        "\ufeff{}",
    ),
)
UNKNOWN_KEYS = (
    *("colour", "größe", "", " payload", "Payload", "payload ", "a.b", "event", "id", "x" * 300, "n" * 1500),
    *('quo"te', "back\\slash", "tab\t", "\u2028"),
)
SPACES = ("", "", "", " ", "  ", "\t", " \t\r", " " * 40)


@dataclass(frozen=True)
class Line:
    """A line without its line break; `values` are the texts of its members, None if it is damaged."""

    data: bytes
    values: dict[str, str] | None


class Shape:
    """What the lines of one producer have in common."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.odd_share = random.choice((0.0, 0.0, 0.02, 0.3))
        keys = [key for key in TEXT_FIELDS if random.random() > 0.04]
        keys += [key for key in ("payload", "timestamp") if random.random() < 0.8]
        rare = ("metadata", "stream_version", "schema_version", "position", "recorded_at")
        keys += [key for key in rare if random.random() < 0.3]
        keys += random.sample(UNKNOWN_KEYS, random.choice((0, 0, 0, 1, 2, 4)))
        if random.random() < 0.03:
            keys = random.sample(keys, min(len(keys), 2))
        if random.random() < 0.03:
            keys += random.choices(keys, k=1)
        if random.random() < 0.5:
            random.shuffle(keys)
        self.keys = keys
        self.names = {key: json.dumps(key, ensure_ascii=random.random() < 0.1) for key in keys}
        if keys and random.random() < 0.05:
            key = random.choice(keys)
            self.names[key] = self.names[key].replace("e", "\\u0065", 1)
        spaces = SPACES if random.random() < 0.3 else (random.choice(("", " ")),)
        self.spaces = [[random.choice(spaces) for _ in range(4)] for _ in range(len(keys) + 1)]
        self.kinds = {key: self._kind(key) for key in keys}

    def _kind(self, key: str) -> str:
        if self.random.random() < 0.04:
            return "null"
        if key == "timestamp":
            return self.random.choice(("milliseconds", "offset", "epoch", "times"))
        if key in ("payload", "metadata"):
            return self.random.choice(("small", "object", "object"))
        if key in ("stream_version", "schema_version"):
            return "version"
        if key in TEXT_FIELDS:
            return "text"
        return self.random.choice(("text", "number", "truth", "null", "array", "object", "any"))

    def line(self, number: int) -> Line:
        """The line of one event, with an odd value here and there."""
        values = [
            self.odd(key) if self.random.random() < self.odd_share / len(self.keys) else self.value(key, number)
            for key in self.keys
        ]
        return self.written(values)

    def written(self, values: list[str]) -> Line:
        """A line of this shape with these values."""
        members = [
            before + self.names[key] + after_key + ":" + before_value + value + after
            for key, value, (before, after_key, before_value, after) in zip(
                self.keys, values, self.spaces, strict=False
            )
        ]
        outer = self.spaces[-1]
        text = outer[0] + "{" + (outer[1] if not members else "") + ",".join(members) + "}" + outer[2]
        is_whole = len(set(self.keys)) == len(self.keys) and all(map(_is_one_value, values))
        return Line(text.encode(), dict(zip(self.keys, values, strict=True)) if is_whole else None)

    def value(self, key: str, number: int) -> str:
        """A usual value."""
        random = self.random
        match self.kinds[key]:
            case "text":
                return f'"{key[:2]}-{random.choice((number, number % 7, "é", "a b"))}"'
            case "milliseconds":
                return f'"2026-01-{1 + number % 28:02d}T{number % 24:02d}:59:07.{number % 1000:03d}Z"'
            case "offset":
                return f'"2026-02-{1 + number % 28:02d}T{number % 24:02d}:00:59+{number % 14:02d}:30"'
            case "epoch":
                return str(random.choice((1_767_225_600, 1_767_225_600_000)) + number)
            case "times":
                return random.choice(TIMES)
            case "version":
                return str(1 + number % 9)
            case "small":
                return '{"n":%d}' % number  # noqa: UP031  # the braces are meant
            case "object":
                return json_object(random, 3)
            case "number":
                return random.choice((str(number), *NUMBERS))
            case "truth":
                return random.choice(("true", "false"))
            case "array":
                return json_array(random, 2)
            case "any":
                return json_value(random, 2)
        return "null"

    def odd(self, key: str) -> str:
        """An unusual value, good or bad."""
        random = self.random
        if random.random() < 0.3:
            return random.choice(PARTS_OF_VALUES)
        pools = {"timestamp": TIMES, "stream_version": VERSIONS, "schema_version": VERSIONS}
        if key in TEXT_FIELDS:
            return random.choice(ODD_TEXTS)
        if key in pools:
            return random.choice(pools[key])
        return random.choice(
            (json_value(random, 2), "null", "", random.choice(NUMBERS), random.choice(BAD_NUMBERS))
        )


def json_value(random: Random, depth: int) -> str:
    """Any JSON text."""
    match random.randrange(7 if depth else 4):
        case 0:
            return random.choice(NUMBERS)
        case 1:
            return random.choice(("true", "false", "null"))
        case 2 | 3:
            return json_text(random)
        case 4:
            return json_array(random, depth)
    return json_object(random, depth)


def json_text(random: Random) -> str:
    """A JSON string without half surrogate pairs, spelled in one of several ways."""
    pieces = (
        "a",
        "é",
        "日",
        "🧦",
        '"',
        "\\",
        "/",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '","metadata":{"a":1}',
        " ",
    )
    text = "".join(random.choices(pieces, k=random.randrange(6)))
    written = json.dumps(text, ensure_ascii=random.random() < 0.3)
    return written.replace("/", "\\/") if random.random() < 0.3 else written


def json_array(random: Random, depth: int) -> str:
    """A JSON array."""
    space = random.choice(SPACES)
    return "[" + space + f"{space},".join(json_value(random, depth - 1) for _ in range(random.randrange(3))) + "]"


def json_object(random: Random, depth: int) -> str:
    """A JSON object; a key may come twice."""
    space = random.choice(SPACES)
    keys = ('"a"', '"a"', '"payload"', '"metadata"', '"é"', '""', '"\\u0061"', '"colour"')
    members = [
        f"{space}{random.choice(keys)}:{space}{json_value(random, depth - 1)}" for _ in range(random.randrange(4))
    ]
    return "{" + ",".join(members) + space + "}"


def chunk(seed: int) -> list[Line]:
    """At least LINES_MIN lines of one to three shapes, most of them as they should be."""
    random = Random(seed)
    shapes = [Shape(random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    lines = [random.choice(shapes).line(number) for number in range(random.randrange(LINES_MIN, 2 * LINES_MIN))]
    if random.random() < 0.6:
        for _ in range(random.choice((1, 2, 5, 20))):
            damage(random, lines)
    if random.random() < 0.2:
        at = random.randrange(len(lines))
        lines[at:at] = [Line(random.choice((b"", b"  ", b"\t", b"\r")), None)] * random.randrange(1, 20)
    return lines


def joined(lines: list[Line], seed: int) -> bytes:
    """The lines as a chunk, with line feeds or CR LF."""
    endings = Random(seed).choice(((b"\n",), (b"\r\n",), (b"\n", b"\r\n")))
    return b"".join(line.data + endings[number % len(endings)] for number, line in enumerate(lines))


def _is_one_value(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def damage(random: Random, lines: list[Line]) -> None:
    """Damage one line, or two of them by one another."""
    number, other = random.randrange(len(lines)), random.randrange(len(lines))
    data, second = lines[number].data, lines[other].data
    at, second_at = _cut(random, data), _cut(random, second)
    kind = random.randrange(9)
    if kind == 0:
        data = data[:at] + bytes([random.choice(b'"\\{}[],: 0\x00\x1f\x7f\x80\xff\xc3')]) + data[at + 1 :]
    elif kind == 1:
        data = data[:at] + data[at + random.randrange(1, 4) :]
    elif kind == 2:
        data = data[:at] + random.choice((b'"', b"\\", b" ", b"{", b"}", b"0", b"\r", b"\xe9", b",")) + data[at:]
    elif kind == 3:
        data = data[:at]
    elif kind == 4:
        data += random.choice((b"", b" ", b",")) + second
    elif kind == 5 and number != other:
        data, second = data[:at] + second[second_at:], second[:second_at] + data[at:]
        lines[other] = Line(second, None)
    elif kind == 6:
        members = data.strip()[1:-1]
        data = b"{" + members + b"," + members[: _cut(random, members)] + b"}"
    elif kind == 7:
        data = random.choice((b"[%b]" % data, json_value(random, 2).encode()))
    else:
        data = data.replace(b"{}", random.choice(PARTS_OF_VALUES).encode(), 1)
    lines[number] = Line(data.replace(b"\n", b""), None)


def _cut(random: Random, data: bytes) -> int:
    """An offset in `data`, rather at a place where JSON changes its meaning."""
    places = [at for at, byte in enumerate(data) if byte in b'{}[],:"\\']
    if places and random.random() < 0.7:
        return random.choice(places) + random.randrange(2)
    return random.randrange(len(data) + 1)
