"""What no stranger may reach: a web server of the inner network, which counts who connects.

It answers everything with a picture, so that whoever gets through is paid for it. Knows nothing of
what is tried.
"""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from stand_in.running import PICTURE

#: Answers a request.
Handle = Callable[[BaseHTTPRequestHandler], None]


def picture(request: BaseHTTPRequestHandler) -> None:
    """Answer with a picture."""
    data = base64.b64decode(PICTURE)
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def redirect(location: str) -> Handle:
    """Answers that say to look elsewhere."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return handle


def _handler(handle: Handle, paths: list[str]) -> type[BaseHTTPRequestHandler]:
    """What answers, and notes what was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            try:
                handle(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    return Handler


class Inside:
    """A web server, listening.

    Attributes:
        address: of this machine.
        port: where it listens.
        url: where that is.
        connections: how many have come, whether or not they have said anything.
        paths: what was asked for.
    """

    def __init__(
        self,
        handle: Handle = picture,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address, self.connections = address, 0
        self.paths: list[str] = []
        inside = self

        class Counting(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection = super().get_request()
                inside.connections += 1
                return connection

            def handle_error(self, *arguments: object) -> None:
                """Broken connections are what some attacks are about."""

        self._server = Counting((address, port), _handler(handle, self.paths))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://{address}:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
