"""The CDN's files and the tickets to upload them.

Knows nothing of tasks; it neither reads nor judges what it keeps.
"""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass

CONTENT_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
}


@dataclass(frozen=True)
class StoredFile:
    """Bytes and how they are served."""

    data: bytes
    content_type: str


@dataclass(frozen=True)
class Ticket:
    """Leave to PUT one file."""

    put_path: str
    download_path: str
    size: int
    headers: Mapping[str, str]


class Storage:
    """Files by path, under one origin."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._lock = threading.Lock()
        self._files: dict[str, StoredFile] = {}
        self._tickets: dict[str, Ticket] = {}

    def keep(self, folder: str, data: bytes, extension: str) -> str:
        """Stores bytes under a name that cannot be guessed, and returns its path."""
        path = f"/{folder}/{secrets.token_hex(16)}.{extension}"
        self._store(path, data)
        return path

    def _store(self, path: str, data: bytes) -> None:
        kind = CONTENT_TYPES.get(path.rsplit(".", 1)[-1], "application/octet-stream")
        with self._lock:
            self._files[path] = StoredFile(data, kind)

    def read(self, path: str) -> StoredFile | None:
        """The file at a path, or None."""
        with self._lock:
            return self._files.get(path)

    def read_address(self, address: str) -> bytes | None:
        """The bytes at an address of this origin, or None; other origins are never asked."""
        if not address.startswith(f"{self.origin}/"):
            return None
        stored = self.read(address.removeprefix(self.origin))
        return None if stored is None else stored.data

    def open_ticket(self, extension: str, size: int, headers: Mapping[str, str]) -> Ticket:
        """Makes a ticket whose path is its own secret."""
        ticket = Ticket(
            put_path=f"/put/{secrets.token_urlsafe(24)}",
            download_path=f"/media/images/{secrets.token_hex(16)}.{extension}",
            size=size,
            headers=headers,
        )
        with self._lock:
            self._tickets[ticket.put_path] = ticket
        return ticket

    def fill(self, put_path: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Takes a PUT's bytes; headers' names in lower case.

        Returns:
            The HTTP status: 200; 403 without a ticket or the headers that it names; 400 where the
            size is not the one that the ticket was asked for.
        """
        with self._lock:
            ticket = self._tickets.get(put_path)
        if ticket is None:
            return 403
        if any(headers.get(name.lower()) != value for name, value in ticket.headers.items()):
            return 403
        if len(data) != ticket.size:
            return 400
        self._store(ticket.download_path, data)
        return 200
