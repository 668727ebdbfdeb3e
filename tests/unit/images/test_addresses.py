"""Which addresses are public, and what a name has to resolve to."""

from __future__ import annotations

import time

import pytest

from depthflux.images.addresses import approved_addresses, is_public
from depthflux.images.container import PictureProblemError

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808",
          "::ffff:8.8.8.8", "2002:808:808::1"]  # fmt: skip
NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0",  # noqa: S104
    "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192",
    "198.18.0.1", "192.0.2.1", "224.0.0.1", "224.0.1.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255", "168.63.129.16",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "2001:db8::1", "2001::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_are_not(address):
    assert not is_public(address)


class Names:
    """A resolver that answers from a table, and counts how often it is asked."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if host not in self.answers:
            raise OSError("no such name")
        return self.answers[host]


def approve(host: str, names: Names, allow_private: bool = False) -> list[str]:
    return approved_addresses(host, 80, resolver=names, allow_private=allow_private, timeout_s=5)


def test_a_name_is_asked_once_and_all_its_addresses_are_given():
    names = Names(good=["8.8.8.8", "2606:4700:4700::1111"])

    assert approve("good", names) == ["8.8.8.8", "2606:4700:4700::1111"]
    assert names.asked == 1


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    names = Names(mixed=["8.8.8.8", "10.0.0.1"])

    with pytest.raises(PictureProblemError, match="not public address") as caught:
        approve("mixed", names)

    assert "10.0.0.1" not in str(caught.value)
    assert approve("mixed", names, allow_private=True) == ["8.8.8.8", "10.0.0.1"]


def test_a_public_address_of_this_machine_is_refused_as_a_private_one_is(monkeypatch):
    # What comes from the machine itself passes no firewall. Here its address plays a public one.
    monkeypatch.setattr("depthflux.images.addresses.is_public", lambda address: True)
    names = Names(itself=["127.0.0.1"])

    with pytest.raises(PictureProblemError, match="not public address"):
        approve("itself", names)

    assert approve("itself", names, allow_private=True) == ["127.0.0.1"]


def test_of_a_name_with_very_many_addresses_only_the_first_are_given():
    many = [f"8.8.{n // 256}.{n % 256}" for n in range(2000)]

    assert approve("many", Names(many=many)) == many[:8]
    with pytest.raises(PictureProblemError, match="not public address"):
        approve("many", Names(many=[*many, "10.0.0.1"]))


def test_an_address_is_judged_without_asking():
    names = Names()

    assert approve("8.8.8.8", names) == ["8.8.8.8"]
    assert approve("2606:4700:4700::1111", names) == ["2606:4700:4700::1111"]
    with pytest.raises(PictureProblemError, match="not public"):
        approve("::1", names)
    assert names.asked == 0


@pytest.mark.parametrize(
    "host",
    ["2130706433", "134744072", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1.",
     "8.8.8.08", "1.2.3.4.5", "example.0x"],
)  # fmt: skip
def test_other_spellings_of_addresses_are_refused_even_where_private_ones_are_allowed(host):
    with pytest.raises(PictureProblemError, match="unusual spelling"):
        approve(host, Names(), allow_private=True)


def test_a_name_that_does_not_resolve_is_said_to():
    for host, names in (("absent", Names()), ("empty", Names(empty=[]))):
        with pytest.raises(PictureProblemError, match=f"the host {host} (cannot|has no)"):
            approve(host, names)


def test_a_resolver_that_hangs_is_left_behind():
    begin = time.monotonic()

    with pytest.raises(PictureProblemError, match="cannot be resolved"):
        approved_addresses(
            "slow", 80, resolver=lambda host, port: time.sleep(2) or [], allow_private=True,
            timeout_s=0.05,
        )  # fmt: skip

    assert time.monotonic() - begin < 1
