"""A task while it is asked, and how a side is asked.

Knows nothing of what is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from depthflux.bench.hosted.exchange_log import count_retries
from depthflux.bench.hosted.exchanges import Exchange
from depthflux.bench.hosted.folder import TaskFolder
from depthflux.bench.hosted.outcomes import Outcome, Picture, TaskStatus, Times
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import OUTCOME
from depthflux.bench.hosted.timing import Begun


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a side is asked.

    Attributes:
        poll_interval_s: between two polls of a task.
        sync_mode: whether answers are awaited in the submission.
        longest_s: after which a task has failed.
        is_paid: whether a task that was sent may cost, so that it must never be sent twice.
    """

    poll_interval_s: float
    sync_mode: bool
    longest_s: float
    is_paid: bool


@dataclass
class OnItsWay:
    """A task that is being asked.

    Attributes:
        task: which.
        folder: its own.
        exchanges: so far.
        begun: when it was sent.
        is_later: whether an earlier run has sent it.
        prediction: its id; empty until it is known.
        polls: so far.
        fetched_again: how often a picture was fetched anew since it could not be decoded.
    """

    task: Task
    folder: TaskFolder
    exchanges: list[Exchange]
    begun: Begun
    is_later: bool = False
    prediction: str = ""
    polls: int = 0
    fetched_again: int = 0

    def ended(
        self,
        status: TaskStatus,
        error: str,
        code: int | None = None,
        *,
        ended_at: float,
        is_charged: bool = True,
        may_come: bool = False,
        pictures: Sequence[Picture] = (),
        times: Times | None = None,
    ) -> Outcome:
        """Its outcome; see there. One that failed keeps the pictures of an earlier end, too."""
        if status == "failed":
            pictures = self._with_earlier(pictures)
        return Outcome(
            task=self.task.key,
            status=status,
            error=error.rstrip("."),
            code=code,
            prediction=self.prediction,
            began_at=self.begun.at,
            ended_at=ended_at,
            times=times,
            pictures=list(pictures),
            polls=self.polls,
            retries=count_retries(self.exchanges) + self.fetched_again,
            is_charged=is_charged,
            may_come=may_come,
        )

    def _with_earlier(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Pictures, and those of an earlier end that did not come again, in order."""
        earlier = self.folder.outcome().pictures if self.folder.has(OUTCOME) else []
        # By their number: one that came again may be of another kind than before.
        numbered = {PurePosixPath(one.file).stem: one for one in (*earlier, *pictures)}
        return [numbered[number] for number in sorted(numbered, key=lambda of: (len(of), of))]
