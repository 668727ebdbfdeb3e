"""Sockets: a threaded HTTP/1.1 listener on 127.0.0.1 that turns requests into answers.

Knows nothing of the service: what to answer is one function's business.
"""

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import cast

from .seen import RequestLog, SeenRequest


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, or none."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    dropped: bool = False
    """Nothing is written; the connection closes."""
    last: bool = False
    """The listener is closed before this is written, so that nobody can connect afterwards."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Keeps its open connections, so that they can be cut. (HTTPServer would ask for a name.)"""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, listener: "Listener") -> None:
        self.listener = listener
        self.connections: set[socket.socket] = set()
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        with self._lock:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._lock:
            self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self, spared: socket.socket | None = None) -> None:
        """Ends every open connection but one."""
        with self._lock:
            for connection in self.connections - {spared}:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other end was faster
                    continue

    def handle_error(self, request: object, client_address: object) -> None:
        """Forgives clients that left, and keeps the stub's own faults for the end."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; Nagle's algorithm would hold the second back for 40 ms.
    disable_nagle_algorithm = True

    def serve(self) -> None:
        listener = cast(_Server, self.server).listener
        request = SeenRequest(
            listener=listener.name,
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._read_body(),
            at_s=time.monotonic(),
        )
        listener.log.add(request)
        answer = listener.answer(request)
        if answer.last:
            listener.stop_listening(spared=self.connection)
        self.close_connection = self.close_connection or answer.last or answer.dropped
        if not answer.dropped:
            self._write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 -- the base class's names

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the client left before it had sent its body")
            return body
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue
        return b"".join(chunks)

    def _write(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.body:
            self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silent: the log of requests has it all."""


class Listener:
    """One listening socket with its threads, bound as soon as it is made."""

    def __init__(
        self, name: str, log: RequestLog, answer: Callable[[SeenRequest], Answer] | None = None
    ) -> None:
        self.name = name
        self.log = log
        # Set before `start`; an answer may need the port, which is known only now.
        self.answer = answer or (lambda request: Answer(404))
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop_listening(self, spared: socket.socket | None = None) -> None:
        """Refuses new connections from now on and cuts the open ones but ``spared``."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.socket.close()
        self._server.cut(spared)

    def close(self) -> list[BaseException]:
        """Ends everything, waits for the threads, and returns what went wrong inside them."""
        self.stop_listening()
        self._server.server_close()
        if self._thread.is_alive():
            self._thread.join()
        return self._server.failures
