"""An http or https URL in parts, read strictly.

Two programs that read one URL differently are how private addresses are reached, so every spelling
that allows two readings is refused. Knows no network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from depthflux.images.container import PictureProblemError

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9._-]+))(?::([0-9]{1,5}))?")
#: Control characters, spaces and backslashes: dropped by some readers, separators to others. Halves
#: of surrogate pairs are no text at all.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a request goes.

    Attributes:
        scheme: "http" or "https".
        host: name or address, IPv6 without brackets, as written but in lower case.
        port: 1 to 65535.
        path: path and query, beginning with "/", for the request only, never for a message.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header wants them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: str) -> str:
        """The same URL with an address in place of the host."""
        literal = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{literal}:{self.port}{self.path}"


def parse_url(url: str) -> Target:
    """The parts of a URL.

    Raises:
        PictureProblemError: it is no plain http or https URL.
    """
    if _AMBIGUOUS.search(url):
        raise PictureProblemError(
            "the URL contains a space, a backslash or a control character",
            "write such characters percent-encoded",
        )
    found = _URL.fullmatch(url)
    if found is None:
        raise PictureProblemError("only http and https URLs are fetched", "check the scheme")
    scheme, authority, path, query = found.groups()
    if "@" in authority:
        raise PictureProblemError(
            "the URL carries a user name or password", "use a URL that needs none"
        )
    parts = _AUTHORITY.fullmatch(authority)
    port = int(parts.group(3) or _DEFAULT_PORTS[scheme.lower()]) if parts else 0
    if parts is None or not 1 <= port <= 65535:
        raise PictureProblemError(
            "the URL's host or port is no plain one",
            "write host names in ASCII (xn--…) and ports from 1 to 65535",
        )
    host = (parts.group(1) or parts.group(2)).lower()
    return Target(scheme=scheme.lower(), host=host, port=port, path=(path or "/") + (query or ""))


def shown_url(url: str) -> str:
    """A URL as records and errors name it: without user name, password, query and fragment."""
    found = _URL.fullmatch(url.strip())
    if found is None:
        return "a URL"
    scheme, authority, path, _ = found.groups()
    plain = authority.rpartition("@")[2]
    # A host that cannot be read may be half a password, so it stays unsaid.
    return f"{scheme}://{plain if _AUTHORITY.fullmatch(plain) else '…'}{path}"
