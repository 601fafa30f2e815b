"""Small schemas and payloads: of few names and few values, so that most schemas take some of the payloads."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

NAMES = ("a", "b", "c")
TYPES = ("null", "boolean", "object", "array", "string", "integer", "number")
TEXTS = ("", "x", "y", "xy", "xxx", "1", "true")
NUMBERS = (-1, 0, 1, 2, 3, 2**53 + 1, Decimal("0.5"), Decimal("1.0"), Decimal("2.5"))
PATTERNS = ("^x", "x$", "^[xy]*$")

names = st.sampled_from(NAMES)
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(TEXTS), st.sampled_from(NUMBERS))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)
payloads = st.dictionaries(names, values, max_size=3)
counts = st.integers(0, 3)
types = st.one_of(st.sampled_from(TYPES), st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True))

_SCALAR_WORDS = {
    "type": types,
    "enum": st.lists(values, min_size=1, max_size=3),
    "const": values,
    "minimum": st.sampled_from(NUMBERS),
    "maximum": st.sampled_from(NUMBERS),
    "exclusiveMinimum": st.sampled_from(NUMBERS),
    "exclusiveMaximum": st.sampled_from(NUMBERS),
    "multipleOf": st.sampled_from((1, 2, 3, Decimal("0.5"))),
    "minLength": counts,
    "maxLength": counts,
    "pattern": st.sampled_from(PATTERNS),
    "minItems": counts,
    "maxItems": counts,
    "uniqueItems": st.booleans(),
    "minProperties": counts,
    "maxProperties": counts,
    "required": st.lists(names, max_size=2, unique=True),
    "dependentRequired": st.dictionaries(names, st.lists(names, max_size=2, unique=True), max_size=2),
    "format": st.just("date"),
    "title": st.just("a title"),
}


def _nodes(inner: st.SearchStrategy[Any], more: bool) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=2)
    words = _SCALAR_WORDS | {
        "properties": st.dictionaries(names, inner, max_size=3),
        "additionalProperties": inner,
        "items": inner,
        "prefixItems": lists,
    }
    if more:
        words |= {
            "patternProperties": st.dictionaries(st.sampled_from(("^a", "b")), inner, max_size=2),
            "propertyNames": inner,
            "allOf": lists,
            "anyOf": lists,
            "oneOf": lists,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "contains": inner,
            "maxContains": counts,
            "dependentSchemas": st.dictionaries(names, inner, max_size=1),
            "unevaluatedProperties": inner,
            "$ref": st.sampled_from(("#/$defs/d", "#/$defs/e")),
        }

    @st.composite
    def node(draw: st.DrawFn) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(sorted(words)), max_size=4, unique=True))
        return {word: draw(words[word]) for word in chosen}

    return node()


def schemas(more: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """JSON Schemas of objects; with `more` also what joins and negates schemas, and references that go round."""
    inner = st.recursive(
        st.one_of(st.booleans(), st.fixed_dictionaries({"type": types}), _nodes(st.booleans(), False)),
        lambda below: _nodes(below, more),
        max_leaves=4,
    )

    @st.composite
    def document(draw: st.DrawFn) -> dict[str, Any]:
        root = draw(_nodes(inner, more))
        if more:
            # A definition refers to another one only below a property, so that every schema has a meaning.
            below = {"properties": {"a": {"$ref": "#/$defs/d"}, "b": draw(st.just(True) | inner)}}
            root = root | {"$defs": {"d": draw(st.just(below) | _plain(inner)), "e": draw(_plain(inner))}}
        return root

    return document()


def _plain(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.booleans(), st.fixed_dictionaries({"type": types}), _nodes(st.booleans(), False))


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """A schema that differs from another one in few places, as a next version does."""
    if not isinstance(schema, dict) or draw(st.integers(0, 5)) == 0:
        return schema if draw(st.booleans()) else draw(_nodes(st.booleans(), False))
    new = dict(schema)
    if new and draw(st.integers(0, 2)) == 0:
        del new[draw(st.sampled_from(sorted(new)))]
    for word in ("properties",):
        if word in new:
            new[word] = {name: draw(changed(inner)) for name, inner in new[word].items()}
    for word in ("items", "additionalProperties"):
        if word in new and draw(st.booleans()):
            new[word] = draw(changed(new[word]))
    if draw(st.integers(0, 2)) == 0:
        word = draw(st.sampled_from(sorted(_SCALAR_WORDS)))
        new[word] = draw(_SCALAR_WORDS[word])
    if "$defs" in schema:
        new["$defs"] = schema["$defs"]
    return new


def text(value: Any) -> str:
    """JSON with the fractions of Decimals."""

    def exact(number: Any) -> Any:
        return float(number) if isinstance(number, Decimal) else number

    return json.dumps(value, default=exact)
