"""The stand-in for the hosted service says what the service's documentation says, and no more."""

import base64
import io
import json
import re
import time
from datetime import datetime
from typing import Any

import pytest
from hosted_stub import Behaviour, Failure, HostedStub
from hosted_stub.asking import ask, final, picture, poll, submit, with_key
from PIL import Image, ImageStat

KEY = "key-of-the-test"
MODEL = "wavespeed-ai/flux-control-lora-depth"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_every_status_from_created_over_processing_to_completed_is_seen_over_several_polls():
    with HostedStub(KEY) as stub:
        submitted = submit(stub)
        polled = [poll(stub, submitted).data for _ in range(4)]

    assert submitted.data["status"] == "created"
    assert [data["status"] for data in polled] == [
        "created",
        "processing",
        "completed",
        "completed",
    ]
    assert [len(data["outputs"]) for data in polled] == [0, 0, 1, 1]


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_both_prefixes_answer_the_documented_envelope_and_name_their_own_version(version: str):
    with HostedStub(KEY) as stub:
        submitted = submit(stub, version)
        identifier = submitted.data["id"]
        bare = with_key(stub, f"/api/{version}/predictions/{identifier}")
        data = final(stub, submitted)

    assert submitted.status == bare.status == 200
    assert {k: v for k, v in submitted.json.items() if k != "data"} == {
        "code": 200,
        "message": "success",
    }
    assert re.fullmatch("[0-9a-f]{32}", identifier)
    url = f"{stub.base_url}/api/{version}/predictions/{identifier}/result"
    assert data["urls"] == {"get": url}
    assert (data["model"], data["error"], data["has_nsfw_contents"]) == (MODEL, "", [False])


def test_created_at_has_nanoseconds_and_both_timings_are_the_same_whole_milliseconds():
    with HostedStub(KEY, Behaviour(inference_ms=25729)) as stub:
        submitted = submit(stub)
        data = final(stub, submitted)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", data["created_at"])
    assert datetime.fromisoformat(data["created_at"]).tzinfo is not None
    assert submitted.data["executionTime"] == submitted.data["timings"]["inference"] == 0
    assert data["executionTime"] == data["timings"]["inference"] == 25729


def test_outputs_are_jpg_addresses_on_the_cdn_that_need_no_key_whatever_format_was_asked():
    with HostedStub(KEY) as stub:
        data = final(stub, submit(stub, num_images=3, output_format="png", an_unknown_field=1))
        replies = [ask(url) for url in data["outputs"]]
        seen = [request for request in stub.requests if request.listener == "cdn"]

    assert len(set(data["outputs"])) == len(data["has_nsfw_contents"]) == 3
    for url, reply in zip(data["outputs"], replies, strict=True):
        assert url.startswith(f"{stub.cdn_url}/")
        assert url.endswith(".jpg")
        assert reply.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(reply.body)).format == "JPEG"
    assert len({reply.body for reply in replies}) == 3
    assert [("authorization" in request.headers) for request in seen] == [False] * 3


@pytest.mark.parametrize(
    ("floored", "expected"), [(False, (864, 1636)), (True, (864, 1632))], ids=["exact", "floored"]
)
def test_the_documented_default_size_is_not_refused_and_comes_exact_or_floored(
    floored: bool, expected: tuple[int, int]
):
    with HostedStub(KEY, Behaviour(floor_to_16=floored)) as stub:
        named = picture(stub, size="864*1636")
        body = {"prompt": "no size at all"}
        submitted = with_key(stub, f"/api/v2/{MODEL}", "POST", body)
        default = ask(final(stub, submitted)["outputs"][0]).body

    assert named.size == expected
    assert Image.open(io.BytesIO(default)).size == expected


def test_the_same_seed_and_prompt_give_the_same_picture_and_minus_one_draws_another():
    with HostedStub(KEY) as first:
        one, other_seed, other_prompt = (
            picture(first).tobytes(),
            picture(first, seed=2).tobytes(),
            picture(first, prompt="a harbour").tobytes(),
        )
        random_ones = {picture(first, seed=-1).tobytes() for _ in range(2)}
    with HostedStub(KEY) as second:
        again = picture(second).tobytes()

    assert one == again
    assert len({one, other_seed, other_prompt}) == 3
    assert len(random_ones) == 2


