"""What single keywords of JSON Schema say, and whether one follows from others.

Types are told as a set in which `number` is two: `integer` and `fraction`, as an integer is a number too. Bounds
are compared exactly. Patterns are not understood, only compared as texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from evtool.schemas.document import Node

ALL_TYPES = frozenset({"null", "boolean", "object", "array", "string", "integer", "fraction"})
NUMBERS = frozenset({"integer", "fraction"})
_EXPONENT_MAX = 300  # beyond it a fraction would take long to compute with
_OLD_DRAFTS = ("draft-06", "draft-07")
_LIST_DRAFTS = (*_OLD_DRAFTS, "2019-09")  # where `items` may be a list, and prefixItems means nothing

Part: TypeAlias = Mapping[str, Any]
Claim: TypeAlias = tuple[str, str, str]  # rule, keyword, sentence
Names: TypeAlias = tuple[str, str]  # of the writer, of the reader

# keyword -> its types, whether more of it is stricter
_COUNTS = {
    "minLength": ("string", True),
    "maxLength": ("string", False),
    "minItems": ("array", True),
    "maxItems": ("array", False),
    "minProperties": ("object", True),
    "maxProperties": ("object", False),
}
_RULE_OF = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
}
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DEFINITIONS = ("$defs", "definitions")
# Groups of keywords that mean something only together; the first one of each must be there.
_OPAQUE = {
    "object": (("propertyNames",), ("dependentSchemas",), ("dependencies",)),
    "array": (("contains", "minContains", "maxContains"),),
}
_OPAQUE_ANYWHERE = (("not",), ("if", "then", "else"))
_OPAQUE_IN_OLD_DRAFTS = (("contentEncoding",), ("contentMediaType",))


class UndecidedError(Exception):
    """A schema holds what is not understood here; the text says what and where."""


def check(told: Sequence[Part], reader: Part, types: frozenset[str], names: Names) -> Iterator[Claim]:
    """Assertions of `reader` about a value itself that follow from none of `told`."""
    missing = types - types_of([{"type": reader["type"]}] if "type" in reader else [{}])
    if missing:
        yield "type", "type", f"{names[0]} takes {_listed(missing)} here, and {names[1]} does not"
    yield from _values(told, reader, names)
    if types & NUMBERS:
        yield from _bounds(told, reader, names)
    yield from _counts(told, reader, types, names)
    if "string" in types and "pattern" in reader:
        yield from _pattern(told, reader["pattern"], names)
    if "array" in types and reader.get("uniqueItems") and not any(part.get("uniqueItems") for part in told):
        yield "unique_items", "uniqueItems", f"{names[1]} wants items that differ, and {names[0]} does not"
    if "object" in types:
        yield from _presence(told, reader, names)


def types_of(parts: Iterable[Part]) -> frozenset[str]:
    """The types that a value can have of which all parts hold."""
    found = ALL_TYPES
    for part in parts:
        if "type" in part:
            words = [part["type"]] if isinstance(part["type"], str) else part["type"]
            found &= frozenset().union(*(NUMBERS if word == "number" else {word} for word in words))
        for values in _enumerations(part):
            found &= frozenset(_type(value) for value in values)
    return found


def identity(value: Any) -> Any:
    """Something that is equal for equal JSON values, and for those only: 1 is 1.0 and not true."""
    if isinstance(value, dict):
        return ("object", frozenset((key, identity(member)) for key, member in value.items()))
    if isinstance(value, list):
        return ("array", tuple(map(identity, value)))
    if isinstance(value, bool) or value is None:
        return ("word", value)
    if isinstance(value, str):
        return ("string", value)
    return ("number", Fraction(value) if _is_small(value) else str(value))


def property_schema(part: Part, name: str | None, shared_patterns: Mapping[str, Any]) -> Node:
    """What `part` says of the property of a name, or (None) of all whose name no `properties` has.

    It says at least this: patternProperties may say more. Names that match `shared_patterns` do not count.
    """
    if name is not None and name in part.get("properties", {}):
        found: Node = part["properties"][name]
        return found
    if any(pattern not in shared_patterns for pattern in part.get("patternProperties", {})):
        return True
    rest: Node = part.get("additionalProperties", True)
    return rest


def items(part: Part) -> tuple[list[Node], Node]:
    """What `part` says of the first items, one by one, and of all behind them."""
    listed = part.get("items", True)
    if isinstance(listed, list):
        return listed, part.get("additionalItems", True)
    return part.get("prefixItems", []), listed


def item(part: Part, number: int) -> Node:
    """What `part` says of an item."""
    first, rest = items(part)
    return first[number] if number < len(first) else rest


def opaque(draft: str, types: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Groups of keywords that are compared only for being the same, for values of these types."""
    yield from _OPAQUE_ANYWHERE
    for kind in types:
        yield from _OPAQUE.get(kind, ())
    if any(name in draft for name in _OLD_DRAFTS):
        yield from _OPAQUE_IN_OLD_DRAFTS


