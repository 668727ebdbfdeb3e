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

from .errors import NodeError, show

#: The address, beside this machine's, that may be asked.
ADDRESS_VARIABLE = "DEPTHFLUX_COMFYUI_ADDRESS"
#: The API key that is sent to it.
KEY_VARIABLE = "DEPTHFLUX_COMFYUI_API_KEY"
#: Where `depthflux serve` listens unless it is told otherwise.
USUAL_ADDRESS = "http://127.0.0.1:8000"

#: Stricter than URLs are: no user, no query, no fragment, nothing that could be read two ways.
_FORM = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[0-9a-z._-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[0-9a-z._~%-]+)*)/*",
    re.IGNORECASE,
)
_USUAL_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """An address that may be asked.

    Attributes:
        text: as it was given, for messages.
        scheme: http or https.
        host: a name in small letters, or an IP address without brackets.
        port: its port.
        path: what it is reached under behind a proxy, without a last slash; usually empty.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_this_machine(self) -> bool:
        """Whether it says that it is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def may_reach(self, peer: str) -> bool:
        """Whether a connection may have led to an IP address."""
        return not self.is_this_machine or ipaddress.ip_address(peer).is_loopback

    def is_same_as(self, other: Address) -> bool:
        """Whether both say the same server, however it is spelled."""
        return self._parts() == other._parts()

    def _parts(self) -> tuple[str, str, int, str]:
        # What `depthflux serve` listens at has three spellings.
        is_usual_host = self.host in ("127.0.0.1", "localhost", "::1")
        host = "this machine" if is_usual_host else self.host
        return self.scheme, host, self.port, self.path


def configured_address() -> Address | None:
    """The address that the environment names; None where it names none.

    Raises:
        NodeError: what it names is no address.
    """
    text = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if not text:
        return None
    address = _parsed(text)
    if address is None:
        # Not repeated: whoever wrote it may have put a password into it.
        raise NodeError(
            f"the variable {ADDRESS_VARIABLE} of ComfyUI's process is no address; allowed: http:// "
            "or https://, a host in ASCII, a port and a path if there are any, and no user, query "
            "or fragment, such as https://gpu.example.org."
        )
    return address


def read_address(text: str) -> Address:
    """An address that may be asked.

    Raises:
        NodeError: it is none, or it is neither this machine nor the environment's; or the
            environment's is none.
    """
    configured, address = configured_address(), _parsed(text.strip())
    if address is None:
        raise _refused(text)
    is_configured = configured is not None and address.is_same_as(configured)
    if not is_configured and (address.path or not address.is_this_machine):
        raise _refused(text)
    return address


def key_for(address: Address) -> str:
    """The API key that an address gets; empty where it gets none.

    Raises:
        NodeError: the key cannot be one, or the environment's address is none.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and re.fullmatch(r"[!-~]+", key) is None:
        raise NodeError(
            f"{KEY_VARIABLE} is no API key; allowed: printable ASCII characters without spaces."
        )
    # Any other port of this machine may be somebody else's.
    meant = configured_address() or _parsed(USUAL_ADDRESS)
    return key if meant is not None and address.is_same_as(meant) else ""


def _parsed(text: str) -> Address | None:
    """An address's parts; None where it is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    scheme, name, bracketed = found["scheme"].lower(), found["name"], found["bracketed"]
    port = int(found["port"] or _USUAL_PORTS[scheme])
    try:
        host = str(ipaddress.IPv6Address(bracketed)) if bracketed else name.lower()
    except ValueError:
        return None
    return (
        Address(text.rstrip("/"), scheme, host, port, found["path"]) if 0 < port < 2**16 else None
    )


def _refused(text: str) -> NodeError:
    # Of what may hold a user, a password or a token only the beginning is repeated, or nothing.
    shown = "…@…" if "@" in text else re.sub(r"[?#].*", "…", text, flags=re.DOTALL)
    return NodeError(
        f"address={show(shown)} is not asked, since a graph can come from anybody; allowed: this "
        f"machine, such as {USUAL_ADDRESS}, and the address in the variable {ADDRESS_VARIABLE} of "
        "ComfyUI's process."
    )
