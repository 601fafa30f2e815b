"""Work on a stream of items in several threads, in order and in bounded memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h

_NICE = 19
WORKERS = 2  # Polars, Arrow and numpy let go of the interpreter's lock; more threads only hold more memory


def ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = WORKERS,
    ahead: int = 1,
    slow_start: bool = False,
) -> Iterator[Result]:
    """`function` of each item, in the order of the items, up to `workers + ahead` at once.

    With `slow_start` the first one is alone, and behind each result one more is at once: for who may need few.
    What it raises is raised here, in its place. Closing the iterator waits for what is under way.
    """
    pending: deque[Future[Result]] = deque()
    limit = 1 if slow_start else workers + ahead
    with ThreadPoolExecutor(workers) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= limit:
                    yield pending.popleft().result()
                    limit = min(limit + 1, workers + ahead)
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def keep_freed_memory() -> None:
    """Let the memory allocators keep large blocks that are freed, for a process that will ask for such again.

    By default glibc, which numpy uses, and the allocators inside of Arrow and Polars (mimalloc and jemalloc)
    give them back to the kernel, and the page faults of getting the next ones took a fifth of the time of an
    ingest. Arrow is told to use glibc's too. What is kept is kept in one place for all threads, as what one of
    them frees another one will ask for. To be called before Arrow and Polars are imported. Where an allocator is
    another one this does nothing.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(_M_ARENA_MAX, 1)


def step_back() -> None:
    """Let other processes go first wherever they want a processor: this one takes what they leave.

    On Linux as SCHED_IDLE, of which all threads that are started later are too; elsewhere by the lowest priority.
    """
    with contextlib.suppress(OSError, AttributeError):
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.nice(_NICE)
