"""Which addresses are this machine's own, asked of its real ones."""

from __future__ import annotations

import socket

import pytest

from depthflux.images import own_addresses
from depthflux.images.own_addresses import is_own

#: The second would be answered from the first, as any further address of a network.
OWN = ["127.0.0.1", "127.0.0.2"]
OTHERS = ["8.8.8.8", "2606:4700:4700::1111"]


def own_of_its_networks() -> list[str]:
    """What this machine sends from to the internet, where it has a way there at all."""
    found = []
    for family, far in ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2606:4700:4700::1111")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect((far, 9))  # sends nothing
                found.append(str(asking.getsockname()[0]))
        except OSError:
            continue
    return found


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trying:
            trying.bind(("::1", 0))
    except OSError:
        return False
    return True


def own() -> list[str]:
    return [*OWN, *(["::1"] if has_ipv6() else []), *own_of_its_networks()]


def bind_anything(_socket: socket.socket, _address: object) -> None:
    """What the kernel does where ip_nonlocal_bind is set."""


def cannot_ask(_address: str) -> bool:
    raise OSError("Address family not supported by protocol")


def test_the_addresses_of_this_machine_are_its_own_and_others_are_not() -> None:
    assert [address for address in own() if not is_own(address)] == []
    assert [address for address in OTHERS if is_own(address)] == []


def test_where_every_address_can_be_bound_others_are_not_its_own_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = own()
    monkeypatch.setattr(socket.socket, "bind", bind_anything, raising=False)

    assert [address for address in addresses if not is_own(address)] == []
    assert [address for address in OTHERS if is_own(address)] == []


def test_where_the_kernel_cannot_be_asked_what_can_be_bound_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_addresses, "_is_routed_here", cannot_ask)

    assert [address for address in own() if not is_own(address)] == []
    assert [address for address in OTHERS if is_own(address)] == []