def test_an_upload_as_form_field_file_becomes_a_control_image_whose_structure_shows():
    ramp = Image.linear_gradient("L").resize((512, 512))
    boundary = "a-boundary"
    form = (
        b'--a-boundary\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n'
        b'--a-boundary\r\nContent-Disposition: form-data; name="file"; filename="ramp.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + png(ramp) + b"\r\n--a-boundary--\r\n"
    )

    with HostedStub(KEY) as stub:
        headers = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        }
        uploaded = ask(f"{stub.base_url}/api/v2/media/upload/binary", "POST", form, headers).data
        stored = ask(uploaded["download_url"])
        painted = picture(stub, control_image=uploaded["download_url"]).convert("L")

    assert (uploaded["filename"], uploaded["size"]) == ("ramp.png", len(png(ramp)))
    assert uploaded["download_url"].startswith(f"{stub.cdn_url}/")
    assert (stored.body, stored.headers["content-type"]) == (png(ramp), "image/png")
    bands = [
        ImageStat.Stat(painted.crop((0, top, 512, top + 128))).mean[0] for top in (0, 192, 384)
    ]
    assert bands[0] + 20 < bands[1] < bands[2] - 20


def test_an_upload_ticket_is_put_without_a_key_to_an_address_with_its_own_secret():
    data = png(Image.new("L", (64, 64), 90))

    with HostedStub(KEY, Behaviour(upload_headers={"X-Token": "t"})) as stub:
        wanted = {"filename": "grey.png", "size": len(data), "content_type": "image/png"}
        ticket = with_key(stub, "/api/v3/media/uploads", "POST", wanted).data
        url = ticket["upload"]["url"]
        before = ask(ticket["download_url"])
        without_headers = ask(url, "PUT", data)
        guessed = ask(f"{stub.cdn_url}/put/guessed", "PUT", data, ticket["upload"]["headers"])
        put = ask(url, "PUT", data, ticket["upload"]["headers"])
        after = ask(ticket["download_url"])
        status = final(stub, submit(stub, control_image=ticket["download_url"]))["status"]

    assert (ticket["upload"]["method"], ticket["upload"]["headers"]) == ("PUT", {"X-Token": "t"})
    assert (without_headers.status, guessed.status, put.status) == (403, 403, 200)
    assert (before.status, after.status, after.body) == (404, 200, data)
    assert status == "completed"


@pytest.mark.parametrize(
    "control_image", ["http://127.0.0.1:1/a.png", "https://example.org/a.png", "!no base64!"]
)
def test_a_control_image_that_cannot_be_fetched_fails_with_code_1402_in_a_http_200(
    control_image: str,
):
    with HostedStub(KEY) as stub:
        submitted = submit(stub, control_image=control_image)
        data = final(stub, submitted)

    assert (submitted.status, submitted.data["status"]) == (200, "created")
    assert (data["status"], data["code"]) == ("failed", 1402)
    assert data["error"] == "Failed to download image from the provided URL."
    assert data["outputs"] == []


def test_control_images_as_data_uri_and_bare_base64_pass_unless_switched_off():
    naked = base64.b64encode(png(Image.new("L", (64, 64), 90))).decode()
    uri = f"data:image/png;base64,{naked}"

    with HostedStub(KEY) as stub:
        taken = [final(stub, submit(stub, control_image=text))["status"] for text in (naked, uri)]
    with HostedStub(KEY, Behaviour(inline_images=False)) as strict:
        refused = final(strict, submit(strict, control_image=uri))

    assert taken == ["completed", "completed"]
    assert (refused["status"], refused["code"]) == ("failed", 1402)


def test_a_failed_task_is_http_200_success_with_status_failed_error_text_and_code():
    failing = {1: Failure("Content moderation.", 1200)}.get

    with HostedStub(KEY, Behaviour(failing=failing)) as stub:
        good, bad = final(stub, submit(stub)), submit(stub)
        first = poll(stub, bad)
        failed = final(stub, bad)

    assert (good["status"], "code" in good) == ("completed", False)
    assert (first.status, first.json["code"], first.json["message"]) == (200, 200, "success")
    assert (failed["status"], failed["error"], failed["code"]) == (
        "failed",
        "Content moderation.",
        1200,
    )


