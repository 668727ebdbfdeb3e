"""What passes by itself while a state or a picture is asked for: asking again costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from client_fixtures import FIELDS, ID, KEY, Asking, envelope, picture, refusal
from scripted_server import Asked, Reply, ScriptedServer, in_turn

from depthflux.bench.hosted.client import Timeouts
from depthflux.bench.hosted.errors import (
    HostedError,
    KeyRefusedError,
    NoAnswerError,
    SubmissionLostError,
    UnreadableAnswerError,
    UnusableOutputError,
)

PAUSES = [1.0, 2.0, 3.0, 4.0, 5.0]
#: By what they are: answers to a poll that say nothing of the task.
ODD_STATES = {
    "a proxy's page": Reply(b"<html>one moment</html>"),
    "404": refusal(404),
    "410": refusal(410),
    "405": refusal(405),
    "404 in the envelope": Reply({"code": 404, "message": "no such prediction", "data": None}),
    "500 in the envelope": Reply({"code": 500, "message": "it broke", "data": None}),
    "no data": Reply({"code": 200, "data": None}),
    "another's": envelope(id="another"),
    "outputs that are none": envelope(status="completed", outputs="https://cdn.example/1.jpg"),
}


@pytest.mark.parametrize("odd", ODD_STATES.values(), ids=ODD_STATES.keys())
def test_a_state_that_says_nothing_of_the_task_is_asked_for_again(odd: Reply) -> None:
    replies = in_turn(odd, odd, envelope(status="processing"))
    with ScriptedServer(replies) as server, Asking(server) as asking:
        prediction = asking.client.poll(ID)

    assert prediction.status == "processing"
    assert asking.pauses == PAUSES[:2]
    assert [one.attempt for one in asking.exchanges] == [1, 2, 3]


@pytest.mark.parametrize("odd", ODD_STATES.values(), ids=ODD_STATES.keys())
def test_it_is_asked_for_again_five_times_and_no_more(odd: Reply) -> None:
    with ScriptedServer(odd) as server, Asking(server) as asking, pytest.raises(HostedError):
        asking.client.poll(ID)

    assert asking.pauses == PAUSES


@pytest.mark.parametrize("odd", ["404", "404 in the envelope"])
def test_no_such_prediction_is_told_alike_however_it_is_said(odd: str) -> None:
    with (
        ScriptedServer(ODD_STATES[odd]) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match="for a prediction's state") as caught,
    ):
        asking.client.poll(ID)

    assert not isinstance(caught.value, UnreadableAnswerError)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "odd",
    [refusal(403), refusal(404), refusal(410), Reply(b"<html>one moment</html>"), Reply(b"")],
    ids=["403", "404", "410", "a page", "nothing"],
)
def test_a_picture_that_is_not_there_yet_is_asked_for_again(odd: Reply) -> None:
    with ScriptedServer(in_turn(odd, odd, Reply(picture()))) as server, Asking(server) as asking:
        data = asking.client.download(f"{server.url}/1.jpeg")

    assert data == picture()
    assert asking.pauses == PAUSES[:2]


def test_bytes_that_are_no_picture_are_told_of_with_the_bytes() -> None:
    page = b"<html>see https://cdn.example/1.jpg?token=s3cret</html>"
    with (
        ScriptedServer(Reply(page)) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError, match="gave no picture") as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert asking.pauses == PAUSES
    assert caught.value.data == b"<html>see https://cdn.example/1.jpg?\xe2\x80\xa6"


def test_bytes_that_are_no_text_are_told_of_as_they_came() -> None:
    with (
        ScriptedServer(Reply(b"GIF89a\xff\x00")) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError) as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg")

    assert caught.value.data == b"GIF89a\xff\x00"


def told(code: int) -> Reply:
    return Reply({"code": code, "message": "so it is", "data": None})


@pytest.mark.parametrize("code", [400, 402, 404])
def test_a_refusal_in_the_envelope_is_what_it_would_be_by_its_status(code: int) -> None:
    with (
        ScriptedServer(told(code)) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=f"code={code}.*so it is") as caught,
    ):
        asking.client.submit(FIELDS)

    error = caught.value
    assert (error.status, error.code, error.may_be_taken) == (code, code, False)
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_is_refused_in_the_envelope_is_refused(code: int) -> None:
    with (
        ScriptedServer(told(code)) as server,
        Asking(server) as asking,
        pytest.raises(KeyRefusedError, match=f"code={code}.*so it is"),
    ):
        asking.client.submit(FIELDS)


def test_too_many_in_the_envelope_is_waited_for() -> None:
    with ScriptedServer(in_turn(told(429), envelope())) as server, Asking(server) as asking:
        asking.client.submit(FIELDS)

    assert asking.pauses == [5.0]


class HeadersThatDrip:
    """A server whose answer's headers never end; everything it sends is within any silence."""

    def __init__(self, drop: bytes) -> None:
        self._drop = drop

    def __call__(self, handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if b": " in self._drop else b"")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            handler.wfile.write(self._drop)
            time.sleep(0.05)


