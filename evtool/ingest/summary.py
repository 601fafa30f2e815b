"""What an ingest says of itself: of each batch, and of all of it in the end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Summary:
    """What an ingest did. Times in seconds, sizes in bytes of text (after decompression)."""

    accepted: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    batches: int = 0
    first_position: int | None = None
    last_position: int | None = None
    bytes_in: int = 0
    seconds: float = 0.0
    is_interrupted: bool = False  # whether it was stopped before the end of its inputs
    reached: tuple[str, int] | None = None  # input and line up to which all is committed

    @property
    def events_per_second(self) -> int:
        """Accepted events a second."""
        return round(self.accepted / self.seconds) if self.seconds else 0

    @property
    def counts(self) -> dict[str, int]:
        """What was stored, as the audit keeps it; all 0 where nothing was."""
        found = {name: getattr(self, name) for name in ("accepted", "dead_letters", "batches")}
        positions = {"first_position": self.first_position or 0, "last_position": self.last_position or 0}
        return found | positions

    @property
    def lines(self) -> int:
        """How many lines were read, without blank ones."""
        return self.accepted + self.duplicates + self.dead_letters


@dataclass(frozen=True)
class Acknowledgement:
    """What has become durable: all up to `line` of `input`, where `bytes` of its text end.

    `batch` is None if none was written; the positions are if nothing of it was new.
    """

    batch: int | None
    first_position: int | None
    last_position: int | None
    accepted: int
    duplicates: int
    dead_letters: int
    input: str
    line: int
    bytes: int
