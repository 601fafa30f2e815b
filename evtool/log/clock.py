"""recorded_at: nanoseconds UTC that rise with every position, whatever the machine's clock does."""

from __future__ import annotations

import time
from collections.abc import Callable


class RecordedClock:
    """Hands out spans of recorded_at. A clock that stands still or steps back is run ahead of."""

    def __init__(self, last_recorded_at: int, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._last = last_recorded_at
        self._now_ns = now_ns

    def take(self, count: int) -> int:
        """The recorded_at of the first of `count` events; each further one is 1 ns later."""
        base = max(self._now_ns(), self._last + 1)
        self._last = base + max(count, 1) - 1
        return base
