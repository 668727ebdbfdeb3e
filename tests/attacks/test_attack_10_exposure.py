"""Attack 10: somebody else on the network finds the server, and tries to get in without a key.

What may be open is written down here by hand; all else there is comes from the application itself,
so that a new route is closed or stands in this file.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from depthflux.errors import SettingsError
from depthflux.server.app import make_app
from depthflux.server.board import Board
from depthflux.server.database import Database
from depthflux.server.keys import Keys, read_keys
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.service import Service
from depthflux.server.serving import require_keys
from depthflux.server.settings import ServerSettings
from depthflux.settings import EngineSettings
from stand_in.running import StandInServer

#: What answers without a key. A picture's and a ticket's addresses are secrets themselves.
OPEN = {
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/media/{name}"),
    ("put", "/api/v2/media/uploads/{secret}"),
    ("put", "/api/v3/media/uploads/{secret}"),
}
#: What there is beside the described routes: the description, what has no body, and two refusals.
UNDESCRIBED = {
    ("get", "/openapi.json"),
    ("head", "/openapi.json"),
    ("head", "/livez"),
    ("head", "/readyz"),
    ("head", "/media/{name}"),
    *(
        (method, f"/api/{v}/predictions/delete")
        for method in ("get", "delete")
        for v in ("v2", "v3")
    ),
}
EVERYWHERE = ["0.0.0.0", "::", "192.168.1.2", "10.0.0.1", "8.8.8.8", "fe80::1", "::ffff:0.0.0.0"]  # noqa: S104


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


# Listening --------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def refused(folder: Path, *words: str, **variables: str) -> tuple[int, str]:
    """Exit code and last line of `depthflux serve`, which does not come to listen."""
    command = [sys.executable, "-m", "depthflux", "serve", "--profile", "demo", *words]
    process = subprocess.Popen(
        [*command, "--port", str(free_port()), "--data-dir", str(folder / "data")],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # A server that listens says so in its first line, and one that has ended says nothing.
    address = process.stdout.readline()
    if address:
        process.kill()
    _, said = process.communicate(timeout=60)
    assert address == ""
    return process.returncode, said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("host", "keys"),
    [("0.0.0.0", ""), ("::", " \t,, ")],  # noqa: S104
    ids=["no keys", "keys of nothing but white space"],
)
def test_a_server_for_others_without_keys_ends_before_it_listens(
    host: str, keys: str, tmp_path: Path
) -> None:
    code, said = refused(tmp_path, "--host", host, DEPTHFLUX_API_KEYS=keys)

    assert code == 3
    assert said.startswith(f"error: host={host} lets other machines in, which needs API keys.")
    # Nor is anything made of what it would have needed.
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no key"),
        (" \n\t\n  # mine\n", "holds no key"),
        ("hunter2\n", "API key 1 of 1 is refused; allowed: 16 or more"),
        ("good-enough-for-this-test\nadmin\n", "API key 2 of 2 is refused; allowed: 16 or more"),
        ("x" * 15, "API key 1 of 1 is refused; allowed: 16 or more"),
        ("two words of one key", "API key 1 of 1 is refused; allowed: 16 or more"),
    ],
    ids=["empty", "white space", "short", "one of two short", "15 characters", "words"],
)
def test_a_file_of_no_good_keys_is_refused_and_none_of_them_is_shown(
    content: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(content)

    with pytest.raises(SettingsError, match=reason) as caught:
        read_keys(file, {})

    keys = [line.strip() for line in content.splitlines() if line.strip()]
    assert not any(key in str(caught.value) for key in keys)


def test_the_command_ends_with_that_refusal_too(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("  \n\n")

    code, said = refused(tmp_path, "--host", "0.0.0.0", "--api-keys-file", f"{tmp_path}/keys.txt")  # noqa: S104

    assert code == 3
    assert "keys.txt holds no key." in said


@pytest.mark.parametrize("host", EVERYWHERE)
def test_every_address_that_others_reach_needs_keys(host: str) -> None:
    settings = ServerSettings(host=host)

    with pytest.raises(SettingsError, match=f"^host={re.escape(settings.host)} lets other"):
        require_keys(settings, Keys([]))

    require_keys(settings, Keys(["a-key-of-these-tests"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "::ffff:127.0.0.1"])
def test_addresses_that_only_this_machine_reaches_need_none(host: str) -> None:
    require_keys(ServerSettings(host=host), Keys([]))


def test_a_server_listens_on_its_one_address_and_no_other(server: StandInServer) -> None:
    port = int(server.address.rpartition(":")[2])

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)

    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200


# Without a key ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(guarded: StandInServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{guarded.address}/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def stranger(guarded: StandInServer) -> Iterator[httpx.Client]:
    """A client of the guarded server that has no key."""
    with httpx.Client(base_url=guarded.address, timeout=30) as client:
        yield client


def test_no_route_is_hidden_from_the_description(tmp_path: Path, document: dict[str, Any]) -> None:
    settings, database = ServerSettings(data_dir=tmp_path), Database(tmp_path)
    service = Service(settings, EngineSettings(), database, Media(tmp_path), Board(), Metrics())
    app = make_app(service, Keys(["a-key-of-these-tests"]))
    database.close()

    there = {
        (method.lower(), route.path)
        for route in iter_route_contexts(app.routes)
        for method in route.methods
    }

    assert there - set(operations(document)) == UNDESCRIBED


def without_a_good_key(key: str) -> list[tuple[str, dict[str, str]]]:
    """Ways in that are none, with the query and the headers that they are tried with."""
    return [
        ("", {}),
        ("", {"Authorization": ""}),
        ("", {"Authorization": "Bearer"}),
        ("", {"Authorization": "Bearer any"}),
        ("", {"Authorization": f"Bearer {key[:-1]}"}),
        ("", {"Authorization": f"Bearer {key.upper()}"}),
        ("", {"Authorization": f"Basic {key}"}),
        ("", {"Authorization": key}),
        ("", {"X-Api-Key": key, "Cookie": f"Authorization=Bearer {key}; key={key}"}),
        ("", {"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "Forwarded": "for=::1"}),
        (f"?key={key}&api_key={key}&Authorization=Bearer%20{key}", {}),
    ]


def test_every_route_but_the_open_ones_wants_a_key(
    document: dict[str, Any], stranger: httpx.Client, keys: tuple[str, str]
) -> None:
    closed = [one for one in operations(document) if one not in OPEN]
    assert len(closed) >= 30

    for method, path in closed:
        for query, headers in without_a_good_key(keys[0]):
            path = re.sub(r"{\w+}", "0" * 32, path)
            response = stranger.request(method, path + query, headers=headers)

            assert response.status_code == 401, (method, path, query, headers)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert keys[0] not in response.text


def test_the_open_routes_are_those_that_are_described_so(document: dict[str, Any]) -> None:
    said = {
        (method, path)
        for method, path in operations(document)
        if document["paths"][path][method].get("security") == []
    }

    assert said == OPEN


def test_what_is_open_says_nothing_of_what_people_ask_for(
    guarded: StandInServer, stranger: httpx.Client
) -> None:
    id = guarded.submit(prompt="paint nobody else's business")["id"]
    guarded.wait(id)

    for path in ("/livez", "/readyz", "/openapi.json", "/media/0", "/nothing"):
        said = stranger.get(path)

        assert said.status_code in (200, 404)
        assert "nobody else's business" not in said.text
        assert id not in said.text
    assert stranger.put("/api/v3/media/uploads/0", content=b"x").status_code == 404
    for method in ("GET", "DELETE"):
        assert stranger.request(method, "/api/v3/predictions/delete").status_code == 405


def test_a_key_is_judged_before_a_byte_of_the_body_is_asked_for(
    guarded: StandInServer, document: dict[str, Any]
) -> None:
    bodies = [
        (method, path)
        for method, path in operations(document)
        if (method, path) not in OPEN and "requestBody" in document["paths"][path][method]
    ]
    host, port = guarded.address.removeprefix("http://").split(":")

    for method, path in bodies:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                f"{method.upper()} {path} HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Type: application/json\r\n"
                "Content-Length: 30000\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            # 100 Continue would come first.
            assert connection.recv(12) == b"HTTP/1.1 401", path
