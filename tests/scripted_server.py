"""A real HTTP(S) server on 127.0.0.1 that answers as told and remembers what it was asked."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer; `breaks` closes the connection in its place, `waits_s` comes before it."""

    body: bytes | dict[str, Any] | list[Any] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    waits_s: float = 0.0
    drips_s: float = 0.0


Script = Callable[[Asked], Reply]


def in_turn(*replies: Reply) -> Script:
    """One reply after another, the last one for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class ScriptedServer:
    """Listens while the block lasts.

    Attributes:
        asked: every request, in order.
        script: what answers; may be changed at any time.
        url: where it listens, without a slash at the end.
    """

    def __init__(
        self, script: Script | Reply, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.script: Script = in_turn(script) if isinstance(script, Reply) else script
        self.asked: list[Asked] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                server.asked.append(asked)
                self._send(server.script(asked))

            do_GET = do_POST = do_PUT = do_CONNECT = answer  # noqa: N815 - the library's names

            def _send(self, reply: Reply) -> None:
                time.sleep(reply.waits_s)
                if reply.breaks:
                    self.close_connection = True
                    return
                is_bytes = isinstance(reply.body, bytes)
                body = reply.body if is_bytes else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if not reply.drips_s:
                    self.wfile.write(body)
                    return
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(reply.drips_s)

            def log_message(self, *_: object) -> None:
                """Silent."""

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Broken connections are what some tests are about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
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
