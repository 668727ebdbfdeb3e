"""Attack 4, second part: names that change their answers, redirects inside, answers without an end.

Here the fetch itself is attacked, and the sending of webhooks, with a name server and web servers
that the attacker holds: no name of theirs leads to an address that was not judged.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from inner_network import Handle, Inside, picture, redirect
from name_server import NameServer, Record

from depthflux.errors import ImageFetchError
from depthflux.images import ReadLimits
from depthflux.images.fetch import fetch
from depthflux.server.webhooks import DeliveryError, Post
from stand_in.running import PICTURE


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer() as listening:
        yield listening


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 plays the internet, and whatever else this machine has the inner network."""
    monkeypatch.setattr(
        "depthflux.images.addresses.may_be_reached", lambda address: address == "127.0.0.1"
    )


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/", "//127.0.0.2:{port}/", "http://[::1]:{port}/",
     "http://[::ffff:127.0.0.2]:{port}/", "http://169.254.169.254/latest/", "http://2130706434:{port}/"],
)  # fmt: skip
def test_where_a_redirect_leads_is_judged_like_the_first_address(
    internet: None, location: str
) -> None:
    with Inside(address="127.0.0.2") as inner:
        with (
            Inside(redirect(location.format(port=inner.port))) as outer,
            pytest.raises(ImageFetchError, match=r"not public address|unusual spelling"),
        ):
            fetch(f"{outer.url}/", limits=ReadLimits())

        assert len(outer.paths) == 1
        assert inner.connections == 0


# Names that change their answers ------------------------------------------------------------------


@contextlib.contextmanager
def outer_and_inner(handle: Handle = picture) -> Iterator[tuple[Inside, Inside]]:
    """A web server at 127.0.0.1, and the one that is wanted, at the same port of 127.0.0.2."""
    with Inside(handle) as outer, Inside(address="127.0.0.2", port=outer.port) as inner:
        yield outer, inner


def test_a_name_is_asked_once_and_only_what_it_said_then_is_connected_to(
    internet: None, names: NameServer
) -> None:
    names.tell("rebind.example", "A", "127.0.0.1", "127.0.0.2")

    with outer_and_inner() as (outer, inner):
        data = fetch(
            f"http://rebind.example:{outer.port}/", limits=ReadLimits(), resolver=names.resolve
        )

    assert data == base64.b64decode(PICTURE)
    assert names.asked == [("rebind.example", "A"), ("rebind.example", "AAAA")]
    assert (outer.connections, inner.connections) == (1, 0)


def test_a_name_that_redirects_to_itself_is_judged_anew(internet: None, names: NameServer) -> None:
    names.tell("rebind.example", "A", "127.0.0.1", "127.0.0.2")

    with (
        outer_and_inner(redirect("/again")) as (outer, inner),
        pytest.raises(ImageFetchError, match="not public address"),
    ):
        fetch(f"http://rebind.example:{outer.port}/", limits=ReadLimits(), resolver=names.resolve)

    assert names.asked.count(("rebind.example", "A")) == 2
    assert (outer.connections, inner.connections) == (1, 0)


def test_a_webhook_s_name_is_judged_anew_for_each_attempt(
    internet: None, names: NameServer
) -> None:
    names.tell("rebind.example", "A", "127.0.0.1", "127.0.0.2")
    post = Post(limits=ReadLimits(), resolver=names.resolve)

    with outer_and_inner() as (outer, inner):
        url = f"http://rebind.example:{outer.port}/"
        post.send(url, b"{}", {})
        with pytest.raises(DeliveryError, match="not public address"):
            post.send(url, b"{}", {})

    assert names.asked.count(("rebind.example", "A")) == 2
    assert (outer.connections, inner.connections) == (1, 0)


#: What a name is, by the kind that is asked for; one address of it is not to be reached.
MIXED: dict[str, dict[str, list[Record]]] = {
    "first public": {"A": [Record("A", "127.0.0.1"), Record("A", "127.0.0.2")]},
    "first inner": {"A": [Record("A", "127.0.0.2"), Record("A", "127.0.0.1")]},
    "inner IPv6": {"A": [Record("A", "127.0.0.1")], "AAAA": [Record("AAAA", "::1")]},
    "mapped IPv6": {"A": [Record("A", "127.0.0.1")], "AAAA": [Record("AAAA", "::ffff:127.0.0.2")]},
    "NAT64": {"A": [Record("A", "127.0.0.1")], "AAAA": [Record("AAAA", "64:ff9b::7f00:2")]},
    "CNAME": {
        "A": [
            Record("CNAME", "far.example"),
            Record("CNAME", "intranet.local", name="far.example"),
            Record("A", "127.0.0.2", name="intranet.local"),
        ]
    },
    "zero": {"A": [Record("A", "0.0.0.0")]},  # noqa: S104
}


