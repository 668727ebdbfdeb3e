"""The CDN: gives files to whoever has their address, and takes those that a ticket allows.

Knows nothing of keys: whatever ``Authorization`` a request carries is recorded, not read.
"""

import itertools
from urllib.parse import urlsplit

from .behaviour import Behaviour
from .listening import Answer
from .seen import SeenRequest
from .storage import Storage


class Cdn:
    """Answers of the second listener."""

    def __init__(self, behaviour: Behaviour, storage: Storage) -> None:
        self._behaviour = behaviour
        self._storage = storage
        self._downloads = itertools.count()

    def answer(self, request: SeenRequest) -> Answer:
        """The answer to one request."""
        path = urlsplit(request.path).path
        if request.method == "PUT":
            return Answer(self._storage.fill(path, request.body, request.headers))
        stored = self._storage.read(path)
        if request.method not in ("GET", "HEAD") or stored is None:
            return Answer(404, b"not found", "text/plain")
        if request.method == "GET" and path.startswith("/media/outputs/"):
            status = self._behaviour.output_errors.get(next(self._downloads))
            if status is not None:
                return Answer(status, b"try again", "text/plain")
        return Answer(200, stored.data, stored.content_type)
