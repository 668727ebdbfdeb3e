"""What the tests of the wire share: servers with stand-in workers, and receivers of webhooks."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stand_in.running import StandInServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server that tests share, which may fetch from this machine; none of them stops it."""
    folder = tmp_path_factory.mktemp("server") / "data"
    with StandInServer(
        folder, engine={"allow_private_addresses": "true"}, sync_timeout_s=2
    ) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server with two API keys; its client has the first."""
    folder = tmp_path_factory.mktemp("guarded") / "data"
    with StandInServer(folder, keys=KEYS) as running:
        yield running


KEYS = ("first-key-0123456789", "second-key-0123456789")


class Receiver:
    """Takes POSTs on 127.0.0.1 and remembers them.

    Attributes:
        url: where it listens.
        received: headers and bodies, in order.
        answers: HTTP statuses for the next ones; 200 when there are none left.
    """

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/told?token=secret"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def documents(self) -> list[dict[str, Any]]:
        """The bodies, read."""
        return [json.loads(body) for _, body in self.received]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    taken = Receiver()
    yield taken
    taken.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a web server with a picture, a text and a redirect, on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "room.png").write_bytes(Path("examples/one-object.png").read_bytes())
    (folder / "words.txt").write_text("no picture")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, directory=str(folder), **named)

        def log_message(self, *_: Any) -> None:
            return

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()