def newer_keyword(root: Node, draft: str) -> str | None:
    """A keyword that this draft passes over, and that would be understood as that of a newer one."""
    is_older = any(name in draft for name in _LIST_DRAFTS)
    return "prefixItems" if is_older and "prefixItems" in _keys(root) else None


def target(root: Node, reference: str) -> Node:
    """What a reference within a document leads to: `#` or `#/...`. Raises LookupError for any other."""
    if not (reference == "#" or reference.startswith("#/")) or "%" in reference or _has_identifier(root):
        raise LookupError(reference)
    found: Any = root  # the validator has found what it leads to, so it is there
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found[int(name) if isinstance(found, list) and name.isdigit() else name]
    if not isinstance(found, dict | bool):
        raise LookupError(reference)
    return found


def references_agree(first: Node, second: Node) -> bool:
    """Whether the same reference means the same in two documents: both lead into equal definitions."""
    if not (refers_to_definitions(first) and refers_to_definitions(second)):
        return False
    if isinstance(first, bool) or isinstance(second, bool):
        return True
    return all(identity(first.get(word)) == identity(second.get(word)) for word in _DEFINITIONS)


def refers_to_definitions(root: Node) -> bool:
    """Whether all references of a document lead into its definitions, and no part has a name of its own."""
    into = tuple(f"#/{word}/" for word in _DEFINITIONS)
    return not _has_identifier(root) and all(name.startswith(into) for name in _refs(root))


def has_reference(node: Any) -> bool:
    """Whether a schema refers to anything outside of itself."""
    return any(True for _ in _refs(node))


def _refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (str(node[word]) for word in _REFERENCES if word in node)
    for member in _members(node):
        yield from _refs(member)


def _has_identifier(node: Any, is_root: bool = True) -> bool:
    """Whether a part of a document has a name of its own, from which references count."""
    if isinstance(node, dict) and not is_root and isinstance(node.get("$id"), str):
        return True
    return any(_has_identifier(member, is_root=False) for member in _members(node))


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node
    for member in _members(node):
        yield from _keys(member)


