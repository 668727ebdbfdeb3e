"""A real receiver of webhooks on 127.0.0.1, which answers as told and remembers what came."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Delivery(NamedTuple):
    """What came, and when by the monotonic clock."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float


#: Answers a request: the handler, and how many came before.
Handle = Callable[[BaseHTTPRequestHandler, int], None]


class Receiver:
    """A receiver, listening."""

    def __init__(self, handle: Handle, tls: ssl.SSLContext | None = None) -> None:
        deliveries: list[Delivery] = []
        came = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with came:
                    before = len(deliveries)
                    now = time.monotonic()
                    deliveries.append(Delivery(self.path, dict(self.headers), body, now))
                    came.notify_all()
                try:
                    handle(self, before)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *arguments: object) -> None:
                """Broken connections are what some tests are about."""

        self.deliveries, self._came = deliveries, came
        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def wait_for(self, count: int, timeout_s: float = 10) -> list[Delivery]:
        """What has come, once it is so many."""
        with self._came:
            found = self._came.wait_for(lambda: len(self.deliveries) >= count, timeout_s)
            assert found, f"{len(self.deliveries)} came within {timeout_s} s instead of {count}"
            return list(self.deliveries)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def answer(*statuses: int, headers: dict[str, str] | None = None) -> Handle:
    """A handler that answers with one status after another, the last one for ever."""

    def handle(request: BaseHTTPRequestHandler, before: int) -> None:
        request.send_response(statuses[min(before, len(statuses) - 1)])
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()

    return handle


def silence(until: threading.Event) -> Handle:
    """A handler that says nothing until told to."""

    def handle(request: BaseHTTPRequestHandler, before: int) -> None:
        until.wait(30)
        answer(200)(request, before)

    return handle


def drip(pause_s: float) -> Handle:
    """A handler that sends a byte of an endless header now and then."""

    def handle(request: BaseHTTPRequestHandler, before: int) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(1000):
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(pause_s)

    return handle
