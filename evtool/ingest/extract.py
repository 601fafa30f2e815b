"""Values at some paths of many JSON objects, by types that are made for these paths.

msgspec decodes into a type only what the type names, and checks the rest without keeping it. So for a set of
paths a type is made that names just these: nested structs for keys, lists for indexes, and at the ends
a scalar, or `Raw` where the exact bytes are wanted. Where one path leads through the end of another, as
`data` and `data.user`, no single type names both, and the objects are decoded once for each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from evtool.ingest.mapping import Steps

ABSENT = msgspec.Raw(b"")  # what stands for the bytes of nothing

_SCALAR = str | int | float | bool | None
_REFUSED = frozenset(map(chr, (*range(32), ord('"'), ord("\\"))))  # in a key; msgspec has no names with them


@dataclass(frozen=True)
class Slot:
    """What is wanted: the value at a path, as a scalar or as its bytes."""

    steps: Steps
    raw: bool = False


@dataclass
class _Node:
    """A step of the paths: what is wanted here, or which steps lead on, all keys or all indexes."""

    wanted: Slot | None = None
    steps: dict[str | int, _Node] = field(default_factory=dict)


class Extractor:
    """Finds the values of some slots in many objects at once.

    Raises ValueError for slots that no types can name: keys with quotes, backslashes or control characters, and
    paths that differ in what the items of one list are.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        if any(_REFUSED & set(step) for slot in slots for step in slot.steps if isinstance(step, str)):
            raise ValueError("a key with such characters cannot be named in a type")
        roots: list[_Node] = []
        self._slots = list(slots)
        self._getters: dict[Slot, tuple[int, Steps]] = {}
        for slot in slots:
            number = next((at for at, root in enumerate(roots) if _insert(root, slot)), len(roots))
            if number == len(roots):
                roots.append(_Node())
                _insert(roots[-1], slot)
            self._getters[slot] = (number, slot.steps)
        made = [_type(root) for root in roots]
        self._decoders = [msgspec.json.Decoder(kind) for kind, _ in made]
        self._names = [names for _, names in made]

    def decode(self, texts: bytes | memoryview, count: int) -> list[list[Any]] | None:
        """The objects in `texts`, once for each type; None unless they are `count`, all valid, of these types."""
        try:
            found = [decoder.decode_lines(texts) for decoder in self._decoders]
        except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError):
            return None
        return found if all(len(objects) == count for objects in found) else None

    def column(self, slot: Slot, objects: Sequence[list[Any]]) -> list[Any]:
        """The values of a slot in decoded objects; None (or for bytes: ABSENT) where nothing is."""
        number, steps = self._getters[slot]
        attributes = _attributes(self._names[number], steps)
        if all(isinstance(name, str) for name in attributes):
            try:
                return list(map(operator.attrgetter(".".join(map(str, attributes))), objects[number]))
            except AttributeError:
                pass  # null stands where an object could: step by step
        get = _careful(attributes, ABSENT if slot.raw else None)
        return [get(value) for value in objects[number]]


def _insert(root: _Node, slot: Slot) -> bool:
    """Add a slot to the tree, unless it does not go together with what is there."""
    node, path = root, [root]
    for step in slot.steps:
        if node.wanted is not None or any(type(known) is not type(step) for known in node.steps):
            return False
        if step not in node.steps:
            rest = slot.steps[len(path) - 1 :]
            node.steps[step] = _chain(rest[1:], slot)
            return True
        node = node.steps[step]
        path.append(node)
    return node.wanted == slot


def _chain(steps: Steps, slot: Slot) -> _Node:
    return _Node(steps={steps[0]: _chain(steps[1:], slot)}) if steps else _Node(wanted=slot)


def _type(node: _Node) -> tuple[Any, dict[str | int, Any]]:
    """The type of a node, and its names: step -> (attribute, names of what lies behind)."""
    if node.wanted is not None:
        return (msgspec.Raw if node.wanted.raw else _SCALAR), {}
    if isinstance(next(iter(node.steps)), int):
        return _list_type(node)
    fields: list[tuple[str, Any, Any]] = []
    names: dict[str | int, Any] = {}
    renamed = {}
    for number, (key, child) in enumerate(node.steps.items()):
        kind, inner = _type(child)
        name = f"f{number}"
        names[key], renamed[name] = (name, inner), str(key)
        fields.append((name, *_optional(kind, child)))
    return msgspec.defstruct("Found", fields, rename=renamed, gc=False), names


def _list_type(node: _Node) -> tuple[Any, dict[str | int, Any]]:
    """All items of a list have one type, which names what is wanted of any of them."""
    merged = _Node()
    for child in node.steps.values():
        if not _merge(merged, child):
            raise ValueError("the items of a list would need several types")
    kind, inner = _type(merged)
    item = kind if merged.wanted is not None else kind | None
    return list[item], {index: (index, inner) for index in node.steps}  # type: ignore[valid-type]


def _merge(target: _Node, source: _Node) -> bool:
    if source.wanted is not None:
        if target.steps or (target.wanted and target.wanted.raw != source.wanted.raw):
            return False
        target.wanted = source.wanted
        return True
    kinds = {type(step) for node in (target, source) for step in node.steps}
    if target.wanted is not None or len(kinds) > 1:
        return False
    return all(_merge(target.steps.setdefault(step, _Node()), child) for step, child in source.steps.items())


def _optional(kind: Any, node: _Node) -> tuple[Any, Any]:
    """A field's type and default. An absent object is an empty one, so that steps into it need no check."""
    if node.wanted is not None:
        return kind, ABSENT if node.wanted.raw else None
    if isinstance(next(iter(node.steps)), int):
        return kind | None, None
    empty = kind()
    return kind | None, msgspec.field(default_factory=lambda: empty)


def _attributes(names: dict[str | int, Any], steps: Steps) -> list[str | int]:
    found = []
    for step in steps:
        attribute, names = names[step]
        found.append(attribute)
    return found


def _careful(attributes: Sequence[str | int], nothing: Any) -> Callable[[Any], Any]:
    def get(value: Any) -> Any:
        for attribute in attributes:
            if value is None:
                return nothing
            if isinstance(attribute, str):
                value = getattr(value, attribute)
            elif attribute < len(value):
                value = value[attribute]
            else:
                return nothing
        return value

    return get
