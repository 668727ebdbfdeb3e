"""A task through a side that is asked: what is on the disk, and what failures mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import facts, make_suite, picture, tasks_of_suite

from depthflux.bench.hosted.client import Submission
from depthflux.bench.hosted.downloads import Downloaded
from depthflux.bench.hosted.errors import (
    HostedError,
    KeyRefusedError,
    NoAnswerError,
    SubmissionLostError,
    UnreachableError,
    UnreadableAnswerError,
    UnusableOutputError,
)
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.exchanges import Exchange
from depthflux.bench.hosted.folder import Intent, RunFolder
from depthflux.bench.hosted.folder import Submission as Noted
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.sides import ServedSide
from depthflux.bench.hosted.uploads import Upload
from depthflux.errors import CancelledError, InvalidParameterError

ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"


def prediction(status: str, **more: Any) -> HostedPrediction:
    given: dict[str, Any] = {
        "id": ID, "model": "a/model", "status": status, "outputs": (), "flags": None, "error": "",
        "code": None, "inference_s": None, "created_at": "",
    }  # fmt: skip
    return HostedPrediction(**(given | more))


DONE = prediction("completed", outputs=("https://cdn/0.jpg",), flags=(False,), inference_s=2.0)


@dataclass
class Service:
    """Answers as a test says, in a time that only it makes pass.

    Attributes:
        submits: of the submission: an answer, or an error.
        polls: likewise, one after the other.
        downloads: likewise.
    """

    log: ExchangeLog
    submits: HostedPrediction | Exception = field(default_factory=lambda: prediction("created"))
    polls: list[HostedPrediction | Exception] = field(default_factory=lambda: [DONE])
    downloads: list[bytes | Exception] = field(default_factory=lambda: [picture(kind="JPEG")])
    uploads: list[Exception | None] = field(default_factory=list)
    on_submit: Callable[[], None] = lambda: None
    now: float = 100.0
    sent: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)

    def upload(self, data: bytes, filename: str) -> Upload:
        self.uploaded.append(filename)
        if self.uploads and (error := self.uploads.pop(0)) is not None:
            raise error
        return Upload(url=f"https://cdn/{filename}", exchanges=1, seconds=0.25)

    def submit(self, fields: dict[str, Any], *, sync_mode: bool = False) -> Submission:
        self.on_submit()
        self.sent.append((fields, sync_mode))
        self._pass(0.5, attempt=1)
        answer = _given(self.submits)
        return Submission(id=ID, prediction=answer, seconds=0.5, began_at=self.now, retries=0)

    def poll(self, prediction_id: str) -> HostedPrediction:
        assert prediction_id == ID
        self._pass(1.0, attempt=2)
        return _given(self.polls.pop(0))

    def download(self, address: str) -> Downloaded:
        self._pass(0.125, attempt=1)
        data = _given(self.downloads.pop(0))
        return Downloaded(data=data, media_type="image/jpeg", headers={}, seconds=0.125)

    def clock(self) -> float:
        return self.now

    def _pass(self, seconds: float, *, attempt: int) -> None:
        self.now += seconds
        exchange = Exchange(
            method="GET", address="https://api/", sent=None, status=200, headers={}, body=None,
            size=0, problem="", began_at=self.now, seconds=seconds, attempt=attempt,
        )  # fmt: skip
        self.log.add(exchange)


def _given(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


class Case:
    """A side of one task, and the service behind it."""

    def __init__(self, path: Path, **asking: Any) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.path.mkdir(exist_ok=True)
        self.service, self.log = Service(log := ExchangeLog()), log
        self.stop = threading.Event()
        self.suite = make_suite(path, ["ant"])
        (self.task,) = tasks_of_suite(self.suite)
        given = {"poll_interval_s": 0.001, "sync_mode": False, "longest_s": 60.0, "is_paid": True}
        self.side = ServedSide(
            self.service,  # type: ignore[arg-type]
            self.log,
            facts(),
            self.folder,
            Asking(**(given | asking)),
            stop=self.stop,
            clock=self.service.clock,
            wall=self.service.clock,
        )
        self.taken = self.folder.task("hosted", self.task.key)

    def ask(self) -> Any:
        self.side.prepare([self.task])
        return self.side.ask(self.task)


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
        "submit": 0.5,
        "queue": 1.0,
        "inference": 2.0,
        "download": 0.125,
        "total": 3.625,
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
    assert outcome.times.queue is None, "nor is there a queue without an inference"


def test_in_sync_mode_there_is_no_submission_apart(tmp_path: Path) -> None:
    case = Case(tmp_path, sync_mode=True)
    case.service.submits = DONE

    outcome = case.ask()

    case.side.close()
    assert (outcome.times.submit, outcome.times.queue) == (None, None)
    assert (outcome.times.total, outcome.polls) == (0.625, 0)
    assert case.service.sent[0][1] is True


@pytest.mark.parametrize(
    ("error", "status", "charged", "code"),
    [
        pytest.param(
            SubmissionLostError("no answer came", status=502), "lost", True, 502, id="lost"
        ),
        pytest.param(
            HostedError("bad size", status=400, code=1401), "failed", False, 1401, id="refused"
        ),
        pytest.param(HostedError("no such model", status=404), "failed", False, 404, id="404"),
    ],
)
def test_a_submission_s_failure_is_the_task_s_own(
    error: Exception, status: str, charged: bool, code: int, case: Case
) -> None:
    case.service.submits = error

    outcome = case.ask()

    assert (outcome.status, outcome.is_charged, outcome.code) == (status, charged, code)
    assert outcome.error == str(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UnreachableError("no connection"), id="unreachable"),
        pytest.param(KeyRefusedError("refused", status=401), id="key"),
        pytest.param(HostedError("it redirects", status=307), id="redirect"),
        pytest.param(HostedError("pay first", status=402), id="balance"),
        pytest.param(HostedError("too many", status=429), id="too many"),
        pytest.param(CancelledError("cancelled."), id="stopped before it was sent anew"),
    ],
)
def test_what_every_task_would_meet_ends_the_run_and_this_one_is_new_again(
    error: Exception, case: Case
) -> None:
    case.service.submits = error

    with pytest.raises(type(error), match=str(error)):
        case.ask()

    assert case.taken.state == "new"


def test_a_local_server_that_is_gone_loses_no_task(tmp_path: Path) -> None:
    case = Case(tmp_path, is_paid=False)
    case.service.submits = SubmissionLostError("it broke off")

    with pytest.raises(SubmissionLostError, match="it broke off"):
        case.ask()

    case.side.close()
    assert case.taken.state == "new"


def test_a_lost_answer_whose_id_is_known_is_followed(case: Case) -> None:
    case.service.submits = SubmissionLostError("unreadable", prediction_id=ID)

    outcome = case.ask()

    assert (outcome.status, outcome.times) == ("completed", None)
    assert case.taken.submission() == Noted(prediction=ID, polled_on=True)


@pytest.mark.parametrize("error", [NoAnswerError("silence"), HostedError("down", status=503)])
def test_a_task_whose_state_cannot_be_asked_stays_sent(error: Exception, case: Case) -> None:
    case.service.polls = [error]

    with pytest.raises(HostedError, match=str(error)):
        case.ask()

    assert case.taken.state == "submitted"
    assert (case.taken.path / "exchanges.json").exists()


@pytest.mark.parametrize(
    ("answer", "message", "code"),
    [
        pytest.param(
            prediction("failed", error="it fell over", code=1403), "it fell over", 1403, id="failed"
        ),
        pytest.param(
            prediction("cancelled"),
            "its status is cancelled, and no error is told",
            None,
            id="mute",
        ),
        pytest.param(
            prediction("completed"), "0 pictures came where 1 were asked for", None, id="none"
        ),
        pytest.param(HostedError("no such prediction", status=404), "no such", 404, id="gone"),
        pytest.param(
            UnreadableAnswerError("status=odd", status=200), "status=odd", 200, id="unreadable"
        ),
    ],
)
def test_a_task_that_ends_badly_once_taken_is_charged(
    answer: Any, message: str, code: int | None, case: Case
) -> None:
    case.service.polls = [answer]

    outcome = case.ask()

    assert (outcome.status, outcome.is_charged, outcome.code) == ("failed", True, code)
    assert message in outcome.error
    assert outcome.prediction == ID


@pytest.mark.parametrize(
    "downloaded",
    [UnusableOutputError("404 instead of a picture"), b"\x89PNG\r\n\x1a\nand no more"],
    ids=["gone", "damaged"],
)
def test_a_picture_that_is_none_fails_its_task(downloaded: Any, case: Case) -> None:
    case.service.downloads = [downloaded]

    outcome = case.ask()

    assert (outcome.status, outcome.is_charged) == ("failed", True)
    assert outcome.error
    assert outcome.pictures == []


def test_a_picture_whose_connection_broke_off_is_tried_once_more_by_the_next_run(
    case: Case,
) -> None:
    case.service.downloads = [NoAnswerError("it broke off"), NoAnswerError("again")]
    case.service.polls = [DONE, DONE]

    with pytest.raises(NoAnswerError, match="it broke off"):
        case.ask()
    state = case.taken.state
    outcome = case.side.follow(case.task)

    assert state == "submitted"
    assert (outcome.status, outcome.error) == ("failed", "again")


def test_a_task_that_never_ends_has_failed(tmp_path: Path) -> None:
    case = Case(tmp_path, longest_s=5.0)
    case.service.polls = [prediction("processing")] * 20

    outcome = case.ask()

    case.side.close()
    assert outcome.error == "not completed within 5 s"
    assert outcome.polls == 6
    assert outcome.is_charged is True


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


def test_a_control_image_that_is_refused_fails_its_tasks_unpaid(case: Case) -> None:
    case.service.uploads = [HostedError("413: too large", status=413)]

    outcome = case.ask()

    assert (outcome.status, outcome.is_charged) == ("failed", False)
    assert "its control image was refused: 413: too large" in outcome.error
    assert case.service.sent == []


def test_an_upload_that_cannot_be_made_ends_the_run(case: Case) -> None:
    case.service.uploads = [UnreachableError("nobody is there")]

    with pytest.raises(UnreachableError, match="nobody is there"):
        case.ask()

    assert (case.folder.path / "hosted/uploads.json").exists()


def test_a_control_image_that_changed_meanwhile_is_not_uploaded(case: Case) -> None:
    case.task.case.control_image.write_bytes(picture(7))

    with pytest.raises(InvalidParameterError, match="control image of ant was changed"):
        case.ask()

    assert case.service.uploaded == []


def test_what_an_earlier_run_knew_of_a_side_is_kept(case: Case) -> None:
    case.side.note(upload_seconds={"ant": 0.5}, model="a/model")

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
