"""The hosted endpoint's own clients, from their registries, with nothing but the base URL changed.

What each has is what its README tells or its source shows; all of it is tested:

| client            | waits             | upload   | failed task | sync mode | beside that         |
|-------------------|-------------------|----------|-------------|-----------|---------------------|
| Python 0.0.5      | run, async_run    | -        | returned    | a field   | create, by id       |
| Python 1.0.3      | run, module's run | one post | raised      | an option | retries             |
| Python newest     | run, module's run | ticket   | raised      | an option | retries, no_throw   |
| JavaScript 0.0.15 | run               | one post | returned    | a field   | create, webhook     |
| JavaScript 0.2.3  | run               | one post | raised      | an option | retries, runNoThrow |
| JavaScript newest | run               | ticket   | raised      | an option | retries, runNoThrow |

All of them raise what the server refuses. Python 1.0.3 does not look at the status in sync mode,
so there it returns no pictures of a failed task and says nothing, whoever serves it.
"""

from __future__ import annotations

import dataclasses
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hosted_clients
import httpx
import numpy as np
import pytest
from hosted_clients import CLIENTS, Answer, Endpoint, HostedClient, call, install
from picture_host import PictureHost
from PIL import Image

import depthflux

#: All that is asked for but the control image, which is given in several ways.
SMALL_REQUEST = {
    "prompt": "a white cylinder on a yellow floor, purple sky",
    "size": "512*512",
    "num_inference_steps": 2,
    "seed": 7,
}
#: Clients that return a failed prediction; the others raise.
RETURN_FAILURES = {"python-0.0.5", "javascript-0.0.15"}


def having(*ways: str) -> pytest.MarkDecorator:
    """Run the test once for each client and each of the ways that the client has."""
    pairs = [(client, way) for client in CLIENTS for way in ways if way in client.ways]
    names = [f"{client.name}-{way}" if len(ways) > 1 else client.name for client, way in pairs]
    return pytest.mark.parametrize(("client", "way"), pairs, ids=names)


@pytest.fixture
def request_fields(pictures: PictureHost) -> dict[str, Any]:
    """A small request for a picture of the scene."""
    return SMALL_REQUEST | {"control_image": f"{pictures.url}/scene.png"}


@pytest.fixture
def failing(pictures: PictureHost, request_fields: dict[str, Any]) -> dict[str, Any]:
    """A request that is accepted and fails: its control image is a text."""
    return request_fields | {"control_image": pictures.new_text()}


@pytest.fixture(scope="session")
def expected(demo_engine: depthflux.Engine, scene: Path) -> np.ndarray:
    """The picture that the same request gives in Python."""
    prediction = demo_engine.generate(control_image=scene, **SMALL_REQUEST)
    return np.asarray(prediction.images[0])


def downloaded(server: Endpoint, url: str) -> np.ndarray:
    """The picture at one of the server's addresses, fetched without a key as browsers do."""
    assert url.startswith(f"{server.url}/"), url
    response = httpx.get(url, trust_env=False)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))
        return np.asarray(picture.convert("RGB"))


def failure_of(client: HostedClient, answer: Answer) -> str:
    """What the client says of a task that failed."""
    if client.name not in RETURN_FAILURES:
        assert "Prediction failed" in answer.error_text
        return answer.error_text
    assert answer.returned is not None, answer.raised
    assert (answer.returned["status"], answer.returned["outputs"]) == ("failed", [])
    return answer.returned["error"]


def what_is_wrong(failing: dict[str, Any]) -> str:
    """How the server's text about a control image begins that is no picture."""
    return f"control_image='{failing['control_image']}': is text, no PNG, JPEG or WebP picture"


@having("run", "run_of_the_module", "run_asynchronously", "create_then_wait")
def test_a_client_gets_the_picture_that_python_gets(
    client: HostedClient,
    way: str,
    server: Endpoint,
    request_fields: dict[str, Any],
    expected: np.ndarray,
) -> None:
    answer = call(client, way, server, request_fields)

    assert answer.raised is None
    (output,) = answer.returned["outputs"]
    assert output.endswith(".png")
    assert np.array_equal(downloaded(server, output), expected)


@having("sync")
def test_sync_mode_answers_with_the_finished_picture(
    client: HostedClient,
    way: str,
    server: Endpoint,
    request_fields: dict[str, Any],
    expected: np.ndarray,
) -> None:
    answer = call(client, way, server, request_fields)

    assert answer.raised is None
    (output,) = answer.returned["outputs"]
    assert np.array_equal(downloaded(server, output), expected)


@having("upload_then_run")
def test_an_upload_gives_an_address_that_works_as_control_image(
    client: HostedClient,
    way: str,
    server: Endpoint,
    request_fields: dict[str, Any],
    scene: Path,
    expected: np.ndarray,
) -> None:
    answer = call(client, way, server, request_fields | {"control_image": str(scene)})

    assert answer.raised is None
    assert answer.returned["uploaded"].startswith(f"{server.url}/")
    (output,) = answer.returned["outputs"]
    assert np.array_equal(downloaded(server, output), expected)


