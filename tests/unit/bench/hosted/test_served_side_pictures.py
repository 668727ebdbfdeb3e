"""A task through a side that is asked: no picture that is paid for is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from run_fixtures import picture
from served_fixtures import DONE, ID, Case, prediction

from depthflux.bench.hosted.downloads import judge_picture
from depthflux.bench.hosted.errors import HostedError, SubmissionLostError, UnusableOutputError
from depthflux.bench.hosted.fetching import Pictures
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import Intent
from depthflux.bench.hosted.run_files import Submission as Noted
from depthflux.files import sha256_of_file
from depthflux.images import IsolatedDecoder
from depthflux.images.isolated import NoDecoderError

CUT_SHORT = picture(kind="JPEG", size=(512, 640))[:-3000]
TWO = ("https://cdn/0.jpg", "https://cdn/1.jpg")


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.side.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Case]:
    """A side that is asked for two pictures at a time."""
    made = Case(tmp_path, fields={"num_images": 2})
    yield made
    made.side.close()


def test_a_picture_that_came_cut_short_is_fetched_again(case: Case) -> None:
    case.service.downloads = [CUT_SHORT, CUT_SHORT, picture(kind="JPEG")]

    outcome = case.ask()

    assert outcome.status == "completed"
    assert outcome.retries == 1 + 2, "one poll, two downloads"
    assert outcome.times.download_seconds >= 3 * 0.125
    assert not list(case.taken.path.glob("*.refused"))


def test_what_is_no_picture_to_the_last_stops_the_run_and_is_kept(case: Case) -> None:
    case.service.downloads = [CUT_SHORT] * 20

    with pytest.raises(UnusableOutputError, match="output="):
        case.ask()

    assert case.taken.state == "submitted"
    assert (case.taken.path / "0.refused").read_bytes() == CUT_SHORT
    assert len(case.service.downloads) == 20 - 6


def test_a_later_run_says_that_it_failed_and_another_one_may_ask_again(case: Case) -> None:
    case.taken.intend(Intent(task="ant-0", fields=case.task.fields, began_at=7.0))
    case.taken.submit(Noted(prediction=ID))
    case.service.downloads = [UnusableOutputError("404", status=404), picture(kind="JPEG")]
    case.service.polls = [DONE, DONE]

    failed = case.side.follow(case.task)
    completed = case.side.follow(case.task)

    assert (failed.status, failed.code, failed.is_charged) == ("failed", 404, True)
    assert failed.may_come is True
    assert (completed.status, completed.may_come) == ("completed", False)


def test_a_picture_in_the_answer_itself_is_not_fetched_again(case: Case) -> None:
    inside = "/9j/" + "A" * 400
    case.service.polls = [prediction("completed", outputs=(inside,))]
    case.service.downloads = [CUT_SHORT] * 20

    with pytest.raises(UnusableOutputError):
        case.ask()

    assert len(case.service.downloads) == 19


@pytest.mark.parametrize("status", [404, 410])
def test_a_prediction_that_is_gone_stops_the_run_that_sent_it(status: int, case: Case) -> None:
    case.service.polls = [HostedError("no such prediction", status=status)] * 2

    with pytest.raises(HostedError, match="no such prediction"):
        case.ask()
    state = case.taken.state
    outcome = case.side.follow(case.task)

    assert state == "submitted"
    assert (outcome.status, outcome.code, outcome.may_come) == ("failed", status, True)


def test_of_a_local_side_what_is_gone_fails_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path, is_paid=False)
    case.service.downloads = [CUT_SHORT] * 20
    case.service.polls = [DONE, HostedError("no such prediction", status=404)]

    statuses = [case.ask().status]
    case.service.submits = prediction("created", id="f" * 32)
    statuses.append(case.side.ask(case.others[0]).status)

    case.side.close()
    assert statuses == ["failed", "failed"]


def test_fewer_pictures_than_were_asked_for_are_kept(two: Case) -> None:
    two.service.polls = [prediction("completed", outputs=TWO[:1], flags=(True,))]

    outcome = two.ask()

    assert (outcome.status, outcome.is_charged) == ("failed", True)
    assert outcome.error == "1 picture came where 2 were asked for"
    (kept,) = outcome.pictures
    assert (kept.file, kept.flagged) == ("hosted/ant-0/0.jpg", True)
    assert (two.folder.path / kept.file).exists()


def test_the_good_picture_beside_a_bad_one_is_kept(two: Case) -> None:
    two.service.polls = [prediction("completed", outputs=TWO)] * 2
    bad = UnusableOutputError("no picture", status=200, data=b"<html>")
    two.service.downloads = [bad, picture(kind="JPEG")] * 2

    with pytest.raises(UnusableOutputError, match="no picture"):
        two.ask()
    outcome = two.side.follow(two.task)

    assert [kept.file for kept in outcome.pictures] == ["hosted/ant-0/1.jpg"]
    assert (two.taken.path / "1.jpg").exists()
    assert (two.taken.path / "0.refused").read_bytes() == b"<html>"


def test_what_came_before_the_side_fell_silent_is_kept(two: Case) -> None:
    two.service.polls = [prediction("completed", outputs=TWO)]
    two.service.downloads = [picture(kind="JPEG"), HostedError("503", status=503)]

    with pytest.raises(HostedError, match="503"):
        two.ask()

    assert two.taken.state == "submitted"
    assert (two.taken.path / "0.jpg").exists()


def test_what_came_is_kept_where_the_side_falls_silent_at_the_second_asking(two: Case) -> None:
    two.service.polls = [prediction("completed", outputs=TWO)]
    two.service.downloads = [picture(kind="JPEG"), CUT_SHORT, HostedError("503", status=503)]

    with pytest.raises(HostedError, match="503"):
        two.ask()

    assert two.taken.state == "submitted"
    assert (two.taken.path / "0.jpg").exists()
    assert (two.taken.path / "1.refused").read_bytes() == CUT_SHORT


def test_what_an_earlier_end_tells_of_is_left_as_it_is_until_there_is_another(two: Case) -> None:
    two.service.polls = [prediction("completed", outputs=TWO[:1])]
    two.service.downloads = [picture(10, kind="JPEG"), picture(20, kind="JPEG")]
    first = two.ask()
    two.taken.end(first)
    two.service.polls = [prediction("completed", outputs=TWO)]
    two.service.downloads.append(HostedError("503", status=503))

    with pytest.raises(HostedError, match="503"):
        two.side.follow(two.task)

    assert sha256_of_file(two.taken.path / "0.jpg") == first.pictures[0].sha256


class NoDecoder(IsolatedDecoder):
    """As on a machine whose processes are used up."""

    def decode(self, *_: object, **__: object) -> NoReturn:
        raise NoDecoderError("no process starts")


def test_what_nobody_can_decode_just_now_is_kept_as_what_its_begin_says(tmp_path: Path) -> None:
    case = Case(tmp_path)
    pictures = Pictures(
        case.service,  # type: ignore[arg-type]
        NoDecoder(),
        clock=case.service.clock,
        sleep=lambda _: None,
    )

    with pytest.raises(NoDecoderError, match="no process starts"):
        pictures.fetch(DONE, case.taken)

    case.side.close()
    assert (case.taken.path / "0.jpg").read_bytes() == picture(kind="JPEG")


def test_a_later_end_that_is_worse_keeps_the_pictures_of_an_earlier_one(two: Case) -> None:
    silent = HostedError("no such prediction", status=404)
    two.service.polls = [prediction("completed", outputs=TWO[:1]), silent]
    first = two.ask()
    two.taken.end(first)

    second = two.side.follow(two.task)

    assert len(first.pictures) == 1
    assert (second.status, second.code, second.pictures) == ("failed", 404, first.pictures)


def test_of_a_picture_that_came_twice_the_later_file_is_told(two: Case) -> None:
    bad = UnusableOutputError("404", status=404)
    two.service.polls = [prediction("completed", outputs=(*TWO, "https://cdn/2.jpg"))] * 2
    two.service.downloads = [
        *(picture(level, kind="JPEG") for level in (10, 20, 30)), bad, picture(40, kind="JPEG"), bad
    ]  # fmt: skip
    first = two.ask()
    two.taken.end(first)

    second = two.side.follow(two.task)

    names = [Path(kept.file).name for kept in second.pictures]
    sums = [kept.sha256 for kept in second.pictures]
    assert (first.status, second.status, names) == ("failed", "failed", ["0.jpg", "1.jpg", "2.jpg"])
    assert [mine == theirs.sha256 for mine, theirs in zip(sums, first.pictures, strict=True)] == [
        True, False, True
    ]  # fmt: skip
    assert sums == [sha256_of_file(two.taken.path / name) for name in names]


@pytest.mark.parametrize(
    ("answer", "may_come"),
    [
        pytest.param(prediction("failed", error="it fell over"), False, id="failed"),
        pytest.param(prediction("cancelled"), False, id="cancelled"),
        pytest.param(prediction("completed"), True, id="no outputs"),
    ],
)
def test_only_what_the_side_itself_ended_has_surely_no_pictures(
    answer: Any, may_come: bool, case: Case
) -> None:
    case.service.polls = [answer]

    outcome = case.ask()

    assert (outcome.status, outcome.may_come) == ("failed", may_come)


def test_what_took_too_long_may_still_come(tmp_path: Path) -> None:
    case = Case(tmp_path, longest_s=5.0)
    case.service.polls = [prediction("processing")] * 20

    outcome = case.ask()

    case.side.close()
    assert (outcome.status, outcome.may_come) == ("failed", True)


@pytest.mark.parametrize(
    "answer",
    [prediction("created"), SubmissionLostError("unreadable", prediction_id=ID)],
    ids=["answered", "unreadable"],
)
def test_an_id_that_was_given_to_another_task_is_not_believed(answer: Any, case: Case) -> None:
    case.ask()
    other = case.others[0]
    case.service.submits = answer

    with pytest.raises(HostedError, match=f"{other.key} is lost.*the id of ant-0") as caught:
        case.side.ask(other)

    taken = case.folder.task("hosted", other.key)
    assert ID in str(caught.value)
    assert taken.submission() is None
    assert (taken.outcome().status, taken.outcome().is_charged) == ("lost", True)


def test_an_id_of_an_earlier_run_is_known_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.ask()
    case.side.close()
    again = Case(tmp_path)
    again.side.prepare(again.others)

    with pytest.raises(HostedError, match="the id of ant-0"):
        again.side.ask(again.others[0])

    again.side.close()


def test_a_clock_that_is_set_meanwhile_changes_no_task_s_duration(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.side.close()
    jumps = iter([1_000_000.0, *(float(at) for at in range(50, 0, -1))])
    side = case.another_side(wall=lambda: next(jumps))
    case.service.polls *= 2
    case.service.downloads *= 2
    side.prepare([case.task])
    case.service.on_submit = lambda: None

    first = side.ask(case.task)
    case.service.submits = prediction("created", id="f" * 32)
    second = side.ask(case.others[0])

    side.close()
    assert (first.began_at, first.ended_at) == (1_000_000.0, 1_000_001.625)
    assert second.began_at >= first.ended_at
    assert second.ended_at - second.began_at == 1.625


@pytest.mark.parametrize("inference", [1e-300, 0.0, 0.0005, 1.6, 86_400.0])
def test_an_inference_that_cannot_be_is_not_believed_and_counted(
    inference: float, case: Case
) -> None:
    """It took 1.5 s from its sending until it was seen completed."""
    case.service.polls = [
        prediction("completed", outputs=("https://cdn/0.jpg",), inference_s=inference)
    ]

    outcome = case.ask()

    assert (outcome.times.inference_seconds, outcome.times.queue_seconds) == (None, None)
    facts = RunFolder(case.folder.path).side("hosted")
    assert facts is not None
    assert facts.impossible_inferences == 1


def test_an_inference_that_can_be_is_believed(case: Case) -> None:
    case.service.polls = [prediction("completed", outputs=("https://cdn/0.jpg",), inference_s=1.25)]

    outcome = case.ask()

    assert outcome.times.inference_seconds == 1.25
    assert case.side.facts.impossible_inferences == 0


def test_a_size_is_believed_once_the_picture_was_decoded() -> None:
    with IsolatedDecoder() as decoder:
        judged = judge_picture(picture(size=(48, 20)), decoder)
        broken = picture(size=(48, 20)).replace(b"IDAT", b"IDAT\x00", 1)
        with pytest.raises(UnusableOutputError, match="output="):
            judge_picture(broken, decoder)

    assert (judged.media_type, judged.width, judged.height) == ("image/png", 48, 20)
