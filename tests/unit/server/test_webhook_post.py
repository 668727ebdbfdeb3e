"""One webhook to one URL: signed as hosted, in time, never into private networks."""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from receiver_fixtures import Receiver, answer, drip, silence

from depthflux.errors import InvalidParameterError
from depthflux.images import ReadLimits
from depthflux.server.webhooks import DeliveryError, Post, check_webhook_url, signed_headers

#: A self-signed certificate for pictures.example, with its key.
CERTIFICATE = Path(__file__).parents[1] / "images" / "pictures.example.pem"
OPEN = ReadLimits(allow_private_addresses=True)
CLOSED = ReadLimits()
Start = Callable[..., Receiver]


class Names:
    """A resolver with the same addresses for every name, which remembers what it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.addresses


# Signing ----------------------------------------------------------------------------------------


def is_genuine(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As the hosted endpoint tells receivers to verify: strip the prefix, do not decode."""
    version, _, signature = headers["webhook-signature"].partition(",")
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}"
    expected = hmac.new(secret[len("whsec_") :].encode(), content.encode(), hashlib.sha256)
    return version == "v3" and hmac.compare_digest(signature, expected.hexdigest())


def test_a_signature_is_the_one_that_another_program_computes() -> None:
    """printf %s ID.TIME.BODY | openssl dgst -sha256 -hmac KEY."""
    headers = signed_headers(
        "0123456789abcdef0123456789abcdef",
        1_700_000_000,
        b'{"id":"a"}',
        "whsec_00112233445566778899aabbccddeeff",
    )

    assert headers == {
        "webhook-id": "0123456789abcdef0123456789abcdef",
        "webhook-timestamp": "1700000000",
        "webhook-signature": (
            "v3,771eb6706beb6fc575caf256c1ec1a51299da47ec4e163901c834599ac3b4f2a"
        ),
    }


def test_a_receiver_knows_what_is_genuine_and_what_was_changed() -> None:
    secret, body = "whsec_" + "ab" * 32, '{"prompt": "部屋"}'.encode()

    headers = signed_headers("id", 1_700_000_000, body, secret)

    assert is_genuine(headers, body, secret)
    assert not is_genuine(headers, body + b" ", secret)
    assert not is_genuine(headers, body, "whsec_" + "cd" * 32)
    assert not is_genuine({**headers, "webhook-timestamp": "1700000001"}, body, secret)
    assert not is_genuine({**headers, "webhook-id": "other"}, body, secret)


# Sending ----------------------------------------------------------------------------------------


def test_a_body_comes_as_it_was_sent_with_its_headers(receive: Start) -> None:
    receiver = receive(answer(200))
    body = '{"prompt":"部屋"}\n'.encode()

    Post(limits=OPEN).send(
        f"{receiver.url}/hook%20a?token=x&b=%C3%BC#part", body, {"webhook-id": "1"}
    )

    (came,) = receiver.deliveries
    assert (came.path, came.body) == ("/hook%20a?token=x&b=%C3%BC", body)
    assert came.headers["webhook-id"] == "1"
    assert came.headers["Content-Type"] == "application/json"
    assert came.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert came.headers["User-Agent"] == "depthflux"
    assert "Cookie" not in came.headers
    assert "Authorization" not in came.headers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_receiver_that_says_that_it_has_it_has_it(receive: Start, status: int) -> None:
    receiver = receive(answer(status))

    Post(limits=OPEN).send(receiver.url, b"{}", {})

    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 503])
def test_any_other_answer_is_a_failure_and_is_named(receive: Start, status: int) -> None:
    receiver = receive(answer(status))

    with pytest.raises(DeliveryError, match=f"^the receiver answered {status}$"):
        Post(limits=OPEN).send(receiver.url, b"{}", {})

    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receive: Start, status: int) -> None:
    """It could lead into a private network, and hands the body to somebody else."""
    elsewhere = receive(answer(200))
    receiver = receive(answer(status, headers={"Location": elsewhere.url}))

    with pytest.raises(DeliveryError, match=f"the receiver answered {status}"):
        Post(limits=OPEN).send(receiver.url, b"{}", {})

    assert len(receiver.deliveries) == 1
    assert elsewhere.deliveries == []


