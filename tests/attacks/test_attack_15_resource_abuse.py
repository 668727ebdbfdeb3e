"""Attack 15: asking for too much, of the graphics card, of the queue, of the memory or of the disk.

What is too much is refused before anything of it is written; one key's many requests are not what
another key waits for; and a body costs the server about its own size, whatever is in it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from depthflux.contract.lora import MAX_LORAS
from depthflux.server.bodies import MOST_BYTES
from depthflux.server.database import FILE_NAME
from stand_in.running import PICTURE, SUBMIT, StandInServer

MIB = 2**20
FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"
BODY = {"prompt": "paint", "control_image": PICTURE, "size": "512*512", "seed": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server with two keys whose queue and rates are soon full."""
    folder = tmp_path_factory.mktemp("small") / "data"
    with StandInServer(
        folder,
        keys=(FIRST, SECOND),
        engine={"allow_private_addresses": "true"},
        max_queued=16,
        key_requests_per_minute=60,
    ) as running:
        yield running


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def at_once(work: Callable[[int], httpx.Response], count: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def written(server: StandInServer) -> tuple[Any, ...]:
    """All that a server has written: its rows, and the files of pictures."""
    with sqlite3.connect(server.data_dir / FILE_NAME) as store:
        counts = tuple(
            store.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
            for table in ("predictions", "uploads", "idempotency", "webhooks")
        )
    folders = ("uploads", "outputs")
    return counts, *(sorted(os.listdir(server.data_dir / name)) for name in folders)


# Hard limits before queueing --------------------------------------------------------------------

LONG = "https://pictures.example/" + "x" * 2048


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_inference_steps": 51}, "num_inference_steps=51"),
        ({"num_inference_steps": 10**4299}, "num_inference_steps="),
        ({"num_images": 5}, "num_images=5"),
        ({"size": "1537*512"}, "size='1537*512'"),
        ({"size": "99999*99999"}, "size='99999*99999'"),
        ({"loras": [{"path": f"a{n}"} for n in range(MAX_LORAS + 1)]}, "loras has 6 entries"),
        ({"prompt": "x" * 16_385}, "prompt has 16385 characters"),
        ({"control_image": LONG}, "control_image has"),
        ({"webhook_url": LONG}, "webhook_url has"),
        ({"unknown": [[]] * 100_000}, "bytes beside its texts"),
        ({"unknown": [""] * 20_000}, "texts"),
        ({"unknown": "x" * 2**20 + "é"}, "body"),
    ],
    ids=[
        "steps",
        "steps of many digits",
        "pictures",
        "a side",
        "sides",
        "loras",
        "prompt",
        "control image's address",
        "webhook's address",
        "brackets",
        "texts",
        "a long text",
    ],
)
def test_a_request_for_too_much_is_refused_before_anything_is_written(
    server: StandInServer, fields: dict[str, Any], named: str
) -> None:
    before = written(server)

    response = server.client.post(
        SUBMIT,
        content=json.dumps({**BODY, **fields}, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": "too much"},
    )

    assert response.status_code == 400
    assert named in response.json()["message"]
    assert written(server) == before


@pytest.mark.parametrize(
    ("path", "request_", "status", "named"),
    [
        (SUBMIT, {"json": BODY, "headers": {"Idempotency-Key": "k" * 256}}, 400, "Idempotency-Key"),
        (f"{SUBMIT}?webhook={LONG}", {"json": BODY}, 400, "webhook"),
        ("/api/v3/predictions", {"json": {"page_size": 101}}, 400, "page_size=101"),
        ("/api/v3/predictions/delete", {"json": {"ids": ["a" * 32] * 101}}, 400, "ids="),
        ("/api/v3/media/uploads", {"json": {"filename": "a" * 1025, "size": 1}}, 400, "filename"),
        ("/api/v3/media/uploads", {"json": {"filename": "a.png", "size": 2**40}}, 400, "size="),
        ("/api/v3/predictions", {"json": {"model": "x" * 70_000}}, 413, "the body has more"),
        ("/api/v3/predictions/delete", {"json": {"ids": ["a" * 70_000]}}, 413, "the body has more"),
    ],
    ids=[
        "idempotency key",
        "webhook in the query",
        "page size",
        "ids to delete",
        "file name",
        "upload",
        "list's body",
        "deletion's body",
    ],
)
def test_what_stands_beside_the_fields_is_bounded_too(
    server: StandInServer, path: str, request_: dict[str, Any], status: int, named: str
) -> None:
    before = written(server)

    response = server.client.post(path, **request_)

    assert response.status_code == status
    assert named in response.json()["message"]
    assert written(server) == before


# Priority ---------------------------------------------------------------------------------------


def test_a_key_with_many_waiting_does_not_starve_another(guarded: StandInServer) -> None:
    for _ in range(30):
        guarded.submit("slow 0.3")
    other = with_key(SECOND)

    answer = guarded.client.post(SUBMIT, json=BODY, headers=other).json()["data"]
    address = f"/api/v3/predictions/{answer['id']}"
    guarded.until(
        lambda: (
            guarded.client.get(address, headers=other).json()["data"]["status"] == "completed"
            or None
        )
    )

    listed = guarded.client.get("/api/v3/predictions?page_size=100&status=created").json()
    # Behind the 30 it would have come after nine seconds, when none of them waits any more.
    assert listed["data"]["total"] >= 15
    ids = [item["id"] for item in listed["data"]["items"]]
    guarded.client.post("/api/v3/predictions/delete", json={"ids": ids})


class Pictures(BaseHTTPRequestHandler):
    """A host of pictures: some it sends at once, some a byte at a time."""

    slow: list[str]
    is_over: threading.Event

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        picture = base64.b64decode(PICTURE)
        if self.path == "/quick.png":
            self.wfile.write(picture)
            return
        self.slow.append(self.path)
        while not self.is_over.wait(0.3):
            self.wfile.write(picture[:1])

    def log_message(self, *_: object) -> None:
        """Nothing is said of requests."""


@pytest.fixture
def slow_host() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths of those it keeps waiting."""
    over, paths = threading.Event(), list[str]()
    handler = type("Handler", (Pictures,), {"slow": paths, "is_over": over})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{host.server_port}", paths
        over.set()
        host.shutdown()
        thread.join()


def test_a_key_whose_picture_hosts_are_slow_holds_up_no_other(
    small: StandInServer, slow_host: tuple[str, list[str]]
) -> None:
    host, waiting = slow_host

    def submit(key: str, picture: str) -> str:
        body = {**BODY, "control_image": picture}
        answer = small.client.post(SUBMIT, json=body, headers=with_key(key))
        id: str = answer.raise_for_status().json()["data"]["id"]
        ids[key].append(id)
        return id

    def is_completed(id: str) -> bool | None:
        response = small.client.get(f"/api/v3/predictions/{id}", headers=with_key(SECOND))
        return response.json()["data"]["status"] == "completed" or None

    ids: dict[str, list[str]] = {FIRST: [], SECOND: []}
    for _ in range(4):
        submit(FIRST, f"{host}/first.png")
    small.until(lambda: len(waiting) >= 2 or None)
    # Longer than the worker waits before it takes another one beside them.
    time.sleep(1.5)
    quick = submit(SECOND, f"{host}/quick.png")
    small.until(lambda: is_completed(quick), timeout_s=8)
    for _ in range(2):
        submit(SECOND, f"{host}/second.png")
    small.until(lambda: len(waiting) >= 3 or None)
    time.sleep(1.5)
    here = submit(SECOND, PICTURE)
    small.until(lambda: is_completed(here), timeout_s=8)

    assert waiting == ["/first.png", "/first.png", "/second.png"]
    for key, made in ids.items():
        small.client.post(
            "/api/v3/predictions/delete", json={"ids": made}, headers=with_key(key)
        ).raise_for_status()


def test_of_32_that_submit_at_once_no_more_than_the_queue_takes_get_in_and_others_keys_do(
    small: StandInServer,
) -> None:
    def submit(_: int) -> httpx.Response:
        return small.client.post(SUBMIT, json={**BODY, "prompt": "slow 20"})

    answers = Counter(response.status_code for response in at_once(submit, 32))
    refused = submit(0)
    others = small.client.post(SUBMIT, json=BODY, headers=with_key(SECOND))
    waiting = small.client.get("/readyz").json()["queued"]

    # Half of the queue's sixteen, and what a worker has taken up meanwhile.
    assert set(answers) == {200, 429}
    assert 8 <= answers[200] <= 12
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "of this key are waiting" in refused.json()["message"]
    assert others.status_code == 200
    assert waiting <= 9
    ids = [item["id"] for item in small.client.get("/api/v3/predictions").json()["data"]["items"]]
    small.client.post("/api/v3/predictions/delete", json={"ids": ids})


def test_of_96_that_ask_at_once_no_more_than_the_rate_get_in(small: StandInServer) -> None:
    query = {"filename": "a.png", "size": 100}
    started = time.monotonic()

    def ask(_: int) -> httpx.Response:
        return small.client.post("/api/v3/media/uploads", json=query, headers=with_key(SECOND))

    answers = Counter(response.status_code for _ in range(3) for response in at_once(ask, 32))

    # 60 in a minute, and one more a second; another test of this key's may have taken some.
    assert set(answers) == {200, 429}
    assert 50 <= answers[200] <= 61 + (time.monotonic() - started)


# Connections ------------------------------------------------------------------------------------


def ask_and_wait(server: StandInServer, key: str) -> socket.socket:
    """A connection on which the same prediction's end is waited for."""
    body = json.dumps({**BODY, "prompt": "slow 20", "enable_sync_mode": True}).encode()
    url = httpx.URL(server.address)
    client = socket.create_connection((url.host, url.port), timeout=30)
    client.sendall(
        f"POST {SUBMIT} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nAuthorization: Bearer {key}\r\n"
        f"Idempotency-Key: once\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return client


def answered(clients: list[socket.socket]) -> list[socket.socket]:
    return select.select(clients, [], [], 0)[0]


def test_waiting_for_a_prediction_keeps_a_part_of_the_connections_and_no_more(
    guarded: StandInServer,
) -> None:
    with ExitStack() as open_:

        def wait(key: str = FIRST) -> socket.socket:
            return open_.enter_context(ask_and_wait(guarded, key))

        def has_a_seat() -> bool | None:
            one = wait()
            # Long, lest a slow refusal is taken for a seat.
            return not select.select([one], [], [], 3)[0] or None

        waiting = [wait() for _ in range(70)]
        guarded.until(lambda: len(answered(waiting)) >= 6 or None, timeout_s=10)
        others = wait(SECOND)
        time.sleep(0.5)
        refused = answered([*waiting, others])
        answers = [one.recv(4096) for one in refused]
        for one in waiting:
            one.close()
        # Who has hung up keeps nobody from waiting.
        guarded.until(has_a_seat, timeout_s=10)

    assert len(refused) == 6
    assert others not in refused
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"code":5004' in answer
        assert b"Sync mode timed out after 0 seconds. The prediction is still proc" in answer
    for key in (FIRST, SECOND):
        listed = guarded.client.get("/api/v3/predictions?page_size=100", headers=with_key(key))
        ids = [item["id"] for item in listed.json()["data"]["items"]]
        guarded.client.post(
            "/api/v3/predictions/delete", json={"ids": ids}, headers=with_key(key)
        ).raise_for_status()


# Memory -----------------------------------------------------------------------------------------


def memory(server: StandInServer, what: str) -> int:
    """Bytes that a server's process has (VmRSS), or has had at most (VmHWM)."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def forget_peak(server: StandInServer) -> int:
    """Let the peak begin anew; what the process has now."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    return memory(server, "VmRSS")


@pytest.mark.alone
@pytest.mark.parametrize(
    "text",
    [b'{"unknown":[' + b"[]," * (40 * MIB // 3) + b"1]}", b'{"unknown":' + b"1" * 40 * MIB + b"}"],
    ids=["nested lists", "digits"],
)
def test_a_bomb_of_json_takes_about_its_own_size_and_holds_nobody_up(
    server: StandInServer, text: bytes
) -> None:
    before = forget_peak(server)
    slowest = 0.0

    with ThreadPoolExecutor(1) as threads:
        bomb = threads.submit(
            httpx.post,
            f"{server.address}{SUBMIT}",
            content=text,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        while not bomb.done():
            started = time.monotonic()
            assert server.client.get("/livez").status_code == 200
            slowest = max(slowest, time.monotonic() - started)

    assert bomb.result().status_code == 400
    # Parsed, the lists would take 27 times as much, and nobody would be answered for two seconds.
    assert memory(server, "VmHWM") - before < 4 * len(text)
    assert slowest < 1.5


def test_bodies_that_do_not_come_to_their_end_take_no_more_than_all_bodies_may(
    server: StandInServer,
) -> None:
    """Ten clients send 40 MiB of one MiB more each, then wait."""
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: {server.address.removeprefix('http://')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {41 * MIB}\r\n\r\n"
    ).encode()
    address = (httpx.URL(server.address).host, httpx.URL(server.address).port)
    before = forget_peak(server)

    with ExitStack() as open_, ThreadPoolExecutor(10) as threads:
        clients = [
            open_.enter_context(socket.create_connection(address, timeout=30)) for _ in range(10)
        ]
        # Together, or the first would be told that they are silent before the last have sent.
        together = threading.Barrier(10, timeout=60)
        sending = [threads.submit(send, client, head, 40, together) for client in clients]
        answers = [one.result() for one in sending]
        held = memory(server, "VmHWM") - before
        meanwhile = server.submit()

    assert Counter(answers) == {b"": MOST_BYTES // (40 * MIB), b"503": 4}
    assert held < MOST_BYTES + 64 * MIB
    assert server.wait(meanwhile["id"])["status"] == "completed"
    # Once they have hung up there is room again.
    server.until(lambda: large_upload(server).status_code == 200 or None)


def send(client: socket.socket, head: bytes, count: int, together: threading.Barrier) -> bytes:
    """Send so many MiB; the status that is answered meanwhile, empty where none is.

    Each MiB is sent when all clients have sent the one before, or have been answered.
    """
    client.sendall(head)
    for _ in range(count):
        together.wait()
        if not select.select([client], [], [], 0)[0]:
            # Who is refused meanwhile finds the answer below.
            with suppress(ConnectionError):
                client.sendall(bytes(MIB))
    if not select.select([client], [], [], 0.5)[0]:
        return b""
    answer = client.recv(4096)
    if answer:
        assert b"retry-after: " in answer.lower()
    return answer[9:12]


def noise(side: int) -> bytes:
    """A PNG that cannot be packed: its bytes are its pixels."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(
        buffer, format="PNG", compress_level=0
    )
    return buffer.getvalue()


def large_upload(server: StandInServer) -> httpx.Response:
    return server.client.post("/api/v3/media/upload/binary", files={"file": ("a.png", noise(1024))})


@pytest.mark.alone
def test_slow_readers_of_a_picture_take_a_piece_of_it_each(server: StandInServer) -> None:
    data = noise(2900)
    uploaded = server.client.post("/api/v3/media/upload/binary", files={"file": ("a.png", data)})
    address = uploaded.json()["data"]["url"]
    before = forget_peak(server)

    with ExitStack() as open_:
        heads = [slow_reader(server, open_, httpx.URL(address).path) for _ in range(24)]
        held = memory(server, "VmHWM") - before
        meanwhile = httpx.get(address, timeout=60)

    assert heads == [b"200"] * 24
    # Whole they were 580 MB.
    assert held < 128 * MIB
    assert meanwhile.content == data


@pytest.mark.alone
def test_slow_readers_of_pictures_as_base64_take_no_more_than_bodies_may(
    server: StandInServer,
) -> None:
    id = server.submit(enable_base64_output=True)["id"]
    server.wait(id)
    with sqlite3.connect(server.data_dir / FILE_NAME) as store:
        query = "SELECT outputs FROM predictions WHERE id = ?"
        (name,) = json.loads(store.execute(query, (id,)).fetchone()[0])
    data = noise(2900)
    (server.data_dir / "outputs" / name).write_bytes(data)
    before = memory(server, "VmRSS")

    with ExitStack() as open_:
        heads = [slow_reader(server, open_, f"/api/v3/predictions/{id}/result") for _ in range(20)]
        held = memory(server, "VmRSS") - before

    size = 4 * len(data) // 3
    assert Counter(heads) == {b"200": MOST_BYTES // size, b"503": 20 - MOST_BYTES // size}
    # Beside them, what making one takes; all twenty were 670 MB.
    assert held < MOST_BYTES + 160 * MIB
    # Once they have hung up there is room again.
    path = f"/api/v3/predictions/{id}/result"
    server.until(lambda: server.client.get(path).status_code == 200 or None)


def slow_reader(server: StandInServer, open_: ExitStack, path: str) -> bytes:
    """Ask for something, read where the answer begins, and no more; the status."""
    reader = open_.enter_context(socket.socket())
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(30)
    address = httpx.URL(server.address)
    reader.connect((address.host, address.port))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return reader.recv(64)[9:12]


# A damaged store --------------------------------------------------------------------------------


def test_a_damaged_store_is_answered_503_and_goes_on_when_it_is_mended(
    small: StandInServer, tmp_path: Path
) -> None:
    path = small.data_dir / FILE_NAME
    id = small.submit()["id"]
    small.wait(id)
    touch(path)
    shutil.copy(path, tmp_path / "whole")

    overwrite(path, b"no database " * (path.stat().st_size // 12))
    answers = [
        small.client.get(f"/api/v3/predictions/{id}/result"),
        small.client.get("/api/v3/predictions"),
        small.client.post(SUBMIT, json=BODY),
        small.client.post("/api/v3/media/uploads", json={"filename": "a.png", "size": 9}),
    ]
    overwrite(path, (tmp_path / "whole").read_bytes())

    assert [answer.status_code for answer in answers] == [503] * 4
    assert all("Retry-After" in answer.headers for answer in answers)
    assert all("database" not in answer.text for answer in answers)
    assert small.wait(small.submit()["id"])["status"] == "completed"
    assert small.read(id)["status"] == "completed"


def touch(path: Path) -> None:
    """Write all into the file itself, then let every connection have to read it again."""
    with sqlite3.connect(path) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.execute("UPDATE versions SET version = version")


def overwrite(path: Path, data: bytes) -> None:
    """In place, as a failing disk does; a new file would not be the one that is open."""
    with path.open("r+b") as file:
        file.write(data)
