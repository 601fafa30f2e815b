"""A line to a server that a test can cut, and mend later: the server itself takes seconds to start."""

from __future__ import annotations

import contextlib
import socket
from threading import Thread, Timer


class Proxy:
    """What connects to `port` speaks to the server at `server_port`; while it is cut, nobody answers there."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._timer: Timer | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Answer from now on."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def mend_later(self, seconds: float) -> None:
        """The same, in a while."""
        self._timer = Timer(seconds, self.mend)
        self._timer.start()

    def cut(self) -> None:
        """End all connections, and refuse others."""
        if self._timer is not None:
            self._timer.join()
        if self._listener is not None:
            _close(self._listener)
        while self._connections:
            _close(self._connections.pop())

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = [listener.accept()[0], socket.create_connection(("127.0.0.1", self._server_port))]
                self._connections += ends
                for source, target in (ends, ends[::-1]):
                    Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _close(source)
    _close(target)


def _close(ended: socket.socket) -> None:
    with contextlib.suppress(OSError):
        ended.shutdown(socket.SHUT_RDWR)  # close alone wakes no thread that waits for it
    ended.close()
