"""Which network addresses a URL of a stranger may lead to.

Judges addresses, not names: a name says nothing, since whoever owns it can let it point anywhere
and change that between two questions. So a name is resolved once, every address it has must be
public and another machine's, and only these addresses are connected to. Knows nothing of HTTP.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Sequence
from typing import Protocol

from depthflux.images.container import PictureProblemError
from depthflux.images.own_addresses import is_own

_IPv4 = ipaddress.IPv4Address
_IPv6 = ipaddress.IPv6Address

#: The only IPv6 addresses that the internet routes (RFC 4291, section 2.4).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: An IPv4 address in IPv6 clothes, behind a NAT64 gateway (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Not public, though Python's `is_global` (or that of its older versions) says so.
_RESERVED_IPV4 = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's WireServer, seen by its machines only
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF assignments; Oracle's metadata is 192.0.0.192
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, RFC 7526
)
_RESERVED_IPV6 = (
    ipaddress.IPv6Network("2001::/23"),  # IETF assignments, Teredo among them
    ipaddress.IPv6Network("3fff::/20"),  # documentation, RFC 9637
)

#: Addresses of a name that are tried: no name of a picture needs more, and a stranger's name with
#: thousands of them must not make this machine knock at each.
MOST_TRIED = 8

#: Hosts that end in a number are addresses in one of inet_aton's spellings (WHATWG URL, 3.5).
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")


class Resolver(Protocol):
    """Gives all addresses of a host name, as texts; raises OSError where there are none."""

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of `host` for a TCP connection to `port`."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses that this machine's own resolver gives, IPv4 and IPv6, in its order."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def is_public(address: str) -> bool:
    """Whether an address is one that anybody on the internet could reach.

    IPv4 addresses inside IPv6 ones (mapped, 6to4, NAT64) are taken out and judged too.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # Such as "fe80::1%eth0": a zone only makes sense on this machine's links.
        return False
    if isinstance(parsed, _IPv6):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = _IPv4(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public_ipv4(inner)
        reserved = any(parsed in network for network in _RESERVED_IPV6)
        return parsed.is_global and parsed in _GLOBAL_UNICAST and not reserved
    return _is_public_ipv4(parsed)


def _is_public_ipv4(address: _IPv4) -> bool:
    reserved = address.is_multicast or address.is_reserved or address.is_unspecified
    known = any(address in network for network in _RESERVED_IPV4)
    return address.is_global and not reserved and not known


def may_be_reached(address: str) -> bool:
    """Whether a stranger's URL may lead to an address: a public one, of another machine."""
    return is_public(address) and not is_own(address)


def approved_addresses(
    host: str, port: int, *, resolver: Resolver, allow_private: bool, timeout_s: float
) -> list[str]:
    """The addresses of a host that may be connected to: the first ones, if all of them may be.

    Args:
        host: a name, an IPv4 address, or an IPv6 address without brackets.
        port: of the later connection.
        resolver: asked once, for names only.
        allow_private: accept addresses too that are not public, or are this machine's.
        timeout_s: longest wait for the resolver, in seconds.

    Raises:
        PictureProblemError: it does not resolve, or one of its addresses may not be reached.
    """
    literal = _literal(host)
    addresses = [literal] if literal else _resolve_within(resolver, host, port, timeout_s)
    if not addresses:
        raise PictureProblemError(f"the host {host} has no address", "check the URL")
    if allow_private or all(may_be_reached(address) for address in addresses):
        return addresses[:MOST_TRIED]
    # Which address it is stays unsaid: a server's callers could map its network that way.
    raise PictureProblemError(
        f"the host {host} leads to a private, loopback or otherwise not public address",
        "use a public URL, send the picture itself, or set allow_private_addresses where you trust "
        "every caller",
    )


def _literal(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if ":" not in host and not _ENDS_IN_NUMBER.search(host):
            return None
    raise PictureProblemError(
        f"the host {host} is an unusual spelling of an address",
        "write it as four decimal numbers, such as 93.184.216.34",
    )


def _resolve_within(resolver: Resolver, host: str, port: int, timeout_s: float) -> list[str]:
    """Ask the resolver in a thread of its own, since getaddrinfo takes no time limit."""
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="depthflux-resolve").start()
    try:
        answer = answers.get(timeout=max(timeout_s, 0.001))
    except queue.Empty:
        answer = TimeoutError()
    if isinstance(answer, Exception):
        raise PictureProblemError(
            f"the host {host} cannot be resolved", "check the URL and the network"
        ) from answer
    return list(answer)
