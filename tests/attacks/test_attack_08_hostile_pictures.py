"""Attack 8: pictures that unpack to gigabytes, keep a decoder busy for minutes, or break it.

Real cases: Pillow CVE-2026-25990 (a write out of bounds in its PSD decoder), CVE-2022-45199 (TIFF),
vLLM CVE-2026-22773 (a picture that ends the server). Here each of them is one clear line for who
sent it, and costs the worker and the server nothing.
"""

from __future__ import annotations

import base64
import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_pictures import FAILING, HARMLESS, JPEG, PNG, REFUSED, damaged, jpeg

from stand_in.running import SUBMIT, StandInServer

MIB = 2**20
#: 8000 x 8000 and as many scans as are taken: more than two seconds of a core.
BUSY = jpeg(8000, 8000, 100)
DECODING_S = 1.0


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server that gives a picture one second, and fetches from this machine."""
    with StandInServer(
        tmp_path_factory.mktemp("hostile") / "data",
        stand_in={"seconds": 0.001, "picture_seconds": DECODING_S},
        engine={"allow_private_addresses": "true"},
        key_requests_per_minute=0,
    ) as running:
        running.wait(running.submit(control_image=base64_of(JPEG))["id"])
        yield running


@pytest.fixture
def unmoved(attacked: StandInServer) -> Iterator[StandInServer]:
    """The server; after the attack its worker is the same one, and nobody holds more memory."""
    (worker,) = attacked.worker_pids()
    pids = (attacked.pid, worker)
    before = [resident(pid) for pid in pids]

    yield attacked

    assert attacked.wait(attacked.submit()["id"])["status"] == "completed"
    assert attacked.worker_pids() == [worker]
    grown = [resident(pid) - most for pid, most in zip(pids, before, strict=True)]
    assert max(grown) < 48 * MIB, grown
    assert "Traceback" not in attacked.log.read_text()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def resident(pid: int) -> int:
    """The memory that a process holds, in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def decoders(server: StandInServer) -> list[int]:
    """The processes of the worker's decoders."""
    (worker,) = server.worker_pids()
    tasks = Path(f"/proc/{worker}/task").glob("*/children")
    return [int(pid) for children in tasks for pid in children.read_text().split()]


def send(server: StandInServer, data: bytes) -> Any:
    body = {
        "prompt": "paint",
        "control_image": base64_of(data),
        "size": "512*512",
        "num_inference_steps": 1,
    }
    return server.client.post(SUBMIT, json=body)


def outcome(server: StandInServer, data: bytes) -> str:
    """What becomes of a picture: refused, failed or completed, with one clear line."""
    response = send(server, data)
    if response.status_code == 400:
        line = response.json()["message"]
        assert line.startswith("control_image=")
        word = "refused"
    else:
        assert response.status_code == 200, response.text
        ended = server.wait(response.json()["data"]["id"])
        line, word = ended["error"], ended["status"]
        assert word == "completed" or ended["code"] == 1402, ended
    assert line.isprintable()
    assert "Traceback" not in line
    return word


def test_pictures_whose_container_says_enough_are_refused_when_they_are_handed_in(
    unmoved: StandInServer,
) -> None:
    before = time.monotonic()

    outcomes = {name: outcome(unmoved, data) for name, data in REFUSED.items()}

    assert set(outcomes.values()) == {"refused"}, outcomes
    assert time.monotonic() - before < 15


def test_no_name_and_no_media_type_make_something_else_a_picture(unmoved: StandInServer) -> None:
    statuses = {
        name: unmoved.client.post(
            "/api/v3/media/upload/binary", files={"file": ("room.png", data, "image/png")}
        ).status_code
        for name, data in REFUSED.items()
    }

    assert set(statuses.values()) == {400}, statuses


def test_pictures_that_only_decoding_finds_out_fail_their_prediction(
    unmoved: StandInServer,
) -> None:
    outcomes = {name: outcome(unmoved, data) for name, data in FAILING.items()}

    assert set(outcomes.values()) == {"failed"}, outcomes


def test_what_is_no_pixel_is_thrown_away_before_anything_unpacks_it(
    unmoved: StandInServer,
) -> None:
    outcomes = {name: outcome(unmoved, data) for name, data in HARMLESS.items()}

    assert set(outcomes.values()) == {"completed"}, outcomes


@pytest.mark.parametrize("way", ["inside", "uploaded", "fetched"])
def test_a_picture_that_keeps_its_decoder_busy_fails_whichever_way_it_came(
    unmoved: StandInServer, way: str
) -> None:
    with Host(BUSY) as host:
        if way == "inside":
            source = base64_of(BUSY)
        elif way == "uploaded":
            uploaded = unmoved.client.post(
                "/api/v3/media/upload/binary", files={"file": ("a.jpg", BUSY)}
            )
            source = uploaded.json()["data"]["download_url"]
        else:
            source = host.url

        ended = unmoved.wait(unmoved.submit(control_image=source)["id"])

    assert (ended["status"], ended["code"]) == ("failed", 1402)
    assert "takes too long to decode" in ended["error"]


def test_a_decoder_that_breaks_costs_its_picture_alone(unmoved: StandInServer) -> None:
    """As one does that a picture has made write where it must not."""
    unmoved.wait(unmoved.submit()["id"])
    before = decoders(unmoved)
    id = unmoved.submit(control_image=base64_of(BUSY))["id"]
    busy = unmoved.until(lambda: next((one for one in decoders(unmoved) if computes(one)), None))

    os.kill(busy, signal.SIGSEGV)

    ended = unmoved.wait(id)
    assert "ends its decoder by signal SIGSEGV" in ended["error"]
    assert unmoved.wait(unmoved.submit()["id"])["status"] == "completed"
    assert decoders(unmoved) != before
    assert len(decoders(unmoved)) == 1


def computes(pid: int) -> bool:
    """Whether a process is in the middle of something: it has computed within some moments."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(0.1)
    return ticks() - before > 2


def test_damaged_pictures_are_painted_or_refused_or_fail_and_nothing_else(
    unmoved: StandInServer,
) -> None:
    outcomes = [outcome(unmoved, data) for data in damaged(100, seed=20261130)]

    assert outcomes.count("completed") > 5
    assert outcomes.count("refused") > 5
    assert outcomes.count("failed") > 5
    assert len(decoders(unmoved)) == 1


def test_more_pictures_at_once_than_decoders_are_kept_leave_one(unmoved: StandInServer) -> None:
    ids = [unmoved.submit(control_image=base64_of(data))["id"] for data in [PNG, JPEG] * 6]

    statuses = {unmoved.wait(id)["status"] for id in ids}

    assert statuses == {"completed"}
    assert len(decoders(unmoved)) == 1


def test_a_decoder_ends_with_a_worker_that_is_killed(attacked: StandInServer) -> None:
    attacked.wait(attacked.submit()["id"])
    id = attacked.submit(control_image=base64_of(BUSY))["id"]
    busy = attacked.until(lambda: next((one for one in decoders(attacked) if computes(one)), None))

    os.kill(attacked.worker_pids()[0], signal.SIGKILL)

    attacked.until(lambda: not is_alive(busy) or None, timeout_s=5)
    assert attacked.wait(id)["code"] == 1402


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Host:
    """Gives one picture to whoever asks on 127.0.0.1.

    Attributes:
        url: where.
    """

    def __init__(self, data: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/room.jpg"

    def __enter__(self) -> Host:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
