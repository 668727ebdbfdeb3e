"""A request's line and headers are bounded, and can be read in one way only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httptools
import pytest
from wire_fixtures import GET, HOST, SECOND, Served, one_answer, post, refusal_in, rest_of

from depthflux.server import heads
from depthflux.server.crowd import Patience


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served(Patience()) as running:
        yield running


@pytest.fixture
def wire(shared: Served) -> Served:
    """With a server's own patience, and nothing seen."""
    shared.app.seen.clear()
    return shared


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 8190 + b" HTTP/1.1\r\n\r\n", 200),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 200_000, 414),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 100 + b"\r\n", 200),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 32_000 + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 3_000_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"a" * 3_000_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b" " * 3_000_000, 431),
        (b"\r\n" * 100_000, 431),
        (post(b"/", b"Transfer-Encoding: chunked", body=b"0\r\nX: " + b"a" * 3_000_000), 431),
        (post(b"/", b"Transfer-Encoding: chunked", body=b"0\r\n" + b"X: a\r\n" * 9999), 431),
        (post(b"/", b"Transfer-Encoding: chunked", body=b"1;" + b"a" * 3_000_000), 431),
    ],
    ids=[
        "target",
        "target too long",
        "endless target",
        "headers",
        "a header too many",
        "size",
        "too much",
        "endless value",
        "endless name",
        "endless space",
        "endless lines",
        "endless trailer",
        "trailers",
        "endless chunk extension",
    ],
)
def test_line_and_headers_are_bounded(wire: Served, head: bytes, status: int) -> None:
    connection = wire.connect()
    with contextlib.suppress(ConnectionError):
        connection.sendall(head)
    if status == 200:
        answer = one_answer(connection)
        assert answer.startswith(b"HTTP/1.1 200")
    else:
        assert refusal_in(rest_of(connection))[0] == status
    connection.close()


def test_headers_are_bounded_when_they_come_byte_by_byte(wire: Served) -> None:
    connection = wire.connect(b"GET / HTTP/1.1\r\nX: ")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    with contextlib.suppress(ConnectionError):
        for _ in range(400):
            connection.sendall(b"a" * 100)

    assert refusal_in(rest_of(connection))[0] == 431
    connection.close()


# What could be read in two ways -----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        post(b"/", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post(b"/", b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
        post(b"/", b"Content-Length: 5", b"Content-Length: 0"),
        post(b"/", b"Content-Length: 0", b"Content-Length: 0"),
        post(b"/", b"Content-Length: 0, 0"),
        post(b"/", b"Content-Length: +0"),
        post(b"/", b"Content-Length: 0x0"),
        post(b"/", b"Content-Length: -1"),
        post(b"/", b"Content-Length: 99999999999999999999999999"),
        post(b"/", b"Content-Length:"),
        post(b"/", b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        post(b"/", b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        post(b"/", b"Transfer-Encoding: identity"),
        post(b"/", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        post(b"/", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n").replace(b"1.1", b"1.0"),
        post(b"/", b"Transfer-Encoding: chunked", body=b"0x1\r\na\r\n0\r\n\r\n"),
        post(b"/", b"Transfer-Encoding: chunked", body=b"1\na\n0\n\n"),
        post(b"/", b"Transfer-Encoding: chunked", body=b"1\r\nab\r\n0\r\n\r\n"),
        post(b"/", b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\na"),
        b"GET / HTTP/1.1\n" + HOST + b"\n",
        b"GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\rY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\0: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET ftp://elsewhere.example/ HTTP/1.1\r\n\r\n",
        b"GET http://elsewhere.example HTTP/1.1\r\n\r\n",
        b"CONNECT elsewhere.example:443 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"DESCRIBE rtsp://a/ RTSP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda data: repr(data.replace(HOST, b"")[:75])[2:-1],
)
def test_what_two_programs_could_read_in_two_ways_is_refused_with_all_behind_it(
    wire: Served, data: bytes
) -> None:
    answer = wire.ask(data + SECOND)

    assert refusal_in(answer)[0] == 400
    assert "/second" not in wire.app.seen


def test_of_an_address_in_the_request_line_only_the_path_counts(wire: Served) -> None:
    connection = wire.connect(GET.replace(b"/ ", b"http://elsewhere.example/second "))

    assert one_answer(connection).startswith(b"HTTP/1.1 200")
    assert wire.app.seen == ["/second"]
    connection.close()


def test_what_comes_behind_a_body_is_no_header(wire: Served) -> None:
    connection = wire.connect(
        post(
            b"/",
            b"Transfer-Encoding: chunked",
            body=b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        )
    )

    assert one_answer(connection).endswith(b"\r\n\r\n1")
    assert {name for name, _ in wire.app.headers} == {b"host", b"transfer-encoding"}
    connection.close()


def test_what_follows_a_last_request_is_passed_over(wire: Served) -> None:
    answer = wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + SECOND)

    assert answer.count(b"HTTP/1.1 200") == 1
    assert wire.app.seen == ["/"]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_who_would_rather_talk_in_another_protocol_is_answered_in_this_one(
    wire: Served, protocol: bytes
) -> None:
    """As some clients ask whenever they may, and their body must not be lost by it."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol)
    connection = wire.connect(
        post(b"/", *upgrade, b"HTTP2-Settings: AA", b"Content-Length: 5", body=b"hello")
    )
    answer = one_answer(connection)
    connection.sendall(SECOND)

    assert answer.endswith(b"\r\n\r\n5")
    assert one_answer(connection).startswith(b"HTTP/1.1 200")
    assert wire.app.seen == ["/", "/second"]
    connection.close()


def test_requests_that_come_together_may_all_rather_talk_in_another_protocol(wire: Served) -> None:
    wish = (b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 5")

    last = SECOND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = wire.ask(post(b"/", *wish, body=b"hello") * 10 + last)

    assert wire.app.seen == ["/"] * 10 + ["/second"]
    assert answer.count(b"\r\n\r\n5") == 10


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parsers that are made from now on."""
    made: list[Any] = []
    make = httptools.HttpRequestParser

    def make_and_count(protocol: Any) -> Any:
        made.append(make(protocol))
        return made[-1]

    monkeypatch.setattr(httptools, "HttpRequestParser", make_and_count)
    return made


@pytest.mark.parametrize("target", [b"http://a/", b"https://a/", b"/", b"a.example:443"])
def test_a_tunnel_is_refused_by_the_parser_that_reads_of_it(
    wire: Served, parsers: list[Any], target: bytes
) -> None:
    answer = wire.ask(b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n" + SECOND)

    status, document = refusal_in(answer)
    assert status == 400
    # Of some targets the parser itself says that they are none of a tunnel's.
    assert "CONNECT" in document["message"] or "URL" in document["message"]
    assert len(parsers) == 1
    assert wire.app.seen == []


def test_a_head_that_still_asks_for_another_protocol_when_that_was_taken_out_is_refused(
    wire: Served, parsers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the parser and we read a header differently; once is enough to know."""
    monkeypatch.setattr(heads, "_UPGRADING", ())

    answer = wire.ask(post(b"/", b"Connection: upgrade", b"Upgrade: h2c") + SECOND)

    status, document = refusal_in(answer)
    assert status == 400
    assert "another protocol" in document["message"]
    assert len(parsers) == 2
    assert wire.app.seen == []
