"""What was erased since a backup was made, by the audit: that must not come back with it.

Of a segment that is there, its record says which events were erased, and none of them is taken from a backup.
Where that is lost, nobody knows which ones they were: then the audit is asked whether the segment had any since. A
backup has the audit as it was, and each line of an erasure behind that names its segments. Segments become one in
time, and are never cut in two, so positions that hold none of these are whole in the backup. Where the audit does
not go on from that of the backup, or a line tells of an erasure without an end, all may be erased.
"""

from __future__ import annotations

from dataclasses import dataclass

from evtool.lifecycle import audit
from evtool.log.format import parse_segment_name

_COMMAND = "erase"


@dataclass(frozen=True)
class Erased:
    """Since a backup: the first positions of segments that lost events, or why it may be any (`problem`)."""

    segments: frozenset[int] = frozenset()
    problem: str = ""

    def why_not(self, first: int, last: int) -> str:
        """Why a backup must not be asked for positions of which nothing else is known; "" if it may be."""
        if self.problem:
            return self.problem
        is_touched = any(first <= each <= last for each in self.segments)
        return "events of this segment were erased since it was made" if is_touched else ""


def since(before: bytes, now: bytes) -> Erased:
    """What was erased between two states of the audit."""
    if not now.startswith(before) or audit.check_text(now).broken is not None:
        return Erased(problem="the audit does not go on from that of the backup, so events may be erased since")
    segments: set[int] = set()
    is_open, is_cut, known = False, False, before.count(b"\n")
    for line in audit.lines_of(now):
        if line.record is None or line.record.get("command") != _COMMAND:
            continue
        is_open = line.record.get("outcome") != "done"
        if line.number > known and not is_open:
            names = str(line.record.get("details", {}).get("segments", ""))
            is_cut |= len(names) >= audit.TEXT_MAX
            segments |= {first for name in names.split(", ") if (first := parse_segment_name(name)) is not None}
    if is_open:
        return Erased(problem="an erasure has no end in the audit, so any events may be erased since")
    if is_cut:
        return Erased(problem="events of more segments than the audit names were erased since it was made")
    return Erased(frozenset(segments))
