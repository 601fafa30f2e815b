"""Work in threads: in order, bounded, and with every error in its place."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from evtool import parallel


def test_results_come_in_the_order_of_the_items():
    later = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert later.wait(30)
        else:
            later.set()
        return item * item

    assert list(parallel.ordered(slow_first, range(100))) == [item * item for item in range(100)]
    assert list(parallel.ordered(slow_first, [])) == []


def test_two_items_are_worked_on_at_once():
    both = threading.Barrier(2, timeout=30)
    assert list(parallel.ordered(lambda item: both.wait() >= 0, range(4), workers=2)) == [True] * 4


@pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (2, 1), (3, 5)])
def test_only_so_many_items_are_taken_ahead(workers: int, ahead: int):
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(50):
            taken = item + 1
            yield item

    for given, result in enumerate(parallel.ordered(lambda item: item, items(), workers, ahead)):
        assert result == given
        assert taken <= given + workers + ahead


def test_an_error_is_raised_in_its_place():
    def odd(item: int) -> int:
        if item == 5:
            raise RuntimeError("the fifth")
        return item

    results = parallel.ordered(odd, range(10))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="the fifth"):
        next(results)


def test_an_error_of_the_items_is_raised_too():
    def items() -> Iterator[int]:
        yield from range(10)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(parallel.ordered(lambda item: item, items()))


def test_closing_early_waits_for_what_is_under_way_and_leaves_the_rest():
    worked = []
    results = parallel.ordered(worked.append, range(1000))
    next(results)
    results.close()
    count = len(worked)
    assert count < 10
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
    assert len(worked) == count


def test_keeping_freed_memory_is_a_hint_that_never_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {})
    parallel.keep_freed_memory()
    parallel.keep_freed_memory()
