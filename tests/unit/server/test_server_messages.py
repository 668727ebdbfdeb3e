"""What the server and a worker tell each other: a JSON document a line, nothing that runs."""

from __future__ import annotations

import io
import json
import pickle

import pytest
from pydantic import ValidationError

from depthflux.server.messages import (
    Alive,
    Cancel,
    Drain,
    Dropped,
    Ended,
    Message,
    Ready,
    Refused,
    Start,
    Step,
    Wake,
    parse_from_worker,
    read_from_server,
)

ID = "0123456789abcdef" * 2
START = Start(
    target="demo",
    settings={"text": "1", "whole": 1, "real": 0.5, "yes": True, "nothing": None, "ünï": "\n"},
    data_dir="/data/ü \n",
    slot=3,
    lease="x" * 32,
    fail_when_all_flagged=True,
    prediction_timeout_s=3600,
    has_several_keys=True,
)
FROM_SERVER = [START, Wake(), Cancel(id=ID), Drain()]
FROM_WORKER = [
    Ready(model="depthflux/demo", device="cuda:0", device_count=8),
    Step(id=ID, step=3, total=28),
    Ended(id=ID, status="completed", inference_ms=1234, is_told=True),
    Ended(id=ID, status="failed", code=1405),
    Dropped(id=ID),
    Alive(),
    Refused(error="the weights\nare missing: ü"),
]


def kind(message: Message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", FROM_SERVER, ids=kind)
def test_a_worker_reads_what_the_server_has_said(message: Message) -> None:
    stream = io.BytesIO(message.line() + Wake().line())

    assert read_from_server(stream) == message
    assert read_from_server(stream) == Wake()
    assert read_from_server(stream) is None


def test_settings_keep_their_types_on_the_way() -> None:
    read = read_from_server(io.BytesIO(START.line()))

    assert isinstance(read, Start)
    assert [type(value) for value in read.settings.values()] == [
        type(value) for value in START.settings.values()
    ]


@pytest.mark.parametrize("message", FROM_WORKER, ids=kind)
def test_the_server_reads_what_a_worker_has_said(message: Message) -> None:
    assert parse_from_worker(message.line()) == message


@pytest.mark.parametrize("message", FROM_SERVER + FROM_WORKER, ids=kind)
def test_every_message_is_one_line_of_json_whatever_is_in_it(message: Message) -> None:
    line = message.line()

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["kind"] == message.kind


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"Loading checkpoint shards: 100%\n",
        b"{}\n",
        b"null\n",
        b'{"kind": "ready"}\n',
        b'{"kind": "unknown"}\n',
        b'{"kind": "alive", "more": 1}\n',
        b'{"kind": "ended", "id": "a", "status": "created"}\n',
        b'{"kind": "step", "id": "a", "step": "x", "total": 1}\n',
        START.line(),
        Cancel(id=ID).line(),
        Alive().line() + Alive().line(),
        Alive().line()[:-5],
        b"\xff\xfe\x00\n",
        b"[" * 100_000,
        pickle.dumps(Alive()),
        b"__import__('os').abort()\n",
    ],
    ids=lambda line: repr(line[:30]),
)
def test_a_line_that_is_no_workers_message_is_none(line: bytes) -> None:
    assert parse_from_worker(line) is None


def test_a_worker_takes_no_order_that_is_none() -> None:
    with pytest.raises(ValidationError, match="kind"):
        read_from_server(io.BytesIO(b'{"kind": "run", "code": "print()"}\n'))
