"""What the hosted API's answers may look like, and what is said of those that do not."""

from __future__ import annotations

import json

import pytest

from depthflux.bench.hosted.errors import UnreadableAnswerError
from depthflux.bench.hosted.replies import (
    message_of,
    read_data,
    read_prediction,
    read_ticket,
    read_uploaded,
)

ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"
WHOLE = {
    "id": ID,
    "model": "wavespeed-ai/flux-control-lora-depth",
    "outputs": ["https://cdn.example/1.jpg"],
    "urls": {"get": "https://elsewhere.example/x"},
    "has_nsfw_contents": [False],
    "status": "completed",
    "created_at": "2025-05-19T06:09:15.948268264Z",
    "error": "",
    "executionTime": 25729,
    "timings": {"inference": 25730},
}
OPTIONAL = ["model", "urls", "has_nsfw_contents", "created_at", "error", "executionTime", "timings"]
BARE = {"id": ID, "status": "created"}


def body(data: object, **envelope: object) -> bytes:
    return json.dumps({"code": 200, "message": "success", "data": data} | envelope).encode()


def test_a_prediction_is_read_with_all_that_it_tells():
    prediction = read_prediction(read_data(body(WHOLE)))

    assert prediction.id == ID
    assert prediction.model == "wavespeed-ai/flux-control-lora-depth"
    assert prediction.outputs == ("https://cdn.example/1.jpg",)
    assert prediction.flags == (False,)
    assert prediction.status == "completed"
    assert prediction.has_ended
    assert prediction.inference_s == pytest.approx(25.73)
    assert (prediction.error, prediction.code) == ("", None)
    assert prediction.unread == ()
    assert prediction.is_known


@pytest.mark.parametrize("without", OPTIONAL)
def test_a_field_that_not_all_answers_have_may_be_absent_or_null(without):
    absent = {name: value for name, value in WHOLE.items() if name != without}

    predictions = [read_prediction(absent), read_prediction(WHOLE | {without: None})]

    assert predictions[0] == predictions[1]
    assert predictions[0].outputs == ("https://cdn.example/1.jpg",)


def test_a_prediction_of_an_id_and_a_status_alone_is_enough():
    prediction = read_prediction(read_data(json.dumps({"data": BARE}).encode()))

    assert prediction.flags is None
    assert prediction.inference_s is None
    assert (prediction.model, prediction.error) == ("", "")
    assert prediction.outputs == ()
    assert not prediction.has_ended


def test_the_inference_time_is_that_of_timings_else_the_execution_time():
    both = WHOLE | {"timings": {"inference": 1500, "total": 9}}
    one = WHOLE | {"timings": {}}

    assert read_prediction(both).inference_s == 1.5
    assert read_prediction(one).inference_s == pytest.approx(25.729)


@pytest.mark.parametrize("status", ["cancelled", "timeout", "deleted", "failed"])
def test_newer_words_for_an_end_are_known(status):
    assert read_prediction(BARE | {"status": status}).has_ended


