"""Runs a projection: catches up with the log, answers for a part of it, or as of the last run.

    refresh    what was committed since the checkpoint goes into the state, and all of it into the read model
    compute    any selection, from nothing or a snapshot; what is kept does not change
    keep       a refresh whose state is copied before anybody changes it
    stale      the read model as the last refresh left it

A refresh takes up whole batches, as far as the snapshot that it began with; work.py says how.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from evtool.errors import DerivedDamagedError, ProjectionError
from evtool.files import Files
from evtool.log.log import Log
from evtool.log.selection import Selection
from evtool.projections import snapshots
from evtool.projections.checkpoint import ENGINE, Binding, StateDamagedError
from evtool.projections.definition import Identity
from evtool.projections.lineage import Lineage, of_answer
from evtool.projections.places import Places
from evtool.projections.readmodel import Written, read, write
from evtool.projections.source import Source
from evtool.projections.store import StateStore
from evtool.projections.work import Progress, Tally, Work

if TYPE_CHECKING:
    from evtool.projections.plan import Plan  # and with it all that expressions need

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Answer:
    """A read model, whose rows `keys` tell apart, made from the log up to `position`, of which `events` count.

    `behind` is how many events the log has beyond; `failed_casts` how many values each cast failed on. `absent`
    events are gone that this run would have taken up otherwise; `is_outlived` says whether there are some that it,
    or a run before it, has taken up, and that are gone or erased since.
    """

    frame: pl.DataFrame
    keys: tuple[str, ...]
    position: int
    events: int
    failed_casts: Mapping[str, int]
    identity: Identity
    behind: int = 0
    absent: int = 0
    is_outlived: bool = False
    written: Written | None = None

    @property
    def lineage(self) -> dict[str, Any]:
        """What a file of it says of where it comes from."""
        return of_answer(self.identity, self.position, self.events, self.failed_casts)


class Runner:
    """Runs one projection over one log; `places` is where its state and read model are kept.

    `compile` makes the plan: it is asked for when there is something to compute. `command` is the command that
    refreshes the read model; "" if none does, as that of a version that the definition has not.
    """

    def __init__(
        self, log: Log, identity: Identity, compile: Callable[[], Plan], places: Places, command: str = ""
    ) -> None:
        self._log = log
        self._identity = identity
        self._compile = compile
        self._places = places
        self._command = command
        self._store = StateStore(log.files, places.state_folder)

    @functools.cached_property
    def _plan(self) -> Plan:
        return self._compile()

    def refresh(
        self,
        full: bool = False,
        on_progress: Progress = lambda done, total: None,
        end: int | None = None,
    ) -> Answer:
        """Take up everything that is committed, and write the read model. With `full`, from the first event on.

        With `end`, nothing that is behind this position is taken up, and no more than there was is an answer too.
        Raises ProjectionError when the state is of another definition, or of a log that was cut back;
        LogDamagedError, SchemaError, StorageError.
        """
        with self._store.lock():
            return self._refresh(full, on_progress, end)

    def keep(
        self,
        copy: Callable[[StateStore, Answer], Kept],
        on_progress: Progress = lambda done, total: None,
    ) -> Kept:
        """Refresh, and let `copy` have the state and the answer while nobody changes them.

        If it raises StateDamagedError, both are made anew for it.
        """
        with self._store.lock():
            answer = self._refresh(False, on_progress, None)
            try:
                return copy(self._store, answer)
            except StateDamagedError:
                answer = self._refresh(True, on_progress, None)
                return copy(self._store, answer)

    def compute(
        self,
        selection: Selection,
        on_progress: Progress = lambda done, total: None,
        from_nothing: bool = False,
    ) -> Answer:
        """The read model of a selection. Nothing is kept. Raises as `refresh` does.

        A beginning of the log is computed from the nearest snapshot in it, unless `from_nothing`.
        """
        source = self._source()
        end = source.snapshot.last_position
        if selection.end is not None:
            end = max(min(selection.end - 1, end), 0)
        if selection == Selection(end=selection.end) and not from_nothing:
            for folder in snapshots.states(self._log, self._identity, end):
                with contextlib.suppress(StateDamagedError, FileNotFoundError):  # damaged, or dropped meanwhile
                    answer = self._from(folder, source, end, on_progress)
                    if answer is not None:
                        return answer
        with tempfile.TemporaryDirectory(prefix="evtool-") as name:
            work = Work(self._plan, StateStore(Files(), Path(name)))
            start = 0 if selection.start is None else selection.start - 1
            return self._worked(work, source, selection, on_progress, start, end)

    def _from(self, folder: Path, source: Source, end: int, on_progress: Progress) -> Answer | None:
        """The answer up to `end` from a kept state; None if that is of another one. Raises StateDamagedError."""
        with tempfile.TemporaryDirectory(prefix="evtool-") as name:
            for path in folder.iterdir():  # what is added comes beside them, and changes none
                Path(name, path.name).symlink_to(path.absolute())
            store = StateStore(Files(), Path(name))
            kept = store.binding()
            if kept is None or self._refusal(kept, source) or not self._is_readable(kept, source):
                return None
            work = Work(self._plan, store, _tally(store))
            rest = Selection(start=kept.position + 1, end=end + 1)
            return self._worked(work, source, rest, on_progress, kept.position, end)

    def _worked(
        self, work: Work, source: Source, selection: Selection, on_progress: Progress, start: int, end: int
    ) -> Answer:
        work.take_up(source, selection, on_progress, start, end)
        frame = self._plan.read_model(work.reduced(is_kept=False))
        absent, _ = source.snapshot.gone_between(start + 1, end)
        tally = work.tally
        return Answer(frame, self._plan.keys, end, tally.events, tally.failed_casts, self._identity, absent=absent)

    def stale(self) -> Answer:
        """The read model that is there, and how far the log has gone on.

        Raises ProjectionError without one, DerivedDamagedError.
        """
        try:
            found = read(self._places.folder, self._identity.name)
        except DerivedDamagedError as error:
            hint = f"Make it again: {self._command}" if self._command else error.hint
            raise DerivedDamagedError(error.message, hint) from error
        if found is None:
            these = " with these parameters" if self._places.parameters_hash else ""
            hint = f"Make it: {self._command}" if self._command else "Promote another version."
            raise ProjectionError(f"{self._identity.name} has no read model{these} yet", hint)
        frame, lineage = found
        self._check(lineage)
        behind = self._log.position - lineage.position
        keys = tuple(self._store.facts().get("keys", ()))
        served = Identity(lineage.projection, lineage.version, lineage.definition_hash, lineage.parameters)
        return Answer(frame, keys, lineage.position, lineage.events, lineage.failed_casts, served, behind)

    def _check(self, lineage: Lineage) -> None:
        """Raise ProjectionError when a read model is of another definition or log, or of more than the log has."""
        # "" stands for any: that of a version which is not the one at hand
        if self._identity.definition_hash not in ("", lineage.definition_hash):
            raise self._other_definition()
        name = f"{self._identity.name} version {self._identity.version}"
        if lineage.log_id != self._log.manifest.id or lineage.position > self._log.position:
            raise ProjectionError(
                f"{name} was made from another log, or one that had {lineage.position:,} events",
                "Was an older copy of the log brought back? --full makes the read model from what is there.",
            )

    def _other_definition(self) -> ProjectionError:
        return ProjectionError(
            f"{self._identity.name} version {self._identity.version} has another definition than the one that "
            "its read model was made by",
            "Raise its version, so that both can be read; --full makes this version anew.",
        )

    def _source(self) -> Source:
        return Source(self._log.snapshot(), self._log.partitions, self._log.schemas.current())

    def _refresh(self, full: bool, on_progress: Progress, end: int | None) -> Answer:
        source = self._source()
        if full or not self._goes_on(source):
            self._store.clear()
        try:
            return self._catch_up(source, on_progress, end)
        except StateDamagedError:
            self._store.clear()
            return self._catch_up(source, on_progress, end)

    def _goes_on(self, source: Source) -> bool:
        """Whether to go on from what is kept. Raises ProjectionError when it is of another log or definition."""
        kept = self._store.binding()
        if kept is None:
            return False
        refusal = self._refusal(kept, source)
        if refusal:
            raise refusal
        return self._is_readable(kept, source)

    def _refusal(self, kept: Binding, source: Source) -> ProjectionError | None:
        """Why a state is of another log or definition; None if it is of these."""
        name = f"{self._identity.name} version {self._identity.version}"
        if kept.definition_hash != self._identity.definition_hash:
            return self._other_definition()
        if kept.log_id != self._log.manifest.id:
            return ProjectionError(
                f"{name} was made from another log",
                "--full makes it from this one; or name another folder for it.",
            )
        if source.snapshot.chain_at(kept.position) != kept.chain:
            return ProjectionError(
                f"{name} was made up to position {kept.position:,}, and the log has not these events any more",
                "Was an older copy of the log brought back? --full makes the read model from what is there.",
            )
        return None

    def _is_readable(self, kept: Binding, source: Source) -> bool:
        """Whether a state was made by this program, with these parameters."""
        return kept.engine == self._engine(source) and kept.parameters_hash == self._identity.parameters_hash

    def _engine(self, source: Source) -> str:
        """What made the state, besides the definition: another program, or other steps, make another one."""
        return f"{ENGINE} {source.steps_hash}".strip()

    def _catch_up(self, source: Source, on_progress: Progress, last: int | None) -> Answer:
        kept = self._store.binding()
        start = kept.position if kept else 0
        end = source.snapshot.last_position
        if last is not None:
            end = max(min(end, last), start)
        facts = self._store.facts()
        tally = _tally(self._store)
        found = self._intact() if kept and start == end else None
        if found and found[1].position == end and found[1].definition_hash == self._identity.definition_hash:
            return Answer(
                found[0],
                tuple(facts.get("keys", ())),
                end,
                tally.events,
                tally.failed_casts,
                self._identity,
                is_outlived=snapshots.is_of_more(facts, source.snapshot, end),
            )
        work = Work(self._plan, self._store, tally)
        work.take_up(source, Selection(start=start + 1, end=end + 1), on_progress, start, end)
        reduced, tally = work.reduced(), work.tally
        frame = self._plan.read_model(reduced)
        written = write(self._log.files, self._places.folder, frame, self._lineage(source, end, tally))
        binding = Binding(
            projection=self._identity.name,
            version=self._identity.version,
            definition_hash=self._identity.definition_hash,
            parameters_hash=self._identity.parameters_hash,
            log_id=self._log.manifest.id,
            position=end,
            chain=source.snapshot.chain_at(end) or 0,
            engine=self._engine(source),
        )
        absent, erased = source.snapshot.gone_between(start + 1, end)
        before = facts.get("gone", (0, 0))
        facts = {
            "events": tally.events,
            "failed_casts": dict(tally.failed_casts),
            "keys": self._plan.keys,
            "gone": (before[0] + absent, before[1] + erased),
        }
        self._store.commit(binding, facts, reduced)
        return Answer(
            frame,
            self._plan.keys,
            end,
            tally.events,
            tally.failed_casts,
            self._identity,
            absent=absent,
            is_outlived=snapshots.is_of_more(facts, source.snapshot, end),
            written=written,
        )

    def _intact(self) -> tuple[pl.DataFrame, Lineage] | None:
        """The read model that is there; None where it is not as it was written, and has to be made anew."""
        try:
            return read(self._places.folder, self._identity.name)
        except DerivedDamagedError:
            return None

    def _lineage(self, source: Source, end: int, tally: Tally) -> Lineage:
        return Lineage(
            projection=self._identity.name,
            version=self._identity.version,
            definition_hash=self._identity.definition_hash,
            parameters=dict(self._identity.parameters),
            position=end,
            events=tally.events,
            failed_casts=tally.failed_casts,
            log_id=self._log.manifest.id,
            chain=source.snapshot.chain_at(end) or 0,
            recorded_at=source.snapshot.recorded_at(end),
            input_digest=source.snapshot.digest_at(end),
            reference=self._identity.reference,
        )


def _tally(store: StateStore) -> Tally:
    """What went into a kept state."""
    facts = store.facts()
    return Tally(int(facts.get("events", 0)), Counter(facts.get("failed_casts", {})))
