"""A small application behind the wire, on a real socket of a thread's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Self

import uvicorn
from uvicorn.server import ServerState

from depthflux.server.crowd import Crowd, Patience
from depthflux.server.metrics import Metrics
from depthflux.server.wire import connections

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
SECOND = b"GET /second HTTP/1.1\r\n" + HOST + b"\r\n"
#: Much shorter than a server's, but a busy machine's pauses fit into it.
SHORT = Patience(
    head_s=0.4,
    silence_s=0.4,
    grace_s=0.6,
    rest_s=0.4,
    unread_s=0.4,
    leaving_s=5.0,
    look_s=0.05,
)


class Answers:
    """The application: what it does is its path.

    Attributes:
        seen: paths, in order.
        headers: of the latest request.
        told: paths of requests whose client was said to be gone while a body was waited for.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.told: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        self.headers = scope["headers"]
        behaviour = getattr(self, "_" + scope["path"].strip("/"), self._count)
        try:
            await behaviour(receive, send)
        except ConnectionAbortedError:
            self.told.append(scope["path"])

    async def _count(self, receive: Any, send: Any) -> None:
        """Read the body, and say how long it was."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            size, more = size + len(message["body"]), message["more_body"]
        await _answer(send, str(size).encode())

    async def _lazily(self, receive: Any, send: Any) -> None:
        """The same, but begin late."""
        await asyncio.sleep(1)
        await self._count(receive, send)

    async def _work(self, receive: Any, send: Any) -> None:
        """Answer late."""
        await receive()
        await asyncio.sleep(0.9)
        await _answer(send, b"worked")

    async def _watch(self, receive: Any, send: Any) -> None:
        """Answer late, and look all the while whether the client is still there."""
        await receive()
        end = asyncio.get_running_loop().time() + 0.9
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
        await _answer(send, b"watched")

    async def _early(self, receive: Any, send: Any) -> None:
        """Answer before the body."""
        await _answer(send, b"early", status=413)

    async def _begun(self, receive: Any, send: Any) -> None:
        """Begin to answer, and read then."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await self._count(receive, send)

    async def _some(self, receive: Any, send: Any) -> None:
        """A few kilobytes."""
        await _answer(send, bytes(10_000))

    async def _large(self, receive: Any, send: Any) -> None:
        """More than the kernel keeps, all at once, as a picture is sent."""
        await _answer(send, bytes(40_000_000))


async def _answer(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served:
    """The application behind the wire, while it is a context.

    Attributes:
        app: the application.
        metrics: where refusals are counted.
    """

    def __init__(self, patience: Patience = SHORT) -> None:
        self.app, self.metrics = Answers(), Metrics()
        self._crowd, self._state = Crowd(patience), ServerState()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._surprises.append(context))
        self._surprises: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        kind = connections(self._crowd, self.metrics)
        config = uvicorn.Config(self.app, http=kind, ws="none", lifespan="off", log_config=None)
        self._server: asyncio.Server = self._run(
            self._loop.create_server(
                lambda: kind(config, self._state, {}, self._loop), "127.0.0.1", 0
            )
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not self._surprises

    def connect(self, data: bytes = b"", *, taken_bytes: int | None = None) -> socket.socket:
        """A connection on which something has been sent."""
        connection = socket.socket()
        connection.settimeout(10)
        if taken_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, taken_bytes)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return connection

    def ask(self, data: bytes) -> bytes:
        """All that comes back until the server ends the connection."""
        with contextlib.closing(self.connect(data)) as connection:
            return rest_of(connection)

    def let_the_system_keep_little(self) -> None:
        """Of what is sent from now on, the system takes some kilobytes; the rest waits here."""
        self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    @property
    def members(self) -> int:
        """How many connections are counted."""
        return len(self._crowd)

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


def post(path: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request with a body."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body


def rest_of(connection: socket.socket) -> bytes:
    """What still comes until the connection ends, however it does."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(2**20):
            pieces.append(piece)
    return b"".join(pieces)


def one_answer(connection: socket.socket) -> bytes:
    """The next answer on a connection that goes on; its length is announced."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    assert piece, "the server has ended the connection"
    return piece


def trickle(connection: socket.socket, piece: bytes, pause_s: float) -> Iterator[None]:
    """Send a piece again and again until the server refuses."""
    with contextlib.suppress(ConnectionError):
        while True:
            connection.sendall(piece)
            yield
            time.sleep(pause_s)


def refusal_in(answer: bytes) -> tuple[int, dict[str, Any]]:
    """HTTP status and document of a refusal, which is whole and ends the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    document = json.loads(body)
    assert headers["content-length"] == str(len(body))
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert document["message"] == document["error"]
    assert "\n" not in document["message"]
    status = int(line.split()[1])
    assert document["code"] == status
    return status, document
