"""What a Host or Origin header names: equal where a browser would go to the same place."""

from __future__ import annotations

import pytest

from depthflux.server.hosts import Host, Origin, origin_at, read_host, read_origin


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", Host("localhost", None, is_address=False)),
        ("LocalHost:8000", Host("localhost", 8000, is_address=False)),
        ("localhost.", Host("localhost", None, is_address=False)),
        ("gpu_1.example.org:0", Host("gpu_1.example.org", 0, is_address=False)),
        ("xn--bcher-kva.example", Host("xn--bcher-kva.example", None, is_address=False)),
        ("127.0.0.1:65535", Host("127.0.0.1", 65535, is_address=True)),
        ("127.0.0.1.", Host("127.0.0.1", None, is_address=True)),
        ("[::1]:8000", Host("::1", 8000, is_address=True)),
        ("[0:0:0:0:0:0:0:1]", Host("::1", None, is_address=True)),
        ("[FE80::A]", Host("fe80::a", None, is_address=True)),
        ("[::ffff:127.0.0.1]", Host("::ffff:7f00:1", None, is_address=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_host_is_read_in_the_one_form_that_it_is_compared_in(text: str, host: Host) -> None:
    found = read_host(text)

    assert found is not None
    # Python's versions differ in how they write an IPv4 address in IPv6's clothes.
    name = "::ffff:7f00:1" if found.name == "::ffff:127.0.0.1" else found.name
    assert (name, found.port, found.is_address) == (host.name, host.port, host.is_address)


@pytest.mark.parametrize("text", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "1.2.3.4.5"])
def test_what_only_looks_like_an_address_is_a_name(text: str) -> None:
    found = read_host(text)

    assert found is not None
    assert not found.is_address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        ".localhost",
        "localhost..",
        "a..b",
        "a b",
        "a/b",
        "a\\b",
        "a@b",
        "a#b",
        "a?b",
        "a%2eb",
        "a,b",
        "a:b",
        "a:",
        ":8000",
        "a:1:2",
        "a:99999",
        "a:123456",
        "a:-1",
        "::1",
        "[::1",
        "[::1]x",
        "[127.0.0.1]",
        "[:::]",
        "[fe80::1%25eth0]",
        "localhost\n",
        "l\u043ecalhost",  # its second letter is Cyrillic
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "a" * 100_000,
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_what_no_address_can_be_built_with_is_no_host(text: str) -> None:
    assert read_host(text) is None
    assert read_origin(f"http://{text}") is None


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost", Origin("http", "localhost", 80)),
        ("http://localhost:80", Origin("http", "localhost", 80)),
        ("https://Pictures.Example.org", Origin("https", "pictures.example.org", 443)),
        ("HTTPS://a.example:8443", Origin("https", "a.example", 8443)),
        ("http://[::1]:8000", Origin("http", "::1", 8000)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_origin_has_its_scheme_s_own_port_where_it_names_none(text: str, origin: Origin) -> None:
    assert read_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "localhost",
        "//localhost",
        "http://",
        "http://localhost/",
        "http://localhost/path",
        "http://a@localhost",
        "http://localhost http://localhost",
        "http://localhost, http://localhost",
        "file://localhost",
        "ftp://localhost",
        "chrome-extension://abcdefghijklmnop",
        " http://localhost",
        "http://localhost\n",
    ],
    ids=ascii,
)
def test_what_is_no_origin_of_a_web_page_is_none(text: str) -> None:
    assert read_origin(text) is None


def test_scheme_and_port_tell_origins_apart() -> None:
    host = read_host("localhost:8000")
    assert host is not None

    origins = {
        origin_at("http", host),
        read_origin("https://localhost:8000"),
        read_origin("http://localhost:8001"),
        read_origin("http://localhost"),
        read_origin("http://127.0.0.1:8000"),
    }

    assert len(origins) == 5
    assert origin_at("http", host) == read_origin("http://localhost.:8000")
