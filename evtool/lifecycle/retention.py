"""Retention: what the policies of `[retain]` say may go, planned first, and then done.

Only sealed segments are touched. One of which everything is due becomes a cold one without events, for which only
what identifies them is read; one of which a part is due is written again without it (rewriting.py). Either takes
effect at once, so that whatever ends the process, the next run goes on with the segments that are left. What a
plan has not seen does not go: events that were sealed since are behind its `end`.

An archived segment that was written again is on this disk, and goes back to the archive at once, into a catalogue
that does not name what it was. The objects that it had are removed at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evtool.config import Config, RetainConfig
from evtool.errors import ConfigError, LogDamagedError
from evtool.event import INT64_MAX
from evtool.ingest.deadletters import DeadLetter
from evtool.ingest.letterqueue import Filter, LetterQueue
from evtool.lifecycle.archiving import place
from evtool.lifecycle.archiving.moving import move
from evtool.lifecycle.archiving.place import Archive, object_of
from evtool.lifecycle.archiving.sweeping import check_changing, sweep
from evtool.lifecycle.compact import Failure, names_for
from evtool.lifecycle.due import GENERAL, SIZE, Limits, Tally, limits_of, tally
from evtool.lifecycle.forgetting import departing, dropping
from evtool.lifecycle.leftovers import clear
from evtool.lifecycle.materialising import NOTHING, Chosen
from evtool.lifecycle.rewriting import empty, in_turn, rewrite, rewriting_lock
from evtool.log.coldsegment import ColdSegment
from evtool.log.log import Log
from evtool.log.segmentview import SegmentView
from evtool.projections import inventory, snapshots
from evtool.projections.inventory import Kept
from evtool.projections.snapshots import Snapshot
from evtool.quantities import age_text
from evtool.timestamps import SECOND_NS, TimestampError, parse_text

FEW_SHARE = 0.01  # a segment of which less than this part is due is not written again for its sake

_KEPT_BYTES = 22  # that stay of an event, so that its id and version count: see CONTRIBUTING.md

Progress = Callable[[int, int], None]  # events done, and how many there are


@dataclass(frozen=True)
class Share:
    """What one policy takes: events of so many segments, about so many bytes, from when to when (ns UTC)."""

    policy: str
    events: int
    segments: int
    bytes: int
    first: int | None
    last: int | None


@dataclass(frozen=True)
class Plan:
    """What may go, and how it looks behind that. Bytes are those of stored events, estimated where it is not done.

    Of `segments` segments `emptied` lose all of their events. `waiting` events are due and stay until more of
    their segments are, `active` until their segment is sealed. With a policy of size, `missed_bytes` are above it.
    """

    limits: Limits
    is_exact: bool
    is_everything: bool
    shares: tuple[Share, ...]
    events: int
    segments: int
    emptied: int
    bytes_before: int
    bytes_after: int
    waiting: int
    active: int
    missed_bytes: int
    read_models: tuple[Kept, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    dead_letters: int = 0
    dead_letters_until: int | None = None
    failures: tuple[Failure, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is due."""
        return not (self.events or self.read_models or self.snapshots or self.dead_letters)

    @property
    def counts(self) -> dict[str, int]:
        """What is due, as the audit keeps it."""
        return _counts(self)

    def check(self) -> None:
        """Raise ConfigError if nothing that there is would be left."""
        if self.is_everything:
            raise ConfigError(
                f"the policies would drop every event that can be dropped, {self.events:,} of them",
                "Is an age or a size too small, or the clock wrong? --all drops them all the same.",
            )


@dataclass
class Report:
    """What was dropped; of segments that are damaged, why they were left."""

    events: int = 0
    emptied: int = 0
    rewritten: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    read_models: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    dead_letters: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """What was dropped, as the audit keeps it."""
        return _counts(self)


def _counts(told: Plan | Report) -> dict[str, int]:
    return {
        "events": told.events,
        "read_models": len(told.read_models),
        "snapshots": len(told.snapshots),
        "dead_letters": told.dead_letters,
    }


