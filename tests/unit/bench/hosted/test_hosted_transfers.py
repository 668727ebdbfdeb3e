"""Uploads and downloads: what goes to addresses that the side names."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import pytest
from client_fixtures import ID, KEY, Asking, envelope, keyed, picture, refusal
from scripted_server import Reply, ScriptedServer, in_turn

from depthflux.bench.hosted.client import Timeouts
from depthflux.bench.hosted.errors import (
    HostedError,
    NoAnswerError,
    NotAskedError,
    UnreachableError,
    UnreadableAnswerError,
    UnusableOutputError,
)

#: A self-signed certificate for pictures.example, with its key.
CERTIFICATE = Path(__file__).parents[2] / "images" / "pictures.example.pem"
UPLOADED = Reply({"code": 200, "data": {"download_url": "https://cdn.example/a.png"}})


def ticket(url: str, **headers: str) -> Reply:
    upload = {"method": "PUT", "url": url, "headers": headers}
    return Reply(
        {"code": 200, "data": {"upload": upload, "download_url": "https://cdn.example/a.png"}}
    )


def test_v2_uploads_by_one_form_with_the_key():
    data = picture("PNG")
    with ScriptedServer(UPLOADED) as server, Asking(server) as asking:
        upload = asking.client.upload(data, "room.png")

    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/v2/media/upload/binary")
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="file"; filename="room.png"\r\nContent-Type: image/png\r\n\r\n' in asked.body
    assert data in asked.body
    assert upload.url == "https://cdn.example/a.png"
    assert asking.exchanges[0].sent == {
        "file": "room.png",
        "bytes": len(data),
        "media_type": "image/png",
    }


@pytest.mark.parametrize("passing", [refusal(500), refusal(429), Reply(breaks=True)])
def test_an_upload_is_sent_again_since_it_costs_nothing(passing):
    with ScriptedServer(in_turn(passing, UPLOADED)) as server, Asking(server) as asking:
        asking.client.upload(picture(), "room.jpg")

    assert asking.pauses == [1.0]
    assert server.asked[0].body == server.asked[1].body


def test_a_refused_upload_says_why():
    with (
        ScriptedServer(refusal(413, "too large")) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=r"413 .* to an upload: too large"),
    ):
        asking.client.upload(picture(), "room.jpg")


def test_an_upload_without_an_address_is_refused():
    with (
        ScriptedServer(Reply({"code": 200, "data": {}})) as server,
        Asking(server) as asking,
        pytest.raises(UnreadableAnswerError, match=r"data\.download_url=None"),
    ):
        asking.client.upload(picture(), "room.jpg")


def test_v3_puts_the_bytes_to_a_ticket_without_the_key():
    data = picture("PNG")
    with ScriptedServer(Reply(status=204)) as store:
        reply = ticket(f"{store.url}/put?secret=s3cret", **{"Content-Type": "image/png"})
        with (
            ScriptedServer(reply) as server,
            Asking(server, version="v3", allow_private=True) as asking,
        ):
            upload = asking.client.upload(data, "room.png")

    assert server.asked[0].path == "/api/v3/media/uploads"
    assert server.asked[0].json() == {
        "filename": "room.png",
        "size": len(data),
        "content_type": "image/png",
    }
    (put,) = store.asked
    assert (put.method, put.path, put.body) == ("PUT", "/put?secret=s3cret", data)
    assert put.headers["content-type"] == "image/png"
    assert "authorization" not in put.headers
    assert keyed(store.asked) == []
    assert upload.url == "https://cdn.example/a.png"
    kept = json.dumps([one.as_json() for one in asking.exchanges])
    assert "s3cret" not in kept
    assert "/put" not in kept


def test_a_ticket_at_the_side_s_own_address_gets_no_key_either():
    def answer(asked):
        return ticket(f"{server.url}/put") if asked.method == "POST" else Reply()

    with ScriptedServer(answer) as server, Asking(server, version="v3") as asking:
        asking.client.upload(picture(), "room.jpg")

    assert [one.method for one in keyed(server.asked)] == ["POST"]
    assert server.asked[1].method == "PUT"


@pytest.mark.parametrize("status", [302, 307, 400])
def test_a_ticket_s_redirect_is_not_followed(status):
    with ScriptedServer(Reply()) as third:
        store_reply = Reply(status=status, headers={"Location": third.url})
        with (
            ScriptedServer(store_reply) as store,
            ScriptedServer(ticket(store.url)) as server,
            Asking(server, version="v3", allow_private=True) as asking,
            pytest.raises(HostedError, match=f"was answered {status}"),
        ):
            asking.client.upload(picture(), "room.jpg")

    assert third.asked == []


def test_a_ticket_at_a_private_address_of_others_is_not_used():
    with (
        ScriptedServer(Reply()) as store,
        ScriptedServer(ticket(f"{store.url}/s3cret")) as server,
        Asking(server, version="v3") as asking,
        pytest.raises(HostedError, match="leads to a private") as caught,
    ):
        asking.client.upload(picture(), "room.jpg")

    assert store.asked == []
    assert "s3cret" not in f"{caught.value} {asking.exchanges}"


def test_an_output_on_another_port_is_fetched_without_the_key():
    data = picture()
    headers = {"Content-Type": "text/plain", "Set-Cookie": "a=1", "X-Cache": "HIT"}
    with (
        ScriptedServer(envelope()) as server,
        ScriptedServer(Reply(data, headers=headers)) as cdn,
        Asking(server, allow_private=True) as asking,
    ):
        asking.client.poll(ID)
        downloaded = asking.client.download(f"{cdn.url}/1.png?signature=1")

    (asked,) = cdn.asked
    assert asked.path == "/1.png?signature=1"
    assert not {"authorization", "cookie", "referer"} & asked.headers.keys()
    assert keyed(cdn.asked) == []
    assert downloaded == data
    exchange = asking.exchanges[-1]
    assert (exchange.address, exchange.body, exchange.size) == (
        f"{cdn.url}/1.png", None, len(data),
    )  # fmt: skip


def test_an_output_at_the_side_s_own_private_address_is_fetched_without_the_key():
    with ScriptedServer(Reply(picture())) as server, Asking(server) as asking:
        asking.client.download(f"{server.url}/media/1.jpeg")

    assert len(server.asked) == 1
    assert keyed(server.asked) == []


def test_an_output_at_another_private_address_is_refused():
    with (
        ScriptedServer(Reply(picture())) as server,
        ScriptedServer(Reply(picture())) as other,
        Asking(server) as asking,
        pytest.raises(NotAskedError, match="leads to a private") as caught,
    ):
        asking.client.download(f"{other.url}/1.jpeg?token=1")

    assert other.asked == []
    assert asking.pauses == []
    assert "token" not in str(caught.value)


def test_a_redirect_of_an_output_is_judged_anew():
    with ScriptedServer(Reply(picture())) as other:
        away = Reply(status=302, headers={"Location": f"{other.url}/1.jpeg"})
        with ScriptedServer(away) as server:
            with (
                Asking(server) as asking,
                pytest.raises(UnusableOutputError, match="leads to a private"),
            ):
                asking.client.download(f"{server.url}/1.jpeg")
            before = len(other.asked)
            with Asking(server, allow_private=True) as asking:
                data = asking.client.download(f"{server.url}/1.jpeg")

    assert before == 0
    assert data == picture()
    assert keyed(other.asked) == []


def test_redirects_without_an_end_are_given_up():
    with (
        ScriptedServer(Reply(status=302, headers={"Location": "/next"})) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match="more than 3 redirects"),
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert len(server.asked) == 4


def test_a_side_asked_over_https_gives_outputs_over_https_alone():
    with (
        Asking("https://api.wavespeed.ai", allow_private=True) as asking,
        ScriptedServer(Reply(picture())) as cdn,
        pytest.raises(UnusableOutputError, match="only https is asked"),
    ):
        asking.client.download(f"{cdn.url}/1.jpeg")

    assert cdn.asked == []


def certified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_over_https_only_a_valid_certificate_gets_the_key():
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    trusting.check_hostname = False
    with ScriptedServer(UPLOADED, tls=certified()) as server:
        with (
            Asking(server) as asking,
            pytest.raises(UnreachableError, match="its certificate is not valid"),
        ):
            asking.client.upload(picture(), "room.jpg")
        before = len(server.asked)
        with Asking(server, tls=trusting) as asking:
            asking.client.upload(picture(), "room.jpg")

    assert before == 0
    assert len(server.asked) == 1


def test_an_output_s_certificate_is_that_of_its_name():
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    with (
        ScriptedServer(Reply(picture()), tls=certified()) as cdn,
        Asking(
            "https://api.wavespeed.ai",
            allow_private=True,
            tls=trusting,
            resolver=lambda host, port: ["127.0.0.1"],
        ) as asking,
    ):
        asking.client.download(f"https://pictures.example:{cdn.port}/1.jpeg")
        with pytest.raises(UnreachableError, match="its certificate is not valid"):
            asking.client.download(f"https://other.example:{cdn.port}/1.jpeg")

    assert [one.headers["host"] for one in cdn.asked] == [f"pictures.example:{cdn.port}"]


@pytest.mark.parametrize(
    "address",
    ["ftp://cdn.example/1.jpg", "file:///etc/passwd", "/etc/passwd", "http://me:hunter2@h/1.jpg",
     "", "https://127.0.0.1:22/", "http://0x7f.1/", "C:/x", "https://h/\x00"],
)  # fmt: skip
def test_what_is_no_address_of_a_picture_is_refused(address):
    with (
        ScriptedServer(envelope()) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError) as caught,
    ):
        asking.client.download(address)

    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert server.asked == []


def test_an_address_that_holds_the_key_is_not_asked():
    with (
        ScriptedServer(Reply(picture())) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match="it holds the API key") as caught,
    ):
        asking.client.download(f"{server.url}/{KEY}/1.jpeg")

    assert server.asked == []
    assert KEY not in str(caught.value)
    assert KEY not in json.dumps(asking.exchanges[0].as_json())


@pytest.mark.parametrize("passing", [refusal(503), Reply(breaks=True)])
def test_a_download_is_tried_again_after_what_may_pass(passing):
    replies = in_turn(passing, passing, Reply(picture()))
    with ScriptedServer(replies) as server, Asking(server) as asking:
        asking.client.download(f"{server.url}/1.jpeg")

    assert asking.pauses == [1.0, 2.0]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_picture_that_is_gone_after_all_retries_is_called_unusable(status):
    with (
        ScriptedServer(refusal(status)) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match=f"answered {status}") as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert caught.value.status == status
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [402, 429, 500, 503])
def test_a_picture_that_cannot_be_had_just_now_is_not_called_unusable(status):
    with (
        ScriptedServer(refusal(status)) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=f"answered {status}.*try again later") as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg?signature=1")

    assert not isinstance(caught.value, UnusableOutputError)
    assert caught.value.status == status
    assert "signature" not in str(caught.value)


def test_a_name_that_is_not_known_just_now_is_tried_again():
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with (
        Asking("http://127.0.0.1:1", resolver=unknown) as asking,
        pytest.raises(UnreachableError, match=r"cdn\.example cannot be resolved"),
    ):
        asking.client.download("https://cdn.example/1.jpeg")

    assert asking.pauses == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_download_in_drops_ends_in_time():
    timeouts = Timeouts(download_s=0.2)
    reply = Reply(picture(), drips_s=0.05)
    with (
        ScriptedServer(reply) as server,
        Asking(server, timeouts=timeouts) as asking,
        pytest.raises(NoAnswerError, match=r"longer than 0\.2 s"),
    ):
        asking.client.download(f"{server.url}/1.jpeg")


def test_more_bytes_than_a_picture_has_are_not_read():
    reply = Reply(b"\xff" * (33 * 2**20))
    with (
        ScriptedServer(reply) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match="more than 32 MiB"),
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>gone</html>", b"", b"GIF89a", picture()[:60]])
def test_what_is_no_picture_is_refused_whatever_it_is_called(body):
    with (
        ScriptedServer(Reply(body, headers={"Content-Type": "image/jpeg"})) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match="gave no picture") as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["{}", "data:image/jpeg;base64,{}"])
def test_base64_and_data_uris_are_outputs_too(form):
    data = picture("PNG")
    with Asking("http://127.0.0.1:1") as asking:
        downloaded = asking.client.download(form.format(base64.b64encode(data).decode()))

    assert downloaded == data
    assert asking.exchanges == []
