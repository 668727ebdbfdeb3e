"""Which fault comes after which job, by the seed: over the count of jobs and not over time.

So a run can be repeated as a plan, however quick the machine is. Knows nothing of how faults are
made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill worker", "kill server", "full disk", "clock", "lock"]

#: A kill comes up to so many seconds after its job: kills must meet every moment of a job's life.
_MOST_DELAY_S = 0.5
#: Jobs at the beginning and the end without a kill, as shares of all.
_CALM = (0.03, 0.95)
#: Where the others come, as shares of all jobs.
_DISK, _FORWARD, _BACK, _LOCKS = 0.25, 0.45, 0.75, (0.6, 0.85)
FORWARD_S, BACK_S = 3 * 3600.0, -3600.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is broken.

    Attributes:
        after: how many jobs have been accepted before.
        kind: what.
        delay_s: how long after that job, in seconds.
        seconds: how long it lasts, or by how much the clock jumps.
        pick: which of the workers, counted round.
    """

    after: int
    kind: Kind
    delay_s: float = 0.0
    seconds: float = 0.0
    pick: int = 0


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is broken.

    Attributes:
        jobs: how many are submitted.
        worker_kills: how often a worker is killed.
        server_kills: how often the server is killed.
        disk_s: how long the disk is full; 0 for never.
        lock_s: how long the store is locked, each time.
        has_clock: whether the clock jumps, ahead and back.
    """

    jobs: int
    worker_kills: int
    server_kills: int
    disk_s: float
    lock_s: Sequence[float]
    has_clock: bool


def make_plan(seed: int, amounts: Amounts) -> list[Fault]:
    """All faults of a run, in the order in which they come.

    A worker dies while the disk is full, and the server while the store is locked, where there
    are such kills at all.
    """
    draw = random.Random(f"plan {seed}")
    jobs = amounts.jobs
    workers = [_kill(draw, jobs, "kill worker") for _ in range(amounts.worker_kills)]
    servers = [_kill(draw, jobs, "kill server") for _ in range(amounts.server_kills)]
    others: list[Fault] = []
    if amounts.disk_s:
        after = _near(draw, jobs, _DISK)
        others.append(Fault(after=after, kind="full disk", seconds=amounts.disk_s))
        _meet(workers, after, amounts.disk_s / 2)
    for share, seconds in zip(_LOCKS, amounts.lock_s, strict=False):
        others.append(Fault(after=_near(draw, jobs, share), kind="lock", seconds=seconds))
    if amounts.lock_s:
        _meet(servers, others[-len(amounts.lock_s)].after, amounts.lock_s[0] / 2)
    if amounts.has_clock:
        for share, seconds in ((_FORWARD, FORWARD_S), (_BACK, BACK_S)):
            others.append(Fault(after=_near(draw, jobs, share), kind="clock", seconds=seconds))
    # Those that last first, so that the kills which are to meet them come within.
    return sorted([*others, *workers, *servers], key=lambda fault: fault.after)


def _kill(draw: random.Random, jobs: int, kind: Kind) -> Fault:
    return Fault(
        after=round(jobs * draw.uniform(*_CALM)),
        kind=kind,
        delay_s=round(draw.uniform(0, _MOST_DELAY_S), 3),
        pick=draw.randrange(1000),
    )


def _near(draw: random.Random, jobs: int, share: float) -> int:
    return round(jobs * (share + draw.uniform(-0.03, 0.03)))


def _meet(kills: list[Fault], after: int, delay_s: float) -> None:
    if kills:
        one = kills.pop()
        kills.append(Fault(after=after, kind=one.kind, delay_s=delay_s, pick=one.pick))
