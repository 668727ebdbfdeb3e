"""What the tests of a side that is asked share: a service that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_fixtures import facts, make_suite, picture, tasks_of_suite

from depthflux.bench.hosted.client import Submission
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.exchanges import Exchange
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.sides import ServedSide
from depthflux.bench.hosted.uploads import Upload

ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"


def prediction(status: str, **more: Any) -> HostedPrediction:
    given: dict[str, Any] = {
        "id": ID, "model": "a/model", "status": status, "outputs": (), "flags": None, "error": "",
        "code": None, "inference_s": None,
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
        return Upload(url=f"https://cdn/{filename}", seconds=0.25)

    def submit(self, fields: dict[str, Any], *, sync_mode: bool = False) -> Submission:
        self.on_submit()
        self.sent.append((fields, sync_mode))
        self._pass(0.5, attempt=1)
        answer = _given(self.submits)
        return Submission(id=answer.id, prediction=answer, seconds=0.5)

    def poll(self, prediction_id: str) -> HostedPrediction:
        assert prediction_id in (ID, "f" * 32)
        self._pass(1.0, attempt=2)
        answer: HostedPrediction = _given(self.polls.pop(0))
        return answer

    def download(self, address: str) -> bytes:
        self._pass(0.125, attempt=1)
        data: bytes = _given(self.downloads.pop(0))
        return data

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

    def __init__(self, path: Path, *, fields: dict[str, Any] | None = None, **asking: Any) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.path.mkdir(exist_ok=True)
        self.service, self.log = Service(log := ExchangeLog()), log
        self.stop = threading.Event()
        self.suite = make_suite(path, ["ant"], **(fields or {}))
        self.task, *self.others = tasks_of_suite(self.suite, repeat=5)
        given = {"poll_interval_s": 0.001, "sync_mode": False, "longest_s": 60.0, "is_paid": True}
        self._asking = Asking(**(given | asking))
        self.side = self.another_side()
        self.taken = self.folder.task("hosted", self.task.key)

    def another_side(self, **options: Any) -> ServedSide:
        """The same side anew, as a later run makes it."""
        given = {"clock": self.service.clock, "wall": self.service.clock, "sleep": lambda _: None}
        return ServedSide(
            self.service,  # type: ignore[arg-type]
            self.log,
            facts(),
            self.folder,
            self._asking,
            stop=self.stop,
            **(given | options),
        )

    def ask(self) -> Any:
        self.side.prepare([self.task])
        return self.side.ask(self.task)
