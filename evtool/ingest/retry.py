"""Dead letters through today's rules once more: those that pass leave the queue, the others say why they stay.

A letter leaves the queue after its event is durable. If the process ends in between, the letter is tried again,
and its event is known by its id: a duplicate, which counts as passed. So nothing is lost, and nothing is stored
twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from evtool import timestamps
from evtool.batch import BATCH_SCHEMA
from evtool.config import IngestConfig
from evtool.ingest import formats
from evtool.ingest.deadletters import DeadLetter, explained
from evtool.ingest.letterqueue import Change, Entry, LetterQueue, Wanted
from evtool.ingest.parse import Parsed, Parser
from evtool.ingest.validate import validated
from evtool.log.log import Log

_LETTERS_TOGETHER_MAX = 20_000
_BYTES_TOGETHER_MAX = 8 * 1024 * 1024

Why = tuple[str, str]  # reason and message


@dataclass
class Retried:
    """What a retry did: `accepted` letters became events, `duplicates` were stored before, `stay` failed again.

    `cut` ones were not tried: only the beginning of their line was kept. `left` are all that are in the queue now
    of those that were there at its start.
    """

    accepted: int = 0
    duplicates: int = 0
    stay: int = 0
    cut: int = 0
    left: int = 0
    first_position: int | None = None
    last_position: int | None = None
    is_interrupted: bool = False

    @property
    def passed(self) -> int:
        """How many left the queue."""
        return self.accepted + self.duplicates


class Retry:
    """One retry. It takes the writer's lock of the log when it is made."""

    def __init__(self, log: Log, config: IngestConfig) -> None:
        self._config = config
        self._validator = log.validator
        self._writer = log.writer()
        self._validator = log.validator
        self._queue = LetterQueue(log.files, log.folder)
        self._parsers: dict[str | None, Parser] = {}
        self._stop = threading.Event()
        self.result = Retried()

    def stop(self) -> None:
        """Finish the letters in hand and leave the others as they are. Safe to call from a signal handler."""
        self._stop.set()

    def run(self, wanted: Wanted) -> Retried:
        """Try the letters that are wanted. Raises StorageError, LogLockedError; then no letter has gone."""
        with self._queue.change() as change:
            for entries in _together(change.entries()):
                self._go_through(entries, wanted, change)
            if self.result.passed or self.result.stay:
                change.finish()
        self.result.is_interrupted = self._stop.is_set()
        return self.result

    def _go_through(self, entries: list[Entry], wanted: Wanted, change: Change) -> None:
        """Try those of some neighbours that are wanted, and keep the rest, in order."""
        chosen = self._chosen(entries, wanted)
        failed = self._try([letter for _, letter in chosen])
        now = timestamps.to_text(time.time_ns())
        texts: list[bytes | None] = [entry.text for entry in entries]
        for number, (place, letter) in enumerate(chosen):
            texts[place] = None
            if number in failed:
                reason, message = failed[number]
                again = replace(
                    letter, reason=reason, message=message, attempts=letter.attempts + 1, last_tried=now
                )
                texts[place] = again.encode()
        kept = [text for text in texts if text is not None]
        for text in kept:
            change.keep(text)
        self.result.stay += len(failed)
        self.result.left += len(kept)

    def _chosen(self, entries: list[Entry], wanted: Wanted) -> list[tuple[int, DeadLetter]]:
        """The letters to try, each with its place among the entries."""
        if self._stop.is_set():
            return []
        chosen = []
        for place, entry in enumerate(entries):
            if entry.letter is not None and wanted(entry.letter):
                if entry.letter.is_cut:
                    self.result.cut += 1
                else:
                    chosen.append((place, entry.letter))
        return chosen

    def _try(self, letters: list[DeadLetter]) -> dict[int, Why]:
        """Store what passes, and return why the others, by their number, do not."""
        failed: dict[int, Why] = {}
        by_source: dict[str | None, list[int]] = {}
        for number, letter in enumerate(letters):
            if b"\n" in letter.raw:  # someone has mended it, and it would be read as two lines
                failed[number] = ("invalid_json", "it holds a line feed, and an event is one line")
            else:
                by_source.setdefault(letter.source, []).append(number)
        for source, numbers in by_source.items():
            why = self._store([letters[number].raw for number in numbers], source)
            failed |= {numbers[row]: reason for row, reason in why.items()}
        return failed

    def _store(self, lines: Sequence[bytes], source: str | None) -> dict[int, Why]:
        """The same for lines of one default source, which are a batch."""
        if source not in self._parsers:
            self._parsers = {source: formats.parser(replace(self._config, source=source or self._config.source))}
        parsed = validated(self._parsers[source].parse(b"".join(line + b"\n" for line in lines)), self._validator)
        failed = {reject.row: (reject.reason, reject.message) for reject in parsed.rejects}
        rows = parsed.events["row"].to_numpy()[parsed.order]
        blank = set(range(len(lines))) - set(rows.tolist()) - failed.keys()
        failed |= dict.fromkeys(blank, ("invalid_json", "the line is blank"))
        if len(rows):
            prepared = self._writer.prepare(_batch(parsed), parsed.order)
            commit = self._writer.commit(prepared, [self._writer.encode(part) for part in prepared.parts])
            failed |= {int(rows[conflict.place]): explained(conflict) for conflict in prepared.conflicts}
            result = self.result
            result.accepted += commit.count
            result.duplicates += commit.duplicates
            if commit.count:
                result.first_position = result.first_position or commit.first_position
                result.last_position = commit.last_position
        return failed


def _together(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Neighbours, as many as are tried as one batch."""
    held: list[Entry] = []
    size = 0
    for entry in entries:
        held.append(entry)
        size += len(entry.text)
        if len(held) >= _LETTERS_TOGETHER_MAX or size >= _BYTES_TOGETHER_MAX:
            yield held
            held, size = [], 0
    if held:
        yield held


def _batch(parsed: Parsed) -> pa.RecordBatch:
    return parsed.events.select(BATCH_SCHEMA.names).combine_chunks().to_batches()[0]
