"""Which addresses are this machine's own.

Asked of the kernel's table of routes. To bind an address would be simpler, but where
`net.ipv4.ip_nonlocal_bind` is set, as beside keepalived, every address can be bound; and the
address that an answer would come from is another one of this machine's where a network gives it
several. Knows nothing of names, or of which addresses are public.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

#: rtnetlink(7): asking for a route, the answer, its destination's attribute, and what a route to
#: this machine itself is called.
_GET_ROUTE, _NEW_ROUTE, _DESTINATION, _LOCAL = 26, 24, 1, 2
_REQUEST, _ERROR = 1, 2
#: netlink(7): length, kind, flags, number, sender. Then rtmsg: family, bits of the destination and
#: of the source, service, table, origin, scope, type, flags. Then attributes: length, kind, value.
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_TYPE_AT = _HEADER.size + 7
#: There is no way to an address, so it is not here.
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH)
#: The kernel answers at once; this is for one that does not.
_TIMEOUT_S = 1.0


def is_own(address: str) -> bool:
    """Whether an address is this machine's: what comes from itself passes no firewall.

    Where the kernel cannot be asked, whether it can be bound, which may hold for too many.

    Args:
        address: IPv4 or IPv6, without a zone.
    """
    try:
        return _is_routed_here(address)
    except OSError:
        return _can_be_bound(address)


def _is_routed_here(address: str) -> bool:
    """Ask the kernel where it would send what is for an address.

    Raises:
        OSError: it cannot be asked.
    """
    if sys.platform != "linux":
        raise OSError("only Linux is asked this way")
    family = _family_of(address)
    destination = socket.inet_pton(family, address)
    route = _ROUTE.pack(family, 8 * len(destination), 0, 0, 0, 0, 0, 0, 0)
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(destination), _DESTINATION) + destination
    size = _HEADER.size + len(route) + len(attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(_HEADER.pack(size, _GET_ROUTE, _REQUEST, 0, 0) + route + attribute)
        answer = kernel.recv(4096)
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _ERROR:
        (minus,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -minus in _NO_WAY:
            return False
        raise OSError(-minus, os.strerror(-minus))
    return bool(kind == _NEW_ROUTE and answer[_TYPE_AT] == _LOCAL)


def _can_be_bound(address: str) -> bool:
    try:
        with socket.socket(_family_of(address), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
