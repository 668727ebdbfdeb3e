"""What goes between a node and a server: how often, under which key, and what ends it."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Callable

import pytest
from installed_nodes import InstalledNodes, InterruptProcessingException, StandInComfy
from PIL import Image
from scripted_server import Asked, Reply, Script, ScriptedServer

ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"
ACCEPTED = Reply({"data": {"id": ID, "status": "created"}})


def png_of(mode: str = "RGB", **options: object) -> str:
    buffer = io.BytesIO()
    Image.new(mode, (512, 512)).save(buffer, format="PNG", **options)
    return base64.b64encode(buffer.getvalue()).decode()


def completed(*outputs: str) -> Reply:
    data = {"id": ID, "status": "completed", "outputs": list(outputs or (png_of(),))}
    return Reply({"data": data})


def script_of(*, submits: list[Reply], polls: list[Reply]) -> Script:
    """Replies to each kind of question in turn, the last one for ever."""

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/cancel"):
            return ACCEPTED
        left = submits if asked.method == "POST" else polls
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def keys_of(server: ScriptedServer) -> list[str]:
    """The submissions' keys, in order."""
    return [
        asked.headers["idempotency-key"]
        for asked in server.asked
        if asked.method == "POST" and asked.body
    ]


def test_the_depth_map_is_asked_for_first_and_each_submission_has_its_own_key(
    nodes: InstalledNodes,
) -> None:
    with ScriptedServer(script_of(submits=[ACCEPTED], polls=[completed()])) as server:
        nodes.generate(server.url)

    asked = [one.json().get("only_depth_map") for one in server.asked if one.body]
    assert asked == [True, None]
    assert len(set(keys_of(server))) == 2


@pytest.mark.parametrize(
    "first",
    [Reply(breaks=True), *(Reply({}, status=status) for status in (429, 502, 503, 504))],
    ids=["lost", "429", "502", "503", "504"],
)
def test_a_submission_without_an_answer_is_sent_again_under_its_key(
    first: Reply, nodes: InstalledNodes
) -> None:
    script = script_of(submits=[first, ACCEPTED], polls=[completed()])
    with ScriptedServer(script) as server:
        nodes.generate(server.url)

    first_key, second_key, third_key = keys_of(server)
    assert first_key == second_key
    assert third_key != first_key


@pytest.mark.parametrize("at", ["submit", "poll"])
def test_a_server_that_asks_for_a_pause_is_left_alone_meanwhile(
    at: str, nodes: InstalledNodes
) -> None:
    later = Reply({}, status=503, headers={"Retry-After": "1"})
    submits = [later, ACCEPTED] if at == "submit" else [ACCEPTED]
    polls = [completed()] if at == "submit" else [later, completed()]
    with ScriptedServer(script_of(submits=submits, polls=polls)) as server:
        began = time.monotonic()
        nodes.generate(server.url)
        took = time.monotonic() - began

    assert 1.0 <= took < 4.0


@pytest.mark.parametrize("wait", ["soon", "-1", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 99])
def test_a_pause_that_cannot_be_read_is_none(wait: str, nodes: InstalledNodes) -> None:
    later = Reply({}, status=503, headers={"Retry-After": wait})
    script = script_of(submits=[later, ACCEPTED], polls=[completed()])
    with ScriptedServer(script) as server:
        began = time.monotonic()
        nodes.generate(server.url)

    assert time.monotonic() - began < 4.0


def test_a_submission_is_not_repeated_for_ever(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.module("served"), "AWAY_S", 0.5)
    busy = Reply({"message": "the queue is full."}, status=429)
    with (
        ScriptedServer(busy) as server,
        pytest.raises(nodes.error, match=r"refuses \(429\): the queue is full\."),
    ):
        nodes.generate(server.url)

    assert 2 <= len(server.asked) <= 6
    assert len(set(keys_of(server))) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_poll_that_is_answered_with_not_now_is_repeated(
    status: int, nodes: InstalledNodes
) -> None:
    polls = [Reply(b"<html>", status=status), completed()]
    with ScriptedServer(script_of(submits=[ACCEPTED], polls=polls)) as server:
        images, _, _ = nodes.generate(server.url)

    assert images.shape == (1, 512, 512, 3)


@pytest.fixture
def press(comfy: StandInComfy) -> Callable[[float], None]:
    """Somebody presses the button after so many seconds."""

    def later(seconds: float) -> None:
        def now() -> None:
            comfy.interrupted = True

        threading.Timer(seconds, now).start()

    return later


def test_an_interrupt_does_not_wait_for_a_submission_that_hangs_and_cancels_it_all_the_same(
    nodes: InstalledNodes, press: Callable[[float], None]
) -> None:
    hanging = Reply({"data": {"id": ID}}, waits_s=20.0)
    script = script_of(submits=[hanging, ACCEPTED], polls=[completed()])
    with ScriptedServer(script) as server:
        press(0.5)
        began = time.monotonic()
        with pytest.raises(InterruptProcessingException):
            nodes.generate(server.url)
        took = time.monotonic() - began

    assert took < 5.0
    assert len(keys_of(server)) == 2
    assert len(set(keys_of(server))) == 1
    assert server.asked[-1].path == f"/api/v3/predictions/{ID}/cancel"