def test_a_proxy_of_the_environment_is_not_used(
    receive: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receive(answer(200))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    Post(limits=OPEN).send(receiver.url, b"{}", {})

    assert len(receiver.deliveries) == 1


def test_an_answers_body_is_not_waited_for(receive: Start) -> None:
    def endless(request: BaseHTTPRequestHandler, before: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(2**40))
        request.end_headers()
        request.wfile.write(b"x" * 2**16)
        request.wfile.flush()
        time.sleep(5)

    receiver = receive(endless)
    started = time.monotonic()

    Post(limits=OPEN).send(receiver.url, b"{}", {})

    assert time.monotonic() - started < 3


def test_a_receiver_that_says_nothing_is_cut_off_at_the_deadline(receive: Start) -> None:
    until = threading.Event()
    receiver = receive(silence(until))
    started = time.monotonic()

    with pytest.raises(DeliveryError):
        Post(limits=ReadLimits(allow_private_addresses=True, read_timeout_s=0.3)).send(
            receiver.url, b"{}", {}
        )

    waited_s = time.monotonic() - started
    until.set()
    assert 0.25 < waited_s < 3


def test_a_receiver_that_sends_a_byte_now_and_then_is_cut_off_at_the_deadline(
    receive: Start,
) -> None:
    receiver = receive(drip(0.05))
    started = time.monotonic()

    with pytest.raises(DeliveryError):
        Post(limits=ReadLimits(allow_private_addresses=True, read_timeout_s=0.3)).send(
            receiver.url, b"{}", {}
        )

    assert 0.25 < time.monotonic() - started < 3


def test_a_receiver_that_hangs_up_is_a_failure_and_says_no_address(receive: Start) -> None:
    def hang_up(request: BaseHTTPRequestHandler, before: int) -> None:
        request.close_connection = True

    receiver = receive(hang_up)

    with pytest.raises(DeliveryError, match=r"^the connection failed \(\w+\)$"):
        Post(limits=OPEN).send(f"{receiver.url}/?token=secret", b"{}", {})

    assert len(receiver.deliveries) == 1


def test_nobody_at_a_port_is_a_failure_without_the_urls_query(receive: Start) -> None:
    receiver = receive(answer(200))
    receiver.close()

    with pytest.raises(DeliveryError, match="the connection failed") as caught:
        Post(limits=OPEN).send(f"{receiver.url}/?token=secret", b"{}", {})

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Names and addresses ----------------------------------------------------------------------------


def test_the_connection_goes_to_the_address_that_was_judged_and_keeps_the_name(
    receive: Start,
) -> None:
    receiver = receive(answer(200))
    names = Names("127.0.0.1")

    Post(limits=OPEN, resolver=names).send(f"http://Hooks.Example:{receiver.port}/", b"{}", {})

    assert names.asked == [("hooks.example", receiver.port)]
    assert receiver.deliveries[0].headers["Host"] == f"hooks.example:{receiver.port}"


def test_another_address_is_tried_where_the_first_does_not_let_us_in(receive: Start) -> None:
    receiver = receive(answer(200))
    # Nobody listens at 127.0.0.2.
    names = Names("127.0.0.2", "127.0.0.1")

    Post(limits=OPEN, resolver=names).send(f"http://hooks.example:{receiver.port}/", b"{}", {})

    assert len(receiver.deliveries) == 1


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """An address whose host takes no connection and refuses none: its queue is full."""
    with socket.socket() as listening, ExitStack() as queue:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield


def test_another_address_is_reached_behind_one_that_never_answers(receive: Start) -> None:
    receiver = receive(answer(200))
    limits = ReadLimits(allow_private_addresses=True, connect_timeout_s=0.4, read_timeout_s=20)
    names = Names("127.0.0.2", "127.0.0.1")
    started = time.monotonic()

    with black_hole("127.0.0.2", receiver.port):
        Post(limits=limits, resolver=names).send(
            f"http://hooks.example:{receiver.port}/", b"{}", {}
        )

    assert len(receiver.deliveries) == 1
    assert 0.3 < time.monotonic() - started < 5


def test_addresses_that_never_answer_take_no_longer_than_the_deadline() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    limits = ReadLimits(allow_private_addresses=True, connect_timeout_s=0.4, read_timeout_s=0.6)
    names = Names(*["127.0.0.2"] * 20)
    started = time.monotonic()

    with black_hole("127.0.0.2", port), pytest.raises(DeliveryError):
        Post(limits=limits, resolver=names).send(f"http://hooks.example:{port}/", b"{}", {})

    assert 0.5 < time.monotonic() - started < 4


def test_another_address_is_not_tried_where_the_first_has_answered(receive: Start) -> None:
    receiver = receive(answer(500))
    names = Names("127.0.0.1", "127.0.0.1")

    with pytest.raises(DeliveryError, match="the receiver answered 500"):
        Post(limits=OPEN, resolver=names).send(f"http://hooks.example:{receiver.port}/", b"{}", {})

    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "localhost",
        "0.0.0.0",  # noqa: S104
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "168.63.129.16",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
    ],
)
def test_a_private_address_is_not_told_however_it_is_spelt(receive: Start, host: str) -> None:
    receiver = receive(answer(200))

    with pytest.raises(DeliveryError, match=r"not public address|unusual spelling|no plain one"):
        Post(limits=CLOSED).send(f"http://{host}:{receiver.port}/?token=secret", b"{}", {})

    assert receiver.deliveries == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["169.254.169.254"],
    ],
    ids=" ".join,
)
def test_a_name_that_leads_to_a_private_address_is_not_told(
    receive: Start, addresses: list[str]
) -> None:
    receiver = receive(answer(200))
    names = Names(*addresses)

    with pytest.raises(DeliveryError, match="not public address") as caught:
        Post(limits=CLOSED, resolver=names).send(
            f"http://hooks.example:{receiver.port}/?token=secret", b"{}", {}
        )

    assert len(names.asked) == 1
    assert receiver.deliveries == []
    # A client that reads the problem must not learn how this network is built.
    assert not any(address in str(caught.value) for address in addresses)
    assert "secret" not in str(caught.value)


