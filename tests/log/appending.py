"""A process that appends to a log and says what was acknowledged, until it is stopped.

    python appending.py FOLDER NAME SEED SEGMENT_BYTES [BATCHES]

It prints a line when it holds the log ("open POSITION"), and one for each acknowledged batch: its number, its
first and its last position. Each event says in its payload of which batch it is, and of how many events.
"""

from __future__ import annotations

import random
import sys
from itertools import count
from pathlib import Path

import evtool
from evtool.config import Config, LogConfig


def main(folder: str, name: str, seed: str, segment_bytes: str, batches: str = "") -> None:
    """Append until there is no one to tell it to, or so many batches."""
    choose = random.Random(int(seed))
    config = Config(log=LogConfig(partitions=2, segment_bytes=int(segment_bytes)))
    with evtool.open(Path(folder), config=config) as log:
        print("open", log.writer().last_position, flush=True)
        for number in range(int(batches)) if batches else count():
            size = choose.choice([1, 1, 2, 5, 40, 400, 4_200 if number % 20 == 3 else 3])
            payload = f'{{"batch":"{name}-{number}","size":{size}}}'
            commit = log.append(
                {
                    "event_id": f"{name}-{number}-{place}",
                    "source_id": name,
                    "stream_id": f"stream-{choose.randrange(50)}",
                    "event_type": "Counted",
                    "payload": payload,
                }
                for place in range(size)
            )
            print(number, commit.first_position, commit.last_position, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
