"""Real files and real servers that the tests of `depthflux.images` build by themselves."""

from __future__ import annotations

import io
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

Handle = Callable[[BaseHTTPRequestHandler], None]

#: A self-signed certificate for pictures.example, with its key.
CERTIFICATE = Path(__file__).parent / "pictures.example.pem"


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    """An image as the bytes of a file, by Pillow itself."""
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


class Server:
    """A real HTTP(S) server on 127.0.0.1 that answers as told and remembers what it was asked."""

    def __init__(self, handle: Handle, tls: ssl.SSLContext | None) -> None:
        requests: list[tuple[str, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append((self.path, dict(self.headers)))
                try:
                    handle(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                """Broken connections are what some tests are about."""

        self.requests = requests
        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(body: bytes = b"", status: int = 200, headers: dict[str, str] | None = None) -> Handle:
    """A handler that gives one answer."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return handle
