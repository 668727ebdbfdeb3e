"""Every trouble that the stand-in for the hosted service can be switched to."""

import http.client
import io
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from hosted_stub import Behaviour, HostedStub
from hosted_stub.asking import ask, final, poll, submit
from PIL import Image

KEY = "key-of-the-test"
MODEL = "wavespeed-ai/flux-control-lora-depth"


@pytest.mark.parametrize("wait", [None, 7, "Wed, 21 Oct 2026 07:28:00 GMT"], ids=str)
def test_a_refused_submission_is_429_with_or_without_retry_after_and_keeps_its_number(
    wait: int | str | None,
):
    with HostedStub(KEY, Behaviour(refuse_429={0}, retry_after=wait)) as stub:
        refused, taken = submit(stub), submit(stub)

    assert (refused.status, taken.status) == (429, 200)
    assert refused.headers.get("retry-after") == (None if wait is None else str(wait))
    assert [prediction.number for prediction in stub.predictions] == [1]


def test_the_excess_rate_of_images_is_429_until_the_minute_is_over():
    with HostedStub(KEY, Behaviour(images_per_minute=2, minute_s=1.0)) as stub:
        at_once = [submit(stub, num_images=2).status, submit(stub).status]
        time.sleep(1.05)
        later = submit(stub).status

    assert (at_once, later) == ([200, 429], 200)
    assert stub.charged_images == 3


def test_the_excess_concurrency_waits_in_the_queue_and_is_not_counted_as_inference():
    behaviour = Behaviour(
        concurrency_limit=1,
        picture_seconds=0.6,
        polls_until_processing=1,
        polls_until_completed=1,
    )

    with HostedStub(KEY, behaviour) as stub:
        first, second = submit(stub), submit(stub)
        early = [poll(stub, reply).data["status"] for reply in (first, second)]
        data = final(stub, second)
        ended_s = time.monotonic()

    assert early == ["processing", "created"]
    assert stub.predictions[1].starts_s == stub.predictions[0].finishes_s
    assert ended_s - stub.predictions[0].starts_s >= 1.2
    assert data["timings"]["inference"] == 600


def test_fields_that_are_not_always_there_can_be_missing_and_an_empty_error_null():
    names = {"timings", "has_nsfw_contents", "executionTime", "created_at", "urls"}

    with HostedStub(KEY, Behaviour(missing=names, null_error=True)) as stub:
        data = submit(stub).data

    assert set(data) == {"id", "model", "outputs", "status", "error"}
    assert data["error"] is None


def test_a_flagged_submission_says_so_for_every_output():
    with HostedStub(KEY, Behaviour(nsfw={1})) as stub:
        flags = [final(stub, submit(stub, num_images=2))["has_nsfw_contents"] for _ in range(2)]

    assert flags == [[False, False], [True, True]]


def test_polls_and_downloads_can_fail_and_the_next_try_goes_on():
    behaviour = Behaviour(
        poll_errors={0: 500, 1: 502, 2: 503, 3: 429}, output_errors={0: 503}, error_shape="html"
    )

    with HostedStub(KEY, behaviour) as stub:
        submitted = submit(stub)
        failed = [poll(stub, submitted) for _ in range(4)]
        data = final(stub, submitted)
        downloads = [ask(data["outputs"][0]).status for _ in range(2)]

    assert [reply.status for reply in failed] == [500, 502, 503, 429]
    assert failed[1].headers["content-type"] == "text/html"
    assert data["status"] == "completed"
    assert downloads == [503, 200]


def test_a_dropped_submission_is_charged_though_its_connection_closes_without_an_answer():
    with HostedStub(KEY, Behaviour(drop_submission={0})) as stub:
        with pytest.raises(http.client.RemoteDisconnected, match="without response") as dropped:
            submit(stub)
        status = submit(stub).status

    assert dropped.value is not None
    assert status == 200
    assert stub.charged == 2


