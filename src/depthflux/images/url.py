"""An http or https URL in parts, read strictly.

Two programs that read one URL differently are how private addresses are reached, so every spelling
that allows two readings is refused. Knows no network.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urljoin

from depthflux.images.container import PictureProblemError

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9._-]+))(?::([0-9]{1,5}))?")
#: Control characters, spaces and backslashes: dropped by some readers, separators to others. Halves
#: of surrogate pairs are no text at all.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Ports that are another protocol's. Most of these take each line for a command, so that a request
#: of ours could be one; shells, NFS and X11 do not, but nobody's pictures are there.
_PORTS_OF = {
    "FTP": (20, 21, 989, 990),
    "SSH": (22,),
    "telnet": (23,),
    "mail: SMTP, POP, IMAP, Sieve": (25, 109, 110, 143, 465, 587, 993, 995, 4190),
    "news": (119, 563),
    "remote shells: exec, login, shell": (512, 513, 514),
    "printers: LPD": (515,),
    "syslog": (601,),
    "NFS": (2049,),
    "X11": (6000,),
    "IRC": (6665, 6666, 6667, 6668, 6669, 6697),
    # Browsers block those above, too (Fetch, 2.9 "port blocking"), but not these.
    "Redis": (6379,),
    "printers: PJL": (9100,),
    "memcached": (11211,),
}
_OTHERS_PORTS = frozenset(port for ports in _PORTS_OF.values() for port in ports)


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
    if port in _OTHERS_PORTS:
        raise PictureProblemError(
            f"port {port} is another protocol's", "use a port that a web server listens on"
        )
    if parts.group(1) and not _is_ipv6(parts.group(1)):
        raise PictureProblemError("the URL's host is no IPv6 address", "write no other in brackets")
    host = (parts.group(1) or parts.group(2)).lower()
    return Target(scheme=scheme.lower(), host=host, port=port, path=(path or "/") + (query or ""))


def redirected_url(url: str, location: str) -> str:
    """Where a redirect leads: its location, which may be relative to the URL that was asked.

    Raises:
        PictureProblemError: it is no URL, or one that can be read in two ways.
    """
    # Before joining, which would drop some of these characters.
    if _AMBIGUOUS.search(location):
        raise PictureProblemError(
            "the server redirects to a URL with a space, a backslash or a control character"
        )
    try:
        return urljoin(url, location)
    except ValueError:
        raise PictureProblemError("the server redirects to no URL") from None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def shown_url(url: str) -> str:
    """A URL as records and errors name it: without user name, password, query and fragment."""
    found = _URL.fullmatch(url.strip())
    if found is None:
        return "a URL"
    scheme, authority, path, _ = found.groups()
    plain = authority.rpartition("@")[2]
    # A host that cannot be read may be half a password, so it stays unsaid.
    return f"{scheme}://{plain if _AUTHORITY.fullmatch(plain) else '…'}{path}"