@pytest.mark.parametrize("answers", MIXED.values(), ids=MIXED)
def test_one_inner_address_among_a_name_s_is_enough_to_refuse_it(
    internet: None, names: NameServer, answers: dict[str, list[Record]]
) -> None:
    for kind, records in answers.items():
        names.tell("mixed.example", kind, records)

    with outer_and_inner() as (outer, inner):
        url = f"http://mixed.example:{outer.port}/"
        with pytest.raises(ImageFetchError, match="not public address") as caught:
            fetch(url, limits=ReadLimits(), resolver=names.resolve)
        with pytest.raises(DeliveryError, match="not public address"):
            Post(limits=ReadLimits(), resolver=names.resolve).send(url, b"{}", {})

    assert (outer.connections, inner.connections) == (0, 0)
    assert "127.0.0" not in str(caught.value)


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::1", "fd00::1"])
def test_a_name_with_an_inner_ipv6_address_leads_nowhere(names: NameServer, address: str) -> None:
    names.tell("six.example", "AAAA", address)

    with Inside() as inner, pytest.raises(ImageFetchError, match="not public address"):
        fetch(f"http://six.example:{inner.port}/", limits=ReadLimits(), resolver=names.resolve)

    assert inner.connections == 0


def test_a_name_server_that_thinks_for_long_is_not_waited_for(names: NameServer) -> None:
    names.tell("slow.example", "A", "127.0.0.1")
    names.delay_s = 30
    limits = ReadLimits(allow_private_addresses=True, connect_timeout_s=0.2)
    started = time.monotonic()

    with pytest.raises(ImageFetchError, match="cannot be resolved"):
        fetch("http://slow.example/", limits=limits, resolver=names.resolve)
    with pytest.raises(DeliveryError, match="cannot be resolved"):
        Post(limits=limits, resolver=names.resolve).send("http://slow.example/", b"{}", {})

    assert time.monotonic() - started < 8


def test_of_very_many_addresses_of_a_name_few_are_knocked_at(names: NameServer) -> None:
    nobody = [Record("A", f"127.1.{n // 200}.{n % 200}") for n in range(1, 1001)]
    limits = ReadLimits(allow_private_addresses=True)

    with Inside() as behind:
        names.tell("many.example", "A", [*nobody, Record("A", "127.0.0.1")])
        with pytest.raises(ImageFetchError, match="cannot be reached"):
            fetch(f"http://many.example:{behind.port}/", limits=limits, resolver=names.resolve)

    assert behind.connections == 0


def test_a_webhook_s_receiver_cannot_send_it_elsewhere() -> None:
    limits = ReadLimits(allow_private_addresses=True)

    with (
        Inside() as wanted,
        Inside(redirect(wanted.url)) as receiver,
        pytest.raises(DeliveryError, match="302"),
    ):
        Post(limits=limits).send(f"{receiver.url}/", b"{}", {})

    assert len(receiver.paths) == 1
    assert wanted.connections == 0


# TLS ----------------------------------------------------------------------------------------------


def test_https_is_not_spoken_with_whoever_has_another_name_s_certificate(
    internet: None, names: NameServer, certificate: str
) -> None:
    names.tell("bank.example", "A", "127.0.0.1")
    names.tell("pictures.example", "A", "127.0.0.1")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)

    def get(host: str) -> bytes:
        url = f"https://{host}:{impostor.port}/"
        return fetch(url, limits=ReadLimits(), resolver=names.resolve, tls=trusting)

    with Inside(tls=serving) as impostor:
        with pytest.raises(ImageFetchError, match="certificate is not valid"):
            get("bank.example")
        assert impostor.paths == []

        assert get("pictures.example") == base64.b64decode(PICTURE)


@pytest.fixture
def certificate(request: pytest.FixtureRequest) -> str:
    """A certificate for pictures.example, with its key."""
    return str(request.config.rootpath / "tests" / "unit" / "images" / "pictures.example.pem")


# Answers without an end ---------------------------------------------------------------------------


def endless(start: bytes, piece: bytes) -> Handle:
    """An answer that goes on until nobody reads it."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(start)
        while True:
            request.wfile.write(piece)

    return handle


def test_an_endless_body_is_read_up_to_the_limit() -> None:
    limits = ReadLimits(allow_private_addresses=True, max_bytes=2**20, total_timeout_s=5)

    with (
        Inside(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)) as flood,
        pytest.raises(ImageFetchError, match="more than 1 MiB"),
    ):
        fetch(f"{flood.url}/room.png", limits=limits)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 500 + b"\r\nx\r\n",
        ),
    ],
    ids=["headers", "a header", "continue", "chunks"],
)  # fmt: skip
def test_an_answer_that_never_comes_to_its_end_is_left(start: bytes, piece: bytes) -> None:
    limits = ReadLimits(
        allow_private_addresses=True, total_timeout_s=0.5, read_timeout_s=0.5, max_bytes=2**20
    )
    started = time.monotonic()

    with Inside(endless(start, piece)) as flood:
        with pytest.raises(ImageFetchError):
            fetch(f"{flood.url}/", limits=limits)
        with contextlib.suppress(DeliveryError):
            # Of chunks it needs none: the receiver has said 200.
            Post(limits=limits).send(f"{flood.url}/", b"{}", {})

    assert time.monotonic() - started < 5
