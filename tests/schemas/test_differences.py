"""What differs between two documents, by place."""

from __future__ import annotations

from decimal import Decimal

from evtool.schemas.differences import Difference, differences


def test_places_are_named_and_kinds_told():
    old = {"a": 1, "b": {"x~/y": [1]}, "c": True, "same": {"k": Decimal("1.0")}}
    new = {"b": {"x~/y": [1, 2], "z": None}, "c": 1, "d": "n", "same": {"k": 1}}
    assert list(differences(old, new)) == [
        Difference("/a", "removed", 1, None),
        Difference("/b/x~0~1y", "changed", [1], [1, 2]),
        Difference("/b/z", "added", None, None),
        Difference("/c", "changed", True, 1),
        Difference("/d", "added", None, "n"),
    ]


def test_equal_documents_differ_nowhere_and_others_at_the_root():
    assert list(differences({"a": [1]}, {"a": [1]})) == []
    assert list(differences(True, {})) == [Difference("", "changed", True, {})]
