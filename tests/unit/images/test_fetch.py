"""Fetching a stranger's URL, against real servers on this machine."""

from __future__ import annotations

import logging
import socket
import ssl
import time
import traceback
from http.server import BaseHTTPRequestHandler

import pytest
from image_fixtures import CERTIFICATE, Server, answer

from depthflux import errors
from depthflux.images import ReadLimits, read_image
from depthflux.images.fetch import fetch
from depthflux.images.url import shown_url

OPEN = ReadLimits(allow_private_addresses=True)


class Names:
    """A resolver with one answer after another for every name, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def redirect(location: str, status: int = 302) -> object:
    return answer(status=status, headers={"Location": location})


def test_fetch_gives_the_bytes_and_sends_nothing_it_need_not(serve):
    server = serve(answer(b"picture"))

    assert fetch(f" {server.url}/a%20b.png?x=1#part\n", limits=OPEN) == b"picture"

    path, headers = server.requests[0]
    assert path == "/a%20b.png?x=1"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert set(headers) == {"Accept", "Accept-Encoding", "Connection", "Host", "User-Agent"}


def test_fetch_connects_to_the_address_that_was_judged_and_keeps_the_name(serve):
    server = serve(answer(b"picture"))
    names = Names(["127.0.0.1"], ["203.0.113.1"])

    assert fetch(f"http://Pictures.Example:{server.port}/", limits=OPEN, resolver=names)

    assert names.asked == [("pictures.example", server.port)]
    assert server.requests[0][1]["Host"] == f"pictures.example:{server.port}"


def test_fetch_refuses_a_name_that_changes_its_answer_to_loopback(serve):
    server = serve(answer(b"secret"))
    rebinding = Names(["127.0.0.1"], ["8.8.8.8"])

    with pytest.raises(errors.ImageFetchError, match="not public address"):
        fetch(f"http://a.example:{server.port}/", limits=ReadLimits(), resolver=rebinding)

    assert len(rebinding.asked) == 1
    assert server.requests == []


def test_fetch_tries_the_next_address_where_one_does_not_accept(serve):
    server = serve(answer(b"picture"))
    names = Names(["::1", "127.0.0.1"])

    assert fetch(f"http://a.example:{server.port}/", limits=OPEN, resolver=names) == b"picture"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]:80/", "https://10.0.0.1/x",
     "http://169.254.169.254/latest/meta-data/", "http://0.0.0.0/"],
)  # fmt: skip
def test_fetch_refuses_addresses_that_are_not_public(url):
    with pytest.raises(errors.ImageFetchError, match="not public address") as caught:
        read_image(url)

    assert caught.value.hosted_code == 1402
    assert caught.value.field == "control_image"


def test_fetch_refuses_localhost_by_its_name():
    with pytest.raises(errors.ImageFetchError, match="the host localhost leads to a private"):
        fetch("http://localhost:1/", limits=ReadLimits())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_fetch_follows_redirects_and_resolves_each_hop(serve, status):
    end = serve(answer(b"picture"))
    start = serve(redirect(f"http://b.example:{end.port}/end", status))
    names = Names(["127.0.0.1"])

    data = fetch(f"http://a.example:{start.port}/", limits=OPEN, resolver=names)

    assert data == b"picture"
    assert names.asked == [("a.example", start.port), ("b.example", end.port)]
    assert end.requests[0][1]["Host"] == f"b.example:{end.port}"


def test_fetch_follows_relative_redirects(serve):
    def handle(request: BaseHTTPRequestHandler) -> None:
        reply = answer(b"picture") if request.path == "/c/d" else redirect("../c/d")
        reply(request)

    server = serve(handle)

    assert fetch(f"{server.url}/a/b", limits=OPEN) == b"picture"


def test_fetch_judges_the_second_hop_like_the_first(serve, monkeypatch):
    inside = serve(answer(b"secret"))
    start = serve(redirect(f"http://127.0.0.1:{inside.port}/"))
    # The machine of a.example plays the internet: 127.0.0.1 counts as public while it is asked.
    public = {"127.0.0.1": True}
    monkeypatch.setattr(
        "depthflux.images.addresses.may_be_reached", lambda address: public.pop(address, False)
    )

    with pytest.raises(errors.ImageFetchError, match=r"the host 127\.0\.0\.1 leads to a private"):
        fetch(f"http://a.example:{start.port}/", limits=ReadLimits(), resolver=Names(["127.0.0.1"]))

    assert len(start.requests) == 1
    assert inside.requests == []


@pytest.mark.parametrize(
    "location",
    ["ftp://a/", "file:///etc/passwd", "http://u:p@a/", "http://0x7f000001/", "http://a\\@b/",
     "http://[::1", "//:80/"],
)  # fmt: skip
def test_fetch_refuses_redirects_to_odd_places(serve, location):
    server = serve(redirect(location))

    with pytest.raises(errors.ImageFetchError):
        fetch(server.url, limits=OPEN)

    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["/c\td", "/c d", "/c\\d"])
def test_fetch_does_not_tidy_up_where_a_redirect_leads(serve, location):
    server = serve(redirect(location))

    with pytest.raises(errors.ImageFetchError, match="redirects to a URL with a space"):
        fetch(f"{server.url}/a", limits=OPEN)

    assert len(server.requests) == 1


def test_fetch_stops_after_the_allowed_redirects(serve):
    server = serve(redirect("/again"))

    with pytest.raises(errors.ImageFetchError, match="redirects more than 3 times"):
        fetch(server.url, limits=OPEN)

    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "message"),
    [(204, "204 No Content"), (206, "206 Partial"), (304, "304"), (302, "302 Found"),
     (401, "401 Unauthorized"),
     (404, "404 Not Found"), (500, "500 Internal"), (799, "answered 799")],
)  # fmt: skip
def test_fetch_says_which_status_came_instead_of_200(serve, status, message):
    server = serve(answer(status=status))

    with pytest.raises(errors.ImageFetchError, match=message):
        fetch(server.url, limits=OPEN)


def test_fetch_refuses_too_many_bytes_announced_or_not(serve):
    limits = ReadLimits(allow_private_addresses=True, max_bytes=1000)
    announced = serve(answer(b"x", headers={"Content-Length": "1001"}))
    endless_sent = []

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(10_000):
            request.wfile.write(b"x" * 65536)
            endless_sent.append(1)

    for server in (announced, serve(endless)):
        with pytest.raises(errors.ImageFetchError, match="more than 1000 bytes"):
            fetch(server.url, limits=limits)

    assert len(endless_sent) < 10_000
    assert fetch(serve(answer(b"x" * 1000)).url, limits=limits) == b"x" * 1000


def test_fetch_refuses_an_answer_that_breaks_off(serve):
    server = serve(answer(b"half", headers={"Content-Length": "900"}))

    with pytest.raises(errors.ImageFetchError, match="broke off or spoke no HTTP"):
        fetch(server.url, limits=OPEN)


def test_fetch_refuses_an_answer_that_would_have_to_be_unpacked(serve):
    server = serve(answer(b"x", headers={"Content-Encoding": "gzip"}))

    with pytest.raises(errors.ImageFetchError, match="compressed answer"):
        fetch(server.url, limits=OPEN)


def drip_headers(request: BaseHTTPRequestHandler) -> None:
    for _ in range(100):
        request.wfile.write(b"H")
        time.sleep(0.05)


def drip_body(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"x")
        time.sleep(0.05)


def say_nothing(request: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


@pytest.mark.parametrize("handle", [drip_headers, drip_body, say_nothing])
def test_fetch_ends_when_its_time_is_up_however_the_server_drips(serve, handle):
    limits = ReadLimits(
        allow_private_addresses=True, read_timeout_s=5, connect_timeout_s=5, total_timeout_s=0.4
    )
    begin = time.monotonic()

    with pytest.raises(errors.ImageFetchError, match=r"took longer than 0\.4 s"):
        fetch(serve(handle).url, limits=limits)

    assert time.monotonic() - begin < 1.5


def test_fetch_ends_after_a_silence():
    limits = ReadLimits(allow_private_addresses=True, read_timeout_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"

        with pytest.raises(errors.ImageFetchError, match="no answer in time"):
            fetch(url, limits=limits)


def test_fetch_says_that_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    with pytest.raises(errors.ImageFetchError, match="cannot be reached"):
        fetch(f"http://127.0.0.1:{port}/", limits=OPEN)


def test_fetch_reads_no_proxy_from_the_environment(serve, monkeypatch):
    server = serve(answer(b"picture"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert fetch(server.url, limits=OPEN) == b"picture"


@pytest.fixture
def tls_server(serve) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return serve(answer(b"picture"), tls=context)


def test_fetch_checks_the_certificate_against_the_name_not_the_address(tls_server):
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    names = Names(["127.0.0.1"])

    right = f"https://pictures.example:{tls_server.port}/"
    assert fetch(right, limits=OPEN, resolver=names, tls=trusting) == b"picture"

    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(errors.ImageFetchError, match="certificate is not valid"):
            fetch(f"https://{host}:{tls_server.port}/", limits=OPEN, resolver=names, tls=trusting)
    assert len(tls_server.requests) == 1


def test_fetch_does_not_follow_a_redirect_from_https_to_http(serve):
    plain = serve(answer(b"picture"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    secure = serve(redirect(f"http://pictures.example:{plain.port}/"), tls=context)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    url = f"https://pictures.example:{secure.port}/"

    with pytest.raises(errors.ImageFetchError, match="redirects from https to http"):
        fetch(url, limits=OPEN, resolver=Names(["127.0.0.1"]), tls=trusting)

    assert len(secure.requests) == 1
    assert plain.requests == []


def test_fetch_trusts_no_unknown_certificate(tls_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    with pytest.raises(errors.ImageFetchError, match="certificate is not valid"):
        fetch(
            f"https://pictures.example:{tls_server.port}/",
            limits=OPEN,
            resolver=Names(["127.0.0.1"]),
        )


def test_fetch_says_where_no_tls_is_spoken(serve):
    server = serve(answer(b"picture"))

    with pytest.raises(errors.ImageFetchError, match="cannot be reached"):
        fetch(f"https://127.0.0.1:{server.port}/", limits=OPEN)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:hunter2@a.example/", "user name or password"),
        ("http://hunter2@a.example/", "user name or password"),
        ("http://a.example\\@127.0.0.1/", "backslash"),
        ("http://127.0.0.1\t.a.example/", "control character"),
        ("http://a.example/a b", "space"),
        ("http://a.example/\r\nHost: b", "control character"),
        ("http://a.exa\x00mple/", "control character"),
        ("http:///a.png", "no plain one"),
        ("http://a.example:0/", "no plain one"),
        ("http://a.example:65536/", "no plain one"),
        ("http://a.example:/", "no plain one"),
        ("http://a.example:80:80/", "no plain one"),
        ("http://bücher.example/", "xn--"),
        ("http://１２７.0.0.1/", "xn--"),
        ("http://a%2eexample/", "no plain one"),
        ("http://[fe80::1%25eth0]/", "no plain one"),
        ("http://[::1/", "no plain one"),
        ("http://[1.2]/", "no IPv6 address"),
        ("http://[:::1]/", "no IPv6 address"),
        ("http://a.example:22/", "port 22 is another protocol's"),
        ("https://a.example:6379/", "port 6379 is another protocol's"),
        ("http:a.example", "only http and https"),
        ("https:/a.example/", "only http and https"),
        ("http://a..example/", "cannot be resolved"),
        (f"http://{'a' * 64}.example/", "cannot be resolved"),
    ],
)
def test_fetch_refuses_urls_that_can_be_read_in_two_ways(url, message):
    with pytest.raises(errors.ImageFetchError, match=message) as caught:
        read_image(url)

    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b.png", "https://a.example/b.png"),
        ("https://u:p@a.example:8/b?q=1#f", "https://a.example:8/b"),
        ("http://u:p?w@a.example/", "http://…"),
        ("ftp://a", "a URL"),
    ],
)
def test_shown_urls_hold_no_secrets(url, shown):
    assert shown_url(url) == shown


def test_no_query_appears_in_errors_tracebacks_or_logs(serve, caplog):
    caplog.set_level(logging.INFO)
    server = serve(answer(status=404))
    half = serve(answer(b"half", headers={"Content-Length": "900"}))
    secret = "hunter2"

    for url in (server.url, half.url, "http://127.0.0.1:1"):
        asked = f"{url}/a.png?sig={secret}"
        with pytest.raises(errors.ImageFetchError) as caught:
            read_image(asked, limits=OPEN)

        assert secret not in "".join(traceback.format_exception(caught.value))
        assert "hunter2" not in repr(vars(caught.value))
        assert f"{url}/a.png" in str(caught.value)
    assert "hunter2" not in caplog.text


def test_a_page_behind_a_url_is_no_picture(serve):
    server = serve(answer(b"<html>not found</html>", headers={"Content-Type": "image/png"}))

    with pytest.raises(errors.UnreadableImageError, match="is a web page") as caught:
        read_image(f"{server.url}/a.png?token=hunter2", limits=OPEN)

    assert "hunter2" not in str(caught.value)
