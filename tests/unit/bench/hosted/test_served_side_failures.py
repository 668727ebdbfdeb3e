"""A task through a side that is asked: what failures mean, for it and for the run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import picture
from served_fixtures import DONE, ID, Case, prediction

from depthflux.bench.hosted.errors import (
    HostedError,
    KeyRefusedError,
    NoAnswerError,
    SubmissionLostError,
    UnreachableError,
    UnreadableAnswerError,
)
from depthflux.bench.hosted.run_files import Intent
from depthflux.bench.hosted.run_files import Submission as Noted
from depthflux.errors import CancelledError, InvalidParameterError, OutputError


@pytest.fixture
def case(tmp_path: Path) -> Any:
    made = Case(tmp_path)
    yield made
    made.side.close()


@pytest.mark.parametrize(
    ("error", "status", "charged", "code"),
    [
        pytest.param(
            SubmissionLostError("no answer came", status=502), "lost", True, 502, id="lost"
        ),
        pytest.param(
            HostedError("bad size", status=400, code=1401), "failed", False, 1401, id="refused"
        ),
        pytest.param(HostedError("bad size", status=422), "failed", False, 422, id="422"),
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
        pytest.param(HostedError("no such model", status=404), id="model"),
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


def refusal(code: int = 1401) -> HostedError:
    return HostedError("bad size", status=400, code=code)


def test_after_three_submissions_that_are_refused_alike_no_more_is_sent(case: Case) -> None:
    case.side.prepare([case.task])
    case.service.submits = refusal()
    before = [case.side.ask(task).status for task in (case.task, case.others[0])]

    with pytest.raises(HostedError, match=r"3 submissions in a row were refused alike.*bad"):
        case.side.ask(case.others[1])

    assert before == ["failed", "failed"]
    assert case.folder.task("hosted", case.others[1].key).state == "new"


@pytest.mark.parametrize(
    "between", [refusal(1400), prediction("created")], ids=["another refusal", "a success"]
)
def test_refusals_that_are_not_alike_or_not_in_a_row_stop_nothing(between: Any, case: Case) -> None:
    case.side.prepare([case.task])
    answers = [refusal(), refusal(), between, refusal(), refusal()]
    codes = []
    for task, answer in zip([case.task, *case.others], answers, strict=True):
        case.service.submits = answer
        codes.append(case.side.ask(task).code)

    assert [codes[at] for at in (0, 1, 3, 4)] == [1401] * 4


def test_a_local_side_s_refusals_cost_nothing_and_stop_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, is_paid=False)
    case.side.prepare([case.task])
    case.service.submits = refusal()

    statuses = [case.side.ask(task).status for task in (case.task, *case.others)]

    case.side.close()
    assert statuses == ["failed"] * 5


def lose_the_folder(case: Case) -> None:
    """As a disk does that is full: nothing can be written into the task's folder any more."""
    shutil.rmtree(case.taken.path)
    case.taken.path.write_bytes(b"")


@pytest.mark.parametrize(
    "answer",
    [prediction("created"), SubmissionLostError("unreadable", prediction_id=ID)],
    ids=["answered", "unreadable"],
)
def test_an_id_that_cannot_be_written_is_told_with_what_to_do(answer: Any, case: Case) -> None:
    case.service.on_submit = lambda: lose_the_folder(case)
    case.service.submits = answer

    with pytest.raises(OutputError, match="ant-0 was taken, and its id") as caught:
        case.ask()

    said = str(caught.value)
    assert f'write {{"prediction": "{ID}"}} into {case.taken.path}/submission.json' in said
    assert "make room" in said
    assert "\n" not in said


def test_what_is_told_to_be_written_is_what_a_run_goes_on_with(case: Case) -> None:
    case.service.on_submit = lambda: lose_the_folder(case)
    with pytest.raises(OutputError, match="write") as caught:
        case.ask()
    case.taken.path.unlink()
    found = re.search(r"write (\{.*\}) into (\S+),", str(caught.value))
    assert found is not None
    case.taken.intend(Intent(task="ant-0", fields=case.task.fields, began_at=7.0))
    Path(found[2]).write_text(found[1])

    outcome = case.side.follow(case.task)

    assert outcome.status == "completed"


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


