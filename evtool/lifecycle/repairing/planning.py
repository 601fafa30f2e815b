"""What a repair would do: found by a full verify, and by looking at what is left of each damaged segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evtool.config import Config
from evtool.errors import LogNotFoundError
from evtool.files import Files
from evtool.ingest import deadletters
from evtool.lifecycle import audit
from evtool.lifecycle import verify as verifying
from evtool.lifecycle.findings import Finding
from evtool.lifecycle.logfiles import SegmentFiles, take
from evtool.lifecycle.repairing import identity, smallfiles, stubs
from evtool.lifecycle.repairing.erased import Erased, since
from evtool.lifecycle.repairing.filling import Backup, Filling
from evtool.lifecycle.repairing.remains import Remains
from evtool.lifecycle.repairing.remains import remains as look_again
from evtool.lifecycle.repairing.smallfiles import FileStep
from evtool.lifecycle.repairing.stubs import Source, StubStep
from evtool.lifecycle.repairing.survey import Damaged, survey
from evtool.log import manifest as manifests
from evtool.log.archive import Place, is_archived
from evtool.log.caches import INDEX_FOLDER
from evtool.log.format import HEAD_FILE, LOG_FILE, STREAMS_FILE, parse_segment_name
from evtool.log.log import Log
from evtool.log.manifest import Manifest
from evtool.log.segment import is_cold, segment_folders
from evtool.schemas import registry

Way = Literal["rewrite", "restore", "begin"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SegmentStep:
    """What becomes of a damaged segment.

    `rewrite`: what is left, and what a backup has of the rest, becomes a cold segment; `restore`: its files come
    from a backup; `begin`: nothing in it was ever acknowledged, and it begins anew. `lost` are ranges of
    positions; `filled` events come from the backup. `remains` is what is written. `refusal` says why the backup
    was not asked for all that is lost.
    """

    damaged: Damaged
    way: Way
    remains: Remains | None
    lost: tuple[tuple[int, int], ...]
    filled: int
    filling: Filling | None = None
    refusal: str = ""

    @property
    def lost_events(self) -> int:
        """How many."""
        return sum(last - first + 1 for first, last in self.lost)

    @property
    def is_wanted(self) -> bool:
        """Whether it changes anything: not where a backup has nothing of what was lost before."""
        return self.remains is None or bool(self.remains.damages or self.lost or self.filled)


@dataclass(frozen=True)
class Plan:
    """All that a repair would do. `others` are findings that it does not mend, with what does.

    `stubs` are archived segments that come back from the archive, `left` says of others why they cannot. `place`
    is what archive.json becomes, if it is lost.
    """

    log_json: FileStep | None
    place: Place | None
    stubs: tuple[StubStep, ...]
    left: tuple[Finding, ...]
    segments: tuple[SegmentStep, ...]
    schemas: FileStep | None
    letters: tuple[tuple[bytes, bytes | None], ...]
    has_broken_audit: bool
    derived: tuple[str, ...]
    needs_index: bool
    others: tuple[Finding, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that it would do."""
        steps = (self.log_json, self.place, self.stubs, self.segments, self.schemas, self.letters, self.derived)
        return not (any(steps) or self.has_broken_audit)

    @property
    def lost_events(self) -> int:
        """How many events are lost."""
        return sum(step.lost_events for step in self.segments)

    @property
    def filled(self) -> int:
        """How many come back from the backup."""
        return sum(step.filled for step in self.segments)

    @property
    def counts(self) -> dict[str, int]:
        """What the audit keeps of it."""
        aside = sum(line is None for _, line in self.letters)
        files = sum(step is not None for step in (self.log_json, self.schemas, self.place)) + len(self.derived)
        return {
            "segments": len(self.segments) + len(self.stubs),
            "lost_events": self.lost_events,
            "filled_events": self.filled,
            "dead_letters_aside": aside,
            "files": files + self.has_broken_audit,
        }

    def facts(self) -> dict[str, Any]:
        """For the report: each damage, and each range of positions that is lost."""
        return {
            "lost_events": self.lost_events,
            "lost": [list(each) for step in self.segments for each in step.lost],
            "filled_events": self.filled,
            "segments": [*map(_described_stub, self.stubs), *map(_described, self.segments)],
            "archive": self.place.url if self.place is not None else None,
            "files": [
                {"file": str(step.path), "message": step.message}
                for step in (self.log_json, self.schemas)
                if step is not None
            ],
            "dead_letters": {
                "mended": sum(line is not None for _, line in self.letters),
                "aside": sum(line is None for _, line in self.letters),
            },
            "audit": "broken" if self.has_broken_audit else "whole",
            "derived": list(self.derived),
            "others": [vars(finding) for finding in (*self.left, *self.others)],
        }


