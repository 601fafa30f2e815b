"""The schema of what an upcaster makes of payloads that another schema takes.

With it compatibility is decided of what readers are given, not of what is stored. The image takes at least
every payload that can come out: where a schema says more than can be carried through a step, it says less.
A payload on which a step fails does not come out, so it does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

from evtool.schemas import assertions
from evtool.schemas.assertions import UndecidedError
from evtool.schemas.document import Node
from evtool.schemas.steps import Path, Step

Plain: TypeAlias = dict[str, Any]  # type, properties, required and additionalProperties, and nothing else

_CARRIED_AT_ROOT = ("$schema", "$defs", "definitions")
_REFERENCES_MAX = 100


def image(node: Node, steps: Sequence[Step]) -> Node:
    """A schema that takes what `steps` make of objects that `node` takes.

    Raises UndecidedError when the schema refers to parts that a step may change.
    """
    if steps and not assertions.refers_to_definitions(node):
        raise UndecidedError("an upcaster works only on schemas whose references lead into $defs")
    for step in steps:
        node = _Carrier(node).carry(step)
    return node


class _Carrier:
    """One step on one document."""

    def __init__(self, root: Node) -> None:
        self._root = root

    def carry(self, step: Step) -> Node:
        """The document after the step."""
        plain = self._plain(self._root)
        if step.kind in ("rename", "move"):
            value, is_there = self._taken(plain, step.path)
            if value is not False:
                change = partial(_put, value=value, is_there=is_there)
                self._change(plain, step.to, change, creates=True, for_sure=is_there)
        elif step.kind == "drop":
            self._taken(plain, step.path)
        elif step.kind == "cast":
            self._change(plain, step.path, partial(self._cast, to=step.type), creates=False, for_sure=False)
        else:
            value = {"const": json.loads(step.value, parse_float=Decimal)}
            self._change(plain, step.path, partial(_fill, value=value), creates=True, for_sure=True)
        carried = self._root if isinstance(self._root, dict) else {}
        return {word: carried[word] for word in _CARRIED_AT_ROOT if word in carried} | plain

    def _plain(self, node: Node) -> Plain:
        """An object's schema in the four words that steps work on; it takes at least what `node` does."""
        for _ in range(_REFERENCES_MAX):
            if not isinstance(node, dict) or "$ref" not in node:
                break
            try:
                node = assertions.target(self._root, str(node["$ref"]))
            except LookupError:
                node = True
        told = node if isinstance(node, dict) else {}
        rest = told.get("additionalProperties", True) if isinstance(node, dict) else node
        return {
            "type": "object",
            "properties": dict(told.get("properties", {})),
            "required": list(told.get("required", [])),
            "additionalProperties": True if told.get("patternProperties") else rest,
        }

    def _taken(self, plain: Plain, path: Path) -> tuple[Node, bool]:
        """Take a member out; what it was, and whether it was there for sure. A null on the way is its absence."""
        name, *below = path
        value = _member(plain, name)
        is_there = name in plain["required"]
        if not below:
            _remove(plain, name)
            return value, is_there
        if value is False:
            return False, False
        inner = self._plain(value)
        taken, is_there_inside = self._taken(inner, tuple(below))
        plain["properties"][name] = _or_null(inner, self._takes_null(value))
        return taken, is_there and is_there_inside and not self._takes_null(value)

    def _change(
        self, plain: Plain, path: Path, change: Callable[[Plain, str], None], creates: bool, for_sure: bool
    ) -> None:
        """Change what the last name of a path stands for, in the objects on the way to it.

        With `creates` those that are absent are made, in every payload if `for_sure`.
        """
        name, *below = path
        if not below:
            change(plain, name)
            return
        value = _member(plain, name)
        if value is False and not creates:
            return
        is_there = name in plain["required"]
        inner = self._plain(value)
        if creates and (not is_there or self._takes_null(value)):
            inner["required"] = []  # a new object has nothing in it
        self._change(inner, tuple(below), change, creates, for_sure)
        if creates:
            # Where nothing comes, what there was stays, whatever it is.
            plain["properties"][name] = inner if for_sure else _either(inner, value)
        else:
            plain["properties"][name] = _or_null(inner, self._takes_null(value))
        if creates and for_sure and not is_there:
            plain["required"].append(name)

    def _cast(self, plain: Plain, name: str, to: str) -> None:
        value = _member(plain, name)
        wanted = {"type": to}
        types = self._types(value)
        if types - {"null"} <= assertions.types_of([wanted]):
            return
        plain["properties"][name] = _or_null(wanted, "null" in types)

    def _types(self, value: Node) -> frozenset[str]:
        if isinstance(value, dict):
            return assertions.types_of([value]) if "$ref" not in value else assertions.ALL_TYPES
        return assertions.ALL_TYPES if value else frozenset()

    def _takes_null(self, value: Node) -> bool:
        return "null" in self._types(value)


def _member(plain: Plain, name: str) -> Node:
    found: Node = plain["properties"].get(name, plain["additionalProperties"])
    return found


def _remove(plain: Plain, name: str) -> None:
    plain["properties"][name] = False
    if name in plain["required"]:
        plain["required"].remove(name)


def _put(plain: Plain, name: str, value: Node, is_there: bool) -> None:
    """A member that comes from elsewhere; where it does not come, what there was may be."""
    plain["properties"][name] = value if is_there else _either(value, _member(plain, name))
    if is_there and name not in plain["required"]:
        plain["required"].append(name)


def _fill(plain: Plain, name: str, value: Node) -> None:
    if name not in plain["required"]:
        plain["properties"][name] = _either(_member(plain, name), value)
        plain["required"].append(name)


def _either(first: Node, second: Node) -> Node:
    if first is True or second is True:
        return True
    if first is False or second is False:
        return second if first is False else first
    return {"anyOf": [first, second]}


def _or_null(value: Node, takes_null: bool) -> Node:
    return _either(value, {"type": "null"}) if takes_null else value
