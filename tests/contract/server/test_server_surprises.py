"""An error that nobody meant: its caller gets a word, the log the rest, and it is counted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from depthflux.server.app import Observed
from depthflux.server.metrics import Metrics

SCOPE = {"type": "http", "method": "GET", "path": "/x", "headers": []}


def answered(app: Any, metrics: Metrics) -> list[dict[str, Any]]:
    """What an application behind `Observed` sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(Observed(app, metrics)(dict(SCOPE), receive, send))
    return sent


def test_a_surprise_is_a_refusal_with_a_word_for_the_log_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise KeyError("a secret detail")

    with caplog.at_level(logging.ERROR, "depthflux"):
        start, body = answered(app, metrics)

    word = body["body"].decode().partition("names error ")[2][:8]
    headers = dict(start["headers"])
    assert start["status"] == 500
    assert b"secret detail" not in body["body"]
    assert word in caplog.text
    assert "a secret detail" in caplog.text
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b'status="500"' in metrics.render(dict, 0)


def test_a_client_that_hangs_up_is_no_surprise(caplog: pytest.LogCaptureFixture) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ClientDisconnect

    assert answered(app, Metrics()) == []
    assert caplog.text == ""


def test_a_surprise_after_the_answer_has_begun_sends_no_second_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("the disk")

    sent = answered(app, Metrics())

    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "the disk" in caplog.text