def dripping(drop: bytes, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> ScriptedServer:
    """A server that drips from its n-th answer on."""
    asked: list[Asked] = []

    def script(one: Asked) -> Reply:
        asked.append(one)
        return envelope()

    server = ScriptedServer(script)
    handler = server._server.RequestHandlerClass
    usual: Callable[..., None] = handler._send  # type: ignore[attr-defined]

    def send(self: Any, reply: Reply) -> None:
        if len(asked) > after:
            HeadersThatDrip(drop)(self)
        else:
            usual(self, reply)

    monkeypatch.setattr(handler, "_send", send)
    return server


DROPS = {"headers": b"X-A: b\r\n", "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n"}


@pytest.mark.parametrize("after", [0, 1], ids=["a new connection", "one that is used again"])
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS.keys())
def test_headers_without_an_end_hold_no_submission_for_ever(
    drop: bytes, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = Timeouts(submit_s=0.2, connect_s=0.2)
    with (
        dripping(drop, monkeypatch, after) as server,
        Asking(server, timeouts=timeouts) as asking,
    ):
        for _ in range(after):
            asking.client.submit(FIELDS)
        start = time.monotonic()
        with pytest.raises(SubmissionLostError, match="takes too long to answer"):
            asking.client.submit(FIELDS)
        taken = time.monotonic() - start

    assert 0.5 < taken < 5


def test_after_one_that_was_cut_the_next_request_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts = Timeouts(poll_s=0.1, connect_s=0.1)
    with (
        dripping(DROPS["headers"], monkeypatch) as server,
        Asking(server, timeouts=timeouts) as asking,
    ):
        with pytest.raises(NoAnswerError, match="takes too long"):
            asking.client.poll(ID)
        monkeypatch.undo()
        prediction = asking.client.poll(ID)

    assert prediction.status == "created"


@pytest.mark.parametrize("status", [200, 201, 202, 500, 503])
def test_an_id_is_known_where_it_came_with_a_status_that_is_no_success(status):
    body = {"code": max(status, 500), "message": "it broke", "data": {"id": ID}}
    with (
        ScriptedServer(Reply(body, status=status)) as server,
        Asking(server) as asking,
        pytest.raises(SubmissionLostError, match="may have been taken") as caught,
    ):
        asking.client.submit(FIELDS)

    assert caught.value.prediction_id == ID


@pytest.mark.parametrize("data", [None, [], {}, {"id": 7}, {"id": "../other"}, {"id": ""}])
def test_what_is_no_id_is_not_followed(data):
    with (
        ScriptedServer(Reply({"code": 500, "data": data}, status=500)) as server,
        Asking(server) as asking,
        pytest.raises(SubmissionLostError) as caught,
    ):
        asking.client.submit(FIELDS)

    assert caught.value.prediction_id == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_what_is_kept_of_no_picture_holds_no_key(encoding):
    page = f"<html>né {KEY}</html>".encode(encoding)
    with (
        ScriptedServer(Reply(page)) as server,
        Asking(server) as asking,
        pytest.raises(UnusableOutputError) as fetched,
    ):
        asking.client.download(f"{server.url}/1.jpeg")
    with (
        Asking("http://127.0.0.1:1") as asking,
        pytest.raises(UnusableOutputError) as inside,
    ):
        asking.client.download(f"no base64: {KEY}")

    for kept in (fetched.value.data, inside.value.data):
        assert kept != b""
        assert KEY.encode() not in kept.replace(b"\0", b"")
