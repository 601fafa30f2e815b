"""Where a repair puts what is damaged, and its report: `damaged/TIME/` of the log's folder.

    report.json                    what was damaged, lost and brought back; written before the first change
    SEGMENT/frames.log.1234        the bytes of a piece, by file and first byte
    SEGMENT/events-1.map           a file that is damaged as a whole

Nothing reads it. There may be events in it that are dropped from the log later, so it is to be removed once it has
been looked at. An erasure removes all but the reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evtool.files import Files, translated
from evtool.lifecycle.repairing.remains import Damage
from evtool.log.format import DAMAGED_FOLDER, DAMAGED_REPORT_FILE

_WHOLE_BYTES_MAX = 1 << 26  # of a file that is copied; of a longer one its damaged pieces are


class Aside:
    """The folder of one repair."""

    def __init__(self, files: Files, log_folder: Path) -> None:
        self._files = files
        self._log_folder = log_folder
        self.folder = log_folder / DAMAGED_FOLDER / _name(log_folder / DAMAGED_FOLDER)

    def report(self, facts: Mapping[str, Any]) -> None:
        """Write the report, in the place of an earlier one. Raises StorageError."""
        self._files.make_folder(self.folder)
        text = json.dumps(facts, indent=2, default=str)
        self._files.write_whole(self.folder / DAMAGED_REPORT_FILE, text.encode(errors="backslashreplace") + b"\n")

    def keep(self, damage: Damage) -> None:
        """Put the bytes of some damage aside, if there are any. Raises StorageError."""
        path = Path(damage.file)
        if not path.is_file():
            return
        if damage.start is None or damage.end is None:
            if self._files.size(path) <= _WHOLE_BYTES_MAX:
                self.keep_data(path, bytes(self._files.map(path)))
            return
        piece = bytes(self._files.map(path)[damage.start : damage.end])
        if piece:
            self.keep_data(path.with_name(f"{path.name}.{damage.start}"), piece)

    def move(self, path: Path) -> None:
        """Put a file of the log aside that is not needed where it is. Raises StorageError."""
        target = self.folder / path.relative_to(self._log_folder)
        self._files.make_folder(target.parent)
        with translated("rename", path):
            self._files.replace(path, target)
        self._files.sync_folder(target.parent)

    def keep_data(self, path: Path, data: bytes) -> None:
        """Put some bytes aside under the name of a file of the log. Raises StorageError."""
        target = self.folder / path.relative_to(self._log_folder)
        self._files.make_folder(target.parent)
        self._files.write_whole(target, data)


def _name(folder: Path) -> str:
    """The time, and if the clock was put back one that is not taken."""
    now = datetime.now(UTC)
    while (folder / f"{now:%Y%m%dT%H%M%S.%f}Z").exists():
        now += timedelta(microseconds=1)
    return f"{now:%Y%m%dT%H%M%S.%f}Z"
