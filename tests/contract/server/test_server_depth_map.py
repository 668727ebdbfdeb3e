"""`only_depth_map` over the wire: one output, no steps, and a hosted answer all the same."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from stand_in.running import PICTURE, SUBMIT, StandInServer

BODY = {
    "prompt": "paint",
    "control_image": PICTURE,
    "size": "640*520",
    "num_images": 3,
    "only_depth_map": True,
}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_depth_map_alone_is_one_output_whatever_num_images_is(
    server: StandInServer, version: str
) -> None:
    submitted = server.client.post(SUBMIT.replace("v3", version), json=BODY).json()["data"]

    data = server.wait(submitted["id"])

    (output,) = data["outputs"]
    assert data["status"] == "completed"
    assert data["has_nsfw_contents"] == [False]
    assert data["executionTime"] == data["timings"]["inference"]
    assert Image.open(io.BytesIO(httpx.get(output).content)).size == (640, 520)


def test_sync_mode_and_base64_give_it_in_one_answer(server: StandInServer) -> None:
    body = {**BODY, "enable_sync_mode": True, "enable_base64_output": True}

    data = server.client.post(SUBMIT, json=body).json()["data"]

    (output,) = data["outputs"]
    assert Image.open(io.BytesIO(base64.b64decode(output, validate=True))).size == (640, 520)


def test_a_list_repeats_the_field_as_it_was_accepted(server: StandInServer) -> None:
    id = server.client.post(SUBMIT, json=BODY).json()["data"]["id"]
    server.wait(id)

    items = server.client.get("/api/v3/predictions?page_size=20").json()["data"]["items"]

    given = next(one["input"] for one in items if one["id"] == id)
    assert (given["only_depth_map"], given["num_images"]) == (True, 3)


def test_a_deleted_one_leaves_no_file(server: StandInServer) -> None:
    id = server.client.post(SUBMIT, json=BODY).json()["data"]["id"]
    (output,) = server.wait(id)["outputs"]

    answer = server.client.delete(f"/api/v3/predictions/{id}")

    assert answer.status_code == 200
    assert httpx.get(output).status_code == 404


@pytest.mark.parametrize("value", [1, "true", None])
def test_anything_but_true_or_false_is_refused(server: StandInServer, value: Any) -> None:
    answer = server.client.post(SUBMIT, json={**BODY, "only_depth_map": value})

    assert answer.status_code == 400
    assert "only_depth_map=" in answer.json()["message"]


def test_the_described_request_has_it_switched_off(server: StandInServer) -> None:
    document = server.client.get("/openapi.json").json()

    field = document["components"]["schemas"]["GenerationRequest"]["properties"]["only_depth_map"]

    assert (field["type"], field["default"]) == ("boolean", False)


def test_one_that_waits_is_cancelled_like_any_other(server: StandInServer) -> None:
    running = server.submit("slow 3")["id"]
    waiting = server.client.post(SUBMIT, json=BODY).json()["data"]["id"]

    data = server.client.post(f"/api/v3/predictions/{waiting}/cancel").json()["data"]

    server.client.post(f"/api/v3/predictions/{running}/cancel")
    assert (data["status"], data["outputs"]) == ("failed", [])
    assert server.read(waiting)["status"] == "failed"


def test_its_end_is_counted(server: StandInServer) -> None:
    line = 'depthflux_predictions_ended_total{status="completed"} '

    def completed() -> float:
        text = server.client.get("/metrics").text
        return sum(float(one.split()[-1]) for one in text.splitlines() if one.startswith(line))

    before = completed()
    server.wait(server.client.post(SUBMIT, json=BODY).json()["data"]["id"])

    server.until(lambda: completed() > before or None)
