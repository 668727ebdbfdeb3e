"""What a stub saw: every request, at either listener, in the order of arrival.

Knows nothing of what was answered.
"""

import json
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SeenRequest:
    """One request as it came over the wire."""

    listener: str
    """"api" or "cdn"."""
    method: str
    path: str
    """The request's target: path, and query if any."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    at_s: float
    """``time.monotonic()`` when it had been read whole."""

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class RequestLog:
    """A list that many threads append to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[SeenRequest] = []

    def add(self, request: SeenRequest) -> None:
        """Appends one request."""
        with self._lock:
            self._requests.append(request)

    def snapshot(self) -> list[SeenRequest]:
        """A copy of the list as it is now."""
        with self._lock:
            return list(self._requests)