def test_a_failed_task_says_why_on_one_line():
    failed = BARE | {"status": "failed", "error": "out\nof\x1b[31m luck " * 50, "code": 1403}

    prediction = read_prediction(failed)

    assert prediction.code == 1403
    assert prediction.error.startswith("out of\\x1b[31m luck")
    assert len(prediction.error) <= 300


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"id": None}, "data.id=None"),
        ({"id": 7}, "data.id=7"),
        ({"id": ""}, "data.id=''"),
        ({"id": "../../steal"}, "data.id='../../steal'"),
        ({"id": "a" * 129}, "data.id="),
        ({"status": None}, "data.status=None"),
        ({"status": ["completed"]}, "data.status="),
        ({"status": " "}, "data.status=' ', where known are cancelled, completed"),
        ({"outputs": "https://cdn.example/1.jpg"}, "no list of texts"),
        ({"outputs": [{"url": "x"}]}, "no list of texts"),
        ({"outputs": ["x"] * 17}, "17 entries"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_prediction_of_the_wrong_form_is_refused_by_the_field_at_fault(changed, why):
    with pytest.raises(UnreadableAnswerError) as caught:
        read_prediction(WHOLE | changed)

    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.prediction_id == ("" if "id" in changed else ID)


@pytest.mark.parametrize(
    ("changed", "field", "attribute", "instead"),
    [
        ({"has_nsfw_contents": [0]}, "data.has_nsfw_contents", "flags", None),
        ({"has_nsfw_contents": True}, "data.has_nsfw_contents", "flags", None),
        ({"error": {"text": "x"}}, "data.error", "error", ""),
        ({"model": 5}, "data.model", "model", ""),
        ({"code": "1403"}, "data.code", "code", None),
        ({"code": True}, "data.code", "code", None),
        ({"timings": [1]}, "data.timings", "inference_s", 25.729),
        ({"timings": {"inference": "25"}}, "data.timings.inference", "inference_s", 25.729),
        ({"timings": {"inference": True}}, "data.timings.inference", "inference_s", 25.729),
        ({"executionTime": -1}, "data.executionTime", "inference_s", 25.73),
        (
            {"executionTime": 10**400, "timings": None}, "data.executionTime", "inference_s", None
        ),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_field_that_decides_nothing_counts_as_not_told_where_it_cannot_be_read(
    changed, field, attribute, instead
):
    prediction = read_prediction(WHOLE | changed)

    assert prediction.unread == (field,)
    assert getattr(prediction, attribute) == (
        instead if not isinstance(instead, float) else pytest.approx(instead)
    )
    assert prediction.outputs == ("https://cdn.example/1.jpg",)


def test_what_is_not_asked_for_may_be_anything():
    assert read_prediction(WHOLE | {"created_at": 1747634955, "urls": 5}).unread == ()


@pytest.mark.parametrize("status", ["queued", "warming\nup\x1b[31m" + "!" * 500, "Completed"])
def test_a_status_that_nobody_knows_is_one_of_what_may_be_going_on(status):
    prediction = read_prediction(WHOLE | {"status": status, "outputs": {"no": "list"}})

    assert not prediction.has_ended
    assert not prediction.is_known
    assert prediction.status.isprintable()
    assert len(prediction.status) <= 60


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "an empty body"),
        (b"<html>\n<h1>Bad gateway</h1>", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"code": 200, "data": {"id": NaN}}', "no JSON"),
        (b'{"code": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[1, 2]", "no JSON object"),
        (b"null", "no JSON object"),
        (body(None), "data=None"),
        (body([]), r"data=[]"),
        (b"{}", "data=None"),
        (body(BARE, code="200"), "code='200'"),
        (body(BARE, code=True), "code=True"),
        (body(None, code=500, message="it broke\x1b[0m"), "code=500 (it broke\\x1b[0m)"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_answer_that_is_no_envelope_is_refused(data, why):
    with pytest.raises(UnreadableAnswerError) as caught:
        read_data(data)

    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_envelope_s_own_code_is_told():
    with pytest.raises(UnreadableAnswerError, match="code=5004") as caught:
        read_data(body(BARE, code=5004))

    assert caught.value.code == 5004
    assert read_data(body(BARE, code=5004), frozenset({5004}))["id"] == ID


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"code": 400, "message": "size is wrong", "error": "other"}', ("size is wrong", 400)),
        (b'{"error": "size is wrong"}', ("size is wrong", None)),
        (b'{"message": "", "error": "size is wrong"}', ("size is wrong", None)),
        (b'{"message": {"a": 1}, "code": "x"}', ("", None)),
        (b"<html>", ("", None)),
        (b'{"message": "see https://me:word@h/p?token=1"}', ("see https://…@h/p?…", None)),
    ],
)
def test_of_a_refusal_message_or_error_is_told_without_secrets(data, told):
    assert message_of(data) == told


def test_an_upload_and_a_ticket_are_read():
    uploaded = read_uploaded({"download_url": "https://cdn.example/a.png", "size": 3})
    ticket = read_ticket(
        {
            "upload": {"method": "PUT", "url": "https://store.example/x?sig=1", "headers": {}},
            "download_url": "https://cdn.example/a.png",
        }
    )

    assert uploaded == ticket.download_url == "https://cdn.example/a.png"
    assert ticket.url == "https://store.example/x?sig=1"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"download_url": None}, "data.download_url=None"),
        ({"download_url": "file:///etc/passwd"}, "only http and https"),
        ({"upload": "https://store.example/x"}, "data.upload="),
        ({"upload": {"url": 5}}, "data.upload.url=5"),
        ({"upload": {"url": "https://s.example/", "method": "POST"}}, "not PUT"),
        ({"upload": {"url": "https://s.example/", "headers": ["a"]}}, "no headers"),
        ({"upload": {"url": "https://s.example/", "headers": {"A": "1\r\nB: 2"}}}, "no headers"),
        ({"upload": {"url": "https://s.example/", "headers": {"A b": "1"}}}, "no headers"),
        ({"upload": {"url": "https://s.example/", "headers": {"Host": "x"}}}, "no headers"),
        ({"upload": {"url": "https://s.example/", "headers": {"content-length": "1"}}}, "headers"),
        ({"upload": {"url": "https://s.example/", "headers": {"A": 1}}}, "no headers"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_ticket_that_cannot_be_used_is_refused(changed, why):
    ticket = {"upload": {"url": "https://s.example/"}, "download_url": "https://c.example/a.png"}

    with pytest.raises(UnreadableAnswerError) as caught:
        read_ticket(ticket | changed)

    assert why in str(caught.value)
