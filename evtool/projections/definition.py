"""A projection's definition: TOML as it was written, checked for its form, and where in the file things stand.

    name = "revenue-by-product"
    version = 1
    where = "event_type = 'ItemPurchased'"
    [time]                      # the first key, a period of event time, named after the grain
    grain = ":grain"
    timezone = ":timezone"
    [keys]
    product_id = "payload.product_id"
    [measures]
    revenue = "sum(cast(payload.amount as decimal(18,2)))"
    [parameters]
    grain = { value = "day", choices = ["hour", "day", "week", "month", "all"] }
    timezone = { value = "UTC" }

Instead of [measures] there may be [funnel], [retention], [sessions] or [score]. What the expressions mean is for
`compiling.py`; this module knows which keys there are and what type each has.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from evtool.errors import ProjectionError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
KINDS = ("measures", "funnel", "retention", "sessions", "score")
VERSION_MAX = 2**31 - 1

KindName = Literal["measures", "funnel", "retention", "sessions", "score"]

_TOP = ("name", "version", "description", "where", "on_cast_error", "time", "keys", "parameters", *KINDS)
_SECTION_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "time": {"column": str, "grain": str, "timezone": str},
    "funnel": {"by": str, "steps": (str, list), "within": str, "mode": (str, list)},
    "retention": {"by": str, "start": str, "return": str, "periods": (str, int)},
    "sessions": {"by": str, "gap": str, "each": bool},
    "score": {"weights": dict},
}
_REQUIRED = {
    "time": ("grain",),
    "funnel": ("by", "steps", "within"),
    "retention": ("by", "start", "return"),
    "sessions": ("by", "gap"),
    "score": ("weights",),
}
_EXAMPLES = {  # of what is no expression
    "within": 'A span of time is a text: within = "1h".',
    "gap": 'A span of time is a text: gap = "30m".',
    "steps": 'As in steps = ["ItemViewed", "ItemPurchased"].',
    "mode": 'As in mode = "strict_once".',
    "periods": "As in periods = 12.",
    "each": "It is true or false.",
    "grain": 'As in grain = "day".',
    "timezone": 'As in timezone = "Europe/Berlin".',
    "weights": "Write [score.weights] and below it conditions with their weights: \"event_type = 'A'\" = 1.",
}
_NEEDS_TIME = ("retention",)
_NOT_HASHED = ("description",)


@dataclass(frozen=True)
class Parameter:
    """What `--set` may change: an expression, or a value (text, number, list of texts) of some choices."""

    default: Any
    is_expression: bool = False
    choices: tuple[Any, ...] = ()
    help: str = ""


@dataclass(frozen=True)
class Identity:
    """What tells a projection and its values from others: enough to find what was made of it.

    `reference` is what it is asked for by, if that is not its name: a file, or `module:object`.
    """

    name: str
    version: int
    definition_hash: str
    parameters: Mapping[str, Any]
    reference: str = field(default="", compare=False)

    @property
    def parameters_hash(self) -> str:
        """16 hexadecimal digits of the values of its parameters."""
        return digest(dict(self.parameters))[:16]


@dataclass(frozen=True)
class Definition:
    """One definition. `origin` names its file in messages, `text` is what it holds."""

    name: str
    version: int
    kind: KindName
    table: Mapping[str, Any]
    parameters: Mapping[str, Parameter]
    origin: str
    text: str = field(repr=False, compare=False)

    @property
    def description(self) -> str:
        """What it says of itself; "" when it says nothing."""
        return str(self.table.get("description", ""))

    def identity(self, values: Mapping[str, Any]) -> Identity:
        """This definition with some values of its parameters."""
        return Identity(self.name, self.version, self.hash, dict(values))

    @property
    def hash(self) -> str:
        """32 hexadecimal digits over all that decides its result: not spaces, comments or descriptions."""
        return digest(_without_help({k: v for k, v in self.table.items() if k not in _NOT_HASHED}))

    def fail(
        self, path: tuple[str, ...], message: str, hint: str = "", line: int = 1, column: int = 1
    ) -> NoReturn:
        """Raise ProjectionError at the value of `path`, or at a place (from 1) within the text that it is."""
        raise ProjectionError(f"{self.origin}:{place(self.text, path, line, column)}: {message}", hint)


def digest(value: Any) -> str:
    """32 hexadecimal digits of a value of JSON's types, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def parse(data: bytes, origin: str) -> Definition:
    """A definition from a file's bytes. Raises ProjectionError with line and column."""
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ProjectionError(f"{origin} is not UTF-8: {error}") from error
    except ValueError as error:  # of TOML, or a number of thousands of digits
        raise ProjectionError(f"{origin} is not TOML: {error}", "Correct that line.") from error
    except RecursionError as error:
        raise ProjectionError(
            f"{origin} nests deeper than can be read", "A definition needs two levels."
        ) from error
    return _Reader(table, origin, text).definition()


