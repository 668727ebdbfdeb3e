"""A web host on this machine: what the server is to fetch, and an ear for its webhooks."""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What is no picture.
TEXT = b"These are words and no picture.\n"


class PictureHost:
    """Answers any address that ends in .png with the picture and any other with a text.

    Attributes:
        url: where it is, without a slash at the end.
        fetched: the paths that were asked for, in turn.
    """

    def __init__(self, picture: bytes) -> None:
        self.fetched: list[str] = []
        self._picture = picture
        self._texts = itertools.count(1)
        self._told: queue.Queue[dict[str, Any]] = queue.Queue()
        self._server = _bound()
        self._server.host = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def new_text(self) -> str:
        """The URL of a text that no one has asked for."""
        return f"{self.url}/text-{next(self._texts)}.txt"

    def answer(self, path: str) -> tuple[str, bytes]:
        """Content type and bytes of an address."""
        self.fetched.append(path)
        return ("image/png", self._picture) if path.endswith(".png") else ("text/plain", TEXT)

    def hear(self, body: bytes) -> None:
        """Keep what a webhook says."""
        self._told.put(json.loads(body))

    def next_told(self, within_s: float) -> dict[str, Any]:
        """What the next webhook says."""
        return self._told.get(timeout=within_s)


@contextmanager
def hosting(picture: bytes) -> Iterator[PictureHost]:
    """A host for the time of a with block."""
    host = PictureHost(picture)
    yield host
    host.close()


def _bound() -> ThreadingHTTPServer:
    """A server on a free port without 429 in it.

    Errors repeat the address, and JavaScript's clients run a failed task again whose error has 429
    anywhere, as if too many requests had been the reason.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if "429" not in str(server.server_port):
        return server
    with server:  # which closes it once another port is found
        return _bound()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content_type, body = self.server.host.answer(self.path)
        self._reply(content_type, body)

    def do_POST(self) -> None:
        self.server.host.hear(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply("text/plain", b"")

    def _reply(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass
