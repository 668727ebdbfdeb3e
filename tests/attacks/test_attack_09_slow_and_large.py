"""Attack 9: requests that are too slow, too large or broken, and too many connections.

A client that sends a little and then waits costs nothing to itself; a form of a million parts, or a
header of a gigabyte, costs little. The server is to be there for others all the while.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from depthflux.server.crowd import Patience, make_room
from stand_in.running import SUBMIT, StandInServer

UPLOAD = "/api/v3/media/upload/binary"
FORM = "multipart/form-data; boundary=edge"
MEGABYTE = 2**20
#: As large as an upload may be.
MOST = 32 * MEGABYTE
#: What the server may compute for a few hostile requests; not how long they take, which is also
#: other programs' doing. The worst costs a tenth of this, and what is not bounded almost twice.
MOST_CPU_S = 2.0


def connect(server: StandInServer, data: bytes = b"") -> socket.socket:
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(data)
    return connection


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection, however it does; it is closed then."""
    pieces = []
    with connection, contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def ask(server: StandInServer, data: bytes) -> bytes:
    connection = connect(server)
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    return rest_of(connection)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def cpu_s(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes_of(pid: int) -> float:
    """A process's memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return kilobytes / 1024


# Slow -------------------------------------------------------------------------------------------

HALF_HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
#: To a list, of which any number may be asked for.
HALF_BODY = (
    b"POST /api/v3/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"page'
)


Late = tuple[float, dict[bytes, list[socket.socket]]]


@pytest.fixture(scope="module", autouse=True)
def late(server: StandInServer) -> Iterator[Late]:
    """Connections that wait while the other tests of this file run, and since when."""
    with contextlib.ExitStack() as held:
        yield (
            time.monotonic(),
            {
                half: [held.enter_context(connect(server, half)) for _ in range(20)]
                for half in (b"", HALF_HEAD, HALF_BODY)
            },
        )


def test_while_others_dawdle_requests_are_answered(server: StandInServer) -> None:
    begin = time.monotonic()

    data = server.wait(server.submit()["id"])

    assert data["status"] == "completed"
    assert time.monotonic() - begin < 60


# Large ------------------------------------------------------------------------------------------


def test_headers_without_an_end_take_no_memory(server: StandInServer) -> None:
    before = megabytes_of(server.pid)

    answers = [ask(server, b"GET / HTTP/1.1\r\nX: " + bytes([97]) * MEGABYTE) for _ in range(60)]

    assert {status_of(answer) for answer in answers} == {431}
    assert megabytes_of(server.pid) - before < 20


def form(head: bytes, data: bytes) -> bytes:
    return b"--edge\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data


FILE = form(b'name="file"; filename="a"', b"")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"--x", "multipart/form-data; boundary=" + "a" * 10 * MEGABYTE, 431),
        (b"--x", "multipart/form-data; boundary=" + "a" * 30_000, 400),
        (b"--x", 'multipart/form-data; boundary="' + '\\"' * 15_000, 400),
        (b"--x", "multipart/form-data" + ";a" * 15_000, 400),
        (form(b"name=a", b"x\r\n") * 400_000 + b"--edge--", FORM, 400),
        (b"--edge\r\n\r\nx\r\n" * 2_000_000, FORM, 400),
        (b"--edge\r\nX: " + b"a" * 30 * MEGABYTE, FORM, 400),
        (b"--edge\r\n" + b"X: a\r\n" * 5_000_000, FORM, 400),
        (form(b'name="' + b'\\"' * MEGABYTE + b'"', b"x\r\n--edge--"), FORM, 400),
        (form(b"name=a", b"x" * 30 * MEGABYTE), FORM, 400),
        (FILE + b"x" * 1000, FORM, 400),
        (FILE + b"x\r\n" + FILE + b"x\r\n--edge--", FORM, 400),
        (
            FILE.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n")
            + b"--in\r\n" * 500_000
            + b"\r\n--edge--",
            FORM,
            400,
        ),
        (b"\r\n" * 16 * MEGABYTE, FORM, 400),
        (FILE + b"\r\n--edg" * (MOST // 7) + b"\r\n--edge--", FORM, 400),
        (FILE + b"\r" * MOST + b"\r\n--edge--", FORM, 400),
        (FILE + b"x" * (MOST + 100) + b"\r\n--edge--", FORM, 413),
    ],
    ids=[
        "boundary of 10 MB",
        "boundary of 30 kB",
        "boundary of quotes",
        "parameters",
        "parts",
        "parts without names",
        "header of 30 MB",
        "headers",
        "name of quotes",
        "field of 30 MB",
        "no end",
        "two files",
        "nested",
        "empty lines",
        "almost ends",
        "half lines",
        "file too large",
    ],
)
def test_hostile_forms_are_refused_at_little_cost(
    server: StandInServer, body: bytes, kind: str, status: int
) -> None:
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    memory, computed = megabytes_of(server.pid), cpu_s(server.pid)

    answer = ask(server, head.encode() + body)

    assert status_of(answer) == status
    assert cpu_s(server.pid) - computed < MOST_CPU_S
    assert megabytes_of(server.pid) - memory < 3 * MOST / MEGABYTE
    assert server.client.get("/livez").status_code == 200


def test_a_body_that_does_not_say_how_long_it_is_ends_where_it_is_too_large(
    server: StandInServer,
) -> None:
    def pieces() -> Iterator[bytes]:
        yield FILE
        for _ in range(MOST // MEGABYTE + 3):
            yield b"x" * MEGABYTE

    answer = server.client.post(UPLOAD, content=pieces(), headers={"Content-Type": FORM})

    assert answer.status_code == 413


LONG = {
    "Host": (f"Host: {'/' * 8000}", 400),
    "Origin": (f"Host: 127.0.0.1\r\nOrigin: {'/' * 8000}", 403),
    "Content-Type": (f"Host: 127.0.0.1\r\nContent-Type: {'/' * 8000}", 415),
}


@pytest.mark.parametrize(("headers", "status"), LONG.values(), ids=LONG)
def test_headers_that_are_costly_to_repeat_are_refused_at_little_cost(
    server: StandInServer, headers: str, status: int
) -> None:
    """Fifty, as a client may send them before anybody asks for its key."""
    request = f"POST {SUBMIT} HTTP/1.1\r\n{headers}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    last = request.replace(b"Content-Length", b"Connection: close\r\nContent-Length")
    computed = cpu_s(server.pid)

    answers = [ask(server, request * 16 + last) for _ in range(3)]

    assert {answer.count(f"HTTP/1.1 {status} ".encode()) for answer in answers} == {17}
    assert cpu_s(server.pid) - computed < MOST_CPU_S


# Broken -----------------------------------------------------------------------------------------

HIDDEN = b"DELETE /api/v3/predictions/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "length",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Content-Length: 5\r\nContent-Length: 0",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Content-Length: 0\r\n Transfer-Encoding: chunked",
        b"Content-Length: 0\nTransfer-Encoding: chunked",
    ],
    ids=repr,
)
def test_no_request_can_be_hidden_in_anothers_body(server: StandInServer, length: bytes) -> None:
    id = server.submit("paint")["id"]
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + length
    hidden = HIDDEN % id.encode()

    answer = ask(server, head + b"\r\n\r\n0\r\n\r\n" + hidden)

    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 400") == 1
    assert b"HTTP/1.1 200" not in answer
    assert server.read(id)["id"] == id


def test_who_asks_for_a_tunnel_is_refused_at_little_cost(server: StandInServer) -> None:
    computed = cpu_s(server.pid)

    answers = [
        ask(server, b"CONNECT http://a/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") for _ in range(30)
    ]

    assert {status_of(answer) for answer in answers} == {400}
    assert all(b"CONNECT is for proxies" in answer for answer in answers)
    assert cpu_s(server.pid) - computed < MOST_CPU_S


# Slow, in the end -------------------------------------------------------------------------------


def test_who_has_dawdled_for_long_enough_is_refused(late: Late) -> None:
    begin, connections = late

    answers = {half: [rest_of(one) for one in ones] for half, ones in connections.items()}

    assert Patience().head_s <= time.monotonic() - begin < 60
    assert set(answers[b""]) == {b""}
    for half in (HALF_HEAD, HALF_BODY):
        assert {status_of(answer) for answer in answers[half]} == {408}


# Many -------------------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[int]:
    """This process may open as many files as the server; how many connections that has then."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield make_room()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("half", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "head", "body"])
def test_more_connections_than_there_may_be_keep_nobody_out(
    server: StandInServer, many_files: int, half: bytes
) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(many_files + 30):
            held.enter_context(connect(server, half))
        before = cpu_s(server.pid)

        answer = ask(server, b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

        # The name is none of the server's: it was asked all the same, and said so.
        assert status_of(answer) == 421
        assert server.client.get("/livez").text == "ok\n"
        assert cpu_s(server.pid) - before < MOST_CPU_S
