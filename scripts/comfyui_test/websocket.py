"""A client of one WebSocket, as much of RFC 6455 as listening to ComfyUI takes.

Knows nothing of what the messages say.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import struct
from types import TracebackType
from typing import BinaryIO, Self

from comfyui_test.errors import CheckFailedError

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
#: The word that every server appends to the client's key, RFC 6455 section 1.3.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: ComfyUI's largest messages are previews of pictures; far below this.
MOST_BYTES = 2**26


class WebSocket:
    """An open connection, as a context."""

    def __init__(self, host: str, port: int, path: str, *, timeout_s: float) -> None:
        """Connect.

        Args:
            host: the server's address.
            port: its port.
            path: with its query.
            timeout_s: how long anything may be waited for.

        Raises:
            CheckFailedError: the server speaks no WebSocket there.
        """
        self._socket = socket.create_connection((host, port), timeout_s)
        self._stream: BinaryIO = self._socket.makefile("rb")
        key = base64.b64encode(secrets.token_bytes(16))
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key.decode()}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status, headers = read_head(self._stream)
        proof = hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest()
        wanted = base64.b64encode(proof).decode()
        if " 101 " not in status or headers.get("sec-websocket-accept") != wanted:
            self.close()
            raise CheckFailedError(f"no WebSocket at {path}: {status!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()

    def receive(self, timeout_s: float) -> str | bytes:
        """The next message: a text, or bytes. Pings are answered meanwhile.

        Raises:
            CheckFailedError: the other side has hung up, or sends too much.
            TimeoutError: nothing came in time.
        """
        self._socket.settimeout(timeout_s)
        whole, kind = b"", _TEXT
        while True:
            last, code, data = read_frame(self._stream)
            if code == _CLOSE:
                raise CheckFailedError("ComfyUI has closed its WebSocket.")
            if code == _PING:
                self._socket.sendall(client_frame(_PONG, data))
            if code not in (_CONTINUATION, _TEXT, _BINARY):
                continue
            kind = code or kind
            whole += data
            if len(whole) > MOST_BYTES:
                raise CheckFailedError(f"a message of more than {MOST_BYTES} bytes came.")
            if last:
                return whole.decode() if kind == _TEXT else whole


def read_head(stream: BinaryIO) -> tuple[str, dict[str, str]]:
    """An HTTP answer's first line, and its headers under small names."""
    status = stream.readline().decode("latin-1").strip()
    headers = {}
    while line := stream.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return status, headers


def read_frame(stream: BinaryIO) -> tuple[bool, int, bytes]:
    """One frame of a server: whether it ends its message, its code, its bytes.

    Raises:
        CheckFailedError: the stream ends within it, it is masked, or too large.
    """
    first, second = _exactly(stream, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", _exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", _exactly(stream, 8))
    if second & 0x80 or length > MOST_BYTES:
        raise CheckFailedError(f"no frame that a server sends: masked, or {length} bytes.")
    return bool(first & 0x80), first & 0x0F, _exactly(stream, length)


def client_frame(code: int, data: bytes) -> bytes:
    """A frame of a client: masked, as the protocol asks of one; at most 125 bytes."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data[:125]))
    return bytes([0x80 | code, 0x80 | len(masked)]) + mask + masked


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise CheckFailedError("ComfyUI has hung up.")
    return data