def _members(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _values(told: Sequence[Part], reader: Part, names: Names) -> Iterator[Claim]:
    for word, wanted in zip(("enum", "const"), (reader.get("enum"), [reader.get("const")]), strict=True):
        if word not in reader or wanted is None:
            continue
        allowed = {identity(value) for value in wanted}
        given = [values for part in told for values in _enumerations(part)]
        if any({identity(value) for value in values} <= allowed for values in given):
            continue
        if given:
            lost = [value for value in min(given, key=len) if identity(value) not in allowed]
            yield "enum", word, f"{names[0]} takes {_shown(lost)}, and {names[1]} does not"
        else:
            yield "enum", word, f"{names[1]} takes {_shown(wanted)} alone, and {names[0]} more"


def _enumerations(part: Part) -> Iterator[list[Any]]:
    if "enum" in part:
        yield part["enum"]
    if "const" in part:
        yield [part["const"]]


def _bounds(told: Sequence[Part], reader: Part, names: Names) -> Iterator[Claim]:
    for word, strict_word, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        found = [bound for part in told for bound in _limits(part, word, strict_word, sign)]
        for keyword in (word, strict_word):
            alone = {keyword: reader[keyword]} if keyword in reader else {}
            for wanted in _limits(alone, word, strict_word, sign):
                if not any(bound >= wanted for bound in found):
                    has = f"{names[0]} has {_number(max(found)[0] * sign)}" if found else f"{names[0]} has none"
                    yield word, keyword, f"{names[1]} has {keyword} {_number(wanted[0] * sign)}, and {has}"
    if "multipleOf" in reader:
        wanted_step = _exact(reader["multipleOf"])
        steps = [_exact(part["multipleOf"]) for part in told if "multipleOf" in part]
        if not any(step % wanted_step == 0 for step in steps):
            message = f"{names[1]} wants multiples of {reader['multipleOf']}, and {names[0]} takes others"
            yield "multiple_of", "multipleOf", message


def _limits(part: Part, word: str, strict_word: str, sign: int) -> Iterator[tuple[Fraction, bool]]:
    """Lower bounds (upper ones with their sign turned): more is stricter, and exclusive stricter than not."""
    if word in part:
        yield _exact(part[word]) * sign, False
    if strict_word in part:
        yield _exact(part[strict_word]) * sign, True


def _counts(told: Sequence[Part], reader: Part, types: frozenset[str], names: Names) -> Iterator[Claim]:
    for keyword, (kind, more_is_stricter) in _COUNTS.items():
        if keyword not in reader or kind not in types:
            continue
        wanted = reader[keyword]
        found = [part[keyword] for part in told if keyword in part]
        if more_is_stricter:
            found.append(len(_required(told)) if keyword == "minProperties" else 0)
        if not any(value >= wanted if more_is_stricter else value <= wanted for value in found):
            best = (max if more_is_stricter else min)(found) if found else "none"
            yield _RULE_OF[keyword], keyword, f"{names[1]} has {keyword} {wanted}, and {names[0]} has {best}"


def _pattern(told: Sequence[Part], wanted: str, names: Names) -> Iterator[Claim]:
    found = [part["pattern"] for part in told if "pattern" in part]
    if wanted in found:
        return
    if found:
        message = f"{names[1]} has another pattern than {names[0]}, and patterns are compared only as texts"
        yield "cannot_be_proved", "pattern", message
    else:
        yield "pattern", "pattern", f"{names[1]} has a pattern, and {names[0]} has none"


def _presence(told: Sequence[Part], reader: Part, names: Names) -> Iterator[Claim]:
    there = _required(told)
    for name in reader.get("required", []):
        if name not in there:
            yield "required", "required", f"{names[1]} requires {name!r}, and {names[0]} does not"
    for name, wanted in reader.get("dependentRequired", {}).items():
        given = [set(part.get("dependentRequired", {}).get(name, [])) for part in told]
        if not set(wanted) <= there.union(*given):
            message = f"{names[1]} requires {_shown(wanted)} beside {name!r}, and {names[0]} does not"
            yield "dependent_required", "dependentRequired", message


def _required(parts: Iterable[Part]) -> set[str]:
    return {name for part in parts for name in part.get("required", [])}


def _type(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (dict, "object"), (list, "array"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "integer" if isinstance(value, int) or _exact(value).denominator == 1 else "fraction"


def _exact(number: Any) -> Fraction:
    """A number to compute with. Raises UndecidedError where that would take long."""
    if not _is_small(number):
        raise UndecidedError(f"the number {number} is too large to be compared")
    return Fraction(number)


def _is_small(number: Any) -> bool:
    return isinstance(number, int) or (abs(number.as_tuple().exponent) <= _EXPONENT_MAX)


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else str(Decimal(value.numerator) / value.denominator)


def _listed(types: Iterable[str]) -> str:
    found = set(types)
    if found >= NUMBERS:
        found = (found - NUMBERS) | {"number"}
    return ", ".join(sorted("number that is no integer" if name == "fraction" else name for name in found))


def _shown(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values[:5])
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")
