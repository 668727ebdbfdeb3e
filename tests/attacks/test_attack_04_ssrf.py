"""Attack 4: a picture's or a webhook's address that leads to where its sender must not be.

Whoever sends it wants the server to ask its own machine, its network or its cloud's metadata. Real
cases: vLLM CVE-2026-24779 (a backslash that two parsers read differently), Gradio CVE-2026-28416.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_network import Inside, redirect

from depthflux.images.container import PictureProblemError
from depthflux.images.url import parse_url
from stand_in.running import PICTURE, SUBMIT, StandInServer

#: Hosts that are this machine, its network or a cloud's metadata, in every spelling that some
#: program has taken for one of them.
HOSTS = [
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0",
    "0.", "127.255.255.254", "2130706433", "017700000001", "0x7f000001", "0X7F.1", "0x7f.0.0.0x1",
    "0177.0.0.1", "127.0.0.01", "00127.0.0.1", "4294967297", "%31%32%37.0.0.1", "127%2e0.0.1",
    "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "ⓛocalhost", "127.0.0.1%00.example.org",
    "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.0.1", "100.64.0.1",  # noqa: S104
    "169.254.169.254", "2852039166", "0xa9fea9fe", "100.100.100.200", "192.0.0.192",
    "168.63.129.16", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::ffff:0:127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::1]",
    "[2002:a9fe:a9fe::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]",
    "[::1%25lo]", "[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
    "[3fff::1]", "[5f00::1]", "[100::1]", "[127.0.0.1]", "[1.2]", "[::1", "::1", "[[::1]]",
]  # fmt: skip

#: Addresses that name one host to some readers and another to others; {inside} is host and port.
TWO_READINGS = [
    "http://example.org@{inside}/", "http://example.org:80@{inside}/", "http://@{inside}/",
    "http://example.org\\@{inside}/", "http://{inside}\\@example.org/", "http:\\\\{inside}/",
    "http:/\\{inside}/", "http://example.org%40{inside}/", "http://{inside}\t.example.org/",
    "http://\t{inside}/", "ht\ttp://{inside}/", "http://{inside}\n.example.org/",
    "http://{inside}\0.example.org/", "http://{inside}\u00a0/", "http:///{inside}/",
    "http:{inside}/", "http:/{inside}/", "HTTP://{inside}/", "hTtP://{inside}/a#@example.org",
    "http://{inside}#@example.org/", "http://{inside}?@example.org/", "http://{inside}/@example.org",
    "http://{inside};example.org/", "http://{inside},example.org/", "http://example.org,{inside}/",
    " http://{inside}/", "\x01http://{inside}/", "url:http://{inside}/", "//{inside}/",
    "https://{inside}/", "view-source:http://{inside}/", "jar:http://{inside}!/", "http://{inside}:80/",
]  # fmt: skip

#: Schemes that are not fetched.
SCHEMES = [
    "file:///etc/passwd", "file://localhost/etc/passwd", "gopher://{inside}/_GET%20/",
    "dict://{inside}/info", "ftp://{inside}/", "ldap://{inside}/", "ws://{inside}/",
    "javascript:alert(1)", "blob:http://{inside}/",
    "jar:http://{inside}!/", "unix:/var/run/docker.sock:/info", "http+unix://%2Fvar%2Frun/",
]  # fmt: skip


@pytest.fixture
def inside() -> Iterator[Inside]:
    with Inside() as listening:
        yield listening


def body(image: str, **fields: Any) -> dict[str, Any]:
    return {
        "prompt": "paint",
        "control_image": image,
        "size": "512*512",
        "num_inference_steps": 1,
        "seed": 1,
        "enable_sync_mode": True,
        **fields,
    }


def refusal(server: StandInServer, image: str) -> str:
    """Why a picture was not taken, at once or when it was to be read; nothing else may come."""
    response = server.client.post(SUBMIT, json=body(image))
    document = response.json()
    if response.status_code == 400:
        return str(document["message"])
    assert response.status_code == 200
    assert document["data"]["status"] == "failed", document
    assert document["data"]["outputs"] == []
    return str(document["data"]["error"])


# Where an address leads, asked over HTTP ----------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS, ids=ascii)
def test_no_spelling_of_an_inner_address_is_fetched(
    guarded: StandInServer, inside: Inside, host: str
) -> None:
    said = refusal(guarded, f"http://{host}:{inside.port}/room.png")

    assert inside.connections == 0
    assert "reached" not in said
    assert "answered" not in said


@pytest.mark.parametrize("url", [*TWO_READINGS, *SCHEMES], ids=ascii)
def test_no_address_that_can_be_read_in_two_ways_is_fetched(
    guarded: StandInServer, inside: Inside, url: str
) -> None:
    refusal(guarded, url.format(inside=f"127.0.0.1:{inside.port}"))

    assert inside.connections == 0


def test_the_machine_s_own_name_leads_nowhere(guarded: StandInServer) -> None:
    with Inside(address="0.0.0.0") as everywhere:  # noqa: S104
        refusal(guarded, f"http://{socket.gethostname()}:{everywhere.port}/")

        assert everywhere.connections == 0


@pytest.mark.parametrize("port", [22, 25, 587, 6379, 11211])
def test_no_request_is_sent_to_the_port_of_a_protocol_that_reads_lines(
    server: StandInServer, port: int
) -> None:
    """Not even where inner addresses are allowed."""
    assert f"port {port} is another protocol's" in refusal(server, f"http://127.0.0.1:{port}/")

    told = server.client.post(SUBMIT, json=body(PICTURE, webhook_url=f"http://127.0.0.1:{port}/"))

    assert told.status_code == 400


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/openapi.json", "/api/v3/predictions"])
def test_the_server_does_not_ask_itself(guarded: StandInServer, path: str) -> None:
    assert "not public address" in refusal(guarded, guarded.address + path)


def test_a_picture_of_its_own_is_taken_from_the_store_and_one_that_is_gone_is_not_fetched(
    guarded: StandInServer,
) -> None:
    with httpx.Client(base_url=guarded.address, headers=guarded.client.headers) as client:
        sent = client.post("/api/v3/media/upload/binary", files={"file": base64.b64decode(PICTURE)})
        url = sent.json()["data"]["download_url"]
        used = client.post(SUBMIT, json=body(url), timeout=60).json()["data"]
        gone = client.post(SUBMIT, json=body(f"{guarded.address}/media/{'a' * 32}.png"))

    assert used["status"] == "completed"
    assert gone.status_code == 400
    assert "no picture at this address of ours" in gone.json()["message"]


# Redirects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [*SCHEMES, "data:image/png;base64," + PICTURE, "http://user:word@{inside}/",
     "http://example.org\\@{inside}/", "http:\\\\{inside}/", "\\\\{inside}\\a", "//user@{inside}/",
     "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://127.1:{port}/", "//0:{port}/",
     "http://{inside}\t.example.org/", "http://[::ffff:127.0.0.1:{port}/", "http://127.0.0.1:22/"],
    ids=ascii,
)  # fmt: skip
def test_a_redirect_to_an_odd_place_is_not_followed(
    server: StandInServer, inside: Inside, location: str
) -> None:
    """Although this server may fetch from this machine."""
    there = location.format(inside=f"127.0.0.1:{inside.port}", port=inside.port)
    with Inside(redirect(there)) as first:
        refusal(server, f"{first.url}/room.png")

    assert len(first.paths) == 1
    assert inside.connections == 0


def test_redirects_in_a_circle_end_soon(server: StandInServer) -> None:
    with Inside(redirect("/round")) as circle:
        said = refusal(server, f"{circle.url}/and")

    assert "redirects more than 3 times" in said
    assert len(circle.paths) == 4


# Webhooks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://[1.2]/", "http://[::::]/", "http://[1:2]/", "http://[::1/", "https://[.]/",
     "http://[::ffff:1.2.3.4.5]/"],
)  # fmt: skip
def test_a_webhook_s_broken_address_is_refused_and_ends_no_server(
    guarded: StandInServer, url: str
) -> None:
    """Taken, it would have ended the server, and each one that was started after it."""
    response = guarded.client.post(SUBMIT, json=body(PICTURE, webhook_url=url))

    assert response.status_code == 400
    assert guarded.client.get("/readyz").status_code == 200


def test_no_webhook_is_told_at_an_inner_address_however_it_is_spelt(
    guarded: StandInServer, inside: Inside
) -> None:
    hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0", "[::]"]
    ids = []
    for host in hosts:
        url = f"http://{host}:{inside.port}/told"
        sent = guarded.client.post(SUBMIT, json=body(PICTURE, webhook_url=url))
        ids.append(sent.json()["data"]["id"])

    guarded.until(lambda: all(f"webhook of {id} " in guarded.log.read_text() for id in ids) or None)
    guarded.client.post("/api/v3/predictions/delete", json={"ids": ids})

    assert inside.connections == 0


# Two readers of one address -----------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["http", "https", "HTTP", "file", ":", "/", "//", "///", "\\", "@", "#", "?", ";", ",", "%",
     "%2f", "%40", "%00", "\t", "\n", "\r", "\0", " ", "\u00a0", "\u3002", "\uff0e", "\u2100",
     "\u00df", "[", "]", "::1", "::ffff:127.0.0.1", "fe80::1%25lo", "127.0.0.1", "127.1", "0x7f.1",
     "2130706433", "0", "example.org", "EXAMPLE.org.", "xn--bcher-kva.example", "user", "user:word",
     ":80", ":443", ":0", ":00080", ":65536", ":8080", ":", ".", "..", "-", "_", "a", "/a/../b",
     "?a=b", "#c", "\ud800"]
)  # fmt: skip
_URLS = st.one_of(
    st.lists(_PIECES, max_size=9).map("".join),
    st.lists(_PIECES, max_size=7).map(lambda pieces: "http://" + "".join(pieces)),
    st.text(max_size=30).map(lambda text: f"http://{text}"),
    st.from_regex(r"https?://[\[\]a-z0-9.:@%\\_-]{1,20}[/?#]?", fullmatch=True),
)


@settings(max_examples=700, deadline=None, derandomize=True)
@given(_URLS)
def test_what_our_reader_takes_every_other_reader_takes_for_the_same_host(url: str) -> None:
    try:
        ours = parse_url(url)
    except PictureProblemError:
        return

    split = urlsplit(url)
    default = {"http": 80, "https": 443}[split.scheme]
    assert (split.hostname, split.port or default) == (ours.host, ours.port)
    assert (split.username, split.password) == (None, None)
    with contextlib.suppress(httpx.InvalidURL):  # such as 999.1.1.1, which is refused later
        other = httpx.URL(url)
        assert (other.raw_host.decode(), other.port or default) == (ours.host, ours.port)
        assert other.userinfo == b""
