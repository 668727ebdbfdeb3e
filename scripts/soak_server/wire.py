"""HTTP/1.1 to one server over kept connections, at a cost of little but the parsing in C.

A general client costs several times what the server does for a poll, and would measure itself.
Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httptools

#: Longest wait for an answer, in seconds; more than sync mode ever takes here.
TIMEOUT_S = 60.0
#: Idle connections are left after so long, in seconds: the server closes them after 5, and a
#: request that meets its closing would be lost without any fault.
IDLE_S = 3.0

JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer.

    Attributes:
        status: HTTP's.
        body: all of it.
        at_s: when its last byte was read, on time.perf_counter's clock.
    """

    status: int
    body: bytes
    at_s: float


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self.used_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for its answer.

        Raises:
            ConnectionError: it ended before the answer did.
        """
        if self._transport is None or not self.is_open:
            raise ConnectionError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Close it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self.is_open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"closed before the answer: {exc}"))

    def on_body(self, piece: bytes) -> None:
        """Of httptools."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Of httptools."""
        now_s = time.perf_counter()
        answer = Answer(
            status=self._parser.get_status_code(), body=b"".join(self._pieces), at_s=now_s
        )
        if not self._parser.should_keep_alive():
            self.close()
        # A parser goes on to the next message of its connection by itself.
        self._pieces, self.used_s = [], now_s
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


class Pool:
    """Connections to one server, opened when they are needed."""

    def __init__(self, address: str, *, most: int) -> None:
        """Open nothing yet.

        Args:
            address: such as `http://127.0.0.1:8000`.
            most: connections at a time; further requests wait for one.
        """
        self._host, _, port = address.removeprefix("http://").partition(":")
        self._port = int(port)
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(most)
        self._kept = f"Host: {self._host}:{self._port}\r\n"

    async def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = JSON, headers: str = ""
    ) -> Answer:
        """Ask something.

        Args:
            method: such as GET.
            path: with its query.
            body: what is sent.
            kind: its media type.
            headers: further ones, each with its line's end.

        Raises:
            ConnectionError: no whole answer came.
            TimeoutError: none came in time.
        """
        about = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if body else ""
        request = f"{method} {path} HTTP/1.1\r\n{self._kept}{about}{headers}\r\n".encode() + body
        async with self._places, asyncio.timeout(TIMEOUT_S):
            connection = self._take() or await self._connect()
            try:
                answer = await connection.ask(request)
            except BaseException:
                connection.close()
                raise
            if connection.is_open:
                self._idle.append(connection)
            return answer

    def close(self) -> None:
        """Close all connections that are idle."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Connection | None:
        """The connection that was used last, if it is still good."""
        oldest_s = time.perf_counter() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.used_s > oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection
