"""A process on a terminal: what it draws there, and what is left to be seen."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
from pathlib import Path

from command_line import TIMEOUT_SECONDS, environment

_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


class OnTerminal:
    """A Python process whose standard error is a terminal; its standard input and output are pipes."""

    def __init__(self, *arguments: str, columns: int = 120, cwd: Path | None = None, **changes: str) -> None:
        self.columns = columns
        self._master, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (24, columns))
        kept = {name: value for name, value in environment(TERM="xterm-256color").items() if name != "COLUMNS"}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=kept | changes,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        os.close(terminal)
        self.drawn = ""

    def read_until(self, text: str) -> None:
        """Read what the process draws, until this is in it."""
        while text not in self.drawn:
            assert self._read(), f"{text!r} is not in {self.drawn!r}"

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def end(self) -> tuple[str, int]:
        """End its input, and wait until the process ends: what it has printed, and its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        while self._read():
            pass
        os.close(self._master)
        printed, _ = self._process.communicate(timeout=TIMEOUT_SECONDS)
        return printed.decode(), self._process.returncode

    @property
    def lines(self) -> list[str]:
        """Every line that was drawn, those that have been taken back too."""
        return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.drawn)) if line]

    @property
    def screen(self) -> str:
        """What is to be seen in the end, as VT100 reads it, of what can be drawn here."""
        rows, row, column = [""], 0, 0
        for found in _CONTROL.finditer(self.drawn):
            number, command = found[1], found[2]
            if found[0] == "\r":
                column = 0
            elif found[0] == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif command == "A":
                row -= int(number or 1)
            elif command == "K":
                assert number == "2"
                rows[row] = ""
            elif command is not None:
                assert command == "m" or number == "?25", found[0]
            else:
                rows[row] = rows[row][:column].ljust(column) + found[0] + rows[row][column + 1 :]
                column += 1
                assert column <= self.columns, rows[row]
        return "\n".join(rows).rstrip()

    def _read(self) -> bool:
        try:
            block = os.read(self._master, 65_536)
        except OSError:  # the last process that had the terminal has ended
            return False
        self.drawn += block.decode()
        return bool(block)
