"""The gate: which Host, Origin and Sec-Fetch-Site go on, and that no body is read before."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from depthflux.errors import show
from depthflux.server.gate import Gate
from depthflux.server.settings import ServerSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY")
PICTURE = "/media/fOCVVt4WWKFZXd6SH0YeSnLUobfxMswh-0.png"


class Behind:
    """An application that notes what reaches it."""

    def __init__(self) -> None:
        self.reached: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope)


class Asked:
    """One request at a gate.

    Attributes:
        status: the refusal's; None where the request went on.
        text: the refusal's one line.
        origin: what the application behind may build addresses with.
    """

    def __init__(
        self,
        *headers: tuple[str, str],
        method: str = "GET",
        path: str = "/api/v3/balance",
        hostname: str = "gpu-1",
        **settings: Any,
    ) -> None:
        behind, sent = Behind(), list[Message]()

        async def receive() -> Message:
            raise AssertionError("the body was read")

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
        gate = Gate(behind, ServerSettings(**settings), hostname)
        asyncio.run(gate(scope, receive, send))
        self.status = sent[0]["status"] if sent else None
        self.text = json.loads(sent[1]["body"])["message"] if sent else ""
        self.origin = behind.reached[0]["state"]["origin"] if behind.reached else None
        assert bool(sent) is not bool(behind.reached)


def ask(host: str, *headers: tuple[str, str], **options: Any) -> Asked:
    return Asked(("host", host), *headers, **options)


# Host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.2:1",
        "8.8.8.8",
        "0.0.0.0",  # noqa: S104
        "[::1]:8000",
        "[2001:db8::1]",
        "localhost",
        "LOCALHOST:9",
        "localhost.",
        "here.localhost",
        "a.b.localhost.:8000",
        "gpu-1",
        "GPU-1:8000",
        "gpu-1.local",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_addresses_localhost_and_this_machine_s_name_go_on(host: str, method: str) -> None:
    asked = ask(host, method=method)

    assert asked.status is None
    assert asked.origin == f"http://{host}"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "local",
        "gpu-2",
        "gpu-1.evil.example",
        "gpu-2.local",
        "a.gpu-1.local",
        "127.1",
        "2130706433",
        "host.docker.internal",
    ],
)
def test_any_other_name_is_refused_on_every_method_and_route(host: str) -> None:
    for path in ("/api/v3/balance", "/livez", PICTURE, "/", "/there/is/nothing"):
        for method in METHODS:
            asked = ask(host, method=method, path=path)

            assert asked.status == 421, (method, path)
            assert asked.text.startswith(f"Host={host!r} is no name of this server")


def test_a_name_that_is_refused_is_told_which_setting_would_allow_it() -> None:
    text = ask("depthflux:8000").text

    assert text.startswith("Host='depthflux:8000' is no name of this server; allowed: ")
    assert "allowed_hosts (depthflux serve --allowed-hosts)" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "hosts",
    [[], ["localhost", "localhost"], ["localhost", "evil.example"], ["evil.example", "localhost"]],
    ids=["none", "the same twice", "another behind", "another before"],
)
def test_a_host_that_does_not_come_once_is_refused(hosts: list[str]) -> None:
    asked = Asked(*(("host", host) for host in hosts), allowed_hosts="*")

    assert asked.status == 400
    assert asked.text == f"Host: came {len(hosts)} times; allowed: once."


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@localhost", "x\\y", "localhost:99999", "é", "*"]
)
def test_a_host_that_is_none_is_refused_even_where_any_is_allowed(host: str) -> None:
    asked = ask(host, allowed_hosts="*")

    assert asked.status == 400
    assert "is no host name or address." in asked.text


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("depthflux", "depthflux:8000", None),
        ("DepthFlux.", "depthflux", None),
        ("depthflux", "DEPTHFLUX.:1", None),
        ("a.example, b.example", "b.example", None),
        ("a.example,*", "c.example", None),
        ("*", "c.example", None),
        ("depthflux", "a.depthflux", 421),
        ("a.example", "b.example", 421),
        ("a.example", "a.example.evil.example", 421),
    ],
)
def test_names_of_the_setting_are_allowed_whatever_their_case_port_and_last_dot(
    allowed: str, host: str, status: int | None
) -> None:
    assert ask(host, allowed_hosts=allowed).status == status


def test_the_name_of_public_url_is_allowed() -> None:
    url = "https://Pictures.Example.org:8443"

    assert ask("pictures.example.org", public_url=url).status is None
    assert ask("example.org", public_url=url).status == 421


@pytest.mark.parametrize(
    ("hostname", "names"),
    [
        ("gpu-1.lab.example", ["gpu-1.lab.example", "gpu-1.local"]),
        ("GPU-1", ["gpu-1", "gpu-1.local"]),
    ],
)
def test_a_machine_is_known_by_its_whole_name_and_by_its_first_part_under_local(
    hostname: str, names: list[str]
) -> None:
    assert [ask(name, hostname=hostname).status for name in names] == [None, None]
    assert ask("lab.example", hostname=hostname).status == 421


def test_a_machine_s_name_that_is_no_host_name_allows_nothing() -> None:
    assert ask("gpu", hostname="my gpu").status == 421
    assert ask("localhost", hostname="my gpu").status is None


def test_without_being_told_the_machine_is_asked_for_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "workbench")

    assert ask("workbench", hostname="").status is None


# Origin -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("LOCALHOST.:8000", "http://localhost:8000"),
        ("localhost", "http://localhost:80"),
        ("localhost:80", "http://localhost"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("127.0.0.1:8000", "https://pictures.example.org"),
        ("pictures.example.org", "https://pictures.example.org"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_pages_of_the_server_s_own_address_may_ask(host: str, origin: str, method: str) -> None:
    asked = ask(
        host, ("origin", origin), method=method, public_url="https://pictures.example.org:443"
    )

    assert asked.status is None


FOREIGN = [
    "http://evil.example",
    "https://evil.example",
    "null",
    "",
    "http://localhost:8000",
    "http://127.0.0.1",
    "http://127.0.0.1:8001",
    "https://127.0.0.1:8000",
    "http://127.0.0.1:8000/",
    "http://127.0.0.1:8000.evil.example",
    "http://127.0.0.1:8000@evil.example",
    "http://127.0.0.1:8000 http://evil.example",
    "http://127.0.0.1:8000, http://127.0.0.1:8000",
    "127.0.0.1:8000",
    "file://",
    "chrome-extension://abcdefghijklmnop",
]


@pytest.mark.parametrize("origin", FOREIGN, ids=lambda origin: origin or "empty")
@pytest.mark.parametrize("method", METHODS)
def test_pages_of_others_may_not_on_any_method(origin: str, method: str) -> None:
    asked = ask("127.0.0.1:8000", ("origin", origin), method=method, allowed_hosts="*")

    assert asked.status == 403
    assert asked.text.startswith(f"Origin={show(origin)}: web pages of others may not ask")


def test_several_origins_are_refused_though_each_be_ours() -> None:
    own = ("origin", "http://localhost")

    assert ask("localhost", own).status is None
    assert ask("localhost", own, own).status == 403


# Sec-Fetch-Site ---------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["same-origin", "none"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_person_or_our_own_page_asks_goes_on(site: str, method: str) -> None:
    assert ask("localhost", ("sec-fetch-site", site), method=method).status is None


@pytest.mark.parametrize(
    "site", ["cross-site", "same-site", "", "Same-Origin", "same-origin, none", "new-in-a-browser"]
)
@pytest.mark.parametrize("method", METHODS)
def test_what_another_site_s_page_asks_is_refused_on_every_method(site: str, method: str) -> None:
    asked = ask("localhost", ("sec-fetch-site", site), method=method)

    assert asked.status == 403
    assert asked.text.startswith(f"Sec-Fetch-Site={site!r}: web pages of others may not ask")


def test_one_own_header_does_not_excuse_the_other() -> None:
    own, foreign = ("origin", "http://localhost"), ("origin", "http://evil.example")

    assert ask("localhost", own, ("sec-fetch-site", "cross-site")).status == 403
    assert ask("localhost", foreign, ("sec-fetch-site", "same-origin")).status == 403
    assert ask("localhost", ("sec-fetch-site", "none"), ("sec-fetch-site", "none")).status == 403


# Pictures ---------------------------------------------------------------------------------------

SHOWN = (("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PICTURE, None),
        ("HEAD", PICTURE, None),
        ("POST", PICTURE, 403),
        ("PUT", PICTURE, 403),
        ("DELETE", PICTURE, 403),
        ("OPTIONS", PICTURE, 403),
        ("GET", "/media/", 403),
        ("GET", "/media", 403),
        ("GET", "/media/a/b", 403),
        ("GET", "/media/../livez", 403),
        ("GET", f"/x{PICTURE}", 403),
        ("GET", f"/api/v3{PICTURE}", 403),
        ("GET", "/api/v3/media/uploads", 403),
        ("GET", "/MEDIA/a.png", 403),
    ],
)
def test_only_reading_a_picture_is_open_to_other_sites_pages(
    method: str, path: str, status: int | None
) -> None:
    assert ask("localhost", *SHOWN, method=method, path=path).status == status


def test_a_picture_too_needs_a_name_that_is_ours() -> None:
    assert ask("evil.example", path=PICTURE).status == 421


# What is no HTTP --------------------------------------------------------------------------------


def test_what_is_no_request_over_http_is_the_application_s_business() -> None:
    behind = Behind()

    async def nothing(*_: Any) -> Message:
        raise AssertionError("nothing is to be said")

    asyncio.run(Gate(behind, ServerSettings(), "here")({"type": "lifespan"}, nothing, nothing))

    assert behind.reached == [{"type": "lifespan"}]