def plan(
    log: Log,
    config: Config,
    now_ns: int,
    is_exact: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Plan:
    """What the policies of `config.retain` would take at a moment. With `is_exact`, few events of a segment too.

    Raises ConfigError without a policy, LogDamagedError when the segments do not fit together, StorageError.
    """
    policies = config.retain
    if not policies.is_any:
        raise ConfigError(
            "no policy says what may go",
            'Write [retain] in evtool.toml, with events = "90d" in it, or say --events-older-than 90d.',
        )
    snapshot = log.snapshot()
    sealed = [segment for segment in snapshot.segments if segment.is_sealed]
    end = sealed[-1].last_position if sealed else 0
    limits = limits_of(policies, snapshot, now_ns, end)
    failures: list[Failure] = []
    tallies = list(_tallies(sealed, limits, failures, on_progress))
    actives = [segment for segment in snapshot.segments if not segment.is_sealed]
    active = list(_tallies(actives, replace(limits, end=INT64_MAX), failures, lambda done, total: None))
    there = sum(segment.log_bytes for segment in snapshot.segments)
    waiting = sum(each.due for each in tallies if not _is_worth(each, is_exact))
    size_last, missed = _by_size(tallies, there, policies.size, is_exact)
    if size_last is not None:
        limits = replace(limits, first_kept=size_last + 1)
        tallies = [_with_size(each, limits) for each in tallies]
        waiting = sum(each.due for each in tallies if not _is_worth(each, is_exact))
    taken = [each for each in tallies if each.due and _is_worth(each, is_exact)]
    kept_active = sum(each.events - each.due for each in active)
    is_all = bool(taken) and all(each.due == each.events for each in tallies)  # of what can be read
    return Plan(
        limits=limits,
        is_exact=is_exact,
        is_everything=is_all and (kept_active == 0 or size_last == end),
        shares=tuple(_shares(policies, taken)),
        events=sum(each.due for each in taken),
        segments=len(taken),
        emptied=sum(each.due == each.events for each in taken),
        bytes_before=there,
        bytes_after=there - sum(_freed(each) for each in taken),
        waiting=waiting,
        active=sum(each.due for each in active),
        missed_bytes=missed,
        failures=tuple(failures),
        **_made(log, config, now_ns),
    )


def apply(
    log: Log,
    config: Config,
    plan: Plan,
    columns: Chosen = NOTHING,
    on_progress: Progress = lambda done, total: None,
) -> Report:
    """Drop what a plan says; `columns` are materialised in what is written again.

    A segment that is damaged is left and reported. Raises LogReadOnlyError, LogLockedError (another one writes
    segments), ArchiveError and StoreError (of a log with an archive: nothing is begun while that does not answer),
    StorageError; then what was not done is done by the next run.
    """
    log.check_writable()
    report = Report()
    if plan.events or plan.failures:
        lock = rewriting_lock(log)
        try:
            clear(log)
            archive = place.of(log)
            if archive is not None:
                check_changing(archive)
            _drop_events(log, plan, columns, report, on_progress, archive)
            if archive is not None:
                sweep(archive)
        finally:
            lock.release()
    for model in plan.read_models:
        inventory.drop(log.files, config.read_models_path, model)
        report.read_models.append(model.id)
    snapshots.drop(log, plan.snapshots)
    report.snapshots = [each.id for each in plan.snapshots]
    if plan.dead_letters_until is not None:
        report.dead_letters = _drop_letters(log, plan.dead_letters_until)
    return report


def _tallies(
    segments: list[SegmentView], limits: Limits, failures: list[Failure], on_progress: Progress
) -> Iterator[Tally]:
    """Of each segment what is due; one that is damaged is left out and noted."""
    for (segment,), told in in_turn([(segment,) for segment in segments], on_progress):
        try:
            yield tally(segment, limits, told)
        except LogDamagedError as error:
            failures.append(Failure(str(segment.folder), error.message, error.hint))


def _is_worth(found: Tally, is_exact: bool) -> bool:
    return is_exact or found.due >= FEW_SHARE * found.events


def _freed(found: Tally) -> int:
    """About how many bytes a segment will have less."""
    if not found.due:
        return 0
    stored = found.segment.log_bytes - _KEPT_BYTES * sum(found.segment.gone_counts.values())
    return max(int(stored * found.due / found.events) - _KEPT_BYTES * found.due, 0)


def _by_size(tallies: list[Tally], there: int, size: int | None, is_exact: bool) -> tuple[int | None, int]:
    """The last position that goes for the sake of a size, None if none does; and how many bytes are too many."""
    if size is None:
        return None, 0
    left = there - sum(_freed(each) for each in tallies if _is_worth(each, is_exact))
    last = None
    for each in tallies:
        if left <= size:
            break
        whole = Tally(each.segment, each.events, {SIZE: each.events})
        left -= _freed(whole) - (_freed(each) if _is_worth(each, is_exact) else 0)
        if each.due < each.events:
            last = each.segment.last_position
    return last, max(left - size, 0)


def _with_size(found: Tally, limits: Limits) -> Tally:
    """With all the other events of a segment that goes for the sake of a size."""
    rest = found.events - found.due
    if found.segment.last_position >= limits.first_kept or not rest:
        return found
    header = found.segment.event_rows()["header"]
    recorded = (
        found.segment.recorded_at(int(position))
        for position in (header["first_position"].min(), header["last_position"].max())
    )
    whole = replace(found, counts=dict(found.counts), times=dict(found.times))
    whole.add(SIZE, rest, *recorded)
    return whole


def _shares(policies: RetainConfig, taken: list[Tally]) -> Iterator[Share]:
    names = {number: f"{name} older than {age_text(policies.types[name])}" for number, name in _types(policies)}
    if policies.events is not None:
        names = {GENERAL: f"events older than {age_text(policies.events)}"} | names
    if policies.size is not None:
        names[SIZE] = f"beyond {policies.size:,} bytes"
    for number, name in names.items():
        those = [each for each in taken if each.counts.get(number)]
        times = [each.times[number] for each in those]
        yield Share(
            name,
            sum(each.counts[number] for each in those),
            len(those),
            sum(_freed(each) * each.counts[number] // each.due for each in those),
            min((first for first, _ in times), default=None),
            max((last for _, last in times), default=None),
        )


def _types(policies: RetainConfig) -> Iterable[tuple[int, str]]:
    return enumerate(sorted(policies.types), 1)


def _made(log: Log, config: Config, now_ns: int) -> Mapping[str, Any]:
    """What is due of read models, snapshots and dead letters."""
    policies, found = config.retain, dict[str, Any]()

    def before(seconds: int) -> int:
        return now_ns - seconds * SECOND_NS

    if policies.unused_read_models is not None:
        until = before(policies.unused_read_models)
        models = inventory.kept(config.read_models_path)
        found["read_models"] = tuple(each for each in models if not each.serves and _made_at(each) < until)
    if policies.snapshots is not None:
        until = before(policies.snapshots)
        every = snapshots.every(log)
        found["snapshots"] = tuple(each for each in every if each.label is None and each.taken_at < until)
    if policies.dead_letters is not None:
        until = before(policies.dead_letters)
        letters = LetterQueue(log.files, log.folder).letters(Filter(until=until))
        found |= {"dead_letters": sum(1 for _ in letters), "dead_letters_until": until}
    return found


def _made_at(model: Kept) -> int:
    """When a read model was written; of one that does not say it, never, so that it stays."""
    try:
        return parse_text(str(model.lineage.get("made_at")))
    except TimestampError:
        return INT64_MAX


def _drop_events(
    log: Log, plan: Plan, columns: Chosen, report: Report, on_progress: Progress, archive: Archive | None
) -> None:
    before = log.snapshot().segments
    segments = [one for one in before if one.is_sealed and one.first_position <= plan.limits.end]
    report.bytes_before = sum(segment.log_bytes for segment in before)
    for (segment,), told in in_turn([(segment,) for segment in segments], on_progress):
        try:
            written = _drop(log, segment, plan, columns, report, told)
            if archive is not None and written is not None and object_of(segment) is not None:
                move(archive, written)
        except LogDamagedError as error:
            report.failures.append(Failure(str(segment.folder), error.message, error.hint))
    report.bytes_after = sum(segment.log_bytes for segment in log.snapshot().segments)


def _drop(
    log: Log, segment: SegmentView, plan: Plan, columns: Chosen, report: Report, on_progress: Callable[[int], None]
) -> ColdSegment | None:
    """Drop what is due of one segment; the segment as it is then, None where nothing was."""
    found = tally(segment, plan.limits)
    if not found.due or not _is_worth(found, plan.is_exact):
        return None
    names = names_for([segment], columns)
    log_id = log.manifest.id_bytes
    if found.due == found.events:
        written = empty(log, segment, names, departing(log_id), on_progress)
        report.emptied += 1
    else:
        written = rewrite(log, [segment], names, dropping(plan.limits.choose, log_id), on_progress)
        report.rewritten += 1
    report.events += found.due
    return written


def _drop_letters(log: Log, until: int) -> int:
    """Take the dead letters of before a moment out of the queue; how many there were."""
    wanted = Filter(until=until)

    def is_due(letter: DeadLetter | None) -> bool:
        return letter is not None and wanted(letter)

    with LetterQueue(log.files, log.folder).change() as change:
        due = sum(1 for entry in change.entries() if is_due(entry.letter))
        if due:
            for entry in itertools.filterfalse(lambda each: is_due(each.letter), change.entries()):
                change.keep(entry.text)
            change.finish()
    return due