class _Reader:
    """Checks the form of one table."""

    def __init__(self, table: dict[str, Any], origin: str, text: str) -> None:
        self._table = table
        self._origin = origin
        self._text = text

    def definition(self) -> Definition:
        self._known((), self._table, _TOP)
        name, version = self._table.get("name"), self._table.get("version")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self._fail(
                ("name",), "name must be lower-case letters, digits, '-', '_' and '.'", 'As in name = "my-view".'
            )
        if type(version) is not int or not 1 <= version <= VERSION_MAX:
            self._fail(("version",), "version must be a whole number from 1 on", "Raise it with every change.")
        kinds = [kind for kind in KINDS if kind in self._table]
        if len(kinds) != 1:
            found = f"it has {' and '.join(f'[{kind}]' for kind in kinds)}" if kinds else "it has none"
            self._fail(
                (kinds[-1],) if kinds else ("name",),
                f"one of {', '.join(f'[{k}]' for k in KINDS)} is wanted; {found}",
            )
        self._texts()
        for section in _SECTION_KEYS:
            if section in self._table:
                self._section(section)
        (kind,) = kinds
        if kind in _NEEDS_TIME and "time" not in self._table:
            self._fail(
                (kind,),
                f"[{kind}] needs [time], whose grain is its period",
                'Write [time] and grain = "week" below.',
            )
        return Definition(name, version, kind, self._table, self._parameters(), self._origin, self._text)  # type: ignore[arg-type]

    def _texts(self) -> None:
        for key in ("description", "where", "on_cast_error"):
            if not isinstance(self._table.get(key, ""), str):
                self._fail((key,), f"{key} must be a text")
        for section in ("keys", "measures"):
            table = self._table.get(section, {})
            if not isinstance(table, dict) or (section in self._table and section == "measures" and not table):
                self._fail((section,), f"[{section}] must be a table of names and expressions")
            for name, expression in table.items():
                if not COLUMN.fullmatch(name):
                    self._fail((section, name), f"{name!r} is no name of a column", "Letters, digits and '_'.")
                if not isinstance(expression, str):
                    self._fail((section, name), f"{section}.{name} must be a text: an expression")
        twice = set(self._table.get("keys", {})) & set(self._table.get("measures", {}))
        for name in sorted(twice):
            self._fail(("measures", name), f"{name!r} is a key, too", "Give one of them another name.")

    def _section(self, section: str) -> None:
        table, keys = self._table[section], _SECTION_KEYS[section]
        if not isinstance(table, dict):
            self._fail((section,), f"{section} must be a table: write [{section}] and its keys below")
        self._known((section,), table, tuple(keys))
        for key in _REQUIRED[section]:
            if key not in table:
                self._fail((section,), f"[{section}] needs {key!r}")
        for key, value in table.items():
            wanted = keys[key]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                written = str(value).lower() if isinstance(value, bool) else repr(value)
                self._fail(
                    (section, key),
                    f"{section}.{key} = {written:.60} has the wrong type",
                    _EXAMPLES.get(key, "It is a text: an expression."),
                )

    def _parameters(self) -> dict[str, Parameter]:
        table = self._table.get("parameters", {})
        if not isinstance(table, dict):
            self._fail(("parameters",), "[parameters] must be a table")
        return {name: self._parameter(name, written) for name, written in table.items()}

    def _parameter(self, name: str, written: Any) -> Parameter:
        path = ("parameters", name)
        if not COLUMN.fullmatch(name):
            self._fail(path, f"{name!r} is no name of a parameter", "Letters, digits and '_'.")
        if not isinstance(written, dict) or ("value" in written) == ("expression" in written):
            self._fail(
                path, 'a parameter is { value = … } or { expression = "…" }', f'{name} = {{ value = "day" }}'
            )
        if "expression" in written:
            self._known(path, written, ("expression", "help"))
            if not isinstance(written["expression"], str):
                self._fail(path, "an expression must be a text")
            return Parameter(written["expression"], is_expression=True, help=str(written.get("help", "")))
        self._known(path, written, ("value", "choices", "help"))
        value, choices = written["value"], written.get("choices", [])
        if not is_value(value):
            self._fail(path, f"{value!r} is no text, number, truth value or list of texts")
        if not isinstance(choices, list) or (choices and value not in choices):
            self._fail(path, f"{value!r} is none of the choices")
        return Parameter(value, choices=tuple(choices), help=str(written.get("help", "")))

    def _known(self, path: tuple[str, ...], table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
                self._fail((*path, key), f"there is no key {'.'.join((*path, key))!r}", hint)

    def _fail(self, path: tuple[str, ...], message: str, hint: str = "") -> NoReturn:
        raise ProjectionError(f"{self._origin}:{place(self._text, path)}: {message}", hint)


def is_value(value: Any) -> bool:
    """Whether a parameter can have this value."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | int)


def place(text: str, path: tuple[str, ...], line: int = 1, column: int = 1) -> str:
    """`line:column` of the value at `path` in a TOML text, or of a place within the text that it is.

    Tables are found by their headings, keys by the beginning of their lines (and, in inline tables, behind them);
    what is not found is told by the nearest that is.
    """
    *section, key = path
    lines = text.splitlines()
    at, inline = _heading(lines, section), ""
    if at is None and section:  # the table may stand inline, in the line of its own key
        *section, inline = section
        at = _heading(lines, section)
    for number in range(at or 0, len(lines)):
        if lines[number].lstrip().startswith("[") and number > (at or 0) and section != []:
            break
        found = re.match(rf"\s*[\"']?{re.escape(inline or key)}[\"']?\s*=\s*", lines[number])
        if found:
            return _within(lines[number], number, found.end(), key if inline else "", line, column)
    own = _heading(lines, list(path))
    return f"{(own if own is not None else at or 1) or 1}:1"


def _heading(lines: list[str], section: list[str]) -> int | None:
    """The index of the line behind a table's heading; 0 for the outermost table."""
    if not section:
        return 0
    wanted = ".".join(section)
    for number, written in enumerate(lines):
        found = re.match(r"\s*\[\s*(.+?)\s*\]\s*(#.*)?$", written)
        if found and re.sub(r"[\"'\s]", "", found[1]) == wanted:
            return number + 1
    return None


def _within(written: str, number: int, start: int, key: str, line: int, column: int) -> str:
    if key:
        found = re.compile(rf"\b{re.escape(key)}\s*=\s*").search(written, start)
        start = found.end() if found else start
    if re.fullmatch(r"(\"\"\"|''')\s*", written[start:]):  # a text over several lines, which begins on the next
        return f"{number + 1 + line}:{column}"
    if line > 1:
        return f"{number + line}:{column}"
    quotes = re.match(r"\"\"\"|'''|[\"']?", written[start:])
    return f"{number + 1}:{start + (len(quotes[0]) if quotes else 0) + column}"


def _without_help(table: Mapping[str, Any]) -> dict[str, Any]:
    """A definition's table without what only people read."""
    parameters = {
        name: {key: value for key, value in written.items() if key != "help"}
        for name, written in table.get("parameters", {}).items()
    }
    return {**table, **({"parameters": parameters} if parameters else {})}
