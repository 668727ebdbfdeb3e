"""Submitting and polling, against real servers on this machine."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from client_fixtures import FIELDS, ID, KEY, Asking, envelope, picture, refusal
from scripted_server import Reply, ScriptedServer, in_turn

from depthflux.bench.hosted.client import Timeouts
from depthflux.bench.hosted.errors import (
    HostedError,
    KeyRefusedError,
    NoAnswerError,
    SubmissionLostError,
    UnreachableError,
    UnreadableAnswerError,
)
from depthflux.errors import GenerationError, SettingsError

PATH = "/api/v2/wavespeed-ai/flux-control-lora-depth"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("prefix", ["", "/gateway"])
def test_a_submission_is_one_post_with_the_key_and_json(version, prefix):
    with (
        ScriptedServer(envelope(model="m")) as server,
        Asking(f"{server.url}{prefix}/", version=version) as asking,
    ):
        submission = asking.client.submit(FIELDS)

    (asked,) = server.asked
    assert asked.method == "POST"
    assert asked.path == f"{prefix}/api/{version}/wavespeed-ai/flux-control-lora-depth"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.json() == FIELDS
    assert submission.id == ID
    assert submission.prediction.model == "m"
    assert submission.seconds > 0


def test_a_prediction_is_polled_at_our_address_whatever_the_answer_says():
    with ScriptedServer(envelope()) as elsewhere:
        urls = {"get": f"{elsewhere.url}/verbatim"}
        with (
            ScriptedServer(envelope(urls=urls, status="completed")) as server,
            Asking(server, version="v3") as asking,
        ):
            asking.client.submit(FIELDS)
            prediction = asking.client.poll(ID)

    assert prediction.status == "completed"
    assert [one.path for one in server.asked][1] == f"/api/v3/predictions/{ID}/result"
    assert elsewhere.asked == []


def test_an_id_that_could_lead_elsewhere_is_not_polled():
    with (
        ScriptedServer(envelope()) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match="an id has 1 to 128 letters"),
    ):
        asking.client.poll("../../api/v2/other")

    assert server.asked == []


def test_a_poll_that_answers_for_another_prediction_is_not_believed():
    with (
        ScriptedServer(envelope(id="another")) as server,
        Asking(server) as asking,
        pytest.raises(UnreadableAnswerError, match="another prediction's") as caught,
    ):
        asking.client.poll(ID)

    assert caught.value.prediction_id == ID


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_poll_is_asked_again_after_what_may_pass(status):
    replies = in_turn(refusal(status), refusal(status), envelope(status="processing"))
    with ScriptedServer(replies) as server, Asking(server) as asking:
        prediction = asking.client.poll(ID)

    assert prediction.status == "processing"
    assert asking.pauses == [1.0, 2.0]
    assert [one.attempt for one in asking.exchanges] == [1, 2, 3]


def test_a_poll_is_asked_again_after_a_broken_connection():
    replies = in_turn(Reply(breaks=True), envelope())
    with ScriptedServer(replies) as server, Asking(server) as asking:
        asking.client.poll(ID)

    assert asking.pauses == [1.0]
    assert asking.exchanges[0].status is None
    assert "gave no whole answer" in asking.exchanges[0].problem


def test_a_poll_is_given_up_after_five_retries():
    with (
        ScriptedServer(refusal(503, "later")) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=r"503 Service Unavailable.*later") as caught,
    ):
        asking.client.poll(ID)

    assert len(server.asked) == 6
    assert asking.pauses == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (caught.value.status, caught.value.may_be_taken) == (503, False)
    assert isinstance(caught.value, GenerationError)


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        ("7", 7.0),
        ("0", 1.0),
        ("86400", 60.0),
        ("9" * 500, 60.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 10:00:30 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 1.0),
        ("soon", 1.0),
        ("-3", 1.0),
    ],
)
def test_a_retry_after_wins_from_a_second_up_to_a_minute(said, pause_s):
    replies = in_turn(refusal(429, Retry_After=said), envelope())
    with ScriptedServer(replies) as server, Asking(server, wall=lambda: 10.0) as asking:
        asking.client.poll(ID)

    assert asking.pauses == [pause_s]


def test_a_submission_is_sent_again_after_429_since_it_was_not_taken():
    replies = in_turn(refusal(429, Retry_After="30"), refusal(429), envelope())
    with ScriptedServer(replies) as server, Asking(server) as asking:
        asking.client.submit(FIELDS)

    assert [one.attempt for one in asking.exchanges] == [1, 2, 3]
    assert asking.pauses == [30.0, 10.0]
    assert len({one.body for one in server.asked}) == 1


def test_a_submission_that_is_always_refused_by_429_was_not_taken():
    with (
        ScriptedServer(refusal(429, "slow down")) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=r"429.*was not taken: slow down") as caught,
    ):
        asking.client.submit(FIELDS)

    assert len(server.asked) == 9
    assert (caught.value.status, caught.value.may_be_taken) == (429, False)


def test_a_submission_is_sent_again_where_there_was_no_connection():
    with (
        Asking(f"http://127.0.0.1:{closed_port()}") as asking,
        pytest.raises(UnreachableError, match="cannot be reached") as caught,
    ):
        asking.client.submit(FIELDS)

    assert asking.pauses == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert not caught.value.may_be_taken
    assert len(asking.exchanges) == 6


UNREADABLE = Reply({"code": 200, "data": None})
LOST = {
    "broken off": Reply(breaks=True),
    "cut short": Reply(b'{"code"', headers={"Content-Length": "100", "Connection": "close"}),
    "500": refusal(500, "it broke"),
    "502": refusal(502),
    "503": refusal(503, Retry_After="1"),
    "504": refusal(504),
    "accepted": Reply({"code": 200, "data": {"id": ID}}, status=202),
    "no JSON": Reply(b"<html>"),
    "no data": UNREADABLE,
    "no id": envelope(id=None),
    "envelope 500": Reply({"code": 500, "message": "it broke", "data": None}),
    "packed wrongly": Reply(b"xx", headers={"Content-Encoding": "gzip"}),
    "see other": Reply(status=303, headers={"Location": "/done"}),
}


@pytest.mark.parametrize("sync_mode", [False, True])
@pytest.mark.parametrize("reply", LOST.values(), ids=LOST.keys())
def test_a_submission_that_may_have_been_taken_is_never_sent_again(reply, sync_mode):
    with (
        ScriptedServer(reply) as server,
        Asking(server) as asking,
        pytest.raises(SubmissionLostError, match="may have been taken") as caught,
    ):
        asking.client.submit(FIELDS, sync_mode=sync_mode)

    assert len(server.asked) == 1
    assert asking.pauses == []
    assert caught.value.may_be_taken
    assert "\n" not in str(caught.value)
    assert caught.value.status == (None if len(asking.exchanges[0].problem) else reply.status)


def test_a_submission_without_an_answer_in_time_may_have_been_taken():
    timeouts = Timeouts(submit_s=0.2)
    with (
        ScriptedServer(Reply(waits_s=1.0)) as server,
        Asking(server, timeouts=timeouts) as asking,
        pytest.raises(SubmissionLostError, match="no answer in time"),
    ):
        asking.client.submit(FIELDS)

    assert len(server.asked) == 1


def test_an_answer_in_drops_does_not_hold_a_request_for_ever():
    timeouts = Timeouts(poll_s=0.1, connect_s=0.1)
    reply = Reply(b"x" * 100, drips_s=0.05)
    with (
        ScriptedServer(reply) as server,
        Asking(server, timeouts=timeouts) as asking,
        pytest.raises(NoAnswerError, match="takes too long to answer"),
    ):
        asking.client.poll(ID)

    assert len(server.asked) == 6


def test_of_a_lost_submission_whose_id_was_told_the_error_has_it():
    with (
        ScriptedServer(envelope(status=7)) as server,
        Asking(server) as asking,
        pytest.raises(SubmissionLostError, match=r"data\.status=7") as caught,
    ):
        asking.client.submit(FIELDS)

    assert caught.value.prediction_id == ID


@pytest.mark.parametrize("status", [400, 402, 404, 413, 422])
def test_a_refused_submission_was_not_taken_and_says_why(status):
    message = "size\nmust be\x1b[31m smaller " + "x" * 500
    with (
        ScriptedServer(refusal(status, message)) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=r"size must be\\x1b\[31m smaller") as caught,
    ):
        asking.client.submit(FIELDS)

    error = caught.value
    assert (error.status, error.code, error.may_be_taken) == (status, status, False)
    assert f"127.0.0.1:{server.port} answered {status}" in str(error)
    assert len(str(error)) < 450


def test_a_refusal_in_the_envelope_alone_was_not_taken_either():
    reply = Reply({"code": 400, "message": "size is wrong", "data": None})
    with (
        ScriptedServer(reply) as server,
        Asking(server) as asking,
        pytest.raises(HostedError, match=r"code=400.*size is wrong") as caught,
    ):
        asking.client.submit(FIELDS)

    assert (caught.value.code, caught.value.may_be_taken) == (400, False)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("call", ["submit", "poll", "upload"])
def test_a_refused_key_is_an_error_of_the_setup(status, call):
    reply = Reply({"message": f"the key {KEY} is wrong"}, status=status)
    with ScriptedServer(reply) as server, Asking(server, key_name="THE_KEY") as asking:
        arguments = {"submit": (FIELDS,), "poll": (ID,), "upload": (picture(), "a.jpg")}[call]
        with pytest.raises(KeyRefusedError, match="THE_KEY was refused by 127") as caught:
            getattr(asking.client, call)(*arguments)

    assert isinstance(caught.value, SettingsError)
    assert caught.value.status == status
    assert len(server.asked) == 1
    assert KEY not in str(caught.value)
    assert KEY not in json.dumps([one.as_json() for one in asking.exchanges])


def test_sync_mode_asks_for_it_and_takes_the_last_state():
    done = envelope(status="completed", outputs=["https://cdn.example/1.jpg"])
    with ScriptedServer(done) as server, Asking(server) as asking:
        submission = asking.client.submit(FIELDS, sync_mode=True)

    assert server.asked[0].json() == FIELDS | {"enable_sync_mode": True}
    assert submission.prediction.has_ended


@pytest.mark.parametrize("code", [200, 5004])
def test_sync_mode_that_expires_is_a_prediction_that_goes_on(code):
    data = {"id": ID, "status": "processing", "code": 5004, "error": "Sync mode timed out"}
    reply = Reply({"code": code, "message": "", "data": data})
    with ScriptedServer(reply) as server, Asking(server) as asking:
        submission = asking.client.submit(FIELDS, sync_mode=True)

    assert submission.id == ID
    assert not submission.prediction.has_ended
    assert submission.prediction.code == 5004


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("call", ["submit", "poll"])
def test_a_redirect_is_not_followed_and_names_its_host(status, call):
    with ScriptedServer(envelope()) as elsewhere:
        where = f"{elsewhere.url}/steal?token=1"
        with (
            ScriptedServer(Reply(status=status, headers={"Location": where})) as server,
            Asking(server) as asking,
            pytest.raises(HostedError, match="the API key was not sent there") as caught,
        ):
            getattr(asking.client, call)(FIELDS if call == "submit" else ID)

    assert f"redirects to 127.0.0.1:{elsewhere.port} ({status}" in str(caught.value)
    assert "token" not in str(caught.value)
    assert (caught.value.status, caught.value.may_be_taken) == (status, False)
    assert elsewhere.asked == []


def test_a_public_peer_gets_nothing_over_http(monkeypatch):
    """As where a name is private when it is judged, and public when it is connected to."""
    monkeypatch.setattr("depthflux.bench.hosted.keyed.is_public", lambda _: True)
    with (
        ScriptedServer(envelope()) as server,
        Asking(server) as asking,
        pytest.raises(SettingsError, match="cross the internet unencrypted"),
    ):
        asking.client.submit(FIELDS)

    assert server.asked == []


def test_an_exchange_holds_what_was_said_and_no_secret():
    headers = {"Set-Cookie": "me=1", "X-Request-Id": "7", "X-Secret": "1", "Retry-After": "1"}
    outputs = ["https://cdn.example/1.jpg?signature=s3cret", "A" * 30_000]
    data = {"id": ID, "status": "completed", "outputs": outputs, "error": f"echo {KEY}"}
    reply = Reply({"code": 200, "data": data}, headers=headers)
    with ScriptedServer(reply) as server, Asking(server, wall=lambda: 17.5) as asking:
        asking.client.submit(FIELDS)

    (exchange,) = asking.exchanges
    kept = json.dumps(exchange.as_json())
    assert exchange.address == f"{server.url}{PATH}"
    assert exchange.sent == {
        "prompt": "a winter garden",
        "control_image": "https://cdn.example/a.png",
    }
    assert exchange.body["data"]["outputs"] == ["https://cdn.example/1.jpg", "(30000 characters)"]
    assert set(exchange.headers) <= {
        "content-length", "date", "retry-after", "server", "x-request-id",
    }  # fmt: skip
    assert (exchange.status, exchange.began_at, exchange.attempt) == (200, 17.5, 1)
    assert not [secret for secret in (KEY, "s3cret", "me=1", "sig=1") if secret in kept]


def test_the_key_is_in_no_repr_and_no_cookie_comes_back():
    reply = Reply(envelope().body, headers={"Set-Cookie": "session=stolen; Path=/"})
    with ScriptedServer(reply) as server, Asking(server) as asking:
        asking.client.submit(FIELDS)
        asking.client.submit(FIELDS)
        shown = repr(asking.client)

    assert shown == f"HostedClient('{server.url}', key=…, version='v2')"
    assert ["cookie" in one.headers for one in server.asked] == [False, False]


def test_several_threads_may_ask_at_a_time():
    with ScriptedServer(envelope()) as server, Asking(server) as asking:
        threads = [threading.Thread(target=asking.client.submit, args=(FIELDS,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(server.asked) == len(asking.exchanges) == 16