def _described_stub(step: StubStep) -> dict[str, Any]:
    first, last = step.positions
    return {
        "folder": str(step.folder),
        "first_position": first,
        "last_position": last,
        "way": "archive",
        "lost": [],
        "lost_events": 0,
        "filled_events": 0,
        "damages": [vars(each) for each in step.damages],
    }


def _described(step: SegmentStep) -> dict[str, Any]:
    remains = step.remains
    return {
        "folder": str(step.damaged.folder),
        "first_position": step.damaged.first_position,
        "last_position": step.damaged.last_position,
        "way": step.way,
        "lost": [list(each) for each in step.lost],
        "lost_events": step.lost_events,
        "filled_events": step.filled,
        "refusal": step.refusal,
        "damages": [vars(each) for each in remains.damages] if remains is not None else [],
    }


def open_damaged(files: Files, folder: Path, config: Config, backup: Backup | None) -> tuple[Log, FileStep | None]:
    """The log in a folder, and what has to be done so that it can be opened.

    Raises LogNotFoundError, LogFormatError, LogDamagedError (nothing tells what log.json was), BackupError (the
    backup is of another log), StoreError, StorageError.
    """
    path = folder / LOG_FILE
    try:
        data = files.read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir() or not list(segment_folders(folder)):
            manifests.read(files, folder)  # raises what there is to say
            raise LogNotFoundError(f"there is no log in {folder}") from None
        data = b""
    unknown = take(Log(files, folder, Manifest("0" * 32, 1, 1, ""), config))
    told = unknown.log_id
    if backup is not None and told is not None:
        backup.refuse_other(told)
    source = None
    if told is not None:
        of_this = Log(files, folder, Manifest(told, 1, 1, ""), config)
        unknown, source = take(of_this), Source(of_this, config)
    step = identity.log_json(path, data, unknown, backup, source)
    manifest = manifests.parse(step.data if step is not None else data, path)
    if backup is not None:
        backup.refuse_other(manifest.id)
    return Log(files, folder, manifest, config), step


def plan(
    log: Log,
    config: Config,
    backup: Backup | None = None,
    log_json: FileStep | None = None,
    on_progress: Progress = lambda done, total: None,
    reads_archive: bool = False,
) -> Plan:
    """What a repair of this log would do; `log_json` is what `open_damaged` says.

    Of events in the archive it is looked whether they are there; with `reads_archive` they are read. Nobody may
    write to it meanwhile. Raises LogDamagedError, StoreError, BackupError, StorageError.
    """
    files = take(log)
    source = Source(log, config)
    archived = stubs.look(log, files, source)
    if archived.place is not None:
        log.archive.url = archived.place.url
    report = verifying.verify(
        log, on_progress, reads_archive=False, read_models=config.read_models_path, config=config
    )
    findings = [finding for finding in report.findings if Path(finding.file).name != LOG_FILE]
    damaged = {folder for finding in findings if finding.severity == "log" and (folder := _segment(log, finding))}
    damaged -= {step.folder for step in archived.steps}
    damaged |= {Path(each.file) for each in archived.left.values()}
    files = stubs.brought_back(take(log), archived)
    objects = stubs.damaged_objects(source, files, reads_archive)
    if backup is not None:  # it may have what the archive, or an earlier repair, could not bring back
        damaged |= {each.folder for each in files.segments if each.first_position in objects or _has_lost(each)}
    is_audit = any(Path(finding.file).name == audit.FILE for finding in findings if finding.severity == "log")
    erased = _erased(log, backup, is_audit)
    found = [each for each in survey(log, files, damaged) if _is_damaged(each, findings, backup)]
    steps = [step for each in found if (step := _step(each, backup, erased)).is_wanted]
    segments, left = _without_left(steps, {**archived.left, **objects})
    filled = {step.damaged.first_position for step in segments}
    kept = tuple(step for step in archived.steps if step.positions[0] not in filled)
    told = {finding.file for finding in objects.values()}
    findings = [finding for finding in findings if finding.file not in told]
    places = {name: log.folder / name for name in (registry.FOLDER, deadletters.FOLDER)}
    of_log = [finding for finding in findings if finding.severity == "log" and _segment(log, finding) is None]
    has_schemas = any(places[registry.FOLDER] in Path(finding.file).parents for finding in of_log)
    has_letters = any(places[deadletters.FOLDER] in Path(finding.file).parents for finding in of_log)
    schemas = smallfiles.schemas(log.files, log.folder, backup) if has_schemas else None
    derived, others = _sorted(log, findings, schemas is not None, bool(segments or kept or left))
    derived = sorted({*derived, *archived.derived})
    return Plan(
        log_json=log_json,
        place=archived.place,
        stubs=kept,
        left=left,
        segments=segments,
        schemas=schemas,
        letters=tuple(smallfiles.letters(log.files, log.folder)) if has_letters else (),
        has_broken_audit=is_audit,
        derived=tuple(derived),
        needs_index=bool(segments) or any(_is_index(log, Path(path)) for path in derived),
        others=tuple(others),
    )


