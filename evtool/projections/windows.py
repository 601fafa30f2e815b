"""How far along the steps of a funnel the events of each actor come within a window of time, by the column.

A chain is one event for each of the steps 1 to k, none before the one before it, the last at most `within_ns`
after the first; an event of several steps that follow each other may serve all of them. An actor's depth is the
length of its longest chain. This is what ClickHouse's windowFunnel finds, as long as an actor's timestamps differ;
among equal ones it takes the order of the steps, and this module the order of the rows.

Of all chains of length k the one that started last is the best to go on from. So one pass a step suffices: the
latest start that a chain of length k has so far is a running maximum, and an event of step k + 1 needs that of the
events before it.

Starts are kept as row numbers. They rise from actor to actor, so that a running maximum over all rows at once is
right: a start of another actor is less than the first row of one's own.

The strict modes:

- `strict_once`: no event serves two steps of one chain.
- `strict_increase`: in a chain, timestamps rise strictly, so that this holds as well.
- `strict_deduplication`: an actor's events end at an event of a step that it has reached before. Step 1 may come
  again, as it begins a new chain.
- `strict_order`: they end, once there was an event of step 1, at an event of no step, and at one of a step whose
  previous step was not yet reached.

Up to the event where an actor's events end nothing is different. So these two modes only ask in addition which row
that is, and count the steps that were reached first.

Which events got an actor to a step is a chain that ends with the first event that reaches it. The latest start of
such a chain is known from the pass, and from there the next event of each next step is one that can be taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from evtool.projections.actors import Runs

Mode: TypeAlias = Literal["strict_once", "strict_order", "strict_deduplication", "strict_increase"]
Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

TIMESTAMP = "timestamp"
STEPS = "event.steps"  # no key has a dot in its name
STEPS_MAX = 64


class Outcomes(NamedTuple):
    """How far each actor came, 0 to all steps, and the row behind which none of its events would change that.

    That is the one of the last step, or the one where its events end; the number of all rows where there is none.
    Events that come in before it may move it, and how far the actor came.
    """

    depths: Rows
    settled: Rows


def outcomes(events: Runs, step_count: int, within_ns: int, modes: Set[Mode]) -> Outcomes:
    """The outcome of each actor, for `step_count` steps.

    The columns of `events` are TIMESTAMP (Int64, ns), ascending within an actor, and STEPS, an unsigned number
    with the bit k - 1 for step k. Events of one timestamp count as one after the other, in the order of their
    rows.
    """
    steps, group_of = events.columns[STEPS], events.group_of_rows()
    reached = np.full((step_count, len(events.first)), len(steps))
    for step, (rows, _) in enumerate(_reaching(events, group_of, step_count, within_ns, modes)):
        reached[step, group_of[rows[::-1]]] = rows[::-1]  # the first of an actor's rows is written last
    counts: np.ndarray[Any, np.dtype[np.bool_]] = reached < len(steps)
    settled = reached[-1]
    if "strict_deduplication" in modes:
        ends = _first_repetition(steps, group_of, reached)
        counts &= reached < ends
        settled = np.minimum(settled, ends)
    if "strict_order" in modes:
        ends = _first_out_of_order(steps, group_of, reached)
        counts &= reached <= ends
        settled = np.minimum(settled, ends)
    return Outcomes(np.count_nonzero(counts, axis=0), settled)


def chains(events: Runs, step_count: int, within_ns: int, modes: Set[Mode]) -> Iterator[Rows]:
    """For each step the rows of one chain of each actor that came so far: the shortest of those that end first.

    A row stands there as often as its event serves steps of the chain. Arguments as of `outcomes`.
    """
    depths = outcomes(events, step_count, within_ns, modes).depths
    group_of, before = events.group_of_rows(), _ends_before(events, modes)
    of_steps = [_rows_of(events.columns[STEPS], step) for step in range(step_count)]
    for step, (rows, starts) in enumerate(_reaching(events, group_of, step_count, within_ns, modes)):
        groups = group_of[rows]
        ended = starts[(np.diff(groups, prepend=-1) > 0) & (depths[groups] > step)]
        found = [ended]
        for following in of_steps[1 : step + 1]:
            ended = following[np.searchsorted(before[following], ended, side="right")]
            found.append(ended)
        yield np.concatenate(found)


def _ends_before(events: Runs, modes: Set[Mode]) -> Rows:
    """The row before which a chain has to end that an event goes on with."""
    if "strict_increase" in modes:
        return _rows_before(events.columns[TIMESTAMP])
    return np.arange(len(events.columns[STEPS])) + ("strict_once" not in modes)


def _reaching(
    events: Runs, group_of: Rows, step_count: int, within_ns: int, modes: Set[Mode]
) -> Iterator[tuple[Rows, Rows]]:
    """For each step the rows of its events that end a chain of that length, and the latest start of one."""
    timestamps, steps, own = events.columns[TIMESTAMP], events.columns[STEPS], events.first[group_of]
    before = _ends_before(events, modes)
    starts = np.empty(0, np.int64)  # starts[i]: the latest of the chains that end before row i; -1: there is none
    for step in range(step_count):
        rows = _rows_of(steps, step)
        latest = rows
        if step:
            latest = starts[before[rows]]
            elapsed = (timestamps[rows] - timestamps[latest]).view(np.uint64)  # right for any two times
            fits = (latest >= own[rows]) & (elapsed <= np.uint64(within_ns))
            rows, latest = rows[fits], latest[fits]
        yield rows, latest
        starts = np.full(len(steps) + 1, -1)
        starts[rows + 1] = latest
        np.maximum.accumulate(starts, out=starts)


def _rows_of(steps: np.ndarray[Any, Any], step: int) -> Rows:
    return np.flatnonzero(steps & steps.dtype.type(1 << step))


def _rows_before(timestamps: Rows) -> Rows:
    """For each row the first of those with its timestamp: what the actor has before that is earlier in time."""
    differs = np.ones(len(timestamps), np.bool_)
    differs[1:] = timestamps[1:] != timestamps[:-1]
    return np.maximum.accumulate(np.where(differs, np.arange(len(timestamps)), 0))


def _first_repetition(steps: np.ndarray[Any, Any], group_of: Rows, reached: Rows) -> Rows:
    """The first row of each actor with a step, but the first, that an earlier row reached; or one after all."""
    ends = np.full(reached.shape[1], len(steps))
    for step in range(1, len(reached)):
        rows = _rows_of(steps, step)
        _lower(ends, group_of, rows[rows > reached[step, group_of[rows]]])
    return ends


def _first_out_of_order(steps: np.ndarray[Any, Any], group_of: Rows, reached: Rows) -> Rows:
    """The first row of each actor, from its step 1 on, with no step or one that is not next; or one after all."""
    ends = np.full(reached.shape[1], len(steps))
    rows = np.flatnonzero(steps == 0)
    _lower(ends, group_of, rows[rows > reached[0, group_of[rows]]])
    for step in range(1, len(reached)):
        rows = _rows_of(steps, step)
        groups = group_of[rows]
        _lower(ends, group_of, rows[(rows >= reached[0, groups]) & (rows < reached[step - 1, groups])])
    return ends


def _lower(ends: Rows, group_of: Rows, rows: Rows) -> None:
    """Move the ends of actors to the first of their rows, where that is earlier. `rows` ascend."""
    np.minimum.at(ends, group_of[rows], rows)
