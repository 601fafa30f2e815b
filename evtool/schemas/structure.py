"""Is every value that one JSON Schema takes taken by another, and if that is not sure: where, by which rule?

The schema that data was written under is the *writer*, the one that it is to be read under the *reader*. Each
assertion of the reader must follow from assertions of the writer; those that do not are findings. What is
not found to follow is a finding too, `cannot_be_proved`: no finding is a proof, a finding is no proof of
the contrary. Rules and names are those of data flow, not of time, so one walk serves both directions.

A schema is taken apart into conjuncts: itself, what it refers to, and its allOf. An assertion follows when it
follows from any one conjunct of the writer. References may go round; a pair of schemas that is met again, one
level further down in the value, is what is being proved, and a value is finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evtool.schemas import assertions
from evtool.schemas.assertions import UndecidedError
from evtool.schemas.document import Node, pointer

_STEPS_MAX = 20_000
_COMBINING = ("anyOf", "oneOf")
# Drafts whose `items` may be a list, and where what stands beside `$ref` means nothing.
_OLD_DRAFTS = ("draft-06", "draft-07")


@dataclass(frozen=True)
class Finding:
    """A rule that does not follow: its name, where in the reader (JSON pointer), and a sentence."""

    rule: str
    path: str
    message: str


@dataclass(frozen=True)
class Side:
    """A schema document as this walk needs it: its root, and what it is called in messages."""

    root: Node
    name: str

    @property
    def draft(self) -> str:
        """What `$schema` names; the empty text when it names nothing."""
        found = self.root.get("$schema", "") if isinstance(self.root, dict) else ""
        return str(found).rstrip("#")

    @property
    def ignores_beside_reference(self) -> bool:
        """Whether what stands beside `$ref` means nothing."""
        return any(name in self.draft for name in _OLD_DRAFTS)


def compare(writer: Side, reader: Side) -> list[Finding]:
    """What keeps objects that `writer` takes from being taken by `reader`; nothing is a proof that nothing does.

    Only objects count: a payload is nothing else.
    """
    if writer.draft != reader.draft and not ({writer.draft, reader.draft} <= {"", _newest_draft()}):
        return [_undecided(["$schema"], f"{writer.name} and {reader.name} are of different drafts")]
    if "draft-04" in reader.draft and writer.root != reader.root:
        return [_undecided(["$schema"], "schemas of draft 4 are compared only for being the same")]
    for side in (writer, reader):
        newer = assertions.newer_keyword(side.root, side.draft)
        if newer:
            return [_undecided([], f"{side.name} has {newer!r}, which its draft does not know")]
    walk = _Walk(writer, reader)
    try:
        return walk.compare([{"type": "object"}, writer.root], reader.root, (), 0)
    except UndecidedError as error:
        return [_undecided([], str(error))]


def _newest_draft() -> str:
    return "https://json-schema.org/draft/2020-12/schema"


def _undecided(path: Sequence[str | int], message: str) -> Finding:
    return Finding("cannot_be_proved", pointer(path), message)


Path = tuple[str | int, ...]


class _Walk:
    """One comparison of two documents."""

    def __init__(self, writer: Side, reader: Side) -> None:
        self._writer = writer
        self._reader = reader
        self._references_agree = assertions.references_agree(writer.root, reader.root)
        self._open: dict[tuple[tuple[int, ...], int], int] = {}  # pairs that are being compared -> depth
        self._kept: list[Any] = []  # keeps what `id` named alive
        self._steps = 0

    def compare(self, writers: Sequence[Node], reader: Node, path: Path, depth: int) -> list[Finding]:
        """What keeps a value that all `writers` take from being taken by `reader`."""
        if reader is True or reader == {} or any(node is False for node in writers):
            return []
        if any(self._same(node, reader) for node in writers):
            return []
        self._steps += 1
        if self._steps > _STEPS_MAX:
            raise UndecidedError("the schemas are too large to be compared")
        self._kept += [*writers, reader]
        key = (tuple(sorted(map(id, writers))), id(reader))
        if key in self._open:
            if self._open[key] < depth:
                return []
            raise UndecidedError(f"{pointer(path) or 'the root'} refers to itself")
        self._open[key] = depth
        try:
            return self._compare(writers, reader, path, depth)
        finally:
            del self._open[key]

    def _compare(self, writers: Sequence[Node], reader: Node, path: Path, depth: int) -> list[Finding]:
        parts = [part for node in writers for part, _ in self._conjuncts(self._writer, node, ())]
        if any(part is False for part in parts):
            return []
        told = [part for part in parts if isinstance(part, dict)]
        types = assertions.types_of(told)
        findings: list[Finding] = []
        for conjunct, below in self._conjuncts(self._reader, reader, path):
            if conjunct is False:
                findings.append(Finding("nothing", pointer(below), f"{self._reader.name} takes nothing here"))
            elif isinstance(conjunct, dict):
                findings += self._conjunct(told, conjunct, types, below, depth)
        if findings and self._follows_by_cases(told, reader, path, depth):
            return []
        return findings

    def _conjuncts(self, side: Side, node: Node, path: Path) -> Iterator[tuple[Node, Path]]:
        """A node and all that must hold beside it: what it refers to, and its allOf."""
        pending: list[tuple[Node, Path]] = [(node, path)]
        references: set[str] = set()
        while pending:
            here, below = pending.pop()
            if isinstance(here, bool):
                yield here, below
                continue
            unknown = next((key for key in ("$dynamicRef", "$recursiveRef") if key in here), None)
            if unknown:
                raise UndecidedError(f"{side.name} has {unknown} at {pointer(below) or 'the root'}")
            if "$ref" in here:
                reference = str(here["$ref"])
                if reference not in references:
                    references.add(reference)
                    pending.append((self._target(side, reference), below))
                if side.ignores_beside_reference:
                    continue
            branches = here.get("allOf", [])
            pending += [(branch, (*below, "allOf", number)) for number, branch in enumerate(branches)]
            yield here, below

    def _target(self, side: Side, reference: str) -> Node:
        try:
            return assertions.target(side.root, reference)
        except LookupError as error:
            raise UndecidedError(f"{side.name} has the reference {reference!r}, which is not followed") from error

    def _same(self, writer: Node, reader: Node) -> bool:
        if assertions.has_reference(reader) and not self._references_agree:
            return False
        return bool(assertions.identity(writer) == assertions.identity(reader))

    def _follows_by_cases(self, told: list[dict[str, Any]], reader: Node, path: Path, depth: int) -> bool:
        """Whether each branch of some anyOf or oneOf of the writer, with all else it says, is taken."""
        # What is told is taken apart already: it must not bring back what a branch stands for.
        apart = [{key: value for key, value in part.items() if key not in ("allOf", "$ref")} for part in told]
        for number, part in enumerate(apart):
            for word in (word for word in _COMBINING if word in part):
                rest: list[Node] = [*apart[:number], *apart[number + 1 :]]
                rest.append({key: value for key, value in part.items() if key != word})
                try:
                    if all(not self.compare([*rest, branch], reader, path, depth) for branch in part[word]):
                        return True
                except UndecidedError:
                    return False
        return False

    def _conjunct(
        self, told: list[dict[str, Any]], reader: dict[str, Any], types: frozenset[str], path: Path, depth: int
    ) -> list[Finding]:
        findings = []
        names = self._writer.name, self._reader.name
        for rule, keyword, message in assertions.check(told, reader, types, names):
            findings.append(Finding(rule, pointer((*path, keyword)), message))
        types = types & assertions.types_of([reader])
        findings += self._combining(told, reader, path, depth)
        if "object" in types:
            findings += self._properties(told, reader, path, depth)
        if "array" in types:
            findings += self._items(told, reader, path, depth)
        findings += self._opaque(told, reader, types, path)
        return findings

    def _combining(
        self, told: list[dict[str, Any]], reader: dict[str, Any], path: Path, depth: int
    ) -> Iterator[Finding]:
        """Reader's anyOf and oneOf: the same as the writer's, or one branch of anyOf takes everything."""
        for word in _COMBINING:
            if word not in reader or self._has_same(told, reader, (word,)):
                continue
            branches = reader[word] if word == "anyOf" else []
            if not any(not self.compare(told, b, (*path, word, n), depth) for n, b in enumerate(branches)):
                yield _undecided((*path, word), f"{self._reader.name} has another {word} than {self._writer.name}")

    def _properties(
        self, told: list[dict[str, Any]], reader: dict[str, Any], path: Path, depth: int
    ) -> Iterator[Finding]:
        declared = reader.get("properties", {})
        patterns = reader.get("patternProperties", {})
        for name, wanted in declared.items():
            there = [assertions.property_schema(part, name, {}) for part in told]
            findings = self.compare(there, wanted, (*path, "properties", name), depth + 1)
            if findings and not any(name in part.get("properties", {}) for part in told):
                at = pointer((*path, "properties", name))
                yield Finding(
                    "open_property",
                    at,
                    f"{self._reader.name} says what {name!r} must be, and {self._writer.name} leaves it open",
                )
                continue
            yield from findings
        for pattern, wanted in patterns.items():
            there = [part.get("patternProperties", {}).get(pattern, True) for part in told]
            yield from self.compare(there, wanted, (*path, "patternProperties", pattern), depth + 1)
        rest = reader.get("additionalProperties", True)
        at_rest = (*path, "additionalProperties")
        known = {name: None for part in told for name in part.get("properties", {}) if name not in declared}
        for name in known:
            there = [assertions.property_schema(part, name, patterns) for part in told]
            if self.compare(there, rest, at_rest, depth + 1):
                message = (
                    f"{self._writer.name} has {name!r}, and {self._reader.name} does not take what it may hold"
                )
                yield Finding("unknown_property", pointer(at_rest), message)
        there = [assertions.property_schema(part, None, patterns) for part in told]
        if self.compare(there, rest, at_rest, depth + 1):
            message = f"{self._writer.name} takes properties of any other name that {self._reader.name} does not"
            yield Finding("additional_properties", pointer(at_rest), message)

    def _items(
        self, told: list[dict[str, Any]], reader: dict[str, Any], path: Path, depth: int
    ) -> Iterator[Finding]:
        first, rest = assertions.items(reader)
        length = max([len(first), *(len(assertions.items(part)[0]) for part in told)])
        for number in range(length):
            there = [assertions.item(part, number) for part in told]
            wanted, below = (
                (first[number], (*path, "prefixItems", number))
                if number < len(first)
                else (
                    rest,
                    (*path, "items"),
                )
            )
            yield from self.compare(there, wanted, below, depth + 1)
        yield from self.compare([assertions.items(part)[1] for part in told], rest, (*path, "items"), depth + 1)

    def _opaque(
        self, told: list[dict[str, Any]], reader: dict[str, Any], types: Iterable[str], path: Path
    ) -> Iterator[Finding]:
        """What is compared only for being the same."""
        for word in ("unevaluatedProperties", "unevaluatedItems"):  # they mean something with all else only
            if reader.get(word, True) is not True:
                yield _undecided((*path, word), f"{self._reader.name} has {word}, and is not the same as before")
        for words in assertions.opaque(self._reader.draft, types):
            if words[0] in reader and not self._has_same(told, reader, words):
                message = f"{self._reader.name} has another {words[0]} than {self._writer.name}"
                yield _undecided((*path, words[0]), message)

    def _has_same(self, told: list[dict[str, Any]], reader: dict[str, Any], words: tuple[str, ...]) -> bool:
        wanted = {word: reader[word] for word in words if word in reader}
        return any(self._same({word: part[word] for word in words if word in part}, wanted) for part in told)
