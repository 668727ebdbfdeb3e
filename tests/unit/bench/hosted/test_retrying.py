"""When something is sent anew: connections and answers counted apart, pauses bounded."""

from __future__ import annotations

import pytest

from depthflux.bench.hosted.errors import NoAnswerError, UnreachableError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.retrying import FREELY, SUBMISSIONS, Retries, Rule

DONE = Answer(status=200, headers={}, body=b"")
BUSY = Answer(status=429, headers={}, body=b"")
AT_ONCE = Answer(status=429, headers={"retry-after": "0"}, body=b"")
UNREACHABLE, SILENT = UnreachableError("nobody is there"), NoAnswerError("silence")


class Script:
    """Answers in turn, with the attempts that it was asked in and the pauses between."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self._answers = list(answers)
        self.attempts: list[int] = []
        self.pauses: list[float] = []

    def ask(self, attempt: int) -> Answer:
        self.attempts.append(attempt)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def go(self, rule: Rule) -> Answer:
        return Retries(sleep=self.pauses.append, wall=lambda: 0.0).answer(self.ask, rule)


def test_connections_that_could_not_be_made_leave_all_retries_of_answers() -> None:
    script = Script(*[UNREACHABLE] * 5, *[BUSY] * 8, DONE)

    answer = script.go(SUBMISSIONS)

    assert answer is DONE
    assert script.attempts == list(range(1, 15))
    assert script.pauses == [1.0, 2.0, 3.0, 4.0, 5.0, *(5.0 * n for n in range(1, 9))]


def test_answers_that_may_pass_leave_all_retries_of_connections() -> None:
    script = Script(*[BUSY] * 5, *[UNREACHABLE] * 5, DONE)

    assert script.go(FREELY) is DONE


def test_silence_and_answers_that_may_pass_are_counted_together() -> None:
    script = Script(BUSY, SILENT, BUSY, SILENT, BUSY, SILENT)

    with pytest.raises(NoAnswerError, match="silence"):
        script.go(FREELY)

    assert script.pauses == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_retry_after_of_nothing_waits_a_second_each_time() -> None:
    script = Script(*[AT_ONCE] * 8, DONE)

    script.go(SUBMISSIONS)

    assert script.pauses == [1.0] * 8
