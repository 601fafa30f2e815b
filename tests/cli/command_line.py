"""evtool as a process: run it, and check what every run must keep to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import IO, Any

import evtool
from evtool.lifecycle.verify import verify

COMMAND = [sys.executable, "-m", "evtool.cli.app"]
TIMEOUT_SECONDS = 100


def environment(**changes: str) -> dict[str, str]:
    """That of the tests, without what configures evtool, or hides what a full disk does at the very end."""
    others = ("EVTOOL_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "200"} | changes


def run(
    *arguments: str | bytes | Path, cwd: Path, stdin: bytes | IO[bytes] = b"", code: int | None = 0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a folder. Whatever happens, it is told in sentences; `code` is the exit code wanted."""
    options = {"env": environment(), "input" if isinstance(stdin, bytes) else "stdin": stdin} | options
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, **options
    )
    check(done.returncode, done.stderr, code)
    return done


def start(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command whose input and output are pipes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    return subprocess.Popen([*COMMAND, *arguments], cwd=cwd, **(pipes | options))


def check(returned: int, stderr: bytes, code: int | None) -> None:
    """No error of a user ends as a traceback, and the exit code is the one that is wanted."""
    told = stderr.decode(errors="replace")
    assert "Traceback" not in told, told
    assert "Exception ignored" not in told, told
    if code is not None:
        assert returned == code, f"{returned} is not {code}: {told}"


def failed(code: int, *arguments: str | bytes | Path, cwd: Path, **options: Any) -> str:
    """Run a command that must end with this exit code and with a sentence, which is returned."""
    done = run(*arguments, cwd=cwd, code=code, **options)
    told = done.stderr.decode()
    assert told.startswith("evtool: ")
    assert done.stdout == b""
    return told


def as_json(*arguments: str | Path, cwd: Path, **options: Any) -> dict[str, Any]:
    """The object that a command with --json prints."""
    found = json.loads(run(*arguments, "--json", cwd=cwd, **options).stdout)
    assert isinstance(found, dict)
    return found


def line(number: int, **fields: Any) -> bytes:
    """A line of an event."""
    event = {"event_id": f"e-{number}", "source_id": "s", "stream_id": f"u-{number % 5}", "event_type": "Seen"}
    return json.dumps(event | {"payload": {"n": number}} | fields, ensure_ascii=False).encode() + b"\n"


def lines(*numbers: int) -> bytes:
    """Lines of events."""
    return b"".join(map(line, numbers))


def replayed(log: Path) -> list[dict[str, Any]]:
    """The events of a log, in this process."""
    with evtool.open(log, read_only=True) as opened:
        return [json.loads(text) for block in opened.replay() for text in block.split(b"\n")[:-1]]


def numbers(log: Path) -> list[int]:
    """The numbers in the payloads of a log."""
    return [event["payload"]["n"] for event in replayed(log)]


def letters(log: Path) -> list[dict[str, Any]]:
    """The dead letters of a log."""
    path = log / "dead-letters" / "dead-letters.ndjson"
    return [json.loads(text) for text in path.read_bytes().splitlines()] if path.exists() else []


def raw(letter: dict[str, Any]) -> bytes:
    """The bytes that a dead letter keeps."""
    assert ("raw" in letter) != ("raw_base64" in letter)
    return letter["raw"].encode() if "raw" in letter else b64decode(letter["raw_base64"])


def digest(log: Path) -> str:
    """The logical digest of a log, which must be clean."""
    with evtool.open(log, read_only=True) as opened:
        report = verify(opened)
    assert report.findings == []
    assert report.digest is not None
    return report.digest