def ask_again(connection: http.client.HTTPConnection) -> bool:
    """Whether an open connection turns out to have been cut."""
    connection.auto_open = 0
    try:
        connection.request("GET", "/api/v3/balance")
        connection.getresponse()
    except (ConnectionError, http.client.NotConnected):
        return True
    finally:
        connection.close()
    return False


def test_after_its_last_submission_the_listener_is_gone_and_the_cdn_is_not():
    with HostedStub(KEY, Behaviour(die_after=1)) as stub:
        idle = http.client.HTTPConnection(urlsplit(stub.base_url).netloc, timeout=20)
        idle.request("GET", "/api/v3/balance", headers={"Authorization": f"Bearer {KEY}"})
        idle.getresponse().read()
        output = final(stub, submit(stub))["outputs"][0]
        last = submit(stub)
        with pytest.raises(ConnectionRefusedError) as refused:
            poll(stub, last)
        gone = ask_again(idle)
        download = ask(output).status

    assert refused.value.errno is not None
    assert gone
    assert (last.status, download, stub.charged) == (200, 200, 2)


def test_a_redirect_and_strange_origins_are_named_as_switched_and_cost_nothing_more():
    with HostedStub(KEY, Behaviour(redirect_submit_to="http://127.0.0.1:1/x")) as moved:
        reply = submit(moved)
    strange = Behaviour(outputs_elsewhere="http://127.0.0.1:1", urls_elsewhere="http://127.0.0.1:2")
    with HostedStub(KEY, strange) as stub:
        submitted = submit(stub, enable_sync_mode=True).data

    assert (reply.status, reply.headers["location"]) == (307, "http://127.0.0.1:1/x")
    assert moved.charged == 0
    assert submitted["outputs"][0].startswith("http://127.0.0.1:1/media/outputs/")
    assert submitted["urls"]["get"].startswith("http://127.0.0.1:2/api/v3/predictions/")


@pytest.mark.parametrize("extension", ["jpeg", "png", "webp"])
def test_an_output_format_switch_changes_extension_type_and_bytes_together(extension: str):
    with HostedStub(KEY, Behaviour(output_format=extension)) as stub:
        url = final(stub, submit(stub))["outputs"][0]
        reply = ask(url)

    assert url.endswith(f".{extension}")
    assert reply.headers["content-type"] == f"image/{extension}"
    assert Image.open(io.BytesIO(reply.body)).format == extension.upper()


def test_every_request_is_kept_with_listener_method_path_headers_and_body():
    with HostedStub(KEY) as stub:
        submit(stub, "v2", query="?webhook=https://example.org/h", prompt="seen")
        missing = ask(f"{stub.cdn_url}/nothing.jpg").status
        first, second = stub.requests

    assert (first.listener, first.method) == ("api", "POST")
    assert first.path == f"/api/v2/{MODEL}?webhook=https://example.org/h"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.json()["prompt"] == stub.predictions[0].body["prompt"] == "seen"
    assert missing == 404
    assert (second.listener, second.method, second.path) == ("cdn", "GET", "/nothing.jpg")
    assert first.at_s <= second.at_s


def test_many_callers_at_once_are_each_answered_with_a_task_of_their_own():
    identifiers: list[str] = []

    with HostedStub(KEY) as stub:
        threads = [
            threading.Thread(target=lambda: identifiers.append(submit(stub).data["id"]))
            for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(set(identifiers)) == stub.charged == 24
    assert sorted(prediction.number for prediction in stub.predictions) == list(range(24))


@pytest.mark.parametrize(
    "wrong", [{"missing": {"id"}}, {"error_shape": "xml"}, {"output_format": "gif"}], ids=str
)
def test_a_switch_that_would_do_nothing_is_refused(wrong: dict[str, Any]):
    name = next(iter(wrong))

    with pytest.raises(ValueError, match=name) as refused:
        Behaviour(**wrong)

    assert name in str(refused.value)