@pytest.mark.parametrize(
    "error",
    [
        NoAnswerError("silence"),
        UnreadableAnswerError("no JSON", status=200),
        *(HostedError(f"{status}", status=status) for status in (400, 402, 404, 405, 429, 503)),
    ],
    ids=str,
)
def test_a_task_whose_state_cannot_be_asked_stays_sent(error: Exception, case: Case) -> None:
    case.service.polls = [error]

    with pytest.raises(HostedError, match=str(error)):
        case.ask()

    assert case.taken.state == "submitted"
    assert (case.taken.path / "exchanges.json").exists()


def test_a_later_run_that_cannot_read_a_task_s_state_goes_on_with_the_others(case: Case) -> None:
    case.service.polls = [UnreadableAnswerError("no JSON", status=200)] * 2
    with pytest.raises(UnreadableAnswerError, match="no JSON"):
        case.ask()

    outcome = case.side.follow(case.task)

    assert (outcome.status, outcome.error, outcome.may_come) == ("failed", "no JSON", True)


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
            prediction("completed"), "0 pictures came where 1 was asked for", None, id="none"
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


def test_a_status_that_nobody_knows_is_asked_again_until_it_has_ended(case: Case) -> None:
    case.service.submits = prediction("queued")
    case.service.polls = [prediction("warming up"), DONE]

    outcome = case.ask()

    assert (outcome.status, outcome.polls) == ("completed", 2)


def test_a_status_that_nobody_knows_to_the_last_loses_no_picture(tmp_path: Path) -> None:
    case = Case(tmp_path, longest_s=5.0)
    case.service.polls = [prediction("succeeded", outputs=("https://cdn/0.jpg",))] * 20

    with pytest.raises(HostedError, match="its status is 'succeeded', which is not known") as told:
        case.ask()
    state = case.taken.state
    later = case.side.follow(case.task)

    case.side.close()
    assert ID in str(told.value)
    assert state == "submitted"
    assert (later.status, later.may_come) == ("failed", True)
    assert "not completed within 5 s: its status is 'succeeded'" in later.error


def test_a_task_that_never_ends_has_failed(tmp_path: Path) -> None:
    case = Case(tmp_path, longest_s=5.0)
    case.service.polls = [prediction("processing")] * 20

    outcome = case.ask()

    case.side.close()
    assert outcome.error == "not completed within 5 s"
    assert outcome.polls == 6
    assert outcome.is_charged is True


def test_a_control_image_that_is_refused_fails_its_tasks_unpaid(case: Case) -> None:
    case.service.uploads = [HostedError("413: too large", status=413)]

    outcome = case.ask()

    assert (outcome.status, outcome.is_charged) == ("failed", False)
    assert "its control image was refused: 413: too large" in outcome.error
    assert case.service.sent == []


@pytest.mark.parametrize("status", [400, 415, 422])
def test_other_refusals_of_a_picture_are_its_own_fault_too(status: int, case: Case) -> None:
    case.service.uploads = [HostedError("refused", status=status)]

    outcome = case.ask()

    assert outcome.status == "failed"


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("nobody is there"),
        UnreadableAnswerError("no JSON", status=200),
        *(HostedError(f"{status}", status=status) for status in (402, 404, 405, 429, 500, 503)),
    ],
    ids=str,
)
def test_an_upload_that_every_picture_would_fail_at_ends_the_run(
    error: Exception, case: Case
) -> None:
    case.service.uploads = [error]

    with pytest.raises(HostedError, match=str(error)):
        case.ask()

    assert case.service.sent == []
    assert (case.folder.path / "hosted/uploads.json").exists()


def test_a_control_image_that_changed_meanwhile_is_not_uploaded(case: Case) -> None:
    case.task.case.control_image.write_bytes(picture(7))

    with pytest.raises(InvalidParameterError, match="control image of ant was changed"):
        case.ask()

    assert case.service.uploaded == []
