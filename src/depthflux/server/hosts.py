"""What a Host header, an Origin header and public_url name, read in one way for all of them.

Two texts that lead a browser to the same place are equal here: the case, a name's last dot, an
address's spelling and the scheme's own port make no difference. Knows nothing of who may ask.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_LABEL = "[A-Za-z0-9_-]{1,63}"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*\.?"
_HOST = re.compile(
    rf"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{{2,45}})\]|(?P<name>{_NAME}))(?::(?P<port>[0-9]{{1,5}}))?",
    re.ASCII,
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/]+)", re.ASCII | re.IGNORECASE)
_OWN_PORTS = {"http": 80, "https": 443}
#: Longest name that DNS has.
_MOST_CHARACTERS = 253
_MOST_PORT = 65535


@dataclass(frozen=True)
class Host:
    """A host and perhaps a port.

    Attributes:
        name: a name in small letters without its last dot, or an address as it is written shortest.
        port: the port; None where none is named.
        is_address: whether it is an IP address, for which no name is resolved.
    """

    name: str
    port: int | None
    is_address: bool


@dataclass(frozen=True)
class Origin:
    """What a browser tells pages apart by: scheme, host and port, the scheme's own filled in."""

    scheme: str
    name: str
    port: int


def read_host(text: str) -> Host | None:
    """A host as a Host header has it, such as `gpu.example.org:8000` or `[::1]`.

    Returns:
        None where it is no host: an address could not be built with it either.
    """
    found = _HOST.fullmatch(text)
    if found is None or len(found["name"] or "") > _MOST_CHARACTERS:
        return None
    port = None if found["port"] is None else int(found["port"])
    if port is not None and port > _MOST_PORT:
        return None
    if found["ipv6"] is not None:
        address = _address(found["ipv6"], ipaddress.IPv6Address)
        return None if address is None else Host(address, port, is_address=True)
    name = found["name"].lower().removesuffix(".")
    # Four numbers and nothing shorter: what else looks like one, such as 127.1, stays a name.
    is_address = _address(name, ipaddress.IPv4Address) is not None
    return Host(name, port, is_address=is_address)


def read_origin(text: str) -> Origin | None:
    """An origin such as `https://pictures.example.org`; None where it is none, such as `null`."""
    found = _ORIGIN.fullmatch(text)
    host = read_host(found["host"]) if found is not None else None
    return None if found is None or host is None else origin_at(found["scheme"], host)


def origin_at(scheme: str, host: Host) -> Origin:
    """The origin of pages that a host serves under a scheme."""
    scheme = scheme.lower()
    port = _OWN_PORTS[scheme] if host.port is None else host.port
    return Origin(scheme, host.name, port)


def _address(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> str | None:
    try:
        return str(kind(text))
    except ValueError:
        return None
