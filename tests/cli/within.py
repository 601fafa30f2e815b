"""Commands in the process of the test, where a start costs nothing."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import check

from evtool import parallel
from evtool.cli import app


def run(
    *arguments: str, cwd: Path, stdin: bytes = b"", code: int | None = 0
) -> subprocess.CompletedProcess[bytes]:
    """A command in a folder, as command_line.run does it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        streams = {}
        for name in ("stdin", "stdout", "stderr"):  # files, since some of the program asks for their numbers
            file = stack.enter_context(tempfile.TemporaryFile())
            streams[name] = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
            patched.setattr(sys, name, streams[name])
        streams["stdin"].buffer.write(stdin)
        streams["stdin"].buffer.seek(0)
        patched.setattr(sys, "argv", ["evtool", *arguments])
        patched.setattr(parallel, "keep_freed_memory", lambda: None)
        patched.setattr(parallel, "step_back", lambda: None)  # it would be for all tests to come
        patched.delenv("EVTOOL_LOG", raising=False)
        patched.setenv("COLUMNS", "200")
        returned = app._run()
        stdout, stderr = (_written(streams[name]) for name in ("stdout", "stderr"))
    check(returned, stderr, code)
    return subprocess.CompletedProcess(arguments, returned, stdout, stderr)


def failed(code: int, *arguments: str, cwd: Path) -> str:
    """What a command says that must end with this exit code."""
    done = run(*arguments, cwd=cwd, code=code)
    assert done.stderr.startswith(b"evtool: ")
    assert done.stdout == b""
    return done.stderr.decode()


def _written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    stream.buffer.seek(0)
    return stream.buffer.read()