@pytest.mark.parametrize("value", [None, "Bearer wrong", KEY, "Bearer ", f"Basic {KEY}"])
def test_a_missing_or_wrong_key_is_401_with_a_body_and_costs_nothing(value: str | None):
    headers = {} if value is None else {"Authorization": value}

    with HostedStub(KEY) as stub:
        body = json.dumps({"prompt": "x"}).encode()
        posted = ask(f"{stub.base_url}/api/v3/{MODEL}", "POST", body, headers)
        polled = ask(f"{stub.base_url}/api/v3/predictions/{'0' * 32}/result", headers=headers)

    assert (posted.status, polled.status) == (401, 401)
    assert posted.json["code"] == 401
    assert posted.json["message"] == posted.json["error"]
    assert (stub.charged, stub.predictions) == (0, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": None},
        {"control_image": 5},
        {"control_scale": 2.01},
        {"control_scale": True},
        {"seed": -2},
        {"seed": 10_000_000_000},
        {"seed": 1.5},
        {"num_images": 0},
        {"num_images": 5},
        {"size": "511*512"},
        {"size": "512*1537"},
        {"size": "512x512"},
        {"num_inference_steps": 51},
        {"guidance_scale": 0.99},
        {"guidance_scale": float("nan")},
        {"enable_safety_checker": "true"},
    ],
    ids=str,
)
def test_a_parameter_outside_the_documented_range_is_400_and_costs_nothing(wrong: dict[str, Any]):
    with HostedStub(KEY) as stub:
        reply = submit(stub, **wrong)

    assert reply.status == 400
    assert next(iter(wrong)) in reply.json["message"]
    assert stub.charged == 0


def test_the_documented_limits_themselves_are_taken():
    with HostedStub(KEY) as stub:
        low = submit(stub, control_scale=0, seed=-1, num_inference_steps=1, guidance_scale=1)
        high = submit(
            stub,
            control_scale=2.0,
            seed=9999999999,
            num_images=4,
            size="1536*512",
            num_inference_steps=50,
            guidance_scale=30.0,
            loras=[],
        )

    assert (low.status, high.status) == (200, 200)
    assert (stub.charged, stub.charged_images) == (2, 5)


def test_sync_mode_answers_the_final_envelope_after_the_work():
    with HostedStub(KEY, Behaviour(picture_seconds=0.1)) as stub:
        began = time.monotonic()
        data = submit(stub, enable_sync_mode=True, num_images=2).data
        took_s = time.monotonic() - began
        polled = with_key(stub, data["urls"]["get"]).data

    assert (data["status"], len(data["outputs"])) == ("completed", 2)
    assert took_s >= 0.2
    assert data["timings"]["inference"] == data["executionTime"] == 200
    assert polled == data


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(sync_expires=True), Behaviour(picture_seconds=1.0, sync_wait_s=0.05)],
    ids=["at once", "after the wait"],
)
def test_an_expired_sync_wait_is_http_200_with_code_5004_and_the_task_goes_on(
    behaviour: Behaviour,
):
    with HostedStub(KEY, behaviour) as stub:
        reply = submit(stub, enable_sync_mode=True)
        data = final(stub, reply)

    assert reply.status == 200
    assert set(reply.data) == {"id", "status", "code", "error", "urls"}
    assert (reply.data["status"], reply.data["code"]) == ("processing", 5004)
    assert reply.data["error"] == (
        "Sync mode timed out after 90 seconds. The prediction is still processing asynchronously."
    )
    assert (data["id"], data["status"]) == (reply.data["id"], "completed")


def test_base64_outputs_are_naked_and_refuse_a_webhook_with_the_documented_text():
    with HostedStub(KEY) as stub:
        output = final(stub, submit(stub, enable_base64_output=True))["outputs"][0]
        webhook = "?webhook=https://example.org/hook"
        refused = submit(stub, query=webhook, enable_base64_output=True)
        webhook_alone = submit(stub, query=webhook)

    assert Image.open(io.BytesIO(base64.b64decode(output, validate=True))).format == "JPEG"
    assert refused.status == 400
    assert refused.json == {
        "error": "webhook callback does not support base64 output, "
        "please use the normal API to use base64 output"
    }
    assert webhook_alone.status == 200


def test_an_unknown_identifier_is_404_and_so_is_a_deleted_one():
    with HostedStub(KEY) as stub:
        url = submit(stub).data["urls"]["get"]
        unknown = with_key(stub, f"/api/v3/predictions/{'0' * 32}/result")
        before = with_key(stub, url)
        deleted = with_key(stub, url.removesuffix("/result"), "DELETE")
        after = with_key(stub, url)

    assert (unknown.status, before.status, deleted.status, after.status) == (404, 200, 200, 404)
    assert deleted.data["status"] == "deleted"
    assert stub.charged == 1


def test_the_list_is_newest_first_and_a_balance_can_be_asked():
    with HostedStub(KEY) as stub:
        identifiers = [submit(stub).data["id"] for _ in range(3)]
        page = {"page": 1, "page_size": 2}
        listed = with_key(stub, "/api/v3/predictions", "POST", page).data
        balance = with_key(stub, "/api/v3/balance").data["balance"]

    assert [item["id"] for item in listed["items"]] == identifiers[:0:-1]
    assert listed["total"] == 3
    assert balance > 0
