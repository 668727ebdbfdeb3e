"""Webhooks over the wire: what is told, how it is signed, and that it is told at last."""

from __future__ import annotations

import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

import pytest

from stand_in.running import SUBMIT, StandInServer, grey_picture

BODY = {
    "prompt": "paint",
    "control_image": grey_picture(9),
    "size": "512*512",
    "num_inference_steps": 2,
    "seed": 3,
}


def told(server: StandInServer, receiver: Any, count: int = 1) -> list[dict[str, Any]]:
    server.until(lambda: len(receiver.received) >= count or None)
    documents: list[dict[str, Any]] = receiver.documents()
    return documents


def is_genuine(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As the hosted service's page on verifying tells a receiver to do it."""
    version, signature = headers["webhook-signature"].split(",")
    signed = headers["webhook-id"] + "." + headers["webhook-timestamp"] + "." + body.decode()
    key = secret[len("whsec_") :].encode()
    computed = hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
    is_fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return version == "v3" and hmac.compare_digest(signature, computed) and is_fresh


@pytest.mark.parametrize("where", ["query", "body"])
def test_the_bare_prediction_with_its_input_is_told(
    server: StandInServer, receiver: Any, where: str
) -> None:
    given = {"webhook_url": receiver.url} if where == "body" else {}
    params = {"webhook": receiver.url} if where == "query" else {}
    id = server.client.post(SUBMIT, params=params, json={**BODY, **given}).json()["data"]["id"]

    (document,) = told(server, receiver)

    expected = server.client.get(f"/api/v3/predictions/{id}/result").json()["data"]
    assert {name: document[name] for name in expected} == expected
    assert set(document) - set(expected) == {"input"}
    assert document["status"] == "completed"
    assert document["input"]["prompt"] == "paint"
    assert document["input"]["seed"] == 3
    assert "webhook_url" not in document["input"]


def test_a_webhook_is_signed_so_that_its_receiver_can_tell(
    server: StandInServer, receiver: Any
) -> None:
    server.client.post(SUBMIT, params={"webhook": receiver.url}, json=BODY)
    told(server, receiver)
    secret = server.client.get("/api/v3/webhook/secret").json()["data"]["secret"]

    headers, body = receiver.received[0]

    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["content-type"] == "application/json"
    assert is_genuine(headers, body, secret)
    assert not is_genuine(headers, body + b" ", secret)
    assert not is_genuine(headers, body, "whsec_" + "0" * 64)
    assert secret == server.client.get("/api/v2/webhook/secret").json()["data"]["secret"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_prediction_that_failed_is_told_too(
    server: StandInServer, receiver: Any, end: str
) -> None:
    body = {**BODY, "prompt": "memory" if end == "failed" else "slow 20", "num_inference_steps": 50}
    id = server.client.post(SUBMIT, params={"webhook": receiver.url}, json=body).json()["data"][
        "id"
    ]
    if end == "cancelled":
        server.client.post(f"/api/v3/predictions/{id}/cancel")

    (document,) = told(server, receiver)

    assert document["status"] == "failed"
    assert document["outputs"] == []
    assert document["error"] != ""


def test_a_refusal_is_followed_by_another_attempt_with_the_same_id(
    server: StandInServer, receiver: Any
) -> None:
    receiver.answers = [500]

    server.client.post(SUBMIT, params={"webhook": receiver.url}, json=BODY)
    first, second = told(server, receiver, count=2)

    ids = [
        {k.lower(): v for k, v in headers.items()}["webhook-id"] for headers, _ in receiver.received
    ]
    assert first == second
    assert ids[0] == ids[1] == first["id"]


def test_a_redirect_is_not_followed(server: StandInServer, receiver: Any) -> None:
    receiver.answers = [302]

    server.client.post(SUBMIT, params={"webhook": receiver.url}, json=BODY)

    # Told again at the same address, for a redirect is no receipt.
    assert len(told(server, receiver, count=2)) == 2


def test_a_webhook_survives_a_killed_server(tmp_path: Path, receiver: Any) -> None:
    server = StandInServer(tmp_path / "data", engine={"allow_private_addresses": "true"})
    with server:
        # Refused until the server is killed.
        receiver.answers = [503]
        id = server.client.post(SUBMIT, params={"webhook": receiver.url}, json=BODY).json()["data"][
            "id"
        ]
        told(server, receiver)

        server.kill()
        server.start()

        (_, document) = told(server, receiver, count=2)
        assert document["id"] == id
        assert document["urls"]["get"].startswith("http://127.0.0.1:")


def test_a_private_address_is_not_told(guarded: StandInServer, receiver: Any) -> None:
    id = guarded.client.post(SUBMIT, params={"webhook": receiver.url}, json=BODY).json()["data"][
        "id"
    ]
    guarded.wait(id)

    guarded.until(lambda: "not public address" in guarded.log.read_text() or None)

    assert receiver.received == []
    # Where it would have been told is in the log; what its address carries is not.
    assert "token=secret" not in guarded.log.read_text()


@pytest.mark.parametrize("url", ["ftp://example.org/x", "not an address", "http://a@b.example/"])
def test_a_webhook_that_nobody_can_be_told_by_is_refused_at_submit(
    server: StandInServer, url: str
) -> None:
    response = server.client.post(SUBMIT, params={"webhook": url}, json=BODY)

    assert response.status_code == 400
    assert "webhook_url" in response.json()["message"]
