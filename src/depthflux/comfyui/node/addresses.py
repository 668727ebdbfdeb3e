"""Which addresses may be asked, and which of them gets the API key.

Graphs are handed from stranger to stranger, and an address in one must not be a way to send a
picture, a prompt or a key anywhere: only this machine is asked, and the one address that whoever
started ComfyUI has named in its environment. A key is never a widget, since widgets are saved in
graphs and in pictures. Knows nothing of what is asked.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import NodeError, show

#: The address, beside this machine's, that may be asked.
ADDRESS_VARIABLE = "DEPTHFLUX_COMFYUI_ADDRESS"
#: The API key that is sent to it.
KEY_VARIABLE = "DEPTHFLUX_COMFYUI_API_KEY"
#: Where `depthflux serve` listens unless it is told otherwise.
USUAL_ADDRESS = "http://127.0.0.1:8000"


class Address(NamedTuple):
    """An address that may be asked.

    Attributes:
        text: as it was given, for messages.
        scheme: http or https.
        host: a name, or an IP address without brackets.
        port: its port.
        path: what it is reached under behind a proxy, without a last slash; usually empty.
        is_configured: whether it is the environment's; else it must be this machine.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str
    is_configured: bool

    def may_reach(self, peer: str) -> bool:
        """Whether a connection may have led to an IP address."""
        return self.is_configured or ipaddress.ip_address(peer).is_loopback


def configured_address() -> str:
    """The address that the environment names, without a last slash; empty where it names none."""
    return os.environ.get(ADDRESS_VARIABLE, "").strip().rstrip("/")


def read_address(text: str) -> Address:
    """An address that may be asked.

    Raises:
        NodeError: it is none, or it is neither this machine nor the environment's.
    """
    text = text.strip().rstrip("/")
    configured = configured_address()
    is_configured = bool(configured) and text == configured
    try:
        parts = urlsplit(text)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        raise _refused(text) from None
    bare = "@" not in parts.netloc and not parts.query and not parts.fragment
    plain = re.fullmatch(r"[!-~]+", text) is not None and "\\" not in text
    if not (parts.hostname and port and bare and plain):
        raise _refused(text)
    if not is_configured and (parts.path or not _is_this_machine(parts.hostname)):
        raise _refused(text)
    return Address(text, parts.scheme, parts.hostname, port, parts.path, is_configured)


def key_for(address: Address) -> str:
    """The API key that an address gets; empty where it gets none.

    Raises:
        NodeError: the key cannot be one.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and re.fullmatch(r"[!-~]+", key) is None:
        raise NodeError(
            f"{KEY_VARIABLE} is no API key; allowed: printable ASCII characters without spaces."
        )
    # Whoever names a server means the key for it, and for no other port of this machine.
    return key if address.is_configured or not configured_address() else ""


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(text: str) -> NodeError:
    # Neither user nor password is repeated.
    shown = re.sub(r"//[^/?#\s]*@", "//…@", text[:200]).partition("?")[0]
    return NodeError(
        f"address={show(shown)} is not asked, since a graph can come from anybody; allowed: this "
        f"machine, such as {USUAL_ADDRESS}, and the address in the variable {ADDRESS_VARIABLE} of "
        "ComfyUI's process."
    )
