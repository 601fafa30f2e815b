"""Event types that a definition asks for and no event of the log has: most likely they are misspelled.

Looked for where a result has nothing in it, since what is looked at is the type of every event: from the newest
one back, until all types that are asked for have been seen.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from evtool import parallel
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot

if TYPE_CHECKING:
    from evtool.log.scan import Group

_COUNTED_BY = {"funnel": "step", "retention": "offset"}  # what has rows of its own where nothing is counted


def lacks_something(read_model: pl.DataFrame, kind: str) -> bool:
    """Whether a read model of some kind of definition has no row, or counts nothing in some column or step."""
    counts = read_model.select(pl.selectors.numeric().fill_null(0) != 0)
    by = _COUNTED_BY.get(kind)
    if by is None:
        return not all(column.any() for column in counts) or not len(read_model)
    reached = read_model.group_by(by).agg(pl.col("actors").sum())
    return not len(reached) or bool((reached["actors"] == 0).any())


def absent(named: frozenset[str], snapshot: Snapshot, partitions: int) -> Mapping[str, str | None]:
    """Those of some types that no event has, in order, and of each the type that is spelled most like it, if any.

    None are absent from a log without events. Raises LogDamagedError.
    """
    seen = _types(snapshot, partitions, named) if snapshot.last_position else named
    missing = sorted(named - seen)
    return {name: next(iter(difflib.get_close_matches(name, sorted(seen), 1)), None) for name in missing}


def _types(snapshot: Snapshot, partitions: int, enough: frozenset[str]) -> set[str]:
    """The types of the events of a snapshot: all of them, or those of the newest ones if these are enough."""
    import pyarrow.compute as pc

    from evtool.log.scan import groups, load_table

    def work(group: Group) -> set[str]:
        events = load_table(group, Selection(), partitions, ("event_type",))
        return set(pc.unique(events["event_type"].cast("string")).to_pylist())  # three times as fast as Polars

    newest_first = reversed(list(groups(snapshot, Selection(), partitions)))
    seen: set[str] = set()
    for types in parallel.ordered(work, newest_first):
        seen |= types
        if enough <= seen:
            break
    return seen
