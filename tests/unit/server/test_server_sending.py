"""Large answers: sent in pieces, the next one made when the one before is taken."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from depthflux.files import open_regular
from depthflux.server.sending import IS_GONE, PIECE_BYTES, DocumentAnswer, FileAnswer, OpenFile

LARGE = os.urandom(3 * PIECE_BYTES + 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of some pieces."""
    path = tmp_path / "picture"
    path.write_bytes(LARGE)
    return path


class Client:
    """Takes what is sent, up to a piece at which it stops or is gone."""

    def __init__(self, *, stops_after: int = 1000, gone_after: int = 1000) -> None:
        self.messages: list[Message] = []
        self.stops_after, self.gone_after = stops_after, gone_after

    async def send(self, message: Message) -> None:
        if len(self.messages) >= self.stops_after:
            await asyncio.Event().wait()
        self.messages.append(message)

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}

    async def take(self, answer: Any, method: str = "GET") -> None:
        scope = {"type": "http", "method": method, "headers": []}
        scope[IS_GONE] = lambda: len(self.messages) >= self.gone_after
        await answer(scope, self.receive, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def is_complete(self) -> bool:
        last = self.messages[-1]
        return last["type"] == "http.response.body" and not last.get("more_body", False)


def answer_of(path: Path) -> tuple[FileAnswer, Any]:
    raw = open_regular(path)
    return FileAnswer(OpenFile(raw), media_type="image/png", headers={"A": "b"}), raw


@pytest.mark.parametrize("size", [1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, len(LARGE)])
def test_a_file_is_sent_whole_and_in_pieces(path: Path, size: int) -> None:
    path.write_bytes(LARGE[:size])
    client = Client()
    answer, raw = answer_of(path)

    asyncio.run(client.take(answer))

    headers = dict(client.messages[0]["headers"])
    assert client.body == LARGE[:size]
    assert client.is_complete
    assert (headers[b"content-length"], headers[b"a"]) == (str(size).encode(), b"b")
    assert max(len(one.get("body", b"")) for one in client.messages) <= PIECE_BYTES
    assert raw.closed


def test_a_file_that_is_deleted_meanwhile_is_sent_whole(path: Path) -> None:
    client = Client()
    answer, _ = answer_of(path)
    path.unlink()

    asyncio.run(client.take(answer))

    assert client.body == LARGE


def test_of_a_file_no_more_than_a_piece_is_read_before_it_is_taken(path: Path) -> None:
    # The headers, and the first piece; what is sent after it waits until that is taken.
    client = Client(stops_after=2)
    answer, raw = answer_of(path)

    async def take_a_piece() -> int:
        taking = asyncio.create_task(client.take(answer))
        await asyncio.sleep(0.05)
        position = raw.tell()
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        return position

    assert asyncio.run(take_a_piece()) == PIECE_BYTES
    # However the sending ends, the file is closed.
    assert raw.closed


def test_to_a_client_that_is_gone_nothing_more_is_read(path: Path) -> None:
    client = Client(gone_after=3)
    answer, raw = answer_of(path)

    asyncio.run(client.take(answer))

    assert client.body == LARGE[:PIECE_BYTES]
    assert raw.closed


def test_of_a_head_request_s_answer_there_are_only_headers(path: Path) -> None:
    client = Client()
    answer, raw = answer_of(path)

    asyncio.run(client.take(answer, "HEAD"))

    assert dict(client.messages[0]["headers"])[b"content-length"] == str(len(LARGE)).encode()
    assert (client.body, client.is_complete, raw.closed) == (b"", True, True)


@pytest.mark.parametrize("size", [10, 2 * PIECE_BYTES])
def test_a_document_is_sent_whole_and_in_pieces(size: int) -> None:
    client = Client()

    asyncio.run(client.take(DocumentAnswer({"text": "x" * size})))

    assert json.loads(client.body) == {"text": "x" * size}
    assert dict(client.messages[0]["headers"])[b"content-length"] == str(len(client.body)).encode()
    assert max(len(one.get("body", b"")) for one in client.messages) <= PIECE_BYTES
    assert client.is_complete
