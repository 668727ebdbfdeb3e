"""scripts/test-comfyui's WebSocket, against servers that speak it well, badly or not at all."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from comfyui_test.errors import CheckFailedError
from comfyui_test.websocket import WebSocket, client_frame, read_frame, read_head

#: RFC 6455, section 1.3.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def server_frame(code: int, data: bytes, *, last: bool = True) -> bytes:
    """A frame as servers send it, not masked."""
    first = bytes([(0x80 if last else 0) | code])
    if len(data) < 126:
        return first + bytes([len(data)]) + data
    if len(data) < 2**16:
        return first + bytes([126]) + struct.pack("!H", len(data)) + data
    return first + bytes([127]) + struct.pack("!Q", len(data)) + data


@contextmanager
def web_socket_server(
    talk: Callable[[socket.socket], None], *, accept: bytes | None = None
) -> Iterator[int]:
    """A server that takes one WebSocket; its port.

    Args:
        talk: what it says then.
        accept: what it proves itself by; None for what the protocol asks of it.
    """

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as stream:
            _, headers = read_head(stream)
            key = headers["sec-websocket-key"].encode()
            proof = hashlib.sha1(key + MAGIC, usedforsecurity=False).digest()
            answer = accept or base64.b64encode(proof)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + answer
                + b"\r\n\r\n"
            )  # fmt: skip
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_messages_of_every_length_and_in_parts_are_read() -> None:
    texts = ["", "a", "b" * 125, "c" * 126, "d" * 65_536]

    def talk(connection: socket.socket) -> None:
        for text in texts:
            connection.sendall(server_frame(1, text.encode()))
        connection.sendall(server_frame(1, b"in ", last=False) + server_frame(0, b"parts"))
        connection.sendall(server_frame(2, b"\x00\xff"))

    with (
        web_socket_server(talk) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        received = [web_socket.receive(5) for _ in range(len(texts) + 2)]

    assert received == [*texts, "in parts", b"\x00\xff"]


def test_a_ping_is_answered_masked_and_the_message_behind_it_is_read() -> None:
    answered: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(server_frame(9, b"still there?") + server_frame(1, b"news"))
        answered.append(connection.recv(1000))

    with (
        web_socket_server(talk) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        received = web_socket.receive(5)

    assert received == "news"
    frame = answered[0]
    assert frame[:2] == bytes([0x80 | 10, 0x80 | len(b"still there?")])
    mask, masked = frame[2:6], frame[6:]
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked)) == b"still there?"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (server_frame(8, b""), "has closed its WebSocket"),
        (b"", "has hung up"),
        (server_frame(1, b"whole")[:-1], "has hung up"),
        (client_frame(1, b"masked"), "no frame that a server sends"),
        (bytes([0x81, 127]) + struct.pack("!Q", 2**40), "no frame that a server sends"),
    ],
    ids=["closed", "hung up", "cut off", "masked", "too large"],
)
def test_what_ends_a_connection_is_told(sent: bytes, words: str) -> None:
    with (
        web_socket_server(lambda connection: connection.sendall(sent)) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
        pytest.raises(CheckFailedError, match=words),
    ):
        web_socket.receive(5)


def test_a_server_that_cannot_prove_that_it_speaks_the_protocol_is_refused() -> None:
    with (
        web_socket_server(lambda _connection: None, accept=b"bm8=") as port,
        pytest.raises(CheckFailedError, match="no WebSocket at /ws"),
    ):
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5)


def test_a_silent_server_is_not_waited_for_longer_than_asked() -> None:
    over = threading.Event()

    with (
        web_socket_server(lambda _connection: over.wait(10) or None) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        with pytest.raises(TimeoutError):
            web_socket.receive(0.05)
        over.set()


def test_a_frame_says_whether_it_is_the_last_of_its_message() -> None:
    stream = io.BytesIO(server_frame(1, b"one", last=False) + server_frame(0, b"two"))

    assert read_frame(stream) == (False, 1, b"one")
    assert read_frame(stream) == (True, 0, b"two")
