"""The hosted contract over the wire, row by row, in both versions."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

from stand_in.running import PICTURE, StandInServer, grey_picture

MODEL = "wavespeed-ai/flux-control-lora-depth"
VERSIONS = ("v2", "v3")
BODY = {
    "prompt": "paint",
    "control_image": PICTURE,
    "size": "512*512",
    "num_inference_steps": 2,
    "seed": 7,
}


class StrictUrls(BaseModel):
    """`urls` as the oldest client of the hosted service insists on it."""

    model_config = ConfigDict(strict=True)
    get: str


class StrictPrediction(BaseModel):
    """A prediction as the oldest client of the hosted service insists on it."""

    model_config = ConfigDict(strict=True)
    id: str
    model: str
    status: str
    outputs: list[str]
    urls: StrictUrls
    has_nsfw_contents: list[bool]
    created_at: str
    error: str
    executionTime: int  # noqa: N815 - hosted name
    timings: dict[str, int]


def strict(data: dict[str, Any]) -> StrictPrediction:
    assert None not in data.values()
    assert re.fullmatch(r"[0-9a-f]{32}", data["id"])
    assert datetime.fromisoformat(data["created_at"]).tzinfo is not None
    assert data["created_at"].endswith("Z")
    return StrictPrediction(**data)


@pytest.mark.parametrize("version", VERSIONS)
def test_submitting_answers_200_with_a_created_prediction(
    server: StandInServer, version: str
) -> None:
    response = server.client.post(f"/api/{version}/{MODEL}", json=BODY)

    assert response.status_code == 200
    envelope = response.json()
    assert (envelope["code"], envelope["message"]) == (200, "success")
    data = strict(envelope["data"])
    assert data.status == "created"
    assert data.outputs == []
    assert data.executionTime == 0
    assert data.urls.get == f"{server.address}/api/{version}/predictions/{data.id}/result"
    # What is in the queue of a server that all tests share is not left behind.
    server.wait(data.id)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", ["predictions/{id}/result", "predictions/{id}"])
def test_the_result_is_read_by_both_paths(server: StandInServer, version: str, path: str) -> None:
    id = server.submit(num_images=2)["id"]
    server.wait(id)

    response = server.client.get(f"/api/{version}/{path.format(id=id)}")

    assert response.status_code == 200
    data = strict(response.json()["data"])
    assert data.status == "completed"
    assert len(data.outputs) == 2
    assert data.has_nsfw_contents == [False, False]
    assert data.executionTime == data.timings["inference"] == 50
    assert data.urls.get == f"{server.address}/api/{version}/predictions/{id}/result"


def test_outputs_are_files_that_anybody_with_the_address_can_read(server: StandInServer) -> None:
    for format, kind in (("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")):
        id = server.submit(output_format=format, size="640*520")["id"]
        (output,) = server.wait(id)["outputs"]

        response = httpx.get(output)

        assert response.status_code == 200
        assert output.startswith(f"{server.address}/media/")
        assert output.endswith(f".{format}")
        assert response.headers["content-type"] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
        assert Image.open(io.BytesIO(response.content)).size == (640, 520)
        assert httpx.head(output).headers["content-length"] == str(len(response.content))


def test_addresses_are_built_from_the_host_that_the_client_used(server: StandInServer) -> None:
    port = server.address.rpartition(":")[2]
    id = server.submit()["id"]
    server.wait(id)

    for host in (f"localhost:{port}", "GPU.localhost", "[::1]:8000"):
        data = server.client.get(f"/api/v3/predictions/{id}", headers={"Host": host}).json()["data"]

        assert data["urls"]["get"] == f"http://{host}/api/v3/predictions/{id}/result"
        assert data["outputs"][0].startswith(f"http://{host}/media/")


@pytest.mark.parametrize("host", ["a b", "evil.example/path", "a@b", "x\\y", ""])
def test_a_host_that_no_address_can_be_built_with_is_refused(
    server: StandInServer, host: str
) -> None:
    response = server.client.post(f"/api/v3/{MODEL}", json=BODY, headers={"Host": host})

    assert response.status_code == 400


def test_sync_mode_answers_with_the_final_envelope(server: StandInServer) -> None:
    response = server.client.post(f"/api/v3/{MODEL}", json={**BODY, "enable_sync_mode": True})

    data = strict(response.json()["data"])
    assert response.status_code == 200
    assert data.status == "completed"
    assert len(data.outputs) == 1


def test_sync_mode_that_waited_long_enough_says_so_in_the_words_clients_look_for(
    server: StandInServer,
) -> None:
    body = {**BODY, "prompt": "slow 3", "enable_sync_mode": True}

    response = server.client.post(f"/api/v3/{MODEL}", json=body)

    data = response.json()["data"]
    assert response.status_code == 200
    assert (data["status"], data["code"]) == ("processing", 5004)
    assert data["error"] == (
        "Sync mode timed out after 2 seconds. The prediction is still processing asynchronously."
    )
    assert data["urls"]["get"].startswith(server.address)
    assert server.wait(data["id"])["status"] == "completed"


def test_base64_output_is_naked_when_polled_and_in_sync_mode(server: StandInServer) -> None:
    body = {**BODY, "enable_base64_output": True}

    polled = server.wait(server.client.post(f"/api/v3/{MODEL}", json=body).json()["data"]["id"])
    waited = server.client.post(f"/api/v3/{MODEL}", json={**body, "enable_sync_mode": True})

    for (output,) in (polled["outputs"], waited.json()["data"]["outputs"]):
        picture = Image.open(io.BytesIO(base64.b64decode(output, validate=True)))
        assert picture.size == (512, 512)


def test_base64_output_with_a_webhook_is_refused(server: StandInServer) -> None:
    body = {**BODY, "enable_base64_output": True}

    response = server.client.post(
        f"/api/v3/{MODEL}", params={"webhook": "https://example.org/x"}, json=body
    )

    assert response.status_code == 400
    assert "webhook" in response.json()["error"]


def test_a_list_tells_addresses_of_what_was_wanted_as_base64(server: StandInServer) -> None:
    body = {**BODY, "enable_base64_output": True}
    id = server.client.post(f"/api/v3/{MODEL}", json=body).json()["data"]["id"]
    server.wait(id)

    (output,) = next(one for one in items(server) if one["id"] == id)["outputs"]

    assert output.startswith(f"{server.address}/media/")
    # One that is gone spoils nobody's list.
    (server.data_dir / "outputs" / output.rpartition("/")[2]).unlink()
    assert id in [one["id"] for one in items(server)]
    assert server.client.get(f"/api/v3/predictions/{id}").status_code == 404


def test_unknown_fields_are_ignored(server: StandInServer) -> None:
    body = {**BODY, "strength": 3, "loras": [], "num_frames": None}

    response = server.client.post(f"/api/v3/{MODEL}", json=body)

    assert response.status_code == 200
    server.wait(response.json()["data"]["id"])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"num_inference_steps": 51}, "num_inference_steps=51"),
        ({"size": "100*100"}, "size='100*100'"),
        ({"num_images": 0, "control_scale": 9}, "num_images=0"),
        ({"seed": True}, "seed=True"),
        ({"seed": 10**30}, "seed="),
        ({"control_image": 5}, "control_image=5"),
        ({"control_image": None}, "control_image"),
        ({"control_image": "room.jpg"}, "control_image='room.jpg'"),
        ({"control_image": "/etc/passwd"}, "files of this machine are not read here"),
        ({"control_image": "file:///etc/passwd"}, "files of this machine are not read here"),
        ({"control_image": "ftp://example.org/a.png"}, "only http and https"),
        ({"control_image": "http://user:pass@example.org/a.png"}, "user name or password"),
        ({"control_image": "data:image/png;base64,AAAA"}, "no PNG, JPEG or WebP"),
        ({"loras": [{"path": "nothing-of-this-name"}]}, "loras[0].path"),
        ({"webhook_url": "ftp://example.org"}, "webhook_url"),
        ({"webhook_url": "https://example.org/\ud800"}, "webhook_url"),
        ({"control_image": "https://example.org/\ud800"}, "control_image"),
        ({"prompt": "x" * 20_000}, "prompt has 20000 characters"),
        ({"control_image": "https://example.org/" + "x" * 5000}, "control_image has"),
        ({"webhook_url": "https://example.org/" + "x" * 5000}, "webhook_url has"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_parameters_are_refused_at_submit_with_one_line(
    server: StandInServer, fields: dict[str, Any], names: str
) -> None:
    # By hand: httpx refuses to write half a surrogate pair, which JSON can hold.
    body = json.dumps({**BODY, **fields})
    response = server.client.post(
        f"/api/v2/{MODEL}", content=body, headers={"Content-Type": "application/json"}
    )

    document = response.json()
    assert response.status_code == document["code"] == 400
    assert document["message"] == document["error"]
    assert names in document["message"]
    assert "\n" not in document["message"]
    assert "pass@" not in document["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"text"', "application/json", 400),
        (b'{"seed": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"a":' * 100_000, "application/json", 400),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "application/json", 400),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b"prompt=x", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "x"}', "text/plain", 415),
        (b" " * (45 * 2**20), "application/json", 413),
    ],
    ids=[
        "cut off",
        "list",
        "text",
        "NaN",
        "no UTF-8",
        "deep and cut off",
        "deep",
        "long number",
        "form",
        "text/plain",
        "large",
    ],
)
def test_a_body_that_is_no_request_is_refused(
    server: StandInServer, content: bytes, kind: str, status: int
) -> None:
    response = server.client.post(
        f"/api/v3/{MODEL}", content=content, headers={"Content-Type": kind}
    )

    assert response.status_code == status
    assert set(response.json()) == {"code", "message", "error"}
    assert len(response.json()["message"]) < 500


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/v4/predictions/x", 404),
        ("GET", "/api/v3/predictions/0123456789abcdef0123456789abcdef", 404),
        ("GET", "/api/v3/predictions/0123456789abcdef0123456789abcdef/result", 404),
        ("POST", "/api/v3/predictions/0123456789abcdef0123456789abcdef/cancel", 404),
        ("DELETE", "/api/v3/predictions/0123456789abcdef0123456789abcdef", 404),
        ("GET", "/media/0123456789abcdef0123456789abcdef-0.png", 404),
        ("GET", "/media/..%2f..%2fdepthflux.sqlite3", 404),
        ("GET", "/media/%2e%2e%2fdepthflux.sqlite3", 404),
        ("GET", "/media/depthflux.sqlite3", 404),
        ("PUT", "/api/v3/media/uploads/nothing", 404),
        ("PATCH", "/api/v3/predictions", 405),
        ("GET", f"/api/v3/{MODEL}", 405),
        ("GET", "/api/v3/predictions/", 404),
        ("GET", "/api/v3/predictions?page=0", 400),
        ("GET", "/api/v3/predictions?page=x", 400),
        ("GET", f"/api/v3/predictions/{'a' * 70}", 400),
    ],
)
def test_every_refusal_has_a_status_and_the_same_document(
    server: StandInServer, method: str, path: str, status: int
) -> None:
    response = server.client.request(method, path)

    document = response.json()
    assert response.status_code == document["code"] == status
    assert document["message"] == document["error"] != ""


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("{pictures}/nothing.png", "answered 404"),
        ("{pictures}/words.txt", "no PNG, JPEG or WebP"),
        ("http://127.0.0.1:9/room.png", "cannot be reached"),
    ],
    ids=["404", "text", "closed port"],
)
def test_an_image_that_cannot_be_fetched_fails_the_task_with_1402(
    server: StandInServer, pictures: str, image: str, words: str
) -> None:
    data = server.submit(control_image=image.format(pictures=pictures))

    ended = server.wait(data["id"])

    assert data["status"] == "created"
    assert (ended["status"], ended["code"]) == ("failed", 1402)
    assert words in ended["error"]
    assert strict(ended).outputs == []


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ("memory", 1403, "memory ran out"),
        ("bug", 5000, "the server's log names error"),
    ],
)
def test_a_task_that_fails_later_is_http_200_with_a_code(
    server: StandInServer, prompt: str, code: int, words: str
) -> None:
    ended = server.wait(server.submit(prompt)["id"])

    assert (ended["status"], ended["code"]) == ("failed", code)
    assert words in ended["error"]
    assert "secret detail" not in ended["error"]
    # Words on which the hosted service's clients run a failed task again.
    assert not re.search("http 5|429|timeout|connection", ended["error"], re.IGNORECASE)


def test_flagged_pictures_complete_with_their_flags(server: StandInServer) -> None:
    ended = server.wait(server.submit("flagged", num_images=2)["id"])

    assert ended["status"] == "completed"
    assert ended["has_nsfw_contents"] == [True, True]


def test_a_seed_that_was_drawn_is_told_and_stays(server: StandInServer) -> None:
    id = server.submit(seed=-1)["id"]
    server.wait(id)

    (item,) = [one for one in items(server) if one["id"] == id]

    assert 0 <= item["input"]["seed"] <= 9_999_999_999


# Uploads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/api/v2/media/upload/binary", "/api/v3/media/upload/binary", "/api/v3/upload"]
)
def test_an_uploaded_picture_is_used_as_control_image(server: StandInServer, path: str) -> None:
    picture = base64.b64decode(grey_picture(200))

    uploaded = server.client.post(path, files={"file": ("room.png", picture, "image/png")})

    data = uploaded.json()["data"]
    assert uploaded.status_code == 200
    assert data["url"] == data["download_url"]
    assert (data["type"], data["filename"], data["size"]) == ("image", "room.png", len(picture))
    assert httpx.get(data["download_url"]).content == picture
    assert painted_level(server, control_image=data["download_url"]) == 200


def test_an_own_upload_is_read_from_the_store_and_never_fetched(server: StandInServer) -> None:
    picture = base64.b64decode(grey_picture(30))
    data = server.client.post(
        "/api/v3/media/upload/binary", files={"file": ("a.png", picture, "image/png")}
    ).json()["data"]
    name = data["download_url"].rpartition("/")[2]

    # A host that nobody can reach: only the name counts.
    level = painted_level(server, control_image=f"https://gpu.invalid/media/{name}")

    assert level == 30


def test_a_ticket_takes_the_bytes_at_a_secret_address_without_a_key(guarded: StandInServer) -> None:
    picture = base64.b64decode(grey_picture(90))
    ticket = guarded.client.post(
        "/api/v3/media/uploads", json={"filename": "a.PNG", "size": len(picture)}
    ).json()["data"]
    upload = ticket["upload"]

    before = httpx.get(ticket["download_url"])
    put = httpx.request(upload["method"], upload["url"], content=picture, headers=upload["headers"])

    assert before.status_code == 404
    assert put.status_code == 200
    assert httpx.get(ticket["download_url"]).content == picture
    assert painted_level(guarded, control_image=ticket["download_url"]) == 90


def test_an_own_address_without_a_picture_is_refused_and_not_fetched(server: StandInServer) -> None:
    ticket = server.client.post(
        "/api/v3/media/uploads", json={"filename": "a.png", "size": 100}
    ).json()["data"]

    response = server.client.post(
        f"/api/v3/{MODEL}", json={**BODY, "control_image": ticket["download_url"]}
    )

    assert response.status_code == 400
    assert "not yet or no more" in response.json()["message"]


def test_a_ticket_takes_the_same_bytes_again_and_no_others(server: StandInServer) -> None:
    picture, other = (base64.b64decode(grey_picture(level)) for level in (10, 20))
    assert len(picture) == len(other)
    upload = server.client.post(
        "/api/v3/media/uploads", json={"filename": "a.png", "size": len(picture)}
    ).json()["data"]["upload"]

    short = httpx.put(upload["url"], content=picture[:-1])
    first, again = (httpx.put(upload["url"], content=picture) for _ in range(2))
    foreign = httpx.put(upload["url"], content=other)

    assert [short.status_code, first.status_code, again.status_code] == [400, 200, 200]
    assert foreign.status_code == 400


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"filename": "a.gif", "size": 10}, "filename='a.gif'"),
        ({"filename": "a.png", "size": 0}, "size=0"),
        ({"filename": "a.png", "size": 2**40}, "size="),
        ({"filename": "a.png"}, "size"),
    ],
)
def test_a_ticket_that_could_not_be_redeemed_is_refused(
    server: StandInServer, query: dict[str, Any], names: str
) -> None:
    response = server.client.post("/api/v3/media/uploads", json=query)

    assert response.status_code == 400
    assert names in response.json()["message"]


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"file": ("a.png", b"no picture")}, 400),
        ({"other": ("a.png", base64.b64decode(PICTURE))}, 400),
        ({"file": ("a.gif", b"GIF89a" + bytes(40))}, 400),
        ({"file": ("a.png", bytes(33 * 2**20))}, 413),
    ],
    ids=["text", "other field", "GIF", "large"],
)
def test_an_upload_that_is_no_picture_is_refused(
    server: StandInServer, files: dict[str, Any], status: int
) -> None:
    response = server.client.post("/api/v3/media/upload/binary", files=files)

    assert response.status_code == status
    assert set(response.json()) == {"code", "message", "error"}


@pytest.mark.parametrize("charset", ["undefined", "punycode", "unicode_escape", "no-such", "utf-7"])
def test_an_upload_s_charset_does_no_harm(server: StandInServer, charset: str) -> None:
    picture = base64.b64decode(PICTURE)
    name = b"\\ud800\xff.png"
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + name
        + b'"\r\n\r\n'
        + picture
        + b"\r\n--x--\r\n"
    )

    response = server.client.post(
        "/api/v3/media/upload/binary",
        content=body,
        headers={"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"},
    )

    assert response.status_code in (200, 400)
    response.json()


@pytest.mark.parametrize(
    "asked", ["bytes=a-b", "bytes=5-2", "bytes=99999999-", "items=0-1", "bytes="]
)
def test_a_range_that_makes_no_sense_gives_the_whole_picture(
    server: StandInServer, asked: str
) -> None:
    (output,) = server.wait(server.submit()["id"])["outputs"]

    response = httpx.get(output, headers={"Range": asked})

    assert response.status_code == 200
    assert response.content == httpx.get(output).content


def test_a_picture_downloaded_while_it_is_deleted_is_whole_or_gone(server: StandInServer) -> None:
    for _ in range(10):
        data = server.wait(server.submit()["id"])
        with ThreadPoolExecutor(4) as pool:
            downloads = [pool.submit(httpx.get, data["outputs"][0]) for _ in range(4)]
            server.client.delete(f"/api/v3/predictions/{data['id']}")
        found = [download.result() for download in downloads]

        assert {response.status_code for response in found} <= {200, 404}
        assert all(
            Image.open(io.BytesIO(response.content)).size == (512, 512)
            for response in found
            if response.status_code == 200
        )


def test_without_a_ticket_no_bytes_are_taken(server: StandInServer) -> None:
    response = httpx.put(f"{server.address}/api/v3/media/uploads/nothing", content=bytes(10**6))

    assert response.status_code == 404


def test_an_output_is_good_as_control_image_too(server: StandInServer) -> None:
    (output,) = server.wait(server.submit(control_image=grey_picture(77))["id"])["outputs"]

    assert painted_level(server, control_image=output) == 77


def test_an_output_that_a_waiting_prediction_needs_outlives_its_own(server: StandInServer) -> None:
    first = server.wait(server.submit(control_image=grey_picture(78))["id"])
    (output,) = first["outputs"]
    before = server.submit("slow 1")

    second = server.submit(control_image=output)
    server.client.delete(f"/api/v3/predictions/{first['id']}")
    (listed,) = (one for one in items(server) if one["id"] == second["id"])

    assert httpx.get(output).status_code == 404
    assert httpx.get(listed["input"]["control_image"]).status_code == 200
    assert server.wait(before["id"])["status"] == "completed"
    assert server.wait(second["id"])["status"] == "completed"


# Lists, cancelling, deleting -----------------------------------------------------------------


def items(server: StandInServer, **query: Any) -> list[dict[str, Any]]:
    found = server.client.post("/api/v3/predictions", json={"page_size": 100, **query})
    assert found.status_code == 200
    listed: list[dict[str, Any]] = found.json()["data"]["items"]
    return listed


def test_predictions_are_listed_newest_first_in_pages(guarded: StandInServer) -> None:
    ids = [guarded.submit()["id"] for _ in range(3)]
    for id in ids:
        guarded.wait(id)

    pages = [
        guarded.client.post("/api/v2/predictions", json={"page": page, "page_size": 2}).json()[
            "data"
        ]
        for page in (1, 2)
    ]

    assert [item["id"] for item in pages[0]["items"]] == [ids[2], ids[1]]
    assert pages[1]["items"][0]["id"] == ids[0]
    assert pages[0]["total"] >= 3
    item = pages[0]["items"][0]
    assert item["input"]["prompt"] == "paint"
    assert item["input"]["control_image"].startswith(f"{guarded.address}/media/")
    assert httpx.get(item["input"]["control_image"]).status_code == 200
    same = guarded.client.get("/api/v3/predictions", params={"page_size": 2}).json()["data"]
    assert [one["id"] for one in same["items"]] == [ids[2], ids[1]]


def test_lists_are_filtered_by_status_and_time(server: StandInServer) -> None:
    failed = server.wait(server.submit("memory")["id"])

    assert failed["id"] in [one["id"] for one in items(server, status="failed")]
    assert {one["status"] for one in items(server, status="failed")} == {"failed"}
    assert items(server, created_after="2999-01-01T00:00:00Z") == []
    assert items(server, created_before="1999-01-01T00:00:00Z") == []
    assert items(server, model="another/model") == []


def test_a_running_prediction_is_cancelled_between_two_steps(server: StandInServer) -> None:
    id = server.submit("slow 20", num_inference_steps=50)["id"]
    server.until(lambda: server.read(id).get("progress"))

    answer = server.client.post(f"/api/v3/predictions/{id}/cancel")
    ended = server.wait(id, timeout_s=5)
    again = server.client.post(f"/api/v2/predictions/{id}/cancel").json()["data"]

    assert answer.status_code == 200
    assert (ended["status"], ended["code"]) == ("failed", 1405)
    assert "cancelled" in ended["error"]
    assert again["status"] == "failed"


def test_a_waiting_prediction_is_cancelled_at_once(server: StandInServer) -> None:
    running = server.submit("slow 2", num_inference_steps=50)["id"]
    waiting = server.submit()["id"]

    cancelled = server.client.post(f"/api/v3/predictions/{waiting}/cancel").json()["data"]
    server.client.post(f"/api/v3/predictions/{running}/cancel")

    assert cancelled["status"] == "failed"
    assert server.wait(running)["status"] == "failed"


def test_cancelling_wakes_who_waits_in_sync_mode(server: StandInServer) -> None:
    answers: list[dict[str, Any]] = []
    body = {**BODY, "prompt": "slow 20", "num_inference_steps": 50, "enable_sync_mode": True}

    def ask() -> None:
        answers.append(httpx.post(f"{server.address}/api/v3/{MODEL}", json=body).json()["data"])

    thread = threading.Thread(target=ask)
    thread.start()
    id = server.until(lambda: next(iter(items(server, status="processing")), None))["id"]
    server.client.post(f"/api/v3/predictions/{id}/cancel")
    thread.join(timeout=5)

    assert answers[0]["status"] == "failed"


def test_progress_is_told_in_a_field_that_only_one_path_has(server: StandInServer) -> None:
    id = server.submit("slow 1", num_inference_steps=20)["id"]

    progress = server.until(lambda: server.read(id).get("progress"))
    result = server.client.get(f"/api/v3/predictions/{id}/result").json()["data"]
    ended = server.wait(id)

    assert progress["total"] == 20
    assert 1 <= progress["step"] <= 20
    assert "progress" not in result
    assert "progress" not in ended


def test_deleting_takes_the_pictures_too(server: StandInServer) -> None:
    first, second = (server.wait(server.submit()["id"]) for _ in range(2))
    listed = {one["id"]: one for one in items(server)}

    one = server.client.delete(f"/api/v3/predictions/{first['id']}")
    several = server.client.post(
        "/api/v2/predictions/delete",
        json={"ids": [second["id"], "unknown", "0" * 32, "Ä", first["id"]]},
    )

    assert one.json()["data"] == {"id": first["id"], "status": "deleted"}
    assert several.json()["data"] == {"deleted_count": 1}
    for data in (first, second):
        assert httpx.get(data["outputs"][0]).status_code == 404
        assert httpx.get(listed[data["id"]]["input"]["control_image"]).status_code == 404
        assert server.client.get(f"/api/v3/predictions/{data['id']}").status_code == 404


def test_a_picture_that_the_disk_does_not_let_go_keeps_nothing_else_from_being_deleted(
    server: StandInServer,
) -> None:
    stuck, other = (server.wait(server.submit()["id"]) for _ in range(2))
    running = server.submit("slow 20", num_inference_steps=50)
    server.until(lambda: server.read(running["id"]).get("progress"))
    file = server.data_dir / "outputs" / stuck["outputs"][0].rpartition("/")[2]
    file.unlink()
    file.mkdir()

    ids = [stuck["id"], other["id"], running["id"]]
    deleted = server.client.post("/api/v3/predictions/delete", json={"ids": ids})
    file.rmdir()

    assert (deleted.status_code, deleted.json()["data"]) == (200, {"deleted_count": 3})
    assert httpx.get(other["outputs"][0]).status_code == 404
    # The worker is free again long before twenty seconds are over.
    assert server.wait(server.submit()["id"], timeout_s=5)["status"] == "completed"


def test_deleting_a_running_prediction_stops_it(server: StandInServer) -> None:
    id = server.submit("slow 20", num_inference_steps=50)["id"]
    server.until(lambda: server.read(id).get("progress"))

    server.client.delete(f"/api/v3/predictions/{id}")

    # The worker is free again long before twenty seconds are over.
    assert server.wait(server.submit()["id"], timeout_s=5)["status"] == "completed"


# Repeats -------------------------------------------------------------------------------------


def test_a_repeat_under_the_same_key_gives_the_same_prediction(server: StandInServer) -> None:
    headers = {"Idempotency-Key": "an order of mine"}
    body = {**BODY, "seed": -1}

    first, again = (
        server.client.post(f"/api/v3/{MODEL}", json=body, headers=headers).json()["data"]
        for _ in range(2)
    )
    other = server.client.post(
        f"/api/v3/{MODEL}", json={**body, "prompt": "paint else"}, headers=headers
    )

    assert first["id"] == again["id"]
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["message"]
    server.wait(first["id"])


def test_a_repeat_is_known_though_its_control_image_is_gone(server: StandInServer) -> None:
    source = server.wait(server.submit()["id"])
    body = {**BODY, "control_image": source["outputs"][0]}
    headers = {"Idempotency-Key": "made of another picture"}
    first = server.client.post(f"/api/v3/{MODEL}", json=body, headers=headers).json()["data"]
    server.wait(first["id"])
    server.client.delete(f"/api/v3/predictions/{source['id']}")

    again = server.client.post(f"/api/v3/{MODEL}", json=body, headers=headers)

    assert again.status_code == 200
    assert again.json()["data"]["id"] == first["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"], ids=["empty", "long", "tab"])
def test_an_idempotency_key_that_is_none_is_refused(server: StandInServer, key: str) -> None:
    response = server.client.post(f"/api/v3/{MODEL}", json=BODY, headers={"Idempotency-Key": key})

    assert response.status_code == 400


# Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong-key-0123456789",
        "Basic first-key-0123456789",
        "first-key-0123456789",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/api/v3/{MODEL}"), ("GET", "/api/v2/balance"), ("GET", "/metrics")],
)
def test_with_keys_a_missing_or_wrong_one_is_401(
    guarded: StandInServer, header: str | None, method: str, path: str
) -> None:
    headers = {} if header is None else {"Authorization": header}

    response = httpx.request(method, guarded.address + path, headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == 401


@pytest.mark.parametrize("header", [None, "Bearer anything", "nonsense"])
def test_without_keys_any_or_none_is_accepted(server: StandInServer, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}

    assert httpx.get(f"{server.address}/api/v3/balance", headers=headers).status_code == 200


def test_a_key_sees_its_own_predictions_only(guarded: StandInServer) -> None:
    id = guarded.submit()["id"]
    guarded.wait(id)
    other = {"Authorization": "Bearer second-key-0123456789"}

    paths = (f"/api/v3/predictions/{id}", f"/api/v3/predictions/{id}/result")
    statuses = [httpx.get(guarded.address + path, headers=other).status_code for path in paths]
    listed = httpx.post(f"{guarded.address}/api/v3/predictions", json={}, headers=other)
    deleted = httpx.post(
        f"{guarded.address}/api/v3/predictions/delete", json={"ids": [id]}, headers=other
    )

    assert statuses == [404, 404]
    assert listed.json()["data"]["items"] == []
    assert deleted.json()["data"]["deleted_count"] == 0
    assert guarded.read(id)["status"] == "completed"


def test_no_key_stands_in_the_log(guarded: StandInServer) -> None:
    guarded.submit()
    httpx.get(f"{guarded.address}/api/v3/balance", headers={"Authorization": "Bearer wrong-secret"})

    log = guarded.log.read_text()

    assert "first-key" not in log
    assert "wrong-secret" not in log


# Around --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", ["balance", "account/balance"])
def test_the_balance_is_enough_to_begin(server: StandInServer, version: str, path: str) -> None:
    data = server.client.get(f"/api/{version}/{path}").json()["data"]

    assert data["balance"] > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_models_lists_the_one_model_with_its_schema(server: StandInServer, version: str) -> None:
    (model,) = server.client.get(f"/api/{version}/models").json()["data"]

    (schema,) = model["api_schema"]["api_schemas"]
    assert model["model_id"] == MODEL
    assert schema["server"] + schema["api_path"] == f"{server.address}/api/{version}/{MODEL}"
    assert "control_image" in schema["request_schema"]["properties"]


@pytest.mark.parametrize("path", ["model/price", "model/pricing"])
def test_prices_are_answered(server: StandInServer, path: str) -> None:
    response = server.client.post(f"/api/v3/{path}", json={"model_id": MODEL, "inputs": {}})

    assert response.json()["data"]["unit_price"] == 0
    assert response.json()["data"]["model_id"] == MODEL


def test_readiness_names_model_and_workers(server: StandInServer) -> None:
    response = server.client.get("/readyz")

    assert response.json() == {
        "status": "ready",
        "model": "depthflux/stand-in",
        "workers": ["ready"],
        "queued": 0,
    }
    assert server.client.get("/livez").status_code == 200


def test_metrics_count_what_happened_by_route_and_end(server: StandInServer) -> None:
    server.wait(server.submit()["id"])

    text = server.client.get("/metrics").text

    assert 'depthflux_predictions_ended_total{status="completed"}' in text
    assert 'route="/predictions/{id}"' in text
    assert "depthflux_inference_seconds_bucket" in text
    assert "depthflux_workers_ready 1.0" in text
    # A path that anybody can make up is no label.
    server.client.get("/made-up-path")
    assert "made-up-path" not in server.client.get("/metrics").text


def painted_level(server: StandInServer, **fields: Any) -> int:
    """The grey that the stand-in paints: its control image's mean."""
    ended = server.wait(server.submit(**fields)["id"])
    assert ended["status"] == "completed", ended["error"]
    picture = Image.open(io.BytesIO(httpx.get(ended["outputs"][0]).content))
    level = picture.getpixel((0, 0))
    assert isinstance(level, tuple)
    return int(level[0])