def test_a_name_that_has_no_address_or_takes_too_long_is_a_failure() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    def slow(host: str, port: int) -> list[str]:
        time.sleep(5)
        return ["8.8.8.8"]

    started = time.monotonic()
    for resolver in (unknown, slow, Names()):
        with pytest.raises(DeliveryError, match=r"cannot be resolved|has no address"):
            Post(limits=ReadLimits(connect_timeout_s=0.2), resolver=resolver).send(
                "http://hooks.example/", b"{}", {}
            )

    assert time.monotonic() - started < 3


# TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def secure(receive: Start) -> Receiver:
    """A receiver at https://pictures.example, whose certificate no authority has signed."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    return receive(answer(200), tls)


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


def test_the_certificate_has_to_be_the_names(secure: Receiver) -> None:
    post = Post(limits=OPEN, resolver=Names("127.0.0.1"), tls=trusting())

    post.send(f"https://pictures.example:{secure.port}/", b"{}", {})
    with pytest.raises(DeliveryError, match="the connection failed"):
        post.send(f"https://other.example:{secure.port}/", b"{}", {})

    assert len(secure.deliveries) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: Receiver) -> None:
    post = Post(limits=OPEN, resolver=Names("127.0.0.1"))

    with pytest.raises(DeliveryError, match="the connection failed"):
        post.send(f"https://pictures.example:{secure.port}/", b"{}", {})

    assert secure.deliveries == []


# Before anything is sent ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example",
        "https://receiver.example:8443/hook?token=x#part",
        "HTTPS://RECEIVER.example/",
        "http://93.184.216.34/",
        " https://receiver.example/ ",
    ],
)
def test_a_plain_http_or_https_url_is_taken(url: str) -> None:
    check_webhook_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "receiver.example",
        "ftp://receiver.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http://user:secret@receiver.example/",
        "http://receiver.example:0/",
        "http://receiver.example:99999/",
        "http://receiver.example/a b",
        "http://receiver.example\\@other.example/",
        "http://receiver.example/\r\nX-Header: 1",
        "http://ünïcode.example/",
    ],
    ids=ascii,
)
def test_another_url_is_refused_without_what_is_secret_in_it(url: str) -> None:
    with pytest.raises(InvalidParameterError, match="webhook_url") as caught:
        check_webhook_url(url)

    assert caught.value.field == "webhook_url"
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
