"""Attack 11: somebody visits a web page, and its script asks the server on their own machine.

The page can send what forms, pictures and scripts of browsers send; by rebinding its name to this
machine it can read answers, too, but under that name. What it cannot do is write Host, Origin and
Sec-Fetch-Site as it likes. The server asks for no keys here, as on a desk.
"""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from stand_in.running import PICTURE, SUBMIT, StandInServer

EVIL = "http://evil.example"
#: Kinds of bodies that a page's script or form may send without asking first.
UNASKED = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
#: What a browser adds to a request of another site's page, in newer ones and in older ones.
CROSS_SITE = [
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.fixture(scope="module")
def operations(server: StandInServer) -> list[tuple[str, str, dict[str, Any]]]:
    """Every route as method, path and description, ids filled in."""
    document = server.client.get("/openapi.json").json()
    found = [
        (method.upper(), re.sub(r"{\w+}", "0" * 32, path), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return [*found, ("GET", "/openapi.json", {}), ("GET", "/there/is/nothing", {})]


def exchange(server: StandInServer, *lines: str, body: bytes = b"") -> str:
    """What comes back when these lines are sent as they stand."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        with connection.makefile("rb") as answer:
            return answer.read().decode()


def status_of(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


# Rebinding --------------------------------------------------------------------------------------


def test_under_a_name_that_was_rebound_no_route_answers_on_any_method(
    server: StandInServer, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    port = server.address.rpartition(":")[2]
    paths = {path for _, path, _ in operations}
    described = {(method, path) for method, path, _ in operations}
    tried = described | {(method, path) for path in paths for method in ("OPTIONS", "DELETE")}

    for method, path in tried:
        # Its page is of the same origin as what it asks, so nothing but the name gives it away.
        response = server.client.request(
            method,
            path,
            headers={
                "Host": f"evil.example:{port}",
                "Origin": f"{EVIL}:{port}",
                "Sec-Fetch-Site": "same-origin",
            },
        )

        assert response.status_code == 421, (method, path)
    assert len(tried) > 60


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Host: evil.example"], 421),
        (["host:evil.example"], 421),
        (["Host: EVIL.EXAMPLE."], 421),
        (["Host: localhost.evil.example"], 421),
        (["Host: 127.0.0.1.evil.example"], 421),
        (["Host: evil.example", "X-Forwarded-Host: localhost"], 421),
        (["Host: evil.example", "Forwarded: host=localhost"], 421),
        (["Host: localhost", "Host: evil.example"], 400),
        (["Host: evil.example", "Host: localhost"], 400),
        (["Host: localhost, evil.example"], 400),
        (["Host: localhost@evil.example"], 400),
        (["Host: evil.example#localhost"], 400),
        (["Host:"], 400),
        ([], 400),
        (["Host: localhost", "X-Forwarded-Host: evil.example"], 200),
        (["Host: LOCALHOST.:1"], 200),
    ],
    ids=lambda value: (", ".join(value) or "none") if isinstance(value, list) else None,
)
def test_a_host_is_taken_as_it_came_or_not_at_all(
    server: StandInServer, lines: list[str], status: int
) -> None:
    answer = exchange(server, "GET /api/v3/models HTTP/1.1", *lines)

    assert status_of(answer) == status
    assert status != 200 or "evil" not in answer


def test_an_address_in_the_request_s_line_does_not_stand_for_the_host(
    server: StandInServer,
) -> None:
    rebound = exchange(server, f"GET {server.address}/api/v3/models HTTP/1.1", "Host: evil.example")
    named = exchange(server, f"GET {EVIL}/api/v3/models HTTP/1.1", "Host: localhost")

    assert status_of(rebound) == 421
    # The Host is the judged one, so addresses are built with it alone.
    assert status_of(named) == 200
    assert "evil" not in named


def test_an_old_request_without_a_host_is_refused(server: StandInServer) -> None:
    assert status_of(exchange(server, "GET /api/v3/models HTTP/1.0")) == 400


# Forms, scripts and pictures of other sites -----------------------------------------------------


def test_what_another_site_s_page_sends_is_refused_on_every_route(
    server: StandInServer, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    tried = [(m, path) for m, path, _ in operations if not path.startswith("/media/")]

    for method, path in tried:
        for headers in CROSS_SITE:
            response = server.client.request(method, path, headers=headers)

            assert response.status_code == 403, (method, path, headers)
            assert not any(name.startswith("access-control") for name in response.headers)
    assert len(tried) > 30


def test_a_drive_by_leaves_nothing_behind(server: StandInServer) -> None:
    before = server.submit()["id"]
    server.wait(before)
    total = server.client.get("/api/v3/predictions").json()["data"]["total"]
    uploads = sorted((server.data_dir / "uploads").iterdir())
    body = {"prompt": "paint", "control_image": PICTURE, "size": "512*512"}
    evil = {"Origin": EVIL}

    codes = [
        server.client.post(SUBMIT, json=body, headers=evil),
        server.client.post(SUBMIT, json=body, headers={"Host": "evil.example"}),
        server.client.post("/api/v3/upload", files={"file": picture_bytes()}, headers=evil),
        server.client.delete(f"/api/v3/predictions/{before}", headers=evil),
        server.client.post("/api/v3/predictions/delete", json={"ids": [before]}, headers=evil),
        server.client.post(f"/api/v3/predictions/{before}/cancel", headers=evil),
    ]

    assert [code.status_code for code in codes] == [403, 421, 403, 403, 403, 403]
    assert server.client.get("/api/v3/predictions").json()["data"]["total"] == total
    assert server.read(before)["status"] == "completed"
    assert sorted((server.data_dir / "uploads").iterdir()) == uploads


def test_a_refusal_comes_before_a_byte_of_the_body_is_asked_for(server: StandInServer) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    for lines, status in (
        (["Host: evil.example"], b"421"),
        (["Host: localhost", f"Origin: {EVIL}"], b"403"),
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = ["POST /api/v3/upload HTTP/1.1", *lines, "Content-Length: 30000"]
            connection.sendall("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
            # 100 Continue would come first.
            assert connection.recv(12) == b"HTTP/1.1 " + status


@pytest.mark.parametrize(
    "more", [{}, {"Access-Control-Request-Private-Network": "true"}], ids=["cors", "private"]
)
def test_a_browser_that_asks_first_is_told_no(server: StandInServer, more: dict[str, str]) -> None:
    asking = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, authorization",
        **more,
    }

    for path in (SUBMIT, "/api/v3/upload", "/livez", "/media/a.png", "/nothing", "/*"):
        response = server.client.request("OPTIONS", path, headers=asking)

        assert response.status_code == 403
        assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "page.localhost"])
def test_a_page_under_the_server_s_own_address_and_a_program_may_ask(
    server: StandInServer, name: str
) -> None:
    host = f"{name}:{server.address.rpartition(':')[2]}"
    page = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    person = {"Host": host, "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
    # As Node's fetch says it.
    program = {"Host": host, "Sec-Fetch-Mode": "cors"}

    for headers in (page, person, program):
        assert server.client.get("/api/v3/balance", headers=headers).status_code == 200
        assert server.client.post("/api/v3/predictions", headers=headers).status_code == 200


def test_what_the_gate_refuses_is_counted(server: StandInServer) -> None:
    server.client.get("/livez", headers={"Host": "evil.example"})
    server.client.get("/livez", headers={"Origin": EVIL})

    said = server.client.get("/metrics").text
    counted = 'depthflux_http_requests_total{method="other",route="none",status="%d"}'
    assert counted % 421 in said
    assert counted % 403 in said


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server that goes by two names of its own, behind a proxy that speaks TLS."""
    with StandInServer(
        tmp_path_factory.mktemp("named") / "data",
        allowed_hosts="depthflux",
        public_url="https://pictures.example.org",
    ) as running:
        yield running


def test_names_that_the_operator_gives_and_their_pages_are_let_in(named: StandInServer) -> None:
    def ask(host: str, origin: str | None = None) -> int:
        page = {} if origin is None else {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        return named.client.get("/api/v3/balance", headers={"Host": host, **page}).status_code

    assert ask("depthflux:8000") == ask("depthflux:8000", "http://depthflux:8000") == 200
    assert ask("pictures.example.org", "https://pictures.example.org") == 200
    # A proxy may send its own name for the server on.
    assert ask("127.0.0.1:8000", "https://pictures.example.org") == 200
    assert ask("evil.example") == 421
    assert ask("pictures.example.org", "http://pictures.example.org.evil.example") == 403


# Bodies -----------------------------------------------------------------------------------------

#: Each is no JSON, or is said in a way that two readers may understand differently.
NOT_JSON = [
    *([("Content-Type", kind)] for kind in UNASKED),
    [("Content-Type", "text/plain; application/json")],
    [("Content-Type", "text/plain, application/json")],
    [("Content-Type", "application/json, text/plain")],
    [("Content-Type", "application/jsonx")],
    [("Content-Type", "application/json-patch+json")],
    [("Content-Type", "text/json")],
    [("Content-Type", "application / json")],
    [("Content-Type", "")],
    [],
    [("Content-Type", "application/json"), ("Content-Type", "text/plain")],
    [("Content-Type", "application/json; a"), ("Content-Type", "text/plain")],
    [("Content-Type", "text/plain"), ("Content-Type", "application/json")],
    [("Content-Type", "application/json"), ("Content-Type", "application/json")],
]


def test_where_json_is_due_nothing_else_is_read_as_such(
    server: StandInServer, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    due = [
        (method, path)
        for method, path, operation in operations
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    assert len(due) >= 12

    for method, path in due:
        for headers in NOT_JSON:
            response = server.client.request(method, path, content=b"{}", headers=headers)

            assert response.status_code == 415, (method, path, headers)
        taken = {"Content-Type": "Application/JSON ; charset=utf-8"}
        response = server.client.request(method, path, content=b"{}", headers=taken)
        assert response.status_code in (200, 400), (method, path)


def test_nothing_but_an_upload_is_a_form(
    operations: list[tuple[str, str, dict[str, Any]]],
) -> None:
    taken = {
        path: set(operation["requestBody"]["content"])
        for _, path, operation in operations
        if "requestBody" in operation
    }
    forms = {
        path for path, kinds in taken.items() if kinds & {kind.split(";")[0] for kind in UNASKED}
    }

    assert {path[7:] for path in forms} == {"/upload", "/media/upload/binary"}
    assert all(taken[path] == {"multipart/form-data"} for path in forms)


# Answers in a browser ---------------------------------------------------------------------------


def picture_bytes() -> bytes:
    """A PNG that is a page and a script, too, for whoever would read it so."""
    buffer, texts = io.BytesIO(), PngImagePlugin.PngInfo()
    texts.add_text("Comment", "<script>alert(1)</script>")
    Image.new("RGB", (64, 64)).save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue() + b"<html><script>alert(1)</script></html>"


@pytest.fixture(scope="module")
def address(server: StandInServer) -> str:
    """Of a picture that came as a page."""
    page = ("page.html", picture_bytes(), "text/html")
    found: str = server.client.post("/api/v3/upload", files={"file": page}).json()["data"]["url"]
    return found


def test_every_answer_says_what_a_browser_must_not_make_of_it(
    server: StandInServer, address: str
) -> None:
    answers = {
        200: server.client.get("/readyz"),
        206: server.client.get(address),
        400: server.client.post(SUBMIT, json={}),
        403: server.client.get("/livez", headers={"Origin": EVIL}),
        404: server.client.get("/<script>"),
        405: server.client.put("/livez"),
        415: server.client.post(SUBMIT, content=b"x", headers={"Content-Type": "text/html"}),
        421: server.client.get("/livez", headers={"Host": "evil.example"}),
    }

    for code, response in answers.items():
        said = response.headers
        assert response.status_code == (200 if code == 206 else code)
        assert said["X-Content-Type-Options"] == "nosniff"
        assert said["Referrer-Policy"] == "no-referrer"
        assert said["Cross-Origin-Opener-Policy"] == "same-origin"
        rules = set(said["Content-Security-Policy"].split("; "))
        assert rules >= {"default-src 'none'", "frame-ancestors 'none'", "sandbox"}
        assert rules >= {"base-uri 'none'", "form-action 'none'"}
        embedding = "cross-origin" if code == 206 else "same-origin"
        assert said.get_list("Cross-Origin-Resource-Policy") == [embedding]
        assert said["Content-Type"].split(";")[0] in (
            ("image/png",) if code == 206 else ("application/json", "text/plain")
        )
        assert "Set-Cookie" not in said


def test_a_picture_may_stand_in_other_sites_pages_and_is_never_anything_else(
    server: StandInServer, address: str
) -> None:
    for headers in CROSS_SITE:
        for method in ("GET", "HEAD"):
            response = server.client.request(method, address, headers=headers)

            assert response.status_code == 200
            assert response.headers["Content-Type"] == "image/png"
            assert not any(name.startswith("access-control") for name in response.headers)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert server.client.request(method, address, headers=headers).status_code == 403
    assert server.client.get(address, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html><script>alert(1)</script>",
        b"GIF89a/*\x00*/=1;alert(1)",
        b"%PDF-1.7",
    ],
    ids=["svg", "xml", "html", "gif and script", "pdf"],
)
def test_what_could_run_is_no_picture(server: StandInServer, content: bytes) -> None:
    file = ("picture.png", content, "image/png")

    response = server.client.post("/api/v3/upload", files={"file": file})

    assert response.status_code == 400
    stored = [path.read_bytes() for path in (server.data_dir / "uploads").iterdir()]
    assert content not in stored


def test_an_answer_that_holds_what_was_sent_is_no_page(server: StandInServer) -> None:
    response = server.client.get("/api/v3/predictions/<script>alert(1)<script>")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/json"