@having("run")
def test_a_failed_task_says_why(
    client: HostedClient, way: str, server: Endpoint, failing: dict[str, Any]
) -> None:
    answer = call(client, way, server, failing)

    assert what_is_wrong(failing) in failure_of(client, answer)


@having("run_with_retries")
def test_a_failed_task_is_not_run_again_by_clients_that_retry(
    client: HostedClient,
    way: str,
    server: Endpoint,
    failing: dict[str, Any],
    pictures: PictureHost,
) -> None:
    answer = call(client, way, server, failing)

    assert what_is_wrong(failing) in failure_of(client, answer)
    path = failing["control_image"].removeprefix(pictures.url)
    assert pictures.fetched.count(path) == 1


@having("run_without_raising")
def test_a_failed_task_is_known_by_its_id(
    client: HostedClient, way: str, server: Endpoint, failing: dict[str, Any]
) -> None:
    answer = call(client, way, server, failing)

    assert answer.raised is None
    detail = answer.returned.get("detail", answer.returned)
    assert (answer.returned["outputs"], detail["status"]) == (None, "failed")
    assert what_is_wrong(failing) in detail["error"]
    task_id = detail.get("taskId") or detail["task_id"]
    assert re.fullmatch("[0-9a-f]{32}", task_id)
    if asked_again := answer.returned.get("asked_again"):
        assert (asked_again["id"], asked_again["status"]) == (task_id, "failed")


@having("sync")
def test_a_task_that_fails_in_sync_mode_says_why(
    client: HostedClient, way: str, server: Endpoint, failing: dict[str, Any]
) -> None:
    answer = call(client, way, server, failing)

    if client.name == "python-1.0.3":
        assert answer.returned == {"outputs": []}
    else:
        assert what_is_wrong(failing) in failure_of(client, answer)


@having("run", "sync")
def test_a_refused_request_says_what_is_allowed(
    client: HostedClient, way: str, server: Endpoint, request_fields: dict[str, Any]
) -> None:
    request_fields["num_inference_steps"] = 51
    with pytest.raises(depthflux.InvalidParameterError) as refused:
        depthflux.GenerationRequest(**request_fields)

    answer = call(client, way, server, request_fields)

    assert "400" in answer.error_text
    body = answer.error_body
    assert (body["code"], body["message"]) == (400, str(refused.value))


@having("run")
def test_a_key_that_is_not_let_in_is_refused(
    client: HostedClient, way: str, server: Endpoint, request_fields: dict[str, Any]
) -> None:
    answer = call(client, way, dataclasses.replace(server, key="of-nobody"), request_fields)

    assert "401" in answer.error_text
    assert answer.error_body["code"] == 401


@having("create_then_wait")
def test_clients_with_a_prediction_of_their_own_get_every_field_of_it(
    client: HostedClient, way: str, server: Endpoint, request_fields: dict[str, Any]
) -> None:
    """Python 0.0.5 checks all types strictly, of the unfinished prediction, too."""
    answer = call(client, way, server, request_fields)

    assert answer.raised is None
    prediction = answer.returned
    assert re.fullmatch("[0-9a-f]{32}", prediction["id"])
    own_address = f"{server.url}{client.base_path}predictions/{prediction['id']}/result"
    assert prediction["urls"] == {"get": own_address}
    assert (prediction["status"], prediction["error"]) == ("completed", "")
    assert prediction["model"] == "depthflux/demo"
    assert prediction["has_nsfw_contents"] == [False]
    assert prediction["executionTime"] > 0
    age = datetime.now(UTC) - datetime.fromisoformat(prediction["created_at"])
    assert timedelta(0) < age < timedelta(minutes=10)


@having("run_with_webhook")
def test_a_webhook_is_told_what_the_client_is(
    client: HostedClient,
    way: str,
    server: Endpoint,
    request_fields: dict[str, Any],
    pictures: PictureHost,
) -> None:
    webhook = {"webhook_url": f"{pictures.url}/told"}

    answer = call(client, way, server, request_fields | webhook)

    told = pictures.next_told(within_s=30)
    assert answer.raised is None
    shared = ("id", "status", "outputs", "error", "has_nsfw_contents")
    assert {name: told[name] for name in shared} == {name: answer.returned[name] for name in shared}


def test_without_nodejs_its_clients_are_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In continuous integration that is a failure, as all skips are."""
    client = next(client for client in CLIENTS if client.name.startswith("javascript"))
    monkeypatch.setattr(hosted_clients, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(pytest.skip.Exception, match=r"needs Node\.js and npm on the path"):
        install.__wrapped__(client)