def _erased(log: Log, backup: Backup | None, is_broken: bool) -> Erased:
    """What was erased since the backup was made."""
    if backup is None:
        return Erased()
    if is_broken:
        now = smallfiles.audit_lines(log.files, log.folder, backup).data
    else:
        now = b"".join(line.text + b"\n" for line in audit.lines(log.files, log.folder))
    return since(backup.file(audit.FILE) or b"", now)


def _without_left(
    steps: Sequence[SegmentStep], told: Mapping[int, Finding]
) -> tuple[tuple[SegmentStep, ...], tuple[Finding, ...]]:
    """The steps but for archived segments that only a backup can bring back now, and why these are left."""
    kept, left = [], dict(told)
    for step in steps:
        first = step.damaged.first_position
        if step.way == "restore" or first not in left:
            kept.append(step)
            left.pop(first, None)
    return tuple(kept), tuple(left.values())


def _has_lost(segment: SegmentFiles) -> bool:
    if is_archived(segment.summary) and segment.frames is None:  # what the archive has is not written anew
        return False
    return is_cold(segment.summary) and bool(segment.summary.get("gone", {}).get("lost"))


def _is_damaged(found: Damaged, findings: Sequence[Finding], backup: Backup | None) -> bool:
    """Whether there is damage in a segment itself, and not only before it, where another one is missing; or events
    that a backup may have.
    """
    if backup is not None and found.files is not None and _has_lost(found.files):
        return True
    remains = found.remains
    if found.files is None or (remains is not None and (remains.damages or len(remains.lost))):
        return True
    return any(Path(finding.file).parent == found.folder for finding in findings if finding.severity == "log")


def _step(damaged: Damaged, backup: Backup | None, erased: Erased) -> SegmentStep:
    remains = damaged.remains
    if remains is None or damaged.known is None:
        return SegmentStep(damaged, "begin", None, (), 0)
    if backup is None:
        return SegmentStep(damaged, "rewrite", remains, tuple(_runs(remains.lost)), remains.filled)
    refusal = erased.why_not(damaged.first_position, damaged.last_position)
    is_asked = damaged.is_past_known or not refusal
    filling = backup.filling(damaged) if remains.damages and is_asked else None
    if filling is not None:
        return SegmentStep(damaged, "restore", remains, (), len(remains.lost), filling)
    if remains.gone_counts.get("lost") and is_asked:
        fillers = backup.segments(damaged.first_position, damaged.last_position)
        remains = look_again(damaged.known, fillers, fills_earlier=not refusal)
    is_refused = bool(refusal and remains.gone_counts.get("lost"))
    lost = tuple(_runs(remains.lost))
    return SegmentStep(damaged, "rewrite", remains, lost, remains.filled, refusal=refusal if is_refused else "")


def _runs(positions: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, int]]:
    if len(positions):
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            yield int(run[0]), int(run[-1])


def _segment(log: Log, finding: Finding) -> Path | None:
    """The folder of the segment that a finding is of."""
    path = Path(finding.file)
    for folder in (path, *path.parents):
        if folder.parent == log.folder:
            return folder if parse_segment_name(folder.name) is not None else None
    return None


def _is_index(log: Log, path: Path) -> bool:
    return path.name == STREAMS_FILE or log.folder / INDEX_FOLDER in path.parents


def _sorted(
    log: Log, findings: Sequence[Finding], has_schemas: bool, has_segments: bool
) -> tuple[list[str], list[Finding]]:
    """The files that are made again, and the findings that somebody else has to see to."""
    derived: set[str] = set()
    others = []
    for finding in findings:
        path = Path(finding.file)
        is_own = _segment(log, finding) is not None or _is_index(log, path) or path.name == HEAD_FILE
        if finding.severity == "derived":
            if is_own:
                derived.add(finding.file)
            else:
                others.append(finding)
        elif not is_own and path != log.folder:
            is_mended = path.name in (audit.FILE, deadletters.FILE) or (has_schemas and path.name == registry.FILE)
            others += [] if is_mended else [finding]
        elif path == log.folder and not has_segments:
            others.append(finding)
    return sorted(derived), others
