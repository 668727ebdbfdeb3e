"""Takes webhooks on this machine, and fails now and then, by the prediction's own digits.

Knows nothing of what they say.
"""

from __future__ import annotations

import http.server
import json
import threading
from types import TracebackType
from typing import Any, Self

from chaos_server.journal import Journal


class Receiver:
    """A receiver of webhooks.

    Attributes:
        url: where it listens.
    """

    def __init__(self, journal: Journal) -> None:
        """Listen, but answer nothing yet.

        Args:
            journal: told of every webhook that was taken.
        """

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                document = json.loads(body)
                is_first = document["id"] not in journal.told
                kind = int(document["id"], 16) % 8
                if is_first and kind == 0 and document["id"] not in refused:
                    refused.add(document["id"])
                    self._answer(500)
                    return
                journal.note_told(document)
                if is_first and kind == 1:
                    self.close_connection = True  # taken, but nobody is told so
                    return
                self._answer(204)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        refused: set[str] = set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/told"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
