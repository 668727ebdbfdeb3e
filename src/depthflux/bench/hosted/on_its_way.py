"""A task while it is asked, and how a side is asked.

Knows nothing of what is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthflux.bench.hosted.exchanges import Exchange
from depthflux.bench.hosted.folder import TaskFolder
from depthflux.bench.hosted.plan import Task
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
    """

    task: Task
    folder: TaskFolder
    exchanges: list[Exchange]
    begun: Begun
    is_later: bool = False
    prediction: str = ""
    polls: int = 0
