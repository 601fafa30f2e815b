"""The events of a snapshot as partials of a projection, in two threads, in bounded memory."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from evtool import parallel
from evtool.event import STORED_SCHEMA
from evtool.log.selection import Selection
from evtool.log.snapshot import Snapshot
from evtool.projections.definition import digest
from evtool.projections.kind import Tables
from evtool.schemas.record import Schemas

if TYPE_CHECKING:  # and what reads events is imported by who does: there may be none that are new
    from evtool.log.lookup import Positions
    from evtool.log.scan import Group
    from evtool.log.segmentview import SegmentView
    from evtool.projections.language.expression import JsonPath
    from evtool.projections.plan import Plan

_EVENTS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Part:
    """What became of some events, up to `last_position`: their tables, how many count, which casts failed."""

    tables: Tables
    events: int
    failed_casts: Counter[str]
    last_position: int


@dataclass(frozen=True)
class Source:
    """A snapshot whose events are read as of the latest version of their type, where `schemas` have steps."""

    snapshot: Snapshot
    partitions: int
    schemas: Schemas

    @functools.cached_property
    def steps_hash(self) -> str:
        """Of what upcasting does; "" when it does nothing."""
        steps = {
            schema.event_type: [
                str(step) for later in self.schemas.versions(schema.event_type) for step in later.steps
            ]
            for schema in self.schemas.registered
            if schema.steps
        }
        return digest(steps) if steps else ""

    def parts(self, plan: Plan, selection: Selection) -> Iterator[Part]:
        """The parts of a selection, in order of position. Raises LogDamagedError, SchemaError, ProjectionError."""
        from evtool.log.scan import fetched, groups

        chosen = replace(selection, types=_both(selection.types, plan.types))
        spared = set(plan.spare_columns)  # for as long as no event needs them
        changed = self._changed(plan)
        looked_at = plan.stored_columns | {"event_type", "schema_version", "payload"} if changed else frozenset()

        def columns(segment: SegmentView) -> set[str]:
            _, stored = _stored(plan, segment, spared)
            return {*stored, *looked_at, *chosen.columns(), *chosen.texts()}

        def work(group: Group) -> Part:
            rows, failed = self._rows(plan, group, chosen, spared)
            last_position = int(group.rows["header"]["last_position"].max())
            return Part(plan.kind.partial(rows), len(rows), failed, last_position)

        # Parts that wait for their turn are small; with none ahead a worker would wait for the slower one.
        found = fetched(groups(self.snapshot, chosen, self.partitions), columns)
        return parallel.ordered(work, found, ahead=2)

    def selected(self, plan: Plan, selection: Selection) -> Iterator[pl.DataFrame]:
        """The events that a projection counts, all of their columns and its inputs beside them, in order."""
        from evtool.log.scan import fetched, groups, load, stored_names

        chosen = replace(selection, types=_both(selection.types, plan.types))

        def work(group: Group) -> pl.DataFrame:
            return plan.selected(plan.with_paths(self._upcast(load(group, chosen, self.partitions))))

        found = groups(self.snapshot, chosen, self.partitions)
        return parallel.ordered(work, fetched(found, lambda segment: stored_names(STORED_SCHEMA)), ahead=0)

    def at(self, positions: Positions) -> Iterator[pl.DataFrame]:
        """The events at some rising positions, a part at a time. Raises LogDamagedError, SchemaError."""
        from evtool.log.frame import to_frame
        from evtool.log.lookup import events_at

        for first in range(0, len(positions), _EVENTS_AT_ONCE):
            stored = events_at(self.snapshot, positions[first : first + _EVENTS_AT_ONCE])
            yield self._upcast(to_frame(stored, set(STORED_SCHEMA)).select(list(STORED_SCHEMA)))

    def _rows(
        self, plan: Plan, group: Group, selection: Selection, spared: set[str]
    ) -> tuple[pl.DataFrame, Counter[str]]:
        """The rows of a group, and which casts failed. No payload is upcast of a type that needs it not."""
        from evtool.log.scan import load

        changed = self._changed(plan)
        if selection.types is not None:
            changed &= selection.types
        if not changed:
            return plan.rows(self._as_stored(plan, group, selection, spared))
        if selection.types is None:
            events = self._as_stored(plan.looking_at("event_type"), group, selection, spared)
            unchanged = plan.rows(events.filter(~pl.col("event_type").is_in(sorted(changed))))
        else:
            rest = replace(selection, types=selection.types - changed)
            unchanged = plan.rows(self._as_stored(plan, group, rest, spared))
        columns = plan.stored_columns | {"event_type", "schema_version", "payload", "position"}
        events = load(group, replace(selection, types=changed), self.partitions, columns)
        upcast = plan.rows(plan.with_paths(self._upcast(events)))
        return pl.concat([unchanged[0], upcast[0]]), unchanged[1] + upcast[1]

    def _as_stored(self, plan: Plan, group: Group, selection: Selection, spared: set[str]) -> pl.DataFrame:
        """The events of a group as the plan's rows are made from them. A column that is needed leaves `spared`."""
        from evtool.log.scan import load_table

        held, columns = _stored(plan, group.segment, spared)
        events = plan.events(load_table(group, selection, self.partitions, columns), held)
        missing = plan.missing(events)
        if missing:  # all of it again, as columns that are read by themselves may come in another order
            spared -= missing
            return self._as_stored(plan, group, selection, spared)
        absent = plan.spare_columns.difference(events.columns)
        return events.with_columns(pl.lit(None, STORED_SCHEMA[name]).alias(name) for name in absent)

    def _changed(self, plan: Plan) -> frozenset[str]:
        """The types whose events may have another payload than is stored, or version where that is looked at."""
        if not self.steps_hash:
            return frozenset()
        if "schema_version" in plan.columns:
            return frozenset(self.schemas.types)
        return frozenset(schema.event_type for schema in self.schemas.registered if schema.steps)

    def _upcast(self, events: pl.DataFrame) -> pl.DataFrame:
        if not self.steps_hash:
            return events
        from evtool.schemas.upcast import upcast_all

        return upcast_all(events, self.schemas)


def _stored(plan: Plan, segment: SegmentView, spared: set[str]) -> tuple[dict[JsonPath, str], frozenset[str]]:
    """The columns of a segment that hold values at the plan's paths, and all columns that are read of it."""
    from evtool.projections.materialised import paths_of

    paths = paths_of(segment.materialised)
    held = {path: paths[path] for path in plan.paths if path in paths}
    return held, plan.columns_beside(held) - (spared & plan.spare_columns)


def _both(first: frozenset[str] | None, second: frozenset[str] | None) -> frozenset[str] | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second
