"""One program, run and measured: wall time, CPU time and peak memory of its process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PEAK_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True)
class Run:
    """What one process took, from its start to its end, and what it wrote to standard output."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: bytes

    def parsed(self) -> dict[str, Any]:
        """The JSON object that it printed on its last line."""
        result: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return result


def limit_cores(count: int) -> None:
    """Keep this process and those that it starts on `count` cores, and their thread pools at that size."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["POLARS_MAX_THREADS"] = str(count)


def run(command: Sequence[str], piped: Path | None = None, discard: bool = False) -> Run:
    """Run a command, with the file `piped` coming through a pipe; `discard` sends its output to /dev/null.

    Raises CalledProcessError when it fails. What `cat` takes to fill the pipe is not counted.
    """
    os.sync()  # what ran before shall not have its pages written on this one's time
    cat = subprocess.Popen(["cat", str(piped)], stdout=subprocess.PIPE) if piped else None
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=cat.stdout if cat else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if discard else subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if cat is not None and cat.stdout is not None:
        cat.stdout.close()
    output = process.stdout.read() if process.stdout else b""
    talk = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if cat is not None:
        cat.wait()
    if process.returncode:
        sys.stderr.write(talk.decode(errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _PEAK_UNIT_BYTES, output)
