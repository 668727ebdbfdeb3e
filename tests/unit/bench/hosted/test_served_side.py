"""A task through a side that is asked: what is on the disk, and what a run knows of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import facts, picture
from served_fixtures import DONE, ID, Case, Service, prediction

from depthflux.bench.hosted.errors import (
    HostedError,
    NoAnswerError,
    NotAskedError,
    UnreachableError,
)
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.run_files import Intent
from depthflux.bench.hosted.run_files import Submission as Noted
from depthflux.bench.hosted.sides import ServedSide
from depthflux.errors import CancelledError


@pytest.fixture
def case(tmp_path: Path) -> Any:
    made = Case(tmp_path)
    yield made
    made.side.close()


def test_a_task_s_times_are_what_passed(case: Case) -> None:
    case.service.polls = [prediction("processing"), prediction("processing"), DONE]

    outcome = case.ask()

    assert outcome.status == "completed"
    assert outcome.times.model_dump() == {
        "submit_seconds": 0.5,
        "queue_seconds": 1.0,
        "inference_seconds": 2.0,
        "download_seconds": 0.125,
        "total_seconds": 3.625,
    }
    assert (outcome.polls, outcome.retries) == (3, 3)
    assert (outcome.began_at, outcome.ended_at) == (100.0, 103.625)


def test_a_task_is_on_the_disk_before_it_is_sent(case: Case) -> None:
    states: list[str] = []
    case.service.on_submit = lambda: states.append(case.taken.state)

    case.ask()

    assert states == ["intended"]
    assert case.taken.submission() == Noted(prediction=ID)
    assert len(json.loads((case.taken.path / "exchanges.json").read_bytes())) == 3


def test_the_control_image_is_uploaded_once_and_sent_by_its_address(case: Case) -> None:
    case.side.prepare([case.task, case.task])
    case.side.ask(case.task)

    ((fields, sync_mode),) = case.service.sent
    assert case.service.uploaded == ["ant.png"]
    assert fields == {**case.task.fields, "control_image": "https://cdn/ant.png"}
    assert sync_mode is False
    assert case.side.facts.upload_seconds == {"ant": 0.25}


def test_a_picture_is_kept_as_it_came_and_judged_by_its_bytes(case: Case) -> None:
    case.service.downloads = [data := picture(kind="WEBP", size=(48, 32))]

    (found,) = case.ask().pictures

    assert (found.file, found.media_type) == ("hosted/ant-0/0.webp", "image/webp")
    assert (found.width, found.height, found.bytes) == (48, 32, len(data))
    assert found.flagged is False
    assert (case.folder.path / found.file).read_bytes() == data


def test_flags_that_are_not_one_each_are_none(case: Case) -> None:
    case.service.polls = [
        prediction("completed", outputs=("https://cdn/0.jpg",), flags=(True, False))
    ]

    outcome = case.ask()

    assert outcome.pictures[0].flagged is None
    assert outcome.times.queue_seconds is None, "nor is there a queue without an inference"


def test_in_sync_mode_there_is_no_submission_apart(tmp_path: Path) -> None:
    case = Case(tmp_path, sync_mode=True)
    case.service.submits = DONE

    outcome = case.ask()

    case.side.close()
    assert (outcome.times.submit_seconds, outcome.times.queue_seconds) == (None, None)
    assert (outcome.times.total_seconds, outcome.polls) == (0.625, 0)
    assert case.service.sent[0][1] is True


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("no connection"),
        NoAnswerError("it broke off"),
        *(HostedError(f"{status}", status=status) for status in (402, 429, 500, 503)),
    ],
    ids=str,
)
def test_a_picture_that_cannot_be_had_just_now_is_left_to_every_later_run(
    error: Exception, case: Case
) -> None:
    case.service.downloads = [error, error, picture(kind="JPEG")]
    case.service.polls = [DONE, DONE, DONE]

    with pytest.raises(HostedError, match=str(error)):
        case.ask()
    with pytest.raises(HostedError, match=str(error)):
        case.side.follow(case.task)
    state = case.taken.state
    outcome = case.side.follow(case.task)

    assert state == "submitted"
    assert outcome.status == "completed"


def test_a_picture_s_address_that_we_refuse_ends_one_run_before_it_fails_its_task(
    case: Case,
) -> None:
    case.service.downloads = [NotAskedError("private"), NotAskedError("private")]
    case.service.polls = [DONE, DONE]

    with pytest.raises(NotAskedError, match="private"):
        case.ask()
    state = case.taken.state
    outcome = case.side.follow(case.task)

    assert state == "submitted"
    assert (outcome.status, outcome.is_charged) == ("failed", True)


def test_fields_that_were_not_read_are_noted_once_each(case: Case) -> None:
    odd = {"outputs": ("https://cdn/0.jpg",), "model": ""}
    case.service.polls = [
        prediction("completed", unread=("data.timings.inference", "data.error"), **odd),
        prediction("completed", unread=("data.timings.inference",), **odd),
    ]
    case.service.downloads *= 2

    case.ask()
    case.service.submits = prediction("created", id="f" * 32)
    case.side.ask(case.others[0])

    noted = case.folder.side("hosted")
    assert noted is not None
    assert noted.unread == ["data.error", "data.timings.inference"]


def test_a_run_that_is_stopped_waits_for_no_poll(case: Case) -> None:
    case.service.on_submit = case.stop.set

    with pytest.raises(CancelledError, match="cancelled"):
        case.ask()

    assert case.taken.state == "submitted"


def test_a_followed_task_has_pictures_and_no_times(case: Case) -> None:
    case.taken.intend(Intent(task="ant-0", fields=case.task.fields, began_at=7.0))
    case.taken.submit(Noted(prediction=ID))

    outcome = case.side.follow(case.task)

    assert (outcome.status, outcome.began_at, outcome.times) == ("completed", 7.0, None)
    assert case.service.sent == []
    noted = case.taken.submission()
    assert noted is not None
    assert noted.polled_on is True


def test_the_like_of_a_task_is_painted_with_another_seed_and_leaves_nothing(case: Case) -> None:
    case.service.polls = [prediction("processing"), DONE]
    case.side.prepare([case.task])

    case.side.warm(case.task)

    ((fields, _),) = case.service.sent
    assert fields == {**case.task.fields, "seed": 4, "control_image": "https://cdn/ant.png"}
    assert case.service.downloads == []
    assert case.taken.state == "new"
    assert not case.taken.path.exists()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (prediction("failed", error="out of memory", code=1403), "failed: out of memory"),
        (prediction("timeout"), "timeout"),
        (prediction("processing"), "processing after 0 s"),
    ],
    ids=["failed", "timed out", "not ended in time"],
)
def test_a_side_is_only_warm_once_the_like_of_a_task_was_painted(
    answer: HostedPrediction, reason: str, tmp_path: Path
) -> None:
    case = Case(tmp_path, longest_s=0.0)
    case.service.submits = answer
    case.side.prepare([case.task])

    with pytest.raises(HostedError, match="the side could not paint its warm-up: ") as caught:
        case.side.warm(case.task)

    assert str(caught.value).endswith(reason)
    assert caught.value.code == answer.code


def test_a_side_that_refused_the_control_image_is_not_warm(case: Case) -> None:
    case.service.uploads = [HostedError("413: too large", status=413)]
    case.side.prepare([case.task])

    with pytest.raises(HostedError, match="its control image was refused: 413: too large"):
        case.side.warm(case.task)

    assert case.service.sent == []


def test_what_an_earlier_run_knew_of_a_side_is_kept(case: Case) -> None:
    case.side.note(upload_seconds={"ant": 0.5}, model="a/model", unread=["data.error"])

    again = ServedSide(
        case.service,  # type: ignore[arg-type]
        case.log,
        facts(label="anew"),
        case.folder,
        Asking(poll_interval_s=0.1, sync_mode=False, longest_s=1, is_paid=True),
        stop=case.stop,
    )

    again.close()
    assert again.facts.upload_seconds == {"ant": 0.5}
    assert (again.facts.model, again.facts.label) == ("a/model", "anew")
    assert again.facts.unread == ["data.error"]


def test_exchanges_of_several_threads_are_kept_apart() -> None:
    log, kept = ExchangeLog(), {}
    both = threading.Barrier(2)

    def work(name: str) -> None:
        service = Service(log)
        with log.kept() as exchanges:
            both.wait(30)
            service.poll(ID) if name == "one" else service.submit({})
            both.wait(30)
        kept[name] = [exchange.attempt for exchange in exchanges]

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert kept == {"one": [2], "two": [1]}