@pytest.mark.parametrize(
    "hanging",
    [Reply(b"", waits_s=20.0), Reply(b" " * 200, drips_s=0.1)],
    ids=["silent", "dripping"],
)
def test_an_interrupt_does_not_wait_for_a_poll_that_hangs(
    hanging: Reply, nodes: InstalledNodes, press: Callable[[float], None]
) -> None:
    with ScriptedServer(script_of(submits=[ACCEPTED], polls=[hanging])) as server:
        press(0.5)
        began = time.monotonic()
        with pytest.raises(InterruptProcessingException):
            nodes.generate(server.url)
        took = time.monotonic() - began

    assert took < 5.0
    assert server.asked[-1].path == f"/api/v3/predictions/{ID}/cancel"


def test_an_interrupt_does_not_wait_for_a_pause_to_end(
    nodes: InstalledNodes, press: Callable[[float], None]
) -> None:
    later = Reply({}, status=429, headers={"Retry-After": "60"})
    with ScriptedServer(later) as server:
        press(0.5)
        began = time.monotonic()
        with pytest.raises(InterruptProcessingException):
            nodes.generate(server.url)

    assert time.monotonic() - began < 5.0


def test_a_large_body_may_take_longer_than_a_silence(nodes: InstalledNodes) -> None:
    exchange, silence_s, size = nodes.module("exchange"), 1.0, 32 * 2**20
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def read_slowly() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as stream:
                length = 0
                while (line := stream.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                while length > 0:
                    length -= len(stream.read(min(2**16, length)))
                    time.sleep(0.005)
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"data": {"x": 1}} '
                )

        reader = threading.Thread(target=read_slowly, daemon=True)
        reader.start()
        address = nodes.module("addresses").read_address(
            f"http://127.0.0.1:{listening.getsockname()[1]}"
        )
        request = exchange.Request("POST", "/", {"picture": "x" * size})
        began = time.monotonic()
        answer = exchange.ask(address, request, silence_s=silence_s)
        took = time.monotonic() - began
        reader.join(10)

    assert answer == {"x": 1}
    assert took > 1.5 * silence_s


@pytest.mark.parametrize(
    ("poll", "words"),
    [
        (Reply({"data": {"id": "f" * 32, "status": "completed"}}), "about another prediction"),
        (Reply({"data": {"id": ID, "status": "failed"}}), r"failed: without a word\.$"),
        (Reply({"data": {"id": ID, "status": "failed", "error": "no room"}}), r": no room\.$"),
        (Reply({"message": "gone"}, status=404), r"refuses \(404\): gone\.$"),
        (completed(png_of(), png_of()), "did not answer with one picture"),
        (Reply({"data": {"id": ID, "status": "completed"}}), "did not answer with one picture"),
        (completed(png_of("I;16")), "not of 8 bits in grey or RGB"),
        (completed(png_of("P")), "not of 8 bits in grey or RGB"),
        (completed(png_of("1")), "not of 8 bits in grey or RGB"),
        (completed(png_of("LA")), "not of 8 bits in grey or RGB"),
        (completed(png_of("RGBA")), "not of 8 bits in grey or RGB"),
        (
            completed(
                png_of(save_all=True, append_images=[Image.new("RGB", (512, 512), "white")])
            ),
            "is animated",
        ),
    ],
    ids=[
        "id", "nothing", "stop", "gone", "two", "none", "16 bit", "palette", "1 bit", "grey alpha",
        "alpha", "animated",
    ],
)  # fmt: skip
def test_an_answer_that_is_not_as_asked_is_refused(
    poll: Reply, words: str, nodes: InstalledNodes
) -> None:
    with (
        ScriptedServer(script_of(submits=[ACCEPTED], polls=[poll])) as server,
        pytest.raises(nodes.error, match=words) as caught,
    ):
        nodes.generate(server.url)

    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_two_pictures_are_said_as_two(nodes: InstalledNodes) -> None:
    with (
        ScriptedServer(script_of(submits=[ACCEPTED], polls=[completed()])) as server,
        pytest.raises(nodes.error, match="did not answer with 2 pictures"),
    ):
        nodes.generate(server.url, num_images=2)


def test_a_server_elsewhere_is_not_started_here(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, away = nodes.module("exchange"), "https://gpu.example.org/a"
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", away)
    address = nodes.module("addresses").read_address(away)

    said = str(exchange._silence(address, "timed out", was_sent=False))

    assert "depthflux serve --port" not in said
    assert "see that `depthflux serve` runs there" in said
