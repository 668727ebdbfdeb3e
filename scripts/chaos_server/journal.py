"""What the clients asked and were told, and what was done to the server meanwhile.

All times are seconds of this machine's monotonic clock, which every process shares and no jump
touches. Knows nothing of what is in the store.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from chaos_server.wishes import Wish

OVER = ("completed", "failed")


@dataclass(kw_only=True)
class Job:
    """A job as its client knows it.

    Attributes:
        wish: what it asks for.
        id: of the prediction; empty until accepted.
        asked_at: when the submission was sent that was answered.
        accepted_at: when the client was told so.
        tries: how often it was submitted until it was answered.
        statuses: what was shown, without repetitions; `gone` for an answer of 404.
        ended: the prediction when it was first seen to have ended.
        digests: sha256 of its pictures when they were first fetched.
        is_cancelled: whether the client has asked to stop it.
        is_deleted: whether the client has asked to delete it.
    """

    wish: Wish
    id: str = ""
    asked_at: float = 0.0
    accepted_at: float = 0.0
    tries: int = 0
    statuses: list[str] = field(default_factory=list)
    ended: dict[str, Any] | None = None
    digests: list[str] = field(default_factory=list)
    is_cancelled: bool = False
    is_deleted: bool = False

    def note(self, data: dict[str, Any]) -> None:
        """Note a prediction as it was shown."""
        if not self.statuses or self.statuses[-1] != data["status"]:
            self.statuses.append(data["status"])
        if self.ended is None and data["status"] in OVER:
            self.ended = data


@dataclass(kw_only=True)
class Blow:
    """A fault that was made.

    Attributes:
        kind: as in the plan.
        at: when, just before.
        after: how many jobs had been accepted by then.
        pids: the processes that died of it.
        start_failures: how often the server could not be started again at once.
    """

    kind: str
    at: float
    after: int
    pids: list[int] = field(default_factory=list)
    start_failures: int = 0


class Journal:
    """Everything that is noted during a run; threads may write at a time.

    Attributes:
        jobs: all of them, by number.
        answers: how often calls were answered how: a status, or `no answer`.
        surprises: what was answered where it should not be, at most a hundred of them.
        told: the webhooks that came, by prediction.
        blows: the faults.
        accepted_count: how many jobs have been accepted so far.
        late: predictions whose webhook had not come when it was waited for no longer.
        moved_at: when something was last accepted or seen to end.
    """

    #: More of them would not help anybody who reads them.
    MOST_SURPRISES = 100

    def __init__(self, wishes: list[Wish]) -> None:
        self.jobs = [Job(wish=wish) for wish in wishes]
        self.answers: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.blows: list[Blow] = []
        self.late: list[str] = []
        self.accepted_count, self.moved_at = 0, time.monotonic()
        self._lock = threading.Lock()

    def note_answer(self, answer: str) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[answer] += 1

    def note_surprise(self, what: str) -> None:
        """Note an answer that should not have come."""
        with self._lock:
            if len(self.surprises) < self.MOST_SURPRISES:
                self.surprises.append(what)

    def note_accepted(self, job: Job, id: str, took_s: float) -> None:
        """Note that a job was accepted, at once, so long after the submission was sent."""
        with self._lock:
            job.id, job.accepted_at = id, time.monotonic()
            job.asked_at = job.accepted_at - took_s
            self.accepted_count += 1
            self.moved_at = job.accepted_at

    def note_moved(self) -> None:
        """Note that something goes on."""
        self.moved_at = time.monotonic()

    def note_told(self, document: dict[str, Any]) -> None:
        """Note a webhook."""
        with self._lock:
            self.told.setdefault(document["id"], []).append(document)

    def save(self, path: Path) -> None:
        """Write it down."""
        document = {
            "jobs": [asdict(job) for job in self.jobs],
            "answers": self.answers,
            "surprises": self.surprises,
            "told": self.told,
            "late": self.late,
            "blows": [asdict(blow) for blow in self.blows],
        }
        path.write_text(json.dumps(document), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one that was written down."""
        document = json.loads(path.read_text(encoding="utf-8"))
        journal = cls([])
        journal.jobs = [Job(**{**job, "wish": Wish(**job["wish"])}) for job in document["jobs"]]
        journal.answers = Counter(document["answers"])
        journal.surprises, journal.told = document["surprises"], document["told"]
        journal.late = document["late"]
        journal.blows = [Blow(**blow) for blow in document["blows"]]
        journal.accepted_count = sum(bool(job.id) for job in journal.jobs)
        return journal
