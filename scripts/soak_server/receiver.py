"""Takes webhooks on this machine, and counts which predictions they told of."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

import httptools

_THANKS = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class Receiver:
    """A receiver of webhooks.

    Attributes:
        told: how often each prediction's end was told.
        url: where it listens.
    """

    def __init__(self) -> None:
        """Listen to nothing yet."""
        self.told: Counter[str] = Counter()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Exchange(self.told), "127.0.0.1", 0
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


class _Exchange(asyncio.Protocol):
    """One webhook."""

    def __init__(self, told: Counter[str]) -> None:
        self._told, self._id = told, ""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"webhook-id":
            self._id = value.decode()

    def on_message_complete(self) -> None:
        self._told[self._id] += 1
        self._transport.write(_THANKS)
        self._transport.close()
