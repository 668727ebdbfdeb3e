"""One connection for each thread that asks, which is cut when the time of an exchange is up.

Time limits of sockets begin anew with each byte, so a server that sends one now and then, a line of
its headers or an early hint, would hold an exchange for ever. Knows nothing of what is asked.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx


class Line:
    """A thread's connection to the API, made anew where it was closed; for that thread alone.

    Attributes:
        transport: asks through it.
        is_late: whether the exchange under way, or the last one, was cut.
    """

    def __init__(self, transport: httpx.HTTPTransport) -> None:
        """Connect to nothing yet."""
        self.transport = transport
        self.is_late = False
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._exchange = 0

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Cut the connection unless the block ends in time; whatever waits on it then fails."""
        with self._lock:
            self._exchange += 1
            self.is_late = False
        timer = threading.Timer(seconds, self._cut, args=(self._exchange,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                # A cut that comes too late must not meet the next exchange.
                self._exchange += 1

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Take note of each new connection; httpx calls this as its "trace" extension."""
        if event != "connection.connect_tcp.complete":
            return
        # A duplicate, since TLS takes the original's descriptor away.
        connection = info["return_value"].get_extra_info("socket").dup()
        with self._lock:
            before, self._connection = self._connection, connection
            if self.is_late:
                _shut(connection)
        if before is not None:
            before.close()

    def close(self) -> None:
        """Close the connection; nothing is under way any more."""
        self.transport.close()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _cut(self, exchange: int) -> None:
        with self._lock:
            if exchange != self._exchange:
                return
            self.is_late = True
            if self._connection is not None:
                _shut(self._connection)


class Lines:
    """The lines of all threads."""

    def __init__(self, connect: Callable[[], httpx.HTTPTransport]) -> None:
        """Make none yet.

        Args:
            connect: makes a transport of one connection.
        """
        self._connect = connect
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._all: list[Line] = []

    def mine(self) -> Line:
        """The line of the thread that calls."""
        line: Line | None = getattr(self._of_thread, "line", None)
        if line is None:
            line = self._of_thread.line = Line(self._connect())
            with self._lock:
                self._all.append(line)
        return line

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            lines, self._all = self._all, []
        for line in lines:
            line.close()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed by the other side already
